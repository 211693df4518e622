// Why: the server is what several robots talk to at once, so what one client
// does must never show at another. Raw peers say what goes over the wire, and
// when; a test that hangs fails, and so does an error that nobody expected.

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertNotStrictEquals,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { delay, retry } from "@std/async";
import {
  type Address,
  ClosedError,
  CommunicationError,
  createTcpClient,
  createTcpServer,
  InvalidMessageError,
  type MessageCallback,
  MessageTooLargeError,
  type Reply,
  type TCPClient,
  type TCPServer,
  type TCPServerOptions,
  wirePort,
} from "../mod.ts";
import { hasIpv6, onLinux } from "./_machine.ts";
import {
  ask,
  assertHeldBack,
  captureConsole,
  connectFrom,
  HERE,
  KIB,
  LOOPBACK,
  MIB,
  Peer,
  Served,
  TERMINATOR,
  test,
} from "./_served.ts";
import { freePort } from "./_ports.ts";
import { Process } from "./_process.ts";

const encoder = new TextEncoder();

/** Counts the writes to sockets of one side of a server's connections. */
function countWrites(peer: Peer, wire: number): Disposable & { count: number } {
  let owner: object = peer.conn;
  while (!Object.hasOwn(owner, "write")) owner = Object.getPrototypeOf(owner);
  const original: Deno.TcpConn["write"] = Reflect.get(owner, "write");
  const counter = {
    count: 0,
    [Symbol.dispose]: () => void Reflect.set(owner, "write", original),
  };
  Reflect.set(owner, "write", function (this: Deno.TcpConn, data: Uint8Array) {
    if ((this.localAddr as Deno.NetAddr).port === wire) counter.count++;
    return original.call(this, data);
  });
  return counter;
}

/** Makes `accept` of the listeners made meanwhile fail, as long as `fails` says so. */
function failAccept(fails: () => Error | undefined): Disposable {
  const original = Deno.listen;
  Reflect.set(Deno, "listen", (options: Deno.TcpListenOptions) => {
    const listener = original(options);
    const accept = listener.accept.bind(listener);
    listener.accept = () => {
      const error = fails();
      return error ? Promise.reject(error) : accept();
    };
    return listener;
  });
  return {
    [Symbol.dispose]: () => void Reflect.set(Deno, "listen", original),
  };
}

// Listening

test("createTcpServer() listens before it returns", async () => {
  await using served = new Served((message) => message);
  const listen = () => Deno.listen({ ...HERE, port: served.wire });
  assertThrows(listen, Deno.errors.AddrInUse);
  assertEquals(served.server.address, [LOOPBACK, served.port]);
  assertEquals(served.server.getConnectedClients(), []);
  await using client = await served.client();
  assertEquals(await ask(client, "Hello"), "Hello");
});

test("createTcpServer() listens on every IPv4 address unless told otherwise", async () => {
  using port = freePort();
  await using server = createTcpServer(port.port, (message) => message);
  assertEquals(server.address, ["0.0.0.0", port.port]);
  for (const ip of [LOOPBACK, "127.0.0.2"]) {
    const listen = () => Deno.listen({ hostname: ip, port: port.wire });
    assertThrows(listen, Deno.errors.AddrInUse);
  }
  await using client = await createTcpClient(LOOPBACK, port.port);
  assertEquals(await ask(client, "Hello"), "Hello");
});

test("createTcpServer() throws AddrInUse with both ports where something listens", async () => {
  await using served = new Served((message) => message);
  const error = assertThrows(
    () => createTcpServer(served.port, undefined, HERE),
    Deno.errors.AddrInUse,
    `Cannot listen on ${served.name}: `,
  );
  assertInstanceOf(error.cause, Deno.errors.AddrInUse);
  await using client = await served.client();
  assertEquals(await ask(client, "still there"), "still there");
});

test("createTcpServer() uses the wire port that portOffset makes", async () => {
  using port = freePort();
  const portOffset = -45536;
  await using server = createTcpServer(port.port, (message) => message, {
    ...HERE,
    portOffset,
  });
  assertEquals(server.address, [LOOPBACK, port.port]);
  const wire = wirePort(port.port, portOffset);
  using peer = new Peer(await Deno.connect({ ...HERE, port: wire }));
  await peer.write("Hello\x03");
  assertEquals(await peer.read(), "Hello");
  assertThrows(
    () => createTcpServer(port.port, undefined, { ...HERE, portOffset }),
    Deno.errors.AddrInUse,
    `${LOOPBACK}:${port.port} (wire port ${wire})`,
  );
  using _listener = Deno.listen({ ...HERE, port: port.wire });
});

test("createTcpServer() refuses what is not a communication port with RangeError", async () => {
  const bad: unknown[] = [
    69999,
    71001,
    70000.5,
    NaN,
    Infinity,
    -70001,
    0,
    4465,
    "70001",
    undefined,
    null,
  ];
  for (const value of bad) {
    const error = assertThrows(
      () => createTcpServer(value as number, undefined, HERE),
      RangeError,
    );
    const shown = typeof value === "string" ? `"${value}"` : String(value);
    for (const part of [shown, "70000", "71000"]) {
      assertStringIncludes(error.message, part);
    }
  }
  await Promise.resolve();
});

test("createTcpServer() refuses bad options and listens nowhere", async () => {
  using port = freePort();
  const huge = 2 ** 30;
  const range: Record<string, unknown[]> = {
    portOffset: [0, NaN, -69999.5, -70000, -5464, Infinity, "-65536", null],
    maxMessageBytes: [0, -1, 1.5, NaN, Infinity, huge],
    maxClients: [0, -1, 1.5, NaN, Infinity],
    maxSendBufferBytes: [0, -1, 1.5, NaN, Infinity],
    idleTimeout: [-1, NaN, -Infinity],
  };
  const type: Record<string, unknown[]> = {
    hostname: ["", 127, {}],
    maxMessageBytes: ["1024", {}],
    maxClients: ["5", []],
    maxSendBufferBytes: ["5", true],
    idleTimeout: ["5", {}],
    onConnect: ["log", 1, {}],
    onDisconnect: ["log", 1, []],
    onError: ["log", 1, {}],
  };
  for (
    const [kind, table] of [[RangeError, range], [TypeError, type]] as const
  ) {
    for (const [name, values] of Object.entries(table)) {
      for (const value of values) {
        const options = { ...HERE, [name]: value };
        assertThrows(
          () => createTcpServer(port.port, undefined, options),
          kind,
          "",
          `${name}: ${Deno.inspect(value)}`,
        );
      }
    }
  }
  await using server = createTcpServer(port.port, (message) => message, {
    ...HERE,
    maxMessageBytes: 1,
    maxClients: 1,
    maxSendBufferBytes: 1,
    idleTimeout: Infinity,
  });
  await using client = await createTcpClient(LOOPBACK, port.port);
  assertEquals(await ask(client, "x"), "x");
  assertEquals(server.getConnectedClients(), [client.localAddress]);
});

test("createTcpServer() refuses a callback or options of the wrong type", async () => {
  using port = freePort();
  for (const bad of ["echo", 1, {}, []]) {
    assertThrows(
      () => createTcpServer(port.port, bad as unknown as MessageCallback, HERE),
      TypeError,
      "messageCallback",
    );
  }
  for (const bad of [null, 5, "127.0.0.1"]) {
    assertThrows(
      () => createTcpServer(port.port, undefined, bad as TCPServerOptions),
      TypeError,
      "options",
    );
  }
  await using server = createTcpServer(port.port, undefined, HERE);
  assertEquals(server.address, [LOOPBACK, port.port]);
});

test("createTcpServer() listens on an IPv6 address", async () => {
  using port = freePort();
  const options = { hostname: "::1" };
  await using server = createTcpServer(
    port.port,
    (_, [ip]) => ip,
    options,
  );
  assertEquals(server.address, ["::1", port.port]);
  await using client = await createTcpClient("::1", port.port);
  assertEquals(await ask(client, "Who am I?"), "::1");
  assertEquals(server.getConnectedClients(), [client.localAddress]);
  await server.send("Hello", client.localAddress);
  assertEquals(await client.receive(), "Hello");
  assertThrows(
    () => createTcpServer(port.port, undefined, options),
    Deno.errors.AddrInUse,
    `[::1]:${port.port} (wire port ${port.wire})`,
  );
}, { ignore: !hasIpv6() });

// Messages and replies

const howToReply: Record<
  string,
  (n: number, text: string) => Reply | Promise<Reply>
> = {
  "synchronous": (_, text) => text,
  "asynchronous": async (n, text) => {
    await delay(n % 3);
    return text;
  },
  "mixed": (n, text) => {
    if (n % 3 === 0) return text;
    if (n % 3 === 1) return Promise.resolve(text);
    return delay(0).then(() => text);
  },
};

for (const [kind, reply] of Object.entries(howToReply)) {
  test(`TCPServer calls the callback with one message at a time, in order: ${kind}`, async () => {
    const count = 60;
    const seen: string[] = [];
    let working = 0;
    await using served = new Served(async (message) => {
      assertEquals(++working, 1);
      seen.push(message);
      try {
        return await reply(seen.length, `re ${message}`);
      } finally {
        working--;
      }
    });
    const messages = Array.from({ length: count }, (_, n) => `${n}`);
    const replies = messages.map((message) => `re ${message}`);
    using peer = await served.peer();
    await peer.write(messages.join(TERMINATOR) + TERMINATOR);
    await peer.conn.closeWrite();
    assertEquals(await peer.messages(), replies);
    assertEquals(seen, messages);
    await using client = await served.client();
    for (const message of messages) client.send(message);
    for (const text of replies) assertEquals(await client.receive(), text);
  });
}

test("TCPServer serves a client while the callback works for another", async () => {
  const held = Promise.withResolvers<string>();
  const working = Promise.withResolvers<void>();
  const seen: string[] = [];
  await using served = new Served((message) => {
    seen.push(message);
    if (message !== "hold") return message;
    working.resolve();
    return held.promise;
  });
  await using slow = await served.client();
  await using quick = await served.client();
  await slow.send("hold");
  await slow.send("after");
  await working.promise;
  assertEquals(await ask(quick, "1"), "1");
  assertEquals(await ask(quick, "2"), "2");
  assertEquals(seen, ["hold", "1", "2"]);
  held.resolve("held");
  assertEquals(await slow.receive(), "held");
  assertEquals(await slow.receive(), "after");
});

test("TCPServer passes on any text, and the address of the client", async () => {
  await using served = new Served((message, client) => {
    assertEquals(served.server.getConnectedClients(), [client]);
    return `${message} from ${client.join(" ")}`;
  });
  await using client = await served.client();
  const from = ` from ${client.localAddress.join(" ")}`;
  for (const text of ["", "\uFEFFBOM", "日本語 🤖", "\x02\x04\0\n", "\uFFFD"]) {
    assertEquals(await ask(client, text), text + from);
  }
});

test("MessageCallback replies with a string, returned or resolved, and with nothing else", async () => {
  const replies: Record<string, () => Reply | Promise<Reply>> = {
    text: () => "text",
    empty: () => "",
    null: () => null,
    undefined: () => undefined,
    void: () => {},
    textLater: () => Promise.resolve("text later"),
    emptyLater: () => Promise.resolve(""),
    nullLater: () => Promise.resolve(null),
    undefinedLater: () => Promise.resolve(undefined),
    voidLater: async () => {
      await delay(0);
    },
  };
  await using served = new Served((name) => replies[name]?.() ?? null);
  using peer = await served.peer();
  await peer.write(Object.keys(replies).join(TERMINATOR) + TERMINATOR);
  await peer.conn.closeWrite();
  assertEquals(await peer.messages(), ["text", "", "text later", ""]);
});

const notReplies: unknown[] = [
  0,
  42,
  NaN,
  false,
  true,
  10n,
  Symbol("reply"),
  {},
  { then: "text" },
  [],
  ["text"],
  new String("text"),
  new Uint8Array(1),
  () => "text",
];

for (
  const [how, wrap] of [
    ["returned", (value: unknown) => value],
    ["resolved", (value: unknown) => Promise.resolve(value)],
  ] as const
) {
  test(`MessageCallback gives onError a TypeError for another value, ${how}`, async () => {
    await using served = new Served((message) =>
      message === "ok" ? message : wrap(notReplies[Number(message)]) as Reply
    );
    await using client = await served.client();
    for (const n of notReplies.keys()) {
      await client.send(`${n}`);
      const [error, from] = await served.errors.next();
      assertInstanceOf(error, TypeError);
      assertStringIncludes(error.message, "Cannot reply with ");
      assertEquals(from, client.localAddress);
    }
    assertEquals(await ask(client, "ok"), "ok");
  });
}

test("MessageCallback that throws or rejects goes to onError and the connection lives on", async () => {
  const boom = new RangeError("boom");
  await using served = new Served((message) => {
    if (message === "throw") throw boom;
    if (message === "reject") return Promise.reject(boom);
    if (message === "reject later") {
      return delay(0).then(() => Promise.reject(boom));
    }
    return message;
  });
  await using client = await served.client();
  for (const message of ["throw", "reject", "reject later"]) {
    await client.send(message);
    const [error, from] = await served.errors.next();
    assertStrictEquals(error, boom, message);
    assertEquals(from, client.localAddress);
    assertEquals(await ask(client, "ok"), "ok");
  }
});

test("MessageCallback that throws or rejects something else gives onError an Error of it", async () => {
  const thrown = ["text", undefined, null, 42, { code: 7 }, Symbol("thrown")];
  await using served = new Served((message) => {
    if (message === "ok") return message;
    const value = thrown[Number(message.slice(1))];
    if (message.startsWith("t")) throw value;
    return Promise.reject(value);
  });
  await using client = await served.client();
  for (const how of ["t", "r"]) {
    for (const [n, value] of thrown.entries()) {
      await client.send(`${how}${n}`);
      const [error, from] = await served.errors.next();
      assertInstanceOf(error, Error);
      assertStrictEquals(error.cause, value);
      assertEquals(from, client.localAddress);
    }
  }
  assertEquals(await ask(client, "ok"), "ok");
});

test("MessageCallback's reply that cannot be sent goes to onError", async () => {
  const replies: Record<
    string,
    [string, typeof TypeError | typeof MessageTooLargeError]
  > = {
    terminator: ["a\x03b", TypeError],
    surrogate: ["\uD800", TypeError],
    large: ["x".repeat(101), MessageTooLargeError],
    bytes: ["é".repeat(51), MessageTooLargeError],
  };
  await using served = new Served((message) => {
    const [name = "", how] = message.split(" ");
    const [reply = message] = replies[name] ?? [];
    return how ? Promise.resolve(reply) : reply;
  }, { maxMessageBytes: 100 });
  await using client = await served.client();
  for (const [name, [, kind]] of Object.entries(replies)) {
    for (const message of [name, `${name} later`]) {
      await client.send(message);
      const [error, from] = await served.errors.next();
      assertInstanceOf(error, kind, message);
      assertEquals(from, client.localAddress);
    }
  }
  assertEquals(await ask(client, "x".repeat(100)), "x".repeat(100));
});

test("TCPServer without a callback drops messages, pushes its own and sees disconnects", async () => {
  await using served = new Served();
  using peer = await served.known();
  // More than the buffers of the kernel take: someone reads it.
  const chunk = encoder.encode(`${"x".repeat(64 * KIB - 1)}${TERMINATOR}`);
  for (let n = 0; n < 1024; n++) await peer.write(chunk);
  await served.server.send("pushed", peer.address);
  assertEquals(await peer.read(), "pushed");
  assertEquals(await served.server.sendToAll("to all"), 1);
  assertEquals(await peer.read(), "to all");
  peer.conn.close();
  assertEquals(await served.disconnected.next(), [peer.address, undefined]);
  assertEquals(served.server.getConnectedClients(), []);
});

// Callbacks of the options

test("TCPServerOptions.onConnect comes before the first message, onDisconnect after the last", async () => {
  const log: string[] = [];
  const gone = Promise.withResolvers<void>();
  await using served = new Served(async (message) => {
    await delay(0);
    log.push(message);
  }, {
    onConnect: (client) => {
      assertEquals(served.server.getConnectedClients(), [client]);
      log.push(`+${client[1]}`);
    },
    onDisconnect: (client, error) => {
      assertEquals(served.server.getConnectedClients(), []);
      log.push(`-${client[1]} ${error}`);
      gone.resolve();
    },
  });
  using peer = await served.peer();
  await peer.write("1\x032\x033\x03");
  peer.conn.close();
  await gone.promise;
  const [, port] = peer.address;
  assertEquals(log, [`+${port}`, "1", "2", "3", `-${port} undefined`]);
});

test("TCPServerOptions.onConnect and onDisconnect that throw or reject go to onError", async () => {
  const fail = (what: string) => {
    throw new Error(what);
  };
  const failLater = async (what: string) => {
    await delay(0);
    throw new Error(what);
  };
  for (const how of [fail, failLater]) {
    await using served = new Served((message) => message, {
      onConnect: () => how("connect"),
      onDisconnect: () => how("disconnect"),
    });
    for (let n = 0; n < 2; n++) {
      const client = await served.client();
      const [first, from] = await served.errors.next();
      assertEquals([first.message, from], ["connect", client.localAddress]);
      assertEquals(await ask(client, "ok"), "ok");
      await client.disconnect();
      const [second, of] = await served.errors.next();
      assertEquals([second.message, of], ["disconnect", client.localAddress]);
    }
  }
});

test("TCPServerOptions.onError that throws does not end the server", async () => {
  using captured = captureConsole();
  const boom = new Error("boom");
  const worse = new Error("worse");
  await using served = new Served((message) => {
    if (message === "throw") throw boom;
    return message;
  }, {
    onError: () => {
      throw worse;
    },
  });
  await using client = await served.client();
  await client.send("throw");
  assertEquals(await ask(client, "ok"), "ok");
  const told = captured.calls.flat().join("\n");
  assertStringIncludes(told, `${boom}`);
  assertStringIncludes(told, `onError failed: ${worse}`);
});

test("TCPServerOptions.onError that rejects does not end the server", async () => {
  using captured = captureConsole();
  const boom = new Error("boom");
  const worse = new Error("worse");
  const unhandled: unknown[] = [];
  const listener = (event: PromiseRejectionEvent) => {
    event.preventDefault();
    unhandled.push(event.reason);
  };
  globalThis.addEventListener("unhandledrejection", listener);
  try {
    await using served = new Served((message) => {
      if (message === "throw") throw boom;
      return message;
    }, { onError: () => Promise.reject(worse) });
    await using client = await served.client();
    await client.send("throw");
    assertEquals(await ask(client, "ok"), "ok");
    await delay(0);
  } finally {
    globalThis.removeEventListener("unhandledrejection", listener);
  }
  assertEquals(unhandled, [], "an unhandled rejection ends the process");
  const told = captured.calls.flat().join("\n");
  assertStringIncludes(told, `onError failed: ${worse}`);
});

test("TCPServerOptions.onError is console.error by default", async () => {
  using captured = captureConsole();
  using port = freePort();
  const boom = new Error("boom");
  await using _server = createTcpServer(port.port, (message) => {
    if (message === "throw") throw boom;
    return message;
  }, HERE);
  await using client = await createTcpClient(LOOPBACK, port.port);
  await client.send("throw");
  assertEquals(await ask(client, "ok"), "ok");
  assertEquals(captured.calls.length, 1);
  const [told = []] = captured.calls;
  assertStringIncludes(
    told.join(" "),
    `Message callback failed for ${
      client.localAddress.join(":")
    }: ${boom.stack}`,
  );
});

// send

test("TCPServer.send() reaches the one client of several", async () => {
  await using served = new Served();
  await using a = await served.client();
  await using b = await served.client();
  await using c = await served.client();
  for (let n = 0; n < 3; n++) await served.connected.next();
  assertEquals(served.server.getConnectedClients(), served.connected.all);
  await served.server.send("for b", b.localAddress);
  await served.server.send("for c", [...c.localAddress]);
  await served.server.sendToAll("for all");
  assertEquals(await a.receive(), "for all");
  assertEquals(await b.receive(), "for b");
  assertEquals(await b.receive(), "for all");
  assertEquals(await c.receive(), "for c");
  assertEquals(await c.receive(), "for all");
});

test("TCPServer.send() from inside a callback comes before the reply", async () => {
  await using served = new Served(async (message, client) => {
    if (message === "not awaited") served.server.send("pushed", client);
    else await served.server.send("pushed", client);
    return message;
  });
  await using client = await served.client();
  for (const message of ["awaited", "not awaited"]) {
    assertEquals(await ask(client, message), "pushed");
    assertEquals(await client.receive(), message);
  }
});

test("TCPServer.send() from inside a callback reaches other clients", async () => {
  await using served = new Served(async (message, from) => {
    for (const client of served.server.getConnectedClients()) {
      if (client !== from) await served.server.send(message, client);
    }
    return "passed on";
  });
  await using a = await served.client();
  await using b = await served.client();
  for (let n = 0; n < 2; n++) await served.connected.next();
  assertEquals(await ask(a, "from a"), "passed on");
  assertEquals(await b.receive(), "from a");
  assertEquals(await ask(b, "from b"), "passed on");
  assertEquals(await a.receive(), "from b");
});

test("TCPServer.send() rejects with ClosedError where no such client is connected", async () => {
  await using served = new Served((message) => message);
  const { server } = served;
  const send = (to: Address) => server.send("Hello", to);
  await assertRejects(() => send([LOOPBACK, 1]), ClosedError, `${LOOPBACK}:1`);
  await using client = await served.client();
  await served.connected.next();
  const [ip, port] = client.localAddress;
  await assertRejects(() => send(["127.0.0.2", port]), ClosedError);
  await assertRejects(() => send([ip, port - 1]), ClosedError);
  const gone = await served.client();
  await served.connected.next();
  await gone.disconnect();
  assertEquals(await served.disconnected.next(), [
    gone.localAddress,
    undefined,
  ]);
  await assertRejects(() => send(gone.localAddress), ClosedError);
  await send(client.localAddress);
  assertEquals(await client.receive(), "Hello");
});

test("TCPServer.send() and sendToAll() refuse what is no message and go on", async () => {
  await using served = new Served(undefined, { maxMessageBytes: 100 });
  const { server } = served;
  await using client = await served.client();
  const to = await served.connected.next();
  const bad: [unknown, typeof TypeError | typeof MessageTooLargeError][] = [
    ["a\x03b", TypeError],
    ["\uD800", TypeError],
    ["a\uDC00", TypeError],
    [42, TypeError],
    [null, TypeError],
    [undefined, TypeError],
    [new Uint8Array(1), TypeError],
    [new String("text"), TypeError],
    ["x".repeat(101), MessageTooLargeError],
    ["é".repeat(51), MessageTooLargeError],
  ];
  for (const [value, kind] of bad) {
    const shown = Deno.inspect(value);
    const message = value as string;
    await assertRejects(() => server.send(message, to), kind, "", shown);
    await assertRejects(() => server.sendToAll(message), kind, "", shown);
  }
  await server.send("x".repeat(100), to);
  assertEquals(await client.receive(), "x".repeat(100));
  assertEquals(await server.sendToAll("é".repeat(50)), 1);
  assertEquals(await client.receive(), "é".repeat(50));
});

test("TCPServer.send() refuses what is no address with TypeError and goes on", async () => {
  await using served = new Served();
  const { server } = served;
  await using client = await served.client();
  const to = await served.connected.next();
  const bad: unknown[] = [
    undefined,
    null,
    "127.0.0.1:70001",
    [],
    [LOOPBACK],
    [...to, 1],
    ["", to[1]],
    [127, to[1]],
    { hostname: to[0], port: to[1] },
  ];
  for (const value of bad) {
    await assertRejects(
      () => server.send("Hello", value as Address),
      TypeError,
      "",
      Deno.inspect(value),
    );
  }
  await server.send("Hello", to);
  assertEquals(await client.receive(), "Hello");
});

test("TCPServer.send() keeps messages whole and in order, however large, awaited or not", async () => {
  await using served = new Served((message) => message);
  await using client = await served.client();
  const to = await served.connected.next();
  const sizes = [0, 10, 200 * KIB, 1, 64 * KIB, 65535, MIB - 2, 3, 0];
  const messages = sizes.map((size, n) => `${n}`.padEnd(size + 1, "é."))
    .map((text) => text.slice(0, 500_000));
  const sends = messages.map((message) => served.server.send(message, to));
  for (const message of messages) {
    assertEquals(await client.receive() === message, true);
  }
  await Promise.all(sends);
});

test("TCPServer.send() disconnects a client that leaves too much unread", async () => {
  await using served = new Served(undefined, { maxSendBufferBytes: MIB });
  const { server } = served;
  using peer = await served.known();
  const outcomes: Promise<unknown>[] = [];
  const message = "x".repeat(256 * KIB);
  for (let n = 0; n < 1000 && server.getConnectedClients().length > 0; n++) {
    outcomes.push(server.send(message, peer.address).catch((error) => error));
    await delay(0);
  }
  const [client, reason] = await served.disconnected.next();
  assertEquals(client, peer.address);
  assertInstanceOf(reason, CommunicationError);
  assertStringIncludes(reason.message, `${MIB} bytes`);
  const last = await outcomes.at(-1);
  assertInstanceOf(last, ClosedError);
  assertStrictEquals(last.cause, reason);
  for (const outcome of await Promise.all(outcomes)) {
    assert(outcome === undefined || outcome instanceof ClosedError);
  }
  assert(await peer.ended());
});

// sendToAll

test("TCPServer.sendToAll() resolves with the number of clients", async () => {
  await using served = new Served((message) => message);
  const { server } = served;
  assertEquals(await server.sendToAll("nobody"), 0);
  await using a = await served.client();
  const b = await served.client();
  await using c = await served.client();
  for (let n = 0; n < 3; n++) await served.connected.next();
  assertEquals(await server.sendToAll("three"), 3);
  for (const client of [a, b, c]) assertEquals(await client.receive(), "three");
  await b.disconnect();
  await served.disconnected.next();
  assertEquals(await server.sendToAll("two"), 2);
  for (const client of [a, c]) assertEquals(await client.receive(), "two");
});

test("TCPServer.sendToAll() keeps the order, with sends and replies between", async () => {
  await using served = new Served((message, client) => {
    served.server.sendToAll("all 1");
    served.server.send("one", client);
    served.server.sendToAll("all 2");
    return message;
  });
  await using asking = await served.client();
  await using other = await served.client();
  for (let n = 0; n < 2; n++) await served.connected.next();
  await asking.send("reply");
  for (const message of ["all 1", "one", "all 2", "reply"]) {
    assertEquals(await asking.receive(), message);
  }
  for (const message of ["all 1", "all 2"]) {
    assertEquals(await other.receive(), message);
  }
  const messages = Array.from({ length: 1000 }, (_, n) => `${n}`);
  for (const message of messages) served.server.sendToAll(message);
  for (const client of [asking, other]) {
    for (const message of messages) {
      assertEquals(await client.receive(), message);
    }
  }
});

test("TCPServer.sendToAll() joins the messages of one turn in one write for each client", async () => {
  await using served = new Served();
  using a = await served.known();
  using b = await served.known();
  const messages = Array.from({ length: 100 }, (_, n) => `${n}`);
  using writes = countWrites(a, served.wire);
  const counts = messages.map((message) => served.server.sendToAll(message));
  assertEquals(await Promise.all(counts), messages.map(() => 2));
  for (const peer of [a, b]) {
    for (const message of messages) assertEquals(await peer.read(), message);
  }
  assertEquals(writes.count, 2);
});

test("TCPServer.sendToAll() disconnects a client that never reads, and the others get everything", async () => {
  const limit = 4 * MIB;
  const listed: boolean[] = [];
  await using served = new Served(undefined, {
    maxSendBufferBytes: limit,
    onDisconnect: (client, error) => {
      listed.push(served.server.getConnectedClients().includes(client));
      served.disconnected.put([client, error]);
    },
  });
  const { server, disconnected } = served;
  using slow = await served.known();
  await using a = await served.client();
  await using b = await served.client();
  for (let n = 0; n < 2; n++) await served.connected.next();
  const collect = async (client: TCPClient) => {
    const numbers: number[] = [];
    for await (const message of client) {
      if (message === "end") break;
      numbers.push(parseInt(message));
    }
    return numbers;
  };
  const collected = [collect(a), collect(b)];
  const counts: number[] = [];
  while (disconnected.all.length === 0 && counts.length < 1000) {
    const message = `${counts.length} `.padEnd(256 * KIB);
    counts.push(await server.sendToAll(message));
  }
  const [client, error] = await disconnected.next();
  assertEquals(client, slow.address);
  assertInstanceOf(error, CommunicationError);
  assertStringIncludes(error.message, `${limit} bytes`);
  assertEquals(listed, [false]);
  const left = [a.localAddress, b.localAddress];
  assertEquals(server.getConnectedClients(), left);
  assertEquals(await server.sendToAll("end"), 2);
  const expected = [...counts.keys()];
  for (const numbers of collected) assertEquals(await numbers, expected);
  assertEquals(counts.at(-1), 2);
  assert(await slow.ended());
});

for (const way of ["sendToAll()", "send()"] as const) {
  test(`TCPServerOptions.onDisconnect of a client that sendToAll() drops comes after it: it pushes with ${way}`, async () => {
    await using served = new Served(undefined, {
      // Far more than a client that reads can be behind by.
      maxSendBufferBytes: 8 * MIB,
      onDisconnect: (...args) => {
        if (way === "sendToAll()") served.server.sendToAll("gone");
        else {
          for (const client of served.server.getConnectedClients()) {
            served.server.send("gone", client);
          }
        }
        served.disconnected.put([args[0], args[1]]);
      },
    });
    const { server, disconnected } = served;
    await using before = await served.client();
    await served.connected.next();
    using slow = await served.known();
    await using after = await served.client();
    await served.connected.next();
    const collect = async (client: TCPClient) => {
      const seen: string[] = [];
      for await (const message of client) {
        seen.push(message.trimEnd());
        if (message === "end") break;
      }
      return seen;
    };
    const collected = [collect(before), collect(after)];
    let count = 0;
    for (; disconnected.all.length === 0 && count < 1000; count++) {
      await server.sendToAll(`${count} `.padEnd(256 * KIB));
    }
    assertEquals((await disconnected.next())[0], slow.address);
    await server.sendToAll("end");
    const numbers = Array.from({ length: count }, (_, n) => `${n}`);
    const expected = [...numbers, "gone", "end"];
    for (const seen of collected) assertEquals(await seen, expected);
    // It is told of the rest, too, when they are gone.
    served.disconnected.rest();
  });
}

// Flow control

test("TCPServer reads no further from a client that does not read its replies", async () => {
  await using served = new Served((message) => message);
  using greedy = await served.peer();
  await using other = await served.client();
  await assertHeldBack(greedy, other);
});

test("TCPServer reads no further from a client that does not read its replies: from asynchronous callbacks", async () => {
  await using served = new Served((message) => Promise.resolve(message));
  using greedy = await served.peer();
  await using other = await served.client();
  await assertHeldBack(greedy, other);
});

// Limits and ends

test("TCPServerOptions.maxClients closes one more at once and frees the place again", async () => {
  await using served = new Served((message) => message, { maxClients: 2 });
  const { server } = served;
  const a = await served.client();
  await using b = await served.client();
  for (let n = 0; n < 2; n++) await served.connected.next();
  for (let n = 0; n < 2; n++) {
    using more = await served.peer();
    assertEquals(await more.read(), null);
    const [error, from] = await served.errors.next();
    assertInstanceOf(error, CommunicationError);
    assertMatch(error.message, /\b2 clients\b/);
    assertEquals(from, more.address);
  }
  assertEquals(await ask(a, "a"), "a");
  assertEquals(await ask(b, "b"), "b");
  const both = [a.localAddress, b.localAddress];
  assertEquals(server.getConnectedClients(), both);
  await a.disconnect();
  await served.disconnected.next();
  await using c = await served.client();
  assertEquals(await ask(c, "c"), "c");
  assertEquals(served.connected.all, [...both, c.localAddress]);
  assertEquals(served.disconnected.all.length, 1);
});

for (const end of ["", TERMINATOR]) {
  const what = end ? "a message" : "what may become a message";
  test(`TCPServer disconnects a client that sends ${what} over maxMessageBytes`, async () => {
    await using served = new Served((message) => message, {
      maxMessageBytes: 10,
    });
    await using other = await served.client();
    await served.connected.next();
    using peer = await served.known();
    await peer.write(`0123456789${TERMINATOR}`);
    assertEquals(await peer.read(), "0123456789");
    await peer.write(`01234567890${end}`);
    const [client, error] = await served.disconnected.next();
    assertEquals(client, peer.address);
    assertInstanceOf(error, MessageTooLargeError);
    assertEquals([error.limit, error.size], [10, 11]);
    assert(await peer.ended());
    assertEquals(served.server.getConnectedClients(), [other.localAddress]);
    assertEquals(await ask(other, "ok"), "ok");
  });
}

test("TCPServer gives onError a message that is not UTF-8 and goes on with the next", async () => {
  const log: string[] = [];
  await using served = new Served((message) => {
    log.push(message);
    return message;
  }, {
    onError: (error, client) => {
      log.push("error");
      served.errors.put([error, client]);
    },
  });
  using peer = await served.known();
  await peer.write(new Uint8Array([0x61, 3, 0x62, 0xff, 3, 0xc3, 3, 0x63, 3]));
  assertEquals([await peer.read(), await peer.read()], ["a", "c"]);
  for (const bytes of [[0x62, 0xff], [0xc3]]) {
    const [error, from] = await served.errors.next();
    assertInstanceOf(error, InvalidMessageError);
    assertEquals([...error.bytes], bytes);
    assertEquals(from, peer.address);
  }
  assertEquals(log, ["a", "error", "error", "c"]);
  await peer.write("d\x03");
  assertEquals(await peer.read(), "d");
});

test("TCPServerOptions.onDisconnect gets what a client left incomplete", async () => {
  await using served = new Served((message) => message);
  using peer = await served.known();
  await peer.write("MOVE 1\x03MOVE");
  assertEquals(await peer.read(), "MOVE 1");
  await peer.conn.closeWrite();
  const [client, error] = await served.disconnected.next();
  assertEquals(client, peer.address);
  assertInstanceOf(error, ClosedError);
  assertEquals(new TextDecoder().decode(error.incomplete), "MOVE");
  assertEquals(await peer.read(), null);
});

test("TCPServerOptions.onDisconnect gets the error where a client breaks off", async () => {
  await using served = new Served();
  const { server } = served;
  await using other = await served.client();
  await served.connected.next();
  let address: Address;
  {
    // A process that is killed with input unread: all that its end says is a reset.
    await using child = new Process(Deno.execPath(), [
      "eval",
      `const conn = await Deno.connect(${
        JSON.stringify({ ...HERE, port: served.wire })
      });
      await conn.read(new Uint8Array(1));
      console.log("has read");
      setInterval(() => {}, 1000);`,
    ]);
    address = await served.connected.next();
    await server.send("Hello", address);
    assertEquals(await child.read(), "has read");
  }
  const [client, error] = await served.disconnected.next();
  assertEquals(client, address);
  assertInstanceOf(error, Deno.errors.ConnectionReset);
  assertEquals(server.getConnectedClients(), [other.localAddress]);
  assertEquals(await server.sendToAll("still there"), 1);
  assertEquals(await other.receive(), "still there");
});

test("TCPServer replies to everything that came before a client's end of sending", async () => {
  const count = 1000;
  const padding = "x".repeat(8 * KIB);
  await using served = new Served((message) =>
    Number(message) % 10 ? message + padding : delay(0).then(() => message)
  );
  using peer = await served.known();
  const messages = Array.from({ length: count }, (_, n) => `${n}`);
  await peer.write(messages.join(TERMINATOR) + TERMINATOR);
  await peer.conn.closeWrite();
  const replies = await peer.messages();
  assertEquals(replies.map((text) => text.replace(padding, "")), messages);
  assertEquals(await served.disconnected.next(), [peer.address, undefined]);
});

test("TCPServerOptions.idleTimeout disconnects a silent client and keeps a talking one", async () => {
  await using served = new Served((message) => message, { idleTimeout: 1000 });
  await using talking = await served.client();
  await served.connected.next();
  using silent = await served.known();
  while (served.disconnected.all.length === 0) {
    assertEquals(await ask(talking, "tick"), "tick");
    await delay(20); // a pace of talking; nothing is waited for
  }
  const [client, error] = await served.disconnected.next();
  assertEquals(client, silent.address);
  assertInstanceOf(error, Deno.errors.TimedOut);
  assertStringIncludes(error.message, "1000 ms");
  assert(await silent.ended());
  assertEquals(served.server.getConnectedClients(), [talking.localAddress]);
  assertEquals(await ask(talking, "still there"), "still there");
});

for (const behind of ["", "next\x03", "the beginning of the next"]) {
  const what = behind === "" ? "nothing" : JSON.stringify(behind);
  test(`TCPServerOptions.idleTimeout does not count while a callback works and ${what} waits behind`, async () => {
    const held = Promise.withResolvers<string>();
    const working = Promise.withResolvers<void>();
    await using served = new Served((message) => {
      working.resolve();
      return message === "work" ? held.promise : message;
    }, { idleTimeout: 200 });
    using peer = await served.known();
    await peer.write(`work\x03${behind}`);
    await working.promise;
    // Each takes the timeout from its start on, so the client is silent for longer.
    for (let n = 0; n < 3; n++) {
      using silent = await served.known();
      const [gone] = await served.disconnected.next();
      assertEquals(gone, silent.address);
    }
    held.resolve("done");
    assertEquals(await peer.read(), "done");
    // From here on it counts again.
    const [gone, error] = await served.disconnected.next();
    assertEquals(gone, peer.address);
    assertInstanceOf(error, Deno.errors.TimedOut);
  });
}

test("TCPServerOptions.idleTimeout does not count while a client takes its replies", async () => {
  const reply = "r".repeat(MIB);
  await using served = new Served(() => reply, { idleTimeout: 500 });
  using peer = await served.peer();
  await peer.write("ask\x03".repeat(24));
  await peer.conn.closeWrite();
  const replies = await peer.messages(10); // so slowly that it takes longer
  assertEquals(replies.length, 24);
  assert(replies.every((text) => text === reply));
});

test("TCPServerOptions.idleTimeout keeps a client that talked while the event loop was held up", async () => {
  const idleTimeout = 300;
  await using served = new Served((message) => message, { idleTimeout });
  using peer = await served.known();
  await peer.write("Hello\x03");
  const end = performance.now() + idleTimeout * 2;
  while (performance.now() < end); // what a script that computes does
  assertEquals(await peer.read(), "Hello");
});

test("TCPServerOptions.idleTimeout keeps a client that talks soon after both sides stood still", async () => {
  const idleTimeout = 500;
  await using served = new Served((message) => message, { idleTimeout });
  using peer = await served.known();
  const end = performance.now() + idleTimeout * 3;
  while (performance.now() < end); // as a machine that is paused
  await delay(idleTimeout / 5); // what was lost meanwhile is sent again
  await peer.write("Hello\x03");
  assertEquals(await peer.read(), "Hello");
  const [client, error] = await served.disconnected.next();
  assertEquals(client, peer.address);
  assertInstanceOf(error, Deno.errors.TimedOut);
});

test("TCPServerOptions.idleTimeout keeps hundreds of clients that talked while the event loop was held up", async () => {
  const count = 300; // Tokio lets 128 sockets through at once
  const idleTimeout = 300;
  const heard = new Set<number>();
  await using served = new Served((_message, [, port]) => {
    heard.add(port);
  }, { idleTimeout, maxClients: count });
  await using _crowd = new Process(Deno.execPath(), [
    "eval",
    `const address = { hostname: "${LOOPBACK}", port: ${served.wire} };
    const conns = await Promise.all(
      Array.from({ length: ${count} }, () => Deno.connect(address)));
    const beat = new TextEncoder().encode("beat\\x03");
    setInterval(() => {
      for (const conn of conns) conn.write(beat).catch(() => {});
    }, ${idleTimeout / 10});`,
  ]);
  while (heard.size < count) await delay(1);
  const end = performance.now() + idleTimeout + 20;
  while (performance.now() < end);
  heard.clear();
  while (heard.size < count && served.disconnected.all.length === 0) {
    await delay(1);
  }
  await delay(idleTimeout); // who was not heard is given up by then
  assertEquals(served.disconnected.all, []);
});

test("TCPServerOptions.idleTimeout keeps a client that takes nothing of its replies for a while", async () => {
  const reply = "r".repeat(MIB);
  await using served = new Served(() => reply, { idleTimeout: 200 });
  using peer = await served.peer();
  await peer.write("ask\x03".repeat(24));
  await delay(1_000); // as Linux shows one that takes little by little
  await peer.conn.closeWrite();
  const replies = await peer.messages();
  assertEquals(replies.length, 24);
  assert(replies.every((text) => text === reply));
});

test("TCPServer hears a client while another one sends without end", async () => {
  let pictures = 0;
  await using served = new Served((message) => {
    if (message === "ping") return "pong";
    pictures++;
    const end = performance.now() + 1;
    while (performance.now() < end); // what a callback does with a picture
  }, { idleTimeout: 1_000 });
  const address = `{ hostname: "${LOOPBACK}", port: ${served.wire} }`;
  await using _camera = new Process(Deno.execPath(), [
    "eval",
    `const conn = await Deno.connect(${address});
    const picture = new TextEncoder().encode("x".repeat(60_000) + "\\x03");
    for (;;) {
      for (let rest = picture; rest.length > 0;) {
        rest = rest.subarray(await conn.write(rest));
      }
    }`,
  ]);
  while (pictures === 0) await delay(1);
  await using asking = new Process(Deno.execPath(), [
    "eval",
    `const conn = await Deno.connect(${address});
    const bytes = new Uint8Array(5);
    for (let n = 0; n < 10; n++) {
      await conn.write(new TextEncoder().encode("ping\\x03"));
      if (await conn.read(bytes) === null) throw new Error("given up");
      await new Promise((resolve) => setTimeout(resolve, 50));
    }`,
  ]);
  const { code, stderr } = await asking.ended();
  assertEquals({ code, stderr }, { code: 0, stderr: "" });
});

for (const maxClients of [1024, 1]) {
  test(`TCPServer keeps a client that connects again from the port of one that broke: maxClients ${maxClients}`, async () => {
    using own = freePort();
    const held = Promise.withResolvers<void>();
    const working = Promise.withResolvers<void>();
    await using served = new Served((message) => {
      if (message !== "hold") return message;
      working.resolve();
      return held.promise;
    }, { maxClients });
    const { server } = served;
    const address: Address = [LOOPBACK, own.port];
    {
      await using first = await connectFrom(own.wire, served.wire);
      assertEquals(await served.connected.next(), address);
      first.write("hold\x03");
      await working.promise;
      await first.reset();
    }
    await using second = await connectFrom(own.wire, served.wire);
    assertEquals(await served.connected.next(), address);
    held.resolve();
    const [gone, error] = await served.disconnected.next();
    assertEquals(gone, address);
    assertInstanceOf(error, Error);
    second.write("Hello\x03");
    assertEquals(await second.read(), "Hello");
    assertEquals(server.getConnectedClients(), [address]);
    const pushed = second.read();
    await server.send("pushed", address);
    assertEquals(await pushed, "pushed");
    await server.stop();
    assertEquals(await served.disconnected.next(), [address, undefined]);
  });
}

// Addresses

test("TCPServer gives a client's ephemeral port as it is", async () => {
  await using served = new Served((_, client) => client.join(" "));
  using peer = await served.known();
  await peer.write("Who am I?\x03");
  assertEquals(await peer.read(), peer.address.join(" "));
  assertEquals(served.server.getConnectedClients(), [peer.address]);
  await served.server.send("by its port", peer.address);
  assertEquals(await peer.read(), "by its port");
});

test("TCPServer gives the communication port of a client whose port is one on the wire", async () => {
  using own = freePort();
  const address: Address = [LOOPBACK, own.port];
  await using served = new Served((_, client) => client.join(" "));
  const { server } = served;
  {
    await using peer = await connectFrom(own.wire, served.wire);
    assertEquals(await served.connected.next(), address);
    peer.write("Who am I?\x03");
    assertEquals(await peer.read(), address.join(" "));
    assertEquals(server.getConnectedClients(), [address]);
    const pushed = peer.read();
    await server.send("by its port", address);
    assertEquals(await pushed, "by its port");
    await assertRejects(
      () => server.send("wire", [LOOPBACK, own.wire]),
      ClosedError,
    );
  }
  assertEquals(await served.disconnected.next(), [address, undefined]);
});

// Out of descriptors

const TOO_MANY = "Too many open files";

test("TCPServer reports a failure to accept, with both ports, and goes on accepting", async () => {
  let left = 3;
  const cause = Object.assign(new Error(`${TOO_MANY} (os error 24)`), {
    code: "EMFILE",
  });
  using _failing = failAccept(() => left-- > 0 ? cause : undefined);
  await using served = new Served((message) => message);
  await using client = await served.client();
  assertEquals(await ask(client, "Hello"), "Hello");
  for (let n = 0; n < 3; n++) {
    const [error, from] = await served.errors.next();
    assertStringIncludes(error.message, TOO_MANY);
    assertStringIncludes(error.message, served.name);
    assertStrictEquals(error.cause, cause);
    assertEquals(Reflect.get(error, "code"), "EMFILE");
    assertEquals(from, undefined);
  }
});

test("TCPServer.stop() ends a server that waits after a failure to accept", async () => {
  using _failing = failAccept(() => new Error(TOO_MANY));
  await using served = new Served();
  await served.errors.next();
  await served.server.stop();
  await served.server.finished;
  served.errors.rest();
  await using server = createTcpServer(served.port, undefined, {
    ...HERE,
    onError: () => {},
  });
  assertEquals(server.address, [LOOPBACK, served.port]);
});

/** Code that serves as a process of its own. */
const program = (port: number, code: string) => `
  import { createTcpClient, createTcpServer } from "./mod.ts";
  const server = createTcpServer(${port}, (message) => {
    if (message === "stop") server.stop();
    else return message;
  }, {
    hostname: "${LOOPBACK}",
    onError: (error) => console.log("onError", error.message),
  });
  ${code}
  console.log("ready");
`;

test(
  "TCPServer outlives running out of file descriptors and serves again",
  async () => {
    using port = freePort();
    await using child = new Process("bash", [
      "-c",
      'ulimit -n 40 && exec "$0" eval "$1"',
      Deno.execPath(),
      // Deno opens two descriptors for signals later on, and panics without them.
      `Deno.addSignalListener("SIGUSR2", () => {});${program(port.port, "")}`,
    ]);
    assertEquals(await child.read(), "ready");
    {
      using peers = new DisposableStack();
      for (let n = 0; n < 60; n++) {
        const conn = await Deno.connect({ ...HERE, port: port.wire });
        peers.use(new Peer(conn));
      }
      for (let n = 0; n < 2; n++) {
        const line = await child.read();
        assertStringIncludes(line, "onError");
        assertStringIncludes(line, TOO_MANY);
      }
    }
    await using client = await createTcpClient(LOOPBACK, port.port);
    assertEquals(await ask(client, "Hello"), "Hello");
    await client.send("stop");
    const { code, stderr } = await child.ended();
    assertEquals([code, stderr], [0, ""]);
  },
  { ignore: !onLinux },
);

// stop

test("TCPServer.stop() lets another server listen one turn later, while clients drain", async () => {
  const chunks = 12;
  const large = "x".repeat(MIB);
  await using served = new Served();
  using old = await served.known();
  const sends: Promise<void>[] = [];
  for (let n = 0; n < chunks; n++) {
    sends.push(served.server.send(large, old.address));
  }
  const stopping = served.server.stop();
  await delay(0);
  // A process that another test starts has a copy of every socket for a moment.
  await using next = await retry(
    () => createTcpServer(served.port, (message) => message, HERE),
    { minTimeout: 5, maxAttempts: 50, multiplier: 1 },
  );
  await using client = await served.client();
  assertEquals(await ask(client, "to the next"), "to the next");
  assertEquals(next.getConnectedClients(), [client.localAddress]);
  const messages = await old.messages();
  assertEquals(messages.map((text) => text.length), sends.map(() => MIB));
  await Promise.all(sends);
  old.conn.close();
  await stopping;
  assertEquals(await ask(client, "still there"), "still there");
});

test("TCPServer.stop() sends pending pushes and replies of megabytes to slow clients", async () => {
  const reply = "r".repeat(MIB);
  const working = Promise.withResolvers<void>();
  let asked = 0;
  await using served = new Served(() => {
    if (++asked === 2) working.resolve();
    return reply;
  });
  const { server } = served;
  using stack = new DisposableStack();
  const peers: Peer[] = [];
  for (let n = 0; n < 2; n++) {
    const peer = stack.use(await served.known());
    await peer.write("ask\x03");
    peers.push(peer);
  }
  await working.promise;
  const counts: Promise<number>[] = [];
  for (let n = 0; n < 14; n++) {
    counts.push(server.sendToAll(`${n}`.padEnd(MIB)));
  }
  const stopping = server.stop();
  // So slowly that it takes longer than an end does with nothing to send.
  const received = await Promise.all([
    peers[0]?.messages(25),
    peers[1]?.messages(),
  ]);
  for (const messages of received) {
    assert(messages);
    assertEquals(messages[0] === reply, true);
    const numbers = messages.slice(1).map((text) => parseInt(text));
    assertEquals(numbers, [...counts.keys()]);
    assert(messages.every((text) => text.length === MIB));
  }
  assertEquals(await Promise.all(counts), counts.map(() => 2));
  await stopping;
  for (const _ of peers) {
    const [, error] = await served.disconnected.next();
    assertEquals(error, undefined);
  }
});

test("TCPServer.stop() cuts off nothing for a client that still sends", async () => {
  const held = Promise.withResolvers<void>();
  const working = Promise.withResolvers<void>();
  await using served = new Served(() => {
    working.resolve();
    return held.promise;
  });
  const { server } = served;
  using peer = await served.known();
  const unread = "x".repeat(KIB - 1) + TERMINATOR;
  await peer.write(unread.repeat(256));
  await working.promise;
  for (let n = 0; n < 8; n++) server.sendToAll(`${n}`.padEnd(MIB));
  const stopping = server.stop();
  held.resolve();
  const pushed = await peer.messages();
  assertEquals(pushed.map((text) => text.length), Array(8).fill(MIB));
  // This side's end leaves the other one open until the client closes it.
  for (let n = 0; n < 4; n++) await peer.write(unread.repeat(KIB));
  peer.conn.close();
  await stopping;
  assertEquals(served.disconnected.all, [[peer.address, undefined]]);
});

test("TCPServer.stop() sends the reply of a callback that works", async () => {
  const held = Promise.withResolvers<string>();
  const working = Promise.withResolvers<void>();
  await using served = new Served(() => {
    working.resolve();
    return held.promise;
  });
  await using client = await served.client();
  await client.send("work");
  await working.promise;
  const stopping = served.server.stop();
  await delay(0);
  held.resolve("done");
  assertEquals(await client.receive(), "done");
  await stopping;
  await assertRejects(() => client.receive(), ClosedError);
});

test("TCPServer.stop() ends although a callback never settles and a client never closes", async () => {
  const working = Promise.withResolvers<void>();
  await using served = new Served(() => {
    working.resolve();
    return new Promise<string>(() => {});
  });
  using stuck = await served.known();
  await stuck.write("work\x03");
  using open = await served.known();
  using unread = await served.known();
  const push = served.server.send("x".repeat(MIB), unread.address);
  await working.promise;
  const outcome = push.catch((error) => error);
  await served.server.stop();
  await served.server.finished;
  const gone = served.disconnected.all.map(([client]) => client[1]);
  const all = [stuck, open, unread].map(({ address }) => address[1]);
  assertEquals(gone.sort(), all.sort());
  assertEquals(await open.read(), null);
  const error = await outcome;
  assert(error === undefined || error instanceof ClosedError);
});

test("TCPServer.stop() sends what is pending to a client that takes nothing of it for a while", async () => {
  await using served = new Served();
  using peer = await served.known();
  const messages = Array.from({ length: 15 }, (_, n) => `${n} `.padEnd(MIB));
  const sent = messages.map((message) =>
    served.server.send(message, peer.address)
  );
  const stopped = served.server.stop();
  await delay(2_000); // as Linux shows one that takes little by little
  assertEquals(await peer.messages(), messages);
  await Promise.all(sent);
  await stopped;
});

test("TCPServer.stop() ends although a client takes nothing of what is pending", async () => {
  await using served = new Served();
  using peer = await served.known();
  const outcomes: Promise<unknown>[] = [];
  for (let n = 0; n < 15; n++) {
    const push = served.server.send("x".repeat(MIB), peer.address);
    outcomes.push(push.catch((error) => error));
  }
  await served.server.stop();
  for (const outcome of await Promise.all(outcomes)) {
    assert(outcome === undefined || outcome instanceof ClosedError);
  }
  const [client] = await served.disconnected.next();
  assertEquals(client, peer.address);
});

test("TCPServer.stop() may be called twice and settles finished", async () => {
  await using served = new Served((message) => message);
  const { server, disconnected } = served;
  await using client = await served.client();
  assertEquals(await ask(client, "Hello"), "Hello");
  let finished = false;
  const end = server.finished.then(() => finished = true);
  await delay(0);
  assertEquals(finished, false);
  await Promise.all([server.stop(), server.stop()]);
  await end;
  await server.stop();
  assertEquals(disconnected.all, [[client.localAddress, undefined]]);
  assertEquals(server.getConnectedClients(), []);
  await assertRejects(() => client.receive(), ClosedError);
  await assertRejects(() => served.client(), Deno.errors.ConnectionRefused);
  await using again = createTcpServer(served.port, (message) => message, HERE);
  await using next = await served.client();
  assertEquals(await ask(next, "again"), "again");
  assertNotStrictEquals(again, server);
});

for (const how of ["synchronous", "asynchronous"]) {
  test(`TCPServer.stop() from inside a callback sends its reply: ${how}`, async () => {
    await using served = new Served((message) => {
      served.server.stop();
      return how === "synchronous" ? message : delay(0).then(() => message);
    });
    await using client = await served.client();
    assertEquals(await ask(client, "Goodbye"), "Goodbye");
    await served.server.finished;
    await assertRejects(() => client.receive(), ClosedError);
    assertEquals(served.disconnected.all, [[client.localAddress, undefined]]);
  });
}

test("TCPServer.stop() ends although a callback awaits it", async () => {
  const ended = Promise.withResolvers<void>();
  await using served = new Served(async () => {
    await served.server.stop();
    ended.resolve();
  });
  await using client = await served.client();
  await client.send("stop");
  await served.server.finished;
  await ended.promise;
  await assertRejects(() => client.receive(), ClosedError);
});

test("TCPServer.stop() from inside onConnect and onDisconnect", async () => {
  {
    await using served = new Served((message) => message, {
      onConnect: () => void served.server.stop(),
    });
    await using client = await served.client();
    await served.server.finished;
    await assertRejects(() => client.receive(), ClosedError);
    assertEquals(served.disconnected.all, [[client.localAddress, undefined]]);
  }
  await using served = new Served((message) => message, {
    onDisconnect: () => void served.server.stop(),
  });
  await using other = await served.client();
  const client = await served.client();
  assertEquals(await ask(client, "Hello"), "Hello");
  await client.disconnect();
  await served.server.finished;
  await assertRejects(() => other.receive(), ClosedError);
});

test("TCPServer.send() and sendToAll() after stop() reject with ClosedError", async () => {
  await using served = new Served();
  const { server } = served;
  using peer = await served.known();
  const refused = async (when: string) => {
    const send = () => server.send("Hello", peer.address);
    await assertRejects(send, ClosedError, "", when);
    const sendToAll = () => server.sendToAll("Hello");
    await assertRejects(sendToAll, ClosedError, served.name, when);
    assertEquals(server.getConnectedClients(), [], when);
  };
  const stopping = server.stop();
  await refused("while it stops");
  peer.conn.close();
  await stopping;
  await refused("when it has stopped");
});

test("TCPServer stops at the end of `using` and of `await using`", async () => {
  using port = freePort();
  let started: TCPServer;
  {
    using server = createTcpServer(port.port, (message) => message, HERE);
    started = server;
    await using client = await createTcpClient(LOOPBACK, port.port);
    assertEquals(await ask(client, "using"), "using");
  }
  await started.finished;
  {
    await using server = createTcpServer(port.port, (message) => message, HERE);
    started = server;
    await using client = await createTcpClient(LOOPBACK, port.port);
    assertEquals(await ask(client, "await using"), "await using");
  }
  using _listener = Deno.listen({ ...HERE, port: port.wire });
  await started.finished;
});

// ref and unref

const deno = (port: number, code: string) =>
  new Process(Deno.execPath(), ["eval", program(port, code)]);

for (
  const [what, code] of [
    ["as a new server does", ""],
    ["after unref()", "server.unref(); server.ref();"],
  ] as const
) {
  test(`TCPServer.ref() keeps a script alive until it is stopped, ${what}`, async () => {
    using port = freePort();
    await using child = deno(port.port, code);
    assertEquals(await child.read(), "ready");
    {
      await using client = await createTcpClient(LOOPBACK, port.port);
      assertEquals(await ask(client, "Hello"), "Hello");
    }
    await using client = await createTcpClient(LOOPBACK, port.port);
    assertEquals(await ask(client, "again"), "again");
    await client.send("stop");
    const { code: status, stdout, stderr } = await child.ended();
    assertEquals([status, stdout, stderr], [0, "", ""]);
  });
}

for (
  const [what, code] of [
    ["without clients", "server.unref();"],
    [
      "with clients from before and after",
      `
    const open = async () => {
      const client = await createTcpClient("${LOOPBACK}", server.address[1]);
      await client.send("Hello");
      console.log(await client.receive());
    };
    await open();
    server.unref();
    await open();
    `,
    ],
  ] as const
) {
  test(`TCPServer.unref() lets a script end, ${what}`, async () => {
    using port = freePort();
    await using child = deno(port.port, code);
    const { code: status, stdout, stderr } = await child.ended();
    assertEquals([status, stderr], [0, ""]);
    assertEquals(stdout.split("\n").at(-2), "ready");
  });
}
