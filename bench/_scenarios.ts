// Why: what is compared, and what is to be reached: each scenario is a few rows
// of plans.

import { ROOT } from "../tools/_deno.ts";
import { freePort } from "../tests/_ports.ts";
import {
  compare,
  Figures,
  type Outcome,
  ratio,
  type Row,
  type Side,
  statOf,
} from "./_measure.ts";
import {
  BARE,
  type Contender,
  type Context,
  CPU,
  digits,
  measureRow,
  OURS,
  Pair,
  type Plan,
  type Scenario,
  type Section,
  servers,
  showRate,
} from "./_rows.ts";
import { outputOf } from "./_tools.ts";

const KIB = 1024;
const MIB = KIB * KIB;

const ASYNC = "@daystar/comm, async callback";
const RECEIVE = "@daystar/comm, receive()";
const FOR_AWAIT = "@daystar/comm, for await";
const AWAITED = "@daystar/comm, each awaited";
const STREAMS = "Deno streams";

/** Measures the rows of a scenario; those beyond `quick` only in a whole run. */
async function measureRows(
  context: Context,
  plans: Plan[],
  quick = plans.length,
): Promise<Map<string, Row>> {
  const rows = new Map<string, Row>();
  for (const plan of context.quick ? plans.slice(0, quick) : plans) {
    rows.set(plan.label, await measureRow(context, plan));
  }
  return rows;
}

/** Throughput, beside the CPU time of each message. */
function rates(
  title: string,
  about: string,
  unit: string,
  rows: Map<string, Row>,
  outcomes: Outcome[],
): Section {
  return {
    title,
    about,
    unit: `${unit} per second (CPU µs of the side's process for each)`,
    show: showRate,
    rows: [...rows.values()],
    compares: true,
    outcomes,
  };
}

/** How many times the bare loop this module is, by rate and by CPU time. */
function againstBare(
  what: string,
  least: number | undefined,
  row: Row | undefined,
  ours = OURS,
): Outcome {
  return {
    what: `${what} ÷ bare loop`,
    ...(least !== undefined && { least }),
    figure: ratio(row, ours, BARE),
    byCpu: ratio(row, BARE, ours, CPU),
  };
}

async function echo(context: Context): Promise<Section> {
  const plan = (conns: number, inFlight: number): Plan => ({
    label: `${conns} × ${inFlight}`,
    does: "window",
    conns,
    inFlight,
    contenders: [
      ...servers("echo"),
      ...(inFlight > 1 ? [[ASYNC, "daystar", "echo-async"] as Contender] : []),
    ],
  });
  const plans = [plan(1, 1000), plan(1, 64), plan(1, 1), plan(100, 1)];
  const rows = await measureRows(context, [...plans, plan(10, 1)], 4);
  const [many, some, one, hundred] = plans.map(({ label }) => rows.get(label));
  return rates(
    "Echo",
    "A server sends back messages of 64 B. The rows are connections × messages in flight " +
      "on each. The bare loop splits what it reads into messages, joins them again, and " +
      "writes once for each read.",
    "messages",
    rows,
    [
      againstBare("echo, 1,000 in flight", 0.8, many),
      againstBare("echo, 64 in flight", 0.93, some),
      againstBare("async callback, 1,000 in flight", undefined, many, ASYNC),
      againstBare("async callback, 64 in flight", undefined, some, ASYNC),
      againstBare("echo, 1 in flight", 0.97, one),
      againstBare("echo, 100 connections, 1 in flight each", 0.97, hundred),
    ],
  );
}

async function receive(context: Context): Promise<Section> {
  const plan = (
    label: string,
    size: number,
    alphabet: Plan["alphabet"] = "ASCII",
  ): Plan => ({
    label,
    does: "blast",
    size,
    alphabet,
    contenders: [
      ...servers("count"),
      [RECEIVE, "daystar", "receive"],
      [FOR_AWAIT, "daystar", "for-await"],
      [STREAMS, "bare", "streams"],
    ],
  });
  const plans = [
    plan("64 B", 64),
    plan("1 KiB", KIB),
    plan("1 KiB Chinese", KIB, "Chinese"),
    plan("64 KiB", 64 * KIB),
    plan("1 MiB", MIB),
  ];
  const rows = await measureRows(context, plans, 3);
  return rates(
    "Receiving one way",
    "One connection, messages as fast as they come. A callback looks at each message (length, " +
      "first and last character), so that text that was put together lazily is paid for. The " +
      "bare loop splits what it reads into messages, and calls nobody.",
    "messages",
    rows,
    [
      againstBare("64 B one way, a callback each", 0.8, rows.get("64 B")),
      againstBare("1 KiB ASCII one way", 0.8, rows.get("1 KiB")),
      againstBare("1 KiB Chinese one way", 0.78, rows.get("1 KiB Chinese")),
    ],
  );
}

async function send(context: Context): Promise<Section> {
  const plan: Plan = {
    label: "64 B",
    does: "order",
    contenders: [
      [OURS, "daystar", "send-many"],
      [AWAITED, "daystar", "send-each"],
      ["bare Deno loop, each awaited", "bare", "send-each"],
      ["bare Deno loop, 1,000 in a write", "bare", "send-many"],
    ],
  };
  return rates(
    "Sending one way",
    "A client sends messages of 64 B as fast as they go; in the first line 1 in 1,000 is awaited.",
    "messages",
    await measureRows(context, [plan]),
    [],
  );
}

async function udp(context: Context): Promise<Section> {
  const plan: Plan = {
    label: "64 B",
    does: "datagrams",
    contenders: servers("udp"),
  };
  const rows = await measureRows(context, [plan]);
  return rates(
    "UDP there and back",
    "Datagrams of 64 B that are sent back, one in flight. The bare loop makes no text of them.",
    "round trips",
    rows,
    [againstBare("UDP there and back", 0.9, rows.get("64 B"))],
  );
}

async function fanOut(context: Context): Promise<Section> {
  const plan = (conns: number): Plan => ({
    label: `${conns} clients`,
    does: "order",
    conns,
    contenders: servers("send"),
  });
  const rows = await measureRows(context, [plan(500), plan(10)], 1);
  return rates(
    "sendToAll",
    "Messages of 64 B, one after the other, each to all clients. The bare loop writes to all " +
      "connections at once and waits for all writes.",
    "deliveries",
    rows,
    [againstBare("sendToAll to 500", 0.95, rows.get("500 clients"))],
  );
}

/** Connections that do nothing: enough to see what one costs. */
const IDLE = 500;

/** Starts a server of this module or another one. */
function startIdle(
  context: Context,
  contender: Contender,
  conns: number,
): Promise<Pair> {
  const file = context.files.get(64, "ASCII");
  return Pair.start(context, contender, file, conns);
}

/** Connects, and waits until the last connection is served, and so all are. */
async function connectIdle(pair: Pair): Promise<void> {
  await pair.open(IDLE);
  await pair.load("blast 0");
}

/** Live bytes of an idle connection: silent, and after one message. */
async function idleHeap(context: Context): Promise<[number, number]> {
  await using pair = await startIdle(context, [OURS, "daystar", "count"], 0);
  const heap = async () => Number(await pair.side.ask(""));
  const before = await heap();
  await connectIdle(pair);
  const silent = await heap();
  await pair.load("touch");
  for (let tries = 0, got = 0; got < IDLE; tries++) {
    if (tries > 1000) throw new Error(`${got} of ${IDLE} messages arrived`);
    const { reply = "" } = await pair.load("blast 0");
    got += Number(reply.split(" ")[0]);
  }
  return [(silent - before) / IDLE, (await heap() - before) / IDLE];
}

/** Resident bytes of an idle connection. */
async function idleResident(
  context: Context,
  contender: Contender,
): Promise<number> {
  await using pair = await startIdle(context, contender, 0);
  const before = pair.side.residentBytes();
  await connectIdle(pair);
  return (pair.side.residentBytes() - before) / IDLE;
}

/** Bytes of heap for each message that waits for a stuck client. */
async function waitingHeap(context: Context): Promise<number> {
  await using pair = await startIdle(context, [OURS, "daystar", "waiting"], 1);
  await pair.load("touch");
  return Number(await pair.side.ask(""));
}

function atMost(what: string, most: number, { values }: Figures): Outcome {
  return { what, most, figure: statOf(values) };
}

async function memory(context: Context): Promise<Section> {
  const waiting = new Figures();
  const silent = new Figures();
  const touched = new Figures();
  const resident: Row = { label: "resident KiB", sides: new Map() };
  const contenders = servers("count")
    .filter(([, kind]) => context.tools.commands.has(kind));
  // A fresh process each time: memory that was used stays with a process.
  for (let round = 0; round < (context.quick ? 1 : 3); round++) {
    context.effort.progress(`round ${round + 1}`);
    waiting.add({ value: await waitingHeap(context) });
    const [first, second] = await idleHeap(context);
    silent.add({ value: first / KIB });
    touched.add({ value: second / KIB });
    for (const contender of contenders) {
      const [name] = contender;
      const all = resident.sides.get(name) ?? new Figures();
      all.add({ value: await idleResident(context, contender) / KIB });
      resident.sides.set(name, all);
    }
  }
  const heap = (label: string, figures: Figures): Row => ({
    label,
    sides: new Map([[OURS, figures]]),
  });
  return {
    title: "Memory of an idle connection",
    about:
      `What each of ${IDLE} connections adds to a fresh server: its resident memory, as the ` +
      "operating system tells, and for this module the bytes that live after a garbage collection.",
    unit: "KiB",
    show: digits,
    rows: [
      resident,
      heap("live, silent", silent),
      heap("live, after a message", touched),
    ],
    compares: false,
    outcomes: [
      atMost(
        "bytes of heap for each message of 5 bytes that waits",
        200,
        waiting,
      ),
      atMost("KiB of an idle connection, silent", 9, silent),
      atMost("KiB of an idle connection after one message", 11, touched),
    ],
  };
}

const LISTENS = "only listens";

async function startUp(context: Context): Promise<Section> {
  const { effort } = context;
  const script = (name: string, file: string): Side => ({
    name,
    async measure() {
      using port = freePort();
      const argument = name === LISTENS ? port.wire : port.port;
      const path = `bench/sides/${file}`;
      const start = performance.now();
      const output = await outputOf(
        Deno.execPath(),
        ["run", "--allow-net=127.0.0.1", path, `${argument}`],
        { cwd: ROOT, env: { DENO_NO_UPDATE_CHECK: "1" } },
      );
      const seconds = (performance.now() - start) / 1000;
      if (output === null) throw new Error(`${name} failed`);
      return { value: 1000 * seconds, seconds };
    },
  });
  const row = await compare(
    "start and end",
    [script(OURS, "start_up.ts"), script(LISTENS, "start_up_empty.ts")],
    { ...effort, rounds: effort.rounds * 5 },
    { first: 1, most: 1 },
  );
  return {
    title: "Start-up",
    about:
      "A script that imports mod.ts, listens and ends, and one that only listens and ends: " +
      "from start to end of the process.",
    unit: "ms",
    show: digits,
    rows: [row],
    compares: false,
    outcomes: [{
      what: "start-up with mod.ts ÷ a script that only listens",
      most: 1.15,
      figure: ratio(row, OURS, LISTENS),
    }],
  };
}

export const SCENARIOS: Scenario[] = [
  { name: "echo", run: echo },
  { name: "receive", run: receive },
  { name: "udp", run: udp },
  { name: "send-to-all", run: fanOut },
  { name: "send", run: send },
  { name: "memory", run: memory },
  { name: "start-up", run: startUp },
];
