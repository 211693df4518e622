// Why: how fast messages are received and sent where nobody answers.

import {
  atLeast,
  compare,
  flat,
  median,
  ratio,
  type Row,
  type Side,
} from "../_measure.ts";
import type { Kind } from "../_programs.ts";
import {
  BARE,
  both,
  CALLBACK,
  type Context,
  DECODED,
  FOR_AWAIT,
  type MessageFile,
  NODE,
  onFreePort,
  programs,
  PYTHON,
  rate,
  RECEIVE,
  type Scenario,
  type Section,
  showRate,
  sizeName,
  WEBSOCKET,
} from "../_scenario.ts";
import type { Alphabet } from "../sides/_messages.ts";

const KIB = 1024;
const MIB = KIB * KIB;

const AWAITED = "send, each awaited";
const NOT_AWAITED = "send, 1 in 1000 awaited";
const BARE_AWAITED = "bare write for each, awaited";
const BARE_LARGE = "bare writes of 256 KiB";

/** About a megabyte, to begin with. */
function first(size: number): number {
  return Math.max(1, Math.round(MIB / (size + 1)));
}

function most(size: number): number {
  return Math.max(4, Math.min(10_000_000, Math.round(2e9 / size)));
}

function labelOf(size: number, alphabet: Alphabet): string {
  return `${sizeName(size)} ${alphabet}`;
}

/** One size and alphabet, received by all sides. */
export async function receiveRow(
  context: Context,
  size: number,
  alphabet: Alphabet,
  piece = 0,
  only?: string[],
): Promise<Row> {
  const { tools, effort, messages } = context;
  const file = await messages.get(size, alphabet);
  await using all = programs(context);
  const load = all.start("load");

  const receiver = (name: string, kind: Kind, how: string): Side[] => {
    if (!tools.has(kind) || only && !only.includes(name)) return [];
    const program = all.start(kind);
    const listens = how === "callback" || how === "WebSocket";
    const measure = (count: number) =>
      onFreePort({ file: file.path, count, how, piece }, async (job) => {
        await (listens ? program : load).do("listen", job);
        const [result] = await both(
          [program, listens ? "arrived" : "receive"],
          [load, "feed"],
          job,
        );
        file.check(name, count, result);
        return rate(count, result);
      });
    return [{ name, measure }];
  };
  const sides = [
    ...receiver(CALLBACK, "daystar", "callback"),
    ...receiver(RECEIVE, "daystar", "receive"),
    ...receiver(FOR_AWAIT, "daystar", "for await"),
    ...receiver(BARE, "bare", ""),
    ...(alphabet === "ASCII" ? receiver(DECODED, "bare", "decoded") : []),
    ...receiver(tools.streams.bytes, "streams", "bytes"),
    ...receiver(tools.streams.text, "streams", "text"),
    ...receiver(NODE, "node", ""),
    ...receiver(PYTHON, "python", ""),
    ...receiver(WEBSOCKET, "websocket", "WebSocket"),
  ];
  const counts = { first: first(size), most: most(size) };
  return await compare(
    { label: labelOf(size, alphabet), size },
    sides,
    effort,
    counts,
  );
}

async function receive(context: Context): Promise<Section> {
  const kinds: [number, Alphabet][] = context.quick
    ? [[64, "ASCII"], [64 * KIB, "ASCII"], [KIB, "Chinese"]]
    : (["ASCII", "Chinese"] as const).flatMap((alphabet) =>
      [16, 64, KIB, 64 * KIB, MIB].map((
        size,
      ): [number, Alphabet] => [size, alphabet])
    );
  const rows: Row[] = [];
  for (const [size, alphabet] of kinds) {
    rows.push(await receiveRow(context, size, alphabet));
  }
  const { bytes } = context.tools.streams;
  const row = (size: number, alphabet: Alphabet = "ASCII") =>
    rows.find(({ label }) => label === labelOf(size, alphabet));
  const small = row(64);
  const nanoseconds = [KIB, 64 * KIB, MIB].map((size) =>
    1 / (size * median(row(size), CALLBACK))
  );
  const outcomes = [
    atLeast(
      `server callback, 64 B ASCII ÷ ${bytes}`,
      16,
      ratio(small, CALLBACK, bytes),
    ),
    atLeast(`receive(), 64 B ÷ ${bytes}`, 12, ratio(small, RECEIVE, bytes)),
    atLeast(`receive(), 64 B ÷ ${NODE}`, 1.2, ratio(small, RECEIVE, NODE)),
    atLeast(`for await, 64 B ÷ ${bytes}`, 8, ratio(small, FOR_AWAIT, bytes)),
    atLeast(
      "server callback, 64 B ÷ bare read",
      0.25,
      ratio(small, CALLBACK, BARE),
    ),
    atLeast(
      "server callback, 1 KiB ÷ bare read",
      0.75,
      ratio(row(KIB), CALLBACK, BARE),
    ),
    atLeast(
      "server callback, 64 KiB ÷ bare read",
      0.75,
      ratio(row(64 * KIB), CALLBACK, BARE),
    ),
    atLeast(
      "server callback, 1 MiB ÷ bare read",
      0.5,
      ratio(row(MIB), CALLBACK, BARE),
    ),
    atLeast(
      `server callback, Chinese 1 KiB ÷ ${NODE}`,
      1.2,
      ratio(row(KIB, "Chinese"), CALLBACK, NODE),
    ),
    ...rows.map((row) =>
      atLeast(
        `receive(), ${row.label} ÷ ${PYTHON}`,
        2,
        ratio(row, RECEIVE, PYTHON),
      )
    ),
    flat("ns per byte, 1 KiB to 1 MiB, largest ÷ smallest", 1.5, nanoseconds),
  ];
  return {
    title: "Receiving one way",
    about:
      "One connection, messages as fast as they come, from a process that only writes bytes. " +
      "Each message is looked at (its length, first and last character), so that text that was " +
      "put together lazily is paid for. The bare read with TextDecoder makes one string of each " +
      "8 KiB and cuts no messages out of it: what no reader of text can do without.",
    unit: "messages per second",
    show: showRate,
    rows,
    ours: [CALLBACK, RECEIVE, FOR_AWAIT],
    outcomes,
    notes: [],
  };
}

async function sendRow(
  context: Context,
  size: number,
  alphabet: Alphabet,
): Promise<Row> {
  const { tools, effort, messages } = context;
  const file: MessageFile = await messages.get(size, alphabet);
  await using all = programs(context);
  const load = all.start("load");
  const sender = (name: string, kind: Kind, how: string): Side[] => {
    if (!tools.has(kind)) return [];
    const program = all.start(kind);
    const ws = how === "WebSocket";
    const measure = (count: number) =>
      onFreePort({ file: file.path, count, how }, async (job) => {
        await (ws ? program.do("offer", job) : load.do("listen", job));
        const [result, received] = await both(
          [program, ws ? "arrived" : "send"],
          [load, "sink"],
          job,
        );
        file.check(name, count, received);
        return rate(count, result);
      });
    return [{ name, measure }];
  };
  const sides = [
    ...sender(NOT_AWAITED, "daystar", ""),
    ...sender(AWAITED, "daystar", "awaited"),
    ...sender(BARE_AWAITED, "bare", "awaited"),
    ...sender(BARE_LARGE, "bare", ""),
    ...sender(NODE, "node", ""),
    ...sender(PYTHON, "python", ""),
    ...sender(WEBSOCKET, "websocket", "WebSocket"),
  ];
  const counts = { first: Math.min(1000, first(size)), most: most(size) };
  return await compare(
    { label: labelOf(size, alphabet), size },
    sides,
    effort,
    counts,
  );
}

async function send(context: Context): Promise<Section> {
  const kinds: [number, Alphabet][] = context.quick
    ? [[64, "ASCII"]]
    : [[64, "ASCII"], [KIB, "ASCII"], [64 * KIB, "ASCII"], [KIB, "Chinese"]];
  const rows: Row[] = [];
  for (const [size, alphabet] of kinds) {
    rows.push(await sendRow(context, size, alphabet));
  }
  const [small] = rows;
  return {
    title: "Sending one way",
    about:
      "One connection, to a process that only reads bytes and checks each. " +
      "The time ends when the last byte is with the kernel.",
    unit: "messages per second",
    show: showRate,
    rows,
    ours: [NOT_AWAITED, AWAITED],
    outcomes: [
      atLeast(
        "sends not awaited one by one, 64 B ÷ awaited bare writes",
        40,
        ratio(small, NOT_AWAITED, BARE_AWAITED),
      ),
      atLeast(
        "awaited send for each, 64 B ÷ awaited bare writes",
        0.9,
        ratio(small, AWAITED, BARE_AWAITED),
      ),
      ...rows.map((row) =>
        atLeast(
          `sends not awaited one by one, ${row.label} ÷ ${PYTHON}`,
          2,
          ratio(row, NOT_AWAITED, PYTHON),
        )
      ),
    ],
    notes: [],
  };
}

export const oneWay: Scenario[] = [
  { name: "receive", run: receive },
  { name: "send", run: send },
];
