// Why: datagrams one way and there and back.

import { atLeast, compare, ratio, type Row, type Side } from "../_measure.ts";
import { freePort } from "../../tests/_ports.ts";
import type { Kind } from "../_programs.ts";
import {
  BARE,
  type Context,
  DAYSTAR,
  programs,
  PYTHON,
  rate,
  roundTrips,
  type Scenario,
  type Section,
  showRate,
  sizeName,
} from "../_scenario.ts";

/** So few that the receiver's buffer holds them: none may be lost. */
const WINDOW = 50;

async function udpRow(
  context: Context,
  size: number,
  there: boolean,
): Promise<Row> {
  const { tools, effort, messages } = context;
  const file = await messages.get(size);
  await using all = programs(context);
  const pair = (name: string, kind: Kind): Side[] => {
    if (!tools.has(kind)) return [];
    const receiver = all.start(kind);
    const sender = all.start(kind);
    const measure = async (count: number) => {
      using to = freePort();
      using from = freePort();
      const job = {
        port: to.port,
        wire: to.wire,
        file: file.path,
        count,
        window: WINDOW,
      };
      await receiver.do("udp", job);
      await sender.do("udp", { port: from.port, wire: from.wire });
      const [received, result] = await Promise.all([
        receiver.do(there ? "udpReceive" : "udpEcho", job),
        sender.do(there ? "udpSend" : "udpPing", job),
      ]);
      file.check(name, count, there ? received : result);
      return there ? rate(count, result) : roundTrips(result);
    };
    return [{ name, measure }];
  };
  const sides = [
    ...pair(DAYSTAR, "daystar"),
    ...pair(BARE, "bare"),
    ...pair(PYTHON, "python"),
  ];
  const counts = { first: 500, most: 1_000_000, step: WINDOW };
  const label = `${sizeName(size)} ${there ? "one way" : "there and back"}`;
  return await compare({ label, size }, sides, effort, counts);
}

async function udp(context: Context): Promise<Section> {
  const rows: Row[] = [];
  for (const there of [true, false]) {
    for (const size of context.quick ? [64] : [64, 1024]) {
      rows.push(await udpRow(context, size, there));
    }
  }
  const oneWay = rows.filter(({ label }) => label.includes("one way"));
  const back = rows.filter((row) => !oneWay.includes(row));
  return {
    title: "UDP",
    about:
      `One way: the receiver says so after each ${WINDOW} datagrams, and the sender waits for ` +
      "it, so that none is lost. There and back: the next is sent when the one before is back. " +
      "Sender and receiver of the same kind, each in its process.",
    unit: "datagrams or round trips per second",
    show: showRate,
    rows,
    ours: [DAYSTAR],
    outcomes: [
      ...back.map((row) =>
        atLeast(`UDP, ${row.label} ÷ bare`, 0.9, ratio(row, DAYSTAR, BARE))
      ),
      ...oneWay.map((row) =>
        atLeast(`UDP, ${row.label} ÷ ${PYTHON}`, 2, ratio(row, DAYSTAR, PYTHON))
      ),
    ],
    notes: [],
  };
}

export const datagrams: Scenario[] = [{ name: "udp", run: udp }];
