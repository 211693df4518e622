// Why: see soak.ts. Mixed traffic for so many seconds, among faults: every message
// that was promised is accounted for, and memory does not grow. Before that, what
// `deno task test` tries in small, in full where it is 600 seconds or more.

import { parseArgs } from "node:util";
import { load } from "./faults/_load.ts";
import { Authority } from "./_certificates.ts";
import { fuzzDecoder, fuzzSockets, newSeed } from "./_fuzz.ts";
import { LOOPBACK, onLinux } from "./_machine.ts";
import { freePort } from "./_ports.ts";
import { ROOT } from "./_process.ts";
import {
  type Called,
  IDLE_TIMEOUT,
  type Look,
  type Orders,
  type Returned,
  type Served,
} from "./_soak_side.ts";

const FULL = 600;
/** How much memory may be more at the end than after the first minute, in bytes … */
const HEAP = 8 * 1024 ** 2;
const RSS = 64 * 1024 ** 2;
/** … and in less than that, while processes still grow to their size. */
const EARLY_RSS = 160 * 1024 ** 2;
/** How long a process may take to answer, to end, to be ready, in ms. */
const PATIENCE = 60_000;
/** How long all of them stand still at once, as if the machine were paused, in ms. */
const STANDSTILL = IDLE_TIMEOUT + 1_000;

type Line = [what: string, ...rest: unknown[]];

const begin = performance.now();

function say(text: string): void {
  const seconds = Math.round((performance.now() - begin) / 1000);
  console.log(`${`${seconds}`.padStart(5)} s  ${text}`);
}

function check(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Error(what);
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

async function soon<T>(promise: Promise<T>, what: string): Promise<T> {
  let timer;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: too late`)), PATIENCE);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** One of the processes. */
class Side implements AsyncDisposable {
  readonly name: string;
  readonly #child: Deno.ChildProcess;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  readonly #waiting = new Map<string, (line: Line) => void>();
  readonly #ended: Promise<void>;
  readonly #hear: (line: Line) => void;

  private constructor(orders: Orders, hear: (line: Line) => void) {
    this.name = `${orders.role} ${orders.id}`;
    this.#hear = hear;
    this.#child = new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "--quiet", "--no-config", "--no-prompt", "--unstable-net"],
        ...["--allow-net=127.0.0.1", "--v8-flags=--expose-gc"],
        ...["tests/_soak_side.ts", JSON.stringify(orders)],
      ],
      cwd: ROOT,
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#writer = this.#child.stdin.getWriter();
    this.#ended = this.#listen();
  }

  static async start(
    orders: Orders,
    hear: (line: Line) => void = () => {},
  ): Promise<Side> {
    const side = new Side(orders, hear);
    await side.next("ready");
    return side;
  }

  async #listen(): Promise<void> {
    let text = "";
    const decoded = this.#child.stdout.pipeThrough(new TextDecoderStream());
    for await (const chunk of decoded) {
      const lines = (text + chunk).split("\n");
      text = lines.pop() ?? "";
      for (const line of lines) {
        const parsed = JSON.parse(line) as Line;
        this.#waiting.get(parsed[0])?.(parsed);
        this.#hear(parsed);
      }
    }
  }

  /** What it tells next under this name; an error if it ends before. */
  next(what: string): Promise<unknown> {
    const told = new Promise<unknown>((resolve, reject) => {
      this.#waiting.set(what, ([, value]) => resolve(value));
      this.#ended.then(
        () => reject(new Error(`${this.name} has ended`)),
        reject,
      );
    });
    return soon(told, `${this.name}: ${what}`);
  }

  async look(): Promise<Look> {
    const told = this.next("look");
    await this.#writer.write(new TextEncoder().encode("look\n"));
    return await told as Look;
  }

  /** Ends it in order; returns what it has found. */
  async stop(): Promise<unknown> {
    const found = this.next("found");
    await this.#writer.write(new TextEncoder().encode("stop\n"));
    const value = await found;
    const { code } = await soon(this.#child.status, `${this.name}: end`);
    check(code === 0, `${this.name} ended with ${code}`);
    await this.#ended;
    return value;
  }

  /** Kills it in the middle of whatever it does; what it had told is heard. */
  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#child.status;
    await this.#ended;
  }

  /** As if the machine were busy with something else. */
  async freeze(ms: number): Promise<void> {
    this.#child.kill("SIGSTOP");
    await pause(ms);
    this.#child.kill("SIGCONT");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await this.#child.status;
    await this.#ended.catch(() => {});
    await this.#writer.abort().catch(() => {});
  }
}

/** What the server that is killed has got: for each client, by life, first and last number. */
class Ledger {
  readonly #runs = new Map<string, [first: number, last: number][]>();
  readonly #life = new Set<string>();
  count = 0;
  lives = 0;

  hear = ([what, id, number]: Line): void => {
    if (what !== "got") return;
    this.count++;
    const runs = this.#runs.get(id as string) ?? [];
    this.#runs.set(id as string, runs);
    const run = runs.at(-1);
    const got = number as number;
    check(!run || got > run[1], `${id} ${got} came after ${run?.[1]}`);
    if (run && this.#life.has(id as string)) {
      check(got === run[1] + 1, `${id} lost ${run[1] + 1} and no break`);
      run[1] = got;
    } else {
      runs.push([got, got]);
      this.#life.add(id as string);
    }
  };

  newLife(): void {
    this.lives++;
    this.#life.clear();
  }

  /** Each run begins with what was first for its connection, and the last ends with the last. */
  settle({ id, sent, starts }: Returned): number {
    const runs = this.#runs.get(id) ?? [];
    const possible = new Set(starts);
    for (const [first] of runs) {
      check(possible.has(first), `${id} ${first} was not the first of any`);
    }
    check(runs.at(-1)?.[1] === sent - 1, `${id} ${sent - 1} never came`);
    const got = runs.reduce((sum, [first, last]) => sum + last - first + 1, 0);
    return sent - got;
  }
}

function mib(bytes: number): string {
  return (bytes / 1024 ** 2).toFixed(1);
}

function showMemory({ heap, rss }: Look): string {
  return `heap ${mib(heap)} of ${mib(rss)}`;
}

/** Nobody may wait for ever unnoticed. */
function checkProgress(side: Side, before: Look, after: Look): void {
  for (const [job, steps] of Object.entries(before.steps)) {
    check((after.steps[job] ?? 0) > steps, `${side.name}: ${job} is stuck`);
  }
}

async function mixed(seconds: number): Promise<void> {
  const authority = await Authority.create("soak");
  using stack = new DisposableStack();
  const [plain, tls, mortalPort, udp, ...owns] = Array.from(
    { length: 7 },
    () => stack.use(freePort()).port,
  );
  const orders = (role: Orders["role"], id: string, own = 0): Orders => ({
    ...{ role, id },
    ports: {
      ...{ plain: plain ?? 0, tls: tls ?? 0, mortal: mortalPort ?? 0 },
      ...{ udp: udp ?? 0, own },
    },
    tls: { ...certificate, ca: authority.cert },
  });
  const certificate = await authority.issue([LOOPBACK]);

  await using sides = new AsyncDisposableStack();
  const start = async (...args: Parameters<typeof Side.start>) =>
    sides.use(await Side.start(...args));
  const steady = await start(orders("steady", "s"), ([what, ...rest]) => {
    if (what === "gave up") say(`the server gave up ${rest.join(": ")}`);
  });
  const callers = await Promise.all(
    ["a", "b"].map((id, i) => start(orders("call", id, owns[i]))),
  );
  const ledger = new Ledger();
  const live = () => Side.start(orders("mortal", "m"), ledger.hear);
  let mortal = await live();
  let vandal = await Side.start(orders("vandalize", "v"));
  const returner = await start(orders("comeBack", "r"));

  const watched = [steady, ...callers, returner];
  const end = performance.now() + seconds * 1000;
  const firstLook = Math.min(60, seconds / 3);
  let nextLook = performance.now() + firstLook * 1000;
  let before: Look[] | undefined;
  let seen: Look[] | undefined;
  let freezes = 0;
  let vandals = 1;
  let standstill = end - seconds * 500;
  let report = performance.now() + 10_000;
  try {
    while (performance.now() < end) {
      await pause(200 + Math.random() * 800);
      const dice = Math.random();
      if (performance.now() > standstill) {
        const all = [...watched, mortal, vandal];
        await Promise.all(all.map((side) => side.freeze(STANDSTILL)));
        standstill += Math.max(60_000, seconds * 100);
        say(`all stood still for ${STANDSTILL} ms`);
      } else if (dice < 0.5) {
        await mortal.kill();
        ledger.newLife();
        mortal = await live();
      } else if (dice < 0.7) {
        await vandal.kill();
        vandal = await Side.start(orders("vandalize", "v"));
        vandals++;
      } else {
        const frozen = [...watched, mortal][Math.floor(Math.random() * 5)];
        await frozen?.freeze(Math.random() * 1000);
        freezes++;
      }
      if (performance.now() > nextLook) {
        const looks = await Promise.all(watched.map((side) => side.look()));
        for (const [i, side] of watched.entries()) {
          const [last, look] = [seen?.[i], looks[i]];
          if (last && look) checkProgress(side, last, look);
        }
        seen = looks;
        before ??= looks;
        nextLook += Math.max(10_000, seconds * 100);
        say(`memory: ${looks.map(showMemory).join(", ")} MiB`);
      }
      if (performance.now() < report) continue;
      report += Math.max(10_000, seconds * 50);
      say(
        `${ledger.lives} kills, ${vandals} vandals, ${freezes} freezes; ` +
          `${ledger.count} messages got between kills`,
      );
    }
    const after = await Promise.all(watched.map((side) => side.look()));
    await vandal.stop().catch(() => vandal.kill());

    const returned = await returner.stop() as Returned[];
    // All is read before it ends, as its clients have ended in order.
    await mortal.stop();
    let lost = 0;
    let sent = 0;
    let breaks = 0;
    for (const one of returned) {
      lost += ledger.settle(one);
      sent += one.sent;
      breaks += one.starts.length - 1;
    }
    say(
      `reconnect: ${sent} messages over ${breaks} breaks, in order, none twice, ` +
        `${lost} lost with the kernel of a killed server`,
    );

    const called = (await Promise.all(callers.map((side) => side.stop())))
      .map((found) => found as Called[]);
    const total = (key: keyof Called) =>
      called.flat().reduce((sum, found) => sum + found[key], 0);
    check(total("sent") === total("echoed"), "every message has its echo");
    check(total("pushes") > 0, "there were pushes");
    const served = await steady.stop() as Served;
    say(
      `echoes: ${total("echoed")} of ${total("sent")} messages, in order; ` +
        `${total("pushes")} of ${served.pushed} pushes to each, none missing`,
    );
    const whole = Object.values(served.datagrams)
      .reduce((sum, count) => sum + count, 0);
    check(whole > 0 && whole <= total("datagrams"), "datagrams came");
    say(
      `datagrams: ${whole} of ${total("datagrams")}, whole, none twice; ` +
        `${served.strange} of strangers`,
    );
    say(`the server saw ${JSON.stringify(served.stats)}`);

    check(before !== undefined, "memory was looked at");
    const room = firstLook < 60 ? EARLY_RSS : RSS;
    for (const [i, side] of watched.entries()) {
      const [early, late] = [before[i], after[i]];
      check(!!early && !!late, side.name);
      say(
        `memory of ${side.name}: heap ${mib(early.heap)} to ${
          mib(late.heap)
        }, ` +
          `all ${mib(early.rss)} to ${mib(late.rss)} MiB`,
      );
      check(late.heap - early.heap < HEAP, `${side.name}: the heap grows`);
      check(late.rss - early.rss < room, `${side.name}: memory grows`);
    }
  } finally {
    await vandal[Symbol.asyncDispose]();
    await mortal[Symbol.asyncDispose]();
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    args: Deno.args,
    options: { seconds: { type: "string", default: `${FULL}` } },
  });
  const seconds = Number(values.seconds);
  check(seconds >= 10, "--seconds takes 10 or more");
  const share = Math.min(1, seconds / FULL);
  const count = (full: number) => Math.ceil(full * share);
  const seed = newSeed();

  fuzzDecoder(count(1_000_000), seed);
  say(`${count(1_000_000)} random streams through the decoder (seed ${seed})`);
  await fuzzSockets(count(10_000), seed);
  say(`${count(10_000)} random streams through sockets (seed ${seed})`);
  if (onLinux) {
    const figures = await load({
      connections: count(10_000),
      rate: 1_000,
      seconds: count(60),
    });
    for (const figure of figures) say(figure);
  } else say("load: ignored, as it counts what is in /proc");
  say(`mixed traffic for ${seconds} s`);
  await mixed(seconds);
}

try {
  await main();
  say("soak: all accounted for");
} catch (error) {
  console.error(error);
  say("soak: FAILED");
  Deno.exit(1);
}
