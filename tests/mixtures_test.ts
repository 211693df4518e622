// Why: scripts send in every way at once, and whatever they mix, what leaves must be in
// the order of the calls, whole and once, and settled and counted as the peer got it.

import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import fc from "fast-check";
import {
  type Address,
  ClosedError,
  type Reply,
  type TCPClient,
  type TCPClientOptions,
} from "../mod.ts";
import { Kernel, Line, NEVER, SOON, soon, turn } from "./_line.ts";
import {
  KIB,
  MIB,
  outcome,
  type Peer,
  Queue,
  Served,
  test,
  until,
} from "./_served.ts";

const encoder = new TextEncoder();

/** Sizes around which messages begin to be handled otherwise. */
const BOUNDS = [0, 128, KIB, 4 * KIB, 16 * KIB, 64 * KIB];

/** Numbers of bytes, mostly few. */
function sizes(most: number): fc.Arbitrary<number> {
  const near = fc.constantFrom(...BOUNDS).chain((bound) =>
    fc.integer({ min: Math.max(0, bound - 4), max: bound + 4 })
  );
  return fc.oneof(
    { arbitrary: fc.nat(200), weight: 4 },
    { arbitrary: near, weight: 3 },
    { arbitrary: fc.nat(most), weight: 1 },
  );
}

/** Characters of one byte to four. */
const unit = fc.constantFrom("x", "x", "é", "中", "😀");

/** Portions that a slow peer reads, with a turn of the event loop after each. */
const portions = fc.array(
  fc.oneof(fc.integer({ min: 1, max: 50 }), fc.integer({ min: 1, max: 9_000 })),
  { maxLength: 60 },
);

/** A message of about so many bytes that begins with what tells it from all others. */
function make(tag: string, size: number, unit: string): string {
  if (size === 0) return "";
  const count = (size - tag.length - 1) / encoder.encode(unit).length;
  return `${tag} ${unit.repeat(Math.max(0, Math.round(count)))}`;
}

function sizeOf(messages: readonly string[]): number {
  return encoder.encode(messages.join("\x03")).length +
    Math.min(messages.length, 1);
}

function short(text: string | undefined): string {
  if (text === undefined) return "none";
  return `${JSON.stringify(text.slice(0, 20))} (${text.length})`;
}

/** Asserts that messages are the same, without printing megabytes. */
function assertSame(
  actual: readonly string[],
  expected: readonly string[],
  what: string,
): void {
  for (let n = 0; n < Math.max(actual.length, expected.length); n++) {
    if (actual[n] === expected[n]) continue;
    const [a, b] = [short(actual[n]), short(expected[n])];
    throw new Error(`${what}: message ${n} is ${a} instead of ${b}`);
  }
}

/** What a peer got so far. */
class Got {
  readonly #decoder = new TextDecoder("utf-8", { fatal: true });
  #text = "";

  /** Reads a portion; false at the end. */
  async more(peer: Peer, most: number): Promise<boolean> {
    const room = new Uint8Array(most);
    const count = await peer.conn.read(room);
    if (count === null) return false;
    const bytes = room.subarray(0, count);
    this.#text += this.#decoder.decode(bytes, { stream: true });
    return true;
  }

  /** Reads slowly, from then on as fast as it can, and closes too at the end. */
  all(peer: Peer, portions: readonly number[]): Promise<string[]> {
    const all = this.#all(peer, portions);
    // A test that fails first does not wait for it.
    all.catch(() => {});
    return all;
  }

  async #all(peer: Peer, portions: readonly number[]): Promise<string[]> {
    let isMore = true;
    for (const portion of portions) {
      isMore &&= await this.more(peer, portion);
      await turn();
    }
    while (isMore) isMore = await this.more(peer, 256 * KIB);
    peer[Symbol.dispose]();
    return this.whole();
  }

  /** The messages, of which the last one must be whole. */
  whole(): string[] {
    const messages = this.messages();
    assertEquals(messages.pop()?.length, 0, "bytes behind the last message");
    return messages;
  }

  /** The messages, and what has come of the next one. */
  messages(): string[] {
    return this.#text.split("\x03");
  }
}

// A server

/** How a callback replies. */
const HOWS = ["sync", "async", "later", "thenable", "none", "push"] as const;
type How = typeof HOWS[number];

const serverStep = fc.record({
  kind: fc.constantFrom("ask", "ask", "send", "sendToAll", "turn"),
  size: sizes(200 * KIB),
  unit,
  how: fc.constantFrom(...HOWS),
  isAwaited: fc.nat(9).map((n) => n === 0),
});
type ServerStep = typeof serverStep extends fc.Arbitrary<infer T> ? T : never;

/** What a server was made to send to one slow client and one fast one. */
class Mixture {
  /** In the order of the calls: to the slow client, to both, and in replies. */
  readonly pushes: string[] = [];
  readonly pushesToAll: string[] = [];
  readonly replies: string[] = [];
  readonly results: Promise<unknown>[] = [];
  readonly #steps: readonly ServerStep[];
  readonly served: Served;
  /** Whose messages the callback gets. */
  #slow: Address | undefined;
  #called = 0;
  #asked = 0;
  #wake = () => {};

  constructor(steps: readonly ServerStep[]) {
    this.#steps = steps;
    this.served = new Served((message) => this.#reply(Number(message)), {
      maxSendBufferBytes: 64 * MIB,
    });
  }

  async run(slow: Peer): Promise<void> {
    this.#slow = slow.address;
    for (const [n, step] of this.#steps.entries()) {
      if (step.kind === "turn") await turn();
      else if (step.kind === "ask") await this.#ask(slow, n);
      else {
        const result = this.#push(n, step);
        if (step.isAwaited) await result;
      }
    }
    while (this.#called < this.#asked) {
      await new Promise<void>((resolve) => this.#wake = resolve);
    }
  }

  async #ask(slow: Peer, n: number): Promise<void> {
    this.#asked++;
    await slow.write(`${n}\x03`);
  }

  #push(n: number, { kind, size, unit }: ServerStep): Promise<unknown> {
    const message = make(`push ${n}`, size, unit);
    const isToAll = kind === "sendToAll";
    this.pushes.push(message);
    if (isToAll) this.pushesToAll.push(message);
    assert(this.#slow);
    const { server } = this.served;
    const result = isToAll
      ? server.sendToAll(message).then((count) => assertEquals(count, 2))
      : server.send(message, this.#slow);
    this.results.push(result);
    return result;
  }

  #reply(n: number): Reply | Promise<Reply> {
    this.#called++;
    this.#wake();
    const step = this.#steps[n];
    assert(step);
    const { how, size, unit } = step;
    if (how === "none") return null;
    if (how === "push") return void this.#push(n, step);
    const message = make(`reply ${n}`, size, unit);
    this.replies.push(message);
    return answer(how, message);
  }
}

function answer(how: How, message: string): Reply | Promise<Reply> {
  switch (how) {
    case "async":
      return Promise.resolve(message);
    case "later":
      return turn().then(() => message);
    case "thenable":
      return { then: (resolve: (reply: string) => void) => resolve(message) } as
        & PromiseLike<string>
        & Promise<string>;
    default:
      return message;
  }
}

const isReply = (message: string) => message.startsWith("reply");
const isEmpty = (message: string) => message === "";

test("TCPServer sends replies and pushes of any mixture whole, once and each in the order of the calls, and counts them", async () => {
  const steps = fc.array(serverStep, { maxLength: 40 });
  await fc.assert(
    fc.asyncProperty(steps, portions, async (steps, portions) => {
      const mixture = new Mixture(steps);
      await using served = mixture.served;
      const { server } = served;
      using slow = await served.known();
      using fast = await served.known();
      const reading = [new Got().all(slow, portions), new Got().all(fast, [])];
      await mixture.run(slow);
      await Promise.all([...mixture.results, server.stop()]);
      const [bySlow = [], byFast = []] = await Promise.all(reading);

      const { pushes, pushesToAll, replies } = mixture;
      assertSame(byFast, pushesToAll, "pushes to all");
      // An empty message does not say where it is from.
      const isFull = (message: string) => !isEmpty(message);
      assertSame(
        bySlow.filter((text) => isReply(text)),
        replies.filter(isFull),
        "replies",
      );
      assertSame(
        bySlow.filter((text) => isFull(text) && !isReply(text)),
        pushes.filter(isFull),
        "pushes",
      );
      const sent = [...pushes, ...replies];
      assertEquals(
        bySlow.filter(isEmpty).length,
        sent.filter(isEmpty).length,
        "empty messages",
      );
      const { messagesOut, bytesOut } = server.stats;
      assertEquals(messagesOut, bySlow.length + byFast.length);
      assertEquals(bytesOut, sizeOf(bySlow) + sizeOf(byFast));
    }),
    { numRuns: 20 },
  );
});

test("TCPServer sends synchronous replies and what their callbacks push in the order of the calls", async () => {
  const step = fc.record({
    isAll: fc.boolean(),
    before: sizes(20 * KIB),
    reply: sizes(20 * KIB),
    unit,
  });
  const steps = fc.array(step, { minLength: 1, maxLength: 30 });
  await fc.assert(
    fc.asyncProperty(steps, portions, async (steps, portions) => {
      const expected: string[] = [];
      const results: Promise<unknown>[] = [];
      await using served = new Served((text, address) => {
        const step = steps[Number(text)];
        assert(step);
        const push = make(`push ${text}`, step.before, step.unit);
        const reply = make(`reply ${text}`, step.reply, step.unit);
        expected.push(push, reply);
        results.push(
          step.isAll
            ? served.server.sendToAll(push)
            : served.server.send(push, address),
        );
        return reply;
      }, { maxSendBufferBytes: 64 * MIB });
      using peer = await served.known();
      const reading = new Got().all(peer, portions);
      await peer.write(steps.map((_, n) => `${n}\x03`).join(""));
      await until(() => expected.length === 2 * steps.length);
      await Promise.all([...results, served.server.stop()]);
      const got = await reading;
      assertSame(got, expected, "replies and pushes");
      const { messagesOut, bytesOut } = served.server.stats;
      assertEquals([messagesOut, bytesOut], [got.length, sizeOf(got)]);
    }),
    { numRuns: 20 },
  );
});

// A client

const clientStep = fc.record({
  size: sizes(300 * KIB),
  unit,
  isAwaited: fc.nat(4).map((n) => n === 0),
  turns: fc.nat(3).map((n) => n === 0),
});
const clientSteps = fc.array(clientStep, { maxLength: 40 });
type ClientStep = typeof clientStep extends fc.Arbitrary<infer T> ? T : never;

/** What a step sends, and whether it waits then. */
type Call = Pick<ClientStep, "isAwaited" | "turns"> & { message: string };

function callsOf(steps: readonly ClientStep[]): Call[] {
  return steps.map(({ size, unit, ...rest }, n) => ({
    ...rest,
    message: make(`${n}`, size, unit),
  }));
}

/** Sends as a script does that sometimes waits; returns how each call ends. */
async function sendEach(
  client: TCPClient,
  calls: readonly Call[],
): Promise<Promise<unknown>[]> {
  const sent: Promise<unknown>[] = [];
  for (const { message, isAwaited, turns } of calls) {
    const one = outcome(client.send(message));
    sent.push(one);
    if (isAwaited) await one;
    if (turns) await turn();
  }
  return sent;
}

for (const reconnect of [false, NEVER]) {
  const how = reconnect ? " with reconnect" : "";
  test(`TCPClient.send()${how} resolves each of any mixture, and the peer gets them as they were sent`, async () => {
    await fc.assert(
      fc.asyncProperty(clientSteps, portions, async (steps, portions) => {
        await using line = new Line();
        const { client, peer } = await line.connect({ reconnect });
        const calls = callsOf(steps);
        const messages = calls.map(({ message }) => message);
        const reading = new Got().all(peer, portions);
        const sent = await sendEach(client, calls);
        // It waits for what is pending.
        await client.disconnect();
        const outcomes = await Promise.all(sent);
        assertEquals(outcomes, messages.map(() => undefined));
        assertSame(await reading, messages, "messages");
        const { messagesOut, bytesOut } = client.stats;
        assertEquals([messagesOut, bytesOut], [
          messages.length,
          sizeOf(messages),
        ]);
      }),
      { numRuns: 20 },
    );
  });
}

test("TCPClient.send() resolves exactly what a peer gets that ends its side meanwhile", async () => {
  await fc.assert(
    fc.asyncProperty(
      clientSteps,
      portions,
      fc.nat(),
      async (steps, portions, end) => {
        await using line = new Line();
        const { client, peer } = await line.connect();
        const calls = callsOf(steps);
        const messages = calls.map(({ message }) => message);
        const got = new Got();
        const read = async () => {
          const before = portions.slice(0, end % (portions.length + 1));
          for (const portion of before) {
            // It may have nothing more to read: then it ends its side all the same.
            if (!await got.more(peer, portion)) return got.whole();
            await turn();
          }
          await peer.conn.closeWrite();
          return got.all(peer, portions.slice(before.length));
        };
        const reading = read();
        reading.catch(() => {});
        const sent = await sendEach(client, calls);
        await client.disconnect();
        const outcomes = await Promise.all(sent);
        const resolved = messages.filter((_, n) => outcomes[n] === undefined);
        for (const error of outcomes) {
          if (error !== undefined) assertInstanceOf(error, ClosedError);
        }
        assertSame(await reading, resolved, "resolved messages");
        const { messagesOut, bytesOut } = client.stats;
        assertEquals([messagesOut, bytesOut], [
          resolved.length,
          sizeOf(resolved),
        ]);
      },
    ),
    { numRuns: 20 },
  );
});

/** What makes sure that something is cut: more than the kernels hold. */
const FILLERS = {
  "nothing more": [],
  "a long message": ["x".repeat(16 * MIB)],
  "many messages": Array.from(
    { length: 16_000 },
    (_, n) => make(`filler ${n}`, 1_100, "x"),
  ),
};

/** A client sends, and its peer breaks off when it has read its portions. */
async function breakOff(
  reconnect: NonNullable<TCPClientOptions["reconnect"]>,
  steps: readonly ClientStep[],
  portions: readonly number[],
  filler: readonly string[],
): Promise<void> {
  await using line = new Line();
  using kernel = new Kernel();
  const { client, peer, gone } = await line.connect({
    reconnect,
    maxMessageBytes: 32 * MIB,
    maxSendBufferBytes: 64 * MIB,
  });
  line.close();
  // One that waits for a connection would wait for ever.
  const calls = callsOf(steps).map((call) => ({ ...call, isAwaited: false }));
  const more = filler.map((message) => ({
    message,
    isAwaited: false,
    turns: false,
  }));
  calls.splice(calls.length >> 1, 0, ...more);
  const got = new Got();
  const read = async () => {
    for (const portion of portions) {
      if (!await got.more(peer, portion)) return;
      await turn();
    }
    peer.conn.close();
  };
  const reading = read();
  reading.catch(() => {});
  const sent = await sendEach(client, calls);
  if (filler.length > 0) await gone.next();
  // It ends what waits for a connection, too, and a peer that has read everything.
  await client.disconnect();
  const outcomes = await Promise.all(sent);
  await reading;

  const resolved = outcomes.findIndex((one) => one !== undefined);
  const count = resolved < 0 ? outcomes.length : resolved;
  for (const one of outcomes.slice(count)) assertInstanceOf(one, ClosedError);
  const taken = kernel.writes.flat().join("");
  const whole = taken.split("\x03").length - 1;
  assert(count <= whole, `${count} resolved, ${whole} whole`);
  // Without it, messages that leave in one write settle together.
  if (reconnect) assertEquals(count, whole);
  const { messagesOut, bytesOut } = client.stats;
  assertEquals([messagesOut, bytesOut], [whole, taken.length]);
  const arrived = got.messages();
  const cut = arrived.pop() ?? "";
  const messages = calls.map(({ message }) => message);
  assertSame(arrived, messages.slice(0, arrived.length), "what arrived");
  assert(messages[arrived.length]?.startsWith(cut) ?? cut === "");
}

for (const reconnect of [false, NEVER]) {
  for (const [what, filler] of Object.entries(FILLERS)) {
    const how = reconnect ? " with reconnect" : "";
    test(`TCPClient.send()${how} settles as the kernel took the messages when a peer breaks off meanwhile: ${what} between`, async () => {
      const property = fc.asyncProperty(
        clientSteps,
        portions,
        (steps, portions) => breakOff(reconnect, steps, portions, filler),
      );
      await fc.assert(property, { numRuns: 10 });
    });
  }
}

// Writes that stay under way

/** Whether a push ends while a server goes on serving somebody else. */
async function endsMeanwhile(
  push: Promise<unknown>,
  tick: () => Promise<void>,
): Promise<boolean> {
  let isEnded = false;
  push.then(() => isEnded = true);
  for (let ticks = 0; ticks < 50 && !isEnded; ticks++) await tick();
  return isEnded;
}

for (const size of [20 * KIB, 60 * KIB, 200 * KIB]) {
  test(`TCPServer.send() changes nothing of what is under way to a client that takes nothing: ${size} bytes`, async () => {
    await using served = new Served(undefined, {
      maxSendBufferBytes: 64 * MIB,
    });
    const { server } = served;
    using stuck = await served.known();
    using other = await served.known();
    const tick = async () => {
      await server.send("tick", other.address);
      assertEquals(await other.read(), "tick");
    };
    const messages: string[] = [];
    let last: Promise<unknown>;
    do {
      const message = make(`stuck ${messages.length}`, size, "é");
      messages.push(message);
      last = outcome(server.send(message, stuck.address));
    } while (await endsMeanwhile(last, tick));
    // What is under way to somebody else is as long, and not the same.
    for (let n = 0; n < 20; n++) {
      const message = make(`other ${n}`, size, "ö");
      const sent = server.send(message, other.address);
      assert(await other.read() === message);
      await sent;
    }
    const reading = new Got().all(stuck, []);
    assertEquals(await last, undefined);
    await server.stop();
    assertSame(await reading, messages, "what was under way");
  });
}

/** Connections whose writes begin and end when the test says so. */
class Gates implements Disposable {
  readonly writes = new Queue<{
    bytes: Uint8Array;
    /** Has it really written. */
    pass(): Promise<void>;
    end(outcome: number | Error): void;
  }>();
  readonly #connect = Deno.connect;

  constructor() {
    const connect = this.#connect;
    const replacement = async (options: Deno.ConnectOptions) => {
      const conn = await connect(options);
      const write = conn.write.bind(conn);
      conn.write = (bytes) => {
        const { promise, resolve, reject } = Promise.withResolvers<number>();
        this.writes.put({
          bytes,
          pass: async () => resolve(await write(bytes)),
          end: (outcome) =>
            typeof outcome === "number" ? resolve(outcome) : reject(outcome),
        });
        return promise;
      };
      return conn;
    };
    Deno.connect = replacement as typeof Deno.connect;
  }

  [Symbol.dispose](): void {
    Deno.connect = this.#connect;
  }
}

for (const how of ["resolves", "rejects"] as const) {
  test(`TCPClient.send() with reconnect sends each message once where a write ${how} long after its connection closed`, async () => {
    await using line = new Line();
    using gates = new Gates();
    const { client, peer } = await line.connect({ reconnect: SOON });
    const one = outcome(client.send("one"));
    const late = await gates.writes.next();
    peer.conn.close();
    const again = await soon(line.accept(), "the next connection");
    const resent = await soon(
      gates.writes.next(),
      "the write that is made again",
    );
    const two = outcome(client.send("two"));
    await turn();
    late.end(how === "resolves" ? late.bytes.length : new Error("late"));
    await turn();
    await resent.pass();
    await (await soon(gates.writes.next(), "the next write")).pass();
    assertEquals(await again.read(), "one");
    assertEquals(await again.read(), "two");
    assertEquals([await one, await two], [undefined, undefined]);
    assertEquals(client.stats.messagesOut, 2);
  });
}

test("TCPClient.send() with reconnect sends again what several breaks in a row have left of one write", async () => {
  await using line = new Line();
  using gates = new Gates();
  const { client, peer, gone } = await line.connect({ reconnect: SOON });
  const sent = ["one", "two", "three", "four"].map((message) =>
    outcome(client.send(message))
  );
  let last = peer;
  /** The next write, of which the kernel takes so many bytes before the connection breaks. */
  const cut = async (text: string, taken: number) => {
    const write = await soon(gates.writes.next(), `the write of ${text}`);
    assertEquals(new TextDecoder().decode(write.bytes), text);
    if (taken > 0) write.end(taken);
    const rest = taken > 0 ? await gates.writes.next() : write;
    last.conn.close();
    await soon(gone.next(), "the loss of the connection");
    rest.end(new Deno.errors.ConnectionReset("reset"));
    last = await soon(line.accept(), "the next connection");
  };
  await cut("one\x03two\x03three\x03four\x03", 6);
  assertEquals([await sent[0], client.stats.messagesOut], [undefined, 1]);
  await cut("two\x03three\x03four\x03", 0);
  await cut("two\x03three\x03four\x03", 4);
  assertEquals([await sent[1], client.stats.messagesOut], [undefined, 2]);
  const write = await soon(gates.writes.next(), "the last write");
  await write.pass();
  for (const message of ["three", "four"]) {
    assertEquals(await soon(last.read(), message), message);
  }
  assertEquals(await Promise.all(sent), sent.map(() => undefined));
  assertEquals(client.stats.messagesOut, 4);
});

test("TCPClient.send() rejects what a write that fails had not sent, and what waits behind it, in the order of the calls", async () => {
  await using line = new Line();
  using gates = new Gates();
  const { client, gone } = await line.connect();
  const ended: number[] = [];
  const send = (message: string, n: number) => {
    const sent = outcome(client.send(message));
    sent.then(() => ended.push(n));
    return sent;
  };
  const first = ["one", "two"].map(send);
  const write = await gates.writes.next();
  const long = "x".repeat(100 * KIB);
  const behind = ["three", long, "four"].map((text, n) => send(text, n + 2));
  await turn();
  assertEquals(ended, []);
  // The first message has left whole, and the second one in part.
  write.end(5);
  const rest = await gates.writes.next();
  assertEquals(rest.bytes.length, "one two ".length - 5);
  assertEquals(ended, []);
  rest.end(new Deno.errors.ConnectionReset("reset"));
  const [, ...others] = await Promise.all([...first, ...behind]);
  for (const error of others) {
    assertInstanceOf(error, ClosedError);
    assertInstanceOf(error.cause, Deno.errors.ConnectionReset);
  }
  assertEquals(ended, [0, 1, 2, 3, 4]);
  assertInstanceOf(await gone.next(), Deno.errors.ConnectionReset);
  const { messagesOut, bytesOut } = client.stats;
  assertEquals([messagesOut, bytesOut], [1, 5]);
});
