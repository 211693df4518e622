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

import { type Address, checkHost, offset, wirePort } from "./_address.ts";
import {
  Connection,
  DEFAULT_MAX_SEND_BUFFER_BYTES,
  type Link,
  type LinkEvents,
} from "./_connection.ts";
import { report } from "./_errors.ts";
import { maxMessageBytes } from "./_framing.ts";
import { Inbox, type ReceiveOptions } from "./_inbox.ts";
import {
  callback,
  integer,
  milliseconds,
  notify,
  type OptionsTable,
  readOptions,
  signal,
} from "./_options.ts";
import {
  Backoff,
  dial,
  keepDialing,
  ReconnectingLink,
  retry,
  type RetryOptions,
} from "./_reconnect.ts";
import { newStats, type Stats } from "./_stats.ts";
import { Hold } from "./_time.ts";
import { clientTls, type ClientTLSOptions, type Conn } from "./_tls.ts";

export type { Address, ClientTLSOptions, ReceiveOptions, RetryOptions, Stats };

/** Options of {@linkcode createTcpClient}. */
export interface TCPClientOptions {
  /**
   * What to add to a communication port to get its wire port.
   *
   * @default {-65536}
   */
  portOffset?: number;
  /**
   * How long each attempt to connect may take, TLS included, in milliseconds.
   *
   * @default {10_000}
   */
  connectTimeout?: number;
  /**
   * Ends the attempts to connect. It leaves an established connection alone, but
   * with `reconnect` it ends the client for good, at any time.
   */
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
   * milliseconds; 0 is for ever. The time runs while the client reads: see
   * {@linkcode TCPClient.connected}. While it does not read, only a server that takes
   * nothing of what waits for it is silent, and gets at least 5 seconds.
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
  /**
   * Whether, and how, to keep trying when the first attempt to connect fails: a
   * robot often boots before the line's PC. A missing permission and a refused
   * certificate end it at once.
   *
   * @default {false}
   */
  retry?: boolean | RetryOptions;
  /**
   * Whether, and how, to establish a lost connection again, also one that the server
   * has closed. The client has to see that it is lost: see
   * {@linkcode TCPClient.connected}. Pending {@linkcode TCPClient.receive} calls go on
   * waiting, and messages to send wait.
   *
   * A message that was not wholly with the kernel when the connection broke is sent
   * again, whole. One that was is never sent again: the server may miss it, but
   * receives no message twice. A message that was on its way when three connections
   * in a row broke is rejected with {@linkcode ClosedError}, and those behind it go
   * on. A message waits however long it takes, also an order whose reply the script
   * no longer waits for: it runs after the outage, unless the script looks at
   * {@linkcode TCPClient.connected} first and the message has a deadline that the
   * server checks. Once the attempts are used up, every call rejects with
   * {@linkcode ClosedError}, whose `cause` is the last error.
   *
   * @default {false}
   */
  reconnect?: boolean | RetryOptions;
  /**
   * With `reconnect`, how much memory messages may take that wait while there is no
   * connection, in bytes: each counts with its bytes on the wire and 448 for its
   * overhead. A message too many is refused. One message alone may always wait. While
   * there is a connection nothing is refused: await `send`, which waits for the server.
   *
   * @default {16_777_216}
   */
  maxSendBufferBytes?: number;
  /**
   * Called once for each connection that is gone, as soon as a read or a write shows
   * it, also while messages are still to be received; not for one that the script
   * itself has ended with {@linkcode TCPClient.disconnect} or `signal`. It gets the
   * error unless the server has ended the connection in order. Which ends a read
   * shows: see {@linkcode TCPClient.connected}.
   */
  onDisconnect?: ((error?: Error) => void) | null;
  /**
   * With `reconnect`, called when there is a connection again. What it sends before
   * it returns leaves before the messages that wait. What it throws or rejects with is
   * an uncaught error and ends the script: write
   * `() => void client.send("HELLO").catch(() => {})`.
   */
  onReconnect?: (() => void) | null;
  /**
   * With `retry` or `reconnect`, called with the error when an attempt has failed and
   * another one follows. Which attempts fail: see {@linkcode RetryOptions}.
   */
  onRetry?: ((error: Error) => void) | null;
}

const OPTIONS = {
  portOffset: offset,
  connectTimeout: milliseconds(1, 10_000),
  signal: signal(),
  maxMessageBytes,
  idleTimeout: milliseconds(0, 0),
  tls: clientTls,
  retry,
  reconnect: retry,
  maxSendBufferBytes: integer(
    1,
    Number.MAX_SAFE_INTEGER,
    DEFAULT_MAX_SEND_BUFFER_BYTES,
  ),
  onDisconnect: callback<(error?: Error) => void>(),
  onReconnect: callback<() => void>(),
  onRetry: callback<(error: Error) => void>(),
} satisfies OptionsTable<TCPClientOptions>;

/**
 * Connects to a TCP server.
 *
 * @param ip The IP address of the server, or its host name. An IPv4 address is four
 * decimal numbers without leading zeros.
 * @param port The communication port of the server, an integer from 70000 to 71000.
 * @param options Limits, TLS, how to keep trying, and what to call when.
 * @returns The connected client.
 * @throws {RangeError} If the port or a limit is outside its range.
 * @throws {TypeError} If `ip` is no address and no host name, if there is no such
 * option, or if it does not take the value.
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
  options?: TCPClientOptions,
): Promise<TCPClient> {
  checkHost(ip);
  const settings = readSettings(ip, port, options);
  const { signal, retry } = settings;
  signal?.throwIfAborted();
  const conn = retry
    ? await keepDialing(settings, new Backoff(retry), signal)
    : await dial(settings, signal);
  if (signal?.aborted) {
    conn.close();
    throw signal.reason;
  }
  return newClient(conn, settings);
}

type Settings = ReturnType<typeof readSettings>;

/** The options as they were read, and where to connect to. */
function readSettings(
  ip: string,
  port: number,
  options: TCPClientOptions | undefined,
) {
  const args = ["ip", "port"];
  const settings = readOptions("createTcpClient", options, OPTIONS, args);
  const wire = wirePort(port, settings.portOffset);
  return { ...settings, address: Object.freeze([ip, port] as const), wire };
}

/** The way to the server: one connection, or one after the other. */
function linkTo(
  conn: Conn,
  settings: Settings,
  stats: Stats,
  events: LinkEvents,
): Link {
  const options = { ...settings, remoteAddress: settings.address, stats };
  const { reconnect } = settings;
  return reconnect
    ? new ReconnectingLink(conn, { ...options, reconnect }, events)
    : new Connection(conn, options, events);
}

let newClient: (conn: Conn, settings: Settings) => TCPClient;

/**
 * One TCP connection to a server, made by {@linkcode createTcpClient}.
 *
 * Messages can be received one by one or iterated over. An open client does not
 * keep a script alive by itself; a pending `receive` or `send` does.
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
   * The address of this side of the connection, which changes when it is
   * established again.
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
   *
   * @returns The address.
   */
  get localAddress(): Address {
    return this.#link.localAddress;
  }

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
  readonly #onDisconnect: ((error?: Error) => void) | undefined;
  readonly #inbox: Inbox<string>;
  readonly #stats = newStats();
  readonly #link: Link;
  readonly #hold = new Hold((held) => this.#link.hold(held));
  #disconnected: Promise<void> | undefined;

  static {
    newClient = (...args) => new TCPClient(...args);
  }

  private constructor(conn: Conn, settings: Settings) {
    this.remoteAddress = settings.address;
    this.#onDisconnect = settings.onDisconnect;
    this.#inbox = new Inbox<string>({
      take: () => this.#link.take(),
      awaited: (waiting) => this.#hold.want(waiting),
    });
    this.#link = linkTo(conn, settings, this.#stats, {
      arrived: () => this.#inbox.deliver(),
      gone: (error) => notify(this.#onDisconnect, report, error),
      over: () => this.#end(),
    });
    this.#hold.apply();
    this.#link.start();
  }

  /** Nothing will arrive any more: what has can still be received. */
  #end(): void {
    this.#hold.end();
    this.#inbox.end(() => this.#link.receiveError());
    this.#link.close();
  }

  /**
   * Whether messages can be sent: false once either side has closed the connection
   * or it broke. What had arrived before can still be received.
   *
   * While 4 KiB or more wait to be received, the client reads no further. It does not
   * see an end behind them until they are received, and the first
   * {@linkcode TCPClient.send} after the end resolves although the message is lost.
   * So a script that only sends reads and drops what the server sends.
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
   * @example A script that only sends
   * ```ts
   * import { createTcpClient, createTcpServer } from "@daystar/comm";
   *
   * await using _server = createTcpServer(70923, (message) => `Echo: ${message}`, {
   *   hostname: "127.0.0.1",
   * });
   * await using client = await createTcpClient("127.0.0.1", 70923);
   *
   * async function drain() {
   *   for await (const _ of client);
   * }
   *
   * async function work() {
   *   for (const part of ["A1", "A2"]) await client.send(`DONE ${part}`);
   *   await client.disconnect();
   * }
   *
   * await Promise.all([drain(), work()]);
   * ```
   *
   * @returns Whether messages can be sent.
   */
  get connected(): boolean {
    return this.#link.open;
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
   * the calls, awaited or not; those sent without awaiting in between leave together,
   * in writes of up to about 64 KiB each.
   *
   * @param message The message: any string without U+0003, the empty one too.
   * @returns Resolves when the bytes are with the kernel, which does not tell that
   * the server has them: that takes a reply.
   * @throws {TypeError} If the message contains U+0003 or a lone surrogate, or is not a string.
   * @throws {MessageTooLargeError} If the message is over `maxMessageBytes`.
   * @throws {ClosedError} If the connection is closed, or breaks before the bytes are with the kernel.
   * @throws {CommunicationError} With `reconnect`, if there is no connection and no room in `maxSendBufferBytes`.
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
      return this.#link.send(message);
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
   * arrived whole is received. After {@linkcode TCPClient.disconnect} at once: that
   * drops what had arrived.
   * @throws {InvalidMessageError} In the place of a message that is not UTF-8; the
   * next call goes on with the next message.
   * @throws {MessageTooLargeError} If the next message is over `maxMessageBytes`;
   * that closes the connection.
   * @throws {RangeError} If the timeout is negative or NaN.
   * @throws {TypeError} If the timeout is not a number, the signal not an `AbortSignal`,
   * or there is no such option.
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
   * Ends the connection: sends what is pending, tells the server, and waits up to 1
   * second until the server has closed its side too. It gives up sending after 5
   * seconds without progress, or 10 seconds in all.
   *
   * What had arrived is dropped. Pending `receive` calls reject with
   * {@linkcode ClosedError} and loops over the client end, whatever has happened to
   * the connection before. May be called twice.
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
    return this.#disconnected ??= this.#disconnect();
  }

  #disconnect(): Promise<void> {
    this.#hold.end();
    const left = this.#link.leave();
    this.#inbox.clear();
    this.#inbox.end(() => this.#link.receiveError());
    return left;
  }

  /**
   * Iterates over the messages until the connection is closed.
   *
   * @returns The messages. Iterating throws {@linkcode ClosedError} where the
   * connection broke or ended in the middle of a message, and what
   * {@linkcode TCPClient.receive} throws for a message that can't be received.
   * Leaving the loop leaves the connection open, and takes no further message.
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
