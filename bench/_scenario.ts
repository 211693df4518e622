// Why: what every scenario is given and gives back, and the steps that several
// of them share.

import { freePort } from "../tests/_ports.ts";
import type { Effort, Outcome, Row, Sample } from "./_measure.ts";
import { type Program, Programs } from "./_programs.ts";
import type { Tools } from "./_tools.ts";
import type { Job, Result } from "./sides/_jobs.ts";
import { type Alphabet, END, makeMessages, Tally } from "./sides/_messages.ts";

/** The names of the sides in the results. */
export const CALLBACK = "server callback";
export const RECEIVE = "receive()";
export const FOR_AWAIT = "for await";
export const DAYSTAR = "@daystar/comm";
export const BARE = "bare Deno socket";
export const DECODED = "bare read and TextDecoder";
export const NODE = "Node net, split2";
export const PYTHON = "Python peer";
export const WEBSOCKET = "WebSocket over Deno.serve";

/** What a scenario works with. */
export interface Context {
  effort: Effort;
  quick: boolean;
  tools: Tools;
  messages: MessageFiles;
}

/** What a scenario found. */
export interface Section {
  title: string;
  /** How it is measured. */
  about: string;
  /** What the figures are, and how to write one. */
  unit: string;
  show: (value: number) => string;
  rows: Row[];
  /** The sides that are this module; each is compared with all others. */
  ours: string[];
  /** Whether less is better. */
  less?: boolean;
  outcomes: Outcome[];
  notes: string[];
}

export interface Scenario {
  name: string;
  run(context: Context): Promise<Section>;
}

/** Messages in files, made once. */
export class MessageFiles {
  readonly #folder: string;
  readonly #made = new Map<string, MessageFile>();

  constructor(folder: string) {
    this.#folder = folder;
  }

  async get(size: number, alphabet: Alphabet = "ASCII"): Promise<MessageFile> {
    const key = `${size}-${alphabet}`;
    const known = this.#made.get(key);
    if (known) return known;
    const messages = makeMessages(size, alphabet);
    const path = `${this.#folder}/messages-${key}`;
    await Deno.writeTextFile(
      path,
      messages.map((message) => message + END).join(""),
    );
    const made = new MessageFile(path, messages);
    this.#made.set(key, made);
    return made;
  }
}

/** One file of messages, and the check that they arrived. */
export class MessageFile {
  readonly path: string;
  readonly #messages: string[];

  constructor(path: string, messages: string[]) {
    this.path = path;
    this.#messages = messages;
  }

  /** Throws unless `count` messages arrived, as they were sent. */
  check(who: string, count: number, result: Result): void {
    if (result.count !== count) {
      throw new Error(`${who}: ${result.count} of ${count} messages arrived`);
    }
    if (result.wrong) {
      throw new Error(`${who}: of ${count} messages, some arrived wrong`);
    }
    if (result.sum === undefined) return;
    const tally = new Tally();
    const { length } = this.#messages;
    for (let i = 0; i < count; i++) tally.add(this.#messages[i % length] ?? "");
    if (result.sum !== tally.sum) {
      throw new Error(
        `${who}: not the messages that were sent, or not in order`,
      );
    }
  }
}

/** A job for a port of its own. */
export async function onFreePort<T>(
  job: Partial<Job>,
  work: (job: Partial<Job>) => Promise<T>,
): Promise<T> {
  using free = freePort();
  return await work({ ...job, port: free.port, wire: free.wire });
}

/** Has a job done on each of two sides at once. */
export function both(
  [a, first]: [Program, string],
  [b, second]: [Program, string],
  job: Partial<Job>,
): Promise<[Result, Result]> {
  return Promise.all([a.do(first, job), b.do(second, job)]);
}

/** The rate of so many in the time of a result. */
export function rate(count: number, { seconds = NaN }: Result): Sample {
  return { value: count / seconds, seconds };
}

/** The rate of round trips at the median latency, with both latencies. */
export function roundTrips(
  { seconds = NaN, median = NaN, p99 = NaN }: Result,
): Sample {
  return {
    value: 1e6 / median,
    seconds,
    extras: { "median µs": median, "99 % µs": p99 },
  };
}

export function programs({ tools }: Context): Programs {
  return new Programs(tools);
}

export function sizeName(size: number): string {
  if (size < 1024) return `${size} B`;
  return size < 1_048_576
    ? `${Math.round(size / 1024)} KiB`
    : `${size / 1_048_576} MiB`;
}

export function showRate(value: number): string {
  if (value >= 1e6) return `${digits(value / 1e6)} M`;
  return value >= 1e3 ? `${digits(value / 1e3)} k` : digits(value);
}

/** Three digits, or more before the point. */
export function digits(value: number): string {
  if (!Number.isFinite(value)) return "–";
  const places = value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return value.toFixed(places);
}
