// Copyright 2026 the Daystar authors. MIT license.

/** Deadlines, pauses, holds of the event loop, turns, and fair turns of all sockets. */

/** Longer timers fire at once ({@link https://nodejs.org/api/timers.html#settimeoutcallback-delay-args}). */
export const MAX_TIMER_MS = 2 ** 31 - 1;

/** In how many parts a wait looks whether it is over. */
const PARTS = 5;

/**
 * Waits for a promise that does not reject, for so many milliseconds at the most: in
 * parts, since timers come first after the script has held the event loop up, and what
 * came from the network meanwhile would not count.
 */
export async function within(
  ms: number,
  promise: Promise<void>,
): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const timeout = new Promise<void>((resolve) => {
    let parts = PARTS;
    const next = () => {
      if (parts-- === 0) return resolve();
      timer = setTimeout(next, ms / PARTS);
    };
    next();
  });
  await Promise.race([promise, timeout]);
  clearTimeout(timer);
}

/** How long what came while the script computed may take until it is seen, in ms. */
const MOMENT_MS = 10;

/** Ends an attempt when its time is over, or before. */
export class Deadline {
  readonly #controller = new AbortController();
  #cleared = false;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** @param ms When, and `what` is missing then. */
  constructor(ms: number, what: string) {
    // Deno.connect asks once more when it has connected, and loses what it made if
    // this throws then (`ext/net/01_net.js`): who connects has to ask instead.
    this.signal.throwIfAborted = () => {};
    if (ms > MAX_TIMER_MS) return;
    const end = () =>
      this.end(new Deno.errors.TimedOut(`${what} within ${ms} ms`));
    // What came while the script held the event loop up is seen only after its timers.
    const moment = (then: () => void) => () => this.#set(then, MOMENT_MS);
    this.#set(moment(moment(end)), ms);
  }

  #set(then: () => void, ms: number): void {
    if (this.signal.aborted || this.#cleared) return;
    this.#timer = setTimeout(then, ms);
    // What it limits decides whether the script stays alive.
    Deno.unrefTimer(this.#timer);
  }

  /** Aborts when the attempt is to end. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Ends the attempt. */
  end(reason: unknown): void {
    this.#controller.abort(reason);
  }

  /** Lets it be: the attempt has succeeded or failed by itself. */
  clear(): void {
    this.#cleared = true;
    clearTimeout(this.#timer);
  }
}

/** What an {@linkcode IdleWatch} looks at. */
export interface Watched {
  /** What this side waits for: a message, or room to send. */
  readonly awaits: "message" | "room" | undefined;
  /** The peer has been silent for too long. */
  giveUpSilent(ms: number): void;
}

/** How long before the deadline a silent peer is first checked, in ms. */
const FIRST_LOOK_MS = 100;
/** A look that comes so much later than it was due means that this side stood still, in ms. */
const LATE_MS = 20;

/**
 * Gives up a peer that was silent for too long: at the second look after its time ran out,
 * if nothing came since the first. What arrived while the script held the event loop up is
 * read only after its timers, and what was lost while the machine stood still is sent
 * again: so as much as a look comes late, the next one is put off. A script that computes
 * in blocks all the time puts it off by several limits, but not for ever.
 */
export class IdleWatch {
  readonly #messageMs: number;
  readonly #roomMs: number;
  readonly #watched: Watched;
  #heardAt = performance.now();
  /** Counts what was heard, and how much that was when the time had run out. */
  #heard = 0;
  #suspected: number | undefined;
  /** When the next look is due, and how long the peer has got for standstills of this side. */
  #dueAt = 0;
  #granted = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #stopped = false;

  /**
   * @param messageMs How long a peer may send nothing, in ms.
   * @param minRoomMs How long it may take nothing at the least, in ms.
   * @param watched Who is watched.
   */
  constructor(messageMs: number, minRoomMs: number, watched: Watched) {
    this.#messageMs = messageMs;
    this.#roomMs = Math.max(messageMs, minRoomMs);
    this.#watched = watched;
    this.#after(Math.max(0, messageMs - FIRST_LOOK_MS));
  }

  /** The peer was heard, or its silence does not count. */
  heard(): void {
    this.#heardAt = performance.now();
    this.#heard++;
    this.#granted = 0;
  }

  /** Looks no more. */
  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  #after(ms: number): void {
    // No longer than the shorter limit, as that one may hold by then.
    const delay = Math.min(ms, this.#messageMs, MAX_TIMER_MS);
    this.#dueAt = performance.now() + delay;
    this.#set(() => this.#look(), delay);
  }

  #set(then: () => void, ms: number): void {
    if (this.#stopped) return;
    this.#timer = setTimeout(then, ms);
    Deno.unrefTimer(this.#timer);
  }

  #look(): void {
    const { awaits } = this.#watched;
    if (!awaits) this.heard();
    const limit = awaits === "room" ? this.#roomMs : this.#messageMs;
    const now = performance.now();
    const left = this.#heardAt + limit - now;
    if (left <= 0 && this.#suspected === this.#heard) {
      const late = Math.min(now - this.#dueAt, limit - this.#granted);
      if (late < LATE_MS) return this.#confirm(limit);
      this.#granted += late;
      return this.#after(late);
    }
    const early = left - Math.min(FIRST_LOOK_MS, limit / 2);
    this.#suspected = early <= 0 ? this.#heard : undefined;
    this.#after(early > 0 ? early : Math.max(left, -early));
  }

  /** Once all has been read that is there: that takes two turns of the event loop. */
  #confirm(limit: number): void {
    this.#set(() =>
      this.#set(() => {
        if (this.#suspected !== this.#heard) return this.#look();
        this.#watched.giveUpSilent(limit);
      }, 0), 0);
  }
}

/** A pause that can be cut short, and can let the script end meanwhile. */
export class Pause {
  #timer: ReturnType<typeof setTimeout> | undefined;
  #held = true;
  #resume: (() => void) | undefined;
  #over = false;

  /** Waits for so many milliseconds. */
  wait(ms: number): Promise<void> {
    if (this.#over) return Promise.resolve();
    return new Promise((resolve) => {
      this.#resume = resolve;
      this.#timer = setTimeout(resolve, Math.min(ms, MAX_TIMER_MS));
      this.hold(this.#held);
    });
  }

  /** Whether the script stays alive for it. */
  hold(held: boolean): void {
    this.#held = held;
    if (this.#timer === undefined) return;
    if (held) Deno.refTimer(this.#timer);
    else Deno.unrefTimer(this.#timer);
  }

  /** Ends the wait, and every later one. */
  cut(): void {
    this.#over = true;
    clearTimeout(this.#timer);
    this.#resume?.();
  }
}

/** How long nobody must have waited before the script may end for it, in ms. */
const HOLD_MS = 50;

/**
 * Whether the script stays alive for what somebody waits for. Letting go is put off,
 * as the one who got a message mostly waits for the next at once.
 */
export class Hold {
  readonly #set: (held: boolean) => void;
  #held = true;
  #wanted = false;
  #ended = false;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** @param set Holds the script, or lets it go. */
  constructor(set: (held: boolean) => void) {
    this.#set = set;
  }

  /** Tells whether somebody waits. */
  want(wanted: boolean): void {
    this.#wanted = wanted;
    if (wanted === this.#held || this.#ended) return;
    if (wanted) this.apply();
    else this.#timer ??= setTimeout(() => this.apply(), HOLD_MS);
  }

  /** Does at once what is wanted. */
  apply(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#held = this.#wanted;
    this.#set(this.#held);
  }

  /** Leaves it as it is, for good. */
  end(): void {
    this.#ended = true;
    clearTimeout(this.#timer);
  }
}

interface Turn {
  begin(): void;
  next?: Turn;
}

/** Lets callers through one at a time, in the order of their calls. */
export class Turns {
  #taken = false;
  #first: Turn | undefined;
  #last: Turn | undefined;

  /** Takes the next turn: at once where undefined is returned, else when it resolves. */
  take(): Promise<void> | undefined {
    if (this.#taken) return new Promise((begin) => this.#append({ begin }));
    this.#taken = true;
    return undefined;
  }

  #append(turn: Turn): void {
    if (this.#last) this.#last.next = turn;
    else this.#first = turn;
    this.#last = turn;
  }

  /** Ends the turn that was taken: the next one begins. */
  end(): void {
    const turn = this.#first;
    this.#first = turn?.next;
    if (this.#first === undefined) this.#last = undefined;
    if (turn) turn.begin();
    else this.#taken = false;
  }
}

// Fair turns: as long as one socket is ready without a pause, Tokio looks at the others
// only after every 61 tasks
// (https://docs.rs/tokio/1/tokio/runtime/struct.Builder.html#method.event_interval),
// which may take seconds: so all pause for a moment now and then.

/** How long sockets may be read that are always ready, in ms. */
const BURST_MS = 100;

/** Since when they are. */
let burst: number | undefined;
let timer: ReturnType<typeof setTimeout> | undefined;
let wake = () => {};

/** What everybody waits for before reading on, if anything. */
export let yielding: Promise<void> | undefined;

/** To be told after a read that leaves its socket ready. */
export function yieldAfterBurst(): void {
  const now = performance.now();
  burst ??= now;
  if (now - burst < BURST_MS || yielding) return;
  yielding = new Promise((resolve) => wake = resolve);
  // The first timer comes when all that was read is dealt with, and for the second
  // there is nothing else to do but to look.
  timer = setTimeout(() => timer = setTimeout(endYield, 1));
}

/** Lets everybody read on. */
export function endYield(): void {
  if (!yielding) return;
  clearTimeout(timer);
  yielding = burst = undefined;
  wake();
}
