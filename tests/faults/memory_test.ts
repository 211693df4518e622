// Why: maxSendBufferBytes promises memory, so whatever waits for clients that take
// nothing has to stay under twice what the limits say, in heap and external memory.

import { assertEquals, assertLess, assertLessOrEqual } from "@std/assert";
import { Process, ROOT } from "../_process.ts";
import { figure, KIB, MIB, test } from "../_served.ts";
import type { Case, How, Seen } from "./_memory_side.ts";

/** What a message may count for besides its bytes: more would refuse what fits. */
const MAX_OVERHEAD_BYTES = KIB;

async function measure(one: Case): Promise<Seen> {
  const path = new URL("tests/faults/_memory_side.ts", ROOT).pathname;
  await using process = new Process(Deno.execPath(), [
    ...["run", "--quiet", "--no-config", "--no-prompt", "--allow-all"],
    ...["--v8-flags=--expose-gc", path, JSON.stringify(one)],
  ]);
  const { code, stdout, stderr } = await process.ended();
  assertEquals({ code, stderr }, { code: 0, stderr: "" });
  return JSON.parse(stdout);
}

/** Limits that add up to more than what a measurement is off by. */
const LIMITS: Record<number, number> = {
  1: 2 * MIB,
  100: 128 * KIB,
  300: 64 * KIB,
};

async function assertBounded(one: Case): Promise<void> {
  const { pushes, peak, dropped } = await measure(one);
  const each = Math.round(peak / pushes / one.clients);
  figure(`${JSON.stringify(one)}: ${pushes} × ${each} bytes, ${peak} in all`);
  assertLess(peak, 2 * one.clients * one.limit);
  const readNoFurther = one.how.startsWith("repl");
  if (readNoFurther) return assertEquals(dropped, 0);
  // Less would mean that nothing is measured, or that too much is refused.
  assertLess(0, dropped);
  assertLessOrEqual(
    one.limit,
    (pushes + 1) * (one.size + 1 + MAX_OVERHEAD_BYTES),
  );
}

for (const how of ["send", "sendToAll", "mix"] as const) {
  for (const [clients, limit] of Object.entries(LIMITS)) {
    for (const size of [5, 64, 8 * KIB]) {
      for (const turns of how === "mix" ? [true] : [true, false]) {
        const pace = turns ? "one a turn" : "in one turn";
        test(`TCPServer holds no more than its limits say: ${how}, ${clients} stuck clients, ${size} bytes, ${pace}`, () =>
          assertBounded({ how, clients: Number(clients), size, turns, limit }));
      }
    }
  }
}

/** It takes 64 KiB of replies until a client is read no further: fewer clients for short ones. */
const REPLIES: [clients: number, size: number][] = [
  [20, 20],
  [50, 64],
  [300, 8 * KIB],
];

for (const [clients, size] of REPLIES) {
  const what = `${clients} stuck clients, ${size} bytes`;
  test(`TCPServer holds no more than its limits say: replies, ${what}`, () =>
    assertBounded({
      ...{ how: "replies", clients, size, turns: true, limit: 64 * KIB },
    }));
}

const SHARED: [How, clients: number, size: number][] = [
  ["beside traffic", 1, 5],
  ["beside traffic", 1, 64],
  ["beside traffic", 100, 5],
  ["forwarded slices", 1, 20],
  ["replied slices", 1, 20],
];

for (const [how, clients, size] of SHARED) {
  test(`TCPServer pins nothing with a short message that waits: ${how}, ${clients} stuck clients, ${size} bytes`, () =>
    assertBounded({
      ...{ how, clients, size, turns: true },
      limit: LIMITS[clients] ?? MIB,
    }));
}

/** Slices of messages that are far longer: for one write, and for several. */
const LONG_SLICES: [How, clients: number, size: number, limit: number][] = [
  ["forwarded slices", 1, 60 * KIB, 2 * MIB],
  ["forwarded slices", 1, 66_000, 2 * MIB],
  ["replied slices", 20, 60 * KIB, 256 * KIB],
  ["replied slices", 20, 66_000, 256 * KIB],
];

for (const [how, clients, size, limit] of LONG_SLICES) {
  test(`TCPServer pins nothing with a slice of 1 MiB that waits: ${how}, ${clients} stuck clients, ${size} bytes`, () =>
    assertBounded({ how, clients, size, limit, turns: true, parent: MIB }));
}

/** A client whose writes never end, and how much is held by slices that it sends. */
function stuckClient(slices: number, size: number, reconnect: boolean): string {
  return `
    import { setImmediate } from "node:timers";
    import { createTcpClient } from "./mod.ts";
    import { freePort } from "./tests/_ports.ts";

    const used = async () => {
      for (let n = 0; n < 3; n++) {
        gc();
        await new Promise((resolve) => setImmediate(resolve));
      }
      const { heapUsed, external } = Deno.memoryUsage();
      return heapUsed + external;
    };
    const connect = Deno.connect;
    const writes = [];
    Deno.connect = async (options) => {
      const conn = await connect(options);
      // What is under way stays in memory, as Deno's own does.
      conn.write = (bytes) => new Promise(() => void writes.push(bytes));
      return conn;
    };
    const free = freePort();
    const listener = Deno.listen({ hostname: "127.0.0.1", port: free.wire });
    const client = await createTcpClient("127.0.0.1", free.port, {
      reconnect: ${reconnect},
    });
    const round = async (inOneTurn) => {
      const before = await used();
      for (let n = 0; n < ${slices}; n++) {
        client.send(\`\${n} \`.padEnd(${MIB}, "0123456789abcdef").slice(0, ${size}));
        if (!inOneTurn) await new Promise((resolve) => setImmediate(resolve));
      }
      return await used() - before;
    };
    client.send("stuck");
    await used();
    console.log(JSON.stringify([await round(false), await round(true)]));
    Deno.exit();
  `;
}

const STUCK: [slices: number, size: number][] = [
  [100, 40],
  [50, 60 * KIB],
  [50, 66_000],
];

for (const [slices, size] of STUCK) {
  for (const reconnect of [false, true]) {
    const how = reconnect ? " with reconnect" : "";
    test(`TCPClient.send()${how} pins nothing with slices of 1 MiB that wait for a peer that takes nothing: ${size} bytes`, async () => {
      await using process = new Process(Deno.execPath(), [
        ...["eval", "--quiet", "--v8-flags=--expose-gc"],
        stuckClient(slices, size, reconnect),
      ]);
      const { code, stdout, stderr } = await process.ended();
      assertEquals({ code, stderr }, { code: 0, stderr: "" });
      for (const held of JSON.parse(stdout)) {
        figure(`${slices} × ${size} bytes held by ${held}`);
        // Two may be under way, whole.
        const bound = 2 * slices * (size + MAX_OVERHEAD_BYTES) + 2 * MIB;
        assertLess(held, bound);
        // What was there before may have been collected meanwhile.
        if (size > KIB) assertLess(slices * size - MIB, held);
      }
    });
  }
}
