// Why: a message that comes in many pieces must cost what its bytes cost.

import {
  atLeast,
  atMost,
  compare,
  ratio,
  type Row,
  type Side,
} from "../_measure.ts";
import {
  BARE,
  CALLBACK,
  type Context,
  programs,
  type Scenario,
  type Section,
  showRate,
} from "../_scenario.ts";
import { receiveRow } from "./one_way.ts";

/** Bytes of a piece. */
const PIECE = 100;

async function pieces(context: Context): Promise<Section> {
  await using all = programs(context);
  const decoding = (count: number): Side => {
    const program = all.start("framing");
    return {
      name: `${count} pieces`,
      async measure(times) {
        const job = { count: times, clients: count, piece: PIECE };
        const { seconds = NaN, wrong, count: got } = await program.do(
          "pieces",
          job,
        );
        if (wrong || got !== times) {
          throw new Error(`${got} of ${times} messages, ${wrong} wrong`);
        }
        return { value: times * count * PIECE / seconds, seconds };
      },
    };
  };
  const decoded = await compare(
    { label: "decoder alone, bytes" },
    [decoding(100), decoding(1_000), decoding(10_000)],
    context.effort,
    { first: 1, most: 100_000 },
  );
  const size = 10_000 * PIECE;
  const received: Row = {
    ...await receiveRow(context, size, "ASCII", PIECE, [CALLBACK, BARE]),
    label: "over a socket, messages",
  };
  return {
    title: "A message in 10,000 pieces",
    about:
      `Messages that come in pieces of ${PIECE} bytes. The decoder alone gets exactly these; ` +
      "over a socket they are one write each, which the kernel may join.",
    unit: "bytes or messages per second",
    show: showRate,
    rows: [decoded, received],
    ours: ["10000 pieces", CALLBACK],
    outcomes: [
      atMost(
        "time per byte in 10,000 pieces ÷ in 1,000",
        1.5,
        ratio(decoded, "1000 pieces", "10000 pieces"),
      ),
      atLeast(
        "message in 10,000 pieces ÷ bare read",
        0.75,
        ratio(received, CALLBACK, BARE),
      ),
    ],
    notes: [],
  };
}

export const growth: Scenario[] = [{ name: "pieces", run: pieces }];
