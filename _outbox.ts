// Copyright 2026 the Daystar authors. MIT license.

/**
 * Messages on their way out: those of a connection, or those that outlive it where
 * another one follows.
 */

import {
  type Amount,
  FrameEncoder,
  frameLength,
  MAX_UNIT_BYTES,
  newAmount,
} from "./_framing.ts";

/**
 * What a waiting message takes besides its bytes: its promise, what the caller attaches to
 * that, and its part of the queue (measured, see tests/faults/memory_test.ts).
 */
export const MESSAGE_OVERHEAD_BYTES = 448;
/** How often a connection may break with the same message at the head. */
const MAX_BREAKS = 3;
/** How long messages may wait as they are before they are encoded, in ms. */
const PACK_MS = 1;

/** A message, or its frame. */
type Item = string | Uint8Array<ArrayBuffer>;

/** Told when a batch is with the kernel, or never will be. */
export interface Watcher {
  settled(error: Error | undefined): void;
}

/** The promise of one message, and how often a connection broke with it at the head. */
interface Waiter {
  resolve(): void;
  reject(error: Error): void;
  breaks: number;
}

/** Messages that leave in one write, and who waits for that. */
export class Batch extends FrameEncoder {
  /** With a promise for each message, in their order. */
  readonly #waiters: Waiter[] | undefined;
  /** Or with one for all of them. */
  #written: PromiseWithResolvers<void> | undefined;
  #watchers: Watcher[] | undefined;
  /** Whether it is with the kernel, or never will be. */
  isSettled = false;

  /**
   * @param total What it counts in.
   * @param each Whether each message has a promise of its own.
   */
  constructor(total: Amount, each: boolean) {
    super(total);
    if (each) this.#waiters = [];
  }

  /** Settles when the message that was added last is with the kernel, or never will be. */
  wait(): Promise<void> {
    const waiters = this.#waiters;
    if (!waiters) {
      return (this.#written ??= Promise.withResolvers<void>()).promise;
    }
    return new Promise((resolve, reject) =>
      waiters.push({ resolve, reject, breaks: 0 })
    );
  }

  /** Adds somebody to be told. */
  watch(watcher: Watcher): void {
    // Mostly there is one, and an array that grows makes room for many.
    if (this.#watchers) this.#watchers.push(watcher);
    else this.#watchers = [watcher];
  }

  /** Takes out somebody who no longer waits. */
  unwatch(watcher: Watcher): void {
    this.#watchers = this.#watchers?.filter((one) => one !== watcher);
  }

  /** Everything is with the kernel, or with an error nothing more will be. */
  settle(error?: Error): void {
    this.isSettled = true;
    this.clear();
    if (error) {
      this.#written?.reject(error);
      for (const { reject } of this.#waiters ?? []) reject(error);
    } else {
      this.#written?.resolve();
      for (const { resolve } of this.#waiters ?? []) resolve();
    }
    for (const watcher of this.#watchers ?? []) watcher.settled(error);
  }

  /** Takes out the messages that are wholly with the kernel; returns their number. */
  override dropSent(): number {
    const whole = super.dropSent();
    for (const { resolve } of this.#waiters?.splice(0, whole) ?? []) resolve();
    return whole;
  }

  /** A connection broke with this batch at the head: its first message is rejected the third time. */
  broke(error: () => Error): void {
    const first = this.#waiters?.[0];
    if (!first || ++first.breaks < MAX_BREAKS) return;
    this.#waiters?.shift();
    this.dropFirst();
    first.reject(error());
  }
}

/**
 * Messages on their way out, in the order of the calls, in batches of one write each.
 * What waits for longer than a moment is kept as bytes.
 */
export class Outbox {
  readonly #each: boolean;
  readonly #total = newAmount();
  #batches: Batch[] = [];
  /** The batch that more messages may join. */
  #open: Batch | undefined;
  /** Whether the first batch is being written … */
  #writing = false;
  /** … or can't be: there is no connection. */
  #offline = false;
  /** How many batches at the head were posted by {@linkcode ahead} … */
  #first = 0;
  /** … and whether that is under way, and some of a former one are left. */
  #isAhead = false;
  #repeats = false;
  #at = 0;
  /** Whether it is going to be packed. */
  #packing = false;
  /** How many bytes of a long message had left when that was looked at. */
  #seen = 0;
  /** Why nothing more is sent. */
  #ended: Error | undefined;

  /** @param each Whether each message has a promise of its own, and outlives a connection. */
  constructor(each = false) {
    this.#each = each;
  }

  /** How many messages wait or are being written. */
  get count(): number {
    return this.#total.count;
  }

  /** Their bytes: what is not encoded counts one for each UTF-16 unit. */
  get bytes(): number {
    return this.#total.bytes;
  }

  /** The newest batch. */
  get last(): Batch | undefined {
    return this.#batches.at(-1);
  }

  /**
   * Whether {@linkcode ahead} posts a message although what it posted before has not left,
   * and takes more memory than it may with it.
   */
  isCrowded(message: string, limit: number): boolean {
    if (!this.#isAhead || !this.#repeats) return false;
    let cost = message.length + MESSAGE_OVERHEAD_BYTES;
    for (const { size, count } of this.#batches.slice(0, this.#first)) {
      cost += size + count * MESSAGE_OVERHEAD_BYTES;
    }
    return cost > limit;
  }

  /** Whether a message is too much beside those that wait, which may take `limit` bytes of memory. */
  isFull(item: Item, limit: number): boolean {
    const { count, bytes, units } = this.#total;
    if (count === 0) return false;
    const room = limit - bytes - (count + 1) * MESSAGE_OVERHEAD_BYTES;
    const isText = typeof item === "string";
    const most = isText ? item.length * MAX_UNIT_BYTES + 1 : item.length;
    if (most + (MAX_UNIT_BYTES - 1) * units <= room) return false;
    // Bytes are counted only where they matter.
    this.pack();
    const grown = this.#total.bytes - bytes;
    return (isText ? frameLength(item) : item.length) > room - grown;
  }

  /** Takes in a message that was checked, or its frame; returns its batch. */
  post(item: Item): Batch {
    let batch = this.#open;
    if (!batch?.fits(item)) batch = this.#begin();
    batch.add(item);
    if (this.#writing || this.#offline || this.#batches.length > 1) {
      this.#packLater();
    }
    return batch;
  }

  #begin(): Batch {
    const batch = new Batch(this.#total, this.#each);
    if (this.#isAhead) {
      this.#batches.splice(this.#at++, 0, batch);
      this.#first++;
    } else this.#batches.push(batch);
    return this.#open = batch;
  }

  #packLater(): void {
    if (this.#packing) return;
    this.#packing = true;
    packLater(this);
  }

  /** Encodes what waits: it takes less memory then, and its bytes are known. */
  pack(): void {
    this.#packing = false;
    const first = this.#writing ? 1 : 0;
    // What is packed is never behind what is not.
    for (let i = this.#batches.length - 1; i >= first; i--) {
      if (!this.#batches[i]?.pack()) break;
    }
    const head = this.#batches[0];
    if (this.#writing && head?.isLong) this.#packLong(head);
  }

  /** The text of a message that leaves piece by piece is let go once it is stuck. */
  #packLong(head: Batch): void {
    if (head.sent === this.#seen) return void head.pack();
    this.#seen = head.sent;
    this.#packLater();
  }

  /** What to write next, if anything. */
  next(): Uint8Array<ArrayBuffer> | undefined {
    const batch = this.#batches[0];
    this.#writing = batch !== undefined;
    this.#offline = false;
    if (batch === this.#open) this.#open = undefined;
    const bytes = batch?.next();
    if (batch?.isLong) this.#packLater();
    return bytes;
  }

  /** The kernel has taken so many bytes of that; returns how many messages are sent now. */
  wrote(bytes: number): number {
    const batch = this.#batches[0];
    if (!batch?.wrote(bytes)) return 0;
    const { count } = batch;
    this.#writing = false;
    this.#shift();
    batch.settle();
    return count;
  }

  /** What a write tried to send that failed may have left: the next connection must not repeat it. */
  assumeSent(): void {
    if (this.#each) this.#batches[0]?.assumeSent();
  }

  /** Takes out the messages that are wholly with the kernel; returns their number. */
  settleSent(): number {
    this.#writing = false;
    return this.#change((head) => head.dropSent()) ?? 0;
  }

  /**
   * A connection broke, for `error`: what it has not sent waits for the next one. Returns
   * how many messages it has sent that were not counted yet.
   */
  broke(error: () => Error): number {
    // What was posted since then was not on its way.
    const onItsWay = this.#writing ? this.#batches[0] : undefined;
    const whole = this.settleSent();
    if (onItsWay && onItsWay === this.#batches[0]) {
      this.#change((head) => head.broke(error));
    }
    this.#offline = true;
    return whole;
  }

  /** Takes messages out of the first batch, which is not being written. */
  #change<T>(take: (head: Batch) => T): T | undefined {
    const head = this.#batches[0];
    if (!head) return undefined;
    const result = take(head);
    if (head.count > 0) return result;
    this.#shift();
    if (this.#open === head) this.#open = undefined;
    head.settle();
    return result;
  }

  #shift(): void {
    this.#batches.shift();
    if (this.#first > 0) this.#first--;
  }

  /** What is posted in `body` goes before everything else. */
  ahead(body: () => void): void {
    const open = this.#open;
    this.#open = undefined;
    this.#isAhead = true;
    this.#repeats = this.#first > 0;
    this.#at = 0;
    try {
      body();
    } finally {
      this.#isAhead = false;
      // What is packed is never behind what is not.
      for (const batch of this.#batches.slice(0, this.#first)) batch.pack();
      // What was posted may have ended it all.
      this.#open = this.#ended ? undefined : open;
    }
  }

  /** Nothing more will be sent. */
  end(error: Error): void {
    this.#ended = error;
    const batches = this.#batches;
    this.#batches = [];
    this.#first = 0;
    this.#open = undefined;
    packNoMore(this);
    for (const batch of batches) batch.settle(error);
  }
}

/** Outboxes that are going to be packed, all at once: there may be thousands. */
const unpacked = new Set<Outbox>();
let timer: ReturnType<typeof setTimeout> | undefined;

function packLater(outbox: Outbox): void {
  unpacked.add(outbox);
  timer ??= setTimeout(packAll, PACK_MS);
}

function packAll(): void {
  timer = undefined;
  const due = [...unpacked];
  // Before they are packed, as one that can't be yet comes again.
  unpacked.clear();
  for (const outbox of due) outbox.pack();
}

function packNoMore(outbox: Outbox): void {
  if (!unpacked.delete(outbox) || unpacked.size > 0) return;
  clearTimeout(timer);
  timer = undefined;
}
