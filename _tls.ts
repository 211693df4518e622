// Copyright 2026 the Daystar authors. MIT license.

/** TLS below the messages, and telling who speaks it from who does not. */

import {
  milliseconds,
  nested,
  type Option,
  type OptionsTable,
  refuse,
  type Settings,
  switchable,
} from "./_options.ts";
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

const SERVER_TLS = {
  cert: (value, name) => pem(value, name, CERTIFICATE),
  key: (value, name) => pem(value, name, KEY),
  handshakeTimeout: milliseconds(1, 10_000),
} satisfies OptionsTable<ServerTLSOptions>;

/** The `tls` of a server, as it was read. */
export type ServerTLS = Settings<typeof SERVER_TLS>;

/** The option `tls` of a server. */
export const serverTls: Option<ServerTLS | undefined> = nested(SERVER_TLS);

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

const CLIENT_TLS = {
  caCerts,
  serverName,
} satisfies OptionsTable<ClientTLSOptions>;

/** The `tls` of a client, as it was read. */
export type ClientTLS = Settings<typeof CLIENT_TLS>;

/** The option `tls` of a client. */
export const clientTls: Option<ClientTLS | undefined> = switchable(CLIENT_TLS);

/** Deno silently ignores PEM text without a certificate, and then trusts no server. */
function caCerts(certs: unknown, name: string): string[] {
  if (certs === undefined) return [];
  if (!Array.isArray(certs)) {
    throw refuse(name, certs, "an array of PEM strings");
  }
  return Array.from(
    certs,
    (cert, i) => pem(cert, `${name}[${i}]`, CERTIFICATE),
  );
}

function serverName(value: unknown, name: string): string | undefined {
  if (value === undefined) return undefined;
  if (typeof value === "string" && /^[\w.:-]+$/.test(value)) return value;
  throw refuse(name, value, "a host name");
}

/** Tells a file's name from its text, and a key from a certificate. */
function pem(
  value: unknown,
  name: string,
  [mark, kind]: typeof CERTIFICATE | typeof KEY,
): string {
  const isText = typeof value === "string";
  if (isText && value.includes(mark)) return value;
  // The rest of a key that was taken for a certificate is not shown.
  const shown = isText ? value.split("\n", 1)[0] : value;
  throw refuse(name, shown, `a ${kind} as PEM`);
}

/** Turns a connection to a server into one with TLS; closes it when that fails. */
export async function startTls(
  tcp: Deno.TcpConn,
  host: string,
  { caCerts, serverName = host }: ClientTLS,
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
