// Copyright 2026 the Daystar authors. MIT license.

/**
 * A connection that comes back: dialing, the pauses between attempts, and what waits
 * meanwhile, in both directions.
 */

import { type Address, formatWithWire } from "./_address.ts";
import {
  closedError,
  Connection,
  type ConnectionOptions,
  type End,
  LINGER_MS,
  type Link,
  type LinkEvents,
  type Received,
  tune,
} from "./_connection.ts";
import {
  ClosedError,
  CommunicationError,
  explain,
  reason,
  report,
} from "./_errors.ts";
import { checkMessage } from "./_framing.ts";
import {
  fraction,
  integer,
  milliseconds,
  notify,
  type Option,
  type OptionsTable,
  type Settings,
  switchable,
} from "./_options.ts";
import { MESSAGE_OVERHEAD_BYTES, Outbox } from "./_outbox.ts";
import { Deadline, Pause, within } from "./_time.ts";
import { type ClientTLS, type Conn, startTls } from "./_tls.ts";

/** Below this many unreceived bytes of lost connections, the new connection is read too. */
const READ_ON_BYTES = 4096;
/** At most this many unreceived bytes of lost connections are kept. */
const MAX_KEPT_BYTES = 16_777_216;

/**
 * How to keep trying to connect. With `reconnect`, a connection that ends before it has
 * brought a byte or lasted `maxDelay` counts as a failed attempt, the first connection
 * too. With `retry` alone, an attempt that has connected has succeeded.
 */
export interface RetryOptions {
  /**
   * How often to try in a row.
   *
   * @default {Infinity}
   */
  attempts?: number;
  /**
   * The pause before the first new attempt, in milliseconds. It doubles with each
   * failure in a row; 0 becomes 1.
   *
   * @default {100}
   */
  firstDelay?: number;
  /**
   * The longest pause, in milliseconds.
   *
   * @default {5_000}
   */
  maxDelay?: number;
  /**
   * Which part of every pause is left to chance, from 0 to 1: with 0.5 a pause takes
   * between half of its time and all of it. So a fleet of robots does not come back
   * all at once.
   *
   * @default {0.5}
   */
  jitter?: number;
}

const RETRY = {
  attempts: integer(1, Number.MAX_SAFE_INTEGER, Infinity),
  firstDelay: milliseconds(0, 100),
  maxDelay: milliseconds(0, 5_000),
  jitter: fraction(0, 1, 0.5),
} satisfies OptionsTable<RetryOptions>;

/** How to keep trying, as it was read. */
export type Retry = Settings<typeof RETRY>;

/** The options `retry` and `reconnect`; undefined where nothing is to be tried again. */
export const retry: Option<Retry | undefined> = switchable(RETRY);

/** The pauses between attempts, and how many are left. */
export class Backoff {
  readonly #options: Retry;
  readonly #pause: Pause;
  #failures = 0;

  /**
   * @param options How often to try, and how long to wait.
   * @param pause What waits.
   */
  constructor(options: Retry, pause: Pause = new Pause()) {
    this.#options = options;
    this.#pause = pause;
  }

  /** How long a connection has to last to count as a success, in ms. */
  get maxDelay(): number {
    return this.#options.maxDelay;
  }

  /** Counts an attempt that failed; whether there may be another one. */
  failed(): boolean {
    return ++this.#failures < this.#options.attempts;
  }

  /** Counts from the beginning: an attempt has succeeded. */
  reset(): void {
    this.#failures = 0;
  }

  /** Waits before the next attempt. */
  wait(): Promise<void> {
    const { firstDelay, maxDelay, jitter } = this.#options;
    const doublings = Math.max(0, this.#failures - 1);
    // 0 doubles to 1, or it would knock without a pause for ever.
    const base = doublings > 0 ? Math.max(firstDelay, 0.5) : firstDelay;
    const delay = Math.min(base * 2 ** Math.min(doublings, 52), maxDelay);
    return this.#pause.wait(delay * (1 - jitter * Math.random()));
  }

  /** Whether the script stays alive for a pause. */
  hold(held: boolean): void {
    this.#pause.hold(held);
  }

  /** Ends the pause, and every later one. */
  cut(): void {
    this.#pause.cut();
  }
}

/** Where and how to connect. */
export interface Target {
  address: Address;
  wire: number;
  portOffset: number;
  tls: ClientTLS | undefined;
  connectTimeout: number;
  /** Called with what went wrong when another attempt follows. */
  onRetry: ((error: Error) => void) | undefined;
}

/** Connects, with TLS if so wanted, until time or signal end it. */
export async function dial(
  { address, wire, portOffset, tls, connectTimeout }: Target,
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
  tls: ClientTLS | undefined,
  signal: AbortSignal,
): Promise<Conn> {
  const conn = await Deno.connect({ hostname, port, signal });
  if (signal.aborted) {
    conn.close();
    throw signal.reason;
  }
  tune(conn);
  if (!tls) return conn;
  return startTls(conn, hostname, tls, signal);
}

/** Connects, and tries again until it succeeds, the attempts are used up, or the signal aborts. */
export async function keepDialing(
  target: Target,
  backoff: Backoff,
  signal: AbortSignal | undefined,
): Promise<Conn> {
  const cut = () => backoff.cut();
  signal?.addEventListener("abort", cut, { once: true });
  try {
    for (;;) {
      try {
        return await dial(target, signal);
      } catch (error) {
        if (isHopeless(error) || !backoff.failed()) throw error;
        signal?.throwIfAborted();
        notify(target.onRetry, report, error as Error);
      }
      await backoff.wait();
      signal?.throwIfAborted();
    }
  } finally {
    signal?.removeEventListener("abort", cut);
  }
}

/** What the next attempt would fail with too: a permission, a certificate, an argument. */
function isHopeless(error: unknown): boolean {
  const { InvalidData, NotCapable } = Deno.errors;
  return [InvalidData, NotCapable, TypeError, URIError]
    .some((kind) => error instanceof kind) ||
    // Deno has no class for some of them.
    reason(error).includes("invalid peer certificate");
}

/** What a {@linkcode ReconnectingLink} is made with. */
export interface ReconnectingOptions extends ConnectionOptions, Target {
  reconnect: Retry;
  /** The memory that messages may take which wait for a connection, in bytes. */
  maxSendBufferBytes: number;
  /** Ends the link for good. */
  signal: AbortSignal | undefined;
  /** Called when there is a connection again. */
  onReconnect: (() => void) | undefined;
}

/**
 * One connection after the other. What was not wholly with the kernel when a connection
 * broke is sent by the next one, whole; what had arrived can still be taken.
 */
export class ReconnectingLink implements Link {
  readonly #options: ReconnectingOptions;
  readonly #events: LinkEvents;
  readonly #outbox = new Outbox(true);
  readonly #backoff: Backoff;
  readonly #stopped = new AbortController();
  #connection: Connection;
  #connectedAt = 0;
  #up = true;
  #held = false;
  /** How it ended for good. */
  #end: End | undefined;
  /** What had arrived by connections that are gone. */
  #kept: Received = [];
  #keptBytes = 0;

  /**
   * @param conn The first connection.
   * @param options How to connect again, and limits.
   * @param events What to call when.
   */
  constructor(conn: Conn, options: ReconnectingOptions, events: LinkEvents) {
    this.#options = options;
    this.#events = events;
    this.#backoff = new Backoff(options.reconnect);
    this.#connection = this.#attach(conn);
    options.signal?.addEventListener("abort", this.#abort, { once: true });
  }

  #attach(conn: Conn): Connection {
    const connection: Connection = new Connection(conn, {
      ...this.#options,
      outbox: this.#outbox,
    }, {
      arrived: () => {
        if (connection === this.#connection && this.#up) {
          this.#events.arrived();
        }
      },
      gone: (error) => void this.#lost(connection, error),
      over: () => {},
    });
    this.#connectedAt = performance.now();
    connection.hold(this.#held);
    return connection;
  }

  get localAddress(): Address {
    return this.#connection.localAddress;
  }

  get open(): boolean {
    return this.#up && this.#connection.open;
  }

  start(): void {
    if (this.#keptBytes < READ_ON_BYTES) this.#connection.start();
  }

  hold(held: boolean): void {
    this.#held = held;
    this.#connection.hold(held);
    this.#holdPause();
  }

  /** A pause is held for whoever receives, and for what waits to be sent. */
  #holdPause(): void {
    this.#backoff.hold(this.#held || this.#outbox.count > 0);
  }

  take(): Received | undefined {
    if (this.#kept.length === 0) {
      return this.#up ? this.#connection.take() : undefined;
    }
    const kept = this.#kept;
    this.#kept = [];
    this.#keptBytes = 0;
    if (this.#up) this.#connection.start();
    return kept;
  }

  send(message: string): Promise<void> {
    checkMessage(message, this.#options.maxMessageBytes);
    if (this.#end) throw this.#closedError("send to");
    this.#checkRoom(message);
    if (this.#up) this.#connection.writer.pump();
    else this.#backoff.hold(true);
    return this.#outbox.post(message).wait();
  }

  #checkRoom(message: string): void {
    const { maxSendBufferBytes } = this.#options;
    // What onReconnect sends may never leave, where connections break at once.
    if (this.#outbox.isCrowded(message, maxSendBufferBytes)) {
      throw new CommunicationError(
        `Cannot hold more than ${maxSendBufferBytes} bytes of what onReconnect sends: what it sent before has not left`,
      );
    }
    if (this.#up || !this.#outbox.isFull(message, maxSendBufferBytes)) return;
    throw new CommunicationError(
      `Cannot hold more than ${maxSendBufferBytes} bytes until there is a connection again`,
    );
  }

  /** A connection has ended: another one follows. */
  async #lost(lost: Connection, error: Error | undefined): Promise<void> {
    if (this.#end || !this.#up || lost !== this.#connection) return;
    this.#up = false;
    const comesBack = this.#comeBack(lost, error);
    this.#events.gone(error);
    await comesBack;
  }

  async #comeBack(lost: Connection, error: Error | undefined): Promise<void> {
    const lasted = performance.now() - this.#connectedAt;
    await this.#readOut(lost);
    lost.destroy();
    await lost.writer.settled();
    if (this.#end) return;
    const cause = error ??
      new CommunicationError("the peer has closed the connection");
    this.#options.stats.messagesOut += this.#outbox.broke(() =>
      new ClosedError(
        `Cannot send to ${lost.peer}: the connection broke again and again with this message on its way: ${
          reason(cause)
        }`,
        { cause },
      )
    );
    this.#holdPause();
    try {
      const isProven = lost.bytesIn > 0 || lasted >= this.#backoff.maxDelay;
      if (isProven) this.#backoff.reset();
      else if (!this.#backoff.failed()) throw cause;
      else this.#reportRetry(lost, cause);
      await this.#connectAgain();
    } catch (error) {
      if (!this.#end) this.#finish({ by: "fault", cause: error });
    }
  }

  #reportRetry(lost: Connection, cause: Error): void {
    const error = explain(`Cannot stay connected to ${lost.peer}`, cause);
    notify(this.#options.onRetry, report, error);
  }

  /** What the kernel still has is the script's; a connection that was cut has no more. */
  async #readOut(lost: Connection): Promise<void> {
    for (this.#keep(lost); lost.readable; this.#keep(lost)) {
      if (this.#keptBytes >= MAX_KEPT_BYTES || this.#end) return;
      const seen = lost.bytesIn;
      await within(LINGER_MS, lost.reading);
      if (lost.readable && lost.bytesIn === seen) return;
    }
  }

  /** Takes what has arrived whole. */
  #keep(lost: Connection): void {
    if (this.#end) return;
    for (let items; (items = lost.take());) {
      this.#kept.push(...items);
      for (const item of items) {
        this.#keptBytes += String(item).length + MESSAGE_OVERHEAD_BYTES;
      }
    }
    this.#events.arrived();
  }

  async #connectAgain(): Promise<void> {
    const { signal } = this.#stopped;
    // At once would be too often for a server that accepts and closes.
    await this.#backoff.wait();
    signal.throwIfAborted();
    const conn = await keepDialing(this.#options, this.#backoff, signal);
    if (signal.aborted) return conn.close();
    this.#connection = this.#attach(conn);
    this.#up = true;
    this.start();
    // Who says again who it is says it first.
    this.#outbox.ahead(() => notify(this.#options.onReconnect, report));
  }

  readonly #abort = (): void => {
    const cause: unknown = this.#options.signal?.reason;
    // What had arrived is still the script's.
    if (this.#up) this.#keep(this.#connection);
    this.#connection.destroy(cause);
    this.#finish({ by: "fault", cause });
  };

  /** Ends for good. */
  #finish(end: End): void {
    if (this.#end) return;
    this.#end = end;
    this.#stop();
    this.#endOutbox();
    this.#events.over();
  }

  #stop(): void {
    this.#up = false;
    this.#options.signal?.removeEventListener("abort", this.#abort);
    this.#stopped.abort();
    this.#backoff.cut();
  }

  close(): Promise<void> {
    return this.#connection.close();
  }

  async leave(): Promise<void> {
    const wasUp = this.#up;
    this.#end = { by: "us" };
    this.#kept = [];
    this.#keptBytes = 0;
    this.#stop();
    // What waits to be sent is sent, where there is a connection.
    const closed = this.#connection.leave();
    if (wasUp) await closed;
    await this.#endOutbox();
    await closed;
  }

  /** What is wholly with the kernel is sent, and the rest never will be. */
  async #endOutbox(): Promise<void> {
    await this.#connection.writer.settled();
    this.#options.stats.messagesOut += this.#outbox.settleSent();
    this.#outbox.end(this.#closedError("send to"));
  }

  #closedError(what: string): ClosedError {
    return closedError(what, this.#connection.peer, this.#end ?? { by: "us" });
  }

  receiveError(): ClosedError {
    return this.#closedError("receive from");
  }
}
