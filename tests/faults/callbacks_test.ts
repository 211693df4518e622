// Why: callbacks are the users' code, which fails in every way that code can, and
// must take down neither the server nor anybody else's connection. That they throw,
// reject, return other values, stop the server or send from inside, one by one, is
// in tests/tcp_server_test.ts; here is what is left, and all of it at once.

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertLess,
  assertStrictEquals,
  assertStringIncludes,
} from "@std/assert";
import {
  type Address,
  ClosedError,
  CommunicationError,
  type MessageCallback,
  type Reply,
  type TCPClient,
  type TCPServerOptions,
} from "../../mod.ts";
import {
  ask,
  captureConsole,
  KIB,
  Queue,
  Served,
  standstill,
  TERMINATOR,
  test,
} from "../_served.ts";

const never = new Promise<never>(() => {});

const odd = (value: unknown) => value as Reply | Promise<Reply>;

/** A value that throws when it is asked what it is. */
function hostile(): unknown {
  return new Proxy({}, {
    getPrototypeOf() {
      throw new Error("trap");
    },
  });
}

/** What a callback may do with a message of that name, and what the client gets. */
const DEEDS: Record<
  string,
  { deed: () => Reply | Promise<Reply>; reply?: string; error?: string }
> = {
  returns: { deed: () => "reply", reply: "reply" },
  resolves: { deed: () => Promise.resolve("reply"), reply: "reply" },
  throws: {
    deed: () => {
      throw new Error("boom");
    },
    error: "boom",
  },
  rejects: { deed: () => Promise.reject(new Error("boom")), error: "boom" },
  "throws nothing": {
    deed: () => {
      throw undefined;
    },
    error: "Caught undefined",
  },
  "rejects with a symbol": {
    deed: () => Promise.reject(Symbol("boom")),
    error: "Caught Symbol(boom)",
  },
  "throws what cannot be shown": {
    deed: () => {
      throw Object.create(null);
    },
    error: "Caught an object",
  },
  "throws what no instanceof can be asked of": {
    deed: () => {
      throw hostile();
    },
    error: "Caught an object",
  },
  "rejects with what no instanceof can be asked of": {
    deed: () => Promise.reject(hostile()),
    error: "Caught an object",
  },
  "returns a number": { deed: () => odd(7), error: "Cannot reply with 7" },
  "returns an object": {
    deed: () => odd({ reply: true }),
    error: "Cannot reply with an object",
  },
  "returns bytes": {
    deed: () => odd(new Uint8Array(3)),
    error: "Cannot reply with an object",
  },
  "returns a function": {
    deed: () => odd(() => "reply"),
    error: "Cannot reply with a function",
  },
  "returns a String object": {
    deed: () => odd(Object("reply")),
    error: "Cannot reply with an object",
  },
  "returns an object whose then throws": {
    deed: () =>
      odd({
        get then() {
          throw new Error("boom");
        },
      }),
    error: "boom",
  },
  "returns a thenable": {
    deed: () =>
      odd({ then: (resolve: (r: string) => void) => resolve("reply") }),
    reply: "reply",
  },
  "returns a thenable that settles twice": {
    deed: () =>
      odd({
        then(resolve: (r: string) => void, reject: (e: Error) => void) {
          resolve("reply");
          resolve("another");
          reject(new Error("boom"));
        },
      }),
    reply: "reply",
  },
  "returns a thenable that throws": {
    deed: () =>
      odd({
        then() {
          throw new Error("boom");
        },
      }),
    error: "boom",
  },
  "resolves with a promise": {
    deed: () => Promise.resolve(Promise.resolve("reply")),
    reply: "reply",
  },
  "resolves with a number": {
    deed: () => odd(Promise.resolve(7)),
    error: "Cannot reply with 7",
  },
  "replies with a terminator": { deed: () => "a\x03b", error: "U+0003" },
  "replies with half a character": {
    deed: () => "\uD800",
    error: "lone surrogate",
  },
  "replies with too much": {
    deed: () => "x".repeat(101),
    error: "limit is 100 bytes",
  },
};

const doDeed: MessageCallback = (message) =>
  message === "ping" ? "pong" : DEEDS[message]?.deed();

for (const [what, { reply, error }] of Object.entries(DEEDS)) {
  // Promise 8: whatever a callback does, its client and the others are served on.
  test(`MessageCallback that ${what} leaves every client connected`, async () => {
    await using served = new Served(doDeed, { maxMessageBytes: 100 });
    await using client = await served.client();
    await using other = await served.client();
    await client.send(what);
    if (reply !== undefined) assertEquals(await client.receive(), reply);
    if (error !== undefined) {
      const [seen, address] = await served.errors.next();
      assertInstanceOf(seen, Error);
      assertStringIncludes(seen.message, error);
      assertEquals(address, client.localAddress);
    }
    for (const one of [client, other]) {
      assertEquals(await ask(one, "ping"), "pong");
    }
  });
}

// Promise 8: all of it in one write, in any order.
test("MessageCallback that does everything wrong in a row keeps the order of its replies", async () => {
  await using served = new Served(doDeed, { maxMessageBytes: 100 });
  using peer = await served.peer();
  const deeds = Object.entries(DEEDS);
  const text = deeds.map(([what]) => `${what}\x03ping\x03`).join("");
  await peer.write(text);
  for (const [what, { reply }] of deeds) {
    if (reply !== undefined) assertEquals(await peer.read(), reply, what);
    assertEquals(await peer.read(), "pong", what);
  }
  for (const [what, { error }] of deeds) {
    if (error === undefined) continue;
    assertStringIncludes((await served.errors.next())[0].message, error, what);
  }
});

// Promise 8: a callback that never settles.
test("MessageCallback that never settles holds up its own client, and reads no further from it", async () => {
  const limit = 128 * KIB; // messages of 1 KiB: no kernel holds as much
  let called = 0;
  await using served = new Served((message) => {
    if (message === "ping") return "pong";
    called++;
    return never;
  });
  using stuck = await served.peer();
  await using other = await served.client();
  const piece = `${"x".repeat(KIB - 1)}${TERMINATOR}`.repeat(64);
  let sent = 0;
  const writing = (async () => {
    for (; sent < limit; sent += 64) await stuck.write(piece);
  })().catch(() => {});
  await standstill(
    () => sent,
    async () => assertEquals(await ask(other, "ping"), "pong"),
  );
  assertLess(sent, limit);
  assertEquals(called, 1);
  stuck.conn.close();
  await writing;
});

// Promise 8: a callback whose answer comes when its client is gone.
test("MessageCallback that settles after its client has left disturbs nobody", async () => {
  const gates = [
    Promise.withResolvers<string>(),
    Promise.withResolvers<string>(),
  ];
  const called = new Queue<string>();
  await using served = new Served((message) => {
    if (message === "ping") return "pong";
    called.put(message);
    return gates[Number(message)]?.promise;
  });
  for (const n of [0, 1]) {
    const client = await served.client();
    await client.send(`${n}`);
    await called.next();
    // It waits for a server that is at work no longer than it has to.
    await client.disconnect();
  }
  gates[0]?.resolve("too late");
  gates[1]?.reject(new Error("too late as well"));
  for (const _ of gates) await served.disconnected.next();
  const [error] = await served.errors.next();
  assertEquals(error.message, "too late as well");
  await using other = await served.client();
  assertEquals(await ask(other, "ping"), "pong");
});

// Promise 8: a callback that disconnects its own client, from the client's side.
test("MessageCallback may disconnect the client that it is called for", async () => {
  const clients = new Map<number, TCPClient>();
  await using served = new Served(async (message, [, port]) => {
    if (message === "ping") return "pong";
    if (message === "wait") await clients.get(port)?.disconnect();
    else clients.get(port)?.disconnect();
    return "goodbye";
  });
  await using other = await served.client();
  await served.connected.next();
  for (const message of ["go", "wait", "go", "wait"]) {
    await using client = await served.client();
    clients.set(client.localAddress[1], client);
    await client.send(message);
    await client.send("never handled, or handled, but never stuck");
    const [address] = await served.disconnected.next();
    assertEquals(address, client.localAddress);
    assertEquals(client.connected, false);
    assertEquals(await ask(other, "ping"), "pong");
  }
});

// Promise 8: callbacks of the options, which do all that at once.
const WRONGS: Record<string, () => unknown> = {
  throws: () => {
    throw new Error("boom");
  },
  rejects: () => Promise.reject(new Error("boom")),
  "never settles": () => never,
  "returns something": () => 7,
  "returns a thenable that throws": () => ({
    then() {
      throw new Error("boom");
    },
  }),
};

for (const [what, wrong] of Object.entries(WRONGS)) {
  // Promise 8: … with every one of them, and the server serves on.
  test(`TCPServerOptions with callbacks of which each ${what} serves on`, async () => {
    const called: string[] = [];
    const errors = new Queue<Error>();
    const note = (name: string) => {
      called.push(name);
      return wrong() as void;
    };
    {
      await using served = new Served((message) => {
        if (message === "ping") return "pong";
        throw new Error("bang");
      }, {
        onConnect: () => note("onConnect"),
        onDisconnect: () => note("onDisconnect"),
        onError: (error) => errors.put(error),
      });
      for (let n = 0; n < 3; n++) {
        await using client = await served.client();
        await client.send("bang");
        assertEquals(await ask(client, "ping"), "pong");
      }
    }
    const times = (name: string) => called.filter((one) => one === name).length;
    assertEquals([times("onConnect"), times("onDisconnect")], [3, 3]);
    const messages = errors.all.map(({ message }) => message);
    assertEquals(messages.filter((text) => text === "bang").length, 3);
    const fails = ["throws", "rejects", "returns a thenable that throws"];
    assertEquals(
      messages.filter((text) => text === "boom").length,
      fails.includes(what) ? 6 : 0,
    );
    assertEquals(messages.filter((text) => !/^b(oom|ang)$/.test(text)), []);
  });

  // Promise 8: … and with an onError that fails itself, which console.error tells then.
  test(`TCPServerOptions.onError that ${what} does not end the server`, async () => {
    using captured = captureConsole();
    const served = new Served((message) => {
      if (message === "ping") return "pong";
      throw new Error("bang");
    }, { onError: () => wrong() as void });
    {
      await using _served = served;
      await using client = await served.client();
      for (let n = 0; n < 3; n++) {
        await client.send("bang");
        assertEquals(await ask(client, "ping"), "pong");
      }
    }
    const fails = !["never settles", "returns something"].includes(what);
    for (
      const text of [
        "Message callback failed for 127\\.0\\.0\\.1:\\d+: Error: bang\n",
        "onError failed: Error: boom\n",
      ]
    ) {
      const told = captured.calls.flat().filter((one) =>
        new RegExp(text).test(String(one))
      );
      assertEquals(told.length, fails ? 3 : 0, text);
    }
  });
}

type Within = (served: Served, client: Address) => unknown;

/** What callbacks may ask of their own server. */
const INSIDE: Record<string, Within> = {
  "stops it": (served) => served.server.stop(),
  "stops it twice": (served) => {
    served.server.stop();
    served.server.stop();
  },
  "stops it by dispose": (served) => served.server[Symbol.dispose](),
  "sends to the client": (served, client) =>
    served.server.send("inside", client),
  "sends to all": (served) => served.server.sendToAll("inside"),
  "sends, then stops": (served, client) => {
    served.server.send("inside", client).catch(() => {});
    served.server.sendToAll("inside").catch(() => {});
    served.server.stop();
  },
  "looks around": (served) => {
    served.server.getConnectedClients();
    return served.server.stats;
  },
  "unrefs and refs it": (served) => {
    served.server.unref();
    served.server.ref();
  },
};

for (const [what, inside] of Object.entries(INSIDE)) {
  for (
    const name of [
      "messageCallback",
      "onConnect",
      "onDisconnect",
      "onError",
      "allow",
    ] as const
  ) {
    // Promise 8: callbacks that call stop() or send() from inside.
    test(`TCPServer may be used inside ${name}, which ${what}`, async () => {
      const called = Promise.withResolvers<void>();
      const run = (served: Served, client: Address) => {
        called.resolve();
        const result = inside(served, client);
        // A client that is gone, or not there yet, cannot be sent to.
        if (result instanceof Promise) result.catch(() => {});
      };
      const options: TCPServerOptions = {
        onConnect: () => {},
        onDisconnect: () => {},
        onError: () => {},
      };
      if (name === "allow") {
        options.allow = (client) => {
          run(served, client);
          return true;
        };
      } else if (name === "onError") {
        options.onError = (_, client) => client && run(served, client);
      } else if (name !== "messageCallback") {
        options[name] = (client: Address) => run(served, client);
      }
      const served: Served = new Served((_, client) => {
        if (name === "messageCallback") run(served, client);
        if (name === "onError") throw new Error("boom");
        return "reply";
      }, options);
      await using _served = served;
      {
        using peer = await served.peer();
        await peer.write("Hello\x03").catch(() => {});
        // One that is stopped within allow() never reads this.
        await peer.conn.closeWrite().catch(() => {});
        assert(await peer.ended());
      }
      await called.promise;
      await served.server.stop();
      await served.server.finished;
      assertEquals(served.server.getConnectedClients(), []);
    });
  }
}

// Promise 8: errors that callbacks throw come as they are.
test("TCPServerOptions.onError gets what a callback threw, and a CommunicationError of what is no error", async () => {
  const boom = new ClosedError("thrown by the user");
  const thrown: unknown[] = [boom, "text", null, 0, { code: 7 }];
  await using served = new Served((message) => {
    throw thrown[Number(message)];
  });
  await using client = await served.client();
  for (const [n, one] of thrown.entries()) {
    await client.send(`${n}`);
    const [error] = await served.errors.next();
    if (one === boom) assertStrictEquals(error, boom);
    else {
      assertInstanceOf(error, CommunicationError);
      assertStrictEquals(error.cause, one);
    }
  }
});
