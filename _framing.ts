// Copyright 2026 the Daystar authors. MIT license.

/**
 * Bytes to messages and back: each message is UTF-8, ended by one byte 0x03.
 *
 * The sockets read through {@linkcode FrameDecoder}, not through the
 * {@linkcode FrameDecoderStream} over it: an idle connection then costs 10 KB
 * instead of 109, and receiving is at least twice as fast.
 *
 * V8 makes a slice of a longer string hold on to all of it. So text is decoded in
 * windows: a kept message pins at most 8 KiB besides itself. Bytes are searched as
 * text, which is up to twenty times as fast as in a Uint8Array.
 */

import {
  integer,
  type Option,
  type OptionsTable,
  readOptions,
  show,
} from "./_options.ts";
import {
  ClosedError,
  InvalidMessageError,
  MessageTooLargeError,
} from "./_errors.ts";

const TERMINATOR = 0x03;
const TERMINATOR_TEXT = "\x03";
const TERMINATOR_BYTES = 1;

/** Most bytes decoded at once: ASCII takes a byte of memory for each … */
const WINDOW_BYTES = 8192;
/** … and other text may take two. */
const NARROW_WINDOW_BYTES = 4096;
/** Fewer bytes than this are searched faster than they are decoded. */
const FEW_BYTES = 512;
/** No position: there is no terminator … */
const NONE = -1;
/** … or decoding tells sooner whether there is one. */
const UNKNOWN = -2;
/** Where two terminators are within so many units, messages are very short. */
const DENSE_UNITS = 32;
/** The most messages that are not UTF-8 to give at once: their errors take much more memory. */
const MAX_INVALID = 64;
/** Room to read into: at first, and at the most. */
const MIN_ROOM_BYTES = 1024;
const MAX_ROOM_BYTES = 65536;
/** Reads in a row that leave three quarters of the room empty before it is halved. */
const SMALL_READS = 8;
/** The most bytes of text encoded for one write. */
export const PIECE_BYTES = 65_536;
/** A frame from this size on has a write of its own: copying it would cost more. */
const OWN_WRITE_BYTES = 4096;
/** The most bytes that a UTF-16 unit takes. */
export const MAX_UNIT_BYTES = 3;
/** V8's longest string is 2^29 - 24 units; no UTF-8 text has more units than bytes. */
const MAX_TEXT_BYTES = 2 ** 29 - 24;

/** The default of every `maxMessageBytes`. */
export const DEFAULT_MAX_MESSAGE_BYTES = 1_048_576;

/** Without `fatal` decoding is five times faster; U+FFFD tells where to look closer. */
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
const encoder = new TextEncoder();
type Bytes = Uint8Array<ArrayBuffer>;
const NOTHING: Bytes = new Uint8Array(0);

/** The option `maxMessageBytes`. */
export const maxMessageBytes: Option<number> = integer(
  1,
  MAX_TEXT_BYTES,
  DEFAULT_MAX_MESSAGE_BYTES,
);

/** Messages in the order they arrived, and in the place of each that is not UTF-8 its error. */
export type Decoded = (string | InvalidMessageError)[];

/**
 * Turns bytes into messages. Bytes are read straight into {@linkcode FrameDecoder.room}
 * and taken out as messages, a window at a time. Each byte is searched once and, but
 * for the beginning of a message at the end of a window, decoded once.
 */
export class FrameDecoder {
  readonly #limit: number;
  #buffer = new Uint8Array(MIN_ROOM_BYTES);
  /** Bytes held in the buffer are those from #start to #end … */
  #start = 0;
  #end = 0;
  /** … and up to here they have no terminator. */
  #scanned = 0;
  #window = WINDOW_BYTES;
  #wanted = MIN_ROOM_BYTES;
  #smallReads = 0;
  /** The beginning of a message whose terminator is still to come: its length, its text … */
  #asideBytes = 0;
  #asideText = "";
  /** … and its bytes, if they may be no UTF-8: the text is then U+FFFD alone. */
  #asideParts: Uint8Array[] | undefined;
  /** How many messages were not UTF-8. */
  invalid = 0;

  /** @param maxMessageBytes The longest message to accept, in bytes. */
  constructor(maxMessageBytes: number) {
    this.#limit = maxMessageBytes;
  }

  /** Where to read to next: at least one byte, valid until the next call. */
  room(): Bytes {
    const { held } = this;
    let size = this.#wanted;
    while (size < held * 2) size *= 2;
    if (this.#buffer.length !== size) {
      const buffer = new Uint8Array(size);
      buffer.set(this.#buffer.subarray(this.#start, this.#end));
      this.#buffer = buffer;
    } else if (this.#start > 0 && held > 0) {
      this.#buffer.copyWithin(0, this.#start, this.#end);
    }
    this.#scanned -= this.#start;
    this.#start = 0;
    this.#end = held;
    return held > 0 ? this.#buffer.subarray(held) : this.#buffer;
  }

  /** Tells that `count` bytes were read into the room. */
  fill(count: number): void {
    this.#end += count;
    if (this.#end === this.#buffer.length) {
      this.#wanted = Math.min(this.#wanted * 2, MAX_ROOM_BYTES);
      this.#smallReads = 0;
    } else if (count > this.#wanted / 4) {
      this.#smallReads = 0;
    } else if (++this.#smallReads === SMALL_READS) {
      this.#wanted = Math.max(this.#wanted / 2, MIN_ROOM_BYTES);
      this.#smallReads = 0;
    }
  }

  /** How many bytes wait to be taken, or for their terminator. */
  get held(): number {
    return this.#end - this.#start;
  }

  /** Whether a look for a whole message can find one: false once all is scanned. */
  get unscanned(): boolean {
    return this.#end > this.#scanned;
  }

  /**
   * The next messages, or undefined until there are more bytes.
   *
   * @throws {MessageTooLargeError} If the next message is over the limit. What
   * came before it has been returned; nothing after it can be.
   */
  take(): Decoded | undefined {
    while (this.unscanned) {
      const messages = this.#takeWindow();
      if (messages) return messages;
    }
    return undefined;
  }

  /** Decodes the next window at once; its messages, if it has any. */
  #takeWindow(): Decoded | undefined {
    const start = this.#start;
    const from = this.#scanned;
    // A message within the limit ends within so many bytes.
    const most = this.#limit - this.#asideBytes + TERMINATOR_BYTES;
    const size = Math.min(this.#window, most);
    const to = this.#scanned = Math.min(start + size, this.#end);
    const last = this.#lastTerminator(from, to, to - start === size);
    if (last === NONE) return undefined;
    const end = last === UNKNOWN ? characterEnd(this.#buffer, start, to) : last;
    const text = decodeShort(this.#buffer, start, end) ??
      decoder.decode(this.#buffer.subarray(start, end));
    if (last !== UNKNOWN || text.includes(TERMINATOR_TEXT)) {
      return this.#takeText(text, last, from, end);
    }
    if (to - start === most) this.#refuse();
    this.#setAside(text, end);
    return undefined;
  }

  /** Where the window's last terminator begins, NONE or UNKNOWN. */
  #lastTerminator(from: number, to: number, isFull: boolean): number {
    // Most often the bytes end with one.
    if (this.#buffer[to - 1] === TERMINATOR) return to - 1;
    if (isFull || to - from > FEW_BYTES) return UNKNOWN;
    const last = this.#buffer.subarray(from, to).lastIndexOf(TERMINATOR);
    return last < 0 ? NONE : from + last;
  }

  /** The messages of a window's text; undefined where a narrower window is due. */
  #takeText(
    text: string,
    last: number,
    from: number,
    end: number,
  ): Decoded | undefined {
    const start = this.#start;
    const isAscii = isByteForByte(text, end - start);
    if (!this.#fits(text, end - start, isAscii)) return;
    const messages = split(text, isAscii);
    if (last === UNKNOWN) {
      const rest = messages.pop() ?? "";
      if (isAscii) last = end - rest.length - TERMINATOR_BYTES;
      // The one terminator is nearer to the beginning.
      else if (messages.length === 1 && rest.length * 2 > text.length) {
        last = this.#buffer.indexOf(TERMINATOR, from);
      } else last = this.#buffer.lastIndexOf(TERMINATOR, end - 1);
    }
    this.#start = last + TERMINATOR_BYTES;
    if (this.#asideBytes > 0) return this.#join(messages, text, start);
    if (!isAscii && text.includes("\uFFFD")) this.#recheck(messages, start);
    return messages;
  }

  /** Whether a window's text pins no more than it may; if not, the next window is narrower. */
  #fits(text: string, bytes: number, isAscii: boolean): boolean {
    const isNarrow = !isAscii && text.length * 2 > bytes;
    this.#window = isNarrow ? NARROW_WINDOW_BYTES : WINDOW_BYTES;
    if (!isNarrow || text.length <= NARROW_WINDOW_BYTES) return true;
    this.#scanned = this.#start;
    return false;
  }

  /** Keeps a window without a terminator, so that it is not decoded again. */
  #setAside(text: string, end: number): void {
    const bytes = this.#buffer.subarray(this.#start, end);
    if (!this.#asideParts && text.includes("\uFFFD")) {
      this.#asideParts = [encoder.encode(this.#asideText)];
      this.#asideText = "\uFFFD";
    }
    if (this.#asideParts) this.#asideParts.push(bytes.slice());
    else this.#asideText += text;
    this.#asideBytes += bytes.length;
    this.#start = end;
  }

  /** Puts what was set aside before the first message. */
  #join(messages: Decoded, text: string, start: number): Decoded {
    messages[0] = this.#asideText + messages[0];
    if (this.#asideParts || text.includes("\uFFFD")) {
      this.#recheck(messages, start);
    }
    this.#asideBytes = 0;
    this.#asideText = "";
    this.#asideParts = undefined;
    return messages;
  }

  /** Looks closer at U+FFFD: it was sent, or put in the place of bytes that are not UTF-8. */
  #recheck(messages: Decoded, start: number): void {
    let left = MAX_INVALID;
    for (const [i, message] of messages.entries()) {
      const begin = start;
      const end = this.#buffer.indexOf(TERMINATOR, begin);
      start = end + TERMINATOR_BYTES;
      if (!(message as string).includes("\uFFFD")) continue;
      const bytes = this.#buffer.subarray(begin, end);
      const exact = strictly(i === 0 ? this.#withAside(bytes) : bytes);
      messages[i] = exact;
      if (typeof exact === "string") continue;
      this.invalid++;
      if (--left > 0) continue;
      messages.length = i + 1;
      this.#start = this.#scanned = start;
      return;
    }
  }

  /** The bytes that were set aside, and these. */
  #withAside(bytes: Uint8Array): Uint8Array {
    if (this.#asideBytes === 0) return bytes;
    const parts = this.#asideParts ?? [encoder.encode(this.#asideText)];
    return concat([...parts, bytes]);
  }

  #refuse(): never {
    // Another take() finds the same.
    this.#scanned = this.#start;
    const held = this.#buffer.subarray(this.#start, this.#end);
    const end = held.indexOf(TERMINATOR);
    const size = this.#asideBytes + (end < 0 ? held.length : end);
    throw new MessageTooLargeError(
      `Cannot receive a message of ${size} bytes or more: the limit is ${this.#limit} bytes`,
      this.#limit,
      size,
    );
  }

  /** A copy of the bytes behind the last terminator that is held, whether or not what is before it was taken. */
  incomplete(): Uint8Array {
    const held = this.#buffer.subarray(this.#start, this.#end);
    const last = held.lastIndexOf(TERMINATOR);
    if (last >= 0) return held.slice(last + TERMINATOR_BYTES);
    return this.#withAside(held).slice();
  }
}

/**
 * Short ASCII without a call into the runtime, which takes longer than the message
 * where one comes now and then: request and reply, and a heartbeat.
 */
const SHORT_BYTES = 128;

function decodeShort(
  bytes: Uint8Array,
  start: number,
  end: number,
): string | undefined {
  if (end - start > SHORT_BYTES) return undefined;
  const units = new Array<number>(end - start);
  let bits = 0;
  for (let i = start; i < end; i++) bits |= units[i - start] = bytes[i] ?? 0;
  return bits < 0x80 ? String.fromCharCode(...units) : undefined;
}

/**
 * The messages in a text. Beyond Latin-1 String.split takes up to ten times as long as
 * the loop, unless messages are very short.
 */
function split(text: string, isAscii: boolean): string[] {
  const first = text.indexOf(TERMINATOR_TEXT);
  if (first < 0) return [text];
  const second = text.indexOf(
    TERMINATOR_TEXT,
    first + TERMINATOR_TEXT.length,
  );
  if (isAscii || (second >= 0 && second < DENSE_UNITS)) {
    return text.split(TERMINATOR_TEXT);
  }
  const parts: string[] = [];
  let start = 0;
  for (let end; (end = text.indexOf(TERMINATOR_TEXT, start)) >= 0;) {
    parts.push(text.slice(start, end));
    start = end + TERMINATOR_TEXT.length;
  }
  parts.push(text.slice(start));
  return parts;
}

/** Whether each byte became a character of one byte: positions in both are the same. */
function isByteForByte(text: string, bytes: number): boolean {
  return text.length === bytes && !text.includes("\uFFFD");
}

/** Where the last whole character before `end` ends; `end` itself where that can't be told. */
function characterEnd(bytes: Uint8Array, start: number, end: number): number {
  for (let i = end - 1; i >= Math.max(start, end - 4); i--) {
    const byte = bytes[i] ?? 0;
    if (byte < 0x80) return end;
    if (byte >= 0xc0) {
      const length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
      return i + length > end ? i : end;
    }
  }
  return end;
}

/** What a message is when its text has U+FFFD: that, or not UTF-8. */
function strictly(bytes: Uint8Array): string | InvalidMessageError {
  const text = decoder.decode(bytes);
  // Only U+FFFD that was sent makes the same bytes again. A strict decoder would throw,
  // which takes ten times as long.
  if (isSame(encoder.encode(text), bytes)) return text;
  return new InvalidMessageError(
    `Cannot decode a message of ${bytes.length} bytes: it is not UTF-8`,
    bytes.slice(),
  );
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** The message that a datagram is. */
export function decodeDatagram(
  bytes: Uint8Array,
): string | InvalidMessageError {
  const text = decodeShort(bytes, 0, bytes.length) ?? decoder.decode(bytes);
  return text.includes("\uFFFD") ? strictly(bytes) : text;
}

/** Joins bytes into a buffer of their own. */
export function concat(parts: readonly Uint8Array[]): Bytes {
  let size = 0;
  for (const part of parts) size += part.length;
  const whole = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** Throws unless `message` can be one: a string that UTF-8 has bytes for, within the limit. */
export function checkText(message: string, limit: number): void {
  if (typeof message !== "string") {
    throw new TypeError(`Cannot send ${show(message)}: a message is a string`);
  }
  if (!message.isWellFormed()) {
    throw new TypeError(
      "Cannot send a message with a lone surrogate: UTF-8 has no bytes for it",
    );
  }
  if (message.length * MAX_UNIT_BYTES <= limit) return;
  const size = byteLength(message);
  if (size <= limit) return;
  throw new MessageTooLargeError(
    `Cannot send a message of ${size} bytes: the limit is ${limit} bytes`,
    limit,
    size,
  );
}

/** Throws unless `message` can be framed. */
export function checkMessage(message: string, limit: number): void {
  checkText(message, limit);
  if (message.includes(TERMINATOR_TEXT)) {
    throw new TypeError(
      "Cannot send a message with U+0003: it ends a message on the wire",
    );
  }
}

/** How many bytes the frame of a message takes. */
export function frameLength(message: string): number {
  return byteLength(message) + 1;
}

/** Counts in pieces: a buffer for a long message takes longer than its encoding. */
function byteLength(message: string): number {
  const scratch = borrow(
    Math.min(message.length * MAX_UNIT_BYTES, PIECE_BYTES),
  );
  let size = 0;
  for (let at = 0; at < message.length;) {
    const { read, written } = encoder.encodeInto(message.slice(at), scratch);
    size += written;
    at += read;
  }
  giveBack(scratch);
  return size;
}

/**
 * Buffers to encode into, by size: making one takes as long as filling it. One that is
 * lent is at most a quarter larger than what was asked for, so a write that is stuck pins
 * little.
 */
const lendable = new Map<number, Bytes[]>();
const MIN_LENT_BYTES = 1024;
/** How many bytes of buffers are kept. */
const MAX_KEPT_BYTES = 1_048_576;
let keptBytes = 0;

/** Lends a buffer for so many bytes, up to a piece, and one more. */
function borrow(bytes: number): Bytes {
  const most = Math.max(bytes, MIN_LENT_BYTES) - 1;
  const shift = 29 - Math.clz32(most);
  const size = ((most >> shift) + 1 << shift) + 1;
  const buffer = lendable.get(size)?.pop();
  if (!buffer) return new Uint8Array(size);
  keptBytes -= size;
  return buffer;
}

function giveBack(buffer: Bytes): void {
  const { length } = buffer;
  if (keptBytes + length > MAX_KEPT_BYTES) return;
  keptBytes += length;
  const kept = lendable.get(length);
  if (kept) kept.push(buffer);
  else lendable.set(length, [buffer]);
}

/** A message as a frame in a buffer that is lent; undefined if it does not fit into a piece. */
function encodeLent(text: string): LentFrame | undefined {
  let buffer = borrow(Math.min(text.length, PIECE_BYTES));
  let written = encodeAscii(text, buffer);
  if (written < 0) written = encodeWhole(text, buffer);
  if (written < 0 && text.length * MAX_UNIT_BYTES <= PIECE_BYTES) {
    giveBack(buffer);
    buffer = borrow(text.length * MAX_UNIT_BYTES);
    written = encodeWhole(text, buffer);
  }
  buffer[written] = TERMINATOR;
  if (written >= 0) return { buffer, size: written + TERMINATOR_BYTES };
  giveBack(buffer);
  return undefined;
}

interface LentFrame {
  buffer: Bytes;
  size: number;
}

/** How many bytes a text takes, or NONE if it does not fit. */
function encodeWhole(text: string, buffer: Bytes): number {
  const { read, written } = encoder.encodeInto(text, withoutLast(buffer));
  return read === text.length ? written : NONE;
}

/** Keeps the last byte free, for a terminator. */
function withoutLast(buffer: Uint8Array): Uint8Array {
  return buffer.subarray(0, -1);
}

/** Writes short ASCII, as {@linkcode decodeShort} reads it; NONE if it is not. */
function encodeAscii(text: string, buffer: Bytes): number {
  if (text.length > SHORT_BYTES) return NONE;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    if (unit >= 0x80) return NONE;
    buffer[i] = unit;
  }
  return text.length;
}

/** One frame in one piece of its own, to be written to several connections. */
export function encodeFrame(message: string): Bytes {
  const lent = encodeLent(message);
  if (lent) return takeCopy(lent.buffer, lent.size);
  const frame = new Uint8Array(frameLength(message));
  encoder.encodeInto(message, frame);
  frame[frame.length - 1] = TERMINATOR;
  return frame;
}

/** The bytes of a message that {@linkcode checkText} let through, in a datagram. */
export function encodeDatagram(message: string): Bytes {
  const lent = encodeLent(message);
  if (!lent) return encoder.encode(message);
  return takeCopy(lent.buffer, lent.size - TERMINATOR_BYTES);
}

function takeCopy(lent: Bytes, size: number): Bytes {
  const copy = lent.slice(0, size);
  giveBack(lent);
  return copy;
}

/** How much waits: messages, the bytes of their frames, and how many of those are estimates. */
export interface Amount {
  count: number;
  /** What is not encoded counts a byte for each UTF-16 unit … */
  bytes: number;
  /** … which are so many. */
  units: number;
}

/** Nothing. */
export function newAmount(): Amount {
  return { count: 0, bytes: 0, units: 0 };
}

/**
 * The frames that leave in one write: of messages in a row, or of one long message.
 * They are encoded together, at the latest when they are written.
 */
export class FrameEncoder {
  /** The frames that are encoded, with or without room behind them … */
  #buffer: Bytes = NOTHING;
  #used = 0;
  /** … and behind them messages that are not, and frames that other encoders may have too. */
  #parts: (string | Bytes)[] = [];
  #hasFrames = false;
  #ownWrite = false;
  readonly #total: Amount;
  /** How many messages there are. */
  count = 0;
  /** How many bytes their frames take: what is not encoded counts a byte for each unit … */
  size = 0;
  /** … of which there are so many. */
  #units = 0;
  /** What of the frames is to be written next … */
  #piece: Bytes = NOTHING;
  /** … the buffer that it is in, where that is lent … */
  #lent: Bytes | undefined;
  /** … and how many units of a long message are in it, or before it. */
  #at = 0;
  #prepared = false;
  /** How many bytes the kernel has taken. */
  sent = 0;

  /** @param total What this encoder adds its own amount to. */
  constructor(total: Amount = newAmount()) {
    this.#total = total;
  }

  /** Adds to the amounts, or takes from them. */
  #add(count: number, bytes: number, units: number): void {
    this.count += count;
    this.size += bytes;
    this.#units += units;
    this.#total.count += count;
    this.#total.bytes += bytes;
    this.#total.units += units;
  }

  /** Whether another message may leave in the same write. */
  fits(message: string | Bytes): boolean {
    if (this.count === 0) return true;
    if (typeof message !== "string" && message.length >= OWN_WRITE_BYTES) {
      return false;
    }
    return !this.#ownWrite && this.size + message.length < PIECE_BYTES;
  }

  /** Takes in a message that was checked, or what {@linkcode encodeFrame} made of one. */
  add(message: string | Bytes): void {
    // One that is alone mostly stays so, and an array that grows makes room for many.
    if (this.#parts.length === 0) this.#parts = [message];
    else this.#parts.push(message);
    const { length } = message;
    if (typeof message === "string") {
      return this.#add(1, length + TERMINATOR_BYTES, length);
    }
    this.#hasFrames = true;
    this.#ownWrite = length >= OWN_WRITE_BYTES;
    this.#add(1, length, 0);
  }

  /**
   * Encodes what is going to wait, or to be written in pieces; whether there was any. Bytes
   * take less room than texts, and a text that is part of another one keeps all of that in
   * memory.
   */
  pack(): boolean {
    if (this.#parts.length === 0) return false;
    const parts = this.#hasFrames ? this.#parts : [this.#text()];
    this.#parts = [];
    this.#hasFrames = false;
    for (const part of parts) {
      const lent = typeof part === "string" ? encodeLent(part) : undefined;
      if (lent) {
        this.#append(lent.buffer.subarray(0, lent.size));
        giveBack(lent.buffer);
      } else {
        const frame = typeof part === "string" ? encodeFrame(part) : part;
        // A frame alone is not copied: other encoders may wait with it too.
        if (this.#used > 0 || parts.length > 1) this.#append(frame);
        else this.#hold(frame, frame.length);
      }
    }
    this.#count();
    return true;
  }

  /** The messages that are not encoded, as one text. */
  #text(): string {
    const first = this.#parts[0];
    const isOne = this.#parts.length === 1 && typeof first === "string";
    return isOne ? first : this.#parts.join(TERMINATOR_TEXT);
  }

  #append(bytes: Bytes): void {
    const size = this.#used + bytes.length;
    if (size > this.#buffer.length) {
      const spare = Math.min(this.#used, MAX_SPARE_BYTES);
      const buffer = new Uint8Array(Math.max(size, this.#used + spare));
      buffer.set(this.#buffer.subarray(0, this.#used));
      this.#buffer = buffer;
    }
    this.#buffer.set(bytes, this.#used);
    this.#used = size;
  }

  #hold(buffer: Bytes, used: number): void {
    this.#buffer = buffer;
    this.#used = used;
  }

  /** All is encoded: its bytes are known. */
  #count(): void {
    this.#add(0, this.#used - this.size, -this.#units);
  }

  /** Whether it is being written in pieces, each of which is encoded when it is due. */
  get isLong(): boolean {
    return this.#prepared && this.#parts.length > 0;
  }

  /** What to write next, at most a piece; valid until {@linkcode wrote} is told of all of it. */
  next(): Bytes {
    if (this.count === 0) return NOTHING;
    if (!this.#prepared) this.#prepare();
    if (this.#piece.length === 0) this.#piece = this.#nextPiece();
    return this.#piece;
  }

  /** Encodes it into one buffer; but a text that is longer than a piece is encoded in pieces. */
  #prepare(): void {
    this.#prepared = true;
    if (this.#used > 0 || this.#hasFrames) return void this.pack();
    const text = this.#text();
    const isShort = text.length * MAX_UNIT_BYTES <= PIECE_BYTES;
    const lent = isShort ? encodeLent(text) : undefined;
    this.#parts = lent ? [] : [text];
    if (!lent) return;
    this.#lent = lent.buffer;
    this.#hold(lent.buffer, lent.size);
    this.#count();
  }

  #nextPiece(): Bytes {
    const [text] = this.#parts;
    if (typeof text === "string") return this.#encodePiece(text);
    const end = Math.min(this.sent + PIECE_BYTES, this.#used);
    return this.#buffer.subarray(this.sent, end);
  }

  #encodePiece(text: string): Bytes {
    const size = Math.min(text.length, PIECE_BYTES);
    const buffer = this.#lent ??= borrow(size);
    const left = text.slice(this.#at);
    const { read, written } = encoder.encodeInto(left, withoutLast(buffer));
    this.#at += read;
    if (read < left.length) return buffer.subarray(0, written);
    buffer[written] = TERMINATOR;
    const last = buffer.subarray(0, written + TERMINATOR_BYTES);
    this.#add(0, this.sent + last.length - this.size, -this.#units);
    if (this.sent === 0) {
      this.#hold(buffer, last.length);
      this.#parts = [];
    }
    return last;
  }

  /** The kernel has taken so many bytes of the piece; whether it has everything now. */
  wrote(bytes: number): boolean {
    this.sent += bytes;
    const { length } = this.#piece;
    this.#piece = bytes < length ? this.#piece.subarray(bytes) : NOTHING;
    if (this.#units > 0 || this.sent < this.size) return false;
    if (this.#lent) giveBack(this.#lent);
    this.#lent = undefined;
    return true;
  }

  /** A write has failed, and nobody knows how much of the piece has left. */
  assumeSent(): void {
    this.sent += this.#piece.length;
  }

  /** Takes out the messages that are wholly with the kernel; returns their number. */
  dropSent(): number {
    return this.#drop((frames) =>
      frames.subarray(0, this.sent).lastIndexOf(TERMINATOR) + 1
    );
  }

  /** Takes out the first message. */
  dropFirst(): void {
    this.#drop((frames) => frames.indexOf(TERMINATOR) + 1);
  }

  /** Takes out what is before `end`; what is left is written from its beginning. */
  #drop(end: (frames: Bytes) => number): number {
    this.pack();
    const frames = this.#buffer.subarray(0, this.#used);
    const from = end(frames);
    let whole = 0;
    for (let at = 0; at < from; whole++) {
      at = frames.indexOf(TERMINATOR, at) + 1;
    }
    this.#hold(frames.slice(from), frames.length - from);
    // Not given back: who writes it may not have ended.
    this.#lent = undefined;
    this.#piece = NOTHING;
    this.sent = this.#at = 0;
    this.#add(-whole, -from, 0);
    return whole;
  }

  /** Takes out everything: nothing of it stays with those who still know this encoder. */
  clear(): void {
    this.#add(-this.count, -this.size, -this.#units);
    this.#hold(NOTHING, 0);
    this.#parts = [];
    this.#piece = NOTHING;
    this.#lent = undefined;
  }
}

/** The most room that is made for messages to come. */
const MAX_SPARE_BYTES = 32_768;

/** Options of {@linkcode FrameDecoderStream} and {@linkcode FrameEncoderStream}. */
export interface FrameStreamOptions {
  /**
   * The longest message, in bytes of UTF-8 without the terminator.
   *
   * @default {1_048_576}
   */
  maxMessageBytes?: number;
}

const OPTIONS = { maxMessageBytes } satisfies OptionsTable<FrameStreamOptions>;

/**
 * Turns the bytes of frames into messages, as the sockets of this module do, for
 * byte streams that are not sockets: a serial device, a WebSocket, a file.
 *
 * Both ends fail with {@linkcode InvalidMessageError} at a message that is not
 * UTF-8, with {@linkcode MessageTooLargeError} at one over the limit, and with
 * {@linkcode ClosedError} where the bytes end in the middle of a message. The
 * readable first gives every message before that.
 *
 * A chunk is decoded as its messages are read: a write settles when its chunk is used
 * up, so a slow reader slows the writer.
 *
 * @example Reading messages from a file
 * ```ts
 * import { FrameDecoderStream } from "@daystar/comm";
 * import { assertEquals } from "@std/assert";
 *
 * const path = await Deno.makeTempFile();
 * await Deno.writeTextFile(path, "PICK\x03PLACE\x03");
 *
 * const file = await Deno.open(path);
 * const messages = file.readable.pipeThrough(new FrameDecoderStream());
 * assertEquals(await Array.fromAsync(messages), ["PICK", "PLACE"]);
 *
 * await Deno.remove(path);
 * ```
 */
export class FrameDecoderStream implements TransformStream<Uint8Array, string> {
  /**
   * Gives the messages.
   *
   * @example Usage
   * ```ts
   * import { FrameDecoderStream } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * const { readable, writable } = new FrameDecoderStream();
   * const writer = writable.getWriter();
   * writer.write(new TextEncoder().encode("PICK\x03"));
   * writer.close();
   * assertEquals(await Array.fromAsync(readable), ["PICK"]);
   * ```
   */
  readonly readable: ReadableStream<string>;
  /**
   * Takes the bytes, in chunks cut anywhere.
   *
   * @example Usage
   * ```ts
   * import { FrameDecoderStream } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * const { readable, writable } = new FrameDecoderStream();
   * new Response("PICK\x03").body?.pipeTo(writable);
   * assertEquals(await Array.fromAsync(readable), ["PICK"]);
   * ```
   */
  readonly writable: WritableStream<Uint8Array>;

  /**
   * Constructs a new instance.
   *
   * @param options The longest message to accept.
   * @throws {RangeError} If `maxMessageBytes` is not an integer from 1 to 536,870,888.
   */
  constructor(options: FrameStreamOptions = {}) {
    beTransformStream(FrameDecoderStream);
    const { maxMessageBytes } = readOptions(
      "FrameDecoderStream",
      options,
      OPTIONS,
    );
    const { readable, writable } = new DecoderPair(maxMessageBytes);
    this.readable = readable;
    this.writable = writable;
  }
}

/**
 * Makes a class extend TransformStream, as late as its first instance: Deno loads its
 * streams when they are first mentioned, which is a tenth of a script's start.
 */
function beTransformStream({ prototype }: { prototype: object }): void {
  Object.setPrototypeOf(prototype, TransformStream.prototype);
}

/**
 * The two ends of a {@linkcode FrameDecoderStream}. Each pull decodes one window of
 * the chunk being written; the rest of the chunk stays bytes until it is read.
 */
class DecoderPair {
  readonly #frames: FrameDecoder;
  /** The part of the chunk being written that the decoder has yet to take. */
  #rest: Uint8Array = NOTHING;
  /** The write in progress, which settles when its chunk is used up. */
  #write: PromiseWithResolvers<void> | undefined;
  /** Wakes a pull that waits for bytes. */
  #wake = () => {};
  /** What both ends fail with. */
  #failure: unknown;
  readonly readable: ReadableStream<string>;
  readonly writable: WritableStream<Uint8Array>;

  constructor(maxMessageBytes: number) {
    this.#frames = new FrameDecoder(maxMessageBytes);
    let reader: ReadableStreamDefaultController<string>;
    let writer: WritableStreamDefaultController;
    this.readable = new ReadableStream<string>({
      start: (controller) => void (reader = controller),
      pull: (controller) => this.#pull(controller),
      cancel: (reason) => {
        this.#fail(reason);
        writer.error(reason);
      },
    }, { highWaterMark: 0 });
    this.writable = new WritableStream<Uint8Array>({
      start: (controller) => {
        writer = controller;
        // The sink's abort() would wait for the write in progress.
        const { signal } = controller;
        signal.addEventListener("abort", () => {
          this.#fail(signal.reason);
          reader.error(signal.reason);
        });
      },
      write: (chunk) => this.#take(chunk),
      close: () => {
        this.#checkEnd();
        reader.close();
      },
    });
  }

  /** Gives the messages of one window, once there are any. */
  async #pull(reader: ReadableStreamDefaultController<string>): Promise<void> {
    // An error drops the messages in the queue: the pull after the last one sets it.
    while (this.#failure === undefined) {
      if (this.#give(reader)) return;
      if (this.#failure !== undefined) break;
      await new Promise<void>((resolve) => this.#wake = resolve);
    }
    reader.error(this.#failure);
  }

  /** Whether there were messages to give. */
  #give(reader: ReadableStreamDefaultController<string>): boolean {
    let given = false;
    try {
      for (const message of this.#next() ?? []) {
        if (typeof message !== "string") throw message;
        reader.enqueue(message);
        given = true;
      }
      if (this.#rest.length === 0 && !this.#frames.unscanned) {
        // An empty part of the chunk would pin all of it.
        this.#rest = NOTHING;
        this.#write?.resolve();
      }
    } catch (error) {
      this.#fail(error);
    }
    return given;
  }

  /** The messages of the next window, or undefined where the chunk has no more. */
  #next(): Decoded | undefined {
    while (true) {
      const messages = this.#frames.take();
      if (messages || this.#rest.length === 0) return messages;
      const room = this.#frames.room();
      const part = this.#rest.subarray(0, room.length);
      room.set(part);
      this.#frames.fill(part.length);
      this.#rest = this.#rest.subarray(part.length);
    }
  }

  #take(chunk: Uint8Array): Promise<void> {
    this.#write = Promise.withResolvers();
    if (chunk instanceof Uint8Array) this.#rest = chunk;
    else {
      this.#fail(
        new TypeError(`Cannot decode ${show(chunk)}: a chunk is a Uint8Array`),
      );
    }
    this.#wake();
    return this.#write.promise;
  }

  /** Throws if the bytes ended in the middle of a message. */
  #checkEnd(): void {
    const incomplete = this.#frames.incomplete();
    if (incomplete.length === 0) return;
    const error = new ClosedError(
      `Cannot decode the last ${incomplete.length} bytes of a stream: it ended before their terminator`,
      { incomplete },
    );
    this.#fail(error);
    throw error;
  }

  /** Fails the write in progress, and the next pull. */
  #fail(error: unknown): void {
    this.#failure = error;
    this.#rest = NOTHING;
    this.#write?.reject(error);
    this.#wake();
  }
}

/**
 * Turns messages into the bytes of frames: UTF-8, each ended by a byte 0x03.
 *
 * The stream fails with {@linkcode TypeError} at a message that contains U+0003 or
 * a lone surrogate or is not a string, and with {@linkcode MessageTooLargeError}
 * at one over the limit.
 *
 * @example Writing messages to a file
 * ```ts
 * import { FrameEncoderStream } from "@daystar/comm";
 * import { assertEquals } from "@std/assert";
 *
 * const path = await Deno.makeTempFile();
 *
 * const file = await Deno.open(path, { write: true });
 * await ReadableStream.from(["PICK", "PLACE"])
 *   .pipeThrough(new FrameEncoderStream())
 *   .pipeTo(file.writable);
 * assertEquals(await Deno.readTextFile(path), "PICK\x03PLACE\x03");
 *
 * await Deno.remove(path);
 * ```
 */
export class FrameEncoderStream implements TransformStream<string, Uint8Array> {
  /**
   * Gives the bytes, a frame in each chunk.
   *
   * @example Usage
   * ```ts
   * import { FrameEncoderStream } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * const { readable, writable } = new FrameEncoderStream();
   * ReadableStream.from(["PICK"]).pipeTo(writable);
   * assertEquals(await new Response(readable).text(), "PICK\x03");
   * ```
   */
  readonly readable: ReadableStream<Uint8Array>;
  /**
   * Takes the messages.
   *
   * @example Usage
   * ```ts
   * import { FrameEncoderStream } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * const { readable, writable } = new FrameEncoderStream();
   * const writer = writable.getWriter();
   * writer.write("PICK");
   * writer.close();
   * assertEquals(await new Response(readable).text(), "PICK\x03");
   * ```
   */
  readonly writable: WritableStream<string>;

  /**
   * Constructs a new instance.
   *
   * @param options The longest message to let through.
   * @throws {RangeError} If `maxMessageBytes` is not an integer from 1 to 536,870,888.
   */
  constructor(options: FrameStreamOptions = {}) {
    beTransformStream(FrameEncoderStream);
    const { maxMessageBytes: limit } = readOptions(
      "FrameEncoderStream",
      options,
      OPTIONS,
    );
    const frames = new TransformStream<string, Uint8Array>({
      transform(message, controller) {
        checkMessage(message, limit);
        controller.enqueue(encodeFrame(message));
      },
    });
    this.readable = frames.readable;
    this.writable = frames.writable;
  }
}
