// Why: what waits to be sent outlives a connection, and its order, what counts as on its
// way, and what it keeps in memory are seen only from inside.

import { assert, assertEquals, assertLess } from "@std/assert";
import { newAmount } from "../_framing.ts";
import { Batch, Outbox } from "../_outbox.ts";
import { outcome } from "./_served.ts";
import { Process } from "./_process.ts";

const broken = new Error("the connection broke");
const why = (): Error => broken;

/** A test with an outbox of a client that comes back, which is ended behind it. */
function test(
  name: string,
  body: (outbox: Outbox) => void | Promise<void>,
): void {
  Deno.test(name, async () => {
    const outbox = new Outbox(true);
    await body(outbox);
    outbox.end(broken);
  });
}

/** The text of the next write, which the kernel takes as far as `most` bytes. */
function write(outbox: Outbox, most = Infinity): string {
  const bytes = outbox.next()?.slice() ?? new Uint8Array(0);
  if (bytes.length > 0) outbox.wrote(Math.min(bytes.length, most));
  return new TextDecoder().decode(bytes);
}

/** Posts, and has the promise handled. */
function post(outbox: Outbox, message: string): Promise<unknown> {
  return outcome(outbox.post(message).wait());
}

/** What a new connection sends of it, in writes. */
function writeAll(outbox: Outbox): string {
  let text = "";
  for (let some; (some = write(outbox)) !== "";) text += some;
  return text;
}

test("Outbox.ahead() posts before all that waits, also before what it posted before", (outbox) => {
  post(outbox, "WAITS");
  for (const name of ["FIRST", "SECOND", "THIRD"]) {
    outbox.ahead(() => {
      post(outbox, name);
      post(outbox, `${name} TOO`);
    });
    outbox.broke(why);
  }
  assertEquals(
    writeAll(outbox),
    "THIRD\x03THIRD TOO\x03SECOND\x03SECOND TOO\x03FIRST\x03FIRST TOO\x03WAITS\x03",
  );
});

test("Outbox.isCrowded() counts what ahead() posted before, and nothing else", (outbox) => {
  post(outbox, "x".repeat(5000));
  const seen: boolean[] = [];
  const hello = () => {
    seen.push(outbox.isCrowded("HELLO", 1000));
    post(outbox, "HELLO");
  };
  // One that has not left costs 454 bytes, and so does the next.
  for (let n = 0; n < 4; n++) outbox.ahead(hello);
  writeAll(outbox);
  outbox.ahead(hello);
  assertEquals(seen, [false, false, true, true, false]);
  assertEquals(outbox.isCrowded("HELLO", 1), false);
});

test("Outbox.last is what leaves last, also inside ahead()", (outbox) => {
  post(outbox, "WAITS");
  const { last } = outbox;
  outbox.ahead(() => {
    post(outbox, "HELLO");
    assert(outbox.last === last);
  });
});

test("Outbox.broke() counts against a message only breaks while it was on its way", async (outbox) => {
  const sent = post(outbox, "x".repeat(100));
  // Three that broke before anything was written, and two with a part of it.
  for (let n = 0; n < 3; n++) outbox.broke(why);
  for (let n = 0; n < 2; n++) {
    write(outbox, 10);
    outbox.broke(why);
  }
  assertEquals(outbox.count, 1);
  const behind = post(outbox, "BEHIND");
  write(outbox, 10);
  outbox.broke(why);
  assertEquals([await sent, outbox.count], [broken, 1]);
  assertEquals(writeAll(outbox), "BEHIND\x03");
  assertEquals(await behind, undefined);
});

test("Outbox.broke() counts nothing against what comes behind a message that has just left", (outbox) => {
  for (let n = 0; n < 4; n++) {
    outbox.ahead(() => void post(outbox, "HELLO"));
    if (n === 0) post(outbox, "BEHIND");
    outbox.wrote(outbox.next()?.length ?? 0);
    outbox.broke(why);
  }
  assertEquals(writeAll(outbox), "BEHIND\x03");
});

test("Outbox.broke() counts nothing against what is behind a message that may have left", async (outbox) => {
  const behind = post(outbox, "BEHIND");
  for (let n = 0; n < 4; n++) {
    const hello: Promise<unknown>[] = [];
    outbox.ahead(() => hello.push(post(outbox, "HELLO")));
    outbox.next();
    outbox.assumeSent();
    outbox.broke(why);
    assertEquals(await hello[0], undefined);
  }
  assertEquals(writeAll(outbox), "BEHIND\x03");
  assertEquals(await behind, undefined);
});

Deno.test("Outbox.isFull() counts every message with its overhead and its bytes, encoded or not", () => {
  for (const pack of [false, true]) {
    const outbox = new Outbox();
    outbox.post("中".repeat(100));
    if (pack) outbox.pack();
    const limit = 301 + 448 + 4 + 448;
    assertEquals(outbox.isFull("abc", limit), false);
    assertEquals(outbox.isFull("abcd", limit), true);
    assertEquals(outbox.isFull(new Uint8Array(4), limit), false);
    assertEquals(outbox.isFull(new Uint8Array(5), limit), true);
  }
  assertEquals(new Outbox().isFull("x".repeat(1000), 1), false);
});

Deno.test("Batch that has settled keeps nothing of what it sent", async () => {
  const code = `
    import { newAmount } from "./_framing.ts";
    import { Batch } from "./_outbox.ts";
    const used = () => {
      gc(); gc();
      const { heapUsed, external } = Deno.memoryUsage();
      return heapUsed + external;
    };
    const batches = [];
    const before = used();
    for (let n = 0; n < 1000; n++) {
      const batch = new Batch(newAmount(), false);
      batch.add(String(n).padEnd(20_000, "x"));
      if (n % 2) batch.pack();
      const { length } = batch.next();
      batch.wrote(length);
      batch.settle();
      batches.push(batch);
    }
    console.log((used() - before) / batches.length);
  `;
  await using process = new Process(Deno.execPath(), [
    "eval",
    "--v8-flags=--expose-gc",
    code,
  ]);
  const { code: exit, stdout, stderr } = await process.ended();
  assertEquals([exit, stderr], [0, ""]);
  assertLess(Number(stdout), 4000);
});

Deno.test("Batch.unwatch() takes out one watcher, and no other", () => {
  const batch = new Batch(newAmount(), false);
  const told: number[] = [];
  const watchers = [0, 1, 2].map((n) => ({ settled: () => void told.push(n) }));
  for (const watcher of watchers) batch.watch(watcher);
  const [, second] = watchers;
  if (second) batch.unwatch(second);
  batch.settle();
  assertEquals(told, [0, 2]);
});
