// Why: a process that is killed says goodbye to nobody, and its last bytes end
// wherever the kernel had got to.

import {
  assert,
  assertEquals,
  assertGreater,
  assertInstanceOf,
  assertRejects,
} from "@std/assert";
import { deadline } from "@std/async";
import { ClosedError, createTcpClient, type TCPClient } from "../../mod.ts";
import { freePort } from "../_ports.ts";
import { PATIENCE, Process } from "../_process.ts";
import {
  ask,
  figure,
  HERE,
  LOOPBACK,
  Queue,
  Served,
  test,
  until,
} from "../_served.ts";

const decoder = new TextDecoder();

/** A message that tells whether it is whole: its number, its length, and filling. */
const numbered = `(n) => {
  const length = 1_000 + n * 7_919 % 200_000;
  return (n + ":" + length + ":").padEnd(length, "x");
}`;
const toNumbered = new Function(`return ${numbered}`)() as (
  n: number,
) => string;

function run(code: string): Process {
  return new Process(Deno.execPath(), ["eval", code]);
}

/** A client in a process of its own. */
function runClient(port: number, code: string): Process {
  return run(`
    import { createTcpClient } from "./mod.ts";
    const client = await createTcpClient("${LOOPBACK}", ${port});
    ${code}
  `);
}

// Promise 1: a client is killed in the middle of a message.
test("TCPServer gets whole messages only of a client that is killed, and its incomplete bytes", async () => {
  const received = new Queue<string>();
  await using served = new Served((message) => received.put(message));
  await using other = await served.client();
  await served.connected.next();
  const half = "x".repeat(300_000);
  {
    await using _child = run(`
      const conn = await Deno.connect(
        ${JSON.stringify({ ...HERE, port: served.wire })});
      const bytes = new TextEncoder().encode(
        "one\\x03two\\x03" + "x".repeat(300_000));
      for (let at = 0; at < bytes.length;) {
        at += await conn.write(bytes.subarray(at));
      }
      await new Promise((resolve) => setInterval(resolve, 1_000_000));
    `);
    const whole = [await received.next(), await received.next()];
    assertEquals(whole, ["one", "two"]);
    const { server } = served;
    await until(() => server.stats.bytesIn === 8 + half.length);
  }
  const [, error] = await served.disconnected.next();
  assertInstanceOf(error, ClosedError);
  assertEquals(decoder.decode(error.incomplete), half);
  await other.send("still there");
  assertEquals(await received.next(), "still there");
});

// Promise 1: the same with the module's own client, wherever the kernel had got to.
test("TCPServer gets whole messages in order of clients that are killed at any time", async () => {
  const received = new Queue<string>();
  await using served = new Served(
    (message) => message === "ping" ? "pong" : received.put(message),
  );
  await using other = await served.client();
  await served.connected.next();
  let total = 0;
  for (const before of [1, 20, 70]) {
    let count = 0;
    {
      await using _child = runClient(
        served.port,
        `const numbered = ${numbered};
        for (let n = 0;; n++) await client.send(numbered(n));`,
      );
      for (; count < before; count++) {
        assert(await received.next() === toNumbered(count), "whole, in order");
      }
    }
    const [, error] = await served.disconnected.next();
    for (const message of received.rest()) {
      assert(message === toNumbered(count++), "whole, in order");
    }
    if (error instanceof ClosedError) {
      const incomplete = decoder.decode(error.incomplete);
      assert(toNumbered(count).startsWith(incomplete));
    } else {
      assertEquals(error, undefined, "it ended between two messages");
    }
    assertEquals(await ask(other, "ping"), "pong");
    total += count;
  }
  figure(`${total} messages of 3 killed clients, each whole`);
});

// An end without an error is no proof that somebody meant it.
test("TCPServerOptions.onDisconnect gets no error of a client that is killed between two messages, whose signal aborts", async () => {
  const started = new Queue<string>();
  const stopped = new Queue<string>();
  await using served = new Served(async (message, _peer, { signal }) => {
    started.put(message);
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    stopped.put(message);
  });
  {
    await using _child = runClient(
      served.port,
      `await client.send("MOVE");
      for await (const _ of client);`,
    );
    assertEquals(await started.next(), "MOVE");
  }
  assertEquals(await stopped.next(), "MOVE");
  const [, error] = await served.disconnected.next();
  assertEquals(error, undefined);
});

/** Waits until a peer that does not read has made a client or server stand still. */
const standsStill = `async (client) => {
  for (let seen = -1, still = 0; still < 50;) {
    await new Promise((resolve) => setTimeout(resolve, 1));
    still = client.stats.bytesOut === seen ? still + 1 : 0;
    seen = client.stats.bytesOut;
  }
}`;

// Promise 1: the same where the server has left megabytes in the kernel.
test("TCPServer gets all that the kernel had of a client that is killed, and its incomplete bytes", async () => {
  const gate = Promise.withResolvers<void>();
  let count = 0;
  await using served = new Served(async (message) => {
    await gate.promise;
    assert(message === toNumbered(count++), "whole, in order");
  });
  {
    await using child = runClient(
      served.port,
      `const numbered = ${numbered};
      for (let n = 0; n < 400; n++) client.send(numbered(n)).catch(() => {});
      await (${standsStill})(client);
      console.log("full");
      await new Promise((resolve) => setInterval(resolve, 1_000_000));`,
    );
    assertEquals(await child.read(), "full");
  }
  gate.resolve();
  const [, error] = await served.disconnected.next();
  assertInstanceOf(error, ClosedError);
  assertGreater(count, 0);
  assertGreater(error.incomplete.length, 0);
  assert(toNumbered(count).startsWith(decoder.decode(error.incomplete)));
  figure(
    `${count} messages whole, ${error.incomplete.length} bytes incomplete`,
  );
});

/** Receives numbered messages until the server is gone. */
async function receiveAll(
  client: TCPClient,
): Promise<[count: number, end: ClosedError]> {
  for (let count = 0;; count++) {
    try {
      const message = await deadline(client.receive(), PATIENCE);
      assert(message === toNumbered(count), "whole, in order");
    } catch (error) {
      assertInstanceOf(error, ClosedError);
      return [count, error];
    }
  }
}

// Promise 1: a server is killed in the middle of a message.
test("TCPClient gets whole messages only of a server that is killed, then ClosedError with the incomplete bytes", async () => {
  using port = freePort();
  const server = run(`
    import { createTcpServer } from "./mod.ts";
    const numbered = ${numbered};
    const server = createTcpServer(${port.port}, undefined, {
      hostname: "${LOOPBACK}",
      async onConnect(client) {
        for (let n = 0;; n++) await server.send(numbered(n), client);
      },
      onError() {},
    });
    console.log("ready");
    while (server.getConnectedClients().length < 3) {
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    await (${standsStill})(server);
    console.log("full");
  `);
  await using stack = new AsyncDisposableStack();
  stack.use(server);
  assertEquals(await server.read(), "ready");
  const clients: TCPClient[] = [];
  for (let n = 0; n < 3; n++) {
    clients.push(stack.use(await createTcpClient(LOOPBACK, port.port)));
  }
  assertEquals(await server.read(), "full");
  await server[Symbol.asyncDispose]();
  const ends: string[] = [];
  for (const client of clients) {
    const [count, end] = await receiveAll(client);
    assertGreater(count, 0);
    assertGreater(end.incomplete.length, 0);
    assert(toNumbered(count).startsWith(decoder.decode(end.incomplete)));
    // It is the same every time from now on.
    assert(!client.connected);
    await assertRejects(() => client.receive(), ClosedError);
    await assertRejects(() => client.send("x"), ClosedError);
    ends.push(`${count} whole + ${end.incomplete.length} bytes`);
  }
  figure(`${ends.join("; ")}`);
});

// Promise 1: … and its exact bytes, also where the end is a reset.
for (const unread of [false, true]) {
  test(`TCPClient gets the incomplete bytes of a server that is killed, ${unread ? "with" : "without"} input unread`, async () => {
    using port = freePort();
    const server = run(`
      const listener = Deno.listen(
        ${JSON.stringify({ ...HERE, port: port.wire })});
      console.log("ready");
      const conn = await listener.accept();
      await conn.write(new TextEncoder().encode("one\\x03two\\x03MOV"));
      await conn.read(new Uint8Array(1));
      console.log("read");
      await new Promise((resolve) => setInterval(resolve, 1_000_000));
    `);
    await using stack = new AsyncDisposableStack();
    stack.use(server);
    assertEquals(await server.read(), "ready");
    const client = stack.use(await createTcpClient(LOOPBACK, port.port));
    assertEquals(await client.receive(), "one");
    // One byte is read, and it is the only one where nothing is to be unread.
    await client.send(unread ? "Hello" : "");
    assertEquals(await server.read(), "read");
    await server[Symbol.asyncDispose]();
    assertEquals(await client.receive(), "two");
    const error = await assertRejects(() => client.receive(), ClosedError);
    assertEquals(decoder.decode(error.incomplete), "MOV");
    if (unread) assertInstanceOf(error.cause, Deno.errors.ConnectionReset);
    else assertEquals(error.cause, undefined);
  });
}
