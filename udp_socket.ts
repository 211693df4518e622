// Copyright 2026 the Daystar authors. MIT license.

/**
 * A UDP socket that sends and receives messages, one in a datagram, as Python's
 * `daystar_api.udp_socket` does.
 *
 * Deno has datagrams behind a flag: run with `--unstable-net`, or put
 * `"unstable": ["net"]` into deno.json.
 *
 * ```ts
 * import { createUdpSocket } from "@daystar/comm/udp-socket";
 * import { assertEquals } from "@std/assert";
 *
 * using receiver = createUdpSocket(70951, { hostname: "127.0.0.1" });
 * using sender = createUdpSocket(70950, { hostname: "127.0.0.1" });
 *
 * await sender.send("Hello UDP", ["127.0.0.1", 70951]);
 * assertEquals(await receiver.receive({ timeout: 10_000 }), [
 *   "Hello UDP",
 *   ["127.0.0.1", 70950],
 * ]);
 * ```
 *
 * @module
 */

import {
  type Address,
  checkAddress,
  checkNoHost,
  formatAddress,
  formatWithWire,
  host,
  offset,
  toAddress,
  wirePort,
} from "./_address.ts";
import { ClosedError, explain, InvalidMessageError } from "./_errors.ts";
import { checkText, decodeDatagram, encodeDatagram } from "./_framing.ts";
import { Inbox, type ReceiveOptions } from "./_inbox.ts";
import { type Allow, allowCidr, allowOption, reach, refusal } from "./_ip.ts";
import { boolean, type OptionsTable, readOptions } from "./_options.ts";
import { newStats, type Stats, type UDPStats } from "./_stats.ts";
import { endYield, Hold, Turns, yieldAfterBurst, yielding } from "./_time.ts";

export { allowCidr };
export type { Address, ReceiveOptions, Stats, UDPStats };

/** 65,535 bytes less the headers of IPv4 and UDP ({@link https://www.rfc-editor.org/rfc/rfc768}). */
const MAX_DATAGRAM_BYTES = 65_507;
/** IPv6 does not count its header: a buffer of this size never cuts a datagram off. */
const MAX_RECEIVED_BYTES = 65_535;
/** How many senders outside the communication ports can be answered. */
const MAX_FOREIGN_SENDERS = 10_000;
/** A datagram that comes faster was there already, in ms. */
const READY_MS = 0.02;

/** Options of {@linkcode createUdpSocket}. */
export interface UDPSocketOptions {
  /**
   * The address to listen on: `"0.0.0.0"` is every IPv4 address of the machine.
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
   * Whether several sockets may listen on the port, each of which then gets the
   * broadcasts.
   *
   * @default {false}
   */
  reuseAddress?: boolean;
  /**
   * Asked about the sender of each datagram; only `true` lets it through. Others
   * are dropped and counted. {@linkcode allowCidr} makes one from ranges of
   * addresses.
   *
   * @default {() => true}
   */
  allow?: ((senderAddr: Address) => boolean) | null;
}

const OPTIONS = {
  hostname: host("0.0.0.0"),
  portOffset: offset,
  reuseAddress: boolean(false),
  allow: allowOption,
} satisfies OptionsTable<UDPSocketOptions>;

/**
 * Creates a UDP socket that can send and receive when this returns.
 *
 * @param port The communication port to listen on, an integer from 70000 to 71000.
 * @param options Address and port mapping.
 * @returns The socket.
 * @throws {RangeError} If the port is outside its range.
 * @throws {Deno.errors.NotSupported} If Deno runs without `--unstable-net`.
 * @throws {Deno.errors.AddrInUse} If something listens there already. Other errors
 * of the operating system keep Deno's classes too.
 *
 * @example Answering the sender
 * ```ts
 * import { createUdpSocket } from "@daystar/comm";
 * import { assertEquals } from "@std/assert";
 *
 * using robot = createUdpSocket(70952, { hostname: "127.0.0.1" });
 * using camera = createUdpSocket(70953, { hostname: "127.0.0.1" });
 *
 * await robot.send("trigger", ["127.0.0.1", 70953]);
 * const received = await camera.receive();
 * if (received) {
 *   const [message, sender] = received;
 *   await camera.send(`Reply: ${message}`, sender);
 * }
 * assertEquals(await robot.receive(), ["Reply: trigger", ["127.0.0.1", 70953]]);
 * ```
 */
export function createUdpSocket(
  port: number,
  options?: UDPSocketOptions,
): UDPSocket {
  checkNoHost(port);
  const { hostname, portOffset, reuseAddress, allow } = readOptions(
    "createUdpSocket",
    options,
    OPTIONS,
    ["port"],
  );
  const wire = wirePort(port, portOffset);
  const address = Object.freeze([hostname, port] as const);
  if (typeof Deno.listenDatagram !== "function") {
    throw new Deno.errors.NotSupported(
      `Cannot create a UDP socket: this Deno runs without Deno.listenDatagram, which takes --unstable-net or "unstable": ["net"] in deno.json`,
    );
  }
  try {
    const conn = Deno.listenDatagram({
      transport: "udp",
      hostname,
      port: wire,
      reuseAddress,
    });
    return newSocket(conn, address, portOffset, allow);
  } catch (error) {
    throw explain(
      `Cannot create a UDP socket on ${formatWithWire(address, portOffset)}`,
      error,
    );
  }
}

let newSocket: (
  conn: Deno.DatagramConn,
  address: Address,
  portOffset: number | undefined,
  allow: Allow | undefined,
) => UDPSocket;

/** With the two methods that Deno has and its types do not. */
type DatagramConn = Deno.DatagramConn & { ref?(): void; unref?(): void };

/** A message and who sent it. */
type Received = [message: string, senderAddr: Address];

/**
 * A UDP socket, made by {@linkcode createUdpSocket}.
 *
 * UDP loses, repeats and reorders datagrams: what must arrive takes a reply, or
 * TCP. An open socket does not keep a script alive by itself; waiting for a
 * message does.
 *
 * @example Iterating over what arrives
 * ```ts
 * import { createUdpSocket } from "@daystar/comm";
 * import { assertEquals } from "@std/assert";
 *
 * using receiver = createUdpSocket(70954, { hostname: "127.0.0.1" });
 * using sender = createUdpSocket(70955, { hostname: "127.0.0.1" });
 *
 * await sender.send("done", ["127.0.0.1", 70954]);
 * for await (const [message, senderAddr] of receiver) {
 *   assertEquals(senderAddr, ["127.0.0.1", 70955]);
 *   if (message === "done") break;
 * }
 * ```
 */
export class UDPSocket
  implements
    AsyncIterable<[message: string, senderAddr: Address]>,
    AsyncDisposable,
    Disposable {
  /**
   * Where it listens: the hostname and the communication port.
   *
   * @example Usage
   * ```ts
   * import { createUdpSocket } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * using socket = createUdpSocket(70956, { hostname: "127.0.0.1" });
   * assertEquals(socket.address, ["127.0.0.1", 70956]);
   * ```
   */
  readonly address: Address;
  readonly #conn: DatagramConn;
  readonly #portOffset: number | undefined;
  readonly #allow: Allow | undefined;
  readonly #stats: UDPStats = { ...newStats(), datagramsDropped: 0 };
  readonly #inbox: Inbox<Received>;
  /** Senders that {@linkcode wirePort} has no port for, oldest first. */
  readonly #foreign = new Set<string>();
  #lastFrom: Deno.NetAddr | undefined;
  #lastSender: Address | undefined;
  readonly #buffer = new Uint8Array(MAX_RECEIVED_BYTES);
  #arrived: (Received | Error)[] | undefined;
  #awaited = false;
  readonly #hold = new Hold((held) => {
    if (held) this.#conn.ref?.();
    else this.#conn.unref?.();
  });
  /** The read under way, which keeps the port until it ends. */
  #receiving: Promise<void> | undefined;
  /** The sends: what Deno is given at once may leave in any order. */
  readonly #turns = new Turns();
  #broadcast = false;
  #closed = false;
  #flushed: Promise<void> | undefined;

  static {
    newSocket = (...args) => new UDPSocket(...args);
  }

  private constructor(
    conn: Deno.DatagramConn,
    address: Address,
    portOffset: number | undefined,
    allow: Allow | undefined,
  ) {
    this.#conn = conn;
    this.#allow = allow;
    this.address = address;
    this.#portOffset = portOffset;
    this.#inbox = new Inbox<Received>({
      take: () => {
        const arrived = this.#arrived;
        this.#arrived = undefined;
        return arrived;
      },
      awaited: (waiting) => this.#await(waiting),
    });
  }

  #await(waiting: boolean): void {
    this.#awaited = waiting;
    this.#hold.want(waiting);
    if (waiting) this.#receiving ??= this.#receive();
  }

  /** Reads while somebody waits; until then the kernel keeps what arrives. */
  async #receive(): Promise<void> {
    while (this.#awaited && !this.#closed) {
      try {
        if (yielding) await yielding;
        const asked = performance.now();
        const [bytes, sender] = await this.#conn.receive(this.#buffer);
        if (this.#closed) break;
        if (performance.now() - asked < READY_MS) yieldAfterBurst();
        const received = this.#decode(bytes, sender as Deno.NetAddr);
        if (received === undefined) continue;
        this.#arrived = [received];
      } catch (error) {
        if (this.#closed) break;
        this.#arrived = [
          explain(`Cannot receive on ${this.#format(this.address)}`, error),
        ];
      }
      this.#inbox.deliver();
    }
    this.#receiving = undefined;
  }

  #decode(
    bytes: Uint8Array,
    from: Deno.NetAddr,
  ): Received | Error | undefined {
    const sender = this.#toAddress(from);
    const refused = refusal(this.#allow, sender);
    if (this.#closed) return undefined; // by allow()
    if (refused) {
      this.#stats.datagramsDropped++;
      // A plain no is what was asked for; anything else is a fault of allow().
      return Object.hasOwn(refused, "cause") || refused instanceof TypeError
        ? refused
        : undefined;
    }
    this.#stats.bytesIn += bytes.length;
    if (sender[1] === from.port) this.#remember(sender);
    const message = decodeDatagram(bytes);
    if (typeof message === "string") {
      this.#stats.messagesIn++;
      return [message, sender];
    }
    this.#stats.invalidMessages++;
    return new InvalidMessageError(
      `${message.message}, and came from ${this.#format(sender)}`,
      message.bytes,
      sender,
    );
  }

  /** Usually the sender of the previous datagram: reuse its Address. */
  #toAddress(from: Deno.NetAddr): Address {
    const last = this.#lastFrom;
    if (last?.port !== from.port || last.hostname !== from.hostname) {
      this.#lastFrom = from;
      this.#lastSender = undefined;
    }
    return this.#lastSender ??= toAddress(from, this.#portOffset);
  }

  #format(address: Address): string {
    return formatWithWire(address, this.#portOffset);
  }

  #remember(sender: Address): void {
    const key = formatAddress(sender);
    this.#foreign.delete(key);
    this.#foreign.add(key);
    if (this.#foreign.size <= MAX_FOREIGN_SENDERS) return;
    for (const oldest of this.#foreign) {
      this.#foreign.delete(oldest);
      break;
    }
  }

  /**
   * What was counted so far, as plain numbers.
   *
   * @example Usage
   * ```ts
   * import { createUdpSocket } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * using socket = createUdpSocket(70966, { hostname: "127.0.0.1" });
   * await socket.send("to myself", socket.address);
   * await socket.receive();
   * assertEquals([socket.stats.messagesOut, socket.stats.messagesIn], [1, 1]);
   * ```
   *
   * @returns A copy of the numbers.
   */
  get stats(): UDPStats {
    return { ...this.#stats };
  }

  /**
   * Sends a message in one datagram. Datagrams leave in the order of the calls,
   * awaited or not. Those that wait for their turn take memory without a limit: a
   * script that sends much awaits its sends.
   *
   * @param message The message: any string, up to 65,507 bytes of UTF-8.
   * @param addr The IP address and communication port to send to, or any address
   * that came with a message to this socket (one of the last 10,000 senders, where
   * its port is no communication port). Of host names only `localhost` is taken,
   * since any other could be a broadcast address; after
   * {@linkcode UDPSocket.enableBroadcast} all are. A link-local IPv6 address takes
   * the network card, `"fe80::7%eth1"`, also in an answer: senders come without it,
   * and without it the datagram may leave by another card. A socket whose `hostname`
   * has it (`"fe80::1%eth1"`) sends by that card alone, and needs no more.
   * @returns Resolves when the datagram is with the kernel, which does not tell
   * that anybody gets it.
   * @throws {RangeError} If the port is outside its range.
   * @throws {TypeError} If the message has a lone surrogate, or is not a string, or
   * if it goes to a host name before {@linkcode UDPSocket.enableBroadcast}.
   * @throws {MessageTooLargeError} If the message is over 65,507 bytes.
   * @throws {Deno.errors.PermissionDenied} If it goes to a broadcast address before {@linkcode UDPSocket.enableBroadcast}.
   * @throws {ClosedError} If the socket is closed.
   *
   * @example Usage
   * ```ts
   * import { createUdpSocket } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * using receiver = createUdpSocket(70957, { hostname: "127.0.0.1" });
   * using sender = createUdpSocket(70958, { hostname: "127.0.0.1" });
   * await sender.send("Hello UDP", ["127.0.0.1", 70957]);
   * assertEquals((await receiver.receive())?.[0], "Hello UDP");
   * ```
   */
  async send(message: string, addr: Address): Promise<void> {
    checkAddress(addr);
    const [hostname, port] = addr;
    const to: Address = [hostname, port];
    const wire = this.#isForeign(to) ? port : wirePort(port, this.#portOffset);
    checkText(message, MAX_DATAGRAM_BYTES);
    if (this.#closed) throw this.#closedError("send from");
    if (!this.#broadcast) this.#checkReach(to);
    const turn = this.#turns.take();
    if (turn) await turn;
    try {
      const bytes = encodeDatagram(message);
      await this.#conn.send(bytes, { transport: "udp", hostname, port: wire });
      this.#stats.messagesOut++;
      this.#stats.bytesOut += bytes.length;
    } catch (error) {
      throw explain(`Cannot send to ${this.#format(to)}`, error);
    } finally {
      this.#turns.end();
    }
  }

  /** Whether the address came with a message; the network card did not. */
  #isForeign([ip, port]: Address): boolean {
    return this.#foreign.size > 0 && typeof port === "number" &&
      this.#foreign.has(formatAddress([ip.replace(/%.*/, ""), port]));
  }

  #checkReach(to: Address): void {
    const reached = reach(to[0]);
    if (reached === "one") return;
    const cannot = `Cannot send to ${this.#format(to)}`;
    const missing = "and enableBroadcast() was not called";
    if (reached === "broadcast") {
      throw new Deno.errors.PermissionDenied(
        `${cannot}: it is a broadcast address, ${missing}`,
      );
    }
    throw new TypeError(
      `${cannot}: UDP takes an IP address, as a name may be that of a broadcast address, ${missing}`,
    );
  }

  /**
   * Receives the next message. Several calls at once are served in their order.
   *
   * @param options How long to wait, and a signal to end the wait. Without them it
   * waits for ever.
   * @returns The message and the address of its sender, or `null` when the time ran
   * out. A message that arrives later is returned by the next call.
   * @throws {ClosedError} If the socket is closed.
   * @throws {InvalidMessageError} In the place of a datagram that is not UTF-8; the
   * next call goes on with the next datagram.
   * @throws {RangeError} If the timeout is negative or NaN.
   * @throws {TypeError} If the timeout is not a number, the signal not an `AbortSignal`,
   * or there is no such option.
   *
   * @example Usage
   * ```ts
   * import { createUdpSocket } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * using socket = createUdpSocket(70959, { hostname: "127.0.0.1" });
   * assertEquals(await socket.receive({ timeout: 10 }), null);
   * ```
   */
  receive(
    options?: ReceiveOptions,
  ): Promise<[message: string, senderAddr: Address] | null> {
    return this.#inbox.receive(options);
  }

  /**
   * Allows to send to broadcast addresses. Until then {@linkcode UDPSocket.send}
   * refuses 255.255.255.255, 127.255.255.255 and, where the script has
   * `--allow-sys=networkInterfaces`, the broadcast addresses of the networks that
   * this machine is in, and host names, which may be those of such addresses.
   *
   * @example Usage
   * ```ts
   * import { createUdpSocket } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * using receiver = createUdpSocket(70960);
   * using broadcaster = createUdpSocket(70961);
   * broadcaster.enableBroadcast();
   * await broadcaster.send("Broadcast message", ["127.255.255.255", 70960]);
   * assertEquals((await receiver.receive())?.[0], "Broadcast message");
   * ```
   */
  enableBroadcast(): void {
    this.#broadcast = true;
  }

  /**
   * Closes the socket. Pending {@linkcode UDPSocket.receive} calls reject with
   * {@linkcode ClosedError}, loops over the socket end. What was sent before still
   * leaves. May be called twice.
   *
   * The port is free at once where nothing was received or sent. Otherwise it is
   * free when that has ended: a turn of the event loop later, or when the last
   * datagram has left. `await using` waits for that.
   *
   * @example Usage
   * ```ts
   * import { createUdpSocket } from "@daystar/comm";
   *
   * const socket = createUdpSocket(70962, { hostname: "127.0.0.1" });
   * socket.close();
   * ```
   */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#hold.end();
    const turn = this.#turns.take();
    if (turn) this.#flushed = turn.then(() => this.#conn.close());
    else this.#conn.close();
    endYield(); // or its timer would outlive the socket
    this.#arrived = undefined;
    this.#inbox.clear();
    this.#inbox.end(() => this.#closedError("receive on"));
  }

  #closedError(what: string): ClosedError {
    return new ClosedError(
      `Cannot ${what} ${this.#format(this.address)}: the socket is closed`,
    );
  }

  /**
   * Iterates over the messages and their senders until the socket is closed.
   *
   * @returns The messages. Iterating throws {@linkcode InvalidMessageError} in the
   * place of a datagram that is not UTF-8; another loop goes on with the next one.
   * Leaving the loop leaves the socket open.
   *
   * @example Usage
   * ```ts
   * import { createUdpSocket } from "@daystar/comm";
   *
   * using socket = createUdpSocket(70963, { hostname: "127.0.0.1" });
   * await socket.send("to myself", socket.address);
   * for await (const [message, [ip]] of socket) {
   *   console.log(`${ip}: ${message}`);
   *   socket.close();
   * }
   * ```
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<
    [message: string, senderAddr: Address]
  > {
    return this.#inbox.iterate();
  }

  /**
   * Does what {@linkcode UDPSocket.close} does, for `await using`.
   *
   * @returns Resolves when what was sent has left and the port is free.
   *
   * @example Usage
   * ```ts
   * import { createUdpSocket } from "@daystar/comm";
   *
   * await using _socket = createUdpSocket(70964, { hostname: "127.0.0.1" });
   * ```
   */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.#flushed;
    await this.#receiving;
  }

  /**
   * Does what {@linkcode UDPSocket.close} does, for `using`.
   *
   * @example Usage
   * ```ts
   * import { createUdpSocket } from "@daystar/comm";
   *
   * using _socket = createUdpSocket(70965, { hostname: "127.0.0.1" });
   * ```
   */
  [Symbol.dispose](): void {
    this.close();
  }
}
