// Why: one way to measure whatever is compared: each side is a process, and so is
// the load generator that faces it, which has the only clock.

import { freePort } from "../tests/_ports.ts";
import {
  compare,
  type Counts,
  type Effort,
  type Outcome,
  type Row,
  type Sample,
  type Side,
} from "./_measure.ts";
import { Program } from "./_programs.ts";
import type { Kind, Tools } from "./_tools.ts";
import {
  type Alphabet,
  END,
  makeMessages,
  reportsOf,
} from "./sides/_messages.ts";

/** The names of the sides in the results. */
export const OURS = "@daystar/comm";
export const BARE = "bare Deno loop";

/** A name, a program, and the mode that it runs in. */
export type Contender = [name: string, kind: Kind, mode: string];

/** All that can serve, in one mode. */
export function servers(mode: string): Contender[] {
  return [
    [OURS, "daystar", mode],
    [BARE, "bare", mode],
    ["Node", "node", mode],
    ["Bun", "bun", mode],
    ["Go", "go", mode],
    ["C, epoll", "c", mode],
    ["Python peer", "python", mode],
  ];
}

/** What a scenario works with. */
export interface Context {
  effort: Effort;
  quick: boolean;
  tools: Tools;
  files: MessageFiles;
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
  /** Whether the sides are compared with this module's. */
  compares: boolean;
  outcomes: Outcome[];
}

export interface Scenario {
  name: string;
  run(context: Context): Promise<Section>;
}

/** Files of messages, made once. */
export class MessageFiles {
  readonly #folder: string;
  readonly #made = new Map<string, MessageFile>();

  constructor(folder: string) {
    this.#folder = folder;
  }

  get(size: number, alphabet: Alphabet): MessageFile {
    const path = `${this.#folder}/messages-${size}-${alphabet}`;
    const known = this.#made.get(path);
    if (known) return known;
    const made = new MessageFile(path, makeMessages(size, alphabet));
    this.#made.set(path, made);
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
    Deno.writeTextFileSync(path, messages.map((one) => one + END).join(""));
  }

  /** Throws unless all messages arrived, as they were sent. */
  check(who: string, { count, wrong, reply }: Loaded): void {
    if (wrong) throw new Error(`${who}: ${wrong} bytes arrived wrong`);
    if (
      reply !== undefined && !reportsOf(this.#messages, count).includes(reply)
    ) {
      throw new Error(`${who}: of ${count} messages, ${reply} arrived`);
    }
  }
}

/** What the load generator answers. */
export interface Loaded {
  seconds: number;
  count: number;
  wrong: number;
  /** The report of a side that counts. */
  reply?: string;
  /** Latencies in microseconds. */
  median?: number;
  p99?: number;
}

/** How the load generator gets its connections. */
type How = "dial" | "listen" | "udp";

/** Modes of clients, which dial themselves. */
const CLIENTS = ["receive", "for-await", "send-each", "send-many"];

function howOf(mode: string): How {
  if (mode === "udp") return mode;
  return CLIENTS.includes(mode) ? "listen" : "dial";
}

/** A side and the load generator that faces it. */
export class Pair implements AsyncDisposable {
  readonly #stack = new AsyncDisposableStack();
  readonly #tools: Tools;
  readonly #load: Program;
  readonly #wire: number;
  readonly #file: MessageFile;
  #side: Program | undefined;

  private constructor(tools: Tools, file: MessageFile) {
    this.#tools = tools;
    this.#file = file;
    this.#wire = this.#stack.use(freePort()).wire;
    // It ends last: a side whose peer goes first would complain.
    this.#load = this.#start(tools.commands.get("load"));
  }

  #start(command: string[] = [], ...args: string[]): Program {
    const all = [...this.#tools.pin, ...command, ...args];
    return this.#stack.use(new Program(all));
  }

  /** Starts both, and opens the connections; a side that dials needs a listener first. */
  static async start(
    { tools }: Context,
    [, kind, mode]: Contender,
    file: MessageFile,
    conns: number,
  ): Promise<Pair> {
    const pair = new Pair(tools, file);
    const how = howOf(mode);
    try {
      if (how === "listen") await pair.open(conns, how);
      const command = tools.commands.get(kind);
      pair.#side = pair.#start(command, mode, `${pair.#wire}`, file.path);
      await pair.#side.line(); // "ready"
      if (how !== "listen" && conns > 0) await pair.open(conns, how);
      return pair;
    } catch (error) {
      await pair[Symbol.asyncDispose]();
      throw error;
    }
  }

  get side(): Program {
    if (!this.#side) throw new Error("The side has not started");
    return this.#side;
  }

  /** Opens connections. */
  async open(conns: number, how: How = "dial"): Promise<void> {
    // A peer may answer only ports of the range, so UDP needs one on this side too.
    const more = how === "udp" ? this.#stack.use(freePort()).wire : conns;
    await this.load(`open ${this.#wire} ${more} ${how} ${this.#file.path}`);
  }

  /** Has the load generator do something. */
  async load(command: string): Promise<Loaded> {
    return JSON.parse(await this.#load.ask(command)) as Loaded;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

/** The names of the extra figures. */
export const CPU = "CPU µs";
export const MEDIAN = "median µs";
export const P99 = "99 % µs";

/** One row of a comparison. */
export interface Plan {
  label: string;
  contenders: Contender[];
  /** What the load generator does, and how many are in flight. */
  does: "blast" | "window" | "order" | "datagrams";
  inFlight?: number;
  size?: number;
  alphabet?: Alphabet;
  conns?: number;
}

/** Measures one row: messages per second, and CPU time for each. */
export async function measureRow(context: Context, plan: Plan): Promise<Row> {
  const { size = 64, alphabet = "ASCII", conns = 1 } = plan;
  const file = context.files.get(size, alphabet);
  await using stack = new AsyncDisposableStack();
  const open = async (contender: Contender): Promise<Side> => {
    const pair = await Pair.start(context, contender, file, conns);
    stack.use(pair);
    const [name] = contender;
    return {
      name,
      measure: (count) => measure(name, pair, plan, file, count),
    };
  };
  const sides: Side[] = [];
  for (const contender of plan.contenders) {
    if (!context.tools.commands.has(contender[1])) continue;
    sides.push(await open(contender));
  }
  return await compare(plan.label, sides, context.effort, countsOf(plan));
}

async function measure(
  name: string,
  pair: Pair,
  { does, inFlight = 0, conns = 1 }: Plan,
  file: MessageFile,
  count: number,
): Promise<Sample> {
  // An order is for all connections: the count is what they receive together.
  const each = does === "order" ? count / conns : count;
  const before = pair.side.cpuSeconds();
  const result = await pair.load(`${does} ${each} ${inFlight}`);
  const cpu = pair.side.cpuSeconds() - before;
  file.check(name, result);
  const { seconds, median = NaN, p99 = NaN } = result;
  const extras = { [CPU]: 1e6 * cpu / count, [MEDIAN]: median, [P99]: p99 };
  return { value: count / seconds, seconds, extras };
}

/** About a megabyte to begin with, and no more than 2 GB. */
function countsOf({ does, size = 64, conns = 1 }: Plan): Counts {
  const first = Math.max(1, Math.min(2000, Math.round(1_048_576 / size)));
  return {
    first: conns * Math.max(1, Math.round(first / conns)),
    most: Math.min(does === "blast" ? 10_000_000 : 2_000_000, 2e9 / size),
    step: conns,
  };
}

export function showRate(value: number): string {
  if (value >= 1e6) return `${digits(value / 1e6)} M`;
  return value >= 1e3 ? `${digits(value / 1e3)} k` : digits(value);
}

/** Three digits, or more before the point. */
export function digits(value: number): string {
  if (!Number.isFinite(value)) return "–";
  if (value !== 0 && Math.abs(value) < 0.1) return value.toFixed(3);
  return value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2);
}
