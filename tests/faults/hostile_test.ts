// Why: a robot's peer may be broken or malicious, and must cost a bounded amount
// of memory and nobody else's time. So the victim is a process of its own, whose
// memory can be seen, and answers others meanwhile.

import { assert, assertEquals, assertLess } from "@std/assert";
import { delay } from "@std/async";
import {
  createTcpClient,
  type ServerStats,
  type TCPClient,
  type TCPServerOptions,
} from "../../mod.ts";
import { freePort } from "../_ports.ts";
import { Process } from "../_process.ts";
import {
  ask,
  figure,
  HERE,
  KIB,
  LOOPBACK,
  MIB,
  Peer,
  Served,
  standstill,
  TERMINATOR,
  test,
  until,
} from "../_served.ts";

/**
 * How much more memory a victim may have at its worst than before, in MiB, besides
 * what it is told to hold: what V8 has not collected yet makes up for tens of it.
 */
const MARGIN = 128;

/** How a victim tells the most memory that it ever had, in MiB. */
const PEAK = `
  const peak = () => {
    if (Deno.build.os !== "linux") return Deno.memoryUsage().rss / 2 ** 20;
    const status = Deno.readTextFileSync("/proc/self/status");
    return Number(/VmHWM:\\s*(\\d+)/.exec(status)[1]) / 1024;
  };
`;

interface Report {
  peak: number;
  stats: ServerStats;
  clients: number;
  ended: string[];
}

/** A server in a process of its own, and a client that nothing is wrong with. */
class Victim implements AsyncDisposable {
  readonly #stack: AsyncDisposableStack;
  readonly port: number;
  readonly wire: number;
  readonly witness: TCPClient;
  readonly #before: number;

  private constructor(
    stack: AsyncDisposableStack,
    { port, wire }: { port: number; wire: number },
    witness: TCPClient,
    before: number,
  ) {
    this.#stack = stack;
    this.port = port;
    this.wire = wire;
    this.witness = witness;
    this.#before = before;
  }

  static async start(options: TCPServerOptions = {}): Promise<Victim> {
    await using stack = new AsyncDisposableStack();
    const free = stack.use(freePort());
    const server = stack.use(
      new Process(Deno.execPath(), [
        "eval",
        `import { createTcpServer } from "./mod.ts";
        ${PEAK}
        const ended = [];
        const server = createTcpServer(${free.port}, async (message) => {
          if (message === "?") {
            return JSON.stringify({
              peak: peak(),
              stats: server.stats,
              clients: server.getConnectedClients().length,
              ended: ended.splice(0),
            });
          }
          const [command, count, size] = message.split(" ");
          if (command !== "all") return message;
          for (let n = 0; n < Number(count); n++) {
            await server.sendToAll((n + " ").padEnd(Number(size)));
          }
          return "done";
        }, {
          ...${JSON.stringify({ ...HERE, ...options })},
          onDisconnect: (_, error) => ended.push(error?.name ?? "in order"),
        });
        console.log("ready");`,
      ]),
    );
    assertEquals(await server.read(), "ready");
    const witness = stack.use(await createTcpClient(LOOPBACK, free.port));
    // Its code is compiled and its buffers are there from here on.
    for (let n = 0; n < 100; n++) await ask(witness, "warm up");
    const { peak } = await report(witness);
    return new Victim(stack.move(), free, witness, peak);
  }

  async peer(): Promise<Peer> {
    const peer = new Peer(await Deno.connect({ ...HERE, port: this.wire }));
    this.#stack.use(peer);
    return peer;
  }

  report(): Promise<Report> {
    return report(this.witness);
  }

  /** Waits until the victim says what is expected of it. */
  async until(condition: (report: Report) => boolean): Promise<Report> {
    while (true) {
      const seen = await this.report();
      if (condition(seen)) return seen;
    }
  }

  /** It serves on, and never had more than so many MiB above what it had before. */
  async assertFine(what: string, bound: number): Promise<void> {
    assertEquals(await ask(this.witness, "still there?"), "still there?");
    const { peak } = await this.report();
    const more = Math.round(peak - this.#before);
    figure(`${what}: ${more} MiB more (bound: ${bound})`);
    assertLess(more, bound, what);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#stack.disposeAsync();
  }
}

async function report(witness: TCPClient): Promise<Report> {
  return JSON.parse(await ask(witness, "?") ?? "null") as Report;
}

/** Writes until the other end takes no more of it; how many bytes it took. */
async function feed(
  conn: Deno.TcpConn,
  piece: Uint8Array,
  total: number,
): Promise<number> {
  let fed = 0;
  try {
    while (fed < total) fed += await conn.write(piece);
  } catch {
    // It is closed, which is what was wanted.
  }
  return fed;
}

// Promise 3: peers that connect and send nothing.
test("TCPServer serves others while 500 clients send nothing", async () => {
  await using victim = await Victim.start();
  for (let n = 0; n < 500; n++) await victim.peer();
  await victim.until(({ clients }) => clients === 501);
  await victim.assertFine("500 silent clients", MARGIN);
});

// Promise 3: … and they are given up where the server says so.
test("TCPServerOptions.idleTimeout ends 100 clients that send nothing", async () => {
  await using victim = await Victim.start({ idleTimeout: 500 });
  const peers: Peer[] = [];
  for (let n = 0; n < 100; n++) peers.push(await victim.peer());
  const seen: string[] = [];
  await victim.until(({ ended, clients }) => {
    seen.push(...ended);
    return clients === 1 && seen.length === 100;
  });
  assertEquals(new Set(seen), new Set(["TimedOut"]));
  await Promise.all(peers.map((peer) => peer.ended()));
  await victim.assertFine("100 idle clients", MARGIN);
});

// Promise 3: one byte a second (here in so many milliseconds, and of many peers).
test("TCPServer puts together what 50 clients send byte by byte, with pauses", async () => {
  await using victim = await Victim.start();
  const peers: Peer[] = [];
  for (let n = 0; n < 50; n++) peers.push(await victim.peer());
  for (const byte of "MOVE 1 2 3\x03") {
    await Promise.all(peers.map((peer) => peer.write(byte)));
    // The pause is what this is about.
    await new Promise((resolve) => setTimeout(resolve, 50));
    assertEquals(await ask(victim.witness, "tick"), "tick");
  }
  for (const peer of peers) assertEquals(await peer.read(), "MOVE 1 2 3");
  await victim.assertFine("50 slow writers", MARGIN);
});

// Promise 3: 1 GiB without a terminator.
test("TCPServer refuses 1 GiB without a terminator at 1 MiB", async () => {
  await using victim = await Victim.start();
  const piece = new Uint8Array(256 * KIB).fill(97);
  let most = 0;
  for (let n = 0; n < 3; n++) {
    const peer = await victim.peer();
    most = Math.max(most, await feed(peer.conn, piece, KIB * MIB));
    await victim.until(({ ended }) => ended.includes("MessageTooLargeError"));
    assert(await peer.ended());
  }
  // Beyond the limit it is what the kernel had taken.
  assertLess(most, 128 * MIB);
  figure(`refused after ${Math.round(most / MIB)} MiB at the peer`);
  await victim.assertFine("1 GiB without a terminator", MARGIN);
});

// Promise 3: many such peers at once, each just below the limit.
test("TCPServer holds 32 messages of nearly 1 MiB that never end", async () => {
  await using victim = await Victim.start();
  const peers: Peer[] = [];
  for (let n = 0; n < 32; n++) peers.push(await victim.peer());
  const piece = new Uint8Array(MIB - 1).fill(97);
  await Promise.all(peers.map((peer) => peer.write(piece)));
  await victim.until(({ stats }) => stats.bytesIn > 32 * (MIB - 1));
  // A buffer that grows by doubling, and its text.
  await victim.assertFine("32 times 1 MiB", MARGIN + 3 * 32);
});

// Promise 3: 100,000 empty messages.
test("TCPServer answers 100,000 empty messages", async () => {
  await using victim = await Victim.start();
  const peer = await victim.peer();
  const count = 100_000;
  const writing = peer.write(TERMINATOR.repeat(count));
  for (let n = 0; n < count; n++) assertEquals(await peer.read(), "");
  await writing;
  await victim.assertFine("100,000 empty messages", MARGIN);
});

// Promise 3: a million one-byte writes.
test("TCPServer puts together a million one-byte writes", async () => {
  await using victim = await Victim.start();
  const peer = await victim.peer();
  peer.conn.setNoDelay(true);
  const count = 1_000_000;
  const size = 1_000;
  const message = "x".repeat(size - 1);
  const letter = Uint8Array.of(120);
  const end = Uint8Array.of(3);
  const writing = (async () => {
    for (let n = 1; n <= count; n++) {
      await peer.conn.write(n % size === 0 ? end : letter);
    }
  })();
  for (let n = 0; n < count / size; n++) {
    assert(await peer.read() === message);
  }
  await writing;
  await victim.assertFine("a million one-byte writes", MARGIN);
});

// Promise 3: a reader that stops for ever, and goes on asking.
test("TCPServer reads no further from a client that never reads its replies", async () => {
  await using victim = await Victim.start();
  const peer = await victim.peer();
  const piece = new TextEncoder().encode(
    `${"x".repeat(KIB - 1)}${TERMINATOR}`.repeat(256),
  );
  const total = 256 * MIB; // no kernel holds as much
  let fed = 0;
  const feeding = (async () => {
    while (fed < total) {
      for (let rest = piece; rest.length > 0;) {
        const count = await peer.conn.write(rest);
        fed += count;
        rest = rest.subarray(count);
      }
    }
  })().catch(() => {});
  // The witness is the clock: the server is at work, and takes no more.
  await standstill(
    () => fed,
    async () => assertEquals(await ask(victim.witness, "tick"), "tick"),
  );
  assertLess(fed, total);
  await victim.assertFine("a client that never reads its replies", MARGIN);
  peer.conn.close();
  await feeding;
});

// Promise 3: a reader that stops for ever, and is pushed to.
test("TCPServer.sendToAll() holds maxSendBufferBytes for a client that never reads, and not more", async () => {
  const limit = 8 * MIB;
  await using victim = await Victim.start({ maxSendBufferBytes: limit });
  const peer = await victim.peer();
  await victim.until(({ clients }) => clients === 2);
  const count = 512; // of 64 KiB: 32 MiB, more than that and the kernel's buffers
  await victim.witness.send(`all ${count} ${64 * KIB}`);
  for (let n = 0; n < count; n++) {
    const message = await victim.witness.receive();
    assertEquals(parseInt(message ?? ""), n);
  }
  assertEquals(await victim.witness.receive(), "done");
  const { stats, clients } = await victim.report();
  assertEquals([stats.slowClientsDropped, clients], [1, 1]);
  assert(await peer.ended());
  await victim.assertFine(
    "a client that never reads pushes",
    MARGIN + 2 * limit / MIB,
  );
});

// Promise 3: a slow reader among 500 during sendToAll.
test("TCPServer.sendToAll() lets 499 clients have everything while one of 500 reads nothing", async () => {
  const victim = await Victim.start({ maxSendBufferBytes: 32 * MIB });
  await using stack = new AsyncDisposableStack();
  stack.use(victim);
  const slow = await victim.peer();
  await victim.until(({ clients }) => clients === 2);
  // So much that nothing more goes into the kernel for it.
  const first = 128;
  await victim.witness.send(`all ${first} ${128 * KIB}`);
  for (let n = 0; n < first; n++) await victim.witness.receive();
  assertEquals(await victim.witness.receive(), "done");

  const peers: Peer[] = [];
  for (let n = 0; n < 498; n++) peers.push(await victim.peer());
  await victim.until(({ clients }) => clients === 500);
  const count = 100;
  await victim.witness.send(`all ${count} ${KIB}`);
  // All of them have it all, and the slow one has not read a byte.
  for (let n = 0; n < count; n++) {
    assertEquals(parseInt(await victim.witness.receive() ?? ""), n);
  }
  assertEquals(await victim.witness.receive(), "done");
  for (const peer of peers) {
    for (let n = 0; n < count; n++) {
      assertEquals(parseInt(await peer.read() ?? ""), n);
    }
  }
  const { stats, clients } = await victim.report();
  assertEquals([stats.slowClientsDropped, clients], [0, 500]);
  // It has lost nothing either, once it reads.
  for (const total of [first, count]) {
    for (let n = 0; n < total; n++) {
      assertEquals(parseInt(await slow.read() ?? ""), n);
    }
  }
  await victim.assertFine("a slow reader among 500", MARGIN + 2 * 32);
});

// The same against a client

/** A client in a process of its own, connected to a raw peer here. */
async function attack(
  use: string,
  body: (peer: Peer) => Promise<void>,
): Promise<{ output: unknown; more: number }> {
  using port = freePort();
  using listener = Deno.listen({ ...HERE, port: port.wire });
  await using child = new Process(Deno.execPath(), [
    "eval",
    `import { createTcpClient } from "./mod.ts";
    ${PEAK}
    const client = await createTcpClient("${LOOPBACK}", ${port.port});
    for (let n = 0; n < 100; n++) await client.receive();
    const before = peak();
    await client.send("ready");
    let output;
    ${use}
    console.log(JSON.stringify({ output, more: Math.round(peak() - before) }));`,
  ]);
  using peer = new Peer(await listener.accept());
  await peer.write("warm up\x03".repeat(100));
  assertEquals(await peer.read(), "ready");
  await body(peer);
  const { stdout, stderr, code } = await child.end();
  assertEquals([code, stderr], [0, ""]);
  return JSON.parse(stdout) as { output: unknown; more: number };
}

function assertBounded(what: string, more: number): void {
  figure(`${what}: ${more} MiB more (bound: ${MARGIN})`);
  assertLess(more, MARGIN, what);
}

// Promise 3: a pause anywhere in a message, at a client and at a server: what is held
// back for want of a terminator must never keep the rest from being read.
test("TCPClient and TCPServer get messages of any size that come in two pieces", async () => {
  await using served = new Served((message) => `${message.length}`);
  using asking = await served.peer();
  using port = freePort();
  using listener = Deno.listen({ ...HERE, port: port.wire });
  const connecting = createTcpClient(LOOPBACK, port.port);
  using peer = new Peer(await listener.accept());
  await using client = await connecting;
  const sizes: number[] = [];
  for (let size = 64; size <= 2 * 65_536; size *= 2) {
    sizes.push(size - 1, size, size + 1, size * 1.5);
  }
  let sent = 0;
  for (const [n, size] of sizes.entries()) {
    const text = (n % 2 ? "x" : "é").repeat(n % 2 ? size : size / 2);
    const bytes = new TextEncoder().encode(text);
    const receiving = client.receive();
    await asking.write(bytes);
    await peer.write(bytes);
    sent += bytes.length + 1;
    // The first piece has been read when all of it is counted.
    await until(() => client.stats.bytesIn === sent - 1);
    await until(() => served.server.stats.bytesIn === sent - 1);
    await asking.write(TERMINATOR);
    await peer.write(TERMINATOR);
    assert(await receiving === text);
    assertEquals(await asking.read(), `${text.length}`);
  }
});

// Promise 3: 1 GiB without a terminator, at a client.
test("TCPClient.receive() refuses 1 GiB without a terminator at 1 MiB", async () => {
  const piece = new Uint8Array(256 * KIB).fill(97);
  const { output, more } = await attack(
    `output = await client.receive().catch((error) => [
      error.name, error.limit, client.connected]);`,
    async (peer) => {
      assertLess(await feed(peer.conn, piece, KIB * MIB), 128 * MIB);
    },
  );
  assertEquals(output, ["MessageTooLargeError", MIB, false]);
  assertBounded("1 GiB at a client", more);
});

// Promise 3: 100,000 empty messages, at a client.
test("TCPClient.receive() receives 100,000 empty messages", async () => {
  const { output, more } = await attack(
    `output = 0;
    for await (const message of client) if (message === "") output++;`,
    async (peer) => {
      await peer.write(TERMINATOR.repeat(100_000));
      await peer.conn.closeWrite();
    },
  );
  assertEquals(output, 100_000);
  assertBounded("100,000 empty messages at a client", more);
});

// Promise 3: a peer that floods a client that does not receive.
test("TCPClient that does not receive holds a flood back", async () => {
  const piece = new TextEncoder().encode(
    `${"x".repeat(KIB - 1)}${TERMINATOR}`.repeat(256),
  );
  const { output, more } = await attack(
    `for await (const _ of Deno.stdin.readable); // until the flood is here
    output = client.stats.bytesIn - 100 * "warm up ".length;
    client[Symbol.dispose]();`,
    async (peer) => {
      let fed = 0;
      const feeding = (async () => {
        while (fed < 256 * MIB) fed += await peer.conn.write(piece);
      })().catch(() => {});
      // What the kernel takes at once, and no more after.
      await standstill(() => fed, () => delay(1), 300);
      assertLess(fed, 256 * MIB);
      peer.conn.close();
      await feeding;
    },
  );
  assert(typeof output === "number");
  assertLess(output, 128 * KIB);
  assertBounded("a flood at a client that does not receive", more);
});

// Promise 3: an answer to a client that sends and never reads is held back as well.
test("TCPClient.send() stops at a server that reads nothing", async () => {
  const { output, more } = await attack(
    `let sent = 0;
    const text = "x".repeat(64 * 1024);
    const sending = (async () => {
      while (true) {
        await client.send(text);
        sent++;
      }
    })().catch((error) => error.name);
    for (let seen = -1, still = 0; still < 300;) {
      await new Promise((resolve) => setTimeout(resolve, 1));
      still = seen === sent ? still + 1 : 0;
      seen = sent;
    }
    await client.disconnect();
    output = [await sending, sent < 4_096];`,
    async () => {},
  );
  assertEquals(output, ["ClosedError", true]);
  assertBounded("a server that reads nothing", more);
});
