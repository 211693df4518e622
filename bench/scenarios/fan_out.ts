// Why: what it costs to tell the same to many clients.

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
  type Context,
  DAYSTAR,
  NODE,
  onFreePort,
  programs,
  PYTHON,
  type Scenario,
  type Section,
  showRate,
} from "../_scenario.ts";

const SIZE = 64;

/** Messages that a client is sent before it reads: the kernel keeps them all. */
const AT_ONCE = 50;

/** Python's select() takes file descriptors up to this. */
const MOST_FOR_PYTHON = 1000;

async function broadcastRow(context: Context, clients: number): Promise<Row> {
  const { tools, effort, messages } = context;
  const file = await messages.get(SIZE);
  await using all = programs(context);
  const server = (name: string, kind: Kind): Promise<Side[]> => {
    if (!tools.has(kind) || kind === "python" && clients > MOST_FOR_PYTHON) {
      return Promise.resolve([]);
    }
    const program = all.start(kind);
    const load = all.start("load");
    return onFreePort({ file: file.path, clients }, async (job) => {
      await program.do("listen", job);
      await load.do("subscribe", job);
      await program.do("members", job);
      const measure = async (deliveries: number) => {
        let seconds = 0;
        for (let left = deliveries / clients; left > 0; left -= AT_ONCE) {
          const count = Math.min(left, AT_ONCE);
          const sent = await program.do("broadcast", { ...job, count });
          seconds += sent.seconds ?? NaN;
          const received = await load.do("delivered", { ...job, count });
          file.check(name, count * clients, received);
        }
        return { value: deliveries / seconds, seconds };
      };
      return [{ name, measure }];
    });
  };
  const sides = [
    ...await server(DAYSTAR, "daystar"),
    ...await server(BARE, "bare"),
    ...await server(NODE, "node"),
    ...await server(PYTHON, "python"),
  ];
  const counts = { first: clients * 2, most: 2_000_000, step: clients };
  return await compare({ label: `${clients} clients` }, sides, effort, counts);
}

async function sendToAll(context: Context): Promise<Section> {
  const rows: Row[] = [];
  for (const clients of context.quick ? [10, 100] : [10, 100, 500, 2000]) {
    rows.push(await broadcastRow(context, clients));
  }
  const nanoseconds = [10, 100, 500, 2000].map((clients) => {
    const row = rows.find(({ label }) => label === `${clients} clients`);
    return 1 / median(row, DAYSTAR);
  });
  const many = rows.find(({ label }) => label === "500 clients");
  return {
    title: "sendToAll",
    about:
      `Messages of ${SIZE} B, one after the other, each to all clients, ${AT_ONCE} of them; ` +
      "then the clients, which are one process, read and check them, and so on. The time is the " +
      "server's, for sending. The bare side writes to all connections at once and waits for all " +
      "writes.",
    unit: "deliveries per second",
    show: showRate,
    rows,
    ours: [DAYSTAR],
    outcomes: [
      atLeast(
        "sendToAll to 500 clients ÷ bare writes",
        0.95,
        ratio(many, DAYSTAR, BARE),
      ),
      ...rows.filter((row) => row.sides.has(PYTHON)).map((row) =>
        atLeast(
          `sendToAll to ${row.label} ÷ ${PYTHON}`,
          2,
          ratio(row, DAYSTAR, PYTHON),
        )
      ),
      flat(
        "time per delivery, 10 to 2,000 clients, largest ÷ smallest",
        1.5,
        nanoseconds,
      ),
    ],
    notes: [
      `The Python peer waits with select(), which has no place for more than ${MOST_FOR_PYTHON} clients.`,
    ],
  };
}

export const fanOut: Scenario[] = [{ name: "send-to-all", run: sendToAll }];
