// Copyright 2026 the Daystar authors. MIT license.

/**
 * One framed TCP connection, as client and server both have it: reading, writing
 * with messages posted in a row in one write, flow control, and closing.
 */

import { type Address, formatWithWire } from "./_address.ts";
import { ClosedError, CommunicationError, reason } from "./_errors.ts";
import {
  checkMessage,
  concat,
  countWhole,
  type Decoded,
  encodeFrames,
  FrameDecoder,
  PIECE,
} from "./_framing.ts";
import type { Stats } from "./_stats.ts";
import { MAX_TIMER, within, yieldAfterBurst, yielding } from "./_time.ts";
import { isTls } from "./_tls.ts";

/** The default of every `maxSendBufferBytes`. */
export const DEFAULT_MAX_SEND_BUFFER_BYTES = 16_777_216;

/** How long an end waits for a peer that does not close, in ms … */
export const LINGER = 1_000;
/**
 * … for one that takes nothing of what is pending: Linux tells of room only when a
 * third of its buffer is free, so a slow one seems to take nothing for a while
 * ({@link https://github.com/torvalds/linux/blob/v6.12/include/net/sock.h}) …
 */
const STUCK = 5_000;
/** … and for one that takes little by little. */
const MAX_LINGER = 10_000;

/** How long before the time of a silent peer runs out it is looked at first, in ms. */
const GRACE = 100;

/** Bytes to hold untaken and yet read on, so that an end behind them is seen. */
const READ_AHEAD = 4096;

/** What a batch without messages waits for. */
const SENT = Promise.resolve();

/** Where input goes that nobody wants any more; what several ends read there may mix. */
let sink: Uint8Array<ArrayBuffer> | undefined;

/** What a {@linkcode Connection} is made with. */
export interface ConnectionOptions {
  /** The other end. */
  remoteAddress: Address;
  /** What makes wire ports of communication ports, for error messages. */
  portOffset: number | undefined;
  /** The longest message either way, in bytes. */
  maxMessageBytes: number;
  /** After how many milliseconds without a byte from the peer to give it up; 0 = never. */
  idleTimeout: number;
  /** Where to count. */
  stats: Stats;
}

/** A socket with TLS or without. */
export type Conn = Deno.TcpConn | Deno.TlsConn;

/** Messages that leave together: text to encode, or frames that are encoded already. */
interface Batch {
  readonly messages: string[] | Uint8Array<ArrayBuffer>[];
  size: number;
  /** Whether more may join: it is not being written yet. */
  open: boolean;
  written: Promise<void>;
}

/** One framed TCP connection. */
export class Connection {
  /** The other end. */
  readonly remoteAddress: Address;
  /** How many messages are wholly with the kernel, or may be. */
  sent = 0;
  readonly #conn: Conn;
  readonly #decoder: FrameDecoder;
  readonly #portOffset: number | undefined;
  readonly #maxMessageBytes: number;
  readonly #stats: Stats;
  #last: Batch | undefined;
  #unsent = 0;
  #progress = 0;
  #ended = false;
  /** Whether this side ended it first. */
  #left = false;
  #fault: unknown;
  #sendFault: unknown;
  #closed: Promise<void> | undefined;
  #reading = false;
  /** The read that is under way, which whoever reads meanwhile shares. */
  #pending: Promise<boolean> | undefined;
  /** Whether the first bytes are still to come, which tell a peer that speaks TLS. */
  #fresh: boolean;
  readonly #idleTimeout: number;
  #idleTimer: ReturnType<typeof setTimeout> | undefined;
  #active = 0;

  /**
   * @param conn The socket, which belongs to the connection from here on.
   * @param options Address and limits.
   */
  constructor(conn: Conn, options: ConnectionOptions) {
    this.#conn = conn;
    this.remoteAddress = options.remoteAddress;
    this.#portOffset = options.portOffset;
    this.#maxMessageBytes = options.maxMessageBytes;
    this.#decoder = new FrameDecoder(options.maxMessageBytes);
    this.#stats = options.stats;
    this.#fresh = "setNoDelay" in conn;
    this.#idleTimeout = options.idleTimeout;
    if (this.#idleTimeout > 0) this.#watch();
    if ("setNoDelay" in conn) tune(conn);
  }

  /**
   * Gives the peer up when it has been silent for too long, at the second look.
   *
   * @param last Whether this is the second look. As much as the first one comes late
   * the second is put off: what arrived while the script held the event loop up is
   * read after its timers, a part each turn, and what was lost while the machine
   * stood still is sent again.
   */
  #watch(last = false): void {
    const now = performance.now();
    // Neither read nor to be written to: the silence is this side's.
    if (!this.#reading && this.#unsent === 0) this.#active = now;
    const limit = this.#reading
      ? this.#idleTimeout
      : Math.max(this.#idleTimeout, STUCK);
    const left = this.#active + limit - now;
    if (last && left <= 0) {
      return this.destroy(
        new Deno.errors.TimedOut(`nothing came for ${limit} ms`),
      );
    }
    const early = left - Math.min(GRACE, limit / 2);
    const wait = early > 0 ? early : Math.max(left, last ? 0 : -early);
    const timer = setTimeout(
      () => this.#watch(early <= 0),
      // No longer than the shorter limit, as it may hold again by then.
      Math.min(wait, this.#idleTimeout, MAX_TIMER),
    );
    Deno.unrefTimer(timer);
    this.#idleTimer = timer;
  }

  /** Whether messages can be sent: neither side has ended it, nor a fault. */
  get open(): boolean {
    return this.#closed === undefined && !this.#ended &&
      this.#sendFault === undefined;
  }

  /** The other end, in an error message. */
  get peer(): string {
    return formatWithWire(this.remoteAddress, this.#portOffset);
  }

  /** What broke it, if anything did. */
  get fault(): unknown {
    return this.#fault ?? this.#sendFault;
  }

  /** Bytes handed to {@linkcode post} that the kernel has not taken, text counted by its length. */
  get unsent(): number {
    return this.#unsent;
  }

  /** Lets the process end while a read is pending, or not. */
  hold(held: boolean): void {
    if (held) this.#conn.ref();
    else this.#conn.unref();
  }

  /** Whether there is nothing to take, or so little that reading ahead costs nothing. */
  get hungry(): boolean {
    return !this.#decoder.unscanned || this.#decoder.held < READ_AHEAD;
  }

  /** Messages that have arrived whole; throws what {@linkcode FrameDecoder.take} throws. */
  take(): Decoded | undefined {
    const { invalid } = this.#decoder;
    const messages = this.#decoder.take();
    if (messages) this.#count(messages.length, this.#decoder.invalid - invalid);
    return messages;
  }

  #count(messages: number, invalid: number): void {
    this.#stats.messagesIn += messages - invalid;
    this.#stats.invalidMessages += invalid;
  }

  /** Reads once; false at the end. Never rejects: {@linkcode fault} tells what went wrong. */
  read(): Promise<boolean> {
    if (this.#ended || this.#closed) return Promise.resolve(false);
    return this.#pending ??= this.#readOnce();
  }

  async #readOnce(): Promise<boolean> {
    this.#reading = true;
    this.#touch();
    try {
      if (yielding) await yielding;
      const room = this.#decoder.room();
      const count = await this.#conn.read(room);
      // To Tokio the socket is ready until a read finds less than there is room for.
      if (count === room.length) yieldAfterBurst();
      if (count === null) this.#ended = true;
      else this.#arrived(count, room);
    } catch (error) {
      this.#ended = true;
      if (!this.#closed) this.#fault ??= error;
    }
    this.#reading = false;
    this.#pending = undefined;
    this.#touch();
    return !this.#ended && !this.#closed;
  }

  #arrived(count: number, room: Uint8Array): void {
    this.#stats.bytesIn += count;
    if (this.#fresh && isTls(room.subarray(0, count))) {
      return this.destroy(
        new CommunicationError("the peer speaks TLS, and this side does not"),
      );
    }
    this.#fresh = false;
    this.#decoder.fill(count);
  }

  #touch(): void {
    if (this.#idleTimeout > 0) this.#active = performance.now();
  }

  /**
   * Sends a message. Those posted in a row leave in one write, and while a write is
   * under way those to come gather for the next.
   *
   * @returns Settles when the bytes are with the kernel, or will never be.
   * @throws {TypeError | MessageTooLargeError | ClosedError}
   */
  post(message: string): Promise<void> {
    checkMessage(message, this.#maxMessageBytes);
    return this.#post(message);
  }

  /** Sends what {@linkcode encodeFrame} made of a message. */
  postFrame(frame: Uint8Array<ArrayBuffer>): Promise<void> {
    return this.#post(frame);
  }

  #post(message: string | Uint8Array<ArrayBuffer>): Promise<void> {
    if (!this.open) throw this.sendError();
    const size = message.length + 1;
    let batch = this.#last;
    if (!batch?.open || !fits(batch, message)) batch = this.#begin();
    (batch.messages as typeof message[]).push(message);
    batch.size += size;
    this.#unsent += size;
    return batch.written;
  }

  #begin(): Batch {
    const batch: Batch = { messages: [], size: 0, open: true, written: SENT };
    batch.written = this.#write(batch, this.#last?.written);
    this.#last = batch;
    return batch;
  }

  async #write(batch: Batch, before: Promise<void> | undefined): Promise<void> {
    // Without a batch before it, this is where the rest of the turn joins.
    await before;
    batch.open = false;
    let written = 0;
    let tried = 0;
    try {
      for (const piece of toPieces(batch)) {
        for (let rest = piece; rest.length > 0;) {
          tried = written + rest.length;
          const count = await this.#conn.write(rest);
          written += count;
          this.#progress += count;
          this.#stats.bytesOut += count;
          if (!this.#reading) this.#touch();
          if (count === rest.length) break;
          rest = rest.subarray(count);
        }
      }
    } catch (error) {
      // A write with TLS that fails does not tell how much had left before.
      const possible = "setNoDelay" in this.#conn ? written : tried;
      this.sent += countWhole(batch.messages, possible);
      this.#stats.messagesOut += countWhole(batch.messages, written);
      this.#sendFault ??= error;
      this.#last = undefined;
      this.#unsent = 0;
      throw this.sendError();
    }
    this.#unsent -= batch.size;
    this.sent += batch.messages.length;
    this.#stats.messagesOut += batch.messages.length;
    if (this.#last === batch) this.#last = undefined;
  }

  /** Settles when everything posted so far is with the kernel, or will never be. */
  async flushed(): Promise<void> {
    await this.#last?.written.catch(() => {});
  }

  /**
   * Ends the connection in order: sends what was posted, tells the peer, reads and
   * drops what is still coming (closing with unread input makes Linux send RST,
   * which can destroy what the peer has not read yet), until the peer closes too or
   * time is up. Never rejects.
   */
  close(): Promise<void> {
    if (this.#closed === undefined) this.#left = !this.#ended;
    return this.#closed ??= this.#end();
  }

  async #end(): Promise<void> {
    this.#conn.ref();
    if (await this.#flush()) await within(LINGER, this.#part());
    this.#release();
    // A read that ends now may have waited for it: nothing is left running.
    await yielding;
  }

  /** With TLS, ending to send waits for a peer that takes nothing, too. */
  async #part(): Promise<void> {
    try {
      await this.#conn.closeWrite();
      if (this.#ended) return;
      sink ??= new Uint8Array(PIECE);
      while (await this.#conn.read(sink) !== null);
    } catch {
      // The peer, a fault or the time was faster: nothing is left to end in order.
    }
  }

  /** Whether all is with the kernel; gives up on a peer that takes nothing. */
  async #flush(): Promise<boolean> {
    const end = performance.now() + MAX_LINGER;
    while (this.#last !== undefined) {
      const seen = this.#progress;
      await within(STUCK, this.flushed());
      const stuck = this.#last !== undefined && this.#progress === seen;
      if (stuck || performance.now() > end) return false;
    }
    return this.#sendFault === undefined;
  }

  /** Ends the connection at once. What is on the way may be lost. */
  destroy(fault?: unknown): void {
    this.#fault ??= fault;
    this.#closed ??= Promise.resolve();
    this.#release();
  }

  #release(): void {
    clearTimeout(this.#idleTimer);
    try {
      this.#conn.close();
    } catch {
      // It is closed already.
    }
  }

  /** Why nothing can be sent any more. */
  sendError(): ClosedError {
    return this.#closedError("send to", new Uint8Array(0));
  }

  /** Why nothing more can be received, once everything whole is. */
  receiveError(): ClosedError {
    const cut = !this.#left && (this.#ended || this.#fault !== undefined);
    const incomplete = cut ? this.#decoder.incomplete() : new Uint8Array(0);
    return this.#closedError("receive from", incomplete);
  }

  /** What to tell about the end, where it was not an orderly one. */
  endError(): Error | undefined {
    if (this.fault instanceof Error) return this.fault;
    const error = this.receiveError();
    return error.incomplete.length > 0 ? error : undefined;
  }

  #closedError(what: string, incomplete: Uint8Array): ClosedError {
    const cannot = `Cannot ${what} ${this.peer}`;
    const cause = this.#fault ?? this.#sendFault;
    if (cause !== undefined) {
      return new ClosedError(`${cannot}: ${reason(cause)}`, {
        cause,
        incomplete,
      });
    }
    if (this.#left || !this.#ended) {
      return new ClosedError(`${cannot}: the connection is closed`);
    }
    const where = incomplete.length > 0 ? " in the middle of a message" : "";
    return new ClosedError(
      `${cannot}: the peer has closed the connection${where}`,
      {
        incomplete,
      },
    );
  }
}

/** Messages leave when they are sent, and a dead peer is found out some day. */
export function tune(conn: Deno.TcpConn): void {
  try {
    conn.setNoDelay(true);
    conn.setKeepAlive(true);
  } catch {
    // The peer is gone already, and the first read will tell.
  }
}

function fits(batch: Batch, message: string | Uint8Array): boolean {
  return typeof batch.messages[0] === typeof message &&
    batch.size + message.length < PIECE;
}

function toPieces(batch: Batch): Iterable<Uint8Array<ArrayBuffer>> {
  if (areTexts(batch.messages)) return encodeFrames(batch.messages);
  return batch.messages.length === 1
    ? batch.messages
    : [concat(batch.messages)];
}

function areTexts(messages: string[] | Uint8Array[]): messages is string[] {
  return typeof messages[0] === "string";
}
