// Why: a robot that is out of reach for an hour goes on talking, and what waits
// then must not cost more memory than its script was told, however it is cut up.

import { assertEquals, assertGreater, assertLess } from "@std/assert";
import { Line } from "../_line.ts";
import { Process } from "../_process.ts";
import {
  figure,
  KIB,
  LOOPBACK,
  MIB,
  type Peer,
  TERMINATOR,
  test,
} from "../_served.ts";

const LIMIT = 2 * MIB;
/** What every message may count at most besides its bytes: otherwise the limit says nothing. */
const MOST_OVERHEAD = 2 * KIB;

/** More messages than the limit can allow, however short. */
const MOST = 100_000;

/** Long messages that the script cuts slices from, in all far more than the limit. */
const LONG_MESSAGES = 256;
const LONG_BYTES = 64 * KIB;

/**
 * A script that says how much memory is held by what it sent without a connection. It
 * keeps no promise and no message, so only the module holds any.
 */
function script(port: number, make: string): string {
  return `
    import { CommunicationError, createTcpClient } from "./mod.ts";

    const lines = [];
    let wake = () => {};
    (async () => {
      const text = Deno.stdin.readable.pipeThrough(new TextDecoderStream());
      for await (const part of text) {
        for (const _ of part.matchAll(/\\n/g)) lines.push("");
        wake();
      }
    })();
    const told = async () => {
      while (lines.length === 0) await new Promise((resolve) => wake = resolve);
      lines.pop();
    };
    const turn = () => new Promise((resolve) => setTimeout(resolve));
    const used = async () => {
      for (let n = 0; n < 3; n++) {
        gc();
        await turn();
      }
      const { heapUsed, external } = Deno.memoryUsage();
      return heapUsed + external;
    };

    let gone = () => {};
    const refused = new Set();
    let refusals = 0;
    globalThis.addEventListener("unhandledrejection", (event) => {
      if (!(event.reason instanceof CommunicationError)) return;
      event.preventDefault();
      refused.add(event.reason.name);
      refusals++;
    });
    const client = await createTcpClient("${LOOPBACK}", ${port}, {
      maxSendBufferBytes: ${LIMIT},
      reconnect: { firstDelay: 1, maxDelay: 20, jitter: 0 },
      onDisconnect: () => gone(),
    });
    const round = async () => {
      const before = await used();
      let long = [];
      for (let n = 0; n < ${LONG_MESSAGES}; n++) long.push(await client.receive());
      const lost = new Promise((resolve) => gone = resolve);
      console.log("ready");
      await lost;
      let tried = 0;
      refusals = 0;
      while (refusals === 0 && tried < ${MOST}) {
        for (let n = 0; n < 100; n++) {
          const i = tried++;
          client.send(${make});
        }
        await turn();
      }
      long = [];
      const held = await used() - before;
      console.log(JSON.stringify({
        held,
        accepted: tried - refusals,
        refused: [...refused],
      }));
      await told();
    };
    // The first time its code is compiled and its buffers are made.
    await round();
    await round();
    await client.disconnect();
    Deno.exit();
  `;
}

interface Report {
  held: number;
  accepted: number;
  refused: string[];
}

const long = (n: number) => `${n} `.padEnd(LONG_BYTES, "0123456789abcdef ");

/** The messages that a script sends, one way to make each, here and there. */
const kinds: Record<
  string,
  { bytes: number; make: (i: number, long: string[]) => string }
> = {
  "1 byte": { bytes: 1, make: (i) => String.fromCharCode(65 + i % 26) },
  "5 bytes": { bytes: 5, make: (i) => `${10_000 + i % 90_000}` },
  "100 bytes": { bytes: 100, make: (i) => `${i} `.padEnd(100, "x") },
  "8 KiB": { bytes: 8 * KIB, make: (i) => `${i} `.padEnd(8192, "x") },
  "slices of long received messages": {
    bytes: 40,
    make: (i, long) => {
      const from = (i * 41) % 60_000;
      return (long[i % long.length] ?? "").slice(from, from + 40);
    },
  },
  "long slices of messages that are far longer": {
    bytes: 66_000,
    make: (i) => {
      const text = `${i} `.padEnd(1_048_576, "0123456789abcdef ");
      return text.slice(0, 66_000);
    },
  },
  "slices for one write of messages that are far longer": {
    bytes: 60_000,
    make: (i) => {
      const text = `${i} `.padEnd(1_048_576, "0123456789abcdef ");
      return text.slice(0, 60_000);
    },
  },
  "100 bytes, put together from characters": {
    bytes: 100,
    make: (i) => {
      let text = `${i} `;
      while (text.length < 100) {
        text += String.fromCharCode(97 + text.length % 26);
      }
      return text;
    },
  },
};

/** Sends the long messages, goes away, and comes back when the script is full. */
async function round(
  child: Process,
  line: Line,
  peer: Peer,
  make: (i: number) => string,
): Promise<[Report, Peer]> {
  for (let n = 0; n < LONG_MESSAGES; n++) {
    await peer.write(long(n) + TERMINATOR);
  }
  assertEquals(await child.read(), "ready");
  line.close();
  peer.conn.close();
  const report = JSON.parse(await child.read()) as Report;
  line.open();
  const again = await line.accept();
  for (let i = 0; i < report.accepted; i++) {
    const message = await again.read();
    if (message !== make(i)) assertEquals(message, make(i), `message ${i}`);
  }
  await child.write("go on\n");
  return [report, again];
}

for (const [what, { bytes, make }] of Object.entries(kinds)) {
  test(`TCPClientOptions.maxSendBufferBytes bounds the memory of what waits without a connection: ${what}`, async () => {
    await using line = new Line();
    await using child = new Process(Deno.execPath(), [
      ...["eval", "--v8-flags=--expose-gc"],
      script(line.free.port, `(${make})(i, long)`),
    ]);
    const longs = Array.from({ length: LONG_MESSAGES }, (_, n) => long(n));
    const message = (i: number) => make(i, longs);
    const [, peer] = await round(child, line, await line.accept(), message);
    const [report] = await round(child, line, peer, message);
    const { held, accepted, refused } = report;
    figure(`${what}: ${accepted} held by ${(held / MIB).toFixed(1)} MiB`);
    assertLess(held, 2 * LIMIT, `${accepted} messages`);
    assertEquals(refused, ["CommunicationError"]);
    // And it is no limit on next to nothing.
    assertGreater(accepted * (bytes + 1 + MOST_OVERHEAD), LIMIT);
  });
}
