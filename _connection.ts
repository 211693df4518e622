// Copyright 2026 the Daystar authors. MIT license.

/**
 * One framed TCP connection, as client and server both have it: reading, batched
 * writing, flow control, and closing.
 */

import { type Address, formatWithWire, toAddress } from "./_address.ts";
import { ClosedError, CommunicationError, reason } from "./_errors.ts";
import { checkMessage, FrameDecoder, PIECE_BYTES } from "./_framing.ts";
import { type Batch, Outbox } from "./_outbox.ts";
import type { Stats } from "./_stats.ts";
import { IdleWatch, within, yieldAfterBurst, yielding } from "./_time.ts";
import { type Conn, isTls } from "./_tls.ts";

/** The default of every `maxSendBufferBytes`. */
export const DEFAULT_MAX_SEND_BUFFER_BYTES = 16_777_216;

/** How long closing waits for the peer to close too, in ms. */
export const LINGER_MS = 1_000;
/**
 * How long closing waits for a peer that takes nothing of what is pending, in ms: Linux
 * reports room only when a third of its buffer is free, so a slow peer seems stuck for a
 * while ({@link https://github.com/torvalds/linux/blob/v6.12/include/net/sock.h}).
 */
const STUCK_MS = 5_000;
/** How long closing waits for a peer that takes what is pending little by little, in ms. */
const MAX_FLUSH_MS = 10_000;
/** How often closing looks whether the peer takes anything, in ms. */
const FLUSH_LOOK_MS = 500;
/** How long a write that is under way may take to end once its socket is closed, in ms. */
const SETTLE_MS = 500;
/** Bytes that may be held untaken while reading goes on, so that an end behind them is seen. */
const READ_AHEAD_BYTES = 4096;
/** How long reading ahead is put off after a read of that much, in ms. */
const READ_AHEAD_MS = 10;

const DONE = Promise.resolve();

/** How a connection ended: by this side, by the peer in order, or by a fault. */
export type End =
  | { readonly by: "us" }
  | { readonly by: "peer" }
  | { readonly by: "fault"; readonly cause: unknown };

const US: End = { by: "us" };
const PEER: End = { by: "peer" };

/** Messages, and in the place of each that can't be received its error. */
export type Received = (string | Error)[];

/** What a link reports to its owner; nothing of it after the owner has ended the link. */
export interface LinkEvents {
  /** There may be messages to take. */
  arrived(): void;
  /** Nothing can be sent any more, for `error` if that was not an orderly end. */
  gone(error: Error | undefined): void;
  /** Nothing will arrive any more, besides what can be taken now. */
  over(): void;
}

/** A way to a server: one connection, or one after the other. */
export interface Link {
  /** The address of this side. */
  readonly localAddress: Address;
  /** Whether messages can be sent. */
  readonly open: boolean;
  /** Begins to read. */
  start(): void;
  /** Messages that have arrived, oldest first. */
  take(): Received | undefined;
  /** Sends a message; settles when its bytes are with the kernel, or never will be. */
  send(message: string): Promise<void>;
  /** Keeps the script alive while a read is pending, or not. */
  hold(held: boolean): void;
  /** Ends it because this side wants so, whatever ended it before; never rejects. */
  leave(): Promise<void>;
  /** Closes what is left of it once nothing will arrive any more. */
  close(): Promise<void>;
  /** Why nothing more can be received. */
  receiveError(): ClosedError;
}

/** What a {@linkcode Connection} is made with. */
export interface ConnectionOptions {
  /** The other end. */
  remoteAddress: Address;
  /** What makes wire ports of communication ports, for error messages. */
  portOffset: number;
  /** The longest message either way, in bytes. */
  maxMessageBytes: number;
  /** After how many milliseconds without a byte from the peer to give it up; 0 = never. */
  idleTimeout: number;
  /** Where to count. */
  stats: Stats;
  /** What is to be sent, where that outlives the connection. */
  outbox?: Outbox;
}

/** One framed TCP connection. */
export class Connection implements Link, WriterOwner {
  readonly remoteAddress: Address;
  readonly localAddress: Address;
  /**
   * Whether the peer is expected to send. If not, reading goes on only to see the end of
   * the connection, a few KiB at a time, and the peer's silence is no fault.
   */
  #expecting = true;
  readonly #conn: Conn;
  readonly #events: LinkEvents;
  readonly #portOffset: number;
  readonly #maxMessageBytes: number;
  readonly #stats: Stats;
  /** What sends. */
  readonly writer: Writer;
  readonly #ownsOutbox: boolean;
  readonly #watch: IdleWatch | undefined;
  #decoder: FrameDecoder;
  #end: End | undefined;
  /** Whether more may arrive. */
  #readable = true;
  #reading: Promise<void> | undefined;
  /** The timer of a read ahead that is put off. */
  #later: ReturnType<typeof setTimeout> | undefined;
  /** Whether the last read found much. */
  #flooded = false;
  #closing: Promise<void> | undefined;
  #released = false;
  #settling: Promise<void> | undefined;
  #bytesIn = 0;

  /**
   * @param conn The socket, which belongs to the connection from here on.
   * @param options Address and limits.
   * @param events What to call when.
   */
  constructor(conn: Conn, options: ConnectionOptions, events: LinkEvents) {
    this.#conn = conn;
    this.#events = events;
    this.remoteAddress = options.remoteAddress;
    this.#portOffset = options.portOffset;
    this.localAddress = toAddress(
      conn.localAddr,
      options.portOffset,
    );
    this.#maxMessageBytes = options.maxMessageBytes;
    this.#decoder = new FrameDecoder(options.maxMessageBytes);
    this.#stats = options.stats;
    this.#ownsOutbox = options.outbox === undefined;
    if (options.idleTimeout > 0) {
      this.#watch = new IdleWatch(options.idleTimeout, STUCK_MS, this);
    }
    const { outbox = new Outbox() } = options;
    this.writer = new Writer(conn, outbox, options.stats, this);
  }

  /** Begins to read. */
  start(): void {
    this.#readOn();
  }

  /** Whether messages can be sent: neither side has ended it, nor a fault. */
  get open(): boolean {
    return this.#end === undefined;
  }

  /** Whether a fault has ended it. */
  get broken(): boolean {
    return this.#end?.by === "fault";
  }

  /** Whether more may arrive. */
  get readable(): boolean {
    return this.#readable;
  }

  /** Settles when reading pauses or ends. */
  get reading(): Promise<void> {
    return this.#reading ?? DONE;
  }

  /** How many bytes have arrived. */
  get bytesIn(): number {
    return this.#bytesIn;
  }

  /** What is to be sent. */
  get outbox(): Outbox {
    return this.writer.outbox;
  }

  /** Whether nothing more will arrive, and its owner knows. */
  get over(): boolean {
    return !this.#readable && this.#end !== undefined;
  }

  /** The other end, in an error message. */
  get peer(): string {
    return formatWithWire(this.remoteAddress, this.#portOffset);
  }

  /** For whom this side waits: until when depends on it. */
  get awaits(): "message" | "room" | undefined {
    if (this.#reading && this.#expecting) return "message";
    return this.outbox.count > 0 ? "room" : undefined;
  }

  /** Says whether the peer is expected to send: not while it waits for a reply. */
  expect(expecting: boolean): void {
    this.#expecting = expecting;
    if (!expecting) return;
    this.#watch?.heard();
    this.#readOn();
  }

  hold(held: boolean): void {
    if (held) this.#conn.ref();
    else this.#conn.unref();
  }

  // Reading

  /** Whether there is nothing to take, or so little that reading ahead costs nothing. */
  get #hungry(): boolean {
    return !this.#decoder.unscanned || this.#decoder.held < READ_AHEAD_BYTES;
  }

  take(): Received | undefined {
    const { invalid } = this.#decoder;
    let messages: Received | undefined;
    try {
      messages = this.#decoder.take();
    } catch (error) {
      return this.#giveUp(error as Error);
    }
    if (messages) this.#count(messages.length, this.#decoder.invalid - invalid);
    if (this.#hungry) this.#readOn();
    return messages;
  }

  #count(messages: number, invalid: number): void {
    this.#stats.messagesIn += messages - invalid;
    this.#stats.invalidMessages += invalid;
  }

  /** Nothing can be read behind a message over the limit; what was posted still leaves. */
  #giveUp(error: Error): Received {
    this.#readable = false;
    this.#decoder = new FrameDecoder(this.#maxMessageBytes);
    const end = () => {
      if (!this.#closing) this.#over({ by: "fault", cause: error });
    };
    // Only then, as this error is about to be handed out in the place of the message.
    if (this.writer.isWriting) {
      within(LINGER_MS, this.writer.flushed()).then(end);
    } else queueMicrotask(end);
    return [error];
  }

  /** A read is always pending while there is room: so the end is seen without a receiver. */
  #readOn(): void {
    if (this.#reading || !this.#wantsMore) return;
    if (this.#putsOff) return this.#readLater();
    this.#reading = this.#readLoop();
  }

  get #wantsMore(): boolean {
    return this.#readable && (this.#hungry || this.#closing !== undefined);
  }

  /**
   * Whether to wait before reading ahead: callbacks mostly settle at once, and a peer
   * that sends much would then be read a few KiB at a time.
   */
  get #putsOff(): boolean {
    return this.#flooded && !this.#expecting && this.#closing === undefined;
  }

  #readLater(): void {
    this.#later ??= setTimeout(() => {
      this.#later = undefined;
      this.#flooded = false;
      this.#readOn();
    }, READ_AHEAD_MS);
  }

  #putOffNoMore(): void {
    if (this.#later === undefined) return;
    clearTimeout(this.#later);
    this.#later = undefined;
  }

  /** One async function for all of it: each one that waits takes memory of an idle connection. */
  async #readLoop(): Promise<void> {
    this.#putOffNoMore();
    this.#watch?.heard();
    try {
      while (this.#wantsMore && !this.#putsOff) {
        if (yielding) await yielding;
        if (!this.#readable) break;
        const room = this.#room();
        this.#read(await this.#conn.read(room), room);
        // Who got a message asks for the next one before more is read, or an end.
        await null;
      }
    } catch (error) {
      if (this.#readable) this.#stopReading({ by: "fault", cause: error });
    }
    this.#reading = undefined;
    this.#readOn();
  }

  #read(count: number | null, room: Uint8Array<ArrayBuffer>): void {
    // To Tokio the socket is ready until a read finds less than there is room for.
    if (count === room.length) yieldAfterBurst();
    if (!this.#readable) return;
    if (count === null) this.#stopReading(PEER);
    else if (!this.#closing) this.#arrived(count, room);
  }

  #room(): Uint8Array<ArrayBuffer> {
    if (this.#closing) return discarded ??= new Uint8Array(PIECE_BYTES);
    const room = this.#decoder.room();
    return this.#expecting ? room : room.subarray(0, READ_AHEAD_BYTES);
  }

  #arrived(count: number, room: Uint8Array): void {
    this.#watch?.heard();
    this.#stats.bytesIn += count;
    const isFirst = this.#bytesIn === 0 && !this.#conn.encrypted;
    if (isFirst && isTls(room.subarray(0, count))) {
      const cause = new CommunicationError(
        "the peer speaks TLS, and this side does not",
      );
      return this.#stopReading({ by: "fault", cause });
    }
    this.#bytesIn += count;
    this.#flooded = count >= READ_AHEAD_BYTES;
    this.#decoder.fill(count);
    this.#events.arrived();
  }

  #stopReading(end: End): void {
    if (!this.#readable) return;
    this.#readable = false;
    if (!this.#closing) this.#over(end);
  }

  /** Who waits for a message learns why none comes, also if the owner then leaves. */
  #over(end: End): void {
    const first = this.#ended(end);
    this.#events.over();
    if (first) this.#events.gone(this.endError());
  }

  /** Whether that is the first end; a fault behind the peer's orderly end counts too. */
  #ended(end: End): boolean {
    const first = this.#end === undefined;
    if (first || this.#end === PEER) this.#end = end;
    return first;
  }

  // Writing

  /** Whether the socket still takes bytes: the peer may have ended its side. */
  get #writable(): boolean {
    return this.#closing === undefined &&
      (this.#end === undefined || this.#end.by === "peer");
  }

  /**
   * Sends a message. Those sent in a row leave in one write, and while a write is under
   * way those to come gather for the next.
   *
   * @throws {TypeError | MessageTooLargeError | ClosedError}
   */
  send(message: string): Promise<void> {
    checkMessage(message, this.#maxMessageBytes);
    if (!this.open) throw this.sendError();
    return this.writer.post(message).wait();
  }

  /**
   * Sends a message, also to a peer that has ended its side. Nobody is told when its
   * bytes are with the kernel.
   *
   * @throws {TypeError | MessageTooLargeError | ClosedError}
   */
  reply(message: string): void {
    checkMessage(message, this.#maxMessageBytes);
    if (!this.#writable) throw this.sendError();
    this.writer.post(message);
  }

  /** Sends what {@linkcode encodeFrame} made of a message. */
  push(frame: Uint8Array<ArrayBuffer>): Batch {
    if (!this.open) throw this.sendError();
    return this.writer.post(frame);
  }

  /**
   * Whether everything posted so far is with the kernel in time; gives up on a peer that
   * takes nothing.
   *
   * @param ms How long a peer may take that takes something, in ms.
   */
  async flush(ms: number = MAX_FLUSH_MS): Promise<boolean> {
    return await this.writer.flush(ms) && !this.broken;
  }

  wrote(): void {
    if (this.#watch && this.awaits !== "message") this.#watch.heard();
  }

  writeFailed(error: unknown): void {
    const first = this.#ended({ by: "fault", cause: error });
    if (this.#ownsOutbox) this.writer.end(this.sendError());
    if (first) this.#events.gone(this.endError());
  }

  /** Whether a write under way has left is known only once it has ended. */
  async #endOutbox(): Promise<void> {
    await this.writer.settled();
    this.writer.end(this.sendError());
  }

  // Closing

  /**
   * Ends the connection in order: sends what was posted, tells the peer, reads and
   * drops what is still coming (closing with unread input makes Linux send RST,
   * which can destroy what the peer has not read yet), until the peer closes too or
   * time is up. Never rejects.
   *
   * @param lingerMs How long to wait for the peer, in ms.
   */
  close(lingerMs: number = LINGER_MS): Promise<void> {
    this.#end ??= US;
    return this.#closing ??= this.#close(lingerMs);
  }

  /** The same, whatever ended it before; what had arrived is dropped. */
  leave(): Promise<void> {
    this.#end = US;
    this.#decoder = new FrameDecoder(this.#maxMessageBytes);
    return this.close();
  }

  async #close(lingerMs: number): Promise<void> {
    this.#watch?.stop();
    this.#conn.ref();
    if (await this.flush()) await within(lingerMs, this.#part());
    this.#release();
    // Nothing is left running.
    await this.reading;
    await this.#settling;
  }

  /** With TLS, ending to send waits for a peer that takes nothing, too. */
  async #part(): Promise<void> {
    try {
      await this.#conn.closeWrite();
    } catch {
      return; // The peer, a fault or the time was faster: nothing is left to end in order.
    }
    this.#readOn();
    await this.reading;
  }

  /** Ends the connection at once, because of a fault. What is on the way may be lost. */
  destroy(cause?: unknown): void {
    if (cause !== undefined && this.#end !== US) {
      this.#end = { by: "fault", cause };
    }
    this.#end ??= US;
    this.#closing ??= DONE;
    this.#release();
  }

  #release(): void {
    if (this.#released) return;
    this.#released = true;
    this.#readable = false;
    this.#putOffNoMore();
    this.#watch?.stop();
    try {
      this.#conn.close();
    } catch {
      // It is closed already.
    }
    this.writer.stop();
    if (this.#ownsOutbox) this.#settling = this.#endOutbox();
  }

  /** Gives up a peer that was silent for too long. */
  giveUpSilent(ms: number): void {
    this.#readable = false;
    const cause = new Deno.errors.TimedOut(`nothing came for ${ms} ms`);
    if (!this.#closing) this.#over({ by: "fault", cause });
  }

  // Errors

  /** Why nothing can be sent, or done otherwise for the peer, any more. */
  sendError(what = "send to"): ClosedError {
    return closedError(what, this.peer, this.#end ?? US);
  }

  receiveError(): ClosedError {
    const incomplete = this.#end === US
      ? undefined
      : this.#decoder.incomplete();
    return closedError("receive from", this.peer, this.#end ?? US, incomplete);
  }

  /** What to report about the end, where it was not an orderly one. */
  endError(): Error | undefined {
    if (this.#end?.by === "fault" && this.#end.cause instanceof Error) {
      return this.#end.cause;
    }
    const error = this.receiveError();
    return this.broken || error.incomplete.length > 0 ? error : undefined;
  }
}

/** Shared scratch buffer for input that is discarded while closing. */
let discarded: Uint8Array<ArrayBuffer> | undefined;

/** What to throw once a link has ended. */
export function closedError(
  what: string,
  peer: string,
  end: End,
  incomplete: Uint8Array = new Uint8Array(0),
): ClosedError {
  const cannot = `Cannot ${what} ${peer}`;
  if (end.by === "fault") {
    const { cause } = end;
    return new ClosedError(`${cannot}: ${reason(cause)}`, {
      cause,
      incomplete,
    });
  }
  if (end.by === "us") {
    return new ClosedError(`${cannot}: the connection is closed`);
  }
  const where = incomplete.length > 0 ? " in the middle of a message" : "";
  return new ClosedError(
    `${cannot}: the peer has closed the connection${where}`,
    { incomplete },
  );
}

/** Turns Nagle's algorithm off and keep-alive on. */
export function tune(conn: Deno.TcpConn): void {
  try {
    conn.setNoDelay(true);
    conn.setKeepAlive(true);
  } catch {
    // The peer is gone already, and the first read will show it.
  }
}

/** What a {@linkcode Writer} reports to. */
interface WriterOwner {
  /** The kernel has taken something. */
  wrote(): void;
  /** Nothing can be sent any more. */
  writeFailed(error: unknown): void;
}

/** The writing half of a connection: one write at a time, of all that has gathered. */
class Writer {
  /** What is to be sent. */
  readonly outbox: Outbox;
  readonly #conn: Conn;
  readonly #stats: Stats;
  readonly #owner: WriterOwner;
  #writing: Promise<void> | undefined;
  /** Who waits until what was posted is with the kernel. */
  #flushing: Set<() => void> | undefined;
  #bytesOut = 0;
  /** Whether the socket is closed. */
  #stopped = false;
  /** Whether the outbox is no longer this connection's. */
  #settled = false;

  /**
   * @param conn The socket.
   * @param outbox What is to be sent.
   * @param stats Where to count.
   * @param owner Whom to tell.
   */
  constructor(conn: Conn, outbox: Outbox, stats: Stats, owner: WriterOwner) {
    this.#conn = conn;
    this.outbox = outbox;
    this.#stats = stats;
    this.#owner = owner;
    if (outbox.count > 0) this.pump();
  }

  /** Sends a message that was checked, or its frame; returns the batch that it leaves in. */
  post(item: string | Uint8Array<ArrayBuffer>): Batch {
    this.pump();
    return this.outbox.post(item);
  }

  /** Sends what is in the outbox. */
  pump(): void {
    this.#writing ??= this.#pump();
  }

  async #pump(): Promise<void> {
    // The rest of the turn joins.
    await null;
    try {
      for (let bytes; !this.#stopped && (bytes = this.outbox.next());) {
        const count = await this.#conn.write(bytes);
        if (this.#settled) return;
        this.#wrote(count);
      }
    } catch (error) {
      if (this.#settled) return;
      this.#failed(error);
    }
    this.#writing = undefined;
    this.#endFlushing();
  }

  #wrote(count: number): void {
    this.#bytesOut += count;
    this.#stats.bytesOut += count;
    this.#stats.messagesOut += this.outbox.wrote(count);
    this.#owner.wrote();
  }

  #failed(error: unknown): void {
    // A write with TLS that fails does not tell how much had left before.
    if (this.#conn.encrypted) this.outbox.assumeSent();
    if (!this.#stopped) this.#owner.writeFailed(error);
  }

  /** Settles when everything posted so far is with the kernel, or will never be. */
  flushed(): Promise<void> {
    const { last } = this.outbox;
    if (!this.isWriting || !last) return DONE;
    return new Promise((resolve) => {
      const settled = () => {
        this.#flushing?.delete(resolve);
        resolve();
      };
      (this.#flushing ??= new Set()).add(resolve);
      last.watch({ settled });
    });
  }

  /** Whether something that was posted is still to leave. */
  get isWriting(): boolean {
    return this.#writing !== undefined && !this.#stopped &&
      this.outbox.count > 0;
  }

  /** Nothing more of what was posted will leave by this connection. */
  #endFlushing(): void {
    for (const resolve of this.#flushing ?? []) resolve();
    this.#flushing = undefined;
  }

  /**
   * Whether everything posted so far is with the kernel in so many milliseconds, or never
   * will be. It counts looks, not time: while the script holds the event loop up nothing
   * can leave.
   */
  async flush(ms: number): Promise<boolean> {
    const { last } = this.outbox;
    let stuck = 0;
    for (let look = 0; this.isWriting && !last?.isSettled; look++) {
      if (look >= ms / FLUSH_LOOK_MS || stuck >= STUCK_MS / FLUSH_LOOK_MS) {
        return false;
      }
      const seen = this.#bytesOut;
      await within(FLUSH_LOOK_MS, this.flushed());
      stuck = this.#bytesOut === seen ? stuck + 1 : 0;
    }
    return true;
  }

  /** The socket is closed. */
  stop(): void {
    this.#stopped = true;
    this.#endFlushing();
  }

  /**
   * Settles when the last write has ended after {@linkcode stop}: what was sent is known.
   * Not left to the runtime: before Deno 2.9.5 a write stays pending when its socket closes.
   */
  async settled(): Promise<void> {
    if (this.#writing) await within(SETTLE_MS, this.#writing);
    this.#settled = true;
    // It never ended: with TLS anything may have left.
    if (this.#writing && this.#conn.encrypted) this.outbox.assumeSent();
  }

  /** Nothing more will be sent, for `error`. */
  end(error: Error): void {
    this.#stats.messagesOut += this.outbox.settleSent();
    this.outbox.end(error);
  }
}
