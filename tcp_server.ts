// Copyright 2026 the Daystar authors. MIT license.

/**
 * A TCP server that receives messages, replies to them and pushes its own, as
 * Python's `daystar_api.tcp_server` does.
 *
 * ```ts
 * import { createTcpClient } from "@daystar/comm/tcp-client";
 * import { createTcpServer } from "@daystar/comm/tcp-server";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = createTcpServer(70930, (message) => `Echo: ${message}`, {
 *   hostname: "127.0.0.1",
 * });
 *
 * await using client = await createTcpClient("127.0.0.1", 70930);
 * await client.send("Hello Server");
 * assertEquals(await client.receive(), "Echo: Hello Server");
 *
 * await server.sendToAll("Broadcast message");
 * assertEquals(await client.receive(), "Broadcast message");
 * ```
 *
 * Where the Python server runs in a background thread, this one runs in the event
 * loop: a script that computes without awaiting holds it up for as long.
 *
 * @module
 */

import {
  type Address,
  checkAddress,
  checkHost,
  formatAddress,
  formatWithWire,
  toAddress,
  wirePort,
} from "./_address.ts";
import { allowCidr, refusal } from "./_ip.ts";
import {
  checkFunction,
  checkInteger,
  checkOptions,
  checkTime,
  isPromise,
  show,
} from "./_options.ts";
import {
  type Conn,
  Connection,
  DEFAULT_MAX_SEND_BUFFER_BYTES,
  LINGER,
} from "./_connection.ts";
import { ClosedError, CommunicationError, explain } from "./_errors.ts";
import {
  checkMaxMessageBytes,
  checkMessage,
  type Decoded,
  DEFAULT_MAX_MESSAGE_BYTES,
  encodeFrame,
} from "./_framing.ts";

import { newStats, type ServerStats, type Stats } from "./_stats.ts";
import { checkServerTls, type ServerTLSOptions, shakeHands } from "./_tls.ts";
import { Deadline, within } from "./_time.ts";

export { allowCidr };
export type { Address, ServerStats, ServerTLSOptions, Stats };

/** Unsent bytes from which on a client is read no further. */
const HIGH_WATER = 65_536;
/** How long {@linkcode TCPServer.sendToAll} waits for slow clients, in ms. */
const PATIENCE = 100;
/** Pauses after a failure to accept, in ms: the first, and the longest. */
const MIN_PAUSE = 20;
const MAX_PAUSE = 500;
const DEFAULT_HANDSHAKE_TIMEOUT = 10_000;

/**
 * What a {@linkcode MessageCallback} may return: a string is sent back to the
 * client, `null` and `undefined` send nothing.
 */
export type Reply = string | null | undefined | void;

/**
 * Called with each message of each client, one at a time for a client, in the
 * order they arrived.
 *
 * @param message The message.
 * @param clientAddr The address of the client.
 * @returns The reply, or a promise of it.
 */
export type MessageCallback = (
  message: string,
  clientAddr: Address,
) => Reply | Promise<Reply>;

/** Options of {@linkcode createTcpServer}. */
export interface TCPServerOptions {
  /**
   * The address to listen on: `"0.0.0.0"` is every IPv4 address of the machine,
   * `"::"` every address.
   *
   * @default {"0.0.0.0"}
   */
  hostname?: string;
  /**
   * What to add to a communication port to get its wire port.
   *
   * @default {-65536}
   */
  portOffset?: number;
  /**
   * The longest message to send or to receive, in bytes of UTF-8 without the
   * terminator. A client that sends a longer one is disconnected.
   *
   * @default {1_048_576}
   */
  maxMessageBytes?: number;
  /**
   * How many clients may be connected at once. One more is closed at once.
   *
   * @default {1024}
   */
  maxClients?: number;
  /**
   * How many bytes may wait to be sent to a client, which is disconnected when
   * another message would make them more. One message alone may always wait.
   *
   * @default {16_777_216}
   */
  maxSendBufferBytes?: number;
  /**
   * How long a client may send nothing before it is disconnected, in milliseconds;
   * 0 is for ever. One that is read no further, as it does not take what waits for
   * it, gets 5 seconds at the least.
   *
   * @default {0}
   */
  idleTimeout?: number;
  /**
   * Asked before anything of a client is read; only `true` lets it in. Another is
   * closed at once and told to `onError`. {@linkcode allowCidr} makes one from
   * ranges of addresses.
   *
   * @default {() => true}
   */
  allow?: (clientAddr: Address) => boolean;
  /**
   * The certificate and key with which to speak TLS, which clients then have to.
   *
   * With it {@linkcode TCPServer.unref} has no effect: Deno's TLS listener keeps
   * the script alive.
   */
  tls?: ServerTLSOptions;
  /** Called when a client has connected, before its first message. */
  onConnect?: (clientAddr: Address) => void;
  /**
   * Called when a client is gone, with the error where that was not an orderly end.
   */
  onDisconnect?: (clientAddr: Address, error?: Error) => void;
  /**
   * Called with what went wrong: a callback that threw, a message that is not
   * UTF-8, a reply that can't be sent, a connection that can't be accepted.
   *
   * @default {console.error}
   */
  onError?: (error: Error, clientAddr?: Address) => void;
}

/**
 * Creates a server that listens when this returns.
 *
 * @param port The communication port to listen on, an integer from 70000 to 71000.
 * @param messageCallback Called with each message; what it returns is the reply.
 * Without it messages are read and dropped.
 * @param options Address, limits, and what to call when.
 * @returns The server.
 * @throws {RangeError} If the port or a limit is outside its range.
 * @throws {Deno.errors.AddrInUse} If something listens there already. Other errors
 * of the operating system keep Deno's classes too.
 *
 * @example An echo server
 * ```ts
 * import { createTcpClient, createTcpServer } from "@daystar/comm";
 * import { assertEquals } from "@std/assert";
 *
 * await using _server = createTcpServer(
 *   70931,
 *   (message, [ip]) => `${ip} said ${message}`,
 *   { hostname: "127.0.0.1" },
 * );
 *
 * await using client = await createTcpClient("127.0.0.1", 70931);
 * await client.send("Hello");
 * assertEquals(await client.receive(), "127.0.0.1 said Hello");
 * ```
 */
export function createTcpServer(
  port: number,
  messageCallback?: MessageCallback,
  options: TCPServerOptions = {},
): TCPServer {
  checkFunction("messageCallback", messageCallback);
  const settings = checkServerOptions(options);
  const wire = wirePort(port, options.portOffset);
  const address = Object.freeze([settings.hostname, port] as const);
  const where = { hostname: settings.hostname, port: wire };
  let listener: Listener;
  try {
    listener = settings.tls
      ? Deno.listenTls({
        ...where,
        cert: settings.tls.cert,
        key: settings.tls.key,
      })
      : Deno.listen(where);
  } catch (error) {
    throw explain(
      `Cannot listen on ${formatWithWire(address, options.portOffset)}`,
      error,
    );
  }
  return newServer(listener, address, messageCallback, settings);
}

type Listener = Deno.TcpListener | Deno.TlsListener;

/** The options, with the defaults in place. */
type Settings = TCPServerOptions & typeof DEFAULTS;

const DEFAULTS = {
  hostname: "0.0.0.0",
  maxMessageBytes: DEFAULT_MAX_MESSAGE_BYTES,
  maxClients: 1024,
  maxSendBufferBytes: DEFAULT_MAX_SEND_BUFFER_BYTES,
  idleTimeout: 0,
  onError: logError,
};

function checkServerOptions(options: TCPServerOptions): Settings {
  checkOptions(options);
  const settings: Settings = { ...DEFAULTS, ...withoutUndefined(options) };
  checkHost(settings.hostname);
  checkMaxMessageBytes(settings.maxMessageBytes);
  checkInteger("maxClients", settings.maxClients, 1);
  checkInteger("maxSendBufferBytes", settings.maxSendBufferBytes, 1);
  checkTime("idleTimeout", settings.idleTimeout);
  checkServerTls(settings.tls);
  for (
    const name of ["allow", "onConnect", "onDisconnect", "onError"] as const
  ) {
    checkFunction(name, settings[name]);
  }
  return settings;
}

function logError(error: Error, clientAddr?: Address): void {
  if (clientAddr) console.error(`${formatAddress(clientAddr)}:`, error);
  else console.error(error);
}

interface Client {
  readonly address: Address;
  readonly connection: Connection;
  /** Whether a call of sendToAll waited for it in vain, and it has not caught up since. */
  slow?: boolean;
  /** Whether onDisconnect was called for it. */
  gone?: boolean;
  /** The callback at work on a message of this client. */
  working?: Promise<void> | undefined;
}

let newServer: (
  listener: Listener,
  address: Address,
  callback: MessageCallback | undefined,
  settings: Settings,
) => TCPServer;

/**
 * A TCP server, made by {@linkcode createTcpServer}. It keeps a script alive until
 * it is stopped, unless {@linkcode TCPServer.unref} was called.
 *
 * @example Pushing messages
 * ```ts
 * import { createTcpClient, createTcpServer } from "@daystar/comm";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = createTcpServer(70932, undefined, {
 *   hostname: "127.0.0.1",
 *   onConnect: (client) => server.send("Welcome", client),
 * });
 *
 * await using client = await createTcpClient("127.0.0.1", 70932);
 * assertEquals(await client.receive(), "Welcome");
 * ```
 */
export class TCPServer implements AsyncDisposable, Disposable {
  /**
   * Where it listens: the hostname and the communication port.
   *
   * @example Usage
   * ```ts
   * import { createTcpServer } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * await using server = createTcpServer(70933, undefined, { hostname: "127.0.0.1" });
   * assertEquals(server.address, ["127.0.0.1", 70933]);
   * ```
   */
  readonly address: Address;
  /**
   * Settles when the server has stopped.
   *
   * @example Serving until a client says so
   * ```ts
   * import { createTcpClient, createTcpServer } from "@daystar/comm";
   *
   * const server = createTcpServer(70934, (message) => {
   *   if (message === "stop") server.stop();
   * }, { hostname: "127.0.0.1" });
   *
   * await using client = await createTcpClient("127.0.0.1", 70934);
   * await client.send("stop");
   * await server.finished;
   * ```
   */
  readonly finished: Promise<void>;
  readonly #finish: () => void;
  readonly #listener: Listener;
  readonly #callback: MessageCallback | undefined;
  readonly #settings: Settings;
  readonly #clients = new Map<string, Client>();
  readonly #handshakes = new Map<Deadline, Promise<void>>();
  readonly #stats: ServerStats = {
    ...newStats(),
    connectionsAccepted: 0,
    connectionsRefused: 0,
    slowClientsDropped: 0,
  };
  readonly #accepting: Promise<void>;
  #stopped: Promise<void> | undefined;
  #resume: (() => void) | undefined;
  #held = true;

  static {
    newServer = (...args) => new TCPServer(...args);
  }

  private constructor(
    listener: Listener,
    address: Address,
    callback: MessageCallback | undefined,
    settings: Settings,
  ) {
    this.#listener = listener;
    this.address = address;
    this.#callback = callback;
    this.#settings = settings;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.finished = promise;
    this.#finish = resolve;
    this.#accepting = this.#accept();
  }

  /** Not `for await (… of listener)`: that ends at the first failure. */
  async #accept(): Promise<void> {
    for (let pause = MIN_PAUSE; !this.#stopped;) {
      try {
        this.#welcome(await this.#listener.accept());
        pause = MIN_PAUSE;
      } catch (error) {
        if (this.#stopped) return;
        this.#report(
          explain(
            `Cannot accept a connection on ${this.#format(this.address)}`,
            error,
          ),
        );
        await this.#pause(pause);
        pause = Math.min(pause * 2, MAX_PAUSE);
      }
    }
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#resume = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  #welcome(conn: Conn): void {
    const { portOffset, maxClients, allow } = this.#settings;
    const address = toAddress(conn.remoteAddr as Deno.NetAddr, portOffset);
    if (this.#stopped) return conn.close();
    this.#forgetGhost(toKey(address));
    const full = this.#clients.size + this.#handshakes.size >= maxClients;
    const refused = full
      ? new CommunicationError(
        `Cannot serve ${
          this.#format(address)
        }: ${maxClients} clients are connected already`,
      )
      : refusal(allow, address);
    if (refused) {
      conn.close();
      return this.#refuse(refused, address);
    }
    if ("handshake" in conn) this.#startHandshake(conn, address);
    else this.#admit(conn, address);
  }

  #format(address: Address): string {
    return formatWithWire(address, this.#settings.portOffset);
  }

  #refuse(error: Error, address: Address): void {
    this.#stats.connectionsRefused++;
    this.#report(error, address);
  }

  /** Apart from accepting, so that a handshake that hangs keeps nobody waiting. */
  #startHandshake(conn: Deno.TlsConn, address: Address): void {
    const { handshakeTimeout = DEFAULT_HANDSHAKE_TIMEOUT } =
      this.#settings.tls ?? {};
    const deadline = new Deadline(handshakeTimeout, "no TLS handshake");
    this.#handshakes.set(deadline, this.#shakeHands(conn, address, deadline));
  }

  async #shakeHands(
    conn: Deno.TlsConn,
    address: Address,
    deadline: Deadline,
  ): Promise<void> {
    try {
      await shakeHands(conn, deadline.signal);
      if (this.#stopped) conn.close();
      else this.#admit(conn, address);
    } catch (error) {
      if (this.#stopped) return;
      const cannot = `Cannot serve ${this.#format(address)} with TLS`;
      this.#refuse(explain(cannot, error), address);
    } finally {
      deadline.clear();
      this.#handshakes.delete(deadline);
    }
  }

  #admit(conn: Conn, address: Address): void {
    const { maxMessageBytes, idleTimeout } = this.#settings;
    const connection = new Connection(conn, {
      remoteAddress: address,
      portOffset: this.#settings.portOffset,
      maxMessageBytes,
      idleTimeout,
      stats: this.#stats,
    });
    connection.hold(this.#held);
    const client: Client = { address, connection };
    this.#clients.set(toKey(address), client);
    this.#stats.connectionsAccepted++;
    this.#tell(this.#settings.onConnect, address);
    this.#serve(client);
  }

  /** One whose callback is at work was reset unseen when its address comes again. */
  #forgetGhost(key: string): void {
    const ghost = this.#clients.get(key);
    if (!ghost) return;
    ghost.connection.destroy(
      new Deno.errors.ConnectionReset("it has connected anew"),
    );
    this.#forget(ghost);
  }

  async #serve(client: Client): Promise<void> {
    const { connection } = client;
    try {
      while (!this.#stopped && !client.gone) {
        const messages = connection.take();
        if (!messages) {
          if (await connection.read()) continue;
          break;
        }
        for (
          let next = 0;
          next < messages.length && !this.#stopped && !client.gone;
        ) {
          next = this.#handleSome(client, messages, next);
          await client.working;
          client.working = undefined;
          if (connection.unsent > HIGH_WATER) await connection.flushed();
        }
      }
    } catch (error) {
      // The replies to what came before a message over the limit still go out.
      await within(LINGER, connection.flushed());
      connection.destroy(error);
    }
    await connection.close();
    this.#forget(client);
  }

  /** Handles messages until there is something to wait for; returns the next one. */
  #handleSome(client: Client, messages: Decoded, next: number): number {
    while (next < messages.length && !this.#stopped && !client.gone) {
      client.working = this.#handle(client, messages[next++]);
      if (client.working || client.connection.unsent > HIGH_WATER) break;
    }
    return next;
  }

  /** Calls back; returns what to wait for before the next message. */
  #handle(
    client: Client,
    message: Decoded[number] | undefined,
  ): Promise<void> | undefined {
    if (typeof message !== "string") {
      this.#report(message, client.address);
      return;
    }
    if (!this.#callback) return;
    try {
      const reply = this.#callback(message, client.address);
      if (isPromise(reply)) return this.#handleLater(client, reply);
      this.#reply(client, reply);
    } catch (error) {
      this.#report(error, client.address);
    }
  }

  async #handleLater(client: Client, reply: PromiseLike<Reply>): Promise<void> {
    try {
      this.#reply(client, await reply);
    } catch (error) {
      this.#report(error, client.address);
    }
  }

  #reply(client: Client, reply: Reply): void {
    if (reply === undefined || reply === null) return;
    if (typeof reply !== "string") {
      throw new TypeError(
        `Cannot reply with ${
          show(reply)
        }: a reply is a string, null or undefined`,
      );
    }
    // A write that fails ends the connection, and onDisconnect tells why.
    client.connection.post(reply).catch(() => {});
  }

  /** Queues a frame, unless the client has too much waiting already, which ends it. */
  #push(client: Client, frame: Uint8Array<ArrayBuffer>): Promise<void> {
    const { maxSendBufferBytes } = this.#settings;
    const { unsent, open } = client.connection;
    if (open && unsent > 0 && unsent + frame.length > maxSendBufferBytes) {
      client.connection.destroy(
        new CommunicationError(
          `Cannot hold more than ${maxSendBufferBytes} bytes for ${
            this.#format(client.address)
          }: it reads too slowly`,
        ),
      );
      this.#stats.slowClientsDropped++;
      this.#forget(client);
    }
    return client.connection.postFrame(frame);
  }

  #checkRunning(what: string): void {
    if (!this.#stopped) return;
    throw new ClosedError(
      `Cannot ${what}: the server on ${this.#format(this.address)} is stopped`,
    );
  }

  #forget(client: Client): void {
    const key = toKey(client.address);
    if (this.#clients.get(key) !== client) return;
    this.#clients.delete(key);
    client.gone = true;
    const error = client.connection.endError();
    this.#tell(this.#settings.onDisconnect, client.address, error);
  }

  /** Calls a callback of the options; what it throws is reported. */
  #tell<Args extends [Address, Error?]>(
    callback: ((...args: Args) => void) | undefined,
    ...args: Args
  ): void {
    try {
      const result: unknown = callback?.(...args);
      if (isPromise(result)) {
        result.then(undefined, (error) => this.#report(error, args[0]));
      }
    } catch (error) {
      this.#report(error, args[0]);
    }
  }

  #report(error: unknown, clientAddr?: Address): void {
    const wrapped = error instanceof Error
      ? error
      : new CommunicationError(`Caught ${show(error)}, which is not an Error`, {
        cause: error,
      });
    try {
      const result: unknown = this.#settings.onError(wrapped, clientAddr);
      if (isPromise(result)) result.then(undefined, console.error);
    } catch (error) {
      logError(wrapped, clientAddr);
      console.error(error);
    }
  }

  /**
   * Sends a message to one client.
   *
   * @param message The message: any string without U+0003, the empty one too.
   * @param client The address of the client, as callbacks and
   * {@linkcode TCPServer.getConnectedClients} give it.
   * @returns Resolves when the bytes are with the kernel.
   * @throws {ClosedError} If the client is not connected, or its connection ends before the bytes are with the kernel.
   * @throws {TypeError} If the message contains U+0003 or a lone surrogate, or is not a string.
   * @throws {MessageTooLargeError} If the message is over `maxMessageBytes`.
   *
   * @example Usage
   * ```ts
   * import { createTcpClient, createTcpServer } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * await using server = createTcpServer(70935, undefined, { hostname: "127.0.0.1" });
   * await using client = await createTcpClient("127.0.0.1", 70935);
   * await client.send("Hello");
   * const [first] = server.getConnectedClients();
   * if (first) await server.send("PICK", first);
   * assertEquals(await client.receive(), "PICK");
   * ```
   */
  // deno-lint-ignore require-await -- so that what is thrown rejects
  async send(message: string, client: Address): Promise<void> {
    checkAddress(client);
    checkMessage(message, this.#settings.maxMessageBytes);
    this.#checkRunning(`send to ${this.#format(client)}`);
    const known = this.#clients.get(toKey(client));
    if (!known) {
      throw new ClosedError(
        `Cannot send to ${this.#format(client)}: no such client is connected`,
      );
    }
    return this.#push(known, encodeFrame(message));
  }

  /**
   * Sends a message to all clients. A slow client holds up neither the others nor
   * the caller: its messages wait in the server, up to `maxSendBufferBytes`, and
   * one more disconnects it.
   *
   * @param message The message: any string without U+0003, the empty one too.
   * @returns Resolves with the number of clients it was written to, when the bytes
   * for all of them are with the kernel; not for clients that don't take them within
   * 100 milliseconds, for which it does not wait again until they have caught up.
   * @throws {ClosedError} If the server is stopped.
   * @throws {TypeError} If the message contains U+0003 or a lone surrogate, or is not a string.
   * @throws {MessageTooLargeError} If the message is over `maxMessageBytes`.
   *
   * @example Usage
   * ```ts
   * import { createTcpClient, createTcpServer } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * await using server = createTcpServer(70936, (message) => message, {
   *   hostname: "127.0.0.1",
   * });
   * await using client = await createTcpClient("127.0.0.1", 70936);
   * await client.send("Ready");
   * await client.receive();
   * assertEquals(await server.sendToAll("START"), 1);
   * assertEquals(await client.receive(), "START");
   * ```
   */
  async sendToAll(message: string): Promise<number> {
    checkMessage(message, this.#settings.maxMessageBytes);
    this.#checkRunning("send to all");
    const frame = encodeFrame(message);
    const writes: [Client, Promise<void>][] = [];
    for (const client of this.#clients.values()) {
      if (!client.connection.open) continue;
      try {
        writes.push([client, this.#push(client, frame)]);
      } catch {
        // It has just been disconnected, and onDisconnect told why.
      }
    }
    return writes.length - await writtenByMost(writes);
  }

  /**
   * What was counted so far, of all clients, as plain numbers.
   *
   * @example Usage
   * ```ts
   * import { createTcpClient, createTcpServer } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * await using server = createTcpServer(70943, (message) => message, {
   *   hostname: "127.0.0.1",
   * });
   * await using client = await createTcpClient("127.0.0.1", 70943);
   * await client.send("PICK");
   * await client.receive();
   * assertEquals([server.stats.connectionsAccepted, server.stats.messagesIn], [1, 1]);
   * ```
   *
   * @returns A copy of the numbers.
   */
  get stats(): ServerStats {
    return { ...this.#stats };
  }

  /**
   * The clients that are connected.
   *
   * @returns Their addresses, those connected longest first.
   *
   * @example Usage
   * ```ts
   * import { createTcpServer } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * await using server = createTcpServer(70937, undefined, { hostname: "127.0.0.1" });
   * assertEquals(server.getConnectedClients(), []);
   * ```
   */
  getConnectedClients(): Address[] {
    return [...this.#clients.values()]
      .filter(({ connection }) => connection.open)
      .map(({ address }) => address);
  }

  /**
   * Stops the server: releases the port, waits for callbacks that are at work, sends
   * what is pending and closes every client, all within a second. A client that
   * takes nothing of what is pending gets 5 seconds, and one that takes little by
   * little 10. Another server can listen on the port one turn of the event loop
   * after the call. May be called twice.
   *
   * @returns Resolves when everything is closed; never rejects. A callback that
   * waits for it holds up the stop for a second: don't `await` it there.
   *
   * @example Usage
   * ```ts
   * import { createTcpServer } from "@daystar/comm";
   *
   * const server = createTcpServer(70938, undefined, { hostname: "127.0.0.1" });
   * await server.stop();
   * ```
   */
  stop(): Promise<void> {
    return this.#stopped ??= this.#stop();
  }

  async #stop(): Promise<void> {
    // Or a script with nothing else to do would end before this does.
    this.#listener.ref();
    this.#listener.close();
    this.#resume?.();
    for (const deadline of this.#handshakes.keys()) deadline.end(undefined);
    // A callback that called this, without waiting, still has its reply to give.
    await null;
    await Promise.all(
      [...this.#clients.values()].map((client) => this.#close(client)),
    );
    await Promise.all(this.#handshakes.values());
    await this.#accepting;
    this.#finish();
  }

  async #close(client: Client): Promise<void> {
    if (client.working) await within(LINGER, client.working);
    await client.connection.close();
    this.#forget(client);
  }

  /**
   * Keeps the script alive until the server is stopped, as a new server does.
   *
   * @example Usage
   * ```ts
   * import { createTcpServer } from "@daystar/comm";
   *
   * await using server = createTcpServer(70939, undefined, { hostname: "127.0.0.1" });
   * server.unref();
   * server.ref();
   * ```
   */
  ref(): void {
    this.#hold(true);
  }

  /**
   * Lets the script end although the server has not been stopped.
   *
   * @example Usage
   * ```ts
   * import { createTcpServer } from "@daystar/comm";
   *
   * await using server = createTcpServer(70940, undefined, { hostname: "127.0.0.1" });
   * server.unref();
   * ```
   */
  unref(): void {
    this.#hold(false);
  }

  #hold(held: boolean): void {
    this.#held = held;
    if (held) this.#listener.ref();
    else this.#listener.unref();
    for (const { connection } of this.#clients.values()) connection.hold(held);
  }

  /**
   * Does what {@linkcode TCPServer.stop} does, for `await using`.
   *
   * @returns Resolves when everything is closed.
   *
   * @example Usage
   * ```ts
   * import { createTcpServer } from "@daystar/comm";
   *
   * await using _server = createTcpServer(70941, undefined, { hostname: "127.0.0.1" });
   * ```
   */
  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  /**
   * Starts what {@linkcode TCPServer.stop} does and does not wait for it, for `using`.
   *
   * @example Usage
   * ```ts
   * import { createTcpServer } from "@daystar/comm";
   *
   * const server = createTcpServer(70942, undefined, { hostname: "127.0.0.1" });
   * {
   *   using _server = server;
   * }
   * await server.finished;
   * ```
   */
  [Symbol.dispose](): void {
    this.stop();
  }
}

function toKey([ip, port]: Address): string {
  return `${ip} ${port}`;
}

function withoutUndefined<T extends object>(options: T): T {
  return Object.fromEntries(
    Object.entries(options).filter(([, value]) => value !== undefined),
  ) as T;
}

/**
 * Waits for writes to clients, which paces a caller that sends all the time; but for
 * those who let it wait before, until they have taken everything, only when there is
 * nobody else, and for nobody longer than the {@linkcode PATIENCE}.
 *
 * @returns How many have failed by then.
 */
function writtenByMost(writes: [Client, Promise<void>][]): Promise<number> {
  if (writes.length === 0) return Promise.resolve(0);
  const allSlow = writes.every(([client]) => client.slow);
  const pending = new Set<Client>();
  let left = 0;
  let failed = 0;
  return new Promise((resolve) => {
    const finish = () => {
      clearTimeout(timer);
      for (const client of pending) client.slow = true;
      resolve(failed);
    };
    const timer = setTimeout(finish, PATIENCE);
    const settle = (client: Client) => {
      if (client.connection.unsent === 0) client.slow = false;
      if (pending.delete(client) && --left === 0) finish();
    };
    for (const [client, written] of writes) {
      if (allSlow || !client.slow) pending.add(client);
      written.then(() => settle(client), () => {
        failed++;
        settle(client);
      });
    }
    left = allSlow ? 1 : pending.size;
  });
}
