// Why: a robot that comes back must neither storm the server that sent it away,
// nor be blocked by a message that the server will not take, nor mix up or repeat
// what it has to say.

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertLess,
} from "@std/assert";
import {
  ClosedError,
  CommunicationError,
  createTcpClient,
  type TCPClient,
  type TCPClientOptions,
} from "../mod.ts";
import {
  assertEnded,
  Kernel,
  Line,
  LONG,
  NEVER,
  put,
  readLong,
  Reason,
  reset,
  ResettableLine,
  ROOM,
  send,
  sequence,
  SOON,
  soon,
  turn,
} from "./_line.ts";
import {
  KIB,
  LOOPBACK,
  MIB,
  outcome,
  type Peer,
  Queue,
  TERMINATOR,
  test,
} from "./_served.ts";

// the pauses

const FIRST_DELAY = 1_000_000;
const MAX_DELAY = 8 * FIRST_DELAY;
/** Pauses that no other timer of a test is as long as. */
const LONG_PAUSES = {
  firstDelay: FIRST_DELAY,
  maxDelay: MAX_DELAY,
  jitter: 0.5,
};

/** Takes the place of chance, and makes long pauses take no time. */
class Clock implements Disposable {
  /** How long each pause would have been, in milliseconds. */
  readonly pauses: number[] = [];
  readonly #random = Math.random;
  readonly #setTimeout = globalThis.setTimeout;

  constructor(chance: number) {
    Math.random = () => chance;
    const original = this.#setTimeout;
    const replacement = (
      callback: (...args: unknown[]) => void,
      ms = 0,
      ...args: unknown[]
    ) => {
      // With this chance no pause is as long as maxDelay; another timer may be.
      const isPause = ms >= FIRST_DELAY / 2 && ms !== MAX_DELAY;
      if (isPause) this.pauses.push(ms);
      return original(callback, isPause ? 0 : ms, ...args);
    };
    globalThis.setTimeout = replacement as typeof setTimeout;
  }

  [Symbol.dispose](): void {
    Math.random = this.#random;
    globalThis.setTimeout = this.#setTimeout;
  }
}

/** Accepts and closes at once; ends a client that comes more than `most` times. */
async function sendAway(
  line: Line,
  client: TCPClient,
  most: number,
  peers: Peer[],
): Promise<void> {
  try {
    for (;;) {
      const peer = await line.accept();
      peers.push(peer);
      peer.conn.close();
      if (peers.length > most) return await client.disconnect();
    }
  } catch {
    // The test has closed the line.
  }
}

/** A client that has heard something, and loses that connection. */
async function heard(
  line: Line,
  options: TCPClientOptions,
): Promise<TCPClient> {
  const { client, peer } = await line.connect(options);
  await peer.write("welcome\x03");
  assertEquals(await client.receive(), "welcome");
  peer.conn.close();
  return client;
}

for (
  const [what, options] of [
    ["", {}],
    [", also if it sends something itself", { hello: true }],
  ] as const
) {
  test(`RetryOptions.attempts and onRetry count connections that a server closes at once${what}`, async () => {
    await using line = new Line();
    using _clock = new Clock(0.5);
    const attempts = 5;
    const retries: Error[] = [];
    const client: TCPClient = await heard(line, {
      reconnect: { ...LONG_PAUSES, attempts },
      onRetry: (error) => retries.push(error),
      onReconnect: () => {
        if ("hello" in options) send(client, "hello");
      },
    });
    const peers: Peer[] = [];
    const sending = sendAway(line, client, attempts + 3, peers);
    const error = await soon(outcome(client.receive()), "the end");
    line.close();
    await sending;
    assertEquals(peers.length, attempts);
    assertEquals(retries.length, attempts - 1, "another attempt follows each");
    for (const retry of retries) assertInstanceOf(retry, Error);
    assertInstanceOf(error, ClosedError);
    assertInstanceOf(error.cause, Error);
    await assertEnded(client);
  });
}

test("RetryOptions.attempts count from the first connection on, if that one brings nothing", async () => {
  await using line = new Line();
  const attempts = 3;
  const { client, peer } = await line.connect({
    reconnect: { ...SOON, attempts },
  });
  peer.conn.close();
  const peers: Peer[] = [];
  const sending = sendAway(line, client, attempts + 3, peers);
  assertInstanceOf(
    await soon(outcome(client.receive()), "the end"),
    ClosedError,
  );
  line.close();
  await sending;
  // Whether the first connection was one of them is left open.
  assert(peers.length === attempts || peers.length === attempts - 1);
});

test("TCPClientOptions.retry alone counts no connection that the server closes at once", async () => {
  await using line = new Line();
  const retries: Error[] = [];
  const { client, peer } = await line.connect({
    retry: { ...SOON, attempts: 3 },
    onRetry: (error) => retries.push(error),
  });
  peer.conn.close();
  const error = await soon(outcome(client.receive()), "the end");
  assertInstanceOf(error, ClosedError);
  assertEquals(error.cause, undefined);
  assertEquals(retries, []);
});

test("RetryOptions.maxDelay is reached by pauses that grow while a server closes at once", async () => {
  await using line = new Line();
  using clock = new Clock(0.5);
  const client = await heard(line, {
    reconnect: { ...LONG_PAUSES, attempts: 8 },
  });
  const sending = sendAway(line, client, 11, []);
  await soon(outcome(client.receive()), "the end");
  line.close();
  await sending;
  const { pauses } = clock;
  assertEquals(pauses[0], 0.75 * FIRST_DELAY);
  assertEquals(pauses.at(-1), 0.75 * MAX_DELAY);
  assertEquals(pauses.length, 8);
  for (const [i, pause] of pauses.entries()) {
    const before = pauses[i - 1] ?? pause;
    assert(pause >= before && pause <= 2 * before, `${pauses}`);
    // It does not stay for long as short as it was.
    const three = pauses[i - 3];
    assert(!three || pause > three || three === 0.75 * MAX_DELAY, `${pauses}`);
  }
});

test("RetryOptions count failures to connect and connections that are closed at once in one row", async () => {
  await using line = new Line();
  using clock = new Clock(0.5);
  using kernel = new Kernel();
  const client = await heard(line, {
    reconnect: { ...LONG_PAUSES, attempts: 4 },
  });
  const ended = outcome(client.receive());
  const first = await line.accept();
  first.conn.close();
  const second = await line.accept();
  line.close();
  second.conn.close();
  const error = await soon(ended, "the end");
  assertInstanceOf(error, ClosedError);
  assertInstanceOf(error.cause, Deno.errors.ConnectionRefused);
  assertEquals(kernel.attempts, 1 + 4);
  assertEquals(clock.pauses.length, 4);
});

for (const [chance, part] of [[0.25, 0.875], [0.5, 0.75], [1, 0.5]] as const) {
  test(`RetryOptions.jitter holds for the first pause: at ${chance} it is ${part} of firstDelay`, async () => {
    await using line = new Line();
    using clock = new Clock(chance);
    const client = await heard(line, { reconnect: LONG_PAUSES });
    using _again = await soon(line.accept(), "the next connection");
    assertEquals(clock.pauses, [part * FIRST_DELAY]);
    await client.disconnect();
  });
}

test("RetryOptions.maxDelay holds for the first pause", async () => {
  await using line = new Line();
  using clock = new Clock(0.5);
  const client = await heard(line, {
    reconnect: { ...LONG_PAUSES, firstDelay: 100 * FIRST_DELAY },
  });
  using _again = await soon(line.accept(), "the next connection");
  assertEquals(clock.pauses, [0.75 * MAX_DELAY]);
  await client.disconnect();
});

test("RetryOptions begin anew after a connection that brought a byte", async () => {
  await using line = new Line();
  using clock = new Clock(0.5);
  const client = await heard(line, {
    reconnect: { ...LONG_PAUSES, attempts: 2 },
  });
  const rounds = 5;
  for (let i = 0; i < rounds; i++) {
    const away = await soon(line.accept(), "the next connection");
    away.conn.close();
    const peer = await soon(line.accept(), "the next connection");
    const { bytesIn } = client.stats;
    await peer.write("x");
    while (client.stats.bytesIn === bytesIn) await turn();
    peer.conn.close();
  }
  using last = await soon(line.accept(), "the next connection");
  await last.write("still here\x03");
  assertEquals(await client.receive(), "still here");
  assertEquals(clock.pauses.length, 2 * rounds + 1);
  // The pause after a connection that was well is the shortest.
  const shortest = clock.pauses.filter((_, i) => i % 2 === 0);
  assertEquals(new Set(shortest), new Set([0.75 * FIRST_DELAY]));
  await client.disconnect();
});

test("RetryOptions begin anew after a connection that lasted maxDelay, silent as it was", async () => {
  await using line = new Line();
  const back = new Queue<void>();
  const maxDelay = 20;
  const client = await heard(line, {
    reconnect: { firstDelay: 1, maxDelay, jitter: 0, attempts: 2 },
    onReconnect: () => back.put(),
  });
  for (let i = 0; i < 6; i++) {
    const peer = await soon(line.accept(), "the next connection");
    await back.next();
    await turn(3 * maxDelay); // what it lasts is what this is about
    peer.conn.close();
  }
  using last = await soon(line.accept(), "the next connection");
  await last.write("still here\x03");
  assertEquals(await client.receive(), "still here");
  await client.disconnect();
});

// given up

test("TCPClient that has given up tells why in every call, with the cause", async () => {
  await using line = new Line();
  using _clock = new Clock(0.5);
  const name = `${LOOPBACK}:${line.free.port} (wire port ${line.free.wire})`;
  const { client } = await line.strand({
    reconnect: { ...LONG_PAUSES, attempts: 2 },
  });
  const calls = (timeout = 0) => [
    client.receive(),
    client.receive({ timeout }),
    client[Symbol.asyncIterator]().next(),
    Array.fromAsync(client),
    send(client, "MOVE"),
  ];
  const assertTold = async (pending: Promise<unknown>[]) => {
    const errors = await soon(Promise.all(pending.map(outcome)), "the end");
    for (const [i, error] of errors.entries()) {
      assertInstanceOf(error, ClosedError);
      assertInstanceOf(error.cause, Deno.errors.ConnectionRefused);
      const what = i === 4 ? "send to" : "receive from";
      assertEquals(
        error.message,
        `Cannot ${what} ${name}: Cannot connect to ${name}: Connection refused`,
      );
    }
  };
  await assertTold(calls(Infinity));
  await assertTold(calls());
  await turn();
  await assertTold(calls());
  await assertEnded(client);
});

// a message that the server does not take

/**
 * A server that closes at more than `limit` bytes without a terminator; returns the
 * whole messages of each connection, once one has brought `last`.
 */
async function serveShort(
  line: Line,
  limit: number,
  last: string,
  most: number,
): Promise<string[][]> {
  const all: string[][] = [];
  while (all.length < most) {
    const { conn } = await line.accept();
    const messages: string[] = [];
    all.push(messages);
    await takeShort(conn, limit, last, messages);
    conn.close(); // with input unread, which resets it
    if (messages.includes(last)) break;
  }
  return all;
}

async function takeShort(
  conn: Deno.TcpConn,
  limit: number,
  last: string,
  messages: string[],
): Promise<void> {
  const decoder = new TextDecoder();
  const buffer = new Uint8Array(64 * KIB);
  let text = "";
  while (text.length <= limit && !messages.includes(last)) {
    const count = await conn.read(buffer).catch(() => null);
    if (count === null) return;
    text += decoder.decode(buffer.subarray(0, count), { stream: true });
    const parts = text.split(TERMINATOR);
    text = parts.pop() ?? "";
    messages.push(...parts);
  }
}

const STOP = "EMERGENCY STOP";

for (const count of [1, 2]) {
  test(`TCPClient with reconnect rejects ${count} at the head that broke three connections, and goes on behind`, async () => {
    await using line = new Line();
    const serving = serveShort(line, MIB, STOP, 3 * count + 4);
    await using client = await createTcpClient(LOOPBACK, line.free.port, {
      ...ROOM,
      reconnect: SOON,
    });
    await client.send("before");
    const long = Array.from(
      { length: count },
      () => outcome(client.send(LONG)),
    );
    const behind = ["MOVE 1", "MOVE 2", STOP].map((text) => send(client, text));
    for (const send of behind) send.catch(() => {}); // on its way out
    const all = await soon(serving, STOP);
    assertEquals(
      all.flat(),
      ["before", "MOVE 1", "MOVE 2", STOP],
      "in order, and none twice",
    );
    assertEquals(all.length, 3 * count + 1, "connections");
    await Promise.all(behind);
    for (const error of await Promise.all(long)) {
      assertInstanceOf(error, CommunicationError);
      assertInstanceOf(error.cause, Error);
    }
  });
}

test("TCPClient with reconnect counts the breaks of a message that was at the head, not of those behind", async () => {
  await using line = new Line();
  using kernel = new Kernel();
  const { client, peer } = await line.connect({ ...ROOM, reconnect: SOON });
  const sent = send(client, LONG);
  let last = peer;
  for (let i = 0; i < 2; i++) {
    await last.conn.read(new Uint8Array(1));
    last.conn.close();
    last = await soon(line.accept(), "the next connection");
  }
  assert(await readLong(last) === LONG, "whole at the third time");
  await sent;
  // What comes after it is not blamed for the breaks there were.
  const more = send(client, LONG);
  await last.conn.read(new Uint8Array(1));
  last.conn.close();
  using again = await soon(line.accept(), "the next connection");
  assert(await readLong(again) === LONG, "whole");
  await more;
  await client.send("end");
  assertEquals(await again.read(), "end");
  assertEquals(kernel.attempts, 4);
  await client.disconnect();
});

test("TCPClient with reconnect does not blame a message for attempts to connect that fail", async () => {
  await using line = new Line();
  const failed = new Queue<Error>();
  const { client } = await line.strand({
    onRetry: (error) => failed.put(error),
  });
  const sent = send(client, STOP);
  for (let i = 0; i < 10; i++) await soon(failed.next(), "a failure");
  line.open();
  using again = await soon(line.accept(), "the next connection");
  assertEquals(await soon(again.read(), STOP), STOP);
  await sent;
  await client.disconnect();
});

// what onReconnect sends

test("TCPClientOptions.onReconnect sends before what waited, each time", async () => {
  await using line = new Line();
  const { client, peer, gone } = await line.connect({
    reconnect: SOON,
    onReconnect: () => {
      send(client, "HELLO");
      send(client, "I AM R1");
    },
  });
  let last = peer;
  for (let i = 0; i < 3; i++) {
    line.close();
    last.conn.close();
    await soon(gone.next(), "the loss");
    const waiting = [1, 2, 3].map((n) => send(client, `WAITED ${i} ${n}`));
    line.open();
    last = await soon(line.accept(), "the next connection");
    await Promise.all(waiting);
    await client.send("NEW");
    const got = [];
    for (let n = 0; n < 6; n++) got.push(await last.read());
    assertEquals(got, [
      "HELLO",
      "I AM R1",
      `WAITED ${i} 1`,
      `WAITED ${i} 2`,
      `WAITED ${i} 3`,
      "NEW",
    ]);
  }
  await Promise.all([
    client.disconnect(),
    last.ended().then(() => last.conn.close()),
  ]);
});

test("TCPClientOptions.onReconnect sends before a message that the break had cut", async () => {
  await using line = new Line();
  const { client, peer } = await line.connect({
    ...ROOM,
    reconnect: SOON,
    onReconnect: () => void send(client, "HELLO"),
  });
  const sends = [LONG, "behind"].map((text) => send(client, text));
  await peer.conn.read(new Uint8Array(1));
  peer.conn.close();
  using again = await soon(line.accept(), "the next connection");
  const first = await again.read();
  assertEquals(first?.slice(0, 20), "HELLO");
  assert(await again.read() === LONG, "whole");
  assertEquals(await again.read(), "behind");
  await Promise.all(sends);
  await client.disconnect();
});

test("TCPClientOptions.onReconnect sends before what waited also if the buffer is full", async () => {
  await using line = new Line();
  let hello: Promise<void> | undefined;
  const { client } = await line.strand({
    maxSendBufferBytes: 10_000,
    onReconnect: () => hello = send(client, "HELLO"),
  });
  const waiting = Array.from(
    { length: 1000 },
    (_, n) => outcome(client.send(`${n}`.padEnd(100))),
  );
  line.open();
  using again = await soon(line.accept(), "the next connection");
  assertEquals(await again.read(), "HELLO");
  assertEquals(await again.read(), "0".padEnd(100));
  await hello;
  const outcomes = await Promise.all(waiting);
  assert(outcomes.some((error) => error instanceof Error), "it was full");
  await client.disconnect();
});

test("TCPClient.disconnect() in onReconnect sends all that waits, also behind what onReconnect has sent", async () => {
  await using line = new Line();
  const bye = Promise.withResolvers<void>();
  const { client } = await line.strand({
    onReconnect: () => {
      send(client, "HELLO");
      client.disconnect().then(bye.resolve, bye.reject);
    },
  });
  // Too much for one write.
  const waiting = Array.from(
    { length: 20 },
    (_, n) => `${n} `.padEnd(200_000, "x"),
  );
  const sent = waiting.map((message) => outcome(client.send(message)));
  line.open();
  const again = await soon(line.accept(), "the next connection");
  const got = await again.messages();
  again.conn.close();
  assertEquals(got.map(sequence), ["HELLO", ...waiting].map(sequence));
  assertEquals((await Promise.all(sent)).filter((error) => error), []);
  await bye.promise;
});

test("TCPClientOptions.onReconnect that sends what never leaves has it refused over maxSendBufferBytes", async () => {
  await using line = await ResettableLine.open();
  const hellos: Promise<unknown>[] = [];
  const { client, socket } = await line.connect({
    reconnect: { ...SOON, attempts: 1000 },
    maxSendBufferBytes: MIB,
    onReconnect: () => hellos.push(outcome(client.send("x".repeat(32 * MIB)))),
    maxMessageBytes: 64 * MIB,
  });
  socket.resetAndDestroy();
  // Each connection brings a byte, so none counts as a failure.
  for (let n = 0; n < 4; n++) {
    const next = await line.accept();
    await put(next, "welcome\x03");
    await client.receive();
    await reset(next);
  }
  await client.disconnect();
  const errors = await Promise.all(hellos);
  assert(
    errors.some((error) =>
      error instanceof CommunicationError &&
      error.message.startsWith("Cannot hold more than 1048576 bytes of what")
    ),
  );
});

test("TCPClientOptions.onReconnect sends after an await what goes behind what waited", async () => {
  await using line = new Line();
  const { client } = await line.strand({
    onReconnect: async () => {
      await client.send("HELLO");
      await client.send("READY");
    },
  });
  const waiting = [send(client, "WAITED 1"), send(client, "WAITED 2")];
  line.open();
  using again = await soon(line.accept(), "the next connection");
  const got = [];
  for (let n = 0; n < 4; n++) got.push(await again.read());
  assertEquals(got, ["HELLO", "WAITED 1", "WAITED 2", "READY"]);
  await Promise.all(waiting);
  await client.disconnect();
});

test("TCPClientOptions.onReconnect that throws what no instanceof can be asked of ends nothing", async () => {
  await using line = new Line();
  const reported = new Queue<string>();
  const report = (event: ErrorEvent) => {
    event.preventDefault();
    // Deno tells of the value itself before it fails to show it.
    const { message } = event.error;
    if (message !== "hostile") reported.put(message);
  };
  addEventListener("error", report);
  using stack = new DisposableStack();
  stack.defer(() => removeEventListener("error", report));
  const { client } = await line.strand({
    onReconnect: () => {
      throw new Proxy(new Error("hostile"), {
        getPrototypeOf() {
          throw new Error("trap");
        },
      });
    },
  });
  line.open();
  using again = await soon(line.accept(), "the next connection");
  assertEquals(
    await reported.next(),
    "Caught an object, which is not an Error",
  );
  await client.send("on");
  assertEquals(await again.read(), "on");
  await client.disconnect();
});

test("TCPClientOptions.onReconnect that throws after it has sent holds nothing up", async () => {
  await using line = new Line();
  const thrown = new Reason("thrown");
  const caught = new Queue<unknown>();
  const take = (event: ErrorEvent) => {
    event.preventDefault();
    caught.put(event.error);
  };
  globalThis.addEventListener("error", take);
  try {
    const { client } = await line.strand({
      onReconnect: () => {
        send(client, "HELLO");
        throw thrown;
      },
    });
    const waiting = send(client, "WAITED");
    line.open();
    using again = await soon(line.accept(), "the next connection");
    assertEquals(await caught.next(), thrown);
    assertEquals(await again.read(), "HELLO");
    assertEquals(await again.read(), "WAITED");
    await waiting;
    await client.disconnect();
  } finally {
    globalThis.removeEventListener("error", take);
  }
});

// callbacks that call back in

test("TCPClient may be used in each of its callbacks", async () => {
  await using line = new Line();
  const replies: Promise<unknown>[] = [];
  const polls: Promise<unknown>[] = [];
  const events: string[] = [];
  const failed = Promise.withResolvers<void>();
  const { client, peer } = await line.connect({
    reconnect: SOON,
    onDisconnect: () => use("gone"),
    onReconnect: () => use("back"),
    onRetry: () => {
      failed.resolve();
      if (!events.includes("retry")) use("retry");
    },
  });
  function use(when: string): void {
    events.push(when);
    replies.push(send(client, when), outcome(client.receive()));
    assertEquals(client.connected, when === "back");
    polls.push(outcome(client.receive({ timeout: 0 })));
  }
  line.close();
  peer.conn.close();
  await soon(failed.promise, "a failure to connect");
  line.open();
  using again = await soon(line.accept(), "the next connection");
  const got = [];
  for (let n = 0; n < 3; n++) got.push(await again.read());
  assertEquals(got, ["back", "gone", "retry"]);
  assertEquals(await Promise.all(polls), [null, null, null]);
  await again.write("1\x032\x033\x03");
  assertEquals(
    await soon(Promise.all(replies), "the replies"),
    [undefined, "1", undefined, "2", undefined, "3"],
  );
  assertEquals(events, ["gone", "retry", "back"]);
  await client.disconnect();
});

// order

/** Chance that can be repeated. */
function chance(seed: number): () => number {
  let state = seed;
  return () => {
    state = state + 0x6d2b79f5 | 0;
    let t = Math.imul(state ^ state >>> 15, 1 | state);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 2 ** 32;
  };
}

/** What is whole of what was written or read, and what is not. */
function split(text: string): [messages: string[], rest: string] {
  const messages = text.split(TERMINATOR);
  const rest = messages.pop() ?? "";
  return [messages, rest];
}

function assertRising(messages: string[], what: string): void {
  for (const [i, message] of messages.entries()) {
    const before = messages[i - 1];
    if (before === undefined) continue;
    assertLess(sequence(before), sequence(message), what);
  }
}

/** Cuts each connection after some bytes, but the last one; returns what came. */
async function cutAndCut(
  line: Line,
  cuts: number,
  random: () => number,
): Promise<string[]> {
  const texts: string[] = [];
  const buffer = new Uint8Array(64 * KIB);
  let pushed = 0;
  while (texts.length <= cuts) {
    const { conn } = await line.accept();
    const isLast = texts.length === cuts;
    const size = random() < 0.2 ? 10 : random() < 0.2 ? 2 * MIB : 100 * KIB;
    let left = isLast ? Infinity : Math.floor(random() * size);
    const push = new TextEncoder().encode(
      `${pushed++} \x03${pushed++} \x03${
        random() < 0.5 ? `${pushed} cut` : ""
      }`,
    );
    if (random() < 0.7) await conn.write(push).catch(() => {});
    const decoder = new TextDecoder("latin1");
    let text = "";
    while (left > 0) {
      const room = buffer.subarray(0, Math.min(left, buffer.length));
      const count = await conn.read(room).catch(() => null);
      if (count === null) break;
      left -= count;
      text += decoder.decode(room.subarray(0, count));
    }
    if (random() < 0.3) await conn.closeWrite().catch(() => {});
    conn.close();
    texts.push(text);
  }
  return texts;
}

for (let run = 0; run < 3; run++) {
  const seed = Math.floor(Math.random() * 2 ** 31);
  test(`TCPClient with reconnect sends whole messages once and in order over random cuts (${run})`, async () => {
    const random = chance(seed);
    const what = `seed ${seed}`;
    await using line = new Line();
    using kernel = new Kernel();
    const cutting = cutAndCut(line, 30, random);
    let lives = 0;
    const client = await createTcpClient(LOOPBACK, line.free.port, {
      reconnect: SOON,
      onReconnect: () => lives++,
    });
    const received = Array.fromAsync(client);
    const resolved: string[] = [];
    const rejected: string[] = [];
    const sending: Promise<unknown>[] = [];
    for (let i = 0; lives < 30; i++) {
      const size = random() < 0.02 ? 300 * KIB : random() * 2000;
      const message = `${i} `.padEnd(size, ".");
      const sent = send(client, message).then(
        () => resolved.push(message),
        () => rejected.push(message),
      );
      sending.push(sent);
      const pick = random();
      if (pick < 0.1) await sent;
      else if (pick < 0.2) await turn();
    }
    await Promise.all(sending);
    await client.disconnect();
    const texts = await cutting;

    const taken = kernel.writes.map((writes) => writes.join(""));
    assertEquals(taken.length, texts.length, what);
    for (const [i, text] of texts.entries()) {
      assert(taken[i]?.startsWith(text), `${what}: what came was sent`);
    }
    const whole = taken.flatMap((text) => split(text)[0]);
    assertRising(whole, `${what}: none is with the kernel twice`);
    // In the order of the calls, too.
    assert(whole.join() === resolved.join(), `${what}: resolved are the whole`);
    const arrived = texts.flatMap((text) => split(text)[0]);
    assertRising(arrived, `${what}: none arrives twice`);
    assert(texts.at(-1) === taken.at(-1), `${what}: the last ones arrive`);
    assertEquals(client.stats.messagesOut, resolved.length, what);
    const got = await received;
    assertRising(got, `${what}: pushes are in order`);
    assert(got.every((text) => /^\d+ $/.test(text)), `${what}: and whole`);
  });
}

test("TCPClient with reconnect sends again only what is not whole with the kernel, of writes that were cut", async () => {
  await using line = new Line();
  using kernel = new Kernel();
  const { client, peer } = await line.connect({ reconnect: SOON });
  // Far more than the buffers hold, so that writes end in the middle of many messages.
  const count = 40_000;
  const texts = Array.from({ length: count }, (_, n) => `${n} `.padEnd(999));
  const sends = texts.map((text) => outcome(client.send(text)));
  let last = peer;
  for (let i = 0; i < 2; i++) {
    await last.conn.read(new Uint8Array(1));
    await turn(); // so that the write that is cut has begun
    last.conn.close();
    last = await soon(line.accept(), "the next connection");
  }
  const end = last;
  const [, messages] = await soon(
    Promise.all([
      Promise.all(sends).then(() => client.disconnect()),
      end.messages().then((messages) => {
        end.conn.close();
        return messages;
      }),
    ]),
    "all sends",
  );
  const taken = kernel.writes.map((writes) => split(writes.join("")));
  const whole = taken.flatMap(([whole]) => whole);
  assertRising(whole, "none twice");
  assert(whole.join() === texts.join(), "all of them");
  const cut = taken.filter(([, rest]) => rest !== "").length;
  assert(cut > 0, "writes were cut in the middle of a message");
  assertEquals(messages.at(-1), texts.at(-1));
  assertEquals(client.stats.messagesOut, count);
});

for (const reconnect of [false, SOON]) {
  const how = reconnect ? "with reconnect" : "without reconnect";

  test(`TCPClient.send() ${how} writes what one turn sends in one write, in order`, async () => {
    await using line = new Line();
    using kernel = new Kernel();
    const { client, peer } = await line.connect({ reconnect });
    using _peer = peer;
    const messages = Array.from({ length: 100 }, (_, n) => `MOVE ${n}`);
    await Promise.all(messages.map((message) => send(client, message)));
    await Promise.all(["next", "turn"].map((message) => send(client, message)));
    assertEquals(kernel.writes, [[
      messages.map((message) => message + TERMINATOR).join(""),
      "next\x03turn\x03",
    ]]);
    await Promise.all([
      client.disconnect(),
      peer.ended().then(() => peer.conn.close()),
    ]);
  });

  test(`TCPClient.send() ${how} keeps the order while a large message is written`, async () => {
    await using line = new Line();
    using kernel = new Kernel();
    const { client, peer } = await line.connect({ ...ROOM, reconnect });
    using _peer = peer;
    const order: string[] = [];
    const post = (message: string) =>
      send(client, message).then(() => order.push(message.slice(0, 9)));
    const sends = [post("first"), post(LONG)];
    for (let n = 0; n < 20; n++) {
      sends.push(post(`${n}`));
      if (n % 3 === 0) await turn();
    }
    assertEquals(await peer.read(), "first");
    assert(await peer.read() === LONG, "not interleaved");
    for (let n = 0; n < 20; n++) assertEquals(await peer.read(), `${n}`);
    await Promise.all(sends);
    const numbers = Array.from({ length: 20 }, (_, n) => `${n}`);
    assertEquals(order, ["first", LONG.slice(0, 9), ...numbers]);
    assertEquals(kernel.writes.length, 1);
    await Promise.all([
      client.disconnect(),
      peer.ended().then(() => peer.conn.close()),
    ]);
  });
}

test("TCPClient with reconnect loses its connection again while it sends what waited, and goes on", async () => {
  await using line = new Line();
  const { client } = await line.strand({
    ...ROOM,
    maxSendBufferBytes: 64 * MIB,
  });
  // Of so much, four connections are needed: a kernel holds 12 MiB at the most.
  const size = 2 * MIB;
  const count = 24;
  const order: number[] = [];
  const waiting = Array.from(
    { length: count },
    (_, n) =>
      outcome(
        client.send(`${n} `.padEnd(size, ".")).then(() => order.push(n)),
      ),
  );
  line.open();
  const got: string[] = [];
  let sentBefore = 0;
  for (let i = 0; i < 3; i++) {
    const peer = await soon(line.accept(), "the next connection");
    const message = await soon(peer.read(), "a message");
    assert(message && message.length === size, "whole");
    got.push(message);
    peer.conn.close();
    // What it got is what was sent first of those that were not with the kernel.
    assert(sequence(message) >= sentBefore, "not again");
    sentBefore = sequence(message) + 1;
  }
  const reading = (async () => {
    const peer = await line.accept();
    for (let text; (text = await peer.read()) !== null && text !== "end";) {
      got.push(text);
    }
    peer.conn.close();
  })();
  await soon(Promise.all(waiting), "all that waited");
  await client.send("end");
  await soon(reading, "end");
  assertRising(got, "in order, none twice");
  assertEquals(order, Array.from({ length: count }, (_, n) => n));
  await client.disconnect();
});

// ends

/** How a client that is ended by this side names it, as one that had a connection does. */
async function endedBySelf(line: Line): Promise<string[]> {
  const { client, peer } = await line.connect();
  const receiving = outcome(client.receive());
  const closed = client.disconnect();
  await peer.ended();
  peer.conn.close();
  await closed;
  const errors = await Promise.all([receiving, outcome(client.send("late"))]);
  return errors.map((error) => (error as Error).message);
}

/** All calls that can be pending when a client ends. */
function pend(client: TCPClient): Promise<unknown[]> {
  return Promise.all([
    outcome(Array.fromAsync(client)),
    outcome(client.receive()),
    outcome(client.send("waits")),
  ]);
}

const CALLBACKS = [
  "onDisconnect",
  "onReconnect",
  "onRetry",
] as const;

for (const when of CALLBACKS) {
  test(`TCPClient.disconnect() in ${when} ends loops, and says in errors that this side closed it`, async () => {
    await using line = new Line();
    const [receiving, sending] = await endedBySelf(line);
    const called = Promise.withResolvers<void>();
    const { client, peer } = await line.connect({
      reconnect: when === "onDisconnect" ? NEVER : SOON,
      onDisconnect: () => {},
      [when]: () => {
        called.resolve(
          Promise.all([client.disconnect(), client.disconnect()])
            .then(() => {}),
        );
      },
    });
    const looped = outcome(Array.fromAsync(client));
    const received = outcome(client.receive());
    // Otherwise nobody waits for the end of it.
    const accepting = when === "onReconnect" ? line.accept() : undefined;
    if (when === "onRetry") line.close();
    await peer.write("in the middle of a mess");
    peer.conn.close();
    const again = await accepting;
    await again?.ended();
    again?.conn.close();
    await soon(called.promise, "the end");
    assertEquals(await looped, []);
    const errors = await Promise.all([
      received,
      outcome(client.receive()),
      outcome(client.send("late")),
    ]);
    assertEquals(
      errors.map((error) => (error as Error).message),
      [receiving, receiving, sending],
    );
    for (const error of errors) {
      assertInstanceOf(error, ClosedError);
      assertEquals([error.cause, error.incomplete.length], [undefined, 0]);
    }
    assertEquals(await Array.fromAsync(client), []);
    await assertEnded(client);
  });

  test(`TCPClientOptions.signal that aborts in ${when} ends everything with its reason`, async () => {
    await using line = new Line();
    const abort = new AbortController();
    const cause = new Reason("enough");
    const called = new Queue<void>();
    const { client, peer } = await line.connect({
      reconnect: when === "onDisconnect" ? NEVER : SOON,
      signal: abort.signal,
      onDisconnect: () => {},
      [when]: () => {
        abort.abort(cause);
        called.put();
      },
    });
    const pending = Promise.all([
      outcome(Array.fromAsync(client)),
      outcome(client.receive()),
    ]);
    const accepting = when === "onReconnect" ? line.accept() : undefined;
    if (when === "onRetry") line.close();
    await peer.write("in the middle of a mess");
    peer.conn.close();
    const again = await accepting;
    await again?.ended();
    again?.conn.close();
    await soon(called.next(), when);
    const errors = [
      ...await soon(pending, "the end"),
      ...await pend(client),
    ];
    for (const error of errors) {
      assertInstanceOf(error, ClosedError);
      assertEquals(error.cause, cause);
    }
    assertEquals(called.rest(), [], "once");
    await assertEnded(client);
  });
}

test("TCPClientOptions.signal that aborts in onReconnect ends what waits to be sent, and what onReconnect sent", async () => {
  await using line = new Line();
  const abort = new AbortController();
  const cause = new Reason("enough");
  const sends: Promise<unknown>[] = [];
  const { client } = await line.strand({
    signal: abort.signal,
    onReconnect: () => {
      sends.push(outcome(client.send("HELLO")));
      abort.abort(cause);
    },
  });
  for (const text of ["WAITS 1", "WAITS 2"]) {
    sends.push(outcome(client.send(text)));
  }
  line.open();
  using again = await soon(line.accept(), "the next connection");
  await again.ended();
  const errors = await soon(Promise.all(sends), "the ends of send()");
  assertEquals(errors.length, 3);
  for (const error of errors) {
    assertInstanceOf(error, ClosedError);
    assertEquals(error.cause, cause);
  }
  await assertEnded(client);
});

/** How the connection of a client with `reconnect` can break. */
const breaks: Record<
  string,
  TCPClientOptions & { cut?: string; reset?: true }
> = {
  "was closed by the peer": {},
  "was closed in the middle of a message": { cut: "in the mid" },
  "was reset": { reset: true },
  "was reset in the middle of a message": { cut: "in the mid", reset: true },
  "was given up as idle": { idleTimeout: 50 },
  "was given up as idle in the middle of a message": {
    idleTimeout: 50,
    cut: "in the mid",
  },
};

for (const [what, { cut, reset, ...options }] of Object.entries(breaks)) {
  test(`TCPClient.disconnect() of a client whose connection ${what} ends loops, and says in errors that this side closed it`, async () => {
    await using line = await ResettableLine.open();
    const reference = await line.connect();
    const closed = reference.client.disconnect();
    reference.socket.resume().end();
    await closed;
    const expected = (await Promise.all([
      outcome(reference.client.receive()),
      outcome(reference.client.send("late")),
    ])).map((error) => (error as Error).message);

    const { client, socket, gone } = await line.connect({
      reconnect: NEVER,
      ...options,
    });
    await client.send("at work");
    const before = [
      outcome(Array.fromAsync(client)),
      outcome(client.receive()),
    ];
    if (cut) {
      socket.write(cut);
      while (client.stats.bytesIn < cut.length) await turn();
    }
    if (reset) socket.resetAndDestroy();
    else if (!options.idleTimeout) socket.end();
    await soon(gone.next(), "the loss");
    const meanwhile = pend(client);
    await soon(client.disconnect(), "the end");
    const [loopedBefore, received] = await Promise.all(before);
    assertEquals(loopedBefore, []);
    const [looped, ...errors] = await soon(meanwhile, "the end of all calls");
    assertEquals(looped, []);
    const late = await pend(client);
    assertEquals(late[0], []);
    assertEquals(
      [received, ...errors, ...late.slice(1)].map((error) =>
        (error as Error).message
      ),
      [expected[0], ...expected, ...expected],
    );
    for (const error of [received, ...errors, ...late.slice(1)]) {
      assertInstanceOf(error, ClosedError);
      assertEquals([error.cause, error.incomplete.length], [undefined, 0]);
    }
    assertEquals(gone.rest(), [], "told once");
  });
}

// ends at each await

test("TCPClient.disconnect() ends an attempt to connect, and a connection that comes all the same", async () => {
  await using line = new Line();
  const started = new Queue<void>();
  const gate = Promise.withResolvers<void>();
  let first = true;
  using _kernel = new Kernel(async () => {
    if (first) return void (first = false);
    started.put();
    await gate.promise;
  });
  const back: string[] = [];
  const { client, peer } = await line.connect({
    reconnect: SOON,
    onReconnect: () => back.push("back"),
  });
  const pending = pend(client);
  peer.conn.close();
  await soon(started.next(), "an attempt");
  const accepting = line.accept();
  const ended = client.disconnect();
  gate.resolve();
  await soon(Promise.all([ended, client.disconnect()]), "the end");
  const [looped, received] = await soon(pending, "the end of all calls");
  assertEquals(looped, []);
  assertInstanceOf(received, ClosedError);
  const again = await soon(accepting, "the connection");
  await soon(again.ended(), "the end of the connection");
  assertEquals(back, []);
  await assertEnded(client);
});

test("TCPClientOptions.signal ends an attempt to connect, and a connection that comes all the same", async () => {
  await using line = new Line();
  const started = new Queue<void>();
  const gate = Promise.withResolvers<void>();
  let first = true;
  using _kernel = new Kernel(async () => {
    if (first) return void (first = false);
    started.put();
    await gate.promise;
  });
  const abort = new AbortController();
  const cause = new Reason("enough");
  const back: string[] = [];
  const { client, peer } = await line.connect({
    reconnect: SOON,
    signal: abort.signal,
    onReconnect: () => back.push("back"),
  });
  const received = outcome(client.receive());
  peer.conn.close();
  await soon(started.next(), "an attempt");
  const sent = outcome(client.send("waits"));
  abort.abort(cause);
  for (const error of await soon(Promise.all([received, sent]), "the end")) {
    assertInstanceOf(error, ClosedError);
    assertEquals(error.cause, cause);
  }
  const accepting = line.accept();
  gate.resolve();
  const again = await soon(accepting, "the connection");
  await soon(again.ended(), "the end of the connection");
  assertEquals(back, []);
  await assertEnded(client);
});

/** What a peer does while a client that sends more than buffers hold disconnects. */
const peers: Record<string, (peer: Peer) => Promise<boolean>> = {
  "reads it all": async (peer) => {
    const messages = await peer.messages();
    peer.conn.close();
    return messages.length === 2;
  },
  "closes with it unread": async ({ conn }) => {
    await conn.read(new Uint8Array(1));
    conn.close();
    return false;
  },
  "half-closes and reads nothing": async ({ conn }) => {
    await conn.closeWrite();
    return false;
  },
  "reads and writes nothing": () => Promise.resolve(false),
};

for (const [what, act] of Object.entries(peers)) {
  test(`TCPClient.disconnect() with reconnect settles all sends, once, when the peer ${what}`, async () => {
    await using line = new Line();
    using kernel = new Kernel();
    const { client, peer, gone } = await line.connect({
      ...ROOM,
      reconnect: SOON,
    });
    using _peer = peer;
    const sends = [LONG, "behind"].map((text) => outcome(client.send(text)));
    await turn();
    const pending = [
      outcome(client.receive()),
      outcome(Array.fromAsync(client)),
    ];
    const first = client.disconnect();
    const during = outcome(client.send("during"));
    const second = client.disconnect();
    const [whole] = await soon(
      Promise.all([act(peer), first, second]),
      "the end",
    );
    const outcomes = await soon(Promise.all(sends), "the ends of the sends");
    for (const error of outcomes) {
      if (whole) assertEquals(error, undefined);
      else assertInstanceOf(error, ClosedError);
    }
    assertInstanceOf(await during, ClosedError);
    const [received, looped] = await Promise.all(pending);
    assertInstanceOf(received, ClosedError);
    assertEquals(looped, []);
    assertEquals([kernel.attempts, gone.rest()], [1, []]);
    await assertEnded(client);
  });

  test(`TCPClientOptions.signal ends a disconnect() under way whose peer ${what}`, async () => {
    await using line = new Line();
    const abort = new AbortController();
    const { client, peer } = await line.connect({
      ...ROOM,
      reconnect: SOON,
      signal: abort.signal,
    });
    using _peer = peer;
    const sends = [LONG, "behind"].map((text) => outcome(client.send(text)));
    await turn();
    const disconnected = client.disconnect();
    abort.abort(new Reason("enough"));
    await soon(
      Promise.all([disconnected, ...sends]),
      "the end",
    );
    await outcome(act(peer));
    await assertEnded(client);
  });
}

test("TCPClient.send() in the turn of a loss is sent once, or waits", async () => {
  await using line = new Line();
  const { client, peer, gone } = await line.connect({ reconnect: SOON });
  const sends: Promise<void>[] = [];
  let last = peer;
  const got: string[] = [];
  let n = 0;
  for (let i = 0; i < 20; i++) {
    const before = gone.all.length;
    const reading = last.messages;
    assert(reading);
    last.conn.close();
    while (gone.all.length === before) {
      sends.push(send(client, `${n++} `));
      await Promise.resolve();
      if (n % 50 === 0) await turn();
    }
    last = await soon(line.accept(), "the next connection");
    sends.push(send(client, `${n++} `));
    for (let message = ""; sequence(message) !== n - 1;) {
      message = await soon(last.read(), "a message") ?? "";
      got.push(message);
    }
  }
  await soon(Promise.all(sends), "all sends");
  assertRising(got, "none twice, in order");
  last.conn.close();
  await client.disconnect();
});
