// Why: against raw peers, which control and see every byte; interop and server
// tests cover the rest of the way.

import {
  assert,
  assertEquals,
  assertGreater,
  assertInstanceOf,
  assertLess,
  assertNotStrictEquals,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
} from "@std/assert";
import { deadline, delay } from "@std/async";
import fc from "fast-check";
import { Connection } from "../_connection.ts";
import { newStats } from "../_stats.ts";
import {
  ClosedError,
  createTcpClient,
  InvalidMessageError,
  MessageTooLargeError,
  type TCPClient,
  type TCPClientOptions,
} from "../mod.ts";
import { ResettableLine, turn } from "./_line.ts";
import { LOOPBACK, onLinux, onWindows } from "./_machine.ts";
import { Program } from "./_netns.ts";
import { freePort } from "./_ports.ts";
import { PATIENCE, Process, WAIT } from "./_process.ts";
import { KIB, MIB, outcomes, test, until } from "./_served.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true, fatal: true });

const WITHOUT_NET: Pick<Deno.TestDefinition, "permissions"> = {
  permissions: { net: false },
};

/** What a full backlog does is Linux's own way. */
const ON_LINUX = { ignore: !onLinux };

interface Pair extends AsyncDisposable {
  client: TCPClient;
  /** The other end, of which every byte is in the hands of the test. */
  peer: Deno.TcpConn;
  port: number;
  wire: number;
}

async function connectPair(options: TCPClientOptions = {}): Promise<Pair> {
  await using stack = new AsyncDisposableStack();
  const { port, wire } = stack.use(freePort());
  using listener = Deno.listen({ hostname: LOOPBACK, port: wire });
  const [client, peer] = await Promise.all([
    createTcpClient(LOOPBACK, port, options),
    listener.accept(),
  ]);
  stack.use(client);
  stack.use(peer);
  const whole = stack.move();
  return {
    client,
    peer,
    port,
    wire,
    [Symbol.asyncDispose]: () => whole.disposeAsync(),
  };
}

async function writeAll(
  conn: Deno.TcpConn,
  data: string | Uint8Array<ArrayBuffer>,
): Promise<void> {
  let rest = typeof data === "string" ? encoder.encode(data) : data;
  while (rest.length > 0) rest = rest.subarray(await conn.write(rest));
}

/** What comes until the other side closes; `pause` runs after each read. */
async function readAll(
  conn: Deno.TcpConn,
  pause: () => Promise<void> = async () => {},
): Promise<string> {
  const parts: Uint8Array<ArrayBuffer>[] = [];
  const buffer = new Uint8Array(32 * KIB);
  for (let count; (count = await conn.read(buffer)) !== null;) {
    parts.push(buffer.slice(0, count));
    await pause();
  }
  return decoder.decode(await new Blob(parts).bytes());
}

/** All that the client sends, which it does not go on with. */
async function disconnectAndRead({ client, peer }: Pair): Promise<string> {
  const closed = client.disconnect();
  const text = await readAll(peer);
  peer.close();
  await closed;
  return text;
}

function frames(messages: readonly string[]): string {
  return messages.map((message) => `${message}\x03`).join("");
}

function numbers(count: number): string[] {
  return Array.from({ length: count }, (_, i) => String(i));
}

/** Keeps the event loop from turning. */
function block(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

async function collect(
  client: TCPClient,
  into: string[] = [],
): Promise<string[]> {
  for await (const message of client) into.push(message);
  return into;
}

/** Sends whose outcome is asked for later, if at all. */
function sendAll(client: TCPClient, messages: string[]): Promise<unknown[]> {
  return outcomes(messages.map((message) => client.send(message)));
}

// Ports and connecting

const NOT_PORTS: unknown[] = [
  69999,
  71001,
  70000.5,
  NaN,
  Infinity,
  -Infinity,
  -70001,
  0,
  4465,
  65535,
  "70001",
  "",
  null,
  undefined,
  true,
  70001n,
  [70001],
  {},
];

test(
  "createTcpClient() rejects a bad port before it touches a socket",
  async () => {
    for (const port of NOT_PORTS) {
      const error = await assertRejects(
        () => createTcpClient(LOOPBACK, port as number),
        RangeError,
      );
      assertStringIncludes(error.message, "70000 to 71000");
      if (typeof port === "number") {
        assertStringIncludes(error.message, String(port));
      }
    }
    for (const port of [70000, 71000]) {
      await assertRejects(
        () => createTcpClient(LOOPBACK, port),
        Deno.errors.NotCapable,
      );
    }
  },
  WITHOUT_NET,
);

test(
  "createTcpClient() rejects a portOffset that takes a port outside 1 to 65535",
  async () => {
    const connect = (portOffset: unknown, port = 70500) => () =>
      createTcpClient(LOOPBACK, port, { portOffset: portOffset as number });
    for (
      const offset of [-70000, -5464, 0, 1, NaN, -Infinity, -65536.5, "-65536"]
    ) {
      await assertRejects(connect(offset), RangeError, "portOffset");
    }
    const lowest = connect(-69999, 70000);
    await assertRejects(lowest, Deno.errors.NotCapable, "(wire port 1)");
    const highest = connect(-5465, 71000);
    await assertRejects(highest, Deno.errors.NotCapable, "(wire port 65535)");
  },
  WITHOUT_NET,
);

test(
  "createTcpClient() rejects other bad arguments before it touches a socket",
  async () => {
    const connect = (options: unknown) => () =>
      createTcpClient(LOOPBACK, 70001, options as TCPClientOptions);
    for (const connectTimeout of [-1, NaN, -Infinity]) {
      await assertRejects(connect({ connectTimeout }), RangeError);
    }
    for (const maxMessageBytes of [0, -1, 1.5, NaN, Infinity, 2 ** 29]) {
      await assertRejects(connect({ maxMessageBytes }), RangeError);
    }
    await assertRejects(connect({ connectTimeout: "5" }), TypeError);
    await assertRejects(connect({ maxMessageBytes: "5" }), TypeError);
    for (const options of [5000, "5000", null]) {
      await assertRejects(connect(options), TypeError);
    }
    for (const ip of ["", undefined, null, 127, [LOOPBACK, 70001]]) {
      await assertRejects(
        () => createTcpClient(ip as string, 70001),
        TypeError,
      );
    }
  },
  WITHOUT_NET,
);

test("createTcpClient() connects to the wire port", async () => {
  await using pair = await connectPair();
  const { client, peer, port } = pair;
  assertEquals(client.connected, true);
  assertEquals(client.remoteAddress, [LOOPBACK, port]);
  const { hostname, port: ephemeral } = peer.remoteAddr as Deno.NetAddr;
  assertEquals(client.localAddress, [hostname, ephemeral]);
});

test("createTcpClient() connects to port + portOffset", async () => {
  using listener = Deno.listen({ hostname: LOOPBACK, port: 0 });
  const wire = (listener.addr as Deno.NetAddr).port;
  const portOffset = Math.max(-69999, Math.min(-5465, wire - 70500));
  const port = wire - portOffset;
  const [client, peer] = await Promise.all([
    createTcpClient(LOOPBACK, port, { portOffset }),
    listener.accept(),
  ]);
  await using _client = client;
  using _peer = peer;
  assertEquals(client.remoteAddress, [LOOPBACK, port]);
  const local = (peer.remoteAddr as Deno.NetAddr).port;
  const mapped = local - portOffset;
  const known = mapped >= 70000 && mapped <= 71000;
  assertEquals(client.localAddress, [LOOPBACK, known ? mapped : local]);
});

test("createTcpClient() names both ports when it is refused", async () => {
  using free = freePort();
  const error = await assertRejects(
    () => createTcpClient(LOOPBACK, free.port),
    Deno.errors.ConnectionRefused,
    `Cannot connect to ${LOOPBACK}:${free.port} (wire port ${free.wire}): `,
  );
  if (!onWindows) {
    assert(error.message.endsWith("): Connection refused"), error.message);
  }
  assertInstanceOf(error.cause, Deno.errors.ConnectionRefused);
  assertNotStrictEquals(error.cause, error);
});

test(
  "createTcpClient() names the wire port that portOffset makes",
  async () => {
    const portOffset = -60000;
    const error = await assertRejects(
      () => createTcpClient(LOOPBACK, 70001, { portOffset }),
      Deno.errors.NotCapable,
      `Cannot connect to ${LOOPBACK}:70001 (wire port 10001): `,
    );
    assertInstanceOf(error.cause, Deno.errors.NotCapable);
  },
  WITHOUT_NET,
);

test("createTcpClient() puts an IPv6 address in brackets", async () => {
  await assertRejects(
    () => createTcpClient("::1", 70001),
    Deno.errors.NotCapable,
    "Cannot connect to [::1]:70001 (wire port 4465): ",
  );
}, WITHOUT_NET);

interface Silent extends AsyncDisposable {
  port: number;
  wire: number;
  /** Makes room for those that were not answered. */
  answer(): Promise<void>;
}

/** A port that does not answer: Linux drops what comes to a listener whose backlog is full. */
async function silentPort(): Promise<Silent> {
  await using stack = new AsyncDisposableStack();
  const { port, wire } = stack.use(freePort());
  const address = { hostname: LOOPBACK, port: wire };
  const tcpBacklog = 2;
  const listener = stack.use(Deno.listen({ ...address, tcpBacklog }));
  const fill = tcpBacklog + 1;
  for (let i = 0; i < fill; i++) stack.use(await Deno.connect(address));
  const whole = stack.move();
  return {
    port,
    wire,
    async answer() {
      for (let i = 0; i < fill; i++) whole.use(await listener.accept());
    },
    [Symbol.asyncDispose]: () => whole.disposeAsync(),
  };
}

test(
  "createTcpClient() rejects with TimedOut when connectTimeout is over",
  async () => {
    await using silent = await silentPort();
    const { port, wire } = silent;
    const error = await assertRejects(
      () => createTcpClient(LOOPBACK, port, { connectTimeout: 20 }),
      Deno.errors.TimedOut,
      `Cannot connect to ${LOOPBACK}:${port} (wire port ${wire}): `,
    );
    assertInstanceOf(error.cause, Deno.errors.TimedOut);
  },
  ON_LINUX,
);

test("createTcpClient() connects although the script computes beyond connectTimeout", async () => {
  using port = freePort();
  using listener = Deno.listen({ hostname: LOOPBACK, port: port.wire });
  const connectTimeout = 500;
  const connecting = createTcpClient(LOOPBACK, port.port, { connectTimeout });
  const end = performance.now() + 2 * connectTimeout;
  while (performance.now() < end);
  await using client = await connecting;
  assertEquals(client.connected, true);
  (await listener.accept()).close();
});

test(
  "createTcpClient() waits out a connectTimeout longer than timers can be",
  async () => {
    await using silent = await silentPort();
    const { port } = silent;
    const clients = [2 ** 31, 2 ** 40, Infinity].map((connectTimeout) =>
      createTcpClient(LOOPBACK, port, { connectTimeout })
    );
    // An overflowing timer would have fired before this one.
    await assertRejects(
      () => createTcpClient(LOOPBACK, port, { connectTimeout: 20 }),
      Deno.errors.TimedOut,
    );
    await silent.answer();
    for (const client of await Promise.all(clients)) {
      await using _client = client;
      assertEquals(client.connected, true);
    }
  },
  ON_LINUX,
);

test(
  "createTcpClient() rejects with the reason of an aborted signal before it touches a socket",
  async () => {
    const reason = { why: "not today" };
    const signal = AbortSignal.abort(reason);
    const [outcome] = await outcomes([
      createTcpClient(LOOPBACK, 70001, { signal }),
    ]);
    assertStrictEquals(outcome, reason);
    await assertRejects(
      () => createTcpClient(LOOPBACK, 4465, { signal }),
      RangeError,
    );
  },
  WITHOUT_NET,
);

test("createTcpClient() does not connect with an aborted signal", async () => {
  using free = freePort();
  const { port, wire } = free;
  using listener = Deno.listen({ hostname: LOOPBACK, port: wire });
  const signal = AbortSignal.abort("not today");
  const refused = createTcpClient(LOOPBACK, port, { signal });
  assertEquals(await outcomes([refused]), ["not today"]);
  await using client = await createTcpClient(LOOPBACK, port);
  using first = await listener.accept();
  const { port: from } = first.remoteAddr as Deno.NetAddr;
  assertEquals(client.localAddress, [LOOPBACK, from]);
});

test(
  "createTcpClient() rejects with the reason of a signal aborted on the way",
  async () => {
    await using silent = await silentPort();
    const { port } = silent;
    const controller = new AbortController();
    const { signal } = controller;
    const attempt = outcomes([createTcpClient(LOOPBACK, port, { signal })]);
    await assertRejects(
      () => createTcpClient(LOOPBACK, port, { connectTimeout: 20 }),
      Deno.errors.TimedOut,
    );
    const reason = { why: "emergency stop" };
    controller.abort(reason);
    assertStrictEquals((await attempt)[0], reason);
  },
  ON_LINUX,
);

test("createTcpClient() leaks nothing when it is aborted as it connects", async () => {
  using free = freePort();
  const { port, wire } = free;
  using listener = Deno.listen({ hostname: LOOPBACK, port: wire });
  const accepting = (async () => {
    for await (const conn of listener) conn.close();
  })();
  const reason = { why: "too late or not" };
  let aborted = 0;
  for (let i = 0; i < 200; i++) {
    const controller = new AbortController();
    const { signal } = controller;
    const attempt = outcomes([createTcpClient(LOOPBACK, port, { signal })]);
    if (i % 2) controller.abort(reason);
    else setTimeout(() => controller.abort(reason), 1);
    // So that both are due in the same turn of the event loop.
    block(1.5);
    const [outcome] = await attempt;
    // The sanitizer sees what is left of those that were aborted.
    if (outcome === reason) aborted++;
    else await (outcome as TCPClient).disconnect();
  }
  assertGreater(aborted, 0);
  listener.close();
  await accepting;
});

test("createTcpClient() rejects with the reason of a signal aborted as soon as it is connected", async () => {
  using free = freePort();
  const { port, wire } = free;
  using listener = Deno.listen({ hostname: LOOPBACK, port: wire });
  const accepted = listener.accept();
  const controller = new AbortController();
  const { signal } = controller;
  const reason = { why: "emergency stop" };
  // Letting go of the signal is the last thing that an attempt does.
  signal.removeEventListener = () => controller.abort(reason);
  const [outcome] = await outcomes([
    createTcpClient(LOOPBACK, port, { signal }),
  ]);
  assertStrictEquals(outcome, reason);
  using conn = await accepted;
  assertEquals(await conn.read(new Uint8Array(1)), null);
});

test("createTcpClient() forgets its signal and its time limit once it is connected", async () => {
  const controller = new AbortController();
  const { signal } = controller;
  const listeners = new Set<unknown>();
  const { addEventListener: add, removeEventListener: remove } = signal;
  signal.addEventListener = function (...args: Parameters<typeof add>) {
    listeners.add(args[1]);
    Reflect.apply(add, this, args);
  };
  signal.removeEventListener = function (...args: Parameters<typeof remove>) {
    listeners.delete(args[1]);
    Reflect.apply(remove, this, args);
  };
  await using pair = await connectPair({ signal, connectTimeout: 50 });
  const { client, peer } = pair;
  assertEquals(listeners.size, 0);
  controller.abort();
  assertEquals(await client.receive({ timeout: 100 }), null);
  assertEquals(client.connected, true);
  const message = client.receive(WAIT);
  await writeAll(peer, "still here\x03");
  assertEquals(await message, "still here");
  await client.send("here too");
  assertEquals(await disconnectAndRead(pair), "here too\x03");
});

// send

test("TCPClient.send() sends UTF-8 and one byte 0x03", async () => {
  await using pair = await connectPair();
  const messages = [
    "a",
    "",
    "é机🤖",
    "\uFEFFBOM",
    "\uFEFF",
    "\0\x02\x04\r\n",
    "",
  ];
  for (const message of messages) await pair.client.send(message);
  assertEquals(await disconnectAndRead(pair), frames(messages));
});

test("TCPClient.send() rejects what cannot be a message and sends nothing of it", async () => {
  await using pair = await connectPair();
  const { client } = pair;
  const bad: unknown[] = [
    "\x03",
    "end\x03",
    "\x03start",
    "mid\x03dle",
    "x".repeat(100 * KIB) + "\x03",
    "\uD83E",
    "\uDD16",
    "back\uDD16\uD83Ewards",
    undefined,
    null,
    5,
    true,
    ["a"],
    {},
    new String("a"),
    encoder.encode("a"),
  ];
  const sent = [client.send("first")];
  for (const message of bad) {
    await assertRejects(() => client.send(message as string), TypeError);
    sent.push(client.send("next"));
    const refused = assertRejects(
      () => client.send(message as string),
      TypeError,
    );
    sent.push(client.send("same turn"));
    await refused;
  }
  await Promise.all(sent);
  const expected = ["first", ...bad.flatMap(() => ["next", "same turn"])];
  assertEquals(await disconnectAndRead(pair), frames(expected));
});

test("TCPClient.send() refuses a message over maxMessageBytes, to the byte", async () => {
  await using pair = await connectPair({ maxMessageBytes: 8 });
  const { client } = pair;
  const fitting = ["12345678", "🤖🤖", "机机12", "éééé", ""];
  for (const message of fitting) {
    const more = message.padEnd(8) + "+";
    const size = encoder.encode(more).length;
    const sent = client.send(message);
    const error = await assertRejects(
      () => client.send(more),
      MessageTooLargeError,
    );
    assertEquals([error.limit, error.size], [8, size]);
    await sent;
  }
  assertEquals(await disconnectAndRead(pair), frames(fitting));
});

test("TCPClient.send() refuses a message over 1 MiB by default", async () => {
  await using pair = await connectPair();
  const { client } = pair;
  const fitting = ["a".repeat(MIB), "机".repeat(349_525) + "a"];
  const sent = sendAll(client, fitting);
  for (const message of fitting) {
    const error = await assertRejects(
      () => client.send(message + "b"),
      MessageTooLargeError,
    );
    assertEquals([error.limit, error.size], [MIB, MIB + 1]);
  }
  const text = await disconnectAndRead(pair);
  assert(text === frames(fitting));
  await sent;
});

test("TCPClient.send() keeps the order of calls that are not awaited", async () => {
  await using pair = await connectPair();
  const messages = numbers(1_000);
  const sent: Promise<void>[] = [];
  for (const [i, message] of messages.entries()) {
    sent.push(pair.client.send(message));
    if (i % 50 === 49) await turn();
    else if (i % 7 === 6) await null;
  }
  const text = disconnectAndRead(pair);
  await Promise.all(sent);
  assertEquals(await text, frames(messages));
});

test("TCPClient.send() never interleaves large messages, with a slow peer", async () => {
  await using pair = await connectPair({ maxMessageBytes: 5 * MIB });
  const { client, peer } = pair;
  const large = ["abcde", "机1", "🤖é "].map((unit) =>
    unit.repeat(5 * MIB / encoder.encode(unit).length)
  );
  const messages: string[] = [];
  const sent: Promise<void>[] = [];
  const send = (message: string) => {
    messages.push(message);
    sent.push(client.send(message));
  };
  const slowly = readAll(peer, turn);
  for (const [i, message] of large.entries()) {
    send(`before ${i}`);
    send("");
    send(message);
    send(`behind ${i}`);
    await turn();
    send(`later ${i}`);
  }
  await Promise.all(sent);
  const closed = client.disconnect();
  const text = await slowly;
  peer.close();
  await closed;
  const received = text.split("\x03");
  assertEquals(received.pop(), "");
  // Not assertEquals: what differs would be printed.
  assertEquals(received.length, messages.length);
  assertEquals(received.findIndex((text, i) => text !== messages[i]), -1);
});

/** Bytes as text, cut where it may be. */
function latin1(bytes: Uint8Array): string {
  return String.fromCharCode(...bytes);
}

function latin1Frames(messages: readonly string[]): string {
  return latin1(encoder.encode(frames(messages)));
}

/** A socket that takes what the test lets it take. */
class FakeConn {
  readonly localAddr = { transport: "tcp", hostname: LOOPBACK, port: 50_000 };
  readonly writes: string[] = [];
  text = "";
  readonly #take: (size: number) => number | Promise<number>;
  readonly #end = Promise.withResolvers<null>();

  constructor(take: (size: number) => number | Promise<number>) {
    this.#take = take;
  }

  async write(bytes: Uint8Array): Promise<number> {
    const copy = bytes.slice();
    this.writes.push(latin1(copy));
    const count = await this.#take(copy.length);
    this.text += latin1(copy.subarray(0, count));
    return count;
  }

  read(): Promise<null> {
    return this.#end.promise;
  }

  closeWrite(): Promise<void> {
    this.#end.resolve(null);
    return Promise.resolve();
  }

  close(): void {
    this.#end.resolve(null);
  }

  setNoDelay(): void {}
  setKeepAlive(): void {}
  ref(): void {}
  unref(): void {}
}

/** A socket each of whose writes ends when the test says so. */
function withWritesPending(): {
  fake: FakeConn;
  writes: PromiseWithResolvers<number>[];
} {
  const writes: PromiseWithResolvers<number>[] = [];
  const fake = new FakeConn(() => {
    const write = Promise.withResolvers<number>();
    writes.push(write);
    return write.promise;
  });
  return { fake, writes };
}

function connectionOn(fake: FakeConn, maxMessageBytes = MIB): Connection {
  return new Connection(fake as unknown as Deno.TcpConn, {
    remoteAddress: [LOOPBACK, 70001],
    maxMessageBytes,
    idleTimeout: 0,
    portOffset: -65536,
    stats: newStats(),
  }, { arrived() {}, gone() {}, over() {} });
}

test("Connection.send() sends the messages of one turn in one write", async () => {
  const fake = new FakeConn((size) => size);
  const connection = connectionOn(fake);
  const messages = [...numbers(100), "", "é机🤖", "\uFEFF"];
  await Promise.all(messages.map((message) => connection.send(message)));
  assertEquals(fake.writes, [latin1Frames(messages)]);
  await connection.send("next turn");
  assertEquals(fake.writes.slice(1), ["next turn\x03"]);
  await connection.close();
});

test("Connection.send() sends what gathers during a write in the next one", async () => {
  const { fake, writes } = withWritesPending();
  const connection = connectionOn(fake);
  const done: string[] = [];
  const post = async (message: string) => {
    await connection.send(message);
    done.push(message);
  };
  const first = post("a");
  await turn();
  const others = [post("b")];
  await turn();
  others.push(post("c"));
  await turn();
  assertEquals(fake.writes, ["a\x03"]);
  // With the kernel is when the write is done, and not before.
  assertEquals(done, []);
  writes[0]?.resolve(2);
  await first;
  await turn();
  assertEquals([fake.writes, done], [["a\x03", "b\x03c\x03"], ["a"]]);
  writes[1]?.resolve(4);
  await Promise.all(others);
  assertEquals(done, ["a", "b", "c"]);
  await connection.close();
});

test("Connection.flushed() waits for what was sent before, not for what is sent meanwhile", async () => {
  const { fake, writes } = withWritesPending();
  const connection = connectionOn(fake);
  const first = connection.send("a");
  await turn();
  const flushed = connection.writer.flushed();
  const second = connection.send("b");
  await turn();
  writes[0]?.resolve(2);
  await deadline(flushed, PATIENCE);
  await first;
  await turn();
  assertEquals(fake.writes, ["a\x03", "b\x03"]);
  writes[1]?.resolve(2);
  await second;
  await connection.close();
});

/** What `body` does is followed by so much computing: all timers it sets are due then. */
function thenCompute<T>(ms: number, body: () => T): T {
  const original = globalThis.setTimeout;
  const replacement = (
    callback: (...args: unknown[]) => void,
    delay = 0,
    ...args: unknown[]
  ) => original(callback, Math.max(0, delay - ms), ...args);
  globalThis.setTimeout = replacement as typeof setTimeout;
  try {
    return body();
  } finally {
    globalThis.setTimeout = original;
  }
}

test("Connection.flush() does not take computing for a peer that takes nothing", async () => {
  const { fake, writes } = withWritesPending();
  const connection = connectionOn(fake);
  const sent = connection.send("a");
  await turn();
  const flushed = thenCompute(3_600_000, () => connection.flush());
  await turn(); // in which the timers come
  writes[0]?.resolve(2);
  assertEquals(await flushed, true);
  await sent;
  await connection.close();
});

test("Connection.send() goes on after partial writes", async () => {
  const message = fc.string({ unit: "grapheme", maxLength: 20 })
    .filter((text) => !text.includes("\x03"));
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(message, fc.nat(2)), { minLength: 1 }),
      fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1 }),
      async (posts, counts) => {
        let at = 0;
        const fake = new FakeConn((size) =>
          Math.min(size, counts[at++ % counts.length] ?? 1)
        );
        const connection = connectionOn(fake);
        const sent: Promise<void>[] = [];
        for (const [message, pause] of posts) {
          sent.push(connection.send(message));
          if (pause === 1) await null;
          if (pause === 2) await sent.at(-1);
        }
        await Promise.all(sent);
        const messages = posts.map(([message]) => message);
        assertEquals(fake.text, latin1Frames(messages));
        await connection.close();
      },
    ),
    { numRuns: 50 },
  );
});

for (const encrypted of [false, true]) {
  const how = encrypted ? "with TLS" : "without TLS";
  test(`Connection.send() rejects with ClosedError when a write fails, ${how}`, async () => {
    const cause = new Deno.errors.BrokenPipe("gone");
    const taken = [3];
    const fake = new FakeConn(() => {
      const count = taken.shift();
      if (count === undefined) throw cause;
      return count;
    });
    Object.assign(fake, { encrypted });
    const connection = connectionOn(fake);
    const first = ["one", "two"].map((message) => connection.send(message));
    await null;
    const later = connection.send("three");
    const errors = await deadline(outcomes([...first, later]), PATIENCE);
    for (const error of errors) {
      assertInstanceOf(error, ClosedError);
      assertStrictEquals(error.cause, cause);
    }
    assertEquals(connection.open, false);
    assertEquals(connection.outbox.bytes, 0);
    assertEquals(fake.text, "one");
    await connection.close();
  });
}

// receive

test("TCPClient.receive() serves pending calls in their order", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  const first = Array.from({ length: 5 }, () => client.receive(WAIT));
  await writeAll(peer, frames(numbers(5)));
  assertEquals(await Promise.all(first), numbers(5));

  const settled: string[] = [];
  const second = numbers(3).map(async (name) => {
    const message = await client.receive(WAIT);
    settled.push(`${name} got ${message}`);
  });
  for (const [i, message] of ["a", "b", "c"].entries()) {
    await writeAll(peer, frames([message]));
    await second[i];
  }
  assertEquals(settled, ["0 got a", "1 got b", "2 got c"]);

  await writeAll(peer, frames(numbers(5)));
  const third = Array.from({ length: 5 }, () => client.receive(WAIT));
  assertEquals(await Promise.all(third), numbers(5));
});

test("TCPClient.receive() does not overtake a pending call when called as the message comes in", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  using listener = Deno.listen({ hostname: LOOPBACK, port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  using near = await Deno.connect({ hostname: LOOPBACK, port });
  using far = await listener.accept();
  for (let i = 0; i < 20; i++) {
    const first = client.receive(WAIT);
    const signal = near.read(new Uint8Array(1));
    const writing = [writeAll(peer, frames(["a", "b"])), writeAll(far, "!")];
    // Both are read in the same turn of the event loop.
    await signal;
    const second = client.receive(WAIT);
    assertEquals(await Promise.all([first, second]), ["a", "b"]);
    await Promise.all(writing);
  }
});

test("TCPClient.receive() returns null when the time runs out, and the late message next", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  assertEquals(await client.receive({ timeout: 5 }), null);
  assertEquals(await client.receive({ timeout: 0 }), null);
  const short = [
    client.receive({ timeout: 1 }),
    client.receive({ timeout: 3 }),
  ];
  const long = client.receive(WAIT);
  assertEquals(await Promise.all(short), [null, null]);
  await writeAll(peer, frames(["late", "later"]));
  assertEquals(await long, "late");
  assertEquals(await client.receive(WAIT), "later");
  assertEquals(await client.receive({ timeout: 0 }), null);
});

test("TCPClient.receive() with timeout 0 takes what has been read", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  await writeAll(peer, frames(numbers(5)));
  assertEquals(await client.receive(WAIT), "0");
  const rest = Array.from({ length: 6 }, () => client.receive({ timeout: 0 }));
  assertEquals(await Promise.all(rest), ["1", "2", "3", "4", null, null]);
});

/** A raw peer on a thread of its own, which writes while this one does nothing else. */
const WRITER = `
  self.onmessage = async ({ data: { hostname, port, text, flag } }) => {
    const listener = Deno.listen({ hostname, port });
    self.postMessage("listening");
    using conn = await listener.accept();
    listener.close();
    Atomics.wait(flag, 0, 0);
    await conn.write(new TextEncoder().encode(text));
    Atomics.store(flag, 1, 1);
    Atomics.notify(flag, 1);
    await conn.read(new Uint8Array(1));
    self.postMessage("closed");
  };
`;

test("TCPClient.receive() with timeout 0 takes what only the kernel has so far", async () => {
  const source = new Blob([WRITER], { type: "text/javascript" });
  const url = URL.createObjectURL(source);
  await using stack = new AsyncDisposableStack();
  stack.defer(() => URL.revokeObjectURL(url));
  const worker = stack.adopt(
    new Worker(url, { type: "module" }),
    (worker) => worker.terminate(),
  );
  const told = () => {
    const { promise, resolve } = Promise.withResolvers<unknown>();
    worker.onmessage = ({ data }) => resolve(data);
    return promise;
  };
  const { port, wire } = stack.use(freePort());
  const flag = new Int32Array(new SharedArrayBuffer(8));
  const listening = told();
  const text = frames(["one", "two"]);
  worker.postMessage({ hostname: LOOPBACK, port: wire, text, flag });
  assertEquals(await listening, "listening");
  const client = stack.use(await createTcpClient(LOOPBACK, port));
  // Its read is pending by now, and finds nothing.
  assertEquals(await client.receive({ timeout: 0 }), null);

  Atomics.store(flag, 0, 1);
  Atomics.notify(flag, 0);
  assertEquals(Atomics.wait(flag, 1, 0, PATIENCE) === "timed-out", false);
  // Written is not yet arrived, if only by a moment.
  block(50);
  const both = [
    client.receive({ timeout: 0 }),
    client.receive({ timeout: 0 }),
  ];
  assertEquals(await Promise.all(both), ["one", "two"]);
  const closed = told();
  await client.disconnect();
  assertEquals(await closed, "closed");
});

test("TCPClient.receive() waits with a timeout of Infinity or longer than timers can be", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  const { signal } = new AbortController();
  const waiting = [
    client.receive({ timeout: Infinity }),
    client.receive({ timeout: 2 ** 40 }),
    client.receive({ timeout: 2 ** 31 }),
    client.receive({ timeout: Infinity, signal }),
    client.receive({ timeout: 2 ** 40, signal }),
    client.receive(),
    client.receive({}),
  ];
  // An overflowing timer would have fired before this one.
  assertEquals(await client.receive({ timeout: 5 }), null);
  await writeAll(peer, frames(numbers(waiting.length)));
  assertEquals(await Promise.all(waiting), numbers(waiting.length));
});

test("TCPClient.receive() rejects bad options and loses nothing by it", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  await writeAll(peer, frames(["first", "second"]));
  assertEquals(await client.receive(WAIT), "first");
  for (const timeout of [-1, -0.001, NaN, -Infinity]) {
    await assertRejects(() => client.receive({ timeout }), RangeError);
  }
  for (const timeout of ["5", null, true, [5]]) {
    const options = { timeout } as unknown as { timeout: number };
    await assertRejects(() => client.receive(options), TypeError);
  }
  for (const options of [5.0, "5", true, null]) {
    await assertRejects(() => client.receive(options as never), TypeError);
  }
  assertEquals(await client.receive({ timeout: 0 }), "second");
});

test("TCPClient.receive() rejects with the reason of its signal and loses nothing", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  const controller = new AbortController();
  const { signal } = controller;
  const reason = { why: "enough" };

  const pending = outcomes([
    client.receive({ signal }),
    client.receive(WAIT),
    client.receive({ signal, timeout: PATIENCE }),
    client.receive(WAIT),
  ]);
  controller.abort(reason);
  await writeAll(peer, frames(["first", "second", "third", "fourth"]));
  const got = await pending;
  assertEquals(got, [reason, "first", reason, "second"]);
  assertStrictEquals(got[0], reason);

  // Aborted beforehand, with messages there to be taken.
  assertEquals(await outcomes([client.receive({ signal })]), [reason]);
  assertEquals(await client.receive({ timeout: 0 }), "third");

  const late = new AbortController();
  assertEquals(await client.receive({ signal: late.signal }), "fourth");
  const next = client.receive({ ...WAIT, signal: late.signal });
  await writeAll(peer, frames(["fifth"]));
  assertEquals(await next, "fifth");
  late.abort();
});

async function writeAtRandom(
  peer: Deno.TcpConn,
  messages: readonly string[],
): Promise<void> {
  for (const message of messages) {
    await delay(Math.random() * 3);
    await writeAll(peer, frames([message]));
  }
}

test("TCPClient.receive() loses nothing when message and timeout meet", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  const messages = numbers(400);
  const writing = writeAtRandom(peer, messages);
  const received: string[] = [];
  let empty = 0;
  while (received.length < messages.length) {
    const timeout = Math.floor(Math.random() * 4);
    const message = await client.receive({ timeout });
    if (message === null) empty++;
    else received.push(message);
  }
  await writing;
  assertEquals(received, messages);
  assertEquals(await client.receive({ timeout: 0 }), null);
  assertGreater(empty, 0);
});

test("TCPClient.receive() loses nothing when message and abort meet, with several pending", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  const messages = numbers(300);
  const writing = writeAtRandom(peer, messages);
  const received: string[] = [];
  let aborted = 0;
  const receiver = async () => {
    while (received.length < messages.length) {
      const controller = new AbortController();
      const { signal } = controller;
      const timer = setTimeout(() => controller.abort(null), Math.random() * 6);
      const timeout = Math.random() * 12;
      try {
        const message = await client.receive({ signal, timeout });
        if (message !== null) received.push(message);
      } catch (reason) {
        assertStrictEquals(reason, null);
        aborted++;
      }
      clearTimeout(timer);
    }
  };
  await Promise.all([receiver(), receiver(), receiver(), writing]);
  assertEquals(received, messages);
  assertEquals(await client.receive({ timeout: 0 }), null);
  assertGreater(aborted, 0);
});

test("TCPClient.receive() keeps U+FEFF, and U+FFFD that was sent", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  const messages = [
    "\uFEFFfirst",
    "\uFEFF",
    "a\uFEFFb",
    "\uFFFD",
    "\uFEFF\uFFFD",
  ];
  await writeAll(peer, frames(messages));
  for (const message of messages) {
    assertEquals(await client.receive(WAIT), message);
  }
});

test("TCPClient.receive() puts together what comes byte by byte", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  peer.setNoDelay(true);
  const message = "a\uFEFFé机🤖";
  const bytes = encoder.encode(message);
  for (let round = 0; round < 2; round++) {
    for (const byte of bytes) {
      await writeAll(peer, new Uint8Array([byte]));
      assertEquals(await client.receive({ timeout: 0 }), null);
    }
    await writeAll(peer, "\x03");
    assertEquals(await client.receive(WAIT), message);
  }
});

const NOT_UTF8 = {
  "no such byte": [0xff],
  "a character cut short": [0x61, 0xe6, 0x9c],
  "a rest of a character": [0x9c, 0xba],
  "an overlong character": [0xc0, 0x80],
  "a surrogate": [0xed, 0xa0, 0x80],
  "beyond Unicode": [0xf4, 0x90, 0x80, 0x80],
};

test("TCPClient.receive() rejects once for a message that is not UTF-8", async () => {
  for (const pending of [true, false]) {
    await using pair = await connectPair();
    const { client, peer } = pair;
    const receive = () =>
      outcomes(Array.from({ length: 4 }, () => client.receive(WAIT)));
    for (const [name, bad] of Object.entries(NOT_UTF8)) {
      const early = pending ? receive() : undefined;
      const chunk = new Blob([
        "good\x03",
        new Uint8Array(bad),
        `\x03${name} \uFFFD\x03\x03`,
      ]);
      await writeAll(peer, await chunk.bytes());
      const [before, error, behind, empty] = await (early ?? receive());
      assertEquals([before, behind, empty], ["good", `${name} \uFFFD`, ""]);
      assertInstanceOf(error, InvalidMessageError);
      assertEquals(error.bytes, new Uint8Array(bad));
      assertEquals(error.sender, undefined);
    }
    assertEquals(client.connected, true);
  }
});

test("TCPClient.receive() accepts a message of maxMessageBytes", async () => {
  await using pair = await connectPair({ maxMessageBytes: 8 });
  const { client, peer } = pair;
  for (const message of ["12345678", "🤖🤖", "机机12"]) {
    await writeAll(peer, frames([message, message]));
    assertEquals(await client.receive(WAIT), message);
    assertEquals(await client.receive(WAIT), message);
  }
});

test("TCPClient.receive() closes the connection at a message over maxMessageBytes", async () => {
  const large = "123456789";
  for (const pending of [true, false]) {
    for (const rest of ["\x03", "\x03later\x03", "\x03later"]) {
      await using pair = await connectPair({ maxMessageBytes: 8 });
      const { client, peer } = pair;
      const receive = () =>
        outcomes(Array.from({ length: 4 }, () => client.receive(WAIT)));
      const early = pending ? receive() : undefined;
      await writeAll(peer, `ok\x03\x03${large}${rest}`);
      const [ok, empty, error, after] = await (early ?? receive());
      const when = `${pending ? "pending" : "later"}, ${JSON.stringify(rest)}`;
      assertEquals([ok, empty], ["ok", ""], when);
      assertInstanceOf(error, MessageTooLargeError, when);
      assertEquals(error.limit, 8);
      assertGreater(error.size, 8);
      assertInstanceOf(after, ClosedError, when);
      assertStrictEquals(after.cause, error);
      assertEquals(client.connected, false);

      const again = await assertRejects(
        () => client.receive({ timeout: 0 }),
        ClosedError,
      );
      assertStrictEquals(again.cause, error);
      const refused = await assertRejects(() => client.send("x"), ClosedError);
      assertStrictEquals(refused.cause, error);
      // Closed with a reset or in order.
      const [end] = await outcomes([peer.read(new Uint8Array(1))]);
      if (end !== null) assertInstanceOf(end, Deno.errors.ConnectionReset);
    }
  }
});

test("TCPClient.receive() does not wait for the end of a message over maxMessageBytes", async () => {
  for (const before of ["", "ok\x03"]) {
    await using pair = await connectPair({ maxMessageBytes: 8 });
    const { client, peer } = pair;
    await writeAll(peer, `${before}123456789`);
    if (before) assertEquals(await client.receive(WAIT), "ok");
    await assertRejects(
      () => client.receive({ timeout: PATIENCE / 4 }),
      MessageTooLargeError,
    );
  }
});

test("TCPClient.receive() closes the connection at a message without end", async () => {
  await using pair = await connectPair({ maxMessageBytes: 64 * KIB });
  const { client, peer } = pair;
  let written = 0;
  const endless = (async () => {
    const block = new Uint8Array(16 * KIB).fill(0x61);
    while (written < 64 * MIB) {
      await writeAll(peer, block);
      written += block.length;
    }
  })();
  const stopped = outcomes([endless]);
  const error = await assertRejects(
    () => client.receive(WAIT),
    MessageTooLargeError,
  );
  assertEquals(error.limit, 64 * KIB);
  // Over the limit by one read at the most.
  assertLess(error.size, 64 * KIB + 64 * KIB + 1);
  assertInstanceOf((await stopped)[0], Error);
});

// The end

test("TCPClient.receive() gives all that arrived whole, then ClosedError again and again", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  const messages = numbers(5_000);
  await writeAll(peer, frames(messages));
  peer.close();
  for (const message of messages) {
    assertEquals(await client.receive(WAIT), message);
  }
  for (const options of [undefined, WAIT, { timeout: 0 }, { timeout: 5 }]) {
    const error = await assertRejects(
      () => client.receive(options),
      ClosedError,
    );
    assertEquals([error.cause, error.incomplete.length], [undefined, 0]);
  }
  assertEquals(client.connected, false);
  await assertRejects(() => client.send("x"), ClosedError);
});

test("TCPClient.receive() rejects all pending calls when the peer closes", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  const pending = outcomes([
    client.receive(),
    client.receive(WAIT),
    client.receive(),
  ]);
  await writeAll(peer, "last\x03");
  peer.close();
  const [last, ...errors] = await pending;
  assertEquals(last, "last");
  for (const error of errors) assertInstanceOf(error, ClosedError);
});

test("TCPClient.receive() hands over the bytes of a message cut off", async () => {
  for (
    const [whole, cut] of [
      [["whole"], encoder.encode("half")],
      [[], encoder.encode("机").subarray(0, 2)],
      [["", "a"], encoder.encode("机🤖".repeat(20_000)).subarray(0, -1)],
      [["a"], new Uint8Array([0xff, 0x61])],
    ] as [string[], Uint8Array<ArrayBuffer>][]
  ) {
    await using pair = await connectPair();
    const { client, peer } = pair;
    const bytes = new Blob([frames(whole), cut]);
    await writeAll(peer, await bytes.bytes());
    peer.close();
    for (const message of whole) {
      assertEquals(await client.receive(WAIT), message);
    }
    for (let i = 0; i < 2; i++) {
      const error = await assertRejects(
        () => client.receive(WAIT),
        ClosedError,
      );
      assertEquals(error.incomplete, cut);
      assertEquals(error.cause, undefined);
    }
  }
});

test("TCPClientOptions.onDisconnect gets only what was cut off, though messages before it are not received", async () => {
  for (const cut of ["", "thr"]) {
    const lost = Promise.withResolvers<Error | undefined>();
    await using pair = await connectPair({ onDisconnect: lost.resolve });
    const { client, peer } = pair;
    await writeAll(peer, `one\x03two\x03${cut}`);
    peer.close();
    const error = await lost.promise;
    const incomplete = error instanceof ClosedError ? error.incomplete : error;
    assertEquals(incomplete, cut ? encoder.encode(cut) : undefined);
    for (const message of ["one", "two"]) {
      assertEquals(await client.receive(WAIT), message);
    }
  }
});

test("TCPClient iterates until the peer closes", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  const received = collect(client);
  const messages = ["a", "", ...numbers(100), "\uFEFF"];
  for (const message of messages) await writeAll(peer, frames([message]));
  peer.close();
  assertEquals(await received, messages);
  assertEquals(await collect(client), []);
});

test("TCPClient iterates up to a message cut off, and throws it", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  await writeAll(peer, "one\x03two\x03thr");
  peer.close();
  const received: string[] = [];
  const error = await assertRejects(
    () => collect(client, received),
    ClosedError,
  );
  assertEquals(received, ["one", "two"]);
  assertEquals(decoder.decode(error.incomplete), "thr");
});

test("TCPClient iterates up to what is not a message, and on after it", async () => {
  await using pair = await connectPair({ maxMessageBytes: 8 });
  const { client, peer } = pair;
  const bytes = new Blob([
    "one\x03",
    new Uint8Array([0xff, 0x03]),
    "two\x03123456789\x03",
  ]);
  await writeAll(peer, await bytes.bytes());
  const received: string[] = [];
  await assertRejects(() => collect(client, received), InvalidMessageError);
  assertEquals(received, ["one"]);
  await assertRejects(() => collect(client, received), MessageTooLargeError);
  assertEquals(received, ["one", "two"]);
  const error = await assertRejects(() => collect(client), ClosedError);
  assertInstanceOf(error.cause, MessageTooLargeError);
});

test("TCPClient stays usable when a loop over it is left", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  await writeAll(peer, frames(numbers(5)));
  for await (const message of client) {
    assertEquals(message, "0");
    break;
  }
  assertEquals(client.connected, true);
  assertEquals(await client.receive(WAIT), "1");
  await assertRejects(
    async () => {
      for await (const message of client) throw new Error(message);
    },
    Error,
    "2",
  );
  const rest: string[] = [];
  for await (const message of client) {
    rest.push(message);
    if (rest.length === 2) break;
  }
  assertEquals(rest, ["3", "4"]);
  await client.send("usable");
  assertEquals(await disconnectAndRead(pair), "usable\x03");
});

test("TCPClient loses nothing to an iterator that was left, or to a cancelled stream", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  const iterator = client[Symbol.asyncIterator]();
  const left = iterator.next();
  await iterator.return?.();
  assertEquals((await left).done, true);
  await writeAll(peer, "a\x03");
  assertEquals(await client.receive(WAIT), "a");

  const reader = ReadableStream.from(client).getReader();
  const read = reader.read();
  await turn();
  await reader.cancel();
  assertEquals((await read).done, true);
  await writeAll(peer, "b\x03");
  assertEquals(await client.receive(WAIT), "b");
  await client.send("usable");
  assertEquals(await disconnectAndRead(pair), "usable\x03");
});

const LEAVING: Record<string, string> = {
  "has left an iterator that waited": `
    const iterator = client[Symbol.asyncIterator]();
    const waiting = iterator.next();
    await iterator.return();
    console.log((await waiting).done);`,
  "has cancelled a stream over it": `
    const reader = ReadableStream.from(client).getReader();
    const waiting = reader.read();
    await new Promise((resolve) => setTimeout(resolve));
    await reader.cancel();
    console.log((await waiting).done);`,
};

for (const [name, body] of Object.entries(LEAVING)) {
  test(`TCPClient that ${name} does not keep a process alive`, async () => {
    using port = freePort();
    using _listener = Deno.listen({ hostname: LOOPBACK, port: port.wire });
    using program = new Program(`
      const client = await comm.createTcpClient("${LOOPBACK}", ${port.port});
      ${body}
    `);
    await using process = program.start(`--allow-net=${LOOPBACK}`);
    assertEquals(await process.ended(), {
      code: 0,
      stdout: "true\n",
      stderr: "",
    });
  });
}

test("TCPClient.connected turns false when the peer closes and nobody receives", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  peer.close();
  await until(() => !client.connected);
  await assertRejects(() => client.send("x"), ClosedError);
});

test("TCPClient.connected turns false when the peer closes behind a message nobody received", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  await writeAll(peer, "Welcome\x03");
  peer.close();
  await until(() => !client.connected);
  assertEquals(await client.receive({ timeout: 0 }), "Welcome");
  await assertRejects(() => client.receive({ timeout: 0 }), ClosedError);
});

test("TCPClient that does not receive stops the sender, and loses nothing", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  const BLOCKS = 64;
  const PER_BLOCK = 1_024;
  const text = "x".repeat(KIB - 10);
  let written = 0;
  let ended = false;
  const sending = (async () => {
    for (; written < BLOCKS; written++) {
      const block = Array.from(
        { length: PER_BLOCK },
        (_, i) => `${written * PER_BLOCK + i}:${text}`,
      );
      await writeAll(peer, frames(block));
    }
    ended = true;
  })();
  // On a slow machine this may take a pause for the end, which passes all the same.
  for (let seen = -1; seen !== written && !ended;) {
    seen = written;
    await delay(200);
  }
  assertLess(written, BLOCKS);
  for (let i = 0; i < BLOCKS * PER_BLOCK; i++) {
    if (await client.receive(WAIT) === `${i}:${text}`) continue;
    throw new Error(`another message than ${i}`);
  }
  await sending;
  assertEquals(await client.receive({ timeout: 0 }), null);
});

test("TCPClient rejects with ClosedError and its cause when the peer resets", async () => {
  await using line = await ResettableLine.open();
  const { client, socket } = await line.join();
  const pending = outcomes([client.receive(), collect(client)]);
  socket.resetAndDestroy();
  const calls = [
    () => client.receive({ timeout: 0 }),
    () => client.receive(WAIT),
    () => client.send("x"),
    () => collect(client),
  ];
  const errors = await pending;
  for (const call of calls) errors.push(await assertRejects(call));
  for (const error of errors) {
    assertInstanceOf(error, ClosedError);
    assertInstanceOf(error.cause, Deno.errors.ConnectionReset);
    assertEquals(error.incomplete.length, 0);
  }
  assertEquals(client.connected, false);
});

test("TCPClient.receive() gives what arrived whole before a reset", async () => {
  await using line = await ResettableLine.open();
  const { client, socket } = await line.join();
  socket.write("one\x03two\x03thr");
  assertEquals(await client.receive(WAIT), "one");
  socket.resetAndDestroy();
  await until(() => !client.connected);
  assertEquals(await client.receive(WAIT), "two");
  const error = await assertRejects(() => client.receive(WAIT), ClosedError);
  assertInstanceOf(error.cause, Deno.errors.ConnectionReset);
  assertEquals(decoder.decode(error.incomplete), "thr");
});

test("TCPClient.send() rejects with ClosedError and its cause when the peer resets meanwhile", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  // More than the kernel takes, so it is on its way when the reset comes.
  const messages = Array(48).fill("x".repeat(MIB));
  const sent = sendAll(client, messages);
  await peer.read(new Uint8Array(1));
  peer.close();
  const error = (await sent).at(-1);
  assertInstanceOf(error, ClosedError);
  assertInstanceOf(error.cause, Error);
  await assertRejects(() => client.send("x"), ClosedError);
  await assertRejects(() => client.receive(), ClosedError);
});

test("ClosedError names both ports", async () => {
  await using pair = await connectPair();
  const { client, peer, port, wire } = pair;
  peer.close();
  const both = `${LOOPBACK}:${port} (wire port ${wire})`;
  await assertRejects(() => client.receive(WAIT), ClosedError, both);
  await assertRejects(() => client.send("x"), ClosedError, both);
});

// disconnect

test("TCPClient.disconnect() sends all that is pending to a slow peer", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  const messages = numbers(16).map((n) => n + "机".repeat(MIB / 4));
  const sent = sendAll(client, messages);
  const closed = client.disconnect();
  const text = await readAll(peer, turn);
  assert(text === frames(messages));
  assertEquals(await sent, messages.map(() => undefined));
  peer.close();
  await closed;
});

test("TCPClient.disconnect() cuts off nothing that the peer is still sending", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  const block = frames(numbers(2_000));
  const more = (async () => {
    for (let i = 0; i < 500; i++) await writeAll(peer, block);
  })();
  // So there is unread input, which makes a plain close a reset.
  assertEquals(await client.receive(WAIT), "0");
  const sent = client.send("Goodbye");
  const closed = client.disconnect();
  await Promise.all([sent, more]);
  assertEquals(await readAll(peer), "Goodbye\x03");
  await writeAll(peer, block);
  peer.close();
  await closed;
});

test("TCPClient.disconnect() waits for the peer to close", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  const order: string[] = [];
  const closed = client.disconnect().then(() => order.push("closed"));
  await readAll(peer);
  await turn();
  order.push("peer");
  peer.close();
  await closed;
  assertEquals(order, ["peer", "closed"]);
});

test("TCPClient.disconnect() does not wait for ever for a peer that never closes", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  await client.send("Goodbye");
  await client.disconnect();
  assertEquals(await readAll(peer), "Goodbye\x03");
});

test("TCPClient.disconnect() does not wait for ever for a peer that never reads", async () => {
  await using pair = await connectPair();
  const { client } = pair;
  const sent = sendAll(client, Array(48).fill("x".repeat(MIB)));
  await client.disconnect();
  assertInstanceOf((await sent).at(-1), ClosedError);
});

test("TCPClient.disconnect() does not wait for ever for a peer that never stops sending", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  const endless = outcomes([(async () => {
    const block = new Uint8Array(KIB);
    while (true) {
      await writeAll(peer, block);
      await turn();
    }
  })()]);
  await client.disconnect();
  assertInstanceOf((await endless)[0], Error);
});

test("TCPClient.disconnect() may be called twice", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  const sent = client.send("once");
  const closed = [client.disconnect(), client.disconnect()];
  assertEquals(client.connected, false);
  assertEquals(await readAll(peer), "once\x03");
  peer.close();
  await Promise.all([sent, ...closed]);
  await client.disconnect();
  await client[Symbol.asyncDispose]();
  client[Symbol.dispose]();
});

test("TCPClient.disconnect() is done when the peer was first", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  peer.close();
  await assertRejects(() => client.receive(WAIT), ClosedError);
  await client.disconnect();
});

test("TCPClient.disconnect() ends pending receives and loops", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  const pending = outcomes([
    client.receive(),
    client.receive(WAIT),
    client.receive({ signal: new AbortController().signal }),
  ]);
  const loop = collect(client);
  const closed = client.disconnect();
  for (const error of await pending) assertInstanceOf(error, ClosedError);
  assertEquals(await loop, []);
  peer.close();
  await closed;
});

test("TCPClient.disconnect() ends the loop that calls it", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  await writeAll(peer, "first\x03in the mid");
  const received: string[] = [];
  for await (const message of client) {
    received.push(message);
    client.disconnect();
  }
  assertEquals(received, ["first"]);
  peer.close();
});

test("TCPClient rejects with ClosedError after disconnect", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  await writeAll(peer, frames(["received", "dropped"]));
  assertEquals(await client.receive(WAIT), "received");
  const closed = client.disconnect();
  const use = async () => {
    await assertRejects(() => client.send("x"), ClosedError);
    await assertRejects(() => client.receive(), ClosedError);
    await assertRejects(() => client.receive({ timeout: 0 }), ClosedError);
    assertEquals(await collect(client), []);
  };
  await use();
  assertEquals(await readAll(peer), "");
  peer.close();
  await closed;
  await use();
});

test("TCPClient disconnects at the end of await using, and waits for it", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  let ended = false;
  const reading = readAll(peer).then((text) => {
    ended = true;
    peer.close();
    return text;
  });
  {
    await using used = client;
    used.send("Goodbye");
  }
  assertEquals([ended, client.connected], [true, false]);
  assertEquals(await reading, "Goodbye\x03");
});

test("TCPClient disconnects at the end of using, and does not wait", async () => {
  await using pair = await connectPair();
  const { client, peer } = pair;
  let ended = false;
  const reading = readAll(peer).then((text) => {
    ended = true;
    peer.close();
    return text;
  });
  {
    using used = client;
    used.send("Goodbye");
  }
  assertEquals([ended, client.connected], [false, false]);
  assertEquals(await reading, "Goodbye\x03");
  await client.disconnect();
});

// Processes

interface Script extends AsyncDisposable {
  script: Process;
  peer: Deno.TcpConn;
}

/** A script whose client is connected to a raw peer here. */
async function runClient(code: string): Promise<Script> {
  await using stack = new AsyncDisposableStack();
  const { port, wire } = stack.use(freePort());
  using listener = Deno.listen({ hostname: LOOPBACK, port: wire });
  const script = stack.use(
    new Process(Deno.execPath(), [
      "eval",
      "--no-config",
      `import { createTcpClient } from "./mod.ts";
      const connected = createTcpClient("${LOOPBACK}", ${port});
      ${code}`,
    ]),
  );
  const peer = stack.use(await deadline(listener.accept(), PATIENCE));
  const whole = stack.move();
  return { script, peer, [Symbol.asyncDispose]: () => whole.disposeAsync() };
}

test("TCPClient that never receives does not keep a script alive", async () => {
  await using run = await runClient(`
    const client = await connected;
    await client.send("hello");
    console.log(client.connected);
  `);
  const { code, stdout, stderr } = await run.script.ended();
  assertEquals([code, stdout, stderr], [0, "true\n", ""]);
});

test("TCPClient that is idle does not keep a script alive", async () => {
  await using run = await runClient(`
    const client = await connected;
    console.log(await client.receive());
    console.log(await client.receive({ timeout: 1 }));
    console.log(client.connected);
  `);
  const { script, peer } = run;
  await writeAll(peer, "hello\x03");
  const { code, stdout, stderr } = await script.ended();
  assertEquals([code, stdout, stderr], [0, "hello\nnull\ntrue\n", ""]);
});

test("TCPClient that waits for a message keeps a script alive", async () => {
  await using run = await runClient(`
    const client = await connected;
    client.receive({ timeout: 1 }).then(console.log);
    client.receive().then(console.log);
  `);
  const { script, peer } = run;
  assertEquals(await script.read(), "null");
  // Long enough for one that nothing keeps alive to end.
  await delay(100);
  await writeAll(peer, "hello\x03");
  const { code, stdout, stderr } = await script.ended();
  assertEquals([code, stdout, stderr], [0, "hello\n", ""]);
});

test("TCPClient that is being disposed of keeps a script alive until all is sent", async () => {
  await using run = await runClient(`
    using client = await connected;
    for (let i = 0; i < 16; i++) client.send("x".repeat(2 ** 20));
  `);
  const { script, peer } = run;
  const text = await readAll(peer);
  assertEquals(text.length, 16 * (MIB + 1));
  peer.close();
  const { code, stderr } = await script.ended();
  assertEquals([code, stderr], [0, ""]);
});

test("TCPClient that is being disposed of keeps a script alive until the peer closes", async () => {
  await using run = await runClient(`
    using client = await connected;
    client.send("Goodbye");
  `);
  const { script, peer } = run;
  assertEquals(await readAll(peer), "Goodbye\x03");
  // Of a script that has ended this would be reset.
  await writeAll(peer, "x".repeat(MIB));
  peer.close();
  const { code, stderr } = await script.ended();
  assertEquals([code, stderr], [0, ""]);
});

test("mod.ts does TCP with --allow-net=127.0.0.1 and nothing more", async () => {
  using free = freePort();
  await using script = new Process(Deno.execPath(), [
    "run",
    "--no-config",
    "--no-prompt",
    "--allow-net=127.0.0.1",
    "-",
  ]);
  await script.write(`
    import { createTcpClient, createTcpServer } from "./mod.ts";
    const server = createTcpServer(${free.port}, (message) => "Echo: " + message, {
      hostname: "127.0.0.1",
    });
    const client = await createTcpClient("127.0.0.1", ${free.port});
    await client.send("Hello");
    console.log(await client.receive());
    await server.sendToAll("Push");
    console.log(await client.receive());
    await client.disconnect();
    await server.stop();
  `);
  const { code, stdout, stderr } = await script.end();
  assertEquals([code, stdout, stderr], [0, "Echo: Hello\nPush\n", ""]);
});
