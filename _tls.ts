// Copyright 2026 the Daystar authors. MIT license.

/** TLS below the messages, and telling who speaks it from who does not. */

import { checkTime, show } from "./_options.ts";
import { explain } from "./_errors.ts";

/** What PEM begins with ({@link https://www.rfc-editor.org/rfc/rfc7468}), and its name. */
const CERTIFICATE = ["-----BEGIN CERTIFICATE-----", "certificate"] as const;
const KEY = ["PRIVATE KEY-----", "private key"] as const;

/** The `tls` of {@linkcode TCPServerOptions}. */
export interface ServerTLSOptions {
  /** The certificate chain, as PEM. */
  cert: string;
  /** The private key, as PEM. */
  key: string;
  /**
   * How long a client may take for its handshake, in milliseconds.
   *
   * @default {10_000}
   */
  handshakeTimeout?: number;
}

/** The `tls` of {@linkcode TCPClientOptions}, where `true` is not enough. */
export interface ClientTLSOptions {
  /**
   * Certificates of authorities to trust besides Deno's own, as PEM.
   *
   * @default {[]}
   */
  caCerts?: string[];
  /**
   * The name that the server's certificate is for, where it is not for the IP
   * address that the client connects to.
   */
  serverName?: string;
}

/** Throws unless `tls` can be a {@linkcode ServerTLSOptions}. */
export function checkServerTls(tls: unknown): void {
  if (tls === undefined) return;
  const { cert, key, handshakeTimeout } = asObject(tls, "{ cert, key }");
  checkPem("tls.cert", cert, CERTIFICATE);
  checkPem("tls.key", key, KEY);
  if (handshakeTimeout !== undefined) {
    checkTime("tls.handshakeTimeout", handshakeTimeout, 1);
  }
}

/** Throws unless `tls` can be `true` or a {@linkcode ClientTLSOptions}. */
export function checkClientTls(tls: unknown): void {
  if (tls === undefined || typeof tls === "boolean") return;
  const { caCerts, serverName } = asObject(
    tls,
    "true or { caCerts, serverName }",
  );
  if (caCerts !== undefined) checkCaCerts(caCerts);
  if (
    serverName !== undefined &&
    (typeof serverName !== "string" || !/^[\w.:-]+$/.test(serverName))
  ) {
    throw new TypeError(
      `Cannot use ${show(serverName)} as tls.serverName: it takes a host name`,
    );
  }
}

/** Deno leaves out what is no certificate, and then trusts nobody, without a word. */
function checkCaCerts(certs: unknown): void {
  if (!Array.isArray(certs)) {
    throw new TypeError(
      `Cannot use ${
        show(certs)
      } as tls.caCerts: it takes an array of PEM strings`,
    );
  }
  for (const [i, cert] of certs.entries()) {
    checkPem(`tls.caCerts[${i}]`, cert, CERTIFICATE);
  }
}

/** Tells a file's name from its text, and a key from a certificate. */
function checkPem(
  name: string,
  pem: unknown,
  [mark, kind]: typeof CERTIFICATE | typeof KEY,
): void {
  const isText = typeof pem === "string";
  if (isText && pem.includes(mark)) return;
  // Of a key that was taken for a certificate no more is shown.
  const shown = show(isText ? pem.split("\n", 1)[0] : pem);
  throw new TypeError(
    `Cannot use ${shown} as ${name}: it takes a ${kind} as PEM`,
  );
}

function asObject(tls: unknown, wanted: string): Record<string, unknown> {
  if (typeof tls === "object" && tls !== null) {
    return tls as Record<string, unknown>;
  }
  throw new TypeError(`Cannot use ${show(tls)} as tls: it takes ${wanted}`);
}

/** Turns a connection to a server into one with TLS; closes it when that fails. */
export async function startTls(
  tcp: Deno.TcpConn,
  host: string,
  { caCerts = [], serverName = host }: ClientTLSOptions,
  signal: AbortSignal,
): Promise<Deno.TlsConn> {
  let conn: Deno.TlsConn;
  try {
    conn = await Deno.startTls(tcp, { hostname: serverName, caCerts });
  } catch (error) {
    tcp[Symbol.dispose]();
    throw error;
  }
  try {
    await shakeHands(conn, signal);
  } catch (error) {
    const why = "the server ended the TLS handshake, as one without TLS does";
    throw hasEnded(error) ? explain(why, error) : error;
  }
  return conn;
}

/** Whether the peer did it, rather than rustls or a time limit. */
function hasEnded(error: unknown): boolean {
  const { BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof } =
    Deno.errors;
  return [BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof]
    .some((kind) => error instanceof kind);
}

/** Does the handshake, until the signal ends it; closes the connection when it fails. */
export async function shakeHands(
  conn: Deno.TlsConn,
  signal: AbortSignal,
): Promise<void> {
  const abort = () => conn[Symbol.dispose]();
  signal.addEventListener("abort", abort, { once: true });
  try {
    await conn.handshake();
    if (signal.aborted) throw signal.reason;
  } catch (error) {
    conn[Symbol.dispose]();
    throw signal.aborted ? signal.reason : error;
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

/**
 * Whether a peer's first bytes are TLS: a record with a client's hello or with an
 * alert ({@link https://www.rfc-editor.org/rfc/rfc8446#section-5.1}). As messages
 * they would be a lone U+0016 or U+0015 and what follows.
 */
export function isTls(bytes: Uint8Array): boolean {
  const [type, major, minor = 0xff, high, low, kind] = bytes;
  if (major !== 3 || minor > 4) return false;
  return type === 0x16 && kind === 1 ||
    type === 0x15 && high === 0 && low === 2;
}
