// Copyright 2026 the Daystar authors. MIT license.

/**
 * A TCP client that sends and receives messages, as Python's
 * `daystar_api.tcp_client` does.
 *
 * ```ts
 * import { createTcpClient } from "@daystar/comm/tcp-client";
 * import { createTcpServer } from "@daystar/comm/tcp-server";
 * import { assertEquals } from "@std/assert";
 *
 * await using _server = createTcpServer(70910, (message) => `Echo: ${message}`, {
 *   hostname: "127.0.0.1",
 * });
 *
 * await using client = await createTcpClient("127.0.0.1", 70910);
 * await client.send("Hello Server");
 * assertEquals(await client.receive({ timeout: 5_000 }), "Echo: Hello Server");
 * ```
 *
 * @module
 */

import {
  type Address,
  checkHost,
  formatWithWire,
  toAddress,
  wirePort,
} from "./_address.ts";
import { checkOptions, checkTime } from "./_check.ts";
import { type Conn, Connection, tune } from "./_connection.ts";
import { explain } from "./_errors.ts";
import { checkMaxMessageBytes, DEFAULT_MAX_MESSAGE_BYTES } from "./_framing.ts";
import { Inbox, type ReceiveOptions } from "./_receive.ts";

import { newStats, type Stats } from "./_stats.ts";
import {
  checkClientTls,
  type ClientTLSOptions,
  Limit,
  startTls,
} from "./_tls.ts";

export type { Address, ClientTLSOptions, ReceiveOptions, Stats };

const DEFAULT_CONNECT_TIMEOUT = 10_000;

/** Options of {@linkcode createTcpClient}. */
export interface TCPClientOptions {
  /**
   * What to add to a communication port to get its wire port.
   *
   * @default {-65536}
   */
  portOffset?: number;
  /**
   * How long to try to connect, TLS included, in milliseconds.
   *
   * @default {10_000}
   */
  connectTimeout?: number;
  /** Ends the attempt to connect; an established connection is not touched by it. */
  signal?: AbortSignal;
  /**
   * The longest message to send or to receive, in bytes of UTF-8 without the
   * terminator.
   *
   * @default {1_048_576}
   */
  maxMessageBytes?: number;
  /**
   * How long the server may send nothing before the connection is given up, in
   * milliseconds; 0 is for ever.
   *
   * @default {0}
   */
  idleTimeout?: number;
  /**
   * Whether to speak TLS, which the server then has to. Its certificate has to be
   * for the IP address, or for the `serverName` given here.
   *
   * @default {false}
   */
  tls?: boolean | ClientTLSOptions;
}

/**
 * Connects to a TCP server.
 *
 * @param ip The IP address of the server.
 * @param port The communication port of the server, an integer from 70000 to 71000.
 * @param options Time limit, signal, size limit and port mapping.
 * @returns The connected client.
 * @throws {RangeError} If the port or a limit is outside its range.
 * @throws {Deno.errors.ConnectionRefused} If nobody listens there. Other errors of
 * the operating system keep Deno's classes too.
 * @throws {Deno.errors.TimedOut} If there is no answer within `connectTimeout`.
 *
 * @example Request and reply
 * ```ts
 * import { createTcpClient, createTcpServer } from "@daystar/comm";
 * import { assertEquals } from "@std/assert";
 *
 * await using _server = createTcpServer(70911, (message) => `Echo: ${message}`, {
 *   hostname: "127.0.0.1",
 * });
 *
 * await using client = await createTcpClient("127.0.0.1", 70911);
 * await client.send("Hello Server");
 * assertEquals(await client.receive({ timeout: 5_000 }), "Echo: Hello Server");
 * ```
 */
export async function createTcpClient(
  ip: string,
  port: number,
  options: TCPClientOptions = {},
): Promise<TCPClient> {
  checkOptions(options);
  checkHost(ip);
  const {
    portOffset,
    connectTimeout = DEFAULT_CONNECT_TIMEOUT,
    signal,
    maxMessageBytes = DEFAULT_MAX_MESSAGE_BYTES,
    idleTimeout = 0,
    tls = false,
  } = options;
  const wire = wirePort(port, portOffset);
  checkTime("connectTimeout", connectTimeout, 1);
  checkMaxMessageBytes(maxMessageBytes);
  checkTime("idleTimeout", idleTimeout);
  checkClientTls(tls);
  signal?.throwIfAborted();
  const address = Object.freeze([ip, port] as const);
  let conn: Conn;
  try {
    conn = await connect(ip, wire, tls, connectTimeout, signal);
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    throw explain(
      `Cannot connect to ${formatWithWire(address, portOffset)}`,
      error,
    );
  }
  const stats = newStats();
  const connection = new Connection(conn, {
    remoteAddress: address,
    portOffset,
    maxMessageBytes,
    idleTimeout,
    stats,
  });
  return newClient(
    connection,
    stats,
    toAddress(conn.localAddr as Deno.NetAddr, portOffset),
  );
}

/** Connects, with TLS if so wanted, until time or signal end it. */
async function connect(
  hostname: string,
  port: number,
  tls: boolean | ClientTLSOptions,
  timeout: number,
  signal: AbortSignal | undefined,
): Promise<Conn> {
  const limit = new Limit(timeout, "no answer");
  const abort = () => limit.end(signal?.reason);
  signal?.addEventListener("abort", abort, { once: true });
  try {
    const conn = await Deno.connect({ hostname, port, signal: limit.signal });
    if (limit.over) {
      conn.close();
      throw limit.reason;
    }
    if (tls === false) return conn;
    tune(conn);
    return await startTls(
      conn,
      hostname,
      tls === true ? {} : tls,
      limit.signal,
    );
  } finally {
    limit.clear();
    signal?.removeEventListener("abort", abort);
  }
}

let newClient: (
  connection: Connection,
  stats: Stats,
  localAddress: Address,
) => TCPClient;

/**
 * One TCP connection to a server, made by {@linkcode createTcpClient}.
 *
 * Messages can be received one by one or iterated over. An open client does not
 * keep a script alive by itself; waiting for a message does.
 *
 * @example Iterating over what a server pushes
 * ```ts
 * import { createTcpClient, createTcpServer } from "@daystar/comm";
 * import { assertEquals } from "@std/assert";
 *
 * const server = createTcpServer(70912, undefined, {
 *   hostname: "127.0.0.1",
 *   onConnect: async () => {
 *     await server.sendToAll("PICK");
 *     await server.sendToAll("PLACE");
 *     await server.stop();
 *   },
 * });
 *
 * await using client = await createTcpClient("127.0.0.1", 70912);
 * assertEquals(await Array.fromAsync(client), ["PICK", "PLACE"]);
 * ```
 */
export class TCPClient
  implements AsyncIterable<string>, AsyncDisposable, Disposable {
  /**
   * The address of this side of the connection.
   *
   * @example Usage
   * ```ts
   * import { createTcpClient, createTcpServer } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * await using _server = createTcpServer(70913, undefined, { hostname: "127.0.0.1" });
   * await using client = await createTcpClient("127.0.0.1", 70913);
   * assertEquals(client.localAddress[0], "127.0.0.1");
   * ```
   */
  readonly localAddress: Address;
  /**
   * The address of the server, with its communication port.
   *
   * @example Usage
   * ```ts
   * import { createTcpClient, createTcpServer } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * await using _server = createTcpServer(70914, undefined, { hostname: "127.0.0.1" });
   * await using client = await createTcpClient("127.0.0.1", 70914);
   * assertEquals(client.remoteAddress, ["127.0.0.1", 70914]);
   * ```
   */
  readonly remoteAddress: Address;
  readonly #connection: Connection;
  readonly #inbox: Inbox<string>;
  readonly #stats: Stats;
  #reading = false;
  /** Whether nothing more may be taken from the connection. */
  #ended = false;

  static {
    newClient = (...args) => new TCPClient(...args);
  }

  private constructor(
    connection: Connection,
    stats: Stats,
    localAddress: Address,
  ) {
    this.#stats = stats;
    this.#connection = connection;
    this.localAddress = localAddress;
    this.remoteAddress = connection.remoteAddress;
    this.#inbox = new Inbox<string>({
      take: () => this.#take(),
      awaited: (waiting) => connection.hold(waiting),
    });
    connection.hold(false);
    this.#read();
  }

  /** Decodes what is next, and reads on as soon as nothing is left to decode. */
  #take(): (string | Error)[] | undefined {
    if (this.#ended) return undefined;
    try {
      const messages = this.#connection.take();
      if (this.#connection.hungry) this.#read();
      return messages;
    } catch (error) {
      this.#connection.destroy(error);
      this.#ended = true;
      // Only then, as the inbox is about to hand out this error.
      queueMicrotask(() => this.#end());
      return [error as Error];
    }
  }

  /** A read is always pending while there is room: so the end is seen without a receiver. */
  async #read(): Promise<void> {
    if (this.#reading) return;
    this.#reading = true;
    const more = await this.#connection.read();
    this.#reading = false;
    if (more) {
      this.#inbox.deliver();
      if (this.#connection.hungry) this.#read();
      return;
    }
    this.#end();
    this.#connection.close();
  }

  #end(): void {
    this.#inbox.end(() => this.#connection.receiveError());
  }

  /**
   * Whether messages can be sent: false once either side has closed the connection
   * or it broke. What had arrived before can still be received.
   *
   * @example Usage
   * ```ts
   * import { createTcpClient, createTcpServer } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * await using _server = createTcpServer(70915, undefined, { hostname: "127.0.0.1" });
   * const client = await createTcpClient("127.0.0.1", 70915);
   * assertEquals(client.connected, true);
   * await client.disconnect();
   * assertEquals(client.connected, false);
   * ```
   *
   * @returns Whether messages can be sent.
   */
  get connected(): boolean {
    return this.#connection.open;
  }

  /**
   * What was counted so far, as plain numbers.
   *
   * @example Usage
   * ```ts
   * import { createTcpClient, createTcpServer } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * await using _server = createTcpServer(70922, undefined, { hostname: "127.0.0.1" });
   * await using client = await createTcpClient("127.0.0.1", 70922);
   * await client.send("PICK");
   * assertEquals([client.stats.messagesOut, client.stats.bytesOut], [1, 5]);
   * ```
   *
   * @returns A copy of the numbers.
   */
  get stats(): Stats {
    return { ...this.#stats };
  }

  /**
   * Sends a message, and the terminator behind it. Messages leave in the order of
   * the calls, awaited or not; those of one turn of the event loop in one write.
   *
   * @param message The message: any string without U+0003, the empty one too.
   * @returns Resolves when the bytes are with the kernel, which does not tell that
   * the server has them: that takes a reply.
   * @throws {TypeError} If the message contains U+0003 or a lone surrogate, or is not a string.
   * @throws {MessageTooLargeError} If the message is over `maxMessageBytes`.
   * @throws {ClosedError} If the connection is closed, or breaks before the bytes are with the kernel.
   *
   * @example Usage
   * ```ts
   * import { createTcpClient, createTcpServer } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * await using _server = createTcpServer(70916, (message) => message, {
   *   hostname: "127.0.0.1",
   * });
   * await using client = await createTcpClient("127.0.0.1", 70916);
   * await Promise.all([client.send("first"), client.send("second")]);
   * assertEquals(await client.receive(), "first");
   * assertEquals(await client.receive(), "second");
   * ```
   */
  send(message: string): Promise<void> {
    try {
      return this.#connection.post(message);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /**
   * Receives the next message. Several calls at once are served in their order.
   *
   * @param options How long to wait, and a signal to end the wait. Without them it
   * waits for ever.
   * @returns The message, or `null` when the time ran out. A message that arrives
   * later is returned by the next call.
   * @throws {ClosedError} If the connection is closed and every message that had
   * arrived whole is received.
   * @throws {InvalidMessageError} In the place of a message that is not UTF-8; the
   * next call goes on with the next message.
   * @throws {MessageTooLargeError} If the next message is over `maxMessageBytes`;
   * that closes the connection.
   * @throws {RangeError} If the timeout is negative or not a number.
   *
   * @example Polling
   * ```ts
   * import { createTcpClient, createTcpServer } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * await using _server = createTcpServer(70917, undefined, { hostname: "127.0.0.1" });
   * await using client = await createTcpClient("127.0.0.1", 70917);
   * assertEquals(await client.receive({ timeout: 10 }), null);
   * ```
   */
  receive(options?: ReceiveOptions): Promise<string | null> {
    return this.#inbox.receive(options);
  }

  /**
   * Ends the connection: sends what is pending, tells the server, and waits until
   * it has closed its side too, a second at the most (longer only while a slow
   * server still takes what is pending, 10 seconds at the most). Pending `receive`
   * calls reject with {@linkcode ClosedError}, loops over the client end. May be
   * called twice.
   *
   * @returns Resolves when the connection is closed; never rejects.
   *
   * @example Usage
   * ```ts
   * import { createTcpClient, createTcpServer } from "@daystar/comm";
   *
   * await using _server = createTcpServer(70918, undefined, { hostname: "127.0.0.1" });
   * const client = await createTcpClient("127.0.0.1", 70918);
   * await client.send("Goodbye");
   * await client.disconnect();
   * ```
   */
  disconnect(): Promise<void> {
    const closed = this.#connection.close();
    this.#ended = true;
    this.#inbox.clear();
    this.#end();
    return closed;
  }

  /**
   * Iterates over the messages until the connection is closed.
   *
   * @returns The messages. Iterating throws {@linkcode ClosedError} where the
   * connection broke or ended in the middle of a message, and what
   * {@linkcode TCPClient.receive} throws for a message that can't be received.
   * Leaving the loop leaves the connection open.
   *
   * @example As a `ReadableStream`
   * ```ts
   * import { createTcpClient, createTcpServer } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * const server = createTcpServer(70919, () => void server.stop(), { hostname: "127.0.0.1" });
   * await using client = await createTcpClient("127.0.0.1", 70919);
   * await client.send("Goodbye");
   * assertEquals(await Array.fromAsync(ReadableStream.from(client)), []);
   * ```
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<string> {
    return this.#inbox.iterate();
  }

  /**
   * Does what {@linkcode TCPClient.disconnect} does, for `await using`.
   *
   * @returns Resolves when the connection is closed.
   *
   * @example Usage
   * ```ts
   * import { createTcpClient, createTcpServer } from "@daystar/comm";
   *
   * await using _server = createTcpServer(70920, undefined, { hostname: "127.0.0.1" });
   * await using client = await createTcpClient("127.0.0.1", 70920);
   * await client.send("Goodbye");
   * ```
   */
  [Symbol.asyncDispose](): Promise<void> {
    return this.disconnect();
  }

  /**
   * Starts what {@linkcode TCPClient.disconnect} does and does not wait for it, for
   * `using`.
   *
   * @example Usage
   * ```ts
   * import { createTcpClient, createTcpServer } from "@daystar/comm";
   *
   * await using _server = createTcpServer(70921, undefined, { hostname: "127.0.0.1" });
   * using client = await createTcpClient("127.0.0.1", 70921);
   * await client.send("Goodbye");
   * ```
   */
  [Symbol.dispose](): void {
    this.disconnect();
  }
}
