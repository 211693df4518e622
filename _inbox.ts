// Copyright 2026 the Daystar authors. MIT license.

/**
 * Waiting for messages, with a time limit and a signal, in the order of the calls:
 * a TCP client and a UDP socket receive alike.
 */

import { ClosedError } from "./_errors.ts";
import {
  checkNames,
  milliseconds,
  type OptionsTable,
  type Settings,
  signal,
} from "./_options.ts";
import { MAX_TIMER_MS } from "./_time.ts";

/** Options of {@linkcode TCPClient.receive} and {@linkcode UDPSocket.receive}. */
export interface ReceiveOptions {
  /**
   * How long to wait for a message, in milliseconds. Infinity waits for ever. `0`
   * takes what has been read: while the kernel holds much more, or another socket is
   * flooded, it may give `null` although a message is there, which a later call gets.
   *
   * @default {Infinity}
   */
  timeout?: number;
  /** Ends the wait: `receive` then rejects with its reason, and nothing is lost. */
  signal?: AbortSignal;
}

const OPTIONS = {
  timeout: milliseconds(0, Infinity),
  signal: signal(),
} satisfies OptionsTable<ReceiveOptions>;

type Wait = Settings<typeof OPTIONS>;

/** Without options. */
const FOR_EVER: Wait = { timeout: Infinity, signal: undefined };

/** Does what readOptions() does in a third of the time, since a receive takes no longer. */
function readWait(options: ReceiveOptions): Wait {
  checkNames("receive", options, OPTIONS);
  return {
    timeout: OPTIONS.timeout(options.timeout, "timeout"),
    signal: OPTIONS.signal(options.signal, "signal"),
  };
}

/** Where an {@linkcode Inbox} gets its messages from. */
export interface Source<T> {
  /** What has arrived, oldest first, or undefined; the inbox asks when it has nothing left. */
  take(): (T | Error)[] | undefined;
  /** Told when the first receiver begins to wait and when the last one ends. */
  awaited(waiting: boolean): void;
}

interface Waiter<T> {
  resolve(message: T | null): void;
  reject(reason: unknown): void;
  /** The iterator that waits, where it is one. */
  iterator?: object | undefined;
  stop?: () => void;
}

/** Hands the messages of a source to the receivers, first come, first served. */
export class Inbox<T extends string | readonly unknown[]> {
  readonly #source: Source<T>;
  readonly #waiters = new Set<Waiter<T>>();
  #items: (T | Error)[] = [];
  #next = 0;
  #ended: (() => Error) | undefined;

  /** @param source Where messages come from. */
  constructor(source: Source<T>) {
    this.#source = source;
  }

  /** The next message, or the error that stands in its place. */
  #shift(): T | Error | undefined {
    if (this.#next === this.#items.length) {
      this.#next = 0;
      this.#items = this.#source.take() ?? [];
      if (this.#items.length === 0) return undefined;
    }
    return this.#items[this.#next++];
  }

  /** The next message; null when the time ran out. */
  receive(options?: ReceiveOptions): Promise<T | null> {
    if (options === undefined) return this.#receive(FOR_EVER);
    try {
      const wait = readWait(options);
      wait.signal?.throwIfAborted();
      return this.#receive(wait);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  #receive(wait: Wait): Promise<T | null> {
    const item = this.#first();
    if (item === undefined) return this.#later(wait);
    return item instanceof Error ? Promise.reject(item) : Promise.resolve(item);
  }

  /** What a new receiver gets at once: nobody overtakes those who wait. */
  #first(): T | Error | undefined {
    return this.#waiters.size > 0 ? undefined : this.#shift();
  }

  /** What a new receiver has to wait for. */
  #later(wait: Wait, iterator?: object): Promise<T | null> {
    if (this.#ended) return Promise.reject(this.#ended());
    return new Promise((resolve, reject) => {
      this.#wait({ resolve, reject, iterator }, wait);
    });
  }

  #wait(waiter: Waiter<T>, { timeout, signal }: Wait): void {
    this.#waiters.add(waiter);
    if (this.#waiters.size === 1) this.#source.awaited(true);
    if (timeout > MAX_TIMER_MS && !signal) return;
    const expire = () => {
      this.#settle(waiter);
      waiter.resolve(null);
    };
    // What arrived while the script was busy is read only after its timers.
    let timer = timeout > MAX_TIMER_MS ? undefined : setTimeout(() => {
      timer = setTimeout(expire);
    }, timeout);
    const abort = () => {
      this.#settle(waiter);
      waiter.reject(signal?.reason);
    };
    signal?.addEventListener("abort", abort, { once: true });
    waiter.stop = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    };
  }

  #settle(waiter: Waiter<T>): void {
    this.#waiters.delete(waiter);
    waiter.stop?.();
    if (this.#waiters.size === 0) this.#source.awaited(false);
  }

  /** Ends the waits of an iterator that was left, so that they take no message. */
  #leave(iterator: object): void {
    for (const waiter of this.#waiters) {
      if (waiter.iterator !== iterator) continue;
      this.#settle(waiter);
      waiter.resolve(null);
    }
  }

  /** Serves those who wait: the source has more. */
  deliver(): void {
    for (const waiter of this.#waiters) {
      const item = this.#shift();
      if (item === undefined) return;
      this.#settle(waiter);
      if (item instanceof Error) waiter.reject(item);
      else waiter.resolve(item);
    }
  }

  /** Nothing more will come: what is there can still be received, then `error` is thrown. */
  end(error: () => Error): void {
    if (this.#ended) return;
    this.#ended = error;
    this.deliver();
    for (const waiter of this.#waiters) {
      this.#settle(waiter);
      waiter.reject(error());
    }
  }

  /** Forgets what was not received. */
  clear(): void {
    this.#items = [];
    this.#next = 0;
  }

  /** Iterates until the end; leaving the loop leaves what it loops over open. */
  iterate(): AsyncIterableIterator<T> {
    let done = false;
    const finish = (): IteratorResult<T> => {
      done = true;
      this.#leave(iterator);
      return { value: undefined, done };
    };
    const fail = (error: unknown): IteratorResult<T> => {
      const result = finish();
      if (isOrderlyEnd(error)) return result;
      throw error;
    };
    const pass = (value: T | null): IteratorResult<T> =>
      value === null ? finish() : { value, done: false };
    const iterator: AsyncIterableIterator<T> = {
      next: () => {
        if (done) return Promise.resolve(finish());
        const item = this.#first();
        if (item === undefined) {
          return this.#later(FOR_EVER, iterator).then(pass, fail);
        }
        if (!(item instanceof Error)) return Promise.resolve(pass(item));
        finish();
        return Promise.reject(item);
      },
      return: () => Promise.resolve(finish()),
      throw: (error: unknown) => {
        finish();
        return Promise.reject(error);
      },
      [Symbol.asyncIterator]: () => iterator,
    };
    return iterator;
  }
}

function isOrderlyEnd(error: unknown): boolean {
  return error instanceof ClosedError && error.cause === undefined &&
    error.incomplete.length === 0;
}
