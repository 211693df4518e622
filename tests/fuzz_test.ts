// Why: what comes in is anybody's, and what a script passes in may be wrong: both
// must have one outcome that was thought of.

import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import { deadline } from "@std/async";
import {
  type Address,
  allowCidr,
  ClosedError,
  createTcpClient,
  createTcpServer,
  createUdpSocket,
  FrameDecoderStream,
  FrameEncoderStream,
  MessageTooLargeError,
  type TCPClient,
  type TCPServer,
  type UDPSocket,
  wirePort,
} from "../mod.ts";
import { fuzzDecoder, fuzzSockets, newSeed } from "./_fuzz.ts";
import { HERE, LOOPBACK } from "./_machine.ts";
import { freePort } from "./_ports.ts";
import { PATIENCE } from "./_process.ts";
import { MIB, shown } from "./_served.ts";

Deno.test("FrameDecoder does with 20,000 random byte streams what a simple decoder does", () => {
  fuzzDecoder(20_000, newSeed());
});

Deno.test("TCPServer and TCPClient do with 400 random byte streams what a simple decoder does", async () => {
  await fuzzSockets(400, newSeed());
});

// bad arguments

/** What bad arguments are given to. */
interface Subject {
  client: TCPClient;
  server: TCPServer;
  udp: UDPSocket;
  /** The client, as the server knows it. */
  address: Address;
  /** A port on which nothing listens. */
  free: number;
}

/** Makes one, and does with it what it is for. */
async function withSubject(
  body: (subject: Subject) => Promise<void>,
): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const [tcp, udp, free] = [1, 2, 3].map(() => stack.use(freePort()).port);
  assert(tcp && udp && free);
  const known = Promise.withResolvers<Address>();
  const server = stack.use(createTcpServer(tcp, (text) => text, {
    ...HERE,
    onConnect: known.resolve,
  }));
  const client = stack.use(await createTcpClient(LOOPBACK, tcp));
  const address = await known.promise;
  const subject = {
    ...{ client, server, address, free },
    udp: stack.use(createUdpSocket(udp, HERE)),
  };
  await assertUsable(subject, "at first");
  await body(subject);
  // And nothing listens on the free port.
  await using _server = createTcpServer(free, undefined, HERE);
  using _udp = createUdpSocket(free, HERE);
}

async function assertUsable(
  { client, server, udp, address }: Subject,
  text: string,
): Promise<void> {
  await client.send(text);
  assertEquals(await client.receive({ timeout: PATIENCE }), text);
  await server.send(text, address);
  assertEquals(await client.receive({ timeout: PATIENCE }), text);
  await udp.send(text, udp.address);
  assertEquals(await udp.receive({ timeout: PATIENCE }), [text, udp.address]);
}

type ErrorClass = abstract new (...args: never[]) => Error;

interface Case {
  value: unknown;
  error: ErrorClass;
  says: string;
  run: (subject: Subject, value: never) => unknown;
}

/** By the function that is called. */
const cases = new Map<string, Case[]>();

/** Bad values of an argument, and what is thrown. */
function bad(
  where: string,
  values: readonly unknown[],
  error: ErrorClass,
  says: string | ((value: unknown) => string),
  run: Case["run"],
): void {
  const known = cases.get(where) ?? [];
  for (const value of values) {
    const text = typeof says === "string" ? says : says(value);
    known.push({ value, error, says: text, run });
  }
  cases.set(where, known);
}

const as = (name: string) => (value: unknown) =>
  `Cannot use ${shown(value)} as ${name}`;
const cannot = (verb: string) => (value: unknown) =>
  `Cannot ${verb} ${shown(value)}`;

const NOTHING = () => {};
const symbol = Symbol("bad");

/** What is no number, and what is none that counts things. */
const NO_NUMBERS = ["5", null, {}, [5], true, 5n, symbol, NOTHING];
const NO_TIMES = [-1, -0.5, NaN, -Infinity];
const NO_COUNTS = [0, -1, 1.5, NaN, Infinity];
const NO_PORTS = [
  ...[69_999, 71_001, 70_000.5, NaN, Infinity, -Infinity, -70_001, 0, 4465],
  ...["70001", "", null, undefined, true, {}, [70_001], 70_001n, symbol],
];
const NO_OFFSETS = [
  ...[0, -5464, -70_000, -65_536.5, NaN, Infinity, "-65536", null, true, {}],
];
const NO_HOSTS = ["", 5, null, true, {}, [], [LOOPBACK], symbol, NOTHING];
const NO_ADDRESSES = [
  ...[undefined, null, 70_001, "127.0.0.1:70001", {}, [], [LOOPBACK]],
  [LOOPBACK, 70_001, 1],
];
const NO_TEXTS = [
  ...[undefined, null, 5, true, 5n, symbol, {}, [], NOTHING],
  new Uint8Array(1),
];
const NO_OPTIONS = [5, "5", null, true, 5n, symbol, NOTHING];
const NO_FUNCTIONS = [5, "5", true, {}, [NOTHING]];
const NO_SIGNALS = [5, "5", true, {}, NOTHING];
const LONE = ["\ud800", "a\udfffb"];
const ENDED = ["\x03", "a\x03", "\x03b"];

// ports, offsets and hosts

const ofPort: [string, Case["run"]][] = [
  ["wirePort()", (_, port) => wirePort(port)],
  ["createTcpClient()", (_, port) => createTcpClient(LOOPBACK, port)],
  ["createTcpServer()", (_, port) => createTcpServer(port, NOTHING, HERE)],
  ["createUdpSocket()", (_, port) => createUdpSocket(port, HERE)],
  ["UDPSocket.send()", ({ udp }, port) => udp.send("x", [LOOPBACK, port])],
];
for (const [where, run] of ofPort) {
  bad(where, NO_PORTS, RangeError, as("a communication port"), run);
}

/** The functions with options, given one of them. */
const create = {
  client: (name: string): Case["run"] => ({ server }, value) =>
    createTcpClient(LOOPBACK, server.address[1], { [name]: value }),
  server: (name: string): Case["run"] => ({ free }, value) =>
    createTcpServer(free, NOTHING, { ...HERE, [name]: value }),
  udp: (name: string): Case["run"] => ({ free }, value) =>
    createUdpSocket(free, { ...HERE, [name]: value }),
};
const WHERE = {
  client: "createTcpClient()",
  server: "createTcpServer()",
  udp: "createUdpSocket()",
} as const;

function badOption(
  kinds: readonly (keyof typeof create)[],
  name: string,
  values: readonly unknown[],
  error: ErrorClass,
  says: string | ((value: unknown) => string) = as(name),
): void {
  for (const kind of kinds) {
    bad(WHERE[kind], values, error, says, create[kind](name));
  }
}

const ALL = ["client", "server", "udp"] as const;
badOption(ALL, "portOffset", NO_OFFSETS, RangeError);
bad("wirePort()", NO_OFFSETS, RangeError, as("portOffset"), (_, offset) => {
  wirePort(70_001, offset);
});
badOption(["server", "udp"], "hostname", NO_HOSTS, TypeError);

const ofHost: [string, Case["run"]][] = [
  ["createTcpClient()", (_, ip) => createTcpClient(ip, 70_001)],
  ["UDPSocket.send()", ({ udp }, ip) => udp.send("x", [ip, 70_001])],
  ["TCPServer.send()", ({ server }, ip) => server.send("x", [ip, 70_001])],
];
for (const [where, run] of ofHost) {
  bad(where, NO_HOSTS, TypeError, as("an IP address"), run);
}

const ofAddress: [string, Case["run"]][] = [
  ["UDPSocket.send()", ({ udp }, address) => udp.send("x", address)],
  ["TCPServer.send()", ({ server }, address) => server.send("x", address)],
];
for (const [where, run] of ofAddress) {
  bad(where, NO_ADDRESSES, TypeError, as("an address"), run);
}
bad(
  "TCPServer.send()",
  [[LOOPBACK, 70_001], [LOOPBACK, 1], ["::1", 70_001], ["no-name", 1]],
  ClosedError,
  "no such client is connected",
  ({ server }, address) => server.send("x", address),
);

// options

const ofOptions: [string, Case["run"]][] = [
  [WHERE.client, (_, it) => createTcpClient(LOOPBACK, 70_001, it)],
  [WHERE.server, ({ free }, it) => createTcpServer(free, NOTHING, it)],
  [WHERE.udp, ({ free }, it) => createUdpSocket(free, it)],
  ["TCPClient.receive()", ({ client }, it) => client.receive(it)],
  ["UDPSocket.receive()", ({ udp }, it) => udp.receive(it)],
  ["FrameDecoderStream", (_, it) => new FrameDecoderStream(it)],
  ["FrameEncoderStream", (_, it) => new FrameEncoderStream(it)],
];
for (const [where, run] of ofOptions) {
  bad(where, NO_OPTIONS, TypeError, as("options"), run);
}

const TCP = ["client", "server"] as const;
const NO_SIZES = [...NO_COUNTS, 2 ** 29];
badOption(TCP, "maxMessageBytes", NO_SIZES, RangeError);
badOption(TCP, "maxMessageBytes", NO_NUMBERS, TypeError);
badOption(TCP, "maxSendBufferBytes", NO_COUNTS, RangeError);
badOption(TCP, "maxSendBufferBytes", NO_NUMBERS, TypeError);
badOption(["server"], "maxClients", NO_COUNTS, RangeError);
badOption(["server"], "maxClients", NO_NUMBERS, TypeError);
badOption(TCP, "idleTimeout", NO_TIMES, RangeError);
badOption(TCP, "idleTimeout", NO_NUMBERS, TypeError);
badOption(["client"], "connectTimeout", [0, ...NO_TIMES], RangeError);
badOption(["client"], "connectTimeout", NO_NUMBERS, TypeError);
badOption(TCP, "onDisconnect", NO_FUNCTIONS, TypeError);
badOption(["client"], "onReconnect", NO_FUNCTIONS, TypeError);
badOption(["client"], "onRetry", NO_FUNCTIONS, TypeError);
badOption(["server"], "onConnect", NO_FUNCTIONS, TypeError);
badOption(["server"], "onError", NO_FUNCTIONS, TypeError);
badOption(["server", "udp"], "allow", NO_FUNCTIONS, TypeError);
badOption(["client"], "signal", NO_SIGNALS, TypeError);
badOption(["udp"], "reuseAddress", [5, "yes", {}], TypeError);
bad(
  WHERE.server,
  NO_FUNCTIONS,
  TypeError,
  as("messageCallback"),
  ({ free }, callback) => createTcpServer(free, callback, HERE),
);
for (
  const [name, Stream] of Object.entries({
    FrameDecoderStream,
    FrameEncoderStream,
  })
) {
  const run: Case["run"] = (_, maxMessageBytes) =>
    new Stream({ maxMessageBytes });
  bad(name, NO_SIZES, RangeError, as("maxMessageBytes"), run);
  bad(name, NO_NUMBERS, TypeError, as("maxMessageBytes"), run);
}

for (const name of ["retry", "reconnect"]) {
  badOption(["client"], name, [5, "5", null, NOTHING], TypeError);
  const part = (key: string, values: unknown[], error: ErrorClass) =>
    bad(
      WHERE.client,
      values,
      error,
      as(`${name}.${key}`),
      ({ server }, value) =>
        createTcpClient(LOOPBACK, server.address[1], {
          [name]: { [key]: value },
        }),
    );
  part("attempts", [0, -1, 1.5, NaN, -Infinity], RangeError);
  part("attempts", NO_NUMBERS, TypeError);
  for (const key of ["firstDelay", "maxDelay"]) {
    part(key, NO_TIMES, RangeError);
    part(key, NO_NUMBERS, TypeError);
  }
  part("jitter", [-0.1, 1.1, NaN, Infinity], RangeError);
  part("jitter", NO_NUMBERS, TypeError);
}

badOption(["client"], "tls", [5, "5", null, NOTHING], TypeError);
badOption(["server"], "tls", [5, "5", null, true, NOTHING], TypeError);
/** What is taken for a certificate and a key until it is used. */
const CERT = "-----BEGIN CERTIFICATE-----";
const KEY = "-----BEGIN PRIVATE KEY-----";
/** Parts of `tls`, one of them bad. */
function badTls(
  kind: "client" | "server",
  name: string,
  values: readonly unknown[],
  error: ErrorClass = TypeError,
): void {
  const rest = kind === "server" ? { cert: CERT, key: KEY } : {};
  bad(
    WHERE[kind],
    values,
    error,
    as(`tls.${name}`),
    (subject, value) =>
      create[kind]("tls")(subject, { ...rest, [name]: value } as never),
  );
}
badTls("client", "caCerts", ["x", 5, null, {}]);
bad(
  WHERE.client,
  ["", "ca.pem", KEY, 5, null, {}, ["x"]],
  TypeError,
  as("tls.caCerts[0]: it takes a certificate"),
  (subject, value) =>
    create.client("tls")(subject, { caCerts: [value] } as never),
);
const NO_NAMES = ["", "line PC", "https://line-pc", 5, null, {}, []];
badTls("client", "serverName", NO_NAMES);
badTls("server", "cert", [undefined, "", "cert.pem", KEY, 5, null, {}, []]);
badTls("server", "key", [undefined, "", "key.pem", CERT, 5, null, {}, []]);
badTls("server", "handshakeTimeout", [0, ...NO_TIMES], RangeError);
badTls("server", "handshakeTimeout", NO_NUMBERS);

// waiting

const ofWait: [string, (subject: Subject) => TCPClient | UDPSocket][] = [
  ["TCPClient.receive()", ({ client }) => client],
  ["UDPSocket.receive()", ({ udp }) => udp],
];
for (const [where, of] of ofWait) {
  const waits: Case["run"] = (subject, timeout) =>
    of(subject).receive({ timeout });
  bad(where, NO_TIMES, RangeError, as("timeout"), waits);
  bad(where, NO_NUMBERS, TypeError, as("timeout"), waits);
  bad(
    where,
    NO_SIGNALS,
    TypeError,
    as("signal"),
    (subject, signal) => of(subject).receive({ signal, timeout: 0 }),
  );
}

// messages

async function encode(message: string): Promise<void> {
  await Array.fromAsync(
    ReadableStream.from([message]).pipeThrough(new FrameEncoderStream()),
  );
}

const ofText: [string, number, Case["run"]][] = [
  ["TCPClient.send()", MIB, ({ client }, text) => client.send(text)],
  [
    "TCPServer.send()",
    MIB,
    ({ server, address }, text) => server.send(text, address),
  ],
  ["TCPServer.sendToAll()", MIB, ({ server }, text) => server.sendToAll(text)],
  ["UDPSocket.send()", 65_507, ({ udp }, text) => udp.send(text, udp.address)],
  ["FrameEncoderStream", MIB, (_, text) => encode(text)],
];
for (const [where, limit, run] of ofText) {
  bad(where, NO_TEXTS, TypeError, cannot("send"), run);
  bad(where, LONE, TypeError, "lone surrogate", run);
  bad(
    where,
    ["x".repeat(limit + 1), "€".repeat(Math.ceil((limit + 1) / 3))],
    MessageTooLargeError,
    (text) => {
      const size = new TextEncoder().encode(String(text)).length;
      return `of ${size} bytes: the limit is ${limit} bytes`;
    },
    run,
  );
  if (where !== "UDPSocket.send()") {
    bad(where, ENDED, TypeError, "U+0003", run);
  }
}
bad(
  "FrameDecoderStream",
  ["x", 5, null, {}, [3], new ArrayBuffer(1)],
  TypeError,
  cannot("decode"),
  async (_, chunk) => {
    await Array.fromAsync(
      ReadableStream.from([chunk]).pipeThrough(new FrameDecoderStream()),
    );
  },
);

// ranges of addresses

bad(
  "allowCidr()",
  [
    ...[undefined, null, 5, {}, [], symbol, "", "x", "localhost", "1.2.3"],
    ...["1.2.3.4.5", "256.1.1.1", "1.2.3.4/33", "1.2.3.4/-1", "1.2.3.4/"],
    ...["1.2.3.4/a", "1.2.3.4/8/8", "::/129", "::1/", ":::1", "[::1]", "g::"],
  ],
  TypeError,
  as("a range"),
  (_, range) => allowCidr("127.0.0.1", range),
);
bad("allowCidr()", [[]], TypeError, "at least one range", (_, none) => {
  allowCidr(...none as string[]);
});

async function thrown(run: () => unknown): Promise<unknown> {
  try {
    return { returned: await deadline((async () => await run())(), PATIENCE) };
  } catch (error) {
    return error;
  }
}

for (const [where, table] of cases) {
  Deno.test(`${where} refuses each of ${table.length} bad arguments, and all works on`, async () => {
    await withSubject(async (subject) => {
      for (const [i, { value, error, says, run }] of table.entries()) {
        const what = `${where} ${i}: ${shown(value).slice(0, 40)}: ${says}`;
        const actual = await thrown(() => run(subject, value as never));
        assertInstanceOf(actual, Error, what);
        assertEquals([actual.constructor, what], [error, what]);
        assert(actual.message.includes(says), `${what}: ${actual.message}`);
        await assertUsable(subject, what);
      }
    });
  });
}

Deno.test("The table of bad arguments has 150 cases at least", () => {
  const count = [...cases.values()].flat().length;
  assert(count >= 150);
  console.log(`${count} bad arguments of ${cases.size} functions`);
});
