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
  checkNoHost,
  formatWithWire,
  host,
  offset,
  toAddress,
  wirePort,
} from "./_address.ts";
import { DEFAULT_MAX_SEND_BUFFER_BYTES, tune } from "./_connection.ts";
import {
  ClosedError,
  CommunicationError,
  explain,
  Reports,
  toError,
} from "./_errors.ts";
import { checkMessage, encodeFrame, maxMessageBytes } from "./_framing.ts";
import { allowCidr, allowOption, refusal } from "./_ip.ts";
import {
  callback,
  integer,
  milliseconds,
  notify,
  type OptionsTable,
  readOptions,
  type Settings as SettingsOf,
} from "./_options.ts";
import {
  Clients,
  type Host,
  type MessageCallback,
  type MessageContext,
  type Reply,
  Rounds,
  ServedClient,
} from "./_served_client.ts";
import { newStats, type ServerStats, type Stats } from "./_stats.ts";
import { Deadline, Pause } from "./_time.ts";
import {
  acceptTls,
  type Conn,
  type SecureContext,
  secureContext,
  serverTls,
  type ServerTLSOptions,
} from "./_tls.ts";

export { allowCidr };
export type {
  Address,
  MessageCallback,
  MessageContext,
  Reply,
  ServerStats,
  ServerTLSOptions,
  Stats,
};

/** Pauses after a failure to accept, in ms: the first, and the longest. */
const MIN_PAUSE_MS = 20;
const MAX_PAUSE_MS = 500;

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
   * How many clients may be connected at once, TLS handshakes included. One more is
   * closed at once and told to `onError`. A client that has ended its side and only
   * waits for replies does not count.
   *
   * @default {1024}
   */
  maxClients?: number;
  /**
   * How much memory messages may take that wait for a client, in bytes: each counts
   * with its bytes on the wire and 448 for its overhead. A push that would make it
   * more disconnects the client. One message alone may always wait.
   *
   * @default {16_777_216}
   */
  maxSendBufferBytes?: number;
  /**
   * How long a client may send nothing before it is disconnected, in milliseconds;
   * 0 is for ever. While the server waits for a callback, or for a client that does
   * not read its replies, only a client that takes nothing of what waits for it is
   * silent, and gets at least 5 seconds.
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
  allow?: ((clientAddr: Address) => boolean) | null;
  /**
   * The certificate and key with which to speak TLS, which clients then have to.
   */
  tls?: ServerTLSOptions;
  /** Called when a client has connected, before its first message. */
  onConnect?: ((clientAddr: Address) => void) | null;
  /**
   * Called once when a client is gone, with the error unless it ended in order. A
   * connection that broke is told at once, also while a callback works, unless 4 KiB or
   * more wait: see {@linkcode MessageContext.signal}. A client that has ended its side
   * is gone when it has the replies that are due.
   */
  onDisconnect?: ((clientAddr: Address, error?: Error) => void) | null;
  /**
   * Called with what went wrong: a callback that threw, a message that is not
   * UTF-8, a reply that can't be sent, a connection that can't be accepted. The
   * default writes a line for an error of this module, and the stack for what a
   * callback threw; ten at most in each second, which begins with its first error, and
   * then the number of the rest.
   *
   * @default {console.error}
   */
  onError?: ((error: Error, clientAddr?: Address) => void) | null;
}

const OPTIONS = {
  hostname: host("0.0.0.0"),
  portOffset: offset,
  maxMessageBytes,
  maxClients: integer(1, Number.MAX_SAFE_INTEGER, 1024),
  maxSendBufferBytes: integer(
    1,
    Number.MAX_SAFE_INTEGER,
    DEFAULT_MAX_SEND_BUFFER_BYTES,
  ),
  idleTimeout: milliseconds(0, 0),
  allow: allowOption,
  tls: serverTls,
  onConnect: callback<(clientAddr: Address) => void>(),
  onDisconnect: callback<(clientAddr: Address, error?: Error) => void>(),
  onError: callback<(error: Error, clientAddr?: Address) => void>(),
} satisfies OptionsTable<TCPServerOptions>;

type Settings = SettingsOf<typeof OPTIONS>;

/**
 * Creates a server that listens when this returns.
 *
 * @param port The communication port to listen on, an integer from 70000 to 71000.
 * @param messageCallback Called with each message; what it returns is the reply.
 * Without it messages are read and dropped.
 * @param options Address, limits, and what to call when.
 * @returns The server.
 * @throws {RangeError} If the port or a limit is outside its range.
 * @throws {TypeError} If there is no such option, or it does not take the value.
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
  messageCallback?: MessageCallback | null,
  options?: TCPServerOptions,
): TCPServer {
  checkNoHost(port);
  const handle = readCallback(messageCallback);
  const args = ["port", "messageCallback"];
  const settings = readOptions("createTcpServer", options, OPTIONS, args);
  const wire = wirePort(port, settings.portOffset);
  const address = Object.freeze([settings.hostname, port] as const);
  const where = { hostname: settings.hostname, port: wire };
  let listener: Deno.TcpListener;
  let context: SecureContext | undefined;
  try {
    if (settings.tls) {
      // Node says only in a handshake what is wrong with a certificate or a key.
      Deno.listenTls({
        ...where,
        cert: settings.tls.cert,
        key: settings.tls.key,
      }).close();
      context = secureContext(settings.tls);
    }
    listener = Deno.listen(where);
  } catch (error) {
    throw explain(
      `Cannot listen on ${formatWithWire(address, settings.portOffset)}`,
      error,
    );
  }
  return newServer(listener, context, address, handle, settings);
}

const readMessageCallback = callback<MessageCallback>();

/** Tells options in the place of the callback from what is no function at all. */
function readCallback(value: unknown): MessageCallback | undefined {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    throw new TypeError(
      "Cannot use an object as messageCallback: options are the third argument",
    );
  }
  return readMessageCallback(value, "messageCallback");
}

interface Handshake {
  readonly tcp: Deno.TcpConn;
  readonly done: Promise<void>;
}

let newServer: (
  listener: Deno.TcpListener,
  context: SecureContext | undefined,
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
  readonly #listener: Deno.TcpListener;
  readonly #context: SecureContext | undefined;
  readonly #settings: Settings;
  readonly #host: Host;
  readonly #reports: Reports;
  readonly #clients = new Clients();
  readonly #handshakes = new Map<Deadline, Handshake>();
  readonly #stats: ServerStats = {
    ...newStats(),
    connectionsAccepted: 0,
    connectionsRefused: 0,
    slowClientsDropped: 0,
  };
  readonly #accepting: Promise<void>;
  readonly #pause = new Pause();
  readonly #rounds = new Rounds();
  /** Those that are being dropped. */
  readonly #slow = new Set<ServedClient>();
  #stopped: Promise<void> | undefined;
  #held = true;

  static {
    newServer = (...args) => new TCPServer(...args);
  }

  private constructor(
    listener: Deno.TcpListener,
    context: SecureContext | undefined,
    address: Address,
    callback: MessageCallback | undefined,
    settings: Settings,
  ) {
    this.#listener = listener;
    this.#context = context;
    this.address = address;
    this.#settings = settings;
    this.#reports = new Reports(settings.onError);
    this.#host = {
      stopped: false,
      callback,
      maxSendBufferBytes: settings.maxSendBufferBytes,
      reports: this.#reports,
      leaving: (client) => this.#clients.forget(client),
      gone: (client, error) => this.#gone(client, error),
      closed: (client) => this.#clients.close(client),
    };
    const { promise, resolve } = Promise.withResolvers<void>();
    this.finished = promise;
    this.#finish = resolve;
    this.#accepting = this.#accept();
  }

  // Accepting

  /** Not `for await (… of listener)`: that ends at the first failure. */
  async #accept(): Promise<void> {
    for (let pause = MIN_PAUSE_MS; !this.#stopped;) {
      let tcp: Deno.TcpConn;
      try {
        tcp = await this.#listener.accept();
      } catch (error) {
        if (this.#stopped) return;
        // One that broke off before it was accepted: there is nobody to serve.
        if (isBreak(error)) continue;
        this.#reports.add(
          explain(
            `Cannot accept a connection on ${this.#format(this.address)}`,
            error,
          ),
        );
        await this.#pause.wait(pause);
        pause = Math.min(pause * 2, MAX_PAUSE_MS);
        continue;
      }
      pause = MIN_PAUSE_MS;
      try {
        this.#welcome(tcp);
      } catch (error) {
        tcp.close();
        this.#reports.add(toError(error));
      }
    }
  }

  #welcome(tcp: Deno.TcpConn): void {
    const { portOffset } = this.#settings;
    const address = toAddress(tcp.remoteAddr, portOffset);
    if (this.#stopped) return tcp.close();
    this.#clients.dropGhost(address, toAddress(tcp.localAddr, portOffset));
    const refused = this.#refusal(address);
    // What has just been asked may have stopped the server.
    if (refused || this.#stopped) {
      tcp.close();
      if (refused) this.#refuse(refused, address);
      return;
    }
    tune(tcp);
    if (this.#context) this.#startHandshake(tcp, this.#context, address);
    else this.#admit(tcp, address);
  }

  #refusal(address: Address): Error | undefined {
    const { maxClients, allow } = this.#settings;
    if (this.#clients.count + this.#handshakes.size < maxClients) {
      return refusal(allow, address);
    }
    return new CommunicationError(
      `Cannot serve ${
        this.#format(address)
      }: ${maxClients} clients are connected already`,
    );
  }

  #format(address: Address): string {
    return formatWithWire(address, this.#settings.portOffset);
  }

  #refuse(error: Error, address: Address): void {
    this.#stats.connectionsRefused++;
    this.#reports.add(error, address);
  }

  /** Apart from accepting, so that a handshake that hangs keeps nobody waiting. */
  #startHandshake(
    tcp: Deno.TcpConn,
    context: SecureContext,
    address: Address,
  ): void {
    const limit = this.#settings.tls?.handshakeTimeout ?? Infinity;
    const deadline = new Deadline(limit, "no TLS handshake");
    if (!this.#held) tcp.unref();
    const conn = acceptTls(tcp, context, deadline.signal);
    const done = this.#shakeHands(conn, address, deadline);
    this.#handshakes.set(deadline, { tcp, done });
  }

  async #shakeHands(
    shaking: Promise<Conn>,
    address: Address,
    deadline: Deadline,
  ): Promise<void> {
    try {
      const conn = await shaking;
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
    const client = new ServedClient(conn, {
      ...this.#settings,
      portOffset: this.#settings.portOffset,
      remoteAddress: address,
      stats: this.#stats,
    }, this.#host);
    client.hold(this.#held);
    this.#clients.add(client);
    this.#stats.connectionsAccepted++;
    this.#notify("onConnect", this.#settings.onConnect, address);
    client.start();
  }

  #gone(client: ServedClient, error: Error | undefined): void {
    this.#clients.forget(client);
    const { onDisconnect } = this.#settings;
    this.#notify("onDisconnect", onDisconnect, client.address, error);
  }

  /** Calls a callback of the options; what it throws is reported. */
  #notify<Args extends [Address, Error?]>(
    what: string,
    callback: ((...args: Args) => void) | undefined,
    ...args: Args
  ): void {
    const failed = (error: unknown) =>
      this.#reports.thrown(what, error, args[0]);
    notify(callback, failed, ...args);
  }

  // Sending

  /** Drops a client that reads too slowly; what onDisconnect makes of that waits its turn. */
  #dropSlow(client: ServedClient): void {
    this.#slow.add(client);
    if (this.#slow.size > 1) return;
    for (const client of this.#slow) this.#drop(client);
    this.#slow.clear();
  }

  #drop(client: ServedClient): void {
    if (!client.open) return;
    this.#stats.slowClientsDropped++;
    client.destroy(this.#tooSlow(client));
  }

  #tooSlow({ address }: ServedClient): CommunicationError {
    const { maxSendBufferBytes } = this.#settings;
    return new CommunicationError(
      `Cannot hold more than ${maxSendBufferBytes} bytes for ${
        this.#format(address)
      }: it reads too slowly`,
    );
  }

  #checkRunning(what: string): void {
    if (!this.#stopped) return;
    throw new ClosedError(
      `Cannot ${what}: the server on ${this.#format(this.address)} is stopped`,
    );
  }

  /**
   * Sends a message to one client.
   *
   * @param message The message: any string without U+0003, the empty one too.
   * @param client The address of the client. The very object that callbacks and
   * {@linkcode TCPServer.getConnectedClients} give means its own connection; another
   * one that is equal means the newest connection with that address.
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
  send(message: string, client: Address): Promise<void> {
    try {
      checkAddress(client);
      checkMessage(message, this.#settings.maxMessageBytes);
      this.#checkRunning(`send to ${this.#format(client)}`);
      return this.#send(message, client);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  #send(message: string, address: Address): Promise<void> {
    const client = this.#clients.find(address);
    if (!client) {
      throw new ClosedError(
        `Cannot send to ${this.#format(address)}: no such client is connected`,
      );
    }
    if (client.isFull(message)) {
      this.#dropSlow(client);
      // It waits for its turn to be dropped.
      if (client.open) throw this.#tooSlow(client);
    }
    return client.send(message);
  }

  /**
   * Sends a message to all clients. A slow client does not hold up the others: its
   * messages wait in the server, up to `maxSendBufferBytes`, and one more disconnects
   * it. The call waits up to 100 milliseconds for the clients to take the message,
   * but no more for those that were slow before and have not caught up, unless all
   * are.
   *
   * @param message The message: any string without U+0003, the empty one too.
   * @returns Resolves with the number of clients that the message was written to, or
   * waits for where they are slow. It is no receipt: let the clients answer.
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
  sendToAll(message: string): Promise<number> {
    try {
      checkMessage(message, this.#settings.maxMessageBytes);
      this.#checkRunning("send to all");
    } catch (error) {
      return Promise.reject(error);
    }
    return this.#push(encodeFrame(message));
  }

  #push(frame: Uint8Array<ArrayBuffer>): Promise<number> {
    const full: ServedClient[] = [];
    const clients: ServedClient[] = [];
    for (const client of this.#clients.connected()) {
      if (client.isFull(frame)) full.push(client);
      else clients.push(client);
    }
    const done = this.#rounds.push(clients, frame);
    // Only now, as onDisconnect may push too: all clients see the same order.
    for (const client of full) this.#dropSlow(client);
    return done;
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
   * The clients that are connected. One that has ended its side or broke off is none
   * of them, also while a callback works for it.
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
    return this.#clients.connected().map(({ address }) => address);
  }

  /**
   * Stops the server: releases the port, waits for callbacks that are at work, sends
   * what is pending and closes every client, all within a second unless more time is
   * needed to send. It gives up sending after 5 seconds without progress, or 10
   * seconds in all. Another server can listen on the port one turn of the event loop
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
    this.#host.stopped = true;
    // Or a script with nothing else to do would end before this does.
    this.#listener.ref();
    this.#listener.close();
    this.#pause.cut();
    for (const deadline of this.#handshakes.keys()) deadline.end(undefined);
    // A callback that called this, without waiting, still has its reply to give.
    await null;
    await Promise.all(this.#clients.all().map((client) => client.close()));
    await Promise.all(
      [...this.#handshakes.values()].map(({ done }) => done),
    );
    await this.#accepting;
    this.#reports.end();
    this.#finish();
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
    for (const client of this.#clients.all()) client.hold(held);
    for (const { tcp } of this.#handshakes.values()) {
      if (held) tcp.ref();
      else tcp.unref();
    }
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

/** Whether a connection ended before it was accepted, as accept(2) reports it. */
function isBreak(error: unknown): boolean {
  const { ConnectionAborted, ConnectionReset, NotConnected } = Deno.errors;
  return [ConnectionAborted, ConnectionReset, NotConnected]
    .some((kind) => error instanceof kind);
}
