// Why: a script must learn that its connection is gone, once, at once and as it
// was, whatever it does at that moment; and what it has left must not go on.

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
} from "@std/assert";
import { LINGER_MS } from "../_connection.ts";
import { ClosedError, type TCPClient } from "../mod.ts";
import {
  Line,
  LONG,
  NEVER,
  put,
  Reason,
  reset,
  ResettableLine,
  ROOM,
  send,
  SOON,
  soon,
  turn,
} from "./_line.ts";
import { LOOPBACK_ONLY, Program } from "./_netns.ts";
import { Process } from "./_process.ts";
import {
  KIB,
  LOOPBACK,
  outcome,
  Queue,
  standstill,
  TERMINATOR,
  test,
} from "./_served.ts";

/** More than a client reads ahead, and less than the kernel holds. */
const PUSHED = Array.from({ length: 3000 }, (_, n) => `push ${n}`);
const PUSH = PUSHED.map((message) => message + TERMINATOR).join("");

/** How often a script sends before it is told that nobody is there: bounded, not timed. */
const MANY = 2_000;

/** Sends until the client tells that the connection is gone. */
async function sendUntilGone(
  client: TCPClient,
  gone: Queue<unknown>,
): Promise<void> {
  for (let n = 0; n < MANY && gone.all.length === 0; n++) {
    send(client, "status");
    await turn();
  }
}

// onDisconnect comes once, with what is still to be received

for (
  const [how, reconnect] of [["", false], [" with reconnect", NEVER]] as const
) {
  for (const end of ["resets", "closes"] as const) {
    test(`TCPClientOptions.onDisconnect${how} is called when a send fails, once, before what had arrived is received: the peer ${end}`, async () => {
      await using line = await ResettableLine.open();
      const { client, socket, gone } = await line.connect({ reconnect });
      await put(socket, PUSH);
      while (client.stats.bytesIn === 0) await turn();
      if (end === "resets") await reset(socket);
      else socket.destroy();
      await sendUntilGone(client, gone);
      assertEquals(gone.all.length, 1);
      assertEquals(client.connected, false);
      if (end === "resets") assertInstanceOf(gone.all[0], Error);
      const got = [];
      for (let n = 0; n < PUSHED.length; n++) {
        got.push(await soon(client.receive(), `message ${n}`));
      }
      assertEquals(got, PUSHED);
      if (reconnect === false) {
        await assertRejects(() => client.receive(), ClosedError);
        await assertRejects(() => client.send("late"), ClosedError);
        assertEquals(
          await outcome(client.receive({ timeout: 0 })) instanceof ClosedError,
          true,
        );
      } else {
        assertEquals(await client.receive({ timeout: 0 }), null);
      }
      await client.disconnect();
      assertEquals(gone.all.length, 1);
    });
  }
}

test("TCPClientOptions.onDisconnect has been called when the send that failed has told", async () => {
  await using line = await ResettableLine.open();
  const { client, socket, gone } = await line.connect();
  await put(socket, PUSH);
  while (client.stats.bytesIn === 0) await turn();
  await reset(socket);
  for (let n = 0; n < MANY; n++) {
    const error = await outcome(client.send("status"));
    if (error === undefined) continue;
    assertInstanceOf(error, ClosedError);
    assertInstanceOf(error.cause, Error);
    break;
  }
  await turn();
  assertEquals(gone.all.length, 1);
  assertInstanceOf(gone.all[0], Error);
});

test("TCPClientOptions.onDisconnect is called once when a read shows the end and sends fail after it", async () => {
  await using line = new Line();
  const { client, peer, gone } = await line.connect();
  await peer.write("one\x03two\x03");
  peer.conn.close();
  await soon(gone.next(), "onDisconnect");
  for (let n = 0; n < 3; n++) {
    await assertRejects(() => client.send("status"), ClosedError);
  }
  assertEquals(await client.receive(), "one");
  assertEquals(await client.receive(), "two");
  await assertRejects(() => client.receive(), ClosedError);
  await client.disconnect();
  assertEquals(gone.rest(), []);
});

test("TCPClientOptions.onDisconnect is called once when read and write fail in one turn", async () => {
  await using line = await ResettableLine.open();
  for (let n = 0; n < 30; n++) {
    const { client, socket, gone } = await line.connect(ROOM);
    const receiving = outcome(client.receive());
    const sent = outcome(client.send(LONG.slice(0, 8 * KIB * KIB)));
    if (n % 3 > 0) await turn();
    socket.resetAndDestroy();
    const error = await soon(sent, "the end of send()");
    assert(error === undefined || error instanceof ClosedError);
    assertInstanceOf(await soon(receiving, "the end"), ClosedError);
    await soon(gone.next(), "onDisconnect");
    await client.disconnect();
    await turn();
    assertEquals(gone.rest(), []);
  }
});

for (const call of ["send", "receive", "disconnect"] as const) {
  test(`TCPClient.${call}() may be called in onDisconnect`, async () => {
    await using line = await ResettableLine.open();
    const outcomes: Promise<unknown>[] = [];
    const { client, socket } = await line.connect({
      onDisconnect: () => {
        assertEquals(client.connected, false);
        outcomes.push(outcome(client[call]("late" as never)));
        outcomes.push(outcome(client[call]("late" as never)));
      },
    });
    const pending = outcome(Array.fromAsync(client));
    await put(socket, "one\x03two\x03");
    await reset(socket);
    const error = await soon(pending, "the end");
    assertInstanceOf(error, ClosedError);
    assertInstanceOf(error.cause, Deno.errors.ConnectionReset);
    await turn();
    const seen = await soon(Promise.all(outcomes), `the ends of ${call}()`);
    assertEquals(seen.length, 2, "told once");
    for (const one of seen) {
      if (call === "disconnect") assertEquals(one, undefined);
      else if (call === "send") assertInstanceOf(one, ClosedError);
      else assertInstanceOf(one, Error); // "late" is no options
    }
  });
}

/** More than a client reads at once, and less than the kernel holds. */
const KEPT = Array.from({ length: 1000 }, (_, n) => `${n} `.padEnd(100));

test("TCPClient.receive() with reconnect gets all that had arrived when a send failed, also if onDisconnect computes", async () => {
  await using line = new Line();
  const gone = new Queue<void>();
  const { client, peer } = await line.connect({
    reconnect: NEVER,
    onDisconnect: () => {
      compute(LINGER_MS + 100);
      gone.put();
    },
  });
  await peer.write(KEPT.map((message) => message + TERMINATOR).join(""));
  while (client.stats.bytesIn === 0) await turn();
  peer.conn.close();
  await sendUntilGone(client, gone);
  const got = [];
  for (const _ of KEPT) got.push(await soon(client.receive(), "a message"));
  assertEquals(got, KEPT);
  await client.disconnect();
});

test("TCPClientOptions.signal with reconnect leaves what had arrived to be received", async () => {
  await using line = new Line();
  const abort = new AbortController();
  const { client, peer } = await line.connect({
    reconnect: NEVER,
    signal: abort.signal,
  });
  const messages = Array.from({ length: 300 }, (_, n) => `push ${n}`);
  const bytes = messages.map((message) => message + TERMINATOR).join("");
  await peer.write(bytes);
  while (client.stats.bytesIn < bytes.length) await turn();
  const cause = new Reason("enough");
  abort.abort(cause);
  const got = [];
  for (const _ of messages) got.push(await outcome(client.receive()));
  assertEquals(got, messages);
  const error = await assertRejects(() => client.receive(), ClosedError);
  assertEquals(error.cause, cause);
});

// what is sent at the end

for (const how of ["signal", "disconnect() after a loss"]) {
  test(`TCPClient.send() with reconnect resolves for each message that is whole with the kernel at the end: ${how}`, async () => {
    await using line = new Line();
    const abort = new AbortController();
    const { client, peer, gone } = await line.connect({
      reconnect: NEVER,
      signal: abort.signal,
    });
    // More than the buffers of both kernels hold.
    const count = 16 * KIB;
    let resolved = 0;
    const sends = Array.from(
      { length: count },
      (_, n) => client.send(`${n} `.padEnd(KIB)).then(() => resolved++),
    );
    const ends = Promise.allSettled(sends);
    await standstill(() => client.stats.bytesOut, () => turn());
    if (how === "signal") {
      abort.abort(new Reason("enough"));
    } else {
      await peer.conn.closeWrite();
      await soon(gone.next(), "the loss");
      await client.disconnect();
    }
    await soon(ends, "the ends of send()");
    // Read only now, so what was with the kernel is known.
    const text = await new Response(peer.conn.readable).text();
    const whole = text.split(TERMINATOR).length - 1;
    assert(whole > 0 && whole < count, `${whole} of ${count}`);
    assertEquals(
      { resolved, messagesOut: client.stats.messagesOut },
      { resolved: whole, messagesOut: whole },
    );
  });
}

// an orderly end

const utf8 = new TextEncoder();

for (const reconnect of [false, NEVER]) {
  const how = reconnect ? " with reconnect" : "";
  for (
    const [what, sent, rest] of [
      ["messages", "one\x03two\x03", ""],
      ["an empty message", "\x03", ""],
      ["many messages", PUSH.slice(0, PUSH.indexOf("push 250")), ""],
      ["messages and the rest of one", "one\x03two\x03three", "three"],
      [
        "messages and a rest that is not ASCII",
        "één\x03机器人\x03🤖 機",
        "🤖 機",
      ],
      ["nothing but the rest of one", "three", "three"],
      ["empty messages and a rest", "\x03\x03\x03x", "x"],
    ] as const
  ) {
    test(`TCPClientOptions.onDisconnect${how} gets ${rest ? "the rest" : "no error"} at an orderly end with ${what} not received`, async () => {
      await using line = new Line();
      const { client, peer, gone } = await line.connect({ reconnect });
      const bytes = utf8.encode(sent);
      const middle = bytes.length >> 1;
      await peer.write(bytes.subarray(0, middle));
      await turn();
      await peer.write(bytes.subarray(middle));
      peer.conn.close();
      const error = await soon(gone.next(), "onDisconnect");
      assertCut(error, rest);
      const whole = sent.split(TERMINATOR).slice(0, -1);
      for (const message of whole) {
        assertEquals(await client.receive(), message);
      }
      if (reconnect) return;
      assertCut(await outcome(client.receive()), rest, true);
      assertEquals(gone.rest(), []);
    });
  }
}

/** An error that carries just this, or none. */
function assertCut(error: unknown, rest: string, always = false): void {
  if (rest === "" && !always) return assertEquals(error, undefined);
  assertInstanceOf(error, ClosedError);
  assertEquals(new TextDecoder().decode(error.incomplete), rest);
  assertEquals(error.cause, undefined);
}

test("TCPClientOptions.onDisconnect gets the whole of a long rest, and only that", async () => {
  await using line = new Line();
  const rest = "0123456789".repeat(10 * KIB);
  const { client, peer, gone } = await line.connect();
  const received = client.receive();
  await peer.write(`one\x03two\x03${rest}`);
  assertEquals(await received, "one");
  assertEquals(await client.receive(), "two");
  // It is read only as far as somebody waits for it.
  const waiting = outcome(client.receive());
  peer.conn.close();
  assertCut(await soon(gone.next(), "onDisconnect"), rest);
  assertCut(await waiting, rest);
});

test("TCPClientOptions.onDisconnect gets no error at an orderly end with a message that is not UTF-8 not received", async () => {
  await using line = new Line();
  const { peer, gone } = await line.connect();
  await peer.write(Uint8Array.of(0xff, 3, 0x41, 3));
  peer.conn.close();
  assertEquals(await soon(gone.next(), "onDisconnect"), undefined);
});

test("TCPClientOptions.onDisconnect gets the reset with messages not received, and they can be", async () => {
  await using line = await ResettableLine.open();
  const { client, socket, gone } = await line.connect();
  await put(socket, "one\x03two\x03thr");
  while (client.stats.bytesIn < 11) await turn();
  socket.resetAndDestroy();
  assertInstanceOf(
    await soon(gone.next(), "onDisconnect"),
    Deno.errors.ConnectionReset,
  );
  assertEquals([await client.receive(), await client.receive()], [
    "one",
    "two",
  ]);
  const error = await assertRejects(() => client.receive(), ClosedError);
  assertEquals(new TextDecoder().decode(error.incomplete), "thr");
  assertInstanceOf(error.cause, Deno.errors.ConnectionReset);
});

// loops that are left

const LEFT: IteratorResult<string> = { value: undefined, done: true };

test("TCPClient's iterator whose return() is called while it waits takes no message more", async () => {
  await using line = new Line();
  const { client, peer } = await line.connect();
  const loop = client[Symbol.asyncIterator]();
  const waiting = [loop.next(), loop.next()];
  assertEquals(await loop.return?.(), LEFT);
  assertEquals(
    await soon(Promise.all(waiting), "the end of next()"),
    [LEFT, LEFT],
  );
  const received = [client.receive(), client.receive()];
  await peer.write("one\x03two\x03");
  assertEquals(
    await soon(Promise.all(received), "the messages"),
    ["one", "two"],
  );
  assertEquals(await loop.next(), LEFT);
  assertEquals(await loop.return?.(), LEFT);
});

test("TCPClient's iterator whose return() is called keeps the turns of the others that wait", async () => {
  await using line = new Line();
  const { client, peer } = await line.connect();
  const [left, other] = [client, client].map((client) =>
    client[Symbol.asyncIterator]()
  ) as [AsyncIterableIterator<string>, AsyncIterableIterator<string>];
  const first = client.receive();
  const gone = left.next();
  const second = other.next();
  const third = client.receive();
  await left.return?.();
  const fourth = client.receive();
  await peer.write("1\x032\x033\x034\x03");
  assertEquals(
    await soon(Promise.all([first, second, third, fourth]), "the messages"),
    ["1", { value: "2", done: false }, "3", "4"],
  );
  assertEquals(await gone, LEFT);
});

test("TCPClient's iterator gives a message that has come before return() is called", async () => {
  await using line = new Line();
  const { client, peer } = await line.connect();
  const loop = client[Symbol.asyncIterator]();
  const waiting = loop.next();
  await peer.write("one\x03two\x03");
  while (client.stats.messagesIn === 0) await turn();
  await loop.return?.();
  // It is either with the loop or the next to be received.
  const seen = await waiting;
  const next = await client.receive();
  if (seen.done) assertEquals([next, await client.receive()], ["one", "two"]);
  else assertEquals([seen.value, next], ["one", "two"]);
});

test("ReadableStream.from(TCPClient) takes no message more after cancel()", async () => {
  await using line = new Line();
  const { client, peer } = await line.connect();
  const reader = ReadableStream.from(client).getReader();
  await peer.write("one\x03");
  assertEquals(await reader.read(), { value: "one", done: false });
  const waiting = reader.read();
  await turn();
  await soon(reader.cancel(), "the end of cancel()");
  assertEquals((await waiting).done, true);
  const received = client.receive();
  await peer.write("two\x03");
  assertEquals(await soon(received, "the message"), "two");
});

test("ReadableStream.from(TCPClient) takes no message more after pipeTo() is aborted", async () => {
  await using line = new Line();
  const { client, peer } = await line.connect();
  const abort = new AbortController();
  const written = new Queue<string>();
  const sink = new WritableStream<string>({
    write: (text) => written.put(text),
  });
  const piped = outcome(
    ReadableStream.from(client).pipeTo(sink, { signal: abort.signal }),
  );
  await peer.write("one\x03");
  assertEquals(await soon(written.next(), "the first message"), "one");
  await turn();
  const cause = new Reason("enough");
  abort.abort(cause);
  assertEquals(await soon(piped, "the end of pipeTo()"), cause);
  const received = client.receive();
  await peer.write("two\x03");
  assertEquals(await soon(received, "the message"), "two");
  assertEquals(written.rest(), []);
});

test("TCPClient.disconnect() and a loss end an iterator that was left, too", async () => {
  await using line = new Line();
  for (const own of [true, false]) {
    const { client, peer } = await line.connect();
    const loop = client[Symbol.asyncIterator]();
    const waiting = loop.next();
    await loop.return?.();
    await peer.write("cut");
    peer.conn.close();
    if (own) await client.disconnect();
    assertEquals(await soon(waiting, "the end of next()"), LEFT);
    assertEquals(await loop.next(), LEFT);
    const { incomplete } = await assertRejects(
      () => client.receive(),
      ClosedError,
    );
    if (!own) assertEquals(incomplete.length, 3);
  }
});

for (
  const [what, body] of [
    [
      "an iterator whose return() was called while it waited",
      `const loop = client[Symbol.asyncIterator]();
      loop.next();
      await loop.return();`,
    ],
    [
      "a stream that was cancelled while it waited",
      `const reader = ReadableStream.from(client).getReader();
      reader.read();
      await new Promise((resolve) => setTimeout(resolve, 1));
      await reader.cancel();`,
    ],
  ] as const
) {
  test(`TCPClient does not keep a script alive for ${what}`, async () => {
    await using line = new Line();
    using program = new Program(`
      const client = await comm.createTcpClient("${LOOPBACK}", ${line.free.port});
      // Not at the top level, where an await keeps the script alive by itself.
      (async () => {
        ${body}
        console.log("left");
      })();
    `);
    await using process = program.start(...LOOPBACK_ONLY);
    using _peer = await line.accept();
    assertEquals(await process.read(), "left");
    const { code, stderr } = await soon(
      process.ended(),
      "the end of the script",
    );
    assertEquals({ code, stderr }, { code: 0, stderr: "" });
  });
}

// a silent peer, and one that is not

const IDLE_MS = 150;

/** Computes without a pause: unless told, for longer than a peer may be silent. */
function compute(ms = 2.5 * IDLE_MS): void {
  const end = performance.now() + ms;
  while (performance.now() < end);
}

/** Computes in blocks until something holds, at most 50 of them. */
async function computeUntil(condition: () => boolean): Promise<void> {
  for (let blocks = 0; !condition() && blocks < 50; blocks++) {
    compute();
    await turn(1);
  }
}

/** A peer in a process of its own, as nothing here runs while the script computes. */
function talker(wire: number, every: number): Process {
  return new Process(Deno.execPath(), [
    "eval",
    `const listener = Deno.listen({ hostname: "${LOOPBACK}", port: ${wire} });
    console.log("ready");
    const conn = await listener.accept();
    const message = new TextEncoder().encode("alive\\x03");
    try {
      for (;;) {
        await conn.write(message);
        await new Promise((resolve) => setTimeout(resolve, ${every}));
      }
    } catch {
      // The client has gone.
    }`,
  ]);
}

/** How a script gives way between two blocks of work. */
const ways: Record<string, (client: TCPClient) => Promise<unknown>> = {
  "a timer of 0": () => turn(),
  "two turns": () => turn().then(() => turn()),
  "receive() with timeout 0": async (client) => {
    await turn();
    return await client.receive({ timeout: 0 });
  },
  "receive()": (client) => client.receive(),
};

for (const [way, pause] of Object.entries(ways)) {
  test(`TCPClientOptions.idleTimeout keeps a peer that talks while the script computes in blocks, with ${way} in between`, async () => {
    await using line = new Line();
    line.close();
    await using peer = talker(line.free.wire, 10);
    assertEquals(await peer.read(), "ready");
    const gone = new Queue<Error | undefined>();
    const client = await line.join({
      idleTimeout: IDLE_MS,
      onDisconnect: (error) => gone.put(error),
    });
    for (const times of [2.5, 2.5, 1.2, 3, 1.05, 2]) {
      compute(times * IDLE_MS);
      assertEquals(gone.all, []);
      await pause(client);
    }
    await turn(IDLE_MS); // a peer that was not heard is given up by then
    assertEquals(gone.all, []);
    assertEquals(client.connected, true);
    assertEquals(await client.receive(), "alive");
  });
}

test("TCPClientOptions.idleTimeout gives up a silent peer while the script computes in blocks", async () => {
  await using line = new Line();
  const { client, gone } = await line.connect({ idleTimeout: IDLE_MS });
  await computeUntil(() => gone.all.length > 0);
  assertInstanceOf(gone.all[0], Deno.errors.TimedOut);
  const error = await assertRejects(() => client.receive(), ClosedError);
  assertInstanceOf(error.cause, Deno.errors.TimedOut);
});

test("TCPClientOptions.idleTimeout gives up a peer that stops talking while the script computes in blocks", async () => {
  await using line = new Line();
  const { client, peer, gone } = await line.connect({ idleTimeout: IDLE_MS });
  for (let n = 0; n < 3; n++) {
    await peer.write("alive\x03");
    compute(IDLE_MS / 2);
    assertEquals(await client.receive(), "alive");
  }
  await computeUntil(() => gone.all.length > 0);
  assertInstanceOf(gone.all[0], Deno.errors.TimedOut);
});

test("TCPClientOptions.idleTimeout with reconnect gives up a silent peer, and comes back", async () => {
  await using line = new Line();
  const { client, gone } = await line.connect({
    idleTimeout: IDLE_MS,
    reconnect: SOON,
  });
  assertInstanceOf(
    await soon(gone.next(), "onDisconnect"),
    Deno.errors.TimedOut,
  );
  const again = await soon(line.accept(), "the next connection");
  await again.write("back\x03");
  assertEquals(await client.receive(), "back");
});
