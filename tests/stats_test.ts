// Why: who watches a robot cell by these numbers needs them exact, and not
// changing under their hands.

import {
  assert,
  assertEquals,
  assertFalse,
  assertNotStrictEquals,
  assertRejects,
} from "@std/assert";
import {
  ClosedError,
  createTcpClient,
  createUdpSocket,
  MessageTooLargeError,
  type ServerStats,
  type Stats,
  type UDPStats,
} from "../mod.ts";
import { freePort } from "./_ports.ts";
import { caCerts, certificate } from "./_secured.ts";
import {
  ask,
  HERE,
  LOOPBACK,
  MIB,
  Queue,
  Served,
  test,
  until,
} from "./_served.ts";

const NONE: Stats = {
  messagesIn: 0,
  messagesOut: 0,
  bytesIn: 0,
  bytesOut: 0,
  invalidMessages: 0,
};
const NOBODY: ServerStats = {
  ...NONE,
  connectionsAccepted: 0,
  connectionsRefused: 0,
  slowClientsDropped: 0,
};
const NO_DATAGRAM: UDPStats = { ...NONE, datagramsDropped: 0 };

/** Messages, and their bytes with the terminators. */
const MESSAGES = ["Hello", "", "é", "你好", "🤖", "\uFEFF", "x".repeat(70_000)];
const BYTES = new TextEncoder().encode(MESSAGES.join("\x03")).length + 1;

/** A reply may be here before the server knows that the kernel has it. */
async function assertServerStats(
  { server }: Served,
  expected: ServerStats,
): Promise<void> {
  await until(() => server.stats.messagesOut >= expected.messagesOut);
  assertEquals(server.stats, expected);
}

for (const secured of [false, true]) {
  const how = secured ? "with tls" : "without tls";
  const serverTls = secured ? { tls: certificate } : {};
  const clientTls = secured ? { tls: { caCerts } } : {};

  test(`TCPClient.stats and TCPServer.stats count messages and bytes both ways, ${how}`, async () => {
    await using served = new Served((message) => message, serverTls);
    assertEquals(served.server.stats, NOBODY);
    await using client = await served.client(clientTls);
    assertEquals(client.stats, NONE);
    for (const message of MESSAGES) {
      assertEquals(await ask(client, message), message);
    }
    const count = MESSAGES.length;
    const expected: Stats = {
      messagesIn: count,
      messagesOut: count,
      bytesIn: BYTES,
      bytesOut: BYTES,
      invalidMessages: 0,
    };
    assertEquals(client.stats, expected);
    await assertServerStats(served, {
      ...NOBODY,
      ...expected,
      connectionsAccepted: 1,
    });
  });
}

test("TCPServer.stats counts sends, pushes to all and replies, of all clients", async () => {
  await using served = new Served((message) => message === "ask" ? "!" : null);
  const { server } = served;
  const clients = await Promise.all([served.client(), served.client()]);
  const addresses = [
    await served.connected.next(),
    await served.connected.next(),
  ];
  for (const client of clients) {
    assertEquals(await ask(client, "ask"), "!");
    await client.send("tell");
  }
  for (const address of addresses) await server.send("push", address);
  assertEquals(await server.sendToAll("all"), 2);
  for (const client of clients) {
    assertEquals(await client.receive(), "push");
    assertEquals(await client.receive(), "all");
    await client.disconnect();
    assertEquals(client.stats, {
      messagesIn: 3,
      messagesOut: 2,
      bytesIn: 2 + 5 + 4,
      bytesOut: 4 + 5,
      invalidMessages: 0,
    });
  }
  // Those who are gone are counted all the same.
  for (const _ of clients) await served.disconnected.next();
  await assertServerStats(served, {
    ...NOBODY,
    messagesIn: 4,
    messagesOut: 6,
    bytesIn: 18,
    bytesOut: 22,
    connectionsAccepted: 2,
  });
  await server.stop();
  assertEquals(server.stats.messagesIn, 4);
});

test("TCPServer.stats counts messages that are dropped for want of a callback", async () => {
  await using served = new Served();
  await using client = await served.client();
  await client.send("one");
  await client.send("two");
  await client.disconnect();
  await served.disconnected.next();
  assertEquals(served.server.stats, {
    ...NOBODY,
    messagesIn: 2,
    bytesIn: 8,
    connectionsAccepted: 1,
  });
});

test("TCPServer.stats counts what is not UTF-8 apart", async () => {
  await using served = new Served((message) => message);
  using peer = await served.peer();
  const bytes = [97, 3, 0xff, 3, 98, 3, 0xc0, 0x80, 3, 3, 0xef, 0xbf, 0xbd, 3];
  await peer.write(Uint8Array.from(bytes));
  const replies: (string | null)[] = [];
  for (let n = 0; n < 4; n++) replies.push(await peer.read());
  assertEquals(replies, ["a", "b", "", "\uFFFD"]);
  for (let n = 0; n < 2; n++) await served.errors.next();
  // Long ones are decoded in another way.
  const long = new Uint8Array(100_001).fill(97);
  long[50_000] = 0xff;
  long[100_000] = 3;
  await peer.write(long);
  await served.errors.next();
  await assertServerStats(served, {
    ...NOBODY,
    messagesIn: 4,
    invalidMessages: 3,
    bytesIn: bytes.length + long.length,
    messagesOut: 4,
    bytesOut: 2 + 2 + 1 + 4,
    connectionsAccepted: 1,
  });
});

test("TCPClient.stats counts what is not UTF-8 apart", async () => {
  using port = freePort();
  using listener = Deno.listen({ ...HERE, port: port.wire });
  const connecting = createTcpClient(LOOPBACK, port.port);
  using peer = await listener.accept();
  await using client = await connecting;
  await peer.write(Uint8Array.of(97, 3, 0xff, 3, 98, 3, 99));
  await peer.closeWrite();
  assertEquals(await client.receive(), "a");
  await assertRejects(() => client.receive());
  assertEquals(await client.receive(), "b");
  await assertRejects(() => client.receive(), ClosedError);
  assertEquals(client.stats, {
    ...NONE,
    messagesIn: 2,
    invalidMessages: 1,
    bytesIn: 7,
  });
});

test("TCPServer.stats counts bytes of a message that never ended, and no message", async () => {
  await using served = new Served((message) => message);
  using peer = await served.peer();
  await peer.write("one\x03MOVE");
  assertEquals(await peer.read(), "one");
  await peer.conn.closeWrite();
  await served.disconnected.next();
  const { messagesIn, bytesIn, invalidMessages } = served.server.stats;
  assertEquals([messagesIn, bytesIn, invalidMessages], [1, 8, 0]);
});

test("TCPServer.stats does not count a message over maxMessageBytes", async () => {
  await using served = new Served((message) => message, { maxMessageBytes: 3 });
  using peer = await served.peer();
  await peer.write("one\x03four\x03");
  assert(await peer.ended());
  const [, error] = await served.disconnected.next();
  assert(error instanceof MessageTooLargeError);
  const { messagesIn, invalidMessages } = served.server.stats;
  assertEquals([messagesIn, invalidMessages], [1, 0]);
});

test("TCPClient.stats does not count what send() refuses", async () => {
  await using served = new Served();
  await using client = await served.client({ maxMessageBytes: 3 });
  const address = await served.connected.next();
  for (const bad of ["\x03", "\uD800", "four", 7]) {
    await assertRejects(() => client.send(bad as string));
    await assertRejects(() =>
      served.server.send(
        bad === "four" ? "x".repeat(2 * MIB) : bad as string,
        address,
      )
    );
    await assertRejects(() =>
      served.server.sendToAll(
        bad === "four" ? "x".repeat(2 * MIB) : bad as string,
      )
    );
  }
  assertEquals(client.stats, NONE);
  assertEquals(served.server.stats, { ...NOBODY, connectionsAccepted: 1 });
});

test("TCPServer.stats counts clients accepted, refused and dropped as slow", async () => {
  const limit = 4 * MIB;
  let allowed = true;
  await using served = new Served(undefined, {
    maxClients: 2,
    maxSendBufferBytes: limit,
    allow: () => allowed,
  });
  const { server } = served;
  const counts = () => {
    const stats = server.stats;
    return [
      stats.connectionsAccepted,
      stats.connectionsRefused,
      stats.slowClientsDropped,
    ];
  };
  using slow = await served.peer();
  await served.connected.next();
  assertEquals(counts(), [1, 0, 0]);
  {
    await using _client = await served.client();
    await served.connected.next();
    assertEquals(counts(), [2, 0, 0]);
    using third = await served.peer();
    assert(await third.ended());
    await served.errors.next();
    assertEquals(counts(), [2, 1, 0]);
  }
  await served.disconnected.next();
  allowed = false;
  using stranger = await served.peer();
  assert(await stranger.ended());
  await served.errors.next();
  assertEquals(counts(), [2, 2, 0]);
  let sent = 0;
  while (server.getConnectedClients().length > 0 && sent < 1_000) {
    server.send("x".repeat(MIB), slow.address).catch(() => {});
    await new Promise((resolve) => setTimeout(resolve));
    sent++;
  }
  await served.disconnected.next();
  assertEquals(counts(), [2, 2, 1]);
  assert(await slow.ended());
  // What the kernel took before is counted, and nothing of what it did not take.
  const { messagesOut, bytesOut } = server.stats;
  assert(messagesOut <= bytesOut / (MIB + 1) && bytesOut < sent * (MIB + 1));
});

test("TCPServer.stats counts a refused TLS handshake", async () => {
  await using served = new Served(undefined, { tls: certificate });
  using peer = await served.peer();
  await peer.write("no TLS at all\x03");
  await served.errors.next();
  assertEquals(served.server.stats, { ...NOBODY, connectionsRefused: 1 });
});

test("UDPSocket.stats counts messages, bytes, invalid and dropped datagrams", async () => {
  using one = freePort();
  using two = freePort();
  using socket = createUdpSocket(one.port, {
    ...HERE,
    allow: ([ip]) => ip !== "127.0.0.3",
  });
  using other = createUdpSocket(two.port, HERE);
  assertEquals(socket.stats, NO_DATAGRAM);
  const texts = ["Hello", "", "\x03", "你好"];
  for (const text of texts) {
    await other.send(text, socket.address);
    assertEquals((await socket.receive())?.[0], text);
  }
  await socket.send("reply", other.address);
  await other.receive();
  const send = async (hostname: string, bytes: number[]) => {
    const raw = Deno.listenDatagram({ transport: "udp", hostname, port: 0 });
    using stack = new DisposableStack();
    stack.defer(() => raw.close());
    const to = { transport: "udp", ...HERE, port: one.wire } as const;
    await raw.send(Uint8Array.from(bytes), to);
  };
  await send(LOOPBACK, [0xff, 0xfe]);
  await assertRejects(() => socket.receive());
  await send("127.0.0.3", [65, 66, 67]);
  await send("127.0.0.3", [0xff]);
  await send(LOOPBACK, [65]);
  assertEquals((await socket.receive())?.[0], "A");
  assertEquals(socket.stats, {
    messagesIn: 5,
    messagesOut: 1,
    bytesIn: 5 + 0 + 1 + 6 + 2 + 1,
    bytesOut: 5,
    invalidMessages: 1,
    datagramsDropped: 2,
  });
  assertEquals(other.stats, {
    ...NO_DATAGRAM,
    messagesIn: 1,
    messagesOut: 4,
    bytesIn: 5,
    bytesOut: 12,
  });
});

test("UDPSocket.stats does not count what send() refuses or cannot send", async () => {
  using port = freePort();
  using socket = createUdpSocket(port.port, HERE);
  await assertRejects(() => socket.send("\uD800", socket.address));
  await assertRejects(() => socket.send("x".repeat(65_508), socket.address));
  await assertRejects(() => socket.send("x", [LOOPBACK, 4465]));
  await assertRejects(() => socket.send("x", ["127.255.255.255", 70001]));
  // Loopback reaches no address beyond it.
  await assertRejects(() => socket.send("x", ["192.0.2.1", 70001]));
  assertEquals(socket.stats, NO_DATAGRAM);
});

test("TCPClient.stats, TCPServer.stats and UDPSocket.stats are copies of plain numbers", async () => {
  using port = freePort();
  using socket = createUdpSocket(port.port, HERE);
  await using served = new Served((message) => message);
  await using client = await served.client();
  const say = async () => {
    assertEquals(await ask(client, "Hello"), "Hello");
    await socket.send("Hello", socket.address);
    await socket.receive();
  };
  await say();
  for (const owner of [client, served.server, socket]) {
    const before = owner.stats;
    const text = JSON.stringify(before);
    await say();
    assertEquals(JSON.stringify(before), text, "it is not live");
    assertNotStrictEquals(owner.stats, owner.stats);
    assertEquals(owner.stats.messagesIn, before.messagesIn + 1);
    const taken: Record<string, number> = { ...owner.stats };
    for (const [name, value] of Object.entries(taken)) {
      assert(Number.isSafeInteger(value) && value >= 0, name);
    }
    const { messagesIn } = owner.stats;
    Object.assign(owner.stats, { messagesIn: 999 });
    assertEquals(owner.stats.messagesIn, messagesIn, "it is not writable");
    assertEquals(Object.getPrototypeOf(owner.stats), Object.prototype);
  }
});

test("TCPClient.stats tells after disconnect() what was counted before", async () => {
  await using served = new Served((message) => message);
  const client = await served.client();
  assertEquals(await ask(client, "Hello"), "Hello");
  const before = client.stats;
  await client.disconnect();
  await assertRejects(() => client.send("x"), ClosedError);
  assertEquals(client.stats, before);
});

test("TCPServer.stats of one server does not count for another", async () => {
  await using one = new Served((message) => message);
  await using two = new Served((message) => message);
  await using client = await one.client();
  assertEquals(await ask(client, "Hello"), "Hello");
  assertEquals(two.server.stats, NOBODY);
  await assertServerStats(one, {
    ...NOBODY,
    messagesIn: 1,
    messagesOut: 1,
    bytesIn: 6,
    bytesOut: 6,
    connectionsAccepted: 1,
  });
});

test("TCPServer.stats counts what was sent when it is with the kernel, not before", async () => {
  await using served = new Served(undefined, { maxSendBufferBytes: 64 * MIB });
  using peer = await served.peer();
  const client = await served.connected.next();
  const settled = new Queue<number>();
  const total = 32; // of 1 MiB: no kernel holds as much
  for (let n = 0; n < total; n++) {
    served.server.send("x".repeat(MIB), client).then(
      () => settled.put(n),
      () => settled.put(n),
    );
  }
  assertEquals(served.server.stats.messagesOut, 0);
  await until(() => served.server.stats.bytesOut > 0);
  assertFalse(served.server.stats.messagesOut === total);
  const reading = (async () => {
    for (let n = 0; n < total; n++) assert(await peer.read() !== null);
  })();
  for (let n = 0; n < total; n++) await settled.next();
  await reading;
  const { messagesOut, bytesOut } = served.server.stats;
  assertEquals([messagesOut, bytesOut], [total, total * (MIB + 1)]);
});
