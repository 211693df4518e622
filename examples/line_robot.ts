// deno run --no-prompt --allow-net=127.0.0.1:4465 examples/line_robot.ts 127.0.0.1 70001

// A robot of line_pc.ts: it asks for parts, and picks one after the other until
// it is sent home. The loop over the client only reads, and the motion runs
// beside it: ESTOP stops it at once, and so does the loss of the connection.
//
//   robot → line PC    READY              give me work
//                      DONE 3             part 3 is done
//   line PC → robot    START, HOME        to all of them
//                      PICK 3             to the one that is ready
//                      ESTOP              stop, and do nothing more
//
// An empty message every second, which the line PC answers, shows both that the
// other one is alive: a frozen line PC or a cut cable stops the robot too.
//
// Arguments: address and port. Without them the line PC is 192.168.1.50, which
// takes --allow-net=192.168.1.50:4465.

import { ClosedError, createTcpClient } from "@daystar/comm";
import { setTimeout as sleep } from "node:timers/promises";

const [ip = "192.168.1.50", port = "70001"] = Deno.args;

/** What the line PC may say nothing for, and how often it is asked to, in ms. */
const IDLE_MS = 5_000;
const BEAT_MS = 1_000;
/** How many cycles of the controller a pick takes. */
const STEPS = 300;
const CYCLE_MS = 1;

/** The motion under way, and its end: there is one robot. */
let motion: AbortController | undefined;
let picking: Promise<void> | undefined;
/** For good: after a stop somebody has to look. */
let isStopped = false;

/** Stops the motion. */
function stop(why: string): void {
  isStopped = true;
  motion?.abort(new Error(why));
}

/** Moves until it is there; throws when the signal aborts, or the drive fails. */
async function move(_part: string, signal: AbortSignal): Promise<void> {
  for (let step = 0; step < STEPS; step++) {
    signal.throwIfAborted(); // in a cell: and stop the drive
    await sleep(CYCLE_MS);
  }
}

/** Picks a part and says so. The loop does not await it, so it never rejects. */
async function pick(part: string): Promise<void> {
  const { signal } = motion = new AbortController();
  console.log(`Picks part ${part}`);
  try {
    await move(part, signal);
    await client.send(`DONE ${part}`);
    if (!isStopped) await client.send("READY");
  } catch (error) {
    const why = Error.isError(error) ? error.message : error;
    console.error(`Stopped at part ${part}: ${why}`);
    // By itself, as the drive failed: another robot gets the part.
    if (!isStopped) client.disconnect();
  } finally {
    motion = undefined;
  }
}

await using client = await createTcpClient(ip, Number(port), {
  idleTimeout: IDLE_MS,
  onDisconnect: () => stop("the line PC is gone"),
});
await client.send("READY");
const beat = setInterval(() => {
  client.send("").catch(() => {}); // the loop tells why
}, BEAT_MS);
let end = "The line PC is gone";

try {
  for await (const order of client) { // never awaits a motion
    const [word, part = ""] = order.split(" ");
    if (word === "HOME") {
      end = "Home";
      break;
    }
    if (word === "ESTOP") stop("ESTOP");
    // One that was read before a stop is not started after it.
    if (word !== "PICK" || isStopped) continue;
    if (motion) console.error(`Ignored ${order}: a motion is under way`);
    else picking = pick(part);
  }
} catch (error) {
  if (!(error instanceof ClosedError)) throw error;
  end = `The line PC is gone: ${error.message}`;
} finally {
  clearInterval(beat);
  stop("the client is closed");
  await picking; // the script may end now, and must not before it stands still
}
console.log(end);
