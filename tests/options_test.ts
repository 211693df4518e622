// Why: an option that is dropped in silence (misspelled, inherited, a getter) is a limit
// or a guard that is not there. What each function takes is asked of the function itself:
// an option without a case here fails.

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { deadline } from "@std/async";
import {
  createTcpClient,
  createTcpServer,
  createUdpSocket,
  FrameDecoderStream,
  FrameEncoderStream,
  type TCPClientOptions,
  type TCPServerOptions,
  type UDPSocketOptions,
} from "../mod.ts";
import { readOptions } from "../_options.ts";
import { HERE, LOOPBACK } from "./_machine.ts";
import { freePort } from "./_ports.ts";
import { PATIENCE } from "./_process.ts";
import { shown } from "./_served.ts";

const CERT = "-----BEGIN CERTIFICATE-----";
const KEY = "-----BEGIN PRIVATE KEY-----";
const NOTHING = () => {};

/** What an option takes and refuses. */
interface Case {
  good: unknown;
  wrongType: readonly unknown[];
  outOfRange?: readonly unknown[];
  /** TypeError, unless it says otherwise. */
  wrongTypeIs?: ErrorConstructor;
  takesNull?: boolean;
  required?: boolean;
}

const CALLBACK: Case = {
  good: NOTHING,
  wrongType: [5, "5", true, {}, [NOTHING]],
  takesNull: true,
};
const SIGNAL: Case = {
  good: new AbortController().signal,
  wrongType: [5, "5", true, {}, new AbortController(), NOTHING],
};
const NO_NUMBERS = ["5", {}, [5], true, 5n, Symbol("bad"), NOTHING];
const time = (least: number): Case => ({
  good: 7_000,
  wrongType: NO_NUMBERS,
  outOfRange: [least - 1, -0.5, NaN, -Infinity],
});
const COUNT: Case = {
  good: 7,
  wrongType: NO_NUMBERS,
  outOfRange: [0, -1, 1.5, NaN, Infinity, -Infinity],
};
const MAX_MESSAGE_BYTES: Case = {
  ...COUNT,
  outOfRange: [0, 1.5, NaN, Infinity, 2 ** 29],
};
const PORT_OFFSET: Case = {
  good: -65_000,
  wrongType: ["-65536", {}, true],
  outOfRange: [0, -70_000, -65_536.5, NaN, Infinity],
  wrongTypeIs: RangeError,
};
const HOSTNAME: Case = { good: LOOPBACK, wrongType: ["", 5, {}, [LOOPBACK]] };
const pem = (good: string, bad: string): Case => ({
  good,
  wrongType: ["", "file.pem", bad, 5, {}, []],
  required: true,
});
const NO_OBJECT = [5, "5", [], NOTHING];

/** A function with options, or an option that has options itself. */
interface Subject {
  /** What errors call it. */
  name: string;
  /** What stands before its options in errors. */
  prefix?: string;
  /** Rejects, or throws, unless it takes these options. */
  call(options: unknown): unknown;
  cases: Record<string, Case>;
}

/** Resolves when only the port, which is read last, was refused. */
async function acceptedBy(run: () => unknown): Promise<void> {
  try {
    await run();
  } catch (error) {
    if (!String(error).includes("Cannot use 0 as a communication port")) {
      throw error;
    }
    return;
  }
  throw new Error("Port 0 was taken");
}

const client = (options: unknown) =>
  acceptedBy(() => createTcpClient(LOOPBACK, 0, options as object));
const server = (options: unknown) =>
  acceptedBy(() => createTcpServer(0, NOTHING, options as object));
const udp = (options: unknown) =>
  acceptedBy(() => createUdpSocket(0, options as object));

const RECEIVE: Record<string, Case> = { timeout: time(0), signal: SIGNAL };

/** Receives with these options, and with what ends the wait soon where they do not. */
async function acceptsWait(
  receive: (options: object) => Promise<unknown>,
  options: unknown,
): Promise<void> {
  const stop = AbortSignal.timeout(0);
  if (typeof options === "object" && options && !Array.isArray(options)) {
    for (const [name, value] of [["timeout", 0], ["signal", stop]] as const) {
      if (!(name in options)) Object.assign(options, { [name]: value });
    }
  }
  try {
    await receive(options as object);
  } catch (error) {
    if (error !== stop.reason) throw error;
  }
}

const SUBJECTS: Subject[] = [
  {
    name: "createTcpClient",
    call: client,
    cases: {
      portOffset: PORT_OFFSET,
      connectTimeout: time(1),
      signal: SIGNAL,
      maxMessageBytes: MAX_MESSAGE_BYTES,
      idleTimeout: time(0),
      tls: { good: true, wrongType: NO_OBJECT },
      retry: { good: true, wrongType: NO_OBJECT },
      reconnect: { good: {}, wrongType: NO_OBJECT },
      maxSendBufferBytes: COUNT,
      onDisconnect: CALLBACK,
      onReconnect: CALLBACK,
      onRetry: CALLBACK,
    },
  },
  {
    name: "createTcpServer",
    call: server,
    cases: {
      hostname: HOSTNAME,
      portOffset: PORT_OFFSET,
      maxMessageBytes: MAX_MESSAGE_BYTES,
      maxClients: COUNT,
      maxSendBufferBytes: COUNT,
      idleTimeout: time(0),
      allow: CALLBACK,
      tls: {
        good: { cert: CERT, key: KEY },
        wrongType: [...NO_OBJECT, true, false],
      },
      onConnect: CALLBACK,
      onDisconnect: CALLBACK,
      onError: CALLBACK,
    },
  },
  {
    name: "createUdpSocket",
    call: udp,
    cases: {
      hostname: HOSTNAME,
      portOffset: PORT_OFFSET,
      reuseAddress: { good: true, wrongType: [5, "yes", {}, []] },
      allow: CALLBACK,
    },
  },
  ...["retry", "reconnect"].map((name): Subject => ({
    name,
    prefix: `${name}.`,
    call: (options) => client({ [name]: options }),
    cases: {
      attempts: { ...COUNT, outOfRange: [0, -1, 1.5, NaN, -Infinity] },
      firstDelay: time(0),
      maxDelay: time(0),
      jitter: {
        good: 0.25,
        wrongType: NO_NUMBERS,
        outOfRange: [-0.1, 1.1, NaN, Infinity],
      },
    },
  })),
  {
    name: "tls",
    prefix: "tls.",
    call: (options) => client({ tls: options }),
    cases: {
      caCerts: { good: [CERT], wrongType: ["x", 5, {}, [KEY], Array(1)] },
      serverName: { good: "line-pc", wrongType: ["", "line PC", 5, {}, []] },
    },
  },
  {
    name: "tls",
    prefix: "tls.",
    call(options) {
      // The two that it takes in any case, for the tests of another one.
      if (typeof options === "object" && options) {
        if (!("cert" in options)) Object.assign(options, { cert: CERT });
        if (!("key" in options)) Object.assign(options, { key: KEY });
      }
      return server({ tls: options });
    },
    cases: {
      cert: pem(CERT, KEY),
      key: pem(KEY, CERT),
      handshakeTimeout: time(1),
    },
  },
  {
    name: "receive",
    async call(options) {
      using port = freePort();
      await using _server = createTcpServer(port.port, undefined, HERE);
      await using client = await createTcpClient(LOOPBACK, port.port);
      await acceptsWait((it) => client.receive(it), options);
    },
    cases: RECEIVE,
  },
  {
    name: "receive",
    async call(options) {
      using port = freePort();
      using socket = createUdpSocket(port.port, HERE);
      await acceptsWait((it) => socket.receive(it), options);
    },
    cases: RECEIVE,
  },
  ...[FrameDecoderStream, FrameEncoderStream].map((Stream): Subject => ({
    name: Stream.name,
    call: (options) => new Stream(options as object),
    cases: { maxMessageBytes: MAX_MESSAGE_BYTES },
  })),
];

/** What a call throws, or the rejection. */
async function thrown(run: () => unknown): Promise<Error> {
  try {
    await deadline((async () => await run())(), PATIENCE);
  } catch (error) {
    assertInstanceOf(error, Error);
    return error;
  }
  throw new Error("It was taken");
}

async function refuses(
  { call, prefix = "" }: Subject,
  options: object,
  name: string,
  value: unknown,
  Kind: ErrorConstructor,
): Promise<void> {
  const error = await thrown(() => call(options));
  const where = `${prefix}${name}: ${shown(value)}: ${error}`;
  assertEquals([error.constructor, where], [Kind, where]);
  // A certificate of caCerts is named by its place.
  const [cannot, takes] = error.message.split(": it takes ");
  assertStringIncludes(`${cannot}`, `as ${prefix}${name}`);
  assert(cannot?.startsWith("Cannot use ") && takes, where);
}

/** An object with one option, which counts how often it is read. */
function counting(
  name: string,
  value: unknown,
): { options: object; reads: () => number } {
  let reads = 0;
  const options = Object.defineProperty({}, name, {
    enumerable: true,
    get() {
      reads++;
      return value;
    },
  });
  return { options, reads: () => reads };
}

function snake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

for (const [at, subject] of SUBJECTS.entries()) {
  const { name: owner, call, cases } = subject;
  const twin = SUBJECTS.slice(0, at).some(({ name }) => name === owner);
  const where = `${owner}${twin ? " (2)" : ""}`;
  const each = (
    what: string,
    body: (name: string, it: Case) => Promise<void>,
  ) =>
    Deno.test(`${where} options: ${what}`, async () => {
      for (const [name, it] of Object.entries(cases)) await body(name, it);
    });

  Deno.test(`${where} options: each has a case here, and no other is taken`, async () => {
    const { constructor, message } = await thrown(() => call({ zzz: 1 }));
    const names = Object.keys(cases).join(", ").replace(/, (\w+)$/, " and $1");
    assertEquals(constructor, TypeError);
    assertEquals(
      message,
      `Cannot use "zzz" as an option of ${owner}: it takes ${names}`,
    );
  });

  each("a value that fits is taken", async (name, { good }) => {
    await call({ [name]: good });
  });

  each("a getter is asked, and once", async (name, it) => {
    const good = counting(name, it.good);
    await call(good.options);
    assertEquals([name, good.reads()], [name, 1]);
    const [value] = it.wrongType;
    const bad = counting(name, value);
    await refuses(
      subject,
      bad.options,
      name,
      value,
      it.wrongTypeIs ?? TypeError,
    );
    assertEquals([name, bad.reads()], [name, 1]);
  });

  each("an inherited one counts, also from a class", async (name, it) => {
    const [value] = it.wrongType;
    const Kind = it.wrongTypeIs ?? TypeError;
    await call(Object.create({ [name]: it.good }));
    const inherited = Object.create({ [name]: value });
    await refuses(subject, inherited, name, value, Kind);
    class Settings {
      method(): void {}
    }
    Object.defineProperty(Settings.prototype, name, { get: () => value });
    await refuses(subject, new Settings(), name, value, Kind);
  });

  each("undefined is left out", async (name, { required }) => {
    const options = { [name]: undefined };
    if (required) await refuses(subject, options, name, undefined, TypeError);
    else await call(options);
  });

  each(
    "null is none for callbacks, and refused by others",
    async (name, it) => {
      const options = { [name]: null };
      const Kind = it.wrongTypeIs ?? TypeError;
      if (it.takesNull) await call(options);
      else await refuses(subject, options, name, null, Kind);
    },
  );

  each("the wrong type is a TypeError", async (name, it) => {
    for (const value of it.wrongType) {
      const Kind = it.wrongTypeIs ?? TypeError;
      await refuses(subject, { [name]: value }, name, value, Kind);
    }
  });

  each("out of range is a RangeError", async (name, { outOfRange = [] }) => {
    for (const value of outOfRange) {
      await refuses(subject, { [name]: value }, name, value, RangeError);
    }
  });

  each("a misspelled one is refused, with the right name", async (name, it) => {
    const typo = `${name.slice(0, -2)}${name.at(-1)}`;
    for (const wrong of [snake(name), name.toUpperCase(), typo]) {
      if (Object.hasOwn(cases, wrong)) continue;
      for (
        const options of [
          { [wrong]: it.good },
          Object.create({ [wrong]: undefined }),
        ]
      ) {
        const { constructor, message } = await thrown(() => call(options));
        const cannot = `Cannot use "${wrong}" as an option of ${owner}: `;
        const meant = wrong === typo && name.length < 4
          ? "it takes "
          : `did you mean "${name}"?`;
        assertEquals(constructor, TypeError);
        assert(message.startsWith(cannot + meant), message);
      }
    }
  });

  Deno.test(`${where} options: what is no object is refused`, async () => {
    const takes = subject.prefix ? `as ${owner}: it takes ` : "as options: ";
    for (const value of ["5", null, [], [1], NOTHING, 5n]) {
      const { constructor, message } = await thrown(() => call(value));
      assertEquals(constructor, TypeError);
      assertStringIncludes(message, `Cannot use ${shown(value)} ${takes}`);
    }
  });
}

// What was meant

/** Names that are no options, and what the error says. */
const MEANT: [owner: string, name: string, says: string][] = [
  ["createTcpClient", "timeout", 'did you mean "connectTimeout"?'],
  ["createTcpClient", "connectTimeOut", 'did you mean "connectTimeout"?'],
  ["createTcpClient", "onDisconect", 'did you mean "onDisconnect"?'],
  ["createTcpClient", "retryOptions", 'did you mean "retry"?'],
  ["createTcpClient", "port", "port is the second argument"],
  ["createTcpClient", "host", "ip is the first argument"],
  ["createTcpClient", "server_ip", "ip is the first argument"],
  ["createTcpClient", "IP", "ip is the first argument"],
  ["createTcpClient", "retries", "write { retry: { attempts: 5 } }"],
  ["createTcpClient", "ssl", 'did you mean "tls"?'],
  [
    "createTcpClient",
    "recv_timeout",
    "client.receive({ timeout: 5000 }) takes it",
  ],
  [
    "createTcpClient",
    "message_callback",
    "read with for await (const message of client)",
  ],
  ["createTcpServer", "timeout", 'did you mean "idleTimeout"?'],
  ["createTcpServer", "bind_address", 'did you mean "hostname"?'],
  ["createTcpServer", "ip", 'did you mean "hostname"?'],
  ["createTcpServer", "on_message", "messageCallback is the second argument"],
  ["createTcpServer", "callback", "messageCallback is the second argument"],
  ["createTcpServer", "max_connections", 'did you mean "maxClients"?'],
  [
    "createTcpServer",
    "reuse_address",
    "a server can have the port again as soon as another has left it",
  ],
  [
    "createUdpSocket",
    "enable_broadcast",
    "call socket.enableBroadcast()",
  ],
  ["createUdpSocket", "broadcast", "call socket.enableBroadcast()"],
  ["createUdpSocket", "ip", 'did you mean "hostname"?'],
  ["createUdpSocket", "bindAddress", 'did you mean "hostname"?'],
  ["createUdpSocket", "host", 'did you mean "hostname"?'],
  ["createUdpSocket", "port", "port is the first argument"],
  ["createUdpSocket", "reuse_port", 'did you mean "reuseAddress"?'],
  [
    "createUdpSocket",
    "timeout",
    "socket.receive({ timeout: 5000 }) takes it",
  ],
  [
    "createUdpSocket",
    "message_callback",
    "read with for await (const [message, sender] of socket)",
  ],
  ["retry", "retries", 'did you mean "attempts"?'],
  ["reconnect", "max_attempts", 'did you mean "attempts"?'],
  ["retry", "interval", 'did you mean "firstDelay"?'],
  ["tls", "ca", 'did you mean "caCerts"?'],
  ["receive", "seconds", 'did you mean "timeout"?'],
  ["createTcpServer", "host", 'did you mean "hostname"?'],
  ["createTcpServer", "port", "port is the first argument"],
  [
    "createTcpServer",
    "message_callback",
    "messageCallback is the second argument",
  ],
  ["createUdpSocket", "reuse_address", 'did you mean "reuseAddress"?'],
  ["createUdpSocket", "reuse", 'did you mean "reuseAddress"?'],
  ["retry", "delay", 'did you mean "firstDelay"?'],
  ["retry", "x", "it takes attempts, firstDelay, maxDelay and jitter"],
  ["receive", "timeOut", 'did you mean "timeout"?'],
  ["receive", "constructor", "it takes timeout and signal"],
  ["receive", "toString", "it takes timeout and signal"],
  ["FrameDecoderStream", "limit", "it takes maxMessageBytes"],
];
for (const [owner, name, says] of MEANT) {
  Deno.test(`${owner} options: "${name}" is refused: ${says}`, async () => {
    const subject = SUBJECTS.find((it) => it.name === owner);
    assert(subject);
    const { message } = await thrown(() => subject.call({ [name]: NOTHING }));
    assertEquals(
      message,
      `Cannot use "${name}" as an option of ${owner}: ${says}`,
    );
  });
}

Deno.test("options: what stands beside an option is said to each who may mean it", async () => {
  for (const { name: owner, call, cases } of SUBJECTS) {
    for (const name of ["encoding", "max_message_size", "buffer_size"]) {
      const { message } = await thrown(() => call({ [name]: 5 }));
      const says = name === "encoding" || !("maxMessageBytes" in cases)
        ? "it takes "
        : 'did you mean "maxMessageBytes"?';
      assertStringIncludes(message, `option of ${owner}: ${says}`);
    }
  }
});

/** What stands in the place of options, and what the error says. */
const INSTEAD: [owner: string, value: unknown, message: string][] = [
  ["receive", 5.0, "Cannot use 5 as options: write { timeout: 5000 }"],
  [
    "createTcpClient",
    5.0,
    "Cannot use 5 as options: write { connectTimeout: 5000 }",
  ],
  [
    "receive",
    1024, // Python's socket.recv(1024)
    "Cannot use 1024 as options: write { timeout: 1024 }, which is in milliseconds",
  ],
  ["receive", 99, "Cannot use 99 as options: write { timeout: 99000 }"],
  [
    "createTcpClient",
    10_000,
    "Cannot use 10000 as options: write { connectTimeout: 10000 }, which is in milliseconds",
  ],
  ["receive", 0.29, "Cannot use 0.29 as options: write { timeout: 290 }"],
  [
    "receive",
    -1,
    "Cannot use -1 as options: it takes an object with timeout and signal",
  ],
  [
    "FrameEncoderStream",
    5,
    "Cannot use 5 as options: it takes an object with maxMessageBytes",
  ],
  [
    "createUdpSocket",
    LOOPBACK,
    'Cannot use "127.0.0.1" as options: it takes an object with hostname, portOffset, reuseAddress and allow',
  ],
];
for (const [owner, value, message] of INSTEAD) {
  Deno.test(`${owner} options: ${message}`, async () => {
    for (const { name, call } of SUBJECTS) {
      if (name !== owner) continue;
      assertEquals((await thrown(() => call(value))).message, message);
    }
  });
}

/** Arguments as Python and other modules take them, and what the error says. */
const PYTHONIC: [call: (...args: never[]) => unknown, unknown[], string][] = [
  ...[createTcpServer, createUdpSocket].flatMap((call) =>
    [LOOPBACK, "localhost", "::"].map((address): typeof PYTHONIC[number] => [
      call,
      [address, 70_002, NOTHING],
      `Cannot use "${address}" as a communication port: it takes an integer from 70000 to 71000; the address to listen on is the option hostname`,
    ])
  ),
  ...[
    [createTcpServer, ["70001"]] as const,
    [createUdpSocket, ["70001"]] as const,
    [createTcpClient, [LOOPBACK, "70001"]] as const,
  ].map(([call, args]): typeof PYTHONIC[number] => [
    call,
    [...args],
    'Cannot use "70001" as a communication port: it takes an integer from 70000 to 71000; write 70001 without quotes, or Number(port)',
  ]),
  ...["127.0.0.1:70001", "line-pc:70001", "[::1]:70001"]
    .map((ip): typeof PYTHONIC[number] => [
      createTcpClient,
      [ip, 70_001],
      `Cannot use "${ip}" as an IP address: the port is an argument of its own`,
    ]),
];
for (const [call, args, message] of PYTHONIC) {
  const shown = args.map((arg) => Deno.inspect(arg)).join(", ");
  Deno.test(`${call.name}(${shown}) says what goes where`, async () => {
    const error = await thrown(() => call(...args as never[]));
    assertEquals(error.message, message);
  });
}

Deno.test("allow that is a range, or several, names allowCidr()", async () => {
  const range = "192.168.1.0/24";
  for (const { call, cases } of SUBJECTS) {
    if (!("allow" in cases)) continue;
    for (
      const [allow, shown] of [[range, `"${range}"`], [[range], "an array"]]
    ) {
      assertEquals(
        (await thrown(() => call({ allow }))).message,
        `Cannot use ${shown} as allow: write allowCidr("${range}")`,
      );
    }
  }
});

/** What looks like options and has none. */
const NO_BAGS: [value: object, shown: string][] = [
  [new Map([["hostname", LOOPBACK]]), "a Map"],
  [new Map(), "a Map"],
  [Object.assign(new Map([["allow", NOTHING]]), HERE), "a Map"],
  [new Set(["hostname"]), "a Set"],
  [Promise.resolve(HERE), "a Promise"],
  [new Date(), "a Date"],
  [new Error("options"), "an Error"],
  [new Uint8Array(), "a Uint8Array"],
  [Object(5), "a Number"],
];
for (const [value, name] of NO_BAGS) {
  Deno.test(`createTcpServer() refuses ${name} as options: ${Deno.inspect(value)}`, async () => {
    const error = await thrown(() => server(value));
    assertInstanceOf(error, TypeError);
    assertStringIncludes(
      error.message,
      `Cannot use ${name} as options: it takes a plain object with hostname, `,
    );
  });
}

Deno.test("createTcpServer() takes an instance of a class as options", async () => {
  class Settings {
    hostname = LOOPBACK;
    maxClients = 1;
    #secret = 5;
    method(): number {
      return this.#secret;
    }
  }
  using port = freePort();
  await using listening = createTcpServer(port.port, null, new Settings());
  assertEquals(listening.address, [LOOPBACK, port.port]);
  class Wrong extends Settings {
    retries = 5;
  }
  const { message } = await thrown(() => server(new Wrong()));
  assertStringIncludes(message, 'Cannot use "retries" as an option');
});

/** Python's None, for each callback: checked before any test runs. */
const _noCallbacks = [
  {
    onDisconnect: null,
    onReconnect: null,
    onRetry: null,
  } satisfies TCPClientOptions,
  {
    allow: null,
    onConnect: null,
    onDisconnect: null,
    onError: null,
  } satisfies TCPServerOptions,
  { allow: null } satisfies UDPSocketOptions,
];

Deno.test("createTcpServer() with options in the place of the callback says where they go", async () => {
  for (const misplaced of [{}, HERE, { message_callback: NOTHING }]) {
    const error = await thrown(() =>
      createTcpServer(70_001, misplaced as never)
    );
    assertInstanceOf(error, TypeError);
    assertEquals(
      error.message,
      "Cannot use an object as messageCallback: options are the third argument",
    );
  }
});

Deno.test("createTcpServer() takes null as no callback", async () => {
  using port = freePort();
  await using _server = createTcpServer(port.port, null, HERE);
});

Deno.test("readOptions() fills in the defaults, and gives no property that is no option", () => {
  const table = {
    given: (value: unknown) => value ?? "default",
    other: (value: unknown) => value ?? "other",
  };
  const defaults = { given: "default", other: "other" };
  assertEquals(readOptions("test", undefined, table), defaults);
  assertEquals(readOptions("test", {}, table), defaults);
  assertEquals(readOptions("test", { given: 5 }, table), {
    ...defaults,
    given: 5,
  });
  const hidden = Object.defineProperty({ given: 1 }, "hidden", { value: 1 });
  assertEquals(readOptions("test", hidden, table), { ...defaults, given: 1 });
});

// What was lost: a guard

/** Options in which `allow` is no plain property of its own. */
const GUARDED: Record<string, (allow: () => boolean) => object> = {
  "given by a getter": (allow) => ({
    ...HERE,
    get allow() {
      return allow;
    },
  }),
  "inherited": (allow) => Object.assign(Object.create({ allow }), HERE),
  "of a class": (allow) => {
    class Settings {
      readonly hostname = LOOPBACK;
      get allow() {
        return allow;
      }
    }
    return new Settings();
  },
};
for (const [how, guarded] of Object.entries(GUARDED)) {
  Deno.test(`TCPServerOptions.allow ${how} is asked, and its no is a no`, async () => {
    using port = freePort();
    let asked = 0;
    const options = guarded(() => {
      asked++;
      return false;
    });
    const refused = Promise.withResolvers<Error>();
    Object.assign(options, { onError: refused.resolve });
    await using server = createTcpServer(port.port, (text) => text, options);
    await using client = await createTcpClient(LOOPBACK, port.port);
    // A server that did not ask would reply.
    client.send("MOVE").catch(() => {});
    const reply = client.receive().catch(() => "nothing");
    assertEquals(await reply, "nothing");
    assertStringIncludes((await refused.promise).message, "it is not allowed");
    assertEquals([asked, server.stats.messagesIn], [1, 0]);
  });

  Deno.test(`UDPSocketOptions.allow ${how} is asked, and its no is a no`, async () => {
    using port = freePort();
    using other = freePort();
    const senders: number[] = [];
    const options = guarded(() => senders.push(1) > 1);
    using socket = createUdpSocket(port.port, options);
    using sender = createUdpSocket(other.port, HERE);
    await sender.send("MOVE", [LOOPBACK, port.port]);
    await sender.send("STOP", [LOOPBACK, port.port]);
    assertEquals((await socket.receive())?.[0], "STOP");
    assertEquals([senders.length, socket.stats.datagramsDropped], [2, 1]);
  });
}

Deno.test("createTcpServer() shows no more of a long text than its first line", () => {
  const key = `-----BEGIN PRIVATE KEY-----\n${"A".repeat(300)}`;
  const error = assertThrows(
    () => createTcpServer(70001, undefined, { tls: key as never }),
    TypeError,
  );
  assertEquals(
    error.message,
    'Cannot use "-----BEGIN PRIVATE KEY-----…" as tls: it takes { cert, key, handshakeTimeout }',
  );
});
