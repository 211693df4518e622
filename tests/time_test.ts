// Why: a script that computes holds up timers and input alike, and timers then come
// first: no limit may take that for the silence of a peer.

import { assertEquals } from "@std/assert";
import { delay } from "@std/async";
import { Deadline, IdleWatch, within } from "../_time.ts";
import { HERE, test } from "./_served.ts";

/** Two ends of a connection. */
async function connect(): Promise<
  Disposable & { near: Deno.TcpConn; far: Deno.TcpConn }
> {
  using listener = Deno.listen({ ...HERE, port: 0 });
  const [near, far] = await Promise.all([
    Deno.connect({ ...HERE, port: listener.addr.port }),
    listener.accept(),
  ]);
  const close = () => {
    near.close();
    far.close();
  };
  return { near, far, [Symbol.dispose]: close };
}

const LIMIT_MS = 20;

/** Sends a byte, and computes beyond the limit before it can be read. */
async function sendAndCompute(far: Deno.TcpConn): Promise<void> {
  const sending = far.write(Uint8Array.of(1));
  for (const end = performance.now() + 3 * LIMIT_MS; performance.now() < end;);
  await sending;
}

test("within() does not end before what came while the script computed", async () => {
  using pair = await connect();
  let count: number | null = null;
  const reading = pair.near.read(new Uint8Array(8)).then((read) => {
    count = read;
  });
  const waiting = within(LIMIT_MS, reading).then(() => count);
  await sendAndCompute(pair.far);
  assertEquals(await waiting, 1);
});

test("within() ends when its time is over", async () => {
  await within(LIMIT_MS, new Promise(() => {}));
});

test("Deadline does not end an attempt before what came while the script computed", async () => {
  using pair = await connect();
  const deadline = new Deadline(LIMIT_MS, "nothing");
  const reading = pair.near.read(new Uint8Array(8)).then(() => {
    deadline.clear();
    return deadline.signal.aborted;
  });
  await sendAndCompute(pair.far);
  assertEquals(await reading, false);
});

test("IdleWatch gives a peer as long again as this side stood still, whenever that began", async () => {
  const limit = 1000;
  for (const begin of [850, 950]) {
    const gaveUp = Promise.withResolvers<number>();
    let isGivenUp = false;
    const giveUpSilent = (ms: number) => {
      isGivenUp = true;
      gaveUp.resolve(ms);
    };
    const watch = new IdleWatch(limit, 0, { awaits: "message", giveUpSilent });
    await delay(begin);
    for (const end = performance.now() + limit; performance.now() < end;);
    await delay(50);
    assertEquals(isGivenUp, false, `standing still after ${begin} ms`);
    // A peer that stays silent is given up all the same.
    assertEquals(await gaveUp.promise, limit);
    watch.stop();
  }
});
