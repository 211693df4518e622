// Why: a robot comes and goes, and its messages may then be neither repeated nor
// mixed up nor silently held for ever; what is lost is lost at a break only.

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertNotEquals,
  assertRejects,
  fail,
} from "@std/assert";
import { delay } from "@std/async";
import { Backoff, retry } from "../_reconnect.ts";
import { Pause } from "../_time.ts";
import {
  ClosedError,
  CommunicationError,
  createTcpClient,
  createTcpServer,
  InvalidMessageError,
  MessageTooLargeError,
  type TCPClient,
  type TCPClientOptions,
} from "../mod.ts";
import { Authority } from "./_certificates.ts";
import {
  assertEnded,
  Kernel,
  Line,
  LONG,
  NEVER,
  readLong,
  Reason,
  ResettableLine,
  ROOM,
  sequence,
  SOON,
  turn,
} from "./_line.ts";
import { LOOPBACK_ONLY, Program } from "./_netns.ts";
import { freePort } from "./_ports.ts";
import {
  HERE,
  LOOPBACK,
  MIB,
  outcome,
  Peer,
  Queue,
  TERMINATOR,
  test,
  until,
} from "./_served.ts";

/** A pause that takes no time and says how long it would have been. */
class Recorder extends Pause {
  readonly waits: number[] = [];

  override wait(ms: number): Promise<void> {
    this.waits.push(ms);
    return Promise.resolve();
  }
}

/** Replaces chance. */
function withRandom<T>(value: number, body: () => Promise<T>): Promise<T> {
  const original = Math.random;
  Math.random = () => value;
  return body().finally(() => Math.random = original);
}

/** The pauses before each attempt but the first, when all fail. */
async function pauses(
  attempts: number,
  options: { firstDelay: number; maxDelay: number; jitter: number },
): Promise<number[]> {
  const pause = new Recorder();
  const backoff = new Backoff({ attempts, ...options }, pause);
  while (backoff.failed()) await backoff.wait();
  return pause.waits;
}

// retry

Deno.test("RetryOptions have their defaults", () => {
  const defaults = {
    attempts: Infinity,
    firstDelay: 100,
    maxDelay: 5_000,
    jitter: 0.5,
  };
  assertEquals(retry(true, "retry"), defaults);
  assertEquals(retry({}, "retry"), defaults);
  assertEquals(retry({ jitter: 0 }, "retry"), { ...defaults, jitter: 0 });
  assertEquals(retry(false, "retry"), undefined);
  assertEquals(retry(undefined, "retry"), undefined);
});

test("RetryOptions.firstDelay doubles with each failure up to maxDelay", async () => {
  assertEquals(
    await pauses(6, { firstDelay: 100, maxDelay: 450, jitter: 0 }),
    [100, 200, 400, 450, 450],
  );
  assertEquals(
    await pauses(3, { firstDelay: 100, maxDelay: 50, jitter: 0 }),
    [50, 50],
  );
  assertEquals(
    await pauses(6, { firstDelay: 0, maxDelay: 5, jitter: 0 }),
    [0, 1, 2, 4, 5],
  );
});

test("RetryOptions.jitter leaves its part of a pause to chance, and no more", async () => {
  const options = { firstDelay: 100, maxDelay: 200, jitter: 0.25 };
  assertEquals(
    await withRandom(0, () => pauses(4, options)),
    [100, 200, 200],
  );
  assertEquals(
    await withRandom(1, () => pauses(4, options)),
    [75, 150, 150],
  );
  const all = await pauses(500, {
    firstDelay: 100,
    maxDelay: 100,
    jitter: 0.5,
  });
  assert(all.every((ms) => ms > 50 && ms <= 100));
  assert(Math.min(...all) < 60 && Math.max(...all) > 90, "over the range");
});

test("createTcpClient() with retry connects once a server appears", async () => {
  using port = freePort();
  using kernel = new Kernel();
  const connecting = createTcpClient(LOOPBACK, port.port, { retry: SOON });
  assertEquals(await kernel.ended.next(), "failed");
  assertEquals(await kernel.ended.next(), "failed");
  await using _server = createTcpServer(port.port, (text) => text, HERE);
  await using client = await connecting;
  await client.send("at last");
  assertEquals(await client.receive(), "at last");
});

test("createTcpClient() with retry gives up with the last error", async () => {
  using port = freePort();
  using kernel = new Kernel();
  const error = await assertRejects(
    () =>
      createTcpClient(LOOPBACK, port.port, { retry: { ...SOON, attempts: 3 } }),
    Deno.errors.ConnectionRefused,
  );
  assertEquals(
    error.message,
    `Cannot connect to ${LOOPBACK}:${port.port} (wire port ${port.wire}): Connection refused`,
  );
  assertEquals(kernel.attempts, 3);
});

for (const retry of [undefined, false, { attempts: 1 }]) {
  test(`createTcpClient() with retry ${JSON.stringify(retry)} tries once`, async () => {
    using port = freePort();
    using kernel = new Kernel();
    const options = retry === undefined ? {} : { retry };
    await assertRejects(
      () => createTcpClient(LOOPBACK, port.port, options),
      Deno.errors.ConnectionRefused,
    );
    assertEquals(kernel.attempts, 1);
  });
}

test("TCPClientOptions.onRetry gets each failure that another attempt follows", async () => {
  using port = freePort();
  const failures: Error[] = [];
  const error = await assertRejects(
    () =>
      createTcpClient(LOOPBACK, port.port, {
        retry: { ...SOON, attempts: 3 },
        onRetry: (error) => failures.push(error),
      }),
    Deno.errors.ConnectionRefused,
  );
  assertEquals(failures.map(({ message }) => message), [
    error.message,
    error.message,
  ]);
  for (const failure of failures) {
    assertInstanceOf(failure, Deno.errors.ConnectionRefused);
  }
});

test("createTcpClient() with retry ends at once when its signal aborts in a pause", async () => {
  using port = freePort();
  using kernel = new Kernel();
  const abort = new AbortController();
  const connecting = createTcpClient(LOOPBACK, port.port, {
    retry: NEVER,
    signal: abort.signal,
  });
  assertEquals(await kernel.ended.next(), "failed");
  abort.abort(new Reason());
  await assertRejects(() => connecting, Reason);
  assertEquals(kernel.attempts, 1);
});

test("createTcpClient() with retry ends at once when its signal aborts in an attempt", async () => {
  using port = freePort();
  using listener = Deno.listen({ ...HERE, port: port.wire });
  const abort = new AbortController();
  const connecting = createTcpClient(LOOPBACK, port.port, {
    retry: SOON,
    signal: abort.signal,
    tls: true,
  });
  // Which never answers the handshake.
  using _peer = new Peer(await listener.accept());
  abort.abort(new Reason());
  await assertRejects(() => connecting, Reason);
});

test("createTcpClient() with retry does not start with an aborted signal", async () => {
  using port = freePort();
  using kernel = new Kernel();
  await assertRejects(
    () =>
      createTcpClient(LOOPBACK, port.port, {
        retry: SOON,
        signal: AbortSignal.abort(new Reason()),
      }),
    Reason,
  );
  assertEquals(kernel.attempts, 0);
});

test("RetryOptions are in vain for a permission, a certificate and an argument", async () => {
  for (
    const Hopeless of [
      Deno.errors.NotCapable,
      Deno.errors.InvalidData,
      TypeError,
      URIError,
      Error,
    ]
  ) {
    const original = Deno.connect;
    using _ = { [Symbol.dispose]: () => Deno.connect = original };
    // Deno has no class for a certificate that can't be read.
    const why = Hopeless === Error
      ? "invalid peer certificate: BadEncoding"
      : "no";
    const refuse = (): Promise<never> => Promise.reject(new Hopeless(why));
    Deno.connect = refuse;
    await assertRejects(
      () =>
        createTcpClient(LOOPBACK, 70001, {
          retry: { attempts: 9, ...SOON },
          onRetry: () => fail("it is reported as if it were tried again"),
        }),
      Hopeless,
    );
  }
});

test("createTcpClient() with retry gives up a server whose certificate it does not know", async () => {
  const authority = await Authority.create("nobody knows");
  using port = freePort();
  using kernel = new Kernel();
  await using _server = createTcpServer(port.port, undefined, {
    ...HERE,
    tls: await authority.issue([LOOPBACK]),
    onError: () => {},
  });
  await assertRejects(
    () => createTcpClient(LOOPBACK, port.port, { tls: true, retry: SOON }),
    Deno.errors.InvalidData,
  );
  assertEquals(kernel.attempts, 1);
});

test("createTcpClient() with retry gives up without the permission to connect", async () => {
  using program = new Program(`
    await comm.createTcpClient("127.0.0.1", 70001, { retry: true })
      .catch((error) => console.log(error.name));
  `);
  await using process = program.start("--no-prompt", "--allow-net=127.0.0.1:1");
  assertEquals(await process.ended(), {
    code: 0,
    stdout: "NotCapable\n",
    stderr: "",
  });
});

// reconnect

/** What a client told about its connection. */
type Event = ["gone", Error | undefined] | ["back"];

class Robot implements AsyncDisposable {
  readonly client: TCPClient;
  readonly events: Queue<Event>;

  private constructor(client: TCPClient, events: Queue<Event>) {
    this.client = client;
    this.events = events;
  }

  /** Connects, and gives the other end too. */
  static async connect(
    line: Line,
    options: TCPClientOptions = {},
  ): Promise<[Robot, Peer]> {
    const events = new Queue<Event>();
    const { client, peer } = await line.connect({
      reconnect: SOON,
      onDisconnect: (error) => events.put(["gone", error]),
      onReconnect: () => events.put(["back"]),
      ...options,
    });
    return [new Robot(client, events), peer];
  }

  /** Waits until it knows that it has no connection. */
  async gone(): Promise<Error | undefined> {
    const [what, error] = await this.events.next();
    assertEquals(what, "gone");
    return error;
  }

  async back(): Promise<void> {
    assertEquals(await this.events.next(), ["back"]);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.client.disconnect();
  }
}

test("TCPClient with reconnect goes on waiting in a pending receive", async () => {
  await using line = new Line();
  const [robot, peer] = await Robot.connect(line);
  await using _robot = robot;
  const received = [robot.client.receive(), robot.client.receive()];
  peer.conn.close();
  using again = await line.accept();
  await again.write("first\x03second\x03");
  assertEquals(await Promise.all(received), ["first", "second"]);
});

test("TCPClient with reconnect returns null from a receive whose time runs out meanwhile", async () => {
  await using line = new Line();
  const [robot, peer] = await Robot.connect(line, { reconnect: NEVER });
  await using _robot = robot;
  peer.conn.close();
  await robot.gone();
  assertEquals(await robot.client.receive({ timeout: 5 }), null);
  assertEquals(await robot.client.receive({ timeout: 0 }), null);
});

test("TCPClient with reconnect tells when it is gone and back, in this order, each time", async () => {
  await using line = new Line();
  const [robot, first] = await Robot.connect(line);
  await using _robot = robot;
  let peer = first;
  for (let i = 0; i < 3; i++) {
    assertEquals(robot.client.connected, true);
    peer.conn.close();
    assertEquals(await robot.gone(), undefined);
    assertEquals(robot.client.connected, false);
    peer = await line.accept();
    await robot.back();
  }
  const disconnected = robot.client.disconnect();
  await peer.ended();
  peer.conn.close();
  await disconnected;
  assertEquals(robot.events.rest(), []);
  assertEquals(robot.client.connected, false);
});

test("TCPClient with reconnect tells onDisconnect what was cut off", async () => {
  await using line = new Line();
  const [robot, peer] = await Robot.connect(line);
  await using _robot = robot;
  await peer.write("MOVE 1");
  peer.conn.close();
  const error = await robot.gone();
  assertInstanceOf(error, ClosedError);
  assertEquals(new TextDecoder().decode(error.incomplete), "MOVE 1");
  using _again = await line.accept();
});

test("TCPClient with reconnect comes back after a reset, and tells onDisconnect", async () => {
  await using line = await ResettableLine.open();
  const { client, socket, gone } = await line.connect({ reconnect: SOON });
  socket.resetAndDestroy();
  assertInstanceOf(await gone.next(), Deno.errors.ConnectionReset);
  const next = await line.accept();
  next.end("hello\x03");
  assertEquals(await client.receive(), "hello");
});

test("TCPClient with reconnect holds what is sent meanwhile, and sends it in order and once", async () => {
  await using line = new Line();
  const [robot, peer] = await Robot.connect(line);
  await using _robot = robot;
  line.close();
  peer.conn.close();
  await robot.gone();
  let sent = 0;
  const sends = Array.from(
    { length: 1000 },
    (_, i) => robot.client.send(`${i}`).then(() => sent++),
  );
  assertEquals(await robot.client.receive({ timeout: 20 }), null);
  assertEquals(sent, 0);
  line.open();
  using again = await line.accept();
  await Promise.all(sends);
  await robot.client.send("last");
  for (let i = 0; i < 1000; i++) assertEquals(await again.read(), `${i}`);
  assertEquals(await again.read(), "last");
});

test("TCPClient with reconnect sends a message again whole that was cut at the break", async () => {
  await using line = new Line();
  const [robot, peer] = await Robot.connect(line, ROOM);
  await using _robot = robot;
  await robot.client.send("before");
  const sends = [robot.client.send(LONG), robot.client.send("after")];
  assertEquals(await peer.read(), "before");
  await peer.conn.read(new Uint8Array(100_000));
  peer.conn.close();
  using again = await line.accept();
  await again.write("go on\x03");
  assertEquals(await robot.client.receive(), "go on");
  assert(await again.read() === LONG, "whole");
  assertEquals(await again.read(), "after");
  await Promise.all(sends);
  await robot.client.send("end");
  assertEquals(await again.read(), "end");
});

test("TCPClient with reconnect never sends again what the kernel had, read or not", async () => {
  await using line = new Line();
  const [robot, peer] = await Robot.connect(line);
  await using _robot = robot;
  await robot.client.send("read");
  assertEquals(await peer.read(), "read");
  await Promise.all([robot.client.send("lost"), robot.client.send("lost too")]);
  line.close();
  peer.conn.close();
  await robot.gone();
  const waiting = robot.client.send("new");
  line.open();
  using again = await line.accept();
  await waiting;
  const disconnected = robot.client.disconnect();
  assertEquals(await again.messages(), ["new"]);
  again.conn.close();
  await disconnected;
});

test("TCPClient with reconnect comes back although the peer takes nothing of what is being sent", async () => {
  await using line = new Line();
  const [robot, peer] = await Robot.connect(line, ROOM);
  await using _robot = robot;
  using _peer = peer;
  const sent = robot.client.send(LONG);
  await peer.conn.read(new Uint8Array(1));
  await peer.conn.closeWrite();
  using again = await line.accept();
  assert(await readLong(again) === LONG, "whole");
  await sent;
});

test("TCPClient with reconnect and idleTimeout comes back although a silent peer takes nothing", async () => {
  await using line = new Line();
  const [robot, peer] = await Robot.connect(line, {
    ...ROOM,
    idleTimeout: 200,
  });
  await using _robot = robot;
  using _peer = peer;
  const sent = robot.client.send(LONG);
  await peer.conn.read(new Uint8Array(1));
  assertInstanceOf(await robot.gone(), Deno.errors.TimedOut);
  using again = await line.accept();
  // Which is not silent.
  let more = true;
  const heartbeat = (async () => {
    while (more) {
      await again.write("alive\x03");
      await robot.client.receive();
    }
  })();
  assert(await readLong(again) === LONG, "whole");
  more = false;
  await sent;
  await heartbeat;
});

test("TCPClient with reconnect loses nothing that had arrived before the break", async () => {
  await using line = new Line();
  const [robot, peer] = await Robot.connect(line);
  await using _robot = robot;
  await peer.write("one\x03two\x03three\x03cut o");
  peer.conn.close();
  await robot.gone();
  using again = await line.accept();
  await again.write("four\x03");
  await robot.back();
  const got = [];
  for (let i = 0; i < 4; i++) got.push(await robot.client.receive());
  assertEquals(got, ["one", "two", "three", "four"]);
});

test("TCPClient with reconnect loses nothing that had arrived unread when a send fails", async () => {
  await using line = new Line();
  const [robot, peer] = await Robot.connect(line);
  await using _robot = robot;
  const count = 20_000; // more than is read ahead, less than the kernel holds
  const messages = Array.from({ length: count }, (_, i) => `${i}`);
  await peer.write(messages.map((text) => text + TERMINATOR).join(""));
  peer.conn.close();
  // The first goes out and is answered by RST, so that one after it fails.
  while (robot.events.all.length === 0) await robot.client.send("status");
  using again = await line.accept();
  await again.write("again\x03");
  const got = [];
  do got.push(await robot.client.receive()); while (got.at(-1) !== "again");
  assertEquals(got.length, count + 1);
  assertEquals(got, [...messages, "again"]);
});

test("TCPClient with reconnect holds a bounded amount of what nobody receives, over however many breaks", async () => {
  await using line = new Line();
  const [robot, first] = await Robot.connect(line);
  await using _robot = robot;
  const push = ("x".repeat(99) + TERMINATOR).repeat(10_000);
  let peer = first;
  for (let i = 0; i < 60; i++) {
    const accepted = line.accept();
    // Which fails once the peer is gone, and is how that is noticed.
    const sending = (async () => {
      while (robot.events.all.length <= 2 * i) {
        await robot.client.send("status");
      }
    })();
    await peer.write(push);
    peer.conn.close();
    peer = await accepted;
    await sending;
    await until(() => robot.events.all.length === 2 * i + 2);
  }
  using _peer = peer;
  assert(robot.client.stats.bytesIn < 32 * MIB);
  await peer.write("last\x03");
  let got: string | null;
  do got = await robot.client.receive(); while (got !== "last");
});

test("TCPClient with reconnect goes on in for await", async () => {
  await using line = new Line();
  const [robot, first] = await Robot.connect(line);
  await using _robot = robot;
  const got = Array.fromAsync(robot.client);
  let peer = first;
  for (let i = 0; i < 5; i++) {
    await peer.write(`${i}a\x03${i}b\x03cut`);
    peer.conn.close();
    peer = await line.accept();
  }
  using last = peer;
  await last.write("end\x03");
  await until(() => robot.client.stats.messagesIn === 11);
  await robot.client.disconnect();
  assertEquals(
    await got,
    ["0a", "0b", "1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b", "end"],
  );
});

test("TCPClient with reconnect rejects one receive for a message over the limit or not UTF-8, and goes on", async () => {
  await using line = new Line();
  const [robot, peer] = await Robot.connect(line, { maxMessageBytes: 10 });
  await using _robot = robot;
  using _peer = peer;
  await peer.write(new Uint8Array([0x41, 3, 0xff, 3]));
  await peer.write("longer than ten\x03");
  const { client } = robot;
  assertEquals(await client.receive(), "A");
  await assertRejects(() => client.receive(), InvalidMessageError);
  await assertRejects(() => client.receive(), MessageTooLargeError);
  assertInstanceOf(await robot.gone(), MessageTooLargeError);
  using again = await line.accept();
  await again.write("short\x03");
  assertEquals(await client.receive(), "short");
});

test("TCPClient with reconnect has the address of its newest connection, and counts over all", async () => {
  await using line = new Line();
  const [robot, peer] = await Robot.connect(line);
  await using _robot = robot;
  const before = robot.client.localAddress;
  const { hostname, port } = peer.conn.remoteAddr as Deno.NetAddr;
  assertEquals(before, [hostname, port]);
  await robot.client.send("12345");
  assertEquals(await peer.read(), "12345");
  await peer.write("1\x03");
  assertEquals(await robot.client.receive(), "1");
  peer.conn.close();
  using again = await line.accept();
  await robot.gone();
  await robot.back();
  assertNotEquals(robot.client.localAddress, before);
  await robot.client.send("12345");
  await again.write("1\x03");
  assertEquals(await robot.client.receive(), "1");
  assertEquals(robot.client.stats, {
    messagesIn: 2,
    messagesOut: 2,
    bytesIn: 4,
    bytesOut: 12,
    invalidMessages: 0,
  });
});

test("TCPClient with reconnect counts as sent what was with the kernel when the connection broke", async () => {
  await using line = new Line();
  const [robot, peer] = await Robot.connect(line);
  await using _robot = robot;
  const count = 20_000; // more than buffers hold
  const sends = Array.from(
    { length: count },
    () => robot.client.send("x".repeat(999)),
  );
  await peer.conn.read(new Uint8Array(1));
  peer.conn.close();
  using again = await line.accept();
  const drained = again.ended();
  await Promise.all(sends);
  assertEquals(robot.client.stats.messagesOut, count);
  const disconnected = robot.client.disconnect();
  await drained;
  again.conn.close();
  await disconnected;
});

// what waits is bounded

/** A client without a connection, until `line` is opened. */
async function stranded(
  line: Line,
  options: TCPClientOptions = {},
): Promise<Robot> {
  const [robot, peer] = await Robot.connect(line, options);
  line.close();
  peer.conn.close();
  await robot.gone();
  return robot;
}

async function refusals(sends: Promise<void>[]): Promise<number> {
  // Those that wait settle only when there is a connection.
  let refused = 0;
  for (const send of sends) {
    send.catch((error) => {
      if (error instanceof CommunicationError) refused++;
    });
  }
  await turn();
  return refused;
}

test("TCPClientOptions.maxSendBufferBytes bounds what waits, and what fits goes out", async () => {
  await using line = new Line();
  await using robot = await stranded(line, { maxSendBufferBytes: 10_000 });
  const waiting = robot.client.send("a".repeat(8_000));
  const error = await assertRejects(
    () => robot.client.send("b".repeat(3_000)),
    CommunicationError,
  );
  assertEquals(
    error.message,
    "Cannot hold more than 10000 bytes until there is a connection again",
  );
  const behind = robot.client.send("c".repeat(1_000));
  line.open();
  using again = await line.accept();
  await Promise.all([waiting, behind]);
  // There is room again.
  await robot.client.send("d".repeat(9_000));
  const disconnected = robot.client.disconnect();
  assertEquals(await again.messages(), [
    "a".repeat(8_000),
    "c".repeat(1_000),
    "d".repeat(9_000),
  ]);
  again.conn.close();
  await disconnected;
});

test("TCPClientOptions.maxSendBufferBytes lets one message wait that is longer", async () => {
  await using line = new Line();
  await using robot = await stranded(line, { maxSendBufferBytes: 100 });
  const waiting = robot.client.send("a".repeat(1_000));
  await assertRejects(() => robot.client.send(""), CommunicationError);
  line.open();
  using again = await line.accept();
  await waiting;
  assertEquals(await again.read(), "a".repeat(1_000));
});

test("TCPClientOptions.maxSendBufferBytes bounds empty messages too", async () => {
  await using line = new Line();
  await using robot = await stranded(line, { maxSendBufferBytes: 100 });
  const sends = Array.from({ length: 1000 }, () => robot.client.send(""));
  assert(await refusals(sends) >= 900);
});

test("TCPClientOptions.maxSendBufferBytes counts bytes, not characters", async () => {
  await using line = new Line();
  await using robot = await stranded(line, { maxSendBufferBytes: 12_000 });
  const sends = Array.from(
    { length: 10 },
    () => robot.client.send("…".repeat(1_000)),
  );
  assertEquals(await refusals(sends), 7);
});

// ends

/** What is pending, and how it ended. */
function pend(client: TCPClient): Promise<unknown[]> {
  return Promise.all([
    outcome(client.receive()),
    outcome(client.receive()),
    outcome(client.send("waits")),
    outcome(Array.fromAsync(client)),
  ]);
}

/** How a client is brought into a state in which it may be ended. */
const states: Record<
  string,
  (line: Line, options: TCPClientOptions) => Promise<[Robot, ...Disposable[]]>
> = {
  "has no connection and pauses": async (line, options) => {
    return [await stranded(line, { ...options, reconnect: NEVER })];
  },
  "fails to connect again and again": async (line, options) => {
    using kernel = new Kernel();
    const robot = await stranded(line, options);
    assertEquals(await kernel.ended.next(), "connected");
    assertEquals(await kernel.ended.next(), "failed");
    return [robot];
  },
  "has just lost the connection": async (line, options) => {
    const [robot, peer] = await Robot.connect(line, options);
    const turn = Promise.withResolvers<void>();
    robot.events.put = () => turn.resolve();
    peer.conn.close();
    await turn.promise;
    return [robot];
  },
};

for (const [state, reach] of Object.entries(states)) {
  test(`TCPClient.disconnect() ends a client at once that ${state}`, async () => {
    await using line = new Line();
    const [robot, ...others] = await reach(line, {});
    const pending = pend(robot.client);
    await robot.client.disconnect();
    const [first, second, sent, looped] = await pending;
    for (const error of [first, second, sent]) {
      assertInstanceOf(error, ClosedError);
    }
    assertEquals(looped, []);
    await assertEnded(robot.client);
    for (const other of others) other[Symbol.dispose]();
  });

  test(`TCPClientOptions.signal ends a client at once that ${state}`, async () => {
    await using line = new Line();
    const abort = new AbortController();
    const [robot, ...others] = await reach(line, { signal: abort.signal });
    const pending = pend(robot.client);
    const cause = new Reason("enough");
    abort.abort(cause);
    for (const error of await pending) {
      assertInstanceOf(error, ClosedError);
      assertEquals(error.cause, cause);
    }
    await assertEnded(robot.client);
    for (const other of others) other[Symbol.dispose]();
  });
}

test("TCPClient.disconnect() ends a client at once that waits for a handshake", async () => {
  const authority = await Authority.create("tests");
  using port = freePort();
  const server = createTcpServer(port.port, undefined, {
    ...HERE,
    tls: await authority.issue([LOOPBACK]),
  });
  const client = await createTcpClient(LOOPBACK, port.port, {
    tls: { caCerts: [authority.cert] },
    reconnect: SOON,
  });
  const pending = client.receive().catch((error) => error);
  await server.stop();
  using listener = Deno.listen({ ...HERE, port: port.wire });
  using _silent = new Peer(await listener.accept());
  await client.disconnect();
  assertInstanceOf(await pending, ClosedError);
  await assertEnded(client);
});

test("TCPClient.disconnect() ends a client with reconnect that has a connection, and sends all first", async () => {
  await using line = new Line();
  const [robot, peer] = await Robot.connect(line);
  using _peer = peer;
  const sends = Array.from(
    { length: 100 },
    (_, i) => robot.client.send(`${i}`),
  );
  const disconnected = robot.client.disconnect();
  const messages = await peer.messages();
  peer.conn.close();
  await disconnected;
  await Promise.all(sends);
  assertEquals(messages, Array.from({ length: 100 }, (_, i) => `${i}`));
  assertEquals(robot.events.rest(), []);
  await assertEnded(robot.client);
});

test("TCPClientOptions.signal ends a client with reconnect at once that has a connection", async () => {
  await using line = new Line();
  const abort = new AbortController();
  const [robot, peer] = await Robot.connect(line, { signal: abort.signal });
  const pending = [robot.client.receive(), Array.fromAsync(robot.client)]
    .map((promise) => assertRejects(() => promise, ClosedError));
  const cause = new Reason("enough");
  abort.abort(cause);
  for (const error of await Promise.all(pending)) {
    assertEquals(error.cause, cause);
  }
  await peer.ended();
  peer.conn.close();
  await assertEnded(robot.client);
});

test("TCPClientOptions.signal is not listened to after disconnect()", async () => {
  await using line = new Line();
  const abort = new AbortController();
  const [robot, peer] = await Robot.connect(line, { signal: abort.signal });
  peer.conn.close();
  await robot.gone();
  await robot.client.disconnect();
  abort.abort(new Reason());
  const error = await assertRejects(() => robot.client.receive(), ClosedError);
  assertEquals(error.cause, undefined);
});

test("TCPClientOptions.onDisconnect and onReconnect may disconnect", async () => {
  for (const when of ["onDisconnect", "onReconnect"] as const) {
    await using line = new Line();
    const ended = Promise.withResolvers<void>();
    const [robot, peer] = await Robot.connect(line, {
      reconnect: when === "onReconnect" ? SOON : NEVER,
      [when]: () => robot.client.disconnect().then(ended.resolve),
    });
    const pending = assertRejects(() => robot.client.receive(), ClosedError);
    const accepted = when === "onReconnect" ? line.accept() : undefined;
    peer.conn.close();
    const again = await accepted;
    await again?.ended();
    again?.conn.close();
    await ended.promise;
    await pending;
    await assertEnded(robot.client);
  }
});

/** Takes the errors that would end the script. */
class Uncaught implements Disposable {
  readonly errors = new Queue<unknown>();

  constructor() {
    globalThis.addEventListener("error", this.#take);
  }

  readonly #take = (event: ErrorEvent): void => {
    event.preventDefault();
    this.errors.put(event.error);
  };

  [Symbol.dispose](): void {
    globalThis.removeEventListener("error", this.#take);
  }
}

test("TCPClientOptions.onDisconnect and onReconnect that throw or reject are uncaught errors and stop nothing", async () => {
  await using line = new Line();
  using uncaught = new Uncaught();
  const thrown = new Reason("thrown");
  const rejected = new Reason("rejected");
  const [robot, peer] = await Robot.connect(line, {
    onDisconnect: () => {
      throw thrown;
    },
    onReconnect: (() => Promise.reject(rejected)) as () => void,
  });
  await using _robot = robot;
  peer.conn.close();
  using again = await line.accept();
  assertEquals(await uncaught.errors.next(), thrown);
  assertEquals(await uncaught.errors.next(), rejected);
  await again.write("still here\x03");
  assertEquals(await robot.client.receive(), "still here");
});

test("TCPClientOptions.onRetry that throws is an uncaught error and stops nothing", async () => {
  await using line = new Line();
  using uncaught = new Uncaught();
  const thrown = new Reason("thrown");
  const [robot, peer] = await Robot.connect(line, {
    onRetry: (error) => {
      assertInstanceOf(error, Deno.errors.ConnectionRefused);
      throw thrown;
    },
  });
  await using _robot = robot;
  await peer.write("hello\x03");
  assertEquals(await robot.client.receive(), "hello");
  line.close();
  peer.conn.close();
  assertEquals(await uncaught.errors.next(), thrown);
  assertEquals(await uncaught.errors.next(), thrown);
  line.open();
  using again = await line.accept();
  await again.write("still here\x03");
  assertEquals(await robot.client.receive(), "still here");
});

test("TCPClient with reconnect gives up when its attempts are used up, with the last error", async () => {
  await using line = new Line();
  using kernel = new Kernel();
  // The connection that brings nothing is the first attempt.
  const robot = await stranded(line, { reconnect: { ...SOON, attempts: 3 } });
  for (const error of await pend(robot.client)) {
    assertInstanceOf(error, ClosedError);
    assertInstanceOf(error.cause, Deno.errors.ConnectionRefused);
  }
  assertEquals(kernel.attempts, 3);
  assertEquals(robot.events.rest(), []);
  line.open();
  await assertEnded(robot.client);
});

test("TCPClient without reconnect tells onDisconnect, and only if it did not disconnect itself", async () => {
  await using line = new Line();
  const options = { reconnect: false };
  const [left, peer] = await Robot.connect(line, options);
  await peer.write("cut");
  peer.conn.close();
  assertInstanceOf(await left.gone(), ClosedError);
  await left.client.disconnect();
  const [leaves, other] = await Robot.connect(line, options);
  const disconnected = leaves.client.disconnect();
  await other.ended();
  other.conn.close();
  await disconnected;
  assertEquals([...left.events.rest(), ...leaves.events.rest()], []);
});

// keeping a script alive

function script(port: number, body: string): Program {
  return new Program(`
    const gone = Promise.withResolvers();
    const client = await comm.createTcpClient("127.0.0.1", ${port}, {
      reconnect: { firstDelay: 1, maxDelay: 10 },
      onDisconnect: () => {
        console.log("gone");
        gone.resolve();
      },
    });
    console.log("ready");
    // Not at the top level, where an await keeps the script alive by itself.
    (async () => {
      ${body}
    })();
  `);
}

test("TCPClient with reconnect that nobody waits for does not keep a script alive", async () => {
  await using line = new Line();
  using program = script(line.free.port, `setTimeout(() => {}, 50);`);
  await using process = program.start(...LOOPBACK_ONLY);
  const peer = await line.accept();
  assertEquals(await process.read(), "ready");
  line.close();
  peer.conn.close();
  const { code, stderr } = await process.ended();
  assertEquals({ code, stderr }, { code: 0, stderr: "" });
});

test("TCPClient with reconnect that is back and that nobody waits for does not keep a script alive", async () => {
  await using line = new Line();
  using program = script(
    line.free.port,
    `const timer = setInterval(() => {
      if (!isGone || !client.connected) return;
      clearInterval(timer);
      console.log("back");
    }, 1);
    let isGone = false;
    await gone.promise;
    isGone = true;`,
  );
  await using process = program.start(...LOOPBACK_ONLY);
  const peer = await line.accept();
  assertEquals(await process.read(), "ready");
  peer.conn.close();
  using _again = await line.accept();
  assertEquals(await process.read(), "gone");
  assertEquals(await process.read(), "back");
  const { code, stderr } = await process.ended();
  assertEquals({ code, stderr }, { code: 0, stderr: "" });
});

test("TCPClient with reconnect keeps a script alive that sends while attempts to connect fail", async () => {
  await using line = new Line();
  using program = script(
    line.free.port,
    `let attempts = 0;
    const { connect } = Deno;
    Deno.connect = (options) => {
      attempts++;
      if (attempts === 6) console.log("tries");
      return connect(options);
    };
    const timer = setInterval(async () => {
      if (attempts < 3) return;
      clearInterval(timer);
      await client.send("hello");
      await client.disconnect();
      console.log("sent");
    }, 1);`,
  );
  await using process = program.start(...LOOPBACK_ONLY);
  const peer = await line.accept();
  assertEquals(await process.read(), "ready");
  line.close();
  peer.conn.close();
  assertEquals(await process.read(), "gone");
  assertEquals(await process.read(), "tries");
  line.open();
  using again = await line.accept();
  assertEquals(await again.read(), "hello");
  again.conn.close();
  const { code, stdout, stderr } = await process.ended();
  assertEquals({ code, stdout, stderr }, {
    code: 0,
    stdout: "sent\n",
    stderr: "",
  });
});

for (
  const [what, body, answer] of [
    ["receive", `console.log(await client.receive());`, null],
    [
      "send",
      `const timer = setInterval(() => {}, 1000);
      await gone.promise;
      clearInterval(timer);
      await client.send("hello");
      await client.disconnect();
      console.log("sent");`,
      "hello",
    ],
  ] as const
) {
  test(`TCPClient with reconnect keeps a script alive that waits in ${what}()`, async () => {
    await using line = new Line();
    using program = script(line.free.port, body);
    await using process = program.start(...LOOPBACK_ONLY);
    const peer = await line.accept();
    assertEquals(await process.read(), "ready");
    line.close();
    peer.conn.close();
    assertEquals(await process.read(), "gone");
    await delay(200); // long enough for a script to end that nothing keeps alive
    line.open();
    using again = await line.accept();
    await again.write("back\x03");
    if (answer !== null) assertEquals(await again.read(), answer);
    assertEquals(await process.read(), answer === null ? "back" : "sent");
    again.conn.close();
    const { code, stderr } = await process.ended();
    assertEquals({ code, stderr }, { code: 0, stderr: "" });
  });
}

// a server that is killed

/** Echoes, and writes all that it reads to its output, until it is killed. */
const KILLED = `
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
conn, _ = server.accept()
while True:
    data = conn.recv(65536)
    if not data:
        break
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    conn.sendall(data)
`;
const KILLS = 100;

const python = findPython();

/** The program itself: what is found by its name may be a slow wrapper. */
function findPython(): string | null {
  try {
    const { success, stdout } = new Deno.Command("python3", {
      args: ["-c", "import sys; print(sys.executable)"],
    }).outputSync();
    return success ? new TextDecoder().decode(stdout).trim() : null;
  } catch {
    return null;
  }
}
if (python === null) {
  console.warn("The test that kills servers is ignored: there is no python3");
}

/** A server to kill, and every byte that it got. */
async function live(
  wire: number,
  bytes: number,
): Promise<{ messages: string[]; rest: string }> {
  const child = new Deno.Command(python ?? "", {
    args: ["-ESs", "-c", KILLED, `${wire}`],
    stdout: "piped",
    stderr: "null",
  }).spawn();
  let text = "";
  let killed = false;
  const decoder = new TextDecoder();
  for await (const chunk of child.stdout) {
    text += decoder.decode(chunk, { stream: true });
    if (killed || text.length < bytes) continue;
    child.kill("SIGKILL");
    killed = true;
  }
  await child.status;
  const messages = text.split(TERMINATOR);
  return { rest: messages.pop() ?? "", messages };
}

/** Any length, so that breaks come in the middle of some; but always the same for a number. */
function numbered(i: number): string {
  return `${i} `.padEnd(i % 50 === 0 ? 200_000 : 20 + i * 37 % 2000, ".");
}

/** Each number is higher than the one before; returns how many are missing between. */
function assertRising(messages: string[]): number {
  let missing = 0;
  for (const [i, message] of messages.entries()) {
    assertEquals(message, numbered(sequence(message)), "as it was sent");
    const before = messages[i - 1];
    if (before === undefined) continue;
    const gap = sequence(message) - sequence(before) - 1;
    assert(gap >= 0, `${sequence(message)} came after ${sequence(before)}`);
    missing += gap;
  }
  return missing;
}

test(
  `TCPClient with reconnect keeps order and repeats nothing over ${KILLS} kills of the server in the middle of traffic`,
  async () => {
    using port = freePort();
    /** The first message of each connection; some were to a server that was about to die. */
    const starts = [0];
    const [first, connected] = [
      live(port.wire, 300_000),
      createTcpClient(LOOPBACK, port.port, {
        retry: SOON,
        reconnect: SOON,
        onReconnect: () => starts.push(resolved),
      }),
    ];
    await using client = await connected;
    let resolved = 0;
    let more = true;
    const traffic = async () => {
      for (let i = 0; more; i++) {
        const sent = client.send(numbered(i)).then(() => resolved++);
        if (i % 20 === 0) await sent;
      }
      await client.send("end ");
      await client.disconnect();
    };
    const echoes = Array.fromAsync(client);
    const sending = traffic();
    const lives = [await first];
    while (lives.length < KILLS) {
      lives.push(await live(port.wire, Math.random() * 400_000));
    }
    more = false;
    const last = await live(port.wire, Infinity);
    await sending;

    assertEquals(last.rest, "");
    assertEquals(last.messages.pop(), "end ");
    assert(starts.length > KILLS);
    for (const { messages } of [...lives, last]) {
      assertEquals(assertRising(messages), 0, "gaps only at breaks");
      const [first] = messages;
      // Those before it were with the kernel, and are not sent again.
      assert(first === undefined || starts.includes(sequence(first)));
    }
    const all = [...lives, last].flatMap(({ messages }) => messages);
    const missing = assertRising([...all]);
    assertEquals(all.length + missing, resolved, "the last ones arrived");
    const cut = lives.filter(({ rest }) => rest !== "").length;
    assert(cut > 0, "some breaks were in the middle of a message");
    assertEquals(client.stats.messagesOut, resolved + 1);

    const echoed = await echoes;
    if (echoed.at(-1) === "end ") echoed.pop();
    const known = new Set(all);
    assertRising(echoed);
    assert(echoed.length > 0 && echoed.every((text) => known.has(text)));
    console.log(
      `${resolved} messages, ${KILLS} kills, ${cut} in the middle of a message, ` +
        `${missing} lost at breaks, ${echoed.length} echoes`,
    );
  },
  { ignore: python === null },
);
