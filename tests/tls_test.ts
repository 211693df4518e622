// Why: TLS must change who can listen in and nothing else, and a peer without it,
// or with a wrong certificate, must be told apart and keep nobody waiting.

import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { retry } from "@std/async";
import fc from "fast-check";
import {
  type Address,
  type ClientTLSOptions,
  ClosedError,
  CommunicationError,
  createTcpClient,
  createTcpServer,
  InvalidMessageError,
  MessageTooLargeError,
  type ServerTLSOptions,
  type TCPClientOptions,
} from "../mod.ts";
import { Authority, type Certificate } from "./_certificates.ts";
import { hasIpv6 } from "./_machine.ts";
import { freePort } from "./_ports.ts";
import { Process } from "./_process.ts";
import {
  authority,
  BEGUN,
  caCerts,
  certificate,
  NAME,
  Secured,
} from "./_secured.ts";
import {
  ask,
  assertHeldBack,
  echo,
  HERE,
  KIB,
  LOOPBACK,
  MIB,
  Peer,
  Queue,
  Served,
  standstill,
  TERMINATOR,
  test,
  until,
} from "./_served.ts";

async function assertServes(served: Served, tls?: ClientTLSOptions) {
  await using client = await served.client(tls ? { tls } : {});
  assertEquals(await ask(client, "Hello"), "Hello");
}

// The same messages inside

test("TCPServerOptions.tls and TCPClientOptions.tls carry the same messages", async () => {
  await using served = new Secured(echo);
  await using client = await served.client();
  for (
    const message of [
      "Hello",
      "",
      "\uFEFFa BOM at the start",
      "你好，机器人 🤖",
      "\0\r\n\uFFFD",
      "x".repeat(MIB),
      "é".repeat(MIB / 2),
    ]
  ) {
    assertEquals(await ask(client, message), message);
  }
  assertEquals(client.remoteAddress, [LOOPBACK, served.port]);
  assertEquals(served.server.getConnectedClients(), [client.localAddress]);
});

test("TCPServerOptions.tls puts the bytes of plain TCP into TLS", async () => {
  const received = new Queue<string>();
  await using served = new Secured((message) => received.put(message));
  using peer = await served.tlsPeer();
  await peer.write("one\x03two\x03");
  assertEquals([await received.next(), await received.next()], ["one", "two"]);
  await served.server.send("three", peer.address);
  const buffer = new Uint8Array(100);
  const count = await peer.conn.read(buffer) ?? 0;
  assertEquals(
    new TextDecoder().decode(buffer.subarray(0, count)),
    "three\x03",
  );
});

test("TCPClientOptions.tls shows nothing of a message to who listens in", async () => {
  const secret = "the door code is 4711";
  const watch = async (served: Served, tls: boolean) => {
    using port = freePort();
    using listener = Deno.listen({ ...HERE, port: port.wire });
    const connecting = createTcpClient(LOOPBACK, port.port, {
      tls: tls && { caCerts },
    });
    const inner = await listener.accept();
    using outer = await Deno.connect({ ...HERE, port: served.wire });
    let seen = "";
    const pass = async (from: Deno.TcpConn, to: Deno.TcpConn) => {
      const buffer = new Uint8Array(4096);
      for (let count; (count = await from.read(buffer)) !== null;) {
        seen += new TextDecoder("latin1").decode(buffer.subarray(0, count));
        await to.write(buffer.slice(0, count));
      }
      await to.closeWrite();
    };
    const passing = Promise.all([pass(inner, outer), pass(outer, inner)]);
    await using client = await connecting;
    assertEquals(await ask(client, secret), secret);
    await client.disconnect();
    await passing;
    inner.close();
    return seen;
  };
  await using plain = new Served(echo);
  assertStringIncludes(await watch(plain, false), secret);
  await using secured = new Secured(echo);
  assertFalse((await watch(secured, true)).includes(secret));
});

test("TCPClient with tls exchanges any messages in any chunks", async () => {
  await using served = new Secured(echo);
  const message = fc.string({ unit: "grapheme", maxLength: 40 })
    .filter((text) => text.isWellFormed() && !text.includes(TERMINATOR));
  const sizes = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1 });
  const property = fc.asyncProperty(
    fc.array(message, { minLength: 1, maxLength: 20 }),
    sizes,
    async (messages, sizes) => {
      using peer = await served.tlsPeer();
      const text = messages.map((text) => text + TERMINATOR).join("");
      const bytes = new TextEncoder().encode(text);
      for (let at = 0, n = 0; at < bytes.length;) {
        const size = sizes[n++ % sizes.length] ?? 1;
        await peer.write(bytes.subarray(at, at += size));
      }
      await peer.conn.closeWrite();
      assertEquals(await peer.messages(), messages);
    },
  );
  await fc.assert(property, { numRuns: 15 });
});

test("TCPClient.send() with tls keeps the order of calls that are not awaited", async () => {
  await using served = new Secured(echo);
  await using client = await served.client();
  const sent = Array.from({ length: 5_000 }, (_, n) => `message ${n}`);
  const sending = Promise.all(sent.map((message) => client.send(message)));
  for (const message of sent) assertEquals(await client.receive(), message);
  await sending;
});

test("TCPClient.send() and TCPServer.send() with tls keep large messages whole and in order", async () => {
  await using served = new Secured(echo);
  await using client = await served.client();
  const address = await served.connected.next();
  const large = (n: number) => String.fromCharCode(97 + n).repeat(MIB - n);
  const numbers = [...Array(8).keys()];
  const pushing = numbers.map((n) => served.server.send(large(n), address));
  for (const n of numbers) assert(await client.receive() === large(n));
  await Promise.all(pushing);
  const sending = numbers.map((n) => client.send(large(n)));
  for (const n of numbers) assert(await client.receive() === large(n));
  await Promise.all(sending);
});

test("TCPServer.sendToAll() with tls reaches every client, in order", async () => {
  await using served = new Secured();
  const clients = await Promise.all(
    Array.from({ length: 10 }, () => served.client()),
  );
  for (const _ of clients) await served.connected.next();
  const sent = Array.from({ length: 100 }, (_, n) => `push ${n}`);
  const counts = await Promise.all(
    sent.map((message) => served.server.sendToAll(message)),
  );
  assertEquals(new Set(counts), new Set([clients.length]));
  for (const client of clients) {
    for (const message of sent) assertEquals(await client.receive(), message);
    await client.disconnect();
  }
});

test("TCPServer.sendToAll() with tls disconnects a client that never reads, and the others get everything", async () => {
  const limit = 4 * MIB;
  await using served = new Secured(undefined, { maxSendBufferBytes: limit });
  const { server, connected, disconnected } = served;
  using slow = await served.tlsPeer();
  await connected.next();
  await using other = await served.client();
  await connected.next();
  const collected = (async () => {
    const numbers: number[] = [];
    for await (const message of other) {
      if (message === "end") break;
      numbers.push(parseInt(message));
    }
    return numbers;
  })();
  let sent = 0;
  while (disconnected.all.length === 0 && sent < 1_000) {
    await server.sendToAll(`${sent++} `.padEnd(256 * KIB));
  }
  const [client, error] = await disconnected.next();
  assertEquals(client, slow.address);
  assertStringIncludes(error?.message ?? "", `${limit} bytes`);
  assertEquals(server.stats.slowClientsDropped, 1);
  assertEquals(await server.sendToAll("end"), 1);
  assertEquals(await collected, [...Array(sent).keys()]);
  assert(await slow.ended());
});

test("TCPServer with tls reads no further from a client that does not read its replies", async () => {
  await using served = new Secured(echo);
  using greedy = await served.tlsPeer();
  await using other = await served.client();
  await assertHeldBack(greedy, other);
});

test("TCPClient with tls that does not receive stops the sender, and loses nothing", async () => {
  const total = 64; // of 1 MiB: no kernel holds as much
  await using served = new Secured(undefined, { maxSendBufferBytes: 2 ** 30 });
  await using client = await served.client();
  const address = await served.connected.next();
  await using clock = await served.client();
  await served.connected.next();
  let taken = 0;
  const sending = (async () => {
    for (let n = 0; n < total; n++) {
      await served.server.send(`${n} `.padEnd(MIB), address);
      taken++;
    }
  })();
  sending.catch(() => {}); // the test fails of something else then
  await standstill(() => taken, async () => {
    await served.server.send("tick", clock.localAddress);
    assertEquals(await clock.receive(), "tick");
  });
  assert(taken < total, "it is read without bound");
  for (let n = 0; n < total; n++) {
    assertEquals(parseInt(await client.receive() ?? ""), n);
  }
  await sending;
});

test("TCPServer with tls goes on after a message that is not UTF-8", async () => {
  await using served = new Secured(echo);
  using peer = await served.tlsPeer();
  await peer.write(Uint8Array.of(97, 3, 0xff, 3, 98, 3));
  assertEquals([await peer.read(), await peer.read()], ["a", "b"]);
  const [error, address] = await served.errors.next();
  assertInstanceOf(error, InvalidMessageError);
  assertEquals(error.bytes, Uint8Array.of(0xff));
  assertEquals(address, peer.address);
});

test("TCPServer with tls disconnects a client that sends a message over maxMessageBytes", async () => {
  await using served = new Secured(echo, { maxMessageBytes: 8 });
  using peer = await served.tlsPeer();
  await peer.write("much too long\x03");
  const [client, error] = await served.disconnected.next();
  assertEquals(client, peer.address);
  assertInstanceOf(error, MessageTooLargeError);
  assert(await peer.ended());
});

test("TCPServer with tls replies to everything that came before a client's end of sending", async () => {
  await using served = new Secured(echo);
  using peer = await served.tlsPeer();
  await peer.write("one\x03two\x03");
  await peer.conn.closeWrite();
  assertEquals(await peer.messages(), ["one", "two"]);
  assertEquals(await served.disconnected.next(), [peer.address, undefined]);
});

test("TCPServerOptions.onDisconnect gets what a client with tls left incomplete", async () => {
  await using served = new Secured(echo);
  using peer = await served.tlsPeer();
  await peer.write("whole\x03MOVE");
  assertEquals(await peer.read(), "whole");
  await peer.conn.closeWrite();
  const [, error] = await served.disconnected.next();
  assertInstanceOf(error, ClosedError);
  assertEquals(new TextDecoder().decode(error.incomplete), "MOVE");
});

/** A program that connects with TLS, sends, says so and then does nothing more. */
const idler = (port: number, text: string) => `
  const conn = await Deno.connectTls({
    hostname: "${LOOPBACK}", port: ${port}, caCerts: [await new Response(
      Deno.stdin.readable).text()],
  });
  await conn.write(new TextEncoder().encode(${JSON.stringify(text)}));
  console.log("written");
  setInterval(() => {}, 1000);
`;

test("TCPServer with tls tells a client that was killed from one that has closed", async () => {
  const received = new Queue<string>();
  await using served = new Secured((message) => received.put(message));
  {
    await using child = new Process(Deno.execPath(), [
      "eval",
      idler(served.wire, "whole\x03MOVE"),
    ]);
    await child.write(authority.cert);
    const ended = child.end();
    ended.catch(() => {});
    assertEquals(await received.next(), "whole");
  }
  const [, error] = await served.disconnected.next();
  // Without the alert that ends TLS in order, who knows what was cut off.
  assertInstanceOf(error, Error);
  assertEquals(received.rest(), []);
});

test("TCPServerOptions.idleTimeout disconnects a silent client with tls and keeps a talking one", async () => {
  await using served = new Secured(echo, { idleTimeout: 300 });
  using silent = await served.tlsPeer();
  await using talking = await served.client();
  while (served.disconnected.all.length === 0) {
    assertEquals(await ask(talking, "tick"), "tick");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  const [client, error] = await served.disconnected.next();
  assertEquals(client, silent.address);
  assertInstanceOf(error, Deno.errors.TimedOut);
  assertEquals(await ask(talking, "tock"), "tock");
});

// The ends

const MEGABYTES = Array.from({ length: 16 }, (_, n) => `${n} `.padEnd(MIB));

test("TCPClient.disconnect() with tls sends megabytes that are pending", async () => {
  const received = new Queue<string>();
  await using served = new Secured((message) => received.put(message));
  const client = await served.client();
  const sending = MEGABYTES.map((message) => client.send(message));
  await client.disconnect();
  await Promise.all(sending);
  assertEquals(await served.disconnected.next(), [
    client.localAddress,
    undefined,
  ]);
  assert(received.all.every((message, n) => message === MEGABYTES[n]));
  assertEquals(received.all.length, MEGABYTES.length);
});

test("TCPServer.stop() with tls sends megabytes that are pending", async () => {
  await using served = new Secured((_, client) => {
    for (const message of MEGABYTES) served.server.send(message, client);
    served.server.stop();
  }, { maxSendBufferBytes: 32 * MIB });
  await using client = await served.client();
  await client.send("go");
  let count = 0;
  for await (const message of client) assert(message === MEGABYTES[count++]);
  assertEquals(count, MEGABYTES.length);
  await served.server.finished;
});

test("TCPServer.stop() with tls cuts off nothing for a client that still sends", async () => {
  await using served = new Secured((message) => {
    served.server.stop();
    return message;
  });
  using peer = await served.tlsPeer();
  await peer.write(`first${TERMINATOR}${"more\x03".repeat(50_000)}`);
  assertEquals(await peer.messages(), ["first"]);
});

/** Replaces a method of every connection with TLS. */
function replaceTls<Name extends "write" | "closeWrite">(
  name: Name,
  conn: Deno.TlsConn,
  make: (original: Deno.TlsConn[Name]) => Deno.TlsConn[Name],
): Disposable {
  let owner: Deno.TlsConn = conn;
  while (!Object.hasOwn(owner, name)) owner = Object.getPrototypeOf(owner);
  const original = owner[name];
  owner[name] = make(original);
  return { [Symbol.dispose]: () => void (owner[name] = original) };
}

test("TCPClient.disconnect() with tls ends where ending to send hangs", async () => {
  await using served = new Secured(echo);
  using peer = await served.tlsPeer();
  const client = await served.client();
  assertEquals(await ask(client, "Hello"), "Hello");
  using _replaced = replaceTls(
    "closeWrite",
    peer.conn,
    () => () => new Promise(() => {}),
  );
  await client.disconnect();
});

test("TCPClient with reconnect and tls never sends again what may have left", async () => {
  const received = new Queue<string>();
  await using served = new Secured((message) => received.put(message));
  using peer = await served.tlsPeer();
  const again = Promise.withResolvers<void>();
  await using client = await served.client({
    reconnect: { firstDelay: 1, jitter: 0 },
    onReconnect: again.resolve,
  });
  {
    // What Deno does where the connection breaks in the flush of a write.
    using _replaced = replaceTls(
      "write",
      peer.conn,
      (write) =>
        async function (this: Deno.TlsConn, bytes) {
          await write.call(this, bytes);
          this.close();
          throw new Deno.errors.BrokenPipe("broken in the flush");
        },
    );
    await Promise.all([client.send("one"), client.send("two")]);
  }
  await again.promise;
  await client.send("three");
  assertEquals(await received.next(), "one");
  assertEquals(await received.next(), "two");
  assertEquals(await received.next(), "three");
});

test("TCPClient with reconnect and tls never sends again what may have left in a write that does not end", async () => {
  using port = freePort();
  using listener = Deno.listenTls({ ...HERE, port: port.wire, ...certificate });
  const accept = async () => {
    const conn = await listener.accept();
    await conn.handshake();
    return new Peer(conn);
  };
  const [client, peer] = await Promise.all([
    createTcpClient(LOOPBACK, port.port, {
      tls: { caCerts },
      reconnect: { firstDelay: 1, jitter: 0 },
    }),
    accept(),
  ]);
  await using _client = client;
  let sends: Promise<unknown>;
  {
    // What is seen of a write while the script computes as its connection ends.
    using _replaced = replaceTls(
      "write",
      peer.conn,
      (write) =>
        async function (this: Deno.TlsConn, bytes) {
          await write.call(this, bytes);
          return new Promise<number>(() => {});
        },
    );
    sends = Promise.all([client.send("one"), client.send("two")]);
    assertEquals([await peer.read(), await peer.read()], ["one", "two"]);
  }
  peer.conn.close();
  using again = await accept();
  await client.send("three");
  assertEquals(await again.read(), "three");
  await sends;
  await Promise.all([
    client.disconnect(),
    again.ended().then(() => again.conn.close()),
  ]);
});

test("TCPServer.stop() with tls lets another server listen while clients drain", async () => {
  await using served = new Secured(echo, { maxSendBufferBytes: 32 * MIB });
  using slow = await served.tlsPeer();
  const address = await served.connected.next();
  const sending = MEGABYTES.map((text) => served.server.send(text, address));
  let stopped = false;
  const stopping = served.server.stop().then(() => stopped = true);
  const listen = () =>
    createTcpServer(served.port, echo, { ...HERE, tls: certificate });
  // A process that another test starts has a copy of every socket for a moment.
  const often = { minTimeout: 5, maxTimeout: 50, maxAttempts: 100 };
  await using _next = await retry(listen, often);
  assertFalse(stopped);
  await assertServes(served, { caCerts });
  const messages = await slow.messages();
  assert(messages.every((message, n) => message === MEGABYTES[n]));
  assertEquals(messages.length, MEGABYTES.length);
  await Promise.all(sending);
  await stopping;
});

test("TCPClient and TCPServer with tls end at the end of `await using`", async () => {
  let address: Address;
  const disconnected = new Queue<[Address, Error | undefined]>();
  {
    await using served = new Secured(undefined, {
      onDisconnect: (...args) => disconnected.put([args[0], args[1]]),
    });
    await using client = await served.client();
    address = client.localAddress;
    assertEquals(await served.connected.next(), address);
  }
  assertEquals(await disconnected.next(), [address, undefined]);
});

// Whom a client trusts

test("TCPClientOptions.tls true trusts what Deno trusts", async () => {
  const path = await Deno.makeTempFile({ suffix: ".pem" });
  try {
    await Deno.writeTextFile(path, authority.cert);
    await using served = new Secured(echo);
    const program = `
      import { createTcpClient } from "./mod.ts";
      try {
        const client = await createTcpClient("${LOOPBACK}", ${served.port}, { tls: true });
        await client.send("Hello");
        console.log(await client.receive());
        await client.disconnect();
      } catch (error) {
        console.log(error.name);
      }
    `;
    for (
      const [flags, output] of [[["--cert", path], "Hello"], [
        [],
        "InvalidData",
      ]] as const
    ) {
      await using child = new Process(Deno.execPath(), [
        ...["eval", "--no-config", ...flags],
        program,
      ]);
      assertEquals(await child.ended(), {
        code: 0,
        stdout: `${output}\n`,
        stderr: "",
      });
    }
    const [error] = await served.errors.next();
    assertStringIncludes(error.message, "UnknownCA");
  } finally {
    await Deno.remove(path);
  }
});

test("TCPClientOptions.tls false is plain TCP", async () => {
  await using served = new Served(echo);
  await using client = await served.client({ tls: false });
  assertEquals(await ask(client, "Hello"), "Hello");
});

test("ClientTLSOptions.caCerts takes several authorities", async () => {
  const other = await Authority.create("Another cell");
  await using served = new Secured(echo);
  await assertServes(served, { caCerts: [other.cert, authority.cert] });
});

test("ClientTLSOptions.serverName is the name that the certificate is for", async () => {
  const named = await authority.issue([NAME]);
  await using served = new Secured(echo, {}, named);
  await assertServes(served, { caCerts, serverName: NAME });
});

test("ClientTLSOptions.serverName may be another IP address than that connected to", async () => {
  const named = await authority.issue(["192.0.2.7"]);
  await using served = new Secured(echo, {}, named);
  await assertServes(served, { caCerts, serverName: "192.0.2.7" });
});

test(
  "TCPClientOptions.tls takes a certificate for an IPv6 address",
  async () => {
    await using served = new Secured(echo, { hostname: "::1" });
    await using client = await createTcpClient("::1", served.port, {
      tls: { caCerts },
    });
    assertEquals(await ask(client, "Hello"), "Hello");
  },
  { ignore: !hasIpv6() },
);

/** What a certificate can have against it, and how the two sides name that. */
const WRONG: Record<
  string,
  {
    certificate: () => Promise<Certificate>;
    tls?: ClientTLSOptions;
    client: string;
    server: string;
  }
> = {
  "for another name": {
    certificate: () => authority.issue([NAME]),
    client: `not valid for name "${LOOPBACK}"`,
    server: "BadCertificate",
  },
  "for another address": {
    certificate: () => authority.issue(["127.0.0.2"]),
    client: `not valid for name "${LOOPBACK}"`,
    server: "BadCertificate",
  },
  "for another name than serverName": {
    certificate: () => authority.issue([LOOPBACK, "other.test"]),
    tls: { caCerts, serverName: NAME },
    client: `not valid for name "${NAME}"`,
    server: "BadCertificate",
  },
  "of an unknown authority": {
    certificate: async () =>
      (await Authority.create("Nobody")).issue([LOOPBACK]),
    client: "UnknownIssuer",
    server: "UnknownCA",
  },
  "of an authority with the same name": {
    certificate: async () => (await Authority.create("Cell")).issue([LOOPBACK]),
    client: "invalid peer certificate",
    server: "received fatal alert",
  },
  expired: {
    certificate: () => authority.issue([LOOPBACK], { from: -2, to: -1 }),
    client: "certificate expired",
    server: "CertificateExpired",
  },
  "not valid yet": {
    certificate: () => authority.issue([LOOPBACK], { from: 1, to: 2 }),
    client: "not valid yet",
    server: "received fatal alert",
  },
};

for (const [what, wrong] of Object.entries(WRONG)) {
  test(`createTcpClient() with tls refuses a certificate ${what}, and the server serves on`, async () => {
    await using served = new Secured(echo, {}, await wrong.certificate());
    const tls = wrong.tls ?? { caCerts };
    const error = await assertRejects(
      () => served.client({ tls }),
      Deno.errors.InvalidData,
      `Cannot connect to ${served.name}: `,
    );
    assertStringIncludes(error.message, wrong.client);
    assertInstanceOf(error.cause, Deno.errors.InvalidData);
    const refused = await served.refused();
    assertStringIncludes(refused.message, wrong.server);
    // A peer that asks for no certificate shows that the server is well.
    const { connectionsAccepted, connectionsRefused } = served.server.stats;
    assertEquals([connectionsAccepted, connectionsRefused], [0, 1]);
    const again = assertRejects(() => served.client({ tls }));
    await again;
    await served.refused();
  });
}

test("TCPServer with tls serves on after clients that trust it not", async () => {
  await using served = new Secured(echo);
  for (let n = 0; n < 5; n++) {
    await assertRejects(
      () => served.client({ tls: { caCerts: [] } }),
      Deno.errors.InvalidData,
      "UnknownIssuer",
    );
    await served.refused();
    await assertServes(served, { caCerts });
    await served.connected.next();
  }
});

// Peers without TLS

test("TCPClient without tls is told by a server with it, which tells too and serves on", async () => {
  await using served = new Secured(echo);
  await using client = await createTcpClient(LOOPBACK, served.port);
  await client.send("Hello");
  const error = await assertRejects(() => client.receive(), ClosedError);
  assertStringIncludes(
    error.message,
    `Cannot receive from ${served.name}: the peer speaks TLS, and this side does not`,
  );
  assertInstanceOf(error.cause, CommunicationError);
  const refused = await served.refused();
  assertStringIncludes(refused.message, "with TLS: received corrupt message");
  const { connectionsAccepted, connectionsRefused } = served.server.stats;
  assertEquals([connectionsAccepted, connectionsRefused], [0, 1]);
  await assertServes(served, { caCerts });
});

test("TCPServer with tls refuses a plain client that leaves without a word", async () => {
  await using served = new Secured(echo);
  (await served.peer())[Symbol.dispose]();
  const error = await served.refused();
  assertStringIncludes(error.message, "with TLS: ");
  await assertServes(served, { caCerts });
});

test("TCPServer without tls is told by a client with it, and serves on", async () => {
  await using served = new Served(echo);
  const refused = await assertRejects(
    () => served.client({ tls: { caCerts } }),
    Error,
    `Cannot connect to ${served.name}: ` +
      "the server ended the TLS handshake, as one without TLS does: ",
  );
  assert(
    refused instanceof Deno.errors.UnexpectedEof ||
      refused instanceof Deno.errors.ConnectionReset,
    `${refused}`,
  );
  const [, error] = await served.disconnected.next();
  assertInstanceOf(error, CommunicationError);
  assertStringIncludes(
    error.message,
    "the peer speaks TLS, and this side does not",
  );
  await assertServes(served);
});

test("createTcpClient() with tls says so where the server greets in plain text", async () => {
  await using served = new Served(undefined, {
    onConnect: (client) => void served.server.send("Welcome", client),
  });
  await assertRejects(
    () => served.client({ tls: { caCerts } }),
    Deno.errors.InvalidData,
    `Cannot connect to ${served.name}: received corrupt message`,
  );
  await served.disconnected.next();
});

// Handshakes that hang

for (
  const [what, bytes] of Object.entries({
    "says nothing": new Uint8Array(),
    "stops in the middle of its hello": BEGUN,
  })
) {
  test(`ServerTLSOptions.handshakeTimeout refuses a client that ${what}`, async () => {
    await using served = new Secured(echo, {}, { handshakeTimeout: 50 });
    using hanging = await served.peer();
    await hanging.write(bytes);
    const error = await served.refused();
    assertInstanceOf(error, Deno.errors.TimedOut);
    assertStringIncludes(error.message, "no TLS handshake within 50 ms");
    assertEquals(served.server.stats.connectionsRefused, 1);
    assertEquals(served.server.getConnectedClients(), []);
  });
}

test("TCPServer with tls serves others while handshakes hang", async () => {
  await using served = new Secured(echo, {}, { handshakeTimeout: 3_600_000 });
  using hanging = new DisposableStack();
  for (let n = 0; n < 30; n++) {
    const peer = hanging.use(await served.peer());
    if (n % 2) await peer.write(BEGUN);
  }
  await assertServes(served, { caCerts });
  await assertServes(served, { caCerts });
  const { connectionsAccepted, connectionsRefused } = served.server.stats;
  assertEquals([connectionsAccepted, connectionsRefused], [2, 0]);
});

test("TCPServerOptions.maxClients counts handshakes", async () => {
  await using served = new Secured(echo, { maxClients: 2 }, {
    handshakeTimeout: Infinity,
  });
  using _one = await served.peer();
  using _two = await served.peer();
  await assertRejects(() => assertServes(served, { caCerts }));
  const full = await served.refused();
  assertStringIncludes(full.message, "2 clients are connected already");
});

test("ServerTLSOptions.handshakeTimeout frees a place of maxClients", async () => {
  await using served = new Secured(echo, { maxClients: 1 }, {
    handshakeTimeout: 50,
  });
  using _hanging = await served.peer();
  assertInstanceOf(await served.refused(), Deno.errors.TimedOut);
  await assertServes(served, { caCerts });
});

test("TCPServer.stop() ends handshakes that hang, and leaks nothing", async () => {
  const served = new Secured(echo, {}, { handshakeTimeout: 3_600_000 });
  using hanging = new DisposableStack();
  for (let n = 0; n < 5; n++) hanging.use(await served.peer());
  // It is served after them, so they are accepted by now.
  await assertServes(served, { caCerts });
  await served.server.stop();
  assertEquals(served.errors.rest(), []);
  // Here the sanitizers see whether anything is left.
  await served[Symbol.asyncDispose]();
});

test("TCPServer.stop() during handshakes that go on leaks nothing", async () => {
  for (let n = 0; n < 20; n++) {
    const served = new Secured(echo);
    const connecting = Promise.allSettled(
      Array.from({ length: 5 }, () => served.client()),
    );
    for (let turn = 0; turn < n; turn++) {
      await new Promise((resolve) => setTimeout(resolve));
    }
    await served.server.stop();
    for (const result of await connecting) {
      if (result.status === "rejected") {
        assertStringIncludes(result.reason.message, "Cannot connect to ");
        continue;
      }
      await assertRejects(() => result.value.receive(), ClosedError);
      await result.value.disconnect();
    }
    served.errors.rest();
    await served[Symbol.asyncDispose]();
  }
});

/** A peer that takes a client's connection and says nothing. */
async function connectToSilence(
  options: TCPClientOptions,
  connected: () => void = () => {},
): Promise<[error: unknown, name: string]> {
  using port = freePort();
  using listener = Deno.listen({ ...HERE, port: port.wire });
  const connecting = createTcpClient(LOOPBACK, port.port, {
    tls: { caCerts },
    ...options,
  }).then(() => undefined, (error: unknown) => error);
  using peer = await listener.accept();
  // Its hello is here, so the handshake has begun.
  assert(await peer.read(new Uint8Array(1)) === 1);
  connected();
  const error = await connecting;
  return [error, `${LOOPBACK}:${port.port} (wire port ${port.wire})`];
}

test("TCPClientOptions.connectTimeout limits the handshake too", async () => {
  const [error, name] = await connectToSilence({ connectTimeout: 200 });
  assertInstanceOf(error, Deno.errors.TimedOut);
  assertEquals(
    error.message,
    `Cannot connect to ${name}: no answer within 200 ms`,
  );
});

test("TCPClientOptions.signal ends the handshake too", async () => {
  const reason = new Error("never mind");
  const controller = new AbortController();
  const { signal } = controller;
  const [error] = await connectToSilence(
    { signal },
    () => controller.abort(reason),
  );
  assert(error === reason);
});

test("TCPServer with tls refuses a client that gives up in its handshake, and serves on", async () => {
  await using served = new Secured(echo);
  for (let n = 0; n < 3; n++) {
    const peer = await served.peer();
    await peer.write(BEGUN);
    peer.conn.close();
    await served.refused();
  }
  await assertServes(served, { caCerts });
  assertEquals(served.server.stats.connectionsRefused, 3);
});

// Accepting

test("TCPServer with tls reports a failure to accept and goes on accepting", async () => {
  let left = 2;
  const cause = new Error("Too many open files (os error 24)");
  const original = Deno.listen;
  Reflect.set(Deno, "listen", (options: Deno.TcpListenOptions) => {
    const listener = original(options);
    const accept = listener.accept.bind(listener);
    listener.accept = () => left-- > 0 ? Promise.reject(cause) : accept();
    return listener;
  });
  using stack = new DisposableStack();
  stack.defer(() => Reflect.set(Deno, "listen", original));
  await using served = new Secured(echo);
  await assertServes(served, { caCerts });
  for (let n = 0; n < 2; n++) {
    const [error] = await served.errors.next();
    assertStringIncludes(error.message, served.name);
    assert(error.cause === cause);
  }
});

// Arguments

const other = await authority.issue([LOOPBACK]);

/** PEM with nothing in it that anybody could read. */
function corrupt(pem: string): string {
  return pem.replace(/\n[^-]+\n/, "\nAAAA\n");
}

test("createTcpServer() refuses what cannot be tls, and listens nowhere", async () => {
  using port = freePort();
  const cases: [unknown, string][] = [
    [null, "as tls"],
    [true, "as tls"],
    ["cert", "as tls"],
    [{}, "as tls.cert"],
    [{ cert: certificate.cert }, "as tls.key"],
    [{ cert: 1, key: certificate.key }, "as tls.cert"],
    [{ cert: "", key: certificate.key }, 'use "" as tls.cert'],
    [{ cert: "cert.pem", key: "key.pem" }, '"cert.pem" as tls.cert'],
    [{ cert: certificate.cert, key: "key.pem" }, '"key.pem" as tls.key'],
    [
      { cert: certificate.key, key: certificate.cert },
      'use "-----BEGIN PRIVATE KEY-----" as tls.cert: it takes a certificate',
    ],
    [
      { cert: certificate.cert, key: certificate.cert },
      'use "-----BEGIN CERTIFICATE-----" as tls.key: it takes a private key',
    ],
    [{ cert: certificate.cert, key: new Uint8Array() }, "as tls.key"],
    [{ ...certificate, handshakeTimeout: "1" }, "as tls.handshakeTimeout"],
    [{ ...certificate, handshakeTimeout: null }, "as tls.handshakeTimeout"],
  ];
  const outOfRange = [0, -1, NaN].map((handshakeTimeout) => [
    { ...certificate, handshakeTimeout },
    "as tls.handshakeTimeout",
  ]) as typeof cases;
  const create = (tls: unknown) =>
    createTcpServer(port.port, echo, {
      ...HERE,
      tls: tls as ServerTLSOptions,
    });
  for (const [tls, text] of cases) {
    assertThrows(() => create(tls), TypeError, text);
  }
  for (const [tls, text] of outOfRange) {
    assertThrows(() => create(tls), RangeError, text);
  }
  const address =
    `Cannot listen on ${LOOPBACK}:${port.port} (wire port ${port.wire}): `;
  for (
    const tls of [
      { cert: corrupt(certificate.cert), key: certificate.key },
      { cert: certificate.cert, key: corrupt(certificate.key) },
      { cert: certificate.cert, key: other.key },
    ]
  ) {
    assertThrows(() => create(tls), Error, address);
  }
  await using server = create({ ...certificate, handshakeTimeout: Infinity });
  assertEquals(server.address, [LOOPBACK, port.port]);
});

test("createTcpClient() refuses what cannot be tls, before it touches a socket", async () => {
  using port = freePort();
  const cases: [unknown, string][] = [
    [null, "as tls"],
    [1, "as tls"],
    ["true", "as tls"],
    [{ caCerts: authority.cert }, "as tls.caCerts"],
    [{ caCerts: [1] }, "Cannot use 1 as tls.caCerts[0]"],
    [{ caCerts: [""] }, 'Cannot use "" as tls.caCerts[0]'],
    [{ caCerts: [authority.cert, "ca.pem"] }, '"ca.pem" as tls.caCerts[1]'],
    [
      { caCerts: [certificate.key] },
      'use "-----BEGIN PRIVATE KEY-----" as tls.caCerts[0]',
    ],
    [{ caCerts: null }, "as tls.caCerts"],
    [{ serverName: "" }, "as tls.serverName"],
    [{ serverName: 1 }, "as tls.serverName"],
    [{ serverName: "line PC" }, '"line PC" as tls.serverName'],
    [{ serverName: "https://pc" }, '"https://pc" as tls.serverName'],
    [{ serverName: null }, "as tls.serverName"],
  ];
  for (const [tls, text] of cases) {
    await assertRejects(
      // Nobody listens there, which is never found out.
      () =>
        createTcpClient(LOOPBACK, port.port, { tls: tls as ClientTLSOptions }),
      TypeError,
      text,
    );
  }
});

test("createTcpClient() names both ports where serverName is no name", async () => {
  await using served = new Secured(echo);
  await assertRejects(
    () => served.client({ tls: { caCerts, serverName: "-not.a.name-" } }),
    Error,
    `Cannot connect to ${served.name}: `,
  );
  await served.refused();
});

test("createTcpClient() with tls names both ports where nobody listens", async () => {
  using port = freePort();
  await assertRejects(
    () => createTcpClient(LOOPBACK, port.port, { tls: { caCerts } }),
    Deno.errors.ConnectionRefused,
    `Cannot connect to ${LOOPBACK}:${port.port} (wire port ${port.wire}): `,
  );
});

test("TCPServerOptions.onConnect comes after the handshake", async () => {
  await using served = new Secured(echo);
  using peer = await served.peer();
  await assertServes(served, { caCerts });
  const address = await served.connected.next();
  assert(address[1] !== peer.address[1]);
  await until(() => served.disconnected.all.length === 1);
  assertEquals(served.connected.rest(), []);
});
