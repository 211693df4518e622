// Why: how fast answers come: to one who waits for each, to one who does not,
// and to ten clients at once.

import { atLeast, compare, ratio, type Row, type Side } from "../_measure.ts";
import type { Kind } from "../_programs.ts";
import {
  BARE,
  type Context,
  DAYSTAR,
  NODE,
  onFreePort,
  programs,
  PYTHON,
  rate,
  roundTrips,
  type Scenario,
  type Section,
  showRate,
  sizeName,
  WEBSOCKET,
} from "../_scenario.ts";

const READLINE = "Node net, readline";

async function requestRow(context: Context, size: number): Promise<Row> {
  const { tools, effort, messages } = context;
  const file = await messages.get(size);
  await using all = programs(context);
  const pair = (name: string, kind: Kind): Promise<Side[]> => {
    if (!tools.has(kind)) return Promise.resolve([]);
    const server = all.start(kind);
    const client = all.start(kind);
    return onFreePort({ file: file.path, how: "" }, async (job) => {
      await server.do("echo", job);
      const measure = async (count: number) => {
        const result = await client.do("ping", { ...job, count });
        file.check(name, count, result);
        return roundTrips(result);
      };
      return [{ name, measure }];
    });
  };
  const sides = [
    ...await pair(DAYSTAR, "daystar"),
    ...await pair(BARE, "bare"),
    ...await pair(NODE, "node"),
    ...await pair(PYTHON, "python"),
    ...await pair(WEBSOCKET, "websocket"),
  ];
  const counts = { first: 200, most: 1_000_000 };
  return await compare({ label: sizeName(size), size }, sides, effort, counts);
}

async function request(context: Context): Promise<Section> {
  const rows: Row[] = [];
  for (const size of context.quick ? [64] : [64, 1024]) {
    rows.push(await requestRow(context, size));
  }
  const [small] = rows;
  return {
    title: "Request and reply",
    about:
      "A client sends a message and waits for it to come back before it sends the next; " +
      "client and server of the same kind, each in its process.",
    unit: "round trips per second at the median latency",
    show: showRate,
    rows,
    ours: [DAYSTAR],
    outcomes: [
      atLeast(
        "request and reply, 64 B, median ÷ bare ping-pong",
        0.95,
        ratio(small, DAYSTAR, BARE),
      ),
    ],
    notes: [],
  };
}

async function floodRow(context: Context, size: number): Promise<Row> {
  const { tools, effort, messages } = context;
  const file = await messages.get(size);
  await using all = programs(context);
  const load = all.start("load");
  const server = (name: string, kind: Kind, how: string): Promise<Side[]> => {
    if (!tools.has(kind)) return Promise.resolve([]);
    const program = all.start(kind);
    return onFreePort({ file: file.path, how }, async (job) => {
      await program.do("echo", job);
      const measure = async (count: number) => {
        const result = await load.do("flood", { ...job, count });
        file.check(name, count, result);
        return rate(count, result);
      };
      return [{ name, measure }];
    });
  };
  const sides = [
    ...await server(DAYSTAR, "daystar", ""),
    ...await server(BARE, "bare", ""),
    ...await server(tools.streams.bytes, "streams", "bytes"),
    ...await server(NODE, "node", ""),
    ...await server(PYTHON, "python", ""),
    ...await server(WEBSOCKET, "websocket", "WebSocket"),
  ];
  const counts = { first: 2000, most: 5_000_000 };
  return await compare({ label: sizeName(size), size }, sides, effort, counts);
}

async function echo(context: Context): Promise<Section> {
  const rows: Row[] = [];
  for (const size of context.quick ? [64] : [64, 1024, 65_536]) {
    rows.push(await floodRow(context, size));
  }
  return {
    title: "Pipelined echo",
    about:
      "One client sends without waiting, and the server sends each message back; " +
      "the client is the same for all and checks each byte.",
    unit: "messages per second",
    show: showRate,
    rows,
    ours: [DAYSTAR],
    outcomes: [],
    notes: [],
  };
}

async function tenClients(context: Context): Promise<Section> {
  const { tools, effort, messages } = context;
  const file = await messages.get(36);
  await using all = programs(context);
  const load = all.start("load");
  const server = (name: string, kind: Kind, how: string): Promise<Side[]> => {
    if (!tools.has(kind)) return Promise.resolve([]);
    const program = all.start(kind);
    return onFreePort({ file: file.path, how, clients: 10 }, async (job) => {
      await program.do("echo", job);
      const measure = async (count: number) => {
        const result = await load.do("clients", { ...job, count });
        file.check(name, count, result);
        return rate(count, result);
      };
      return [{ name, measure }];
    });
  };
  const { lines } = tools.streams;
  const sides = [
    ...await server(DAYSTAR, "daystar", ""),
    ...await server(BARE, "bare", ""),
    ...await server(READLINE, "node", "lines"),
    ...await server(lines, "streams", "lines"),
    ...await server(PYTHON, "python", ""),
  ];
  const counts = { first: 1000, most: 1_000_000, step: 10 };
  const row = await compare(
    { label: "36 B, 10 clients" },
    sides,
    effort,
    counts,
  );
  return {
    title: "Echo to ten clients",
    about:
      "The benchmark of denoland/deno issue 16523: ten clients, one message of 36 characters " +
      "in flight each. The clients are one process, the same for all; the bare server says how " +
      "fast that process is at best.",
    unit: "echoes per second",
    show: showRate,
    rows: [row],
    ours: [DAYSTAR],
    outcomes: [
      atLeast(
        `echo to 10 clients ÷ ${READLINE}`,
        1,
        ratio(row, DAYSTAR, READLINE),
      ),
      atLeast(`echo to 10 clients ÷ ${lines}`, 1.5, ratio(row, DAYSTAR, lines)),
    ],
    notes: [],
  };
}

export const roundTrip: Scenario[] = [
  { name: "request", run: request },
  { name: "echo", run: echo },
  { name: "ten-clients", run: tenClients },
];
