// Why: what connections and scripts cost before the first message: time to
// connect and to start, and memory.

import { deno } from "../../tools/_deno.ts";
import { freePort } from "../../tests/_ports.ts";
import {
  atMost,
  compare,
  type Figures,
  median,
  ratio,
  type Row,
  type Side,
  statOf,
} from "../_measure.ts";
import { type Kind, Programs } from "../_programs.ts";
import {
  BARE,
  type Context,
  DAYSTAR,
  digits,
  NODE,
  onFreePort,
  programs,
  PYTHON,
  rate,
  type Scenario,
  type Section,
  showRate,
} from "../_scenario.ts";

const MOST_FOR_PYTHON = 1000;

const EMPTY = "empty script that listens";

async function connect(context: Context): Promise<Section> {
  const { tools, effort } = context;
  await using all = programs(context);
  const server = all.start("load");
  const client = (name: string, kind: Kind): Promise<Side[]> => {
    if (!tools.has(kind)) return Promise.resolve([]);
    const program = all.start(kind);
    return onFreePort({}, async (job) => {
      await server.do("welcome", job);
      const measure = async (count: number) => {
        const result = await program.do("connect", { ...job, count });
        return rate(count, result);
      };
      return [{ name, measure }];
    });
  };
  const sides = [
    ...await client(DAYSTAR, "daystar"),
    ...await client(BARE, "bare"),
    ...await client(NODE, "node"),
    ...await client(PYTHON, "python"),
  ];
  // Each leaves a port in TIME_WAIT for a minute: not too many.
  const counts = { first: 50, most: 500 };
  const row = await compare(
    { label: "connect and close" },
    sides,
    effort,
    counts,
  );
  return {
    title: "Connecting and closing",
    about:
      "One connection after the other, ended in order: the client says that it is done and " +
      "waits until the server has closed too. The server is the same for all.",
    unit: "connections per second",
    show: showRate,
    rows: [row],
    ours: [DAYSTAR],
    outcomes: [],
    notes: [],
  };
}

/** How many files this process may open, and so its children. */
async function fileLimit(): Promise<number> {
  try {
    const limits = await Deno.readTextFile("/proc/self/limits");
    return Number(limits.match(/^Max open files +(\d+)/m)?.[1] ?? Infinity);
  } catch {
    return Infinity;
  }
}

async function memory(context: Context): Promise<Section> {
  const { tools, effort } = context;
  const limit = await fileLimit() - 100;
  const wanted = context.quick ? [500, 1000] : [1000, 5000, 10_000];
  const steps = wanted.filter((clients) => clients <= limit);
  const notes = wanted.filter((clients) => clients > limit).map((clients) =>
    `${clients} connections are more than the open files that this machine allows.`
  );
  const rows = steps.map((clients): Row => ({
    label: `${clients} connections`,
    sides: new Map(),
  }));
  const sides: [string, Kind, string][] = [
    [DAYSTAR, "daystar", ""],
    [`${BARE}, a read of 1 KiB pending`, "bare", ""],
    [tools.streams.bytes, "streams", "bytes"],
    [NODE, "node", ""],
    [PYTHON, "python", ""],
  ];
  // A fresh process each time: memory that was used stays with a process.
  for (let round = 0; round < (context.quick ? 1 : 3); round++) {
    for (const [name, kind, how] of sides) {
      if (!tools.has(kind)) continue;
      effort.progress(`round ${round + 1}: ${name}`);
      const most = kind === "python" ? MOST_FOR_PYTHON : Infinity;
      const found = await measureMemory(
        tools,
        kind,
        how,
        steps.filter((step) => step <= most),
      );
      for (const [i, each] of found.entries()) {
        const figures: Figures = rows[i]?.sides.get(name) ??
          { values: [], extras: new Map() };
        figures.values.push(each);
        rows[i]?.sides.set(name, figures);
      }
    }
  }
  const at = (clients: number) =>
    rows.find(({ label }) => label.startsWith(`${clients} `));
  const ours = at(5000)?.sides.get(DAYSTAR)?.values;
  const twice = at(10_000)?.sides.get(DAYSTAR)?.values;
  return {
    title: "Memory for an idle connection",
    about:
      "Resident memory of a server with so many connected clients that say nothing, less " +
      "what it was before the first, per connection, after a garbage collection; a fresh process " +
      "each time. Kernel buffers are not in it.",
    unit: "KB per connection",
    show: digits,
    rows,
    ours: [DAYSTAR],
    less: true,
    outcomes: [
      atMost("KB for an idle connection at 5,000", 16, ours && statOf(ours)),
      atMost(
        "memory for 10,000 ÷ for 5,000",
        2,
        ours && twice &&
          statOf(twice.map((each, i) => 2 * each / (ours[i] ?? NaN))),
      ),
    ],
    notes,
  };
}

/** KB per connection at each of the numbers of clients. */
function measureMemory(
  tools: Context["tools"],
  kind: Kind,
  how: string,
  steps: number[],
): Promise<number[]> {
  return onFreePort({ how }, async (job) => {
    await using all = new Programs(tools);
    const server = all.start(kind);
    const load = all.start("load");
    await server.do("listen", job);
    // What the first connections load is not theirs.
    const { rss: before = NaN } = await server.do("memory", {
      ...job,
      clients: 0,
    });
    const found: number[] = [];
    for (const clients of steps) {
      await load.do("idle", { ...job, clients });
      const { rss = NaN } = await server.do("memory", { ...job, clients });
      found.push((rss - before) / clients / 1000);
    }
    await load.do("leave");
    return found;
  });
}

async function startUp(context: Context): Promise<Section> {
  const { effort } = context;
  const script = (name: string, file: string): Side => ({
    name,
    async measure() {
      using port = freePort();
      const argument = file.includes("empty") ? port.wire : port.port;
      const start = performance.now();
      const { success } = await deno([
        "run",
        "--allow-net=127.0.0.1",
        `bench/sides/${file}`,
        `${argument}`,
      ]).output();
      const seconds = (performance.now() - start) / 1000;
      if (!success) throw new Error(`${name} failed`);
      return { value: 1000 * seconds, seconds };
    },
  });
  const sides = [
    script(DAYSTAR, "start_up.ts"),
    script(EMPTY, "start_up_empty.ts"),
  ];
  const many = { ...effort, rounds: effort.rounds * 5 };
  const row = await compare({ label: "start and end" }, sides, many, {
    first: 1,
    most: 1,
  });
  return {
    title: "Start-up",
    about:
      "A script that imports mod.ts, listens and ends, against one that imports nothing, " +
      "listens and ends: from start to end of the process.",
    unit: "ms",
    show: digits,
    rows: [row],
    ours: [DAYSTAR],
    less: true,
    outcomes: [
      atMost(`start-up ÷ ${EMPTY}`, 1.15, ratio(row, DAYSTAR, EMPTY)),
    ],
    notes: [
      `The difference is ${
        digits(median(row, DAYSTAR) - median(row, EMPTY))
      } ms.`,
    ],
  };
}

export const resources: Scenario[] = [
  { name: "connect", run: connect },
  { name: "memory", run: memory },
  { name: "start-up", run: startUp },
];
