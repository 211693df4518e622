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

/**
 * The part of {@linkcode Deno.TcpConn} that a connection needs; with TLS it has the same.
 */
export interface Conn {
  /** This end. */
  readonly localAddr: Deno.NetAddr;
  /** The other end. */
  readonly remoteAddr: Deno.NetAddr;
  /** Whether it speaks TLS. A write that failed then does not tell what had left before. */
  readonly encrypted?: boolean;
  /** Reads once; `null` at an orderly end. */
  read(buffer: Uint8Array): Promise<number | null>;
  /** Resolves when the kernel has taken so many of the bytes. */
  write(bytes: Uint8Array): Promise<number>;
  /** Tells the peer that nothing more will come. */
  closeWrite(): Promise<void>;
  /** Closes it at once. */
  close(): void;
  /** Keeps the script alive while a read is pending. */
  ref(): void;
  /** Lets the script end while a read is pending. */
  unref(): void;
}

// The client speaks TLS with Deno's own implementation, and the server with `node:tls`
// over a plain connection, which can be closed in a handshake. A client cannot do so:
// in Deno 2.9 `node:tls` with `ca` accepts any X.509 v1 certificate that names the
// authority as its issuer, whoever has signed it.

/** Turns a connection to a server into one with TLS; closes it when that fails. */
export async function startTls(
  tcp: Deno.TcpConn,
  host: string,
  { caCerts, serverName = host }: ClientTLS,
  signal: AbortSignal,
): Promise<Conn> {
  let conn: Deno.TlsConn;
  try {
    conn = await Deno.startTls(tcp, { hostname: serverName, caCerts });
  } catch (error) {
    tcp[Symbol.dispose]();
    throw error;
  }
  const abort = () => conn[Symbol.dispose]();
  signal.addEventListener("abort", abort, { once: true });
  try {
    await conn.handshake();
    if (signal.aborted) throw signal.reason;
    return Object.assign(conn, { encrypted: true });
  } catch (error) {
    conn[Symbol.dispose]();
    if (signal.aborted) throw signal.reason;
    const why = "the server ended the TLS handshake, as one without TLS does";
    throw hasEnded(error) ? explain(why, error) : error;
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

/** Whether the peer did it, rather than rustls or a time limit. */
function hasEnded(error: unknown): boolean {
  const { BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof } =
    Deno.errors;
  return [BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof]
    .some((kind) => error instanceof kind);
}

/** The part of Node's `stream.Duplex` that {@linkcode ServerTls} uses. */
interface Duplex {
  push(chunk: Uint8Array): boolean;
  destroy(): this;
}

/** The part of Node's `tls.TLSSocket` that {@linkcode ServerTls} uses. */
interface TlsSocket {
  write(bytes: Uint8Array, done: (error?: Error | null) => void): boolean;
  end(done: () => void): this;
  destroy(): this;
  on(event: "secure" | "end", listener: () => void): this;
  on(event: "data", listener: (chunk: Uint8Array) => void): this;
  on(event: "error" | "_tlsError", listener: (error: Error) => void): this;
}

/** Made once for a server, from its certificate and its key. */
export interface SecureContext {
  /** Node's own, which it makes what it needs of for each connection. */
  readonly context: unknown;
}

/** What {@linkcode ServerTls} uses of Node; types of Node itself would be a dependency. */
interface NodeTls {
  createSecureContext(options: { cert: string; key: string }): SecureContext;
  TLSSocket: new (
    stream: Duplex,
    options: { isServer: true; secureContext: SecureContext },
  ) => TlsSocket;
}

/** The part of Node's `stream` likewise. */
interface NodeStream {
  Duplex: new (options: {
    read(): void;
    write(
      chunk: Uint8Array,
      encoding: string,
      done: (error?: Error | null) => void,
    ): void;
  }) => Duplex;
}

/** What Deno ships of Node, loaded when a server first has `tls`; scripts without load nothing. */
function builtin(name: "node:tls"): NodeTls;
function builtin(name: "node:stream"): NodeStream;
function builtin(name: string): unknown {
  const { process } = globalThis as unknown as {
    process: { getBuiltinModule(name: string): unknown };
  };
  return process.getBuiltinModule(name);
}

/** Reads the certificate and the key of a server, which Deno has accepted. */
export function secureContext(
  { cert, key }: { cert: string; key: string },
): SecureContext {
  return builtin("node:tls").createSecureContext({ cert, key });
}

/**
 * Does the handshake with a client, until the signal ends it; closes the connection
 * when it fails.
 */
export async function acceptTls(
  tcp: Deno.TcpConn,
  context: SecureContext,
  signal: AbortSignal,
): Promise<Conn> {
  let conn: ServerTls;
  try {
    conn = new ServerTls(tcp, context);
  } catch (error) {
    tcp.close();
    throw error;
  }
  const abort = () => conn.close();
  signal.addEventListener("abort", abort, { once: true });
  try {
    if (signal.aborted) throw signal.reason;
    await conn.handshake();
    if (signal.aborted) throw signal.reason;
    return conn;
  } catch (error) {
    await conn.fail();
    throw signal.aborted ? signal.reason : error;
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

/** The most bytes of ciphertext to read, and of plaintext to encrypt, at once. */
const CHUNK_BYTES = 65_536;

/**
 * The server's end of TLS, by Node, over a plain connection. It reads only when
 * somebody waits for a byte, and writes one chunk at a time: neither a peer that
 * sends without a pause nor one that reads nothing makes it hold more than that.
 */
class ServerTls implements Conn {
  readonly encrypted = true;
  readonly #tcp: Deno.TcpConn;
  readonly #duplex: Duplex;
  readonly #socket: TlsSocket;
  /** Plaintext that nobody has taken yet. */
  readonly #arrived: Uint8Array[] = [];
  readonly #input = new Uint8Array(CHUNK_BYTES);
  #reading = false;
  /** How many writes of ciphertext are under way. */
  #sending = 0;
  #secure = false;
  /** Whether the peer has ended in order. */
  #ended = false;
  #closed = false;
  #fault: unknown;
  #sendFault: unknown;
  #change = Promise.withResolvers<void>();

  constructor(tcp: Deno.TcpConn, context: SecureContext) {
    this.#tcp = tcp;
    this.#duplex = new (builtin("node:stream").Duplex)({
      read() {},
      write: (chunk, _encoding, done) => this.#send(chunk, done),
    });
    // Node destroys it when TLS fails, and the alert that tells the peer why is lost.
    const destroy = this.#duplex.destroy;
    this.#duplex.destroy = () =>
      this.#closed ? destroy.call(this.#duplex) : this.#duplex;
    const { TLSSocket } = builtin("node:tls");
    const options = { isServer: true, secureContext: context } as const;
    this.#socket = new TLSSocket(this.#duplex, options);
    this.#listen();
  }

  #listen(): void {
    const fail = (error: Error) => this.#break(toDenoError(error));
    this.#socket
      .on("secure", () => this.#notify(this.#secure = true))
      .on("data", (chunk) => this.#notify(this.#arrived.push(chunk)))
      .on("end", () => this.#notify(this.#ended = true))
      .on("error", fail)
      // Node tells a socket without a tls.Server of a failure only in this way.
      .on("_tlsError", fail);
  }

  get localAddr(): Deno.NetAddr {
    return this.#tcp.localAddr;
  }

  get remoteAddr(): Deno.NetAddr {
    return this.#tcp.remoteAddr;
  }

  /** Wakes whoever waits for a change. */
  #notify(_changed?: unknown): void {
    const { resolve } = this.#change;
    this.#change = Promise.withResolvers();
    resolve();
  }

  #break(error: unknown): void {
    this.#notify(this.#fault ??= error);
  }

  /** Resolves when the peer has done its part. */
  async handshake(): Promise<void> {
    while (!this.#secure) await this.#more();
  }

  async read(buffer: Uint8Array): Promise<number | null> {
    while (this.#arrived.length === 0) {
      if (this.#ended) return null;
      await this.#more();
    }
    return this.#take(buffer);
  }

  #take(buffer: Uint8Array): number {
    let count = 0;
    while (count < buffer.length) {
      const [chunk] = this.#arrived;
      if (!chunk) break;
      const part = chunk.subarray(0, buffer.length - count);
      buffer.set(part, count);
      count += part.length;
      if (part.length === chunk.length) this.#arrived.shift();
      else this.#arrived[0] = chunk.subarray(part.length);
    }
    return count;
  }

  /** Reads on, and waits for any change; rejects when nothing more will come. */
  #more(): Promise<void> {
    if (this.#fault !== undefined) return Promise.reject(this.#fault);
    if (!this.#reading) this.#readOnce();
    return this.#change.promise;
  }

  async #readOnce(): Promise<void> {
    this.#reading = true;
    try {
      const count = await this.#tcp.read(this.#input);
      if (count !== null) this.#duplex.push(this.#input.slice(0, count));
      else await this.#end();
    } catch (error) {
      this.#fault ??= error;
    }
    this.#reading = false;
    this.#notify();
  }

  /** Node would take an end without the alert that announces it for an orderly one. */
  async #end(): Promise<void> {
    await turn();
    if (this.#ended) return;
    throw new Deno.errors.UnexpectedEof("unexpected end of file");
  }

  async write(bytes: Uint8Array): Promise<number> {
    const chunk = bytes.subarray(0, CHUNK_BYTES);
    let encrypted = false;
    this.#socket.write(chunk, () => this.#notify(encrypted = true));
    await this.#sent(() => encrypted);
    return chunk.length;
  }

  /** Passes ciphertext on to the kernel. Node is not told of a failure, as it would tell nobody. */
  async #send(bytes: Uint8Array, done: () => void): Promise<void> {
    this.#sending++;
    try {
      while (bytes.length > 0 && this.#sendFault === undefined) {
        bytes = bytes.subarray(await this.#tcp.write(bytes));
      }
    } catch (error) {
      this.#sendFault ??= error;
    }
    this.#sending--;
    // What is next comes before this returns.
    done();
    this.#notify();
  }

  /** Waits until Node has done its part and the kernel has the ciphertext. */
  async #sent(isDone: () => boolean): Promise<void> {
    for (;;) {
      const fault = this.#sendFault ?? this.#fault;
      if (fault !== undefined) throw fault;
      if (isDone() && this.#sending === 0) return;
      await this.#change.promise;
    }
  }

  async closeWrite(): Promise<void> {
    let ended = false;
    this.#socket.end(() => this.#notify(ended = true));
    await this.#sent(() => ended);
    // Node passes the alert that announces the end on only a moment later.
    await turn();
    await this.#sent(() => true);
    await this.#tcp.closeWrite();
  }

  /** Closes it once the alert that tells the peer of a failure has left. */
  async fail(): Promise<void> {
    await turn();
    while (this.#sending > 0) await this.#change.promise;
    this.close();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#tcp.close();
    this.#break(new Deno.errors.Interrupted("the connection is closed"));
    this.#socket.destroy();
    this.#duplex.destroy();
  }

  ref(): void {
    this.#tcp.ref();
  }

  unref(): void {
    this.#tcp.unref();
  }
}

/** Lets everything run that Node has put off. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** What Deno's own TLS throws for it. */
function toDenoError(error: Error): Error {
  const { code } = error as { code?: unknown };
  if (typeof code !== "string" || !code.startsWith("ERR_SSL_")) return error;
  // Node adds what OpenSSL would say.
  const message = error.message.replace(/ \(SSL routines:.*\)$/, "");
  return new Deno.errors.InvalidData(message, { cause: error });
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
