// Why: a script that computes holds up timers and input alike, and timers then come
// first: no limit may take that for the silence of a peer.

import { assertEquals } from "@std/assert";
import { Deadline, within } from "../_time.ts";
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
