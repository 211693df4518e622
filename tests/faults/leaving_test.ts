// Why: a client that leaves is the dead-man's switch of a robot cell, so the server
// has to see it whatever its callback does; and what is meant for one client must
// never reach another, however much their addresses look alike.

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertLess,
  assertNotStrictEquals,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
} from "@std/assert";
import { deadline, delay } from "@std/async";
import {
  type Address,
  ClosedError,
  CommunicationError,
  type MessageContext,
  MessageTooLargeError,
  type Reply,
} from "../../mod.ts";
import { freePort } from "../_ports.ts";
import { isInstalled, PATIENCE, Process } from "../_process.ts";
import {
  ask,
  type Bound,
  connectFrom,
  KIB,
  LOOPBACK,
  MIB,
  onLinux,
  type Peer,
  Queue,
  Served,
  standstill,
  TERMINATOR,
  test,
} from "../_served.ts";

/** A callback at work, which the test lets go. */
interface Work {
  readonly message: string;
  readonly client: Address;
  readonly context: MessageContext;
  finish(reply: Reply): void;
}

/** A server whose callback works until it is told to finish; only "ping" is answered at once. */
class Working extends Served {
  readonly work: Queue<Work>;

  constructor(options: ConstructorParameters<typeof Served>[1] = {}) {
    const work = new Queue<Work>();
    super((message, client, context) => {
      if (message === "ping") return "pong";
      const { promise, resolve } = Promise.withResolvers<Reply>();
      work.put({ message, client, context, finish: resolve });
      return promise;
    }, options);
    this.work = work;
  }

  /** A raw peer for which the callback works. */
  async busy(text = `work${TERMINATOR}`): Promise<[Peer, Work]> {
    const peer = await this.known();
    await peer.write(text);
    return [peer, await this.work.next()];
  }

  /** The same with one that can break off. */
  async breakable(text = `work${TERMINATOR}`): Promise<[Bound, Work]> {
    const peer = await connectFrom(0, this.wire);
    await this.connected.next();
    peer.write(text);
    return [peer, await this.work.next()];
  }
}

/** Settles when the signal has aborted. */
async function aborted({ signal }: MessageContext): Promise<unknown> {
  if (!signal.aborted) {
    await new Promise((done) =>
      signal.addEventListener("abort", done, { once: true })
    );
  }
  return signal.reason;
}

async function assertServes(served: Served): Promise<void> {
  await using client = await served.client();
  assertEquals(await ask(client, "ping"), "pong");
  assertEquals(await served.connected.next(), client.localAddress);
  await client.disconnect();
  assertEquals(await served.disconnected.next(), [
    client.localAddress,
    undefined,
  ]);
}

// A connection that breaks

for (
  const [what, text] of [
    ["nothing waits", `work${TERMINATOR}`],
    ["nothing waits behind much", "x".repeat(200 * KIB) + TERMINATOR],
    ["messages wait", `work${TERMINATOR}${`next${TERMINATOR}`.repeat(100)}`],
    ["the next message has begun", `work${TERMINATOR}${"x".repeat(KIB)}`],
  ] as const
) {
  test(`TCPServer forgets a client that breaks off while its callback works and ${what}`, async () => {
    await using served = new Working({ maxClients: 1 });
    const { server } = served;
    const [peer, { client, context, finish }] = await served.breakable(text);
    assertEquals(context.signal.aborted, false);
    await peer.reset();
    const [gone, error] = await served.disconnected.next();
    assertStrictEquals(gone, client);
    assertInstanceOf(error, Deno.errors.ConnectionReset);
    assertInstanceOf(await aborted(context), Error);
    assertEquals(server.getConnectedClients(), []);
    assertEquals(await server.sendToAll("push"), 0);
    for (const address of [client, [...client] as const]) {
      await assertRejects(() => server.send("push", address), ClosedError);
    }
    // Its place is free, and what it still asked for is not done.
    await assertServes(served);
    finish("too late");
    await assertServes(served);
    assertEquals(served.work.rest(), []);
    assertEquals(served.disconnected.rest(), []);
  });
}

test("TCPServer has forgotten a client that broke off when onDisconnect tells so", async () => {
  const seen = Promise.withResolvers<[Address[], unknown]>();
  await using served = new Working({
    onDisconnect: async (client) => {
      const clients = served.server.getConnectedClients();
      const sent = served.server.send("push", client).catch((error) => error);
      seen.resolve([clients, await sent]);
    },
  });
  const [peer] = await served.breakable();
  await peer.reset();
  const [clients, outcome] = await seen.promise;
  assertEquals(clients, []);
  assertInstanceOf(outcome, ClosedError);
});

// A known limit, so that docs/patterns.md stays true.
test(
  "MessageContext.signal does not abort while 16 KiB wait behind the callback of a client that broke off, until a reply fails",
  async () => {
    await using served = new Working();
    const [peer, first] = await served.breakable(
      `work${TERMINATOR}${`next${TERMINATOR}`.repeat(4 * KIB)}`,
    );
    await peer.reset();
    // Others are heard meanwhile, so a reset that can be seen has been.
    await assertServes(served);
    first.finish(null);
    const second = await served.work.next();
    assertEquals([second.message, second.context.signal.aborted], [
      "next",
      false,
    ]);
    assertEquals(served.disconnected.rest(), []);
    second.finish("done");
    const [, error] = await served.disconnected.next();
    assertInstanceOf(error, Deno.errors.ConnectionReset);
    assertInstanceOf(await aborted(second.context), Error);
  },
  { ignore: !onLinux },
);

test("TCPServer keeps no place for clients that broke off while their callbacks never settle", async () => {
  const maxClients = 3;
  await using served = new Working({ maxClients });
  for (let n = 0; n < 4; n++) {
    const peers: Bound[] = [];
    for (let m = 0; m < maxClients; m++) {
      peers.push((await served.breakable())[0]);
    }
    for (const peer of peers) await peer.reset();
    for (const _ of peers) await served.disconnected.next();
  }
  assertEquals(served.server.stats.connectionsRefused, 0);
  assertEquals(served.server.getConnectedClients(), []);
});

test("TCPServer forgets a client that it drops for its unread pushes while its callback works", async () => {
  await using served = new Working({ maxSendBufferBytes: 64 * KIB });
  const { server } = served;
  const [peer, { client, context }] = await served.busy();
  using _peer = peer;
  const push = "x".repeat(32 * KIB);
  while (served.disconnected.all.length === 0) {
    server.send(push, client).catch(() => {});
    await delay(0);
  }
  const [gone, error] = await served.disconnected.next();
  assertStrictEquals(gone, client);
  assertInstanceOf(error, CommunicationError);
  assertInstanceOf(await aborted(context), Error);
  assert(await peer.ended());
});

// A client that ends its side

test("TCPServer gives a client that ends its side the replies that are due, and nothing else", async () => {
  await using served = new Working({ maxClients: 1 });
  const { server } = served;
  const messages = ["a", "b", "c"];
  using peer = await served.known();
  await peer.write(messages.map((text) => text + TERMINATOR).join(""));
  const first = await served.work.next();
  await peer.conn.closeWrite();
  assertInstanceOf(await aborted(first.context), Error);
  assertEquals(server.getConnectedClients(), []);
  assertEquals(await server.sendToAll("push"), 0);
  for (const address of [first.client, [...first.client] as const]) {
    await assertRejects(() => server.send("push", address), ClosedError);
  }
  // It has no place any more, and is not gone either.
  const other = await served.client();
  assertEquals(await ask(other, "ping"), "pong");
  assertEquals(served.disconnected.rest(), []);
  first.finish("a done");
  assertEquals(await peer.read(), "a done");
  for (const text of messages.slice(1)) {
    const { message, context, finish } = await served.work.next();
    assertEquals(message, text);
    assert(context.signal.aborted);
    assertStrictEquals(context.signal, first.context.signal);
    assertEquals(await ask(other, "ping"), "pong");
    assertEquals(served.disconnected.rest(), []);
    finish(`${text} done`);
    assertEquals(await peer.read(), `${text} done`);
  }
  assertEquals(await peer.read(), null);
  assertEquals(await served.disconnected.next(), [first.client, undefined]);
  await other.disconnect();
});

test("TCPServerOptions.onDisconnect comes after the reply to a client that has ended its side, with what it left incomplete", async () => {
  await using served = new Working();
  const [peer, work] = await served.busy(`work${TERMINATOR}MOVE`);
  using _peer = peer;
  await peer.conn.closeWrite();
  await aborted(work.context);
  await assertServesBeside(served);
  work.finish("done");
  assertEquals(await peer.messages(), ["done"]);
  const [gone, error] = await served.disconnected.next();
  assertStrictEquals(gone, work.client);
  assertInstanceOf(error, ClosedError);
  assertEquals(new TextDecoder().decode(error.incomplete), "MOVE");
});

/** Whether another client is served, and nobody was told to be gone meanwhile. */
async function assertServesBeside(served: Served): Promise<void> {
  assertEquals(served.disconnected.rest(), []);
  await assertServes(served);
}

test("TCPServer sends a push that was under way when its client ended its side", async () => {
  const large = "x".repeat(12 * MIB);
  await using served = new Working({ maxMessageBytes: large.length });
  const { server } = served;
  const [peer, { client, context, finish }] = await served.busy();
  using _peer = peer;
  const pushed = server.send(large, client).catch((error) => error);
  await peer.conn.closeWrite();
  await aborted(context);
  finish("done");
  const messages = await peer.messages();
  assertEquals(messages.map((text) => text.length), [large.length, 4]);
  assertEquals(await pushed, undefined);
  assertEquals(await served.disconnected.next(), [client, undefined]);
});

test("TCPServer keeps no place for clients that closed while their callbacks never settle", async () => {
  await using served = new Working({ maxClients: 1 });
  for (let n = 0; n < 4; n++) {
    const [peer, { context }] = await served.busy();
    peer.conn.close();
    await aborted(context);
  }
  assertEquals(served.server.getConnectedClients(), []);
  await using client = await served.client();
  assertEquals(await ask(client, "ping"), "pong");
  assertEquals(served.server.stats.connectionsRefused, 0);
});

test("TCPServer tells once that a client is gone which ended its side and broke off then", async () => {
  using own = freePort();
  await using served = new Working();
  const bound = await connectFrom(own.wire, served.wire);
  const client = await served.connected.next();
  bound.write("work\x03");
  const { context, finish } = await served.work.next();
  bound.end();
  await aborted(context);
  await bound.reset();
  finish("too late");
  const [gone] = await served.disconnected.next();
  assertStrictEquals(gone, client);
  await assertServes(served);
  assertEquals(served.disconnected.rest(), []);
});

// MessageContext

test("MessageContext.signal is one for all messages of a client, and its own", async () => {
  const contexts = new Queue<[string, MessageContext]>();
  await using served = new Served((message, _, context) => {
    contexts.put([message, context]);
    return message;
  });
  await using a = await served.client();
  await using b = await served.client();
  const signals: Record<string, AbortSignal[]> = { a: [], b: [] };
  for (let n = 0; n < 3; n++) {
    for (const [name, client] of Object.entries({ a, b })) {
      assertEquals(await ask(client, name), name);
      const [message, { signal }] = await contexts.next();
      assertEquals([message, signal.aborted], [name, false]);
      signals[name]?.push(signal);
    }
  }
  const [first, ...others] = signals.a ?? [];
  for (const signal of others) assertStrictEquals(signal, first);
  for (const signal of signals.b ?? []) {
    assertNotStrictEquals(signal, first);
    assertStrictEquals(signal, signals.b?.[0]);
  }
  // A client that leaves between two messages ends what its messages began.
  await a.disconnect();
  await served.disconnected.next();
  assertEquals(first?.aborted, true);
  assertEquals(signals.b?.[0]?.aborted, false);
});

test("MessageContext.signal that is asked for when the client is gone has aborted", async () => {
  await using served = new Working();
  const [peer, { context }] = await served.breakable();
  await peer.reset();
  await served.disconnected.next();
  assertEquals(context.signal.aborted, true);
  assertInstanceOf(context.signal.reason, ClosedError);
  assertStringIncludes(
    context.signal.reason.message,
    "Cannot serve 127.0.0.1:",
  );
  assertStrictEquals(context.signal, context.signal);
});

test("MessageContext.signal is made when it is asked for", async () => {
  const Original = AbortController;
  let made = 0;
  class Counted extends Original {
    constructor() {
      super();
      made++;
    }
  }
  using stack = new DisposableStack();
  stack.defer(() => void Reflect.set(globalThis, "AbortController", Original));
  Reflect.set(globalThis, "AbortController", Counted);
  await using served = new Served((message, _, context) =>
    message === "ask" ? `${context.signal.aborted}` : message
  );
  const peers: Peer[] = [];
  for (let n = 0; n < 10; n++) {
    const peer = stack.use(await served.peer());
    peers.push(peer);
    await peer.write("ping\x03");
    assertEquals(await peer.read(), "ping");
  }
  assertEquals(made, 0);
  for (let n = 0; n < 2; n++) {
    for (const peer of peers) {
      await peer.write("ask\x03");
      assertEquals(await peer.read(), "false");
    }
  }
  assertEquals(made, peers.length);
});

test("MessageContext.signal whose listener throws or calls back in disturbs nobody", async () => {
  await using served = new Working();
  const [peer, { client, context }] = await served.breakable();
  const outcome = Promise.withResolvers<unknown>();
  context.signal.addEventListener("abort", () => {
    served.server.sendToAll("push");
    served.server.send("push", client).catch(outcome.resolve);
  });
  await peer.reset();
  assertInstanceOf(await outcome.promise, ClosedError);
  await served.disconnected.next();
  await assertServes(served);
});

// Reading ahead

const PING_BYTES = "ping\x03".length;

for (
  const [what, body] of [
    ["messages", `${"x".repeat(KIB - 1)}${TERMINATOR}`.repeat(64)],
    ["short messages", `x${TERMINATOR}`.repeat(32 * KIB)],
    ["one message", "x".repeat(64 * KIB)],
  ] as const
) {
  test(`TCPServer reads a client whose callback works a little further only: ${what}`, async () => {
    await using served = new Working({ maxMessageBytes: 64 * MIB });
    const { server } = served;
    await using other = await served.client();
    await served.connected.next();
    const [peer] = await served.busy();
    const writing = (async () => {
      for (let n = 0; n < 160; n++) await peer.write(body);
    })().catch(() => {});
    // The other client is the clock: the server is at work, and takes no more.
    let pings = 0;
    await standstill(
      () => server.stats.bytesIn - pings * PING_BYTES,
      async () => {
        assertEquals(await ask(other, "ping"), "pong");
        pings++;
      },
    );
    assertLess(server.stats.bytesIn, 128 * KIB);
    assertEquals(served.work.rest(), []);
    peer.conn.close();
    await writing;
  });
}

test("TCPServer reads what came while a callback worked, whole and in order", async () => {
  const messages = Array.from({ length: 1_000 }, (_, n) => `${n}`.padEnd(99));
  await using served = new Working();
  const [peer, { finish }] = await served.busy();
  using _peer = peer;
  for (const message of messages) {
    // In two parts, so that reading ahead ends anywhere.
    await peer.write(message.slice(0, 50));
    await peer.write(message.slice(50) + TERMINATOR);
  }
  finish("done");
  assertEquals(await peer.read(), "done");
  for (const text of messages) {
    const { message, finish } = await served.work.next();
    assertEquals(message, text);
    finish(message);
  }
  for (const text of messages) assertEquals(await peer.read(), text);
});

// stop()

/** Half of what an end waits for a client that never closes, in milliseconds. */
const HALF = 500;

/** Whether a stop ends before that of a server with a client that never closes, which has so long a start. */
async function assertStopsBefore(
  served: Served,
  { start = 0, more = 0 },
): Promise<void> {
  await using silent = new Served();
  using _peer = await silent.known();
  const order: string[] = [];
  const longer = silent.server.stop().then(() => delay(more));
  await delay(start);
  const stopped = served.server.stop();
  await Promise.all([
    longer.then(() => order.push("longer")),
    stopped.then(() => order.push("stopped")),
  ]);
  assertEquals(order, ["stopped", "longer"]);
}

test("TCPServer.stop() waits no second time for a client whose callback never settles", async () => {
  await using served = new Working();
  const [peer] = await served.busy();
  using _peer = peer;
  await assertStopsBefore(served, { more: HALF });
});

test("TCPServer.stop() waits for no callback whose client broke off", async () => {
  const clients = 3;
  await using served = new Working();
  for (let n = 0; n < clients; n++) {
    const [peer] = await served.breakable();
    await peer.reset();
  }
  await using other = await served.client();
  for (let n = 0; n < 10; n++) assertEquals(await ask(other, "ping"), "pong");
  await other.disconnect();
  await assertStopsBefore(served, { start: HALF });
  assertEquals(served.disconnected.all.length, clients + 1);
});

test("TCPServer.stop() ends although clients closed whose callbacks never settle", async () => {
  await using served = new Working();
  const contexts: MessageContext[] = [];
  for (let n = 0; n < 3; n++) {
    const [peer, { context }] = await served.busy();
    peer.conn.close();
    contexts.push(context);
  }
  for (const context of contexts) await aborted(context);
  await assertStopsBefore(served, { more: HALF });
  assertEquals(served.disconnected.all.length, contexts.length);
});

test("TCPServer.stop() sends the reply that is due to a client that has ended its side", async () => {
  await using served = new Working();
  const [peer, { client, context, finish }] = await served.busy();
  using _peer = peer;
  await peer.conn.closeWrite();
  await aborted(context);
  const stopped = served.server.stop();
  await delay(0);
  finish("done");
  assertEquals(await peer.messages(), ["done"]);
  await stopped;
  assertEquals(await served.disconnected.next(), [client, undefined]);
});

// Who is who

/** Two connections from one port of one address, to two addresses of the server. */
async function twins(served: Served, wire: number) {
  const one = await connectFrom(wire, served.wire, "127.0.0.1");
  const first = await served.connected.next();
  const two = await connectFrom(wire, served.wire, "127.0.0.2");
  const second = await served.connected.next();
  return { one, first, two, second };
}

const EVERY = { hostname: "0.0.0.0" };

test("TCPServer serves two connections from one port to two of its addresses", async () => {
  using own = freePort();
  const callers: Address[] = [];
  await using served = new Served((message, client) => {
    callers.push(client);
    return message;
  }, EVERY);
  const { server } = served;
  const { one, first, two, second } = await twins(served, own.wire);
  await using _one = one;
  await using _two = two;
  assertEquals(first, [`127.0.0.1`, own.port]);
  assertEquals(first, second);
  assertNotStrictEquals(first, second);
  const clients = server.getConnectedClients();
  assertEquals(clients.length, 2);
  assertStrictEquals(clients[0], first);
  assertStrictEquals(clients[1], second);
  for (const [bound, address] of [[one, first], [two, second]] as const) {
    bound.write("Hello\x03");
    assertEquals(await bound.read(), "Hello");
    assertStrictEquals(callers.at(-1), address);
  }
  assertEquals(await server.sendToAll("all"), 2);
  assertEquals([await one.read(), await two.read()], ["all", "all"]);
  assertEquals(served.disconnected.rest(), []);
});

test("TCPServer.send() takes the Address object for the connection that it was made for", async () => {
  using own = freePort();
  await using served = new Served(undefined, EVERY);
  const { server } = served;
  const { one, first, two, second } = await twins(served, own.wire);
  await using _one = one;
  await using _two = two;
  await server.send("for one", first);
  await server.send("for two", second);
  await server.send("for the newest", [...first]);
  await server.sendToAll("end");
  assertEquals([await one.read(), await one.read()], ["for one", "end"]);
  for (const text of ["for two", "for the newest", "end"]) {
    assertEquals(await two.read(), text);
  }
});

for (const leaving of ["the first", "the second"] as const) {
  test(`TCPServer forgets ${leaving} of two connections from one port, and that one alone`, async () => {
    using own = freePort();
    await using served = new Served((message) => message, EVERY);
    const { server } = served;
    const { one, first, two, second } = await twins(served, own.wire);
    await using _one = one;
    await using _two = two;
    const [left, gone, rest, kept] = leaving === "the first"
      ? [one, first, two, second]
      : [two, second, one, first];
    await left.reset();
    const [told] = await served.disconnected.next();
    assertStrictEquals(told, gone);
    assertEquals(server.getConnectedClients().length, 1);
    assertStrictEquals(server.getConnectedClients()[0], kept);
    await assertRejects(() => server.send("nobody's", gone), ClosedError);
    await server.send("by the object", kept);
    await server.send("by the pair", [...gone]);
    for (const text of ["by the object", "by the pair"]) {
      assertEquals(await rest.read(), text);
    }
    rest.write("Hello\x03");
    assertEquals(await rest.read(), "Hello");
  });
}

test("TCPServer.send() with the Address object of a client that is gone reaches no newer one", async () => {
  using own = freePort();
  await using served = new Served((message) => message);
  const { server } = served;
  const left = await connectFrom(own.wire, served.wire);
  const old = await served.connected.next();
  await left.reset();
  await served.disconnected.next();
  await assertRejects(() => server.send("too late", old), ClosedError);
  await using bound = await connectFrom(own.wire, served.wire);
  const young = await served.connected.next();
  assertEquals(young, old);
  assertNotStrictEquals(young, old);
  await assertRejects(() => server.send("too late", old), ClosedError);
  await server.send("by the object", young);
  await server.send("by the pair", [...old]);
  for (const text of ["by the object", "by the pair"]) {
    assertEquals(await bound.read(), text);
  }
});

test("TCPServer replaces a connection by one with both ends equal, and gives it nothing of the old one", async () => {
  using own = freePort();
  await using served = new Working();
  const { server } = served;
  const old = await connectFrom(own.wire, served.wire);
  const gone = await served.connected.next();
  old.write("work\x03next\x03");
  const { context, finish } = await served.work.next();
  // Nobody reads behind an end, so the reset is unseen until the port comes again.
  old.end();
  await aborted(context);
  await old.reset();
  await using young = await connectFrom(own.wire, served.wire);
  const client = await served.connected.next();
  assertStrictEquals((await served.disconnected.next())[0], gone);
  finish("reply to the old one");
  young.write("ping\x03");
  assertEquals(await young.read(), "pong");
  await server.send("pushed", client);
  assertEquals(await young.read(), "pushed");
  await assertRejects(() => server.send("too late", gone), ClosedError);
  assertEquals(served.work.rest(), []);
  assertEquals(served.disconnected.rest(), []);
});

// What happened to clients in the middle of something

test("TCPServer tells onDisconnect of a message over the limit behind a callback that works", async () => {
  await using served = new Served(async (message) => {
    await delay(5);
    return message;
  }, { maxMessageBytes: 16 });
  using peer = await served.known();
  await peer.write(`good${TERMINATOR}${"x".repeat(17)}${TERMINATOR}`);
  assertEquals(await peer.read(), "good");
  const [, error] = await served.disconnected.next();
  assertInstanceOf(error, MessageTooLargeError);
});

test("TCPServer hears a client that takes all that is pushed to it, though more is always on its way", async () => {
  const stopped = Promise.withResolvers<void>();
  let pushing = true;
  await using served = new Served((message) => {
    if (message !== "STOP") return;
    pushing = false;
    stopped.resolve();
  });
  const { server } = served;
  await using client = await served.client();
  const address = await served.connected.next();
  const push = async () => {
    while (pushing) await server.send("x".repeat(100_000), address);
  };
  const pushes = Promise.all([push(), push(), push()]);
  const drained = (async () => {
    for await (const _ of client);
  })();
  await client.send("STOP");
  await stopped.promise;
  await pushes;
  await client.disconnect();
  await drained;
});

test("TCPServer gives up a client that ended its side and takes none of its replies", async () => {
  await using served = new Served(() => "x".repeat(MIB));
  const { server } = served;
  using peer = await served.known();
  // More than the kernel holds for both ends.
  await peer.write(`get${TERMINATOR}`.repeat(64));
  await peer.conn.closeWrite();
  const [, error] = await served.disconnected.next();
  assertInstanceOf(error, Deno.errors.TimedOut);
  assertEquals(server.getConnectedClients(), []);
});

/** Makes long timers so many times as fast, and leaves short ones as they are. */
function hurry(times: number): Disposable {
  const original = globalThis.setTimeout;
  const replacement = (then: () => void, ms = 0) =>
    original(then, ms < 100 ? ms : ms / times);
  globalThis.setTimeout = replacement as typeof setTimeout;
  return { [Symbol.dispose]: () => globalThis.setTimeout = original };
}

test("TCPServer sends a client that ended its side all that is pending, for as long as it takes some", async () => {
  await using served = new Served(undefined, { maxSendBufferBytes: 128 * MIB });
  const { server } = served;
  using peer = await served.known();
  const [client] = server.getConnectedClients();
  assert(client);
  using _ = hurry(20);
  const pushes = Array.from({ length: 64 }, (_, n) => `${n} `.padEnd(MIB, "x"));
  const sent = pushes.map((message) => server.send(message, client));
  await peer.conn.closeWrite();
  // Ten seconds are half a second here. The kernel tells of room in large parts only.
  const end = performance.now() + 800;
  const buffer = new Uint8Array(256 * KIB);
  let left = pushes.length * (MIB + 1);
  while (performance.now() < end) {
    left -= await peer.conn.read(buffer) ?? 0;
    await delay(5);
  }
  while (left > 0) {
    const count = await peer.conn.read(buffer);
    assert(count !== null, `${left} bytes have not come`);
    left -= count;
  }
  await Promise.all(sent);
  assertEquals((await served.disconnected.next())[1], undefined);
});

test("TCPServer hands nothing on of a half-closed client once a reply to it has failed", async () => {
  const work = new Queue<() => void>();
  let calls = 0;
  await using served = new Served(() => {
    calls++;
    const { promise, resolve } = Promise.withResolvers<string>();
    work.put(() => resolve("reply"));
    return promise;
  });
  const peer = await connectFrom(0, served.wire);
  await served.connected.next();
  peer.write(`order${TERMINATOR}`.repeat(20));
  peer.end();
  const finish = await work.next();
  await peer.reset();
  finish();
  // The reply that shows the reset, and perhaps one more that is on its way.
  for (let gone = false; !gone;) {
    gone = await Promise.race([
      served.disconnected.next().then(() => true),
      work.next().then((finish) => {
        finish();
        return false;
      }),
    ]);
  }
  assertLess(calls, 20);
});

test("TCPServer counts a client once that is dropped, whatever onDisconnect pushes then", async () => {
  const count = 8;
  await using served: Served = new Served(undefined, {
    maxSendBufferBytes: 65_536,
    onDisconnect: () => {
      served.server.sendToAll("somebody has left").catch(() => {});
    },
  });
  const { server } = served;
  const peers: Peer[] = [];
  for (let n = 0; n < count; n++) peers.push(await served.known());
  // Until the kernel takes no more and all of them are full.
  while (server.stats.slowClientsDropped < count) {
    await server.sendToAll("x".repeat(60_000));
  }
  assertEquals(server.stats.slowClientsDropped, count);
  for (const peer of peers) peer[Symbol.dispose]();
});

const hasPython = isInstalled("python3");

test(
  "TCPServer accepts on at once behind connections that broke off before they were accepted",
  async () => {
    await using served = new Served((message) => message);
    const script = `
import socket, struct
for _ in range(100):
    peer = socket.create_connection(("${LOOPBACK}", ${served.wire}))
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
print("done")`;
    await using vandal = new Process("python3", ["-c", script]);
    assertEquals(await vandal.read(), "done");
    await using client = await served.client();
    assertEquals(await deadline(ask(client, "honest"), PATIENCE), "honest");
    await client.disconnect();
  },
  { ignore: !hasPython },
);
