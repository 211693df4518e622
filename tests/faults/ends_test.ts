// Why: TCP ends in more ways than one, and what had arrived before must not
// depend on which.

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
} from "@std/assert";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { ClosedError, createTcpClient } from "../../mod.ts";
import { reset } from "../_line.ts";
import { freePort } from "../_ports.ts";
import {
  ask,
  HERE,
  LOOPBACK,
  MIB,
  Peer,
  Queue,
  Served,
  TERMINATOR,
  test,
  until,
} from "../_served.ts";

const LARGE = Array.from({ length: 12 }, (_, n) => `${n} `.padEnd(MIB));

/** Of Deno's own sockets none can be reset. */
async function connectResettable(served: Served): Promise<Socket> {
  const socket = connect(served.wire, LOOPBACK);
  await once(socket, "connect");
  return socket;
}

// Promise 2: RST in the middle of a message, which the server survives.
test("TCPServer gets whole messages only of a client that resets in the middle of one", async () => {
  const received = new Queue<string>();
  await using served = new Served((message) => {
    if (message === "ping") return "pong";
    received.put(message);
  });
  await using other = await served.client();
  await served.connected.next();
  for (let n = 0; n < 10; n++) {
    const socket = await connectResettable(served);
    socket.write(`one\x03two\x03${"x".repeat(n * 20_000)}`);
    assertEquals([await received.next(), await received.next()], [
      "one",
      "two",
    ]);
    await reset(socket);
    const [, error] = await served.disconnected.next();
    assertInstanceOf(error, Deno.errors.ConnectionReset);
    assertEquals(received.rest(), []);
    assertEquals(await ask(other, "ping"), "pong");
  }
  assertEquals(served.server.getConnectedClients(), [other.localAddress]);
});

// Promise 2: RST while the server is writing.
test("TCPServer survives a client that resets in the middle of a push", async () => {
  await using served = new Served((message) => message);
  const { server } = served;
  await using other = await served.client();
  await served.connected.next();
  const socket = await connectResettable(served);
  const client = await served.connected.next();
  const sending = LARGE.map((message) => server.send(message, client));
  const outcomes = Promise.allSettled(sending);
  // It has begun, and cannot have ended: so much no kernel holds.
  await once(socket, "readable");
  await reset(socket);
  const rejected = (await outcomes).filter(({ status }) =>
    status === "rejected"
  );
  assert(rejected.length > 0);
  for (const { reason } of rejected as PromiseRejectedResult[]) {
    assertInstanceOf(reason, ClosedError);
    assertInstanceOf(reason.cause, Error);
  }
  const [address, error] = await served.disconnected.next();
  assertEquals(address, client);
  assertInstanceOf(error, Error);
  assertEquals(await server.sendToAll("still there"), 1);
  assertEquals(await other.receive(), "still there");
});

// Promise 2: RST at the same time as everything else.
test("TCPServer survives clients that reset before, while and after they are accepted", async () => {
  await using served = new Served((message) => message);
  for (let n = 0; n < 30; n++) {
    const socket = connect(served.wire, LOOPBACK);
    if (n % 3 > 0) await once(socket, "connect");
    if (n % 3 > 1) socket.write("Hello\x03".repeat(n));
    socket.on("error", () => {});
    await reset(socket);
  }
  await using other = await served.client();
  assertEquals(await ask(other, "ping"), "ping");
  await until(() => served.server.getConnectedClients().length === 1);
  assertEquals(served.server.getConnectedClients(), [other.localAddress]);
});

// Promise 2: the peer closes with input unread, which makes Linux send RST.
test("TCPServer survives a client that closes with input unread", async () => {
  const received = new Queue<string>();
  await using served = new Served((message) => {
    received.put(message);
    return "reply";
  });
  for (let n = 0; n < 10; n++) {
    using peer = await served.peer();
    await peer.write("one\x03two\x03");
    assertEquals([await received.next(), await received.next()], [
      "one",
      "two",
    ]);
    // At least one reply is in its kernel, and is never read.
    await peer.conn.read(new Uint8Array(1));
    peer.conn.close();
    const [address] = await served.disconnected.next();
    assertEquals(address, peer.address);
  }
  assertEquals(received.rest(), []);
});

// Promise 2: the peer closes with input unread, and the client still gets what was sent.
test("TCPClient gets what a server sent that closes with input unread", async () => {
  using port = freePort();
  using listener = Deno.listen({ ...HERE, port: port.wire });
  const connecting = createTcpClient(LOOPBACK, port.port);
  using peer = new Peer(await listener.accept());
  await using client = await connecting;
  await client.send("nobody reads this");
  await peer.write("one\x03two\x03thr");
  assertEquals(await client.receive(), "one");
  peer.conn.close();
  assertEquals(await client.receive(), "two");
  const error = await assertRejects(() => client.receive(), ClosedError);
  assertEquals(new TextDecoder().decode(error.incomplete), "thr");
});

// Promise 2: the peer half-closes and still reads: megabytes that were on their way.
test("TCPServer sends all that is pending to a client that has half-closed", async () => {
  const replies = new Queue<string>();
  await using served = new Served((message) => {
    replies.put(message);
    return LARGE[Number(message)];
  });
  using peer = await served.peer();
  await peer.write(LARGE.map((_, n) => n + TERMINATOR).join(""));
  await peer.conn.closeWrite();
  const messages = await peer.messages();
  assertEquals(messages.length, LARGE.length);
  assert(messages.every((message, n) => message === LARGE[n]));
  assertEquals(await served.disconnected.next(), [peer.address, undefined]);
});

// Promise 2: the same the other way round.
test("TCPClient sends all that is pending to a server that has half-closed", async () => {
  using port = freePort();
  using listener = Deno.listen({ ...HERE, port: port.wire });
  const connecting = createTcpClient(LOOPBACK, port.port);
  using peer = new Peer(await listener.accept());
  await using client = await connecting;
  const sending = Promise.all(LARGE.map((message) => client.send(message)));
  await peer.write("last\x03");
  await peer.conn.closeWrite();
  assertEquals(await client.receive(), "last");
  await assertRejects(() => client.receive(), ClosedError);
  const messages = await peer.messages();
  await sending;
  assert(messages.every((message, n) => message === LARGE[n]));
  assertEquals(messages.length, LARGE.length);
});
