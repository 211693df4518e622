// Copyright 2026 the Daystar authors. MIT license.

/** Trying again: the pauses between attempts, and the messages that wait meanwhile. */

import type { Connection } from "./_connection.ts";
import { CommunicationError } from "./_errors.ts";
import { frameLength } from "./_framing.ts";
import { checkInteger, checkTime, show } from "./_options.ts";
import type { Pause } from "./_time.ts";

/** How to keep trying to connect. */
export interface RetryOptions {
  /**
   * How often to try in a row.
   *
   * @default {Infinity}
   */
  attempts?: number;
  /**
   * The pause after the first failure, in milliseconds; it doubles with each one.
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
   * Which part of a pause is left to chance, from 0 to 1, so that a fleet of robots
   * does not knock all at once.
   *
   * @default {0.5}
   */
  jitter?: number;
}

/** The options with the defaults in place, or undefined where nothing is to be tried again. */
export function checkRetry(
  name: string,
  retry: boolean | RetryOptions | undefined,
): Required<RetryOptions> | undefined {
  if (retry === undefined || retry === false) return undefined;
  if (retry !== true && (typeof retry !== "object" || retry === null)) {
    throw new TypeError(
      `Cannot use ${show(retry)} as ${name}: it takes true or an object`,
    );
  }
  const {
    attempts = Infinity,
    firstDelay = 100,
    maxDelay = 5_000,
    jitter = 0.5,
  } = retry === true ? {} : retry;
  if (attempts !== Infinity) checkInteger(`${name}.attempts`, attempts, 1);
  checkTime(`${name}.firstDelay`, firstDelay);
  checkTime(`${name}.maxDelay`, maxDelay);
  if (typeof jitter !== "number" || !(jitter >= 0 && jitter <= 1)) {
    throw new RangeError(
      `Cannot use ${
        show(jitter)
      } as ${name}.jitter: it takes a number from 0 to 1`,
    );
  }
  return { attempts, firstDelay, maxDelay, jitter };
}

/**
 * Tries until it succeeds, the attempts are used up, or the signal aborts; tells of
 * each failure after which it tries again.
 */
export async function tryAgain<T>(
  attempt: () => Promise<T>,
  { attempts, firstDelay, maxDelay, jitter }: Required<RetryOptions>,
  pause: Pause,
  signal: AbortSignal | undefined,
  failed: (error: unknown) => void,
): Promise<T> {
  const cut = () => pause.cut();
  signal?.addEventListener("abort", cut, { once: true });
  try {
    for (let tries = 1, delay = firstDelay;; tries++) {
      try {
        return await attempt();
      } catch (error) {
        if (tries >= attempts || isHopeless(error)) throw error;
        signal?.throwIfAborted();
        failed(error);
      }
      await pause.wait(
        Math.min(delay, maxDelay) * (1 - jitter * Math.random()),
      );
      signal?.throwIfAborted();
      delay = Math.min(delay * 2, maxDelay);
    }
  } finally {
    signal?.removeEventListener("abort", cut);
  }
}

/** What the next attempt would fail with too: a permission, a certificate, an argument. */
function isHopeless(error: unknown): boolean {
  return error instanceof Deno.errors.NotCapable ||
    error instanceof Deno.errors.InvalidData || error instanceof TypeError;
}

interface Entry {
  message: string;
  resolve(): void;
  reject(error: unknown): void;
}

/**
 * Messages that outlive a connection: each is kept until all its bytes are with the
 * kernel, and one that was not when the connection broke goes to the next one, whole.
 */
export class Outbox {
  readonly #limit: number;
  readonly #lost: (connection: Connection) => void;
  /** In the order of the calls; the connection has been given the first of them. */
  readonly #entries = new Set<Entry>();
  /** How many bytes wait, from the first message on that had to. */
  #size: number | undefined;
  #connection: Connection | undefined;
  /** How many messages the connection had sent for entries that are gone. */
  #settled = 0;

  /**
   * @param limit How many bytes may wait while there is no connection.
   * @param lost Called when a connection does not send any more.
   */
  constructor(limit: number, lost: (connection: Connection) => void) {
    this.#limit = limit;
    this.#lost = lost;
  }

  /** Whether somebody waits for a message to be sent. */
  get waiting(): boolean {
    return this.#entries.size > 0;
  }

  /** Sends a message that was checked, as soon as there is a connection. */
  send(message: string, connected: boolean): Promise<void> {
    if (!connected) this.#hold(message);
    return new Promise((resolve, reject) => {
      const entry = { message, resolve, reject };
      this.#entries.add(entry);
      if (connected && this.#connection) this.#post(entry, this.#connection);
    });
  }

  /** Counts what waits, only now: as long as there is a connection nothing needs it. */
  #hold(message: string): void {
    this.#size ??= this.#entries.values()
      .reduce((size, { message }) => size + frameLength(message), 0);
    const size = this.#size + frameLength(message);
    if (size > this.#limit) {
      throw new CommunicationError(
        `Cannot hold more than ${this.#limit} bytes until there is a connection again`,
      );
    }
    this.#size = size;
  }

  #post(entry: Entry, connection: Connection): void {
    try {
      connection.post(entry.message).then(() => {
        if (connection === this.#connection) this.#settle(entry);
      }, () => this.#lost(connection));
    } catch {
      this.#lost(connection);
    }
  }

  #settle(entry: Entry): void {
    if (!this.#entries.delete(entry)) return;
    this.#settled++;
    entry.resolve();
  }

  /** Sends through this connection, what waits first. */
  attach(connection: Connection): void {
    this.#connection = connection;
    this.#settled = 0;
    this.#size = undefined;
    for (const entry of this.#entries) this.#post(entry, connection);
  }

  /** Keeps what the connection, which is gone, has not sent. */
  detach(): void {
    const sent = this.#connection?.sent ?? 0;
    for (const entry of this.#entries) {
      if (this.#settled >= sent) break;
      this.#settle(entry);
    }
    this.#connection = undefined;
    this.#size = undefined;
  }

  /** Nothing more will be sent. */
  end(error: () => Error): void {
    for (const entry of this.#entries) entry.reject(error());
    this.#entries.clear();
  }
}
