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
import {
  checkFunction,
  checkInteger,
  checkOptions,
  checkSignal,
  checkTime,
  isPromise,
} from "./_options.ts";
import {
  type Conn,
  Connection,
  DEFAULT_MAX_SEND_BUFFER_BYTES,
  tune,
} from "./_connection.ts";
import { ClosedError, explain, reason } from "./_errors.ts";
import {
  checkMaxMessageBytes,
  checkMessage,
  DEFAULT_MAX_MESSAGE_BYTES,
} from "./_framing.ts";
import { Inbox, type ReceiveOptions } from "./_inbox.ts";
import {
  checkRetry,
  Outbox,
  type RetryOptions,
  tryAgain,
} from "./_reconnect.ts";
import { newStats, type Stats } from "./_stats.ts";
import { checkClientTls, type ClientTLSOptions, startTls } from "./_tls.ts";
import { Deadline, Hold, Pause } from "./_time.ts";

export type { Address, ClientTLSOptions, ReceiveOptions, RetryOptions, Stats };

const DEFAULT_CONNECT_TIMEOUT = 10_000;
/**
 * Characters that had arrived by lost connections and nobody received: with how many
 * the next connection is read all the same, and how many are kept at the most.
 */
const REST_AHEAD = 4096;
const MAX_REST = DEFAULT_MAX_SEND_BUFFER_BYTES;

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
  /**
   * Whether, and how, to keep trying where the first attempt to connect fails: a
   * robot often boots before the line's PC. A permission that is not given and a
   * certificate that is not accepted end it.
   *
   * @default {false}
   */
  retry?: boolean | RetryOptions;
  /**
   * Whether, and how, to establish a lost connection again, also one that the server
   * has closed. Pending {@linkcode TCPClient.receive} calls go on waiting, and
   * messages to send wait. One that was not wholly with the kernel when the
   * connection broke is sent again, whole, and none that was is sent twice: so the
   * server may miss messages that were on their way, and those it has received it
   * receives once. `signal` then ends the client for good, at any time.
   *
   * @default {false}
   */
  reconnect?: boolean | RetryOptions;
  /**
   * With `reconnect`, how many bytes may wait while there is no connection; a message
   * too many is refused.
   *
   * @default {16_777_216}
   */
  maxSendBufferBytes?: number;
  /**
   * Called when the connection is gone, unless the script itself has ended it with
   * {@linkcode TCPClient.disconnect} or `signal`; with the error where that was not
   * an orderly end.
   */
  onDisconnect?: (error?: Error) => void;
  /** With `reconnect`, called when there is a connection again. */
  onReconnect?: () => void;
  /**
   * With `retry` or `reconnect`, called with what went wrong when an attempt to
   * connect has failed and another one follows.
   */
  onRetry?: (error: Error) => void;
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
  const settings = checkClientOptions([ip, port], options);
  const { signal, retry } = settings;
  signal?.throwIfAborted();
  const conn = retry
    ? await keepDialing(settings, retry, new Pause(), signal)
    : await dial(settings, signal);
  if (signal?.aborted) {
    conn.close();
    throw signal.reason;
  }
  return newClient(conn, settings);
}

/** The options, checked and with the defaults in place. */
type Settings =
  & Omit<TCPClientOptions, "retry" | "reconnect">
  & ReturnType<typeof checkClientOptions>;

function checkClientOptions(
  [ip, port]: Address,
  options: TCPClientOptions,
) {
  const {
    connectTimeout = DEFAULT_CONNECT_TIMEOUT,
    maxMessageBytes = DEFAULT_MAX_MESSAGE_BYTES,
    maxSendBufferBytes = DEFAULT_MAX_SEND_BUFFER_BYTES,
    idleTimeout = 0,
    tls = false,
  } = options;
  const settings = {
    ...options,
    address: Object.freeze([ip, port] as const),
    wire: wirePort(port, options.portOffset),
    connectTimeout,
    maxMessageBytes,
    maxSendBufferBytes,
    idleTimeout,
    tls,
    retry: checkRetry("retry", options.retry),
    reconnect: checkRetry("reconnect", options.reconnect),
  };
  checkTime("connectTimeout", settings.connectTimeout, 1);
  checkMaxMessageBytes(settings.maxMessageBytes);
  checkInteger("maxSendBufferBytes", settings.maxSendBufferBytes, 1);
  checkTime("idleTimeout", settings.idleTimeout);
  checkClientTls(settings.tls);
  checkSignal(options.signal);
  checkFunction("onDisconnect", options.onDisconnect);
  checkFunction("onReconnect", options.onReconnect);
  checkFunction("onRetry", options.onRetry);
  return settings;
}

/** Connects, with TLS if so wanted, until time or signal end it. */
async function dial(
  { address, wire, portOffset, tls, connectTimeout }: Settings,
  signal: AbortSignal | undefined,
): Promise<Conn> {
  const deadline = new Deadline(connectTimeout, "no answer");
  const abort = () => deadline.end(signal?.reason);
  signal?.addEventListener("abort", abort, { once: true });
  try {
    return await connect(address[0], wire, tls, deadline.signal);
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    const where = formatWithWire(address, portOffset);
    const why = deadline.signal.aborted ? deadline.signal.reason : error;
    throw explain(`Cannot connect to ${where}`, why);
  } finally {
    deadline.clear();
    signal?.removeEventListener("abort", abort);
  }
}

async function connect(
  hostname: string,
  port: number,
  tls: boolean | ClientTLSOptions,
  signal: AbortSignal,
): Promise<Conn> {
  const conn = await Deno.connect({ hostname, port, signal });
  if (signal.aborted) {
    conn.close();
    throw signal.reason;
  }
  if (tls === false) return conn;
  tune(conn);
  return startTls(conn, hostname, tls === true ? {} : tls, signal);
}

function keepDialing(
  settings: Settings,
  retry: Required<RetryOptions>,
  pause: Pause,
  signal: AbortSignal | undefined,
): Promise<Conn> {
  // What dial() throws is an error, but for the reason of an abort, which ends it.
  const failed = (error: unknown) => tell(settings.onRetry, error as Error);
  return tryAgain(() => dial(settings, signal), retry, pause, signal, failed);
}

/** Calls a callback of the options; what it throws is an uncaught error. */
function tell<Args extends unknown[]>(
  callback: ((...args: Args) => void) | undefined,
  ...args: Args
): void {
  try {
    const result: unknown = callback?.(...args);
    if (isPromise(result)) result.then(undefined, reportError);
  } catch (error) {
    reportError(error);
  }
}

let newClient: (conn: Conn, settings: Settings) => TCPClient;

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
    return this.#localAddress;
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
  readonly #settings: Settings;
  readonly #inbox: Inbox<string>;
  readonly #outbox: Outbox | undefined;
  readonly #stats = newStats();
  readonly #pause = new Pause();
  readonly #stopped = new AbortController();
  #connection: Connection;
  #localAddress: Address;
  #reading: Connection | undefined;
  /** What had arrived by connections that are gone. */
  #rest: (string | Error)[] = [];
  #restSize = 0;
  readonly #hold = new Hold((held) => {
    this.#connection.hold(held);
    this.#pause.hold(held || this.#outbox?.waiting === true);
  });
  /** Whether nothing more may be taken from the connection. */
  #drained = false;
  #state: "open" | "down" | "ended" = "open";
  #disconnected: Promise<void> | undefined;

  static {
    newClient = (...args) => new TCPClient(...args);
  }

  private constructor(conn: Conn, settings: Settings) {
    this.#settings = settings;
    this.remoteAddress = settings.address;
    this.#inbox = new Inbox<string>({
      take: () => this.#take(),
      awaited: (waiting) => this.#hold.want(waiting),
    });
    if (settings.reconnect) {
      this.#outbox = new Outbox(
        settings.maxSendBufferBytes,
        (connection) => this.#lose(connection),
      );
      settings.signal?.addEventListener("abort", this.#abort, { once: true });
    }
    this.#localAddress = this.#toAddress(conn);
    this.#connection = this.#connect(conn);
    this.#start();
  }

  #toAddress(conn: Conn): Address {
    const { portOffset } = this.#settings;
    return toAddress(conn.localAddr as Deno.NetAddr, portOffset);
  }

  #connect(conn: Conn): Connection {
    return new Connection(conn, {
      ...this.#settings,
      portOffset: this.#settings.portOffset,
      remoteAddress: this.remoteAddress,
      stats: this.#stats,
    });
  }

  #start(): void {
    this.#drained = false;
    this.#state = "open";
    this.#hold.apply();
    this.#outbox?.attach(this.#connection);
    if (this.#restSize < REST_AHEAD) this.#read();
  }

  /** Decodes what is next, and reads on as soon as little is left to decode. */
  #take(): (string | Error)[] | undefined {
    if (this.#rest.length > 0) {
      this.#restSize = 0;
      if (this.#state === "open") this.#read();
      return this.#rest.splice(0);
    }
    if (this.#drained) return undefined;
    try {
      const messages = this.#connection.take();
      if (this.#connection.hungry) this.#read();
      return messages;
    } catch (error) {
      const connection = this.#connection;
      connection.destroy(error);
      this.#drained = true;
      // Only then, as the inbox is about to hand out this error.
      queueMicrotask(() => this.#lose(connection));
      return [error as Error];
    }
  }

  /** A read is always pending while there is room: so the end is seen without a receiver. */
  async #read(): Promise<void> {
    const connection = this.#connection;
    if (this.#reading === connection) return;
    this.#reading = connection;
    const more = await connection.read();
    if (this.#reading === connection) this.#reading = undefined;
    if (!more) return this.#lose(connection);
    if (connection !== this.#connection) return;
    this.#inbox.deliver();
    if (connection.hungry) this.#read();
  }

  /** The connection has ended: comes back, or ends for good. */
  #lose(connection: Connection): void {
    if (this.#state !== "open" || connection !== this.#connection) return;
    const { reconnect, onDisconnect } = this.#settings;
    const error = connection.endError();
    if (reconnect && this.#outbox) {
      this.#state = "down";
      this.#comeBack(connection, this.#outbox, reconnect);
    } else {
      this.#state = "ended";
      this.#hold.end();
      connection.close();
      this.#inbox.end(() => connection.receiveError());
    }
    tell(onDisconnect, error);
  }

  async #comeBack(
    lost: Connection,
    outbox: Outbox,
    reconnect: Required<RetryOptions>,
  ): Promise<void> {
    const { signal } = this.#stopped;
    // After a write that failed; otherwise it has nothing more to read.
    await this.#readOut(lost);
    this.#keep(lost);
    lost.destroy();
    await lost.flushed();
    outbox.detach();
    this.#hold.apply();
    // At once would be too often for a server that accepts and closes.
    await this.#pause.wait(reconnect.firstDelay);
    try {
      signal.throwIfAborted();
      const conn = await keepDialing(
        this.#settings,
        reconnect,
        this.#pause,
        signal,
      );
      if (signal.aborted) return conn.close();
      this.#localAddress = this.#toAddress(conn);
      this.#connection = this.#connect(conn);
      this.#start();
      tell(this.#settings.onReconnect);
    } catch (error) {
      if (!signal.aborted) this.#finish(error);
    }
  }

  /** What the kernel still has is the script's; behind a failed write no more comes. */
  async #readOut(lost: Connection): Promise<void> {
    do this.#collect(lost); while (
      !this.#drained && this.#restSize < MAX_REST && await lost.read()
    );
  }

  /** Takes what had arrived whole by a connection that is gone. */
  #keep(lost: Connection): void {
    this.#collect(lost);
    this.#drained = true;
  }

  #collect(lost: Connection): void {
    try {
      for (let items; !this.#drained && (items = lost.take());) {
        this.#rest.push(...items);
        for (const item of items) this.#restSize += String(item).length;
      }
    } catch (error) {
      this.#drained = true;
      this.#rest.push(error as Error);
    }
    this.#inbox.deliver();
  }

  /** Ends for good, because of `cause` if there is one. */
  #finish(cause?: unknown): void {
    const lost = this.#connection;
    const { signal } = this.#settings;
    this.#state = "ended";
    signal?.removeEventListener("abort", this.#abort);
    this.#stopped.abort();
    this.#hold.end();
    this.#pause.cut();
    const closed = (what: string) =>
      new ClosedError(
        `Cannot ${what} ${lost.peer}: ${reason(cause)}`,
        { cause },
      );
    this.#inbox.end(() =>
      cause === undefined ? lost.receiveError() : closed("receive from")
    );
    this.#outbox?.end(() =>
      cause === undefined ? lost.sendError() : closed("send to")
    );
  }

  readonly #abort = (): void => {
    const { signal } = this.#settings;
    this.#connection.destroy(signal?.reason);
    this.#finish(signal?.reason);
  };

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
    return this.#state === "open" && this.#connection.open;
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
   * the calls, awaited or not; those sent without awaiting in between in one write.
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
      if (!this.#outbox) return this.#connection.post(message);
      checkMessage(message, this.#settings.maxMessageBytes);
      if (this.#state === "ended") throw this.#connection.sendError();
      const sent = this.#outbox.send(
        message,
        this.#state === "open",
      );
      if (this.#state === "down") this.#hold.apply();
      return sent;
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
   * it has closed its side too, a second at the most. A server that takes nothing of
   * what is pending gets 5 seconds, and one that takes little by little 10. Pending
   * `receive` calls reject with {@linkcode ClosedError}, loops over the client end.
   * May be called twice.
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
    this.#drained = true;
    this.#rest = [];
    this.#restSize = 0;
    this.#inbox.clear();
    return this.#disconnected ??= this.#disconnect();
  }

  async #disconnect(): Promise<void> {
    const wasOpen = this.#state === "open";
    const connection = this.#connection;
    const closed = connection.close();
    this.#state = "ended";
    this.#inbox.end(() => connection.receiveError());
    // What waits to be sent is sent, where there is a connection.
    if (wasOpen) await closed;
    this.#finish();
    await closed;
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
