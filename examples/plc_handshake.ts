// deno run --no-prompt --allow-net=127.0.0.1:4465 examples/plc_handshake.ts 127.0.0.1 70001

// Pick and place, hand in hand with a PLC that serves. The robot asks, the PLC
// answers each message with one of its own:
//
//   REQUEST  →  PICK 7 120.5 -80     a part, and where it is
//               WAIT                 nothing on the belt: ask again
//               STOP                 the shift is over
//   PICKED 7 →  PLACE 3              the tray to put it in
//   PLACED 7 →  OK                   counted
//   FAULT …  →  OK                   the robot gave up, and says why
//
// An answer that does not come in time, or does not fit, stops the robot. A number
// that is missing or is no plain decimal does not fit: it is not taken for 0.
// Without arguments the PLC is 192.168.1.50, which takes
// --allow-net=192.168.1.50:4465.

import { createTcpClient } from "@daystar/comm";
import { toNumber } from "./_numbers.ts";

const [ip = "192.168.1.50", port = "70001"] = Deno.args;

/** How long the PLC may take for an answer, and between requests, in ms. */
const PATIENCE = 2_000;
const PAUSE = 100;

// The robot may boot before the PLC.
await using plc = await createTcpClient(ip, Number(port), { retry: true });

/** One request, one answer. */
async function ask(request: string): Promise<string[]> {
  await plc.send(request);
  const answer = await plc.receive({ timeout: PATIENCE });
  if (answer === null) {
    throw new Error(`The PLC did not answer ${request} in ${PATIENCE} ms`);
  }
  console.log(`${request.padEnd(10)} → ${answer}`);
  return answer.split(" ");
}

/** The same, where only one answer fits. */
async function tell(request: string, expected: string): Promise<string[]> {
  const [word = "", ...rest] = await ask(request);
  if (word === expected) return rest;
  throw new Error(`The PLC answered ${request} with ${word}`);
}

/** In the place of your robot's own moves. */
async function moveTo(where: string): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 10));
  console.log(`           at ${where}`);
}

/** The part of a PICK, and where it is. */
function readPick(
  fields: string[],
): { part: string; x: number; y: number } {
  const [part, x, y, ...more] = fields;
  if (!part || more.length > 0) {
    throw new Error(`The PLC answered REQUEST with PICK ${fields.join(" ")}`);
  }
  try {
    return { part, x: toNumber(x), y: toNumber(y) };
  } catch (cause) {
    const reason = (cause as Error).message;
    const error = `The PLC gave no place for part ${part}: ${reason}`;
    throw new Error(error, { cause });
  }
}

async function pickAndPlace(fields: string[]): Promise<void> {
  const { part, x, y } = readPick(fields);
  await moveTo(`part ${part}, x ${x}, y ${y}`);
  const [tray] = await tell(`PICKED ${part}`, "PLACE");
  if (!tray) throw new Error(`The PLC gave no tray for part ${part}`);
  await moveTo(`tray ${tray}`);
  await tell(`PLACED ${part}`, "OK");
}

async function shift(): Promise<number> {
  for (let placed = 0;;) {
    const [word, ...fields] = await ask("REQUEST");
    if (word === "STOP") return placed;
    if (word === "PICK") {
      await pickAndPlace(fields);
      placed++;
    } else if (word === "WAIT") {
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    } else {
      throw new Error(`The PLC answered REQUEST with ${word}`);
    }
  }
}

try {
  console.log(`Placed ${await shift()} parts`);
} catch (error) {
  const reason = error instanceof Error ? error.message : String(error);
  console.error(`Stopped: ${reason}`);
  Deno.exitCode = 1;
  if (plc.connected) await plc.send(`FAULT ${reason}`);
}
