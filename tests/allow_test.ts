// Why: who is let in is decided here, so every form of an address, every answer
// and every way to fail has to end in a refusal unless it is a plain yes.

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import fc from "fast-check";
import {
  type Address,
  allowCidr,
  ClosedError,
  CommunicationError,
  createTcpServer,
  createUdpSocket,
  type TCPServerOptions,
  type UDPSocket,
  type UDPSocketOptions,
} from "../mod.ts";
import { Authority } from "./_certificates.ts";
import { hasIpv6 } from "./_machine.ts";
import { freePort } from "./_ports.ts";
import { ask, HERE, LOOPBACK, Queue, Served, test } from "./_served.ts";

// allowCidr(), against sixteen bytes written out by hand

type Bytes = number[];

const MAPPED: Bytes = [...Array(10).fill(0), 0xff, 0xff];

/** Whether the first bits of two addresses are the same: bit by bit. */
function shares(a: Bytes, b: Bytes, bits: number): boolean {
  for (let bit = 0; bit < bits; bit++) {
    const at = bit >> 3;
    const mask = 0x80 >> (bit & 7);
    if (((a[at] ?? 0) & mask) !== ((b[at] ?? 0) & mask)) return false;
  }
  return true;
}

const to4 = (bytes: Bytes) => bytes.slice(-4).join(".");

function to6(bytes: Bytes): string {
  const groups: string[] = [];
  for (let at = 0; at < 16; at += 2) {
    groups.push(((bytes[at] ?? 0) << 8 | (bytes[at + 1] ?? 0)).toString(16));
  }
  return groups.join(":");
}

/** With the longest run of zeros left out, as systems write addresses. */
function toShort(bytes: Bytes): string {
  const text = to6(bytes);
  const runs = [...text.matchAll(/(?:^|:)0(?::0)+(?=:|$)/g)]
    .sort((a, b) => b[0].length - a[0].length);
  const run = runs[0];
  if (!run) return text;
  const head = text.slice(0, run.index);
  const tail = text.slice(run.index + run[0].length + 1);
  return `${head}::${tail}`;
}

const byte = fc.integer({ min: 0, max: 255 });
const ipv4: fc.Arbitrary<Bytes> = fc.array(byte, {
  minLength: 4,
  maxLength: 4,
}).map((bytes) => [...MAPPED, ...bytes]);
/** Zeros and full bytes are where the short forms and the masks are. */
const someByte = fc.oneof(byte, fc.constantFrom(0, 0, 0xff));
const ipv6: fc.Arbitrary<Bytes> = fc.array(someByte, {
  minLength: 16,
  maxLength: 16,
}).filter((bytes) => !shares(bytes, MAPPED, 96));

/** An address, and how one may write it. */
const written: fc.Arbitrary<[Bytes, string]> = fc.oneof(
  ipv4.chain((bytes) =>
    fc.constantFrom(
      to4(bytes),
      `::ffff:${to4(bytes)}`,
      `::FFFF:${to4(bytes)}`,
      to6(bytes),
    ).map((text): [Bytes, string] => [bytes, text])
  ),
  ipv6.chain((bytes) =>
    fc.constantFrom(to6(bytes), toShort(bytes), to6(bytes).toUpperCase())
      .map((text): [Bytes, string] => [bytes, text])
  ),
);

interface Range {
  text: string;
  base: Bytes;
  /** Of the 128 bits. */
  prefix: number;
}

const range: fc.Arbitrary<Range> = fc.oneof(
  fc.tuple(ipv4, fc.integer({ min: 0, max: 32 })).map(([base, prefix]) => ({
    text: `${to4(base)}/${prefix}`,
    base,
    prefix: 96 + prefix,
  })),
  fc.tuple(ipv6, fc.integer({ min: 0, max: 128 })).map(([base, prefix]) => ({
    text: `${toShort(base)}/${prefix}`,
    base,
    prefix,
  })),
  fc.tuple(ipv4, fc.integer({ min: 96, max: 128 })).map(([base, prefix]) => ({
    text: `::ffff:${to4(base)}/${prefix}`,
    base,
    prefix,
  })),
  written.map(([base, text]) => ({ text, base, prefix: 128 })),
);

Deno.test("allowCidr() allows what a comparison bit by bit does", () => {
  const ranges = fc.array(range, { minLength: 1, maxLength: 4 });
  fc.assert(
    fc.property(ranges, written, (ranges, [bytes, text]) => {
      const allow = allowCidr(...ranges.map(({ text }) => text));
      // A short IPv6 prefix takes in no IPv4 address, but for ::/0.
      const isIpv4 = shares(bytes, MAPPED, 96);
      const expected = ranges.some(({ base, prefix }) =>
        shares(base, bytes, prefix) &&
        !(isIpv4 && prefix > 0 && prefix < 96)
      );
      assertEquals(allow([text, 70001]), expected);
    }),
    { numRuns: 2_000 },
  );
});

Deno.test("allowCidr() allows an address and its neighbour as far as the prefix goes", () => {
  fc.assert(
    fc.property(range, byte, ({ text, base, prefix }, at) => {
      const bit = at % 128;
      const neighbour = [...base];
      neighbour[bit >> 3] = (neighbour[bit >> 3] ?? 0) ^ (0x80 >> (bit & 7));
      const allow = allowCidr(text);
      assert(allow([to6(base), 1]), "the address itself");
      assertEquals(allow([to6(neighbour), 1]), bit >= prefix);
    }),
    { numRuns: 2_000 },
  );
});

/** Ranges, addresses in them, addresses outside. */
const TABLE: [ranges: string[], inside: string[], outside: string[]][] = [
  [["0.0.0.0/0"], ["0.0.0.0", "255.255.255.255", "::ffff:1.2.3.4"], [
    "::1",
    "::",
    "::1.2.3.4",
    "2001:db8::1",
  ]],
  [["::/0"], ["::1", "2001:db8::1", "10.0.0.1", "::ffff:10.0.0.1"], []],
  [["192.168.1.0/24"], [
    "192.168.1.0",
    "192.168.1.255",
    "::ffff:192.168.1.7",
    "::ffff:c0a8:107",
    "0:0:0:0:0:ffff:c0a8:0107",
  ], ["192.168.0.255", "192.168.2.0", "::c0a8:107", "::ffff:192.168.2.7"]],
  [["192.168.1.77/24"], ["192.168.1.1"], ["192.168.2.77"]],
  [["10.0.0.0/31"], ["10.0.0.0", "10.0.0.1"], ["10.0.0.2"]],
  [["10.0.0.1/32"], ["10.0.0.1", "::ffff:10.0.0.1"], ["10.0.0.0", "10.0.0.2"]],
  [["10.0.0.1"], ["10.0.0.1"], ["10.0.0.0", "110.0.0.1", "10.0.0.10"]],
  [["128.0.0.0/1"], ["128.0.0.0", "255.0.0.1"], ["127.255.255.255"]],
  [["::ffff:192.168.1.0/120"], ["192.168.1.7", "::ffff:192.168.1.7"], [
    "192.168.2.7",
  ]],
  [["::ffff:0:0/96"], ["1.2.3.4", "::ffff:1.2.3.4"], ["::1", "fd00::1"]],
  [["fd00::/64"], ["fd00::1", "fd00::ffff:1", "FD00::1"], [
    "fd00:0:0:1::1",
    "fe80::1",
  ]],
  [["fe80::/10"], ["fe80::1", "febf::1", "fe80::1%eth0"], ["fec0::1"]],
  [["::1"], ["::1", "0:0:0:0:0:0:0:1"], ["::2", "::", "127.0.0.1"]],
  [["::1/128"], ["::1"], ["::"]],
  [["192.168.1.0/24", "fd00::/64", "127.0.0.1"], [
    "192.168.1.9",
    "fd00::9",
    "127.0.0.1",
  ], ["127.0.0.2", "fd01::9", "192.168.9.1"]],
];

for (const [ranges, inside, outside] of TABLE) {
  Deno.test(`allowCidr(${ranges.join(", ")}) allows what is inside and nothing else`, () => {
    const allow = allowCidr(...ranges);
    assertEquals(inside.filter((ip) => !allow([ip, 70001])), []);
    assertEquals(outside.filter((ip) => allow([ip, 70001])), []);
  });
}

Deno.test("allowCidr() allows nothing that is no address", () => {
  const allow = allowCidr("0.0.0.0/0", "::/0");
  for (
    const ip of [
      "",
      "robot",
      "localhost",
      "::g",
      "1.2.3.4.5",
      "1.2.3.256",
      "1.2.3.4/32",
      "1.2.3.4:80",
      "me@1.2.3.4",
      " 1.2.3.4",
      // What programs do not read alike.
      "1.2.3.04",
      "01.2.3.4",
      "1.2.3.0x4",
      "1.2.3",
      "16909060",
      "[::1",
    ]
  ) {
    assertEquals([ip, allow([ip, 1])], [ip, false]);
  }
});

Deno.test("allowCidr() refuses what is no range", () => {
  const bad: unknown[] = [
    "",
    " ",
    "192.168.1.0/",
    "192.168.1.0/33",
    "192.168.1.0/-1",
    "192.168.1.0/+1",
    "192.168.1.0/1.0",
    "192.168.1.0/1e1",
    "192.168.1.0/0x8",
    "192.168.1.0/255.255.255.0",
    "192.168.1.0/24/24",
    "192.168.1.0 /24",
    " 192.168.1.0/24",
    "192.168.1.0/24\n",
    "192.168.1.0/24,10.0.0.0/8",
    "192.168.1/24",
    "192.168.1.0.0/24",
    "192.168.1.256",
    "192.168.1.-1",
    "0x7f.0.0.1",
    "3232235776",
    "/24",
    "*",
    "192.168.1.*",
    "::/129",
    "fd00::/1000",
    "fd00::1::2",
    "fd00:/64",
    "fd00:::/64",
    "12345::",
    "1:2:3:4:5:6:7",
    "1:2:3:4:5:6:7:8:9",
    "::ffff:1.2.3",
    "::ffff:1.2.3.256",
    "[::1]",
    "fe80::1%eth0",
    "localhost",
    "robot.test/24",
    "abc",
    undefined,
    null,
    24,
    {},
    ["192.168.1.0/24"],
  ];
  for (const one of bad) {
    assertThrows(
      () => allowCidr("10.0.0.0/8", one as string),
      TypeError,
      "as a range",
      `${JSON.stringify(one)}`,
    );
  }
  assertThrows(() => allowCidr(), TypeError, "at least one range");
});

/** What is no range, and why. */
const REFUSED: [range: string, why: string][] = [
  ...[
    "192.168.001.010",
    "010.0.0.0/8",
    "10.0.0.00/8",
    "00.0.0.0/0",
    "192.168.1.08",
    "0377.0.0.1",
    "010.1",
    "::ffff:192.168.1.010",
    "::ffff:010.0.0.1",
    "10.0.0.0/08",
    "10.0.0.0/010",
    "fd00::/064",
    "10.0.0.0/00",
  ].map((range): [string, string] => [
    range,
    "some programs read numbers with leading zeros as octal",
  ]),
  ...[
    "0x7f.1",
    "0x7f.0.0.1",
    "10.1",
    "10.0.1/24",
    "2130706433",
    "cell",
    "::g/64",
  ]
    .map((range): [string, string] => [
      range,
      'it takes an IP address such as "192.168.1.7" or "fd00::7", with or without a prefix such as "/24"',
    ]),
  ["10.0.0.0/33", "it takes a prefix of 0 to 32 bits"],
  ["10.0.0.0/", "it takes a prefix of 0 to 32 bits"],
  ["fd00::/129", "it takes a prefix of 0 to 128 bits"],
];

for (const [range, why] of REFUSED) {
  Deno.test(`allowCidr() refuses ${range} and says why`, () => {
    const error = assertThrows(() => allowCidr(range), TypeError);
    assertEquals(
      error.message,
      `Cannot use ${JSON.stringify(range)} as a range: ${why}`,
    );
  });
}

Deno.test("allowCidr() takes zeros that mean nothing else", () => {
  assert(allowCidr("0.0.0.0/0")(["10.0.0.1", 1]));
  assert(allowCidr("10.0.0.0/8")(["10.0.0.1", 1]));
  assert(allowCidr("fd00:0000:0010::0/64")(["fd00:0:10::1", 1]));
});

Deno.test("allowCidr() lets no IPv4 address in by an IPv6 range", () => {
  for (const range of ["::/1", "::/64", "::1/64", "::/95"]) {
    const allow = allowCidr(range);
    for (const ip of ["203.0.113.9", "::ffff:203.0.113.9"]) {
      assertEquals(allow([ip, 1]), false, `${ip} in ${range}`);
    }
    assertEquals(allow(["::1", 1]), true, range);
  }
});

Deno.test("allowCidr() refuses an IPv4-mapped range with the prefix of an IPv4 one", () => {
  assertThrows(
    () => allowCidr("::ffff:192.168.1.0/24"),
    TypeError,
    "it takes a prefix of 96 to 128 bits",
  );
  const allow = allowCidr("::ffff:192.168.1.0/120");
  assertEquals(allow(["192.168.1.7", 1]), true);
  assertEquals(allow(["::ffff:192.168.1.7", 1]), true);
  assertEquals(allow(["192.168.2.7", 1]), false);
});

// Servers

/** Every answer of allow() that is no yes. */
const REFUSALS: Record<string, { allow: () => unknown; text: string }> = {
  "returns false": { allow: () => false, text: "it is not allowed" },
  "throws an Error": {
    allow: () => {
      throw new RangeError("boom");
    },
    text: "allow() failed: boom",
  },
  "throws something else": {
    allow: () => {
      throw 7;
    },
    text: "allow() failed: 7",
  },
  "throws null": {
    allow: () => {
      throw null;
    },
    text: "allow() failed: null",
  },
  "throws an Error whose message is no text": {
    allow: () => {
      throw Object.assign(new Error(), { message: { code: 7 } });
    },
    text: "allow() failed: [object Object]",
  },
  "throws what has no text": {
    allow: () => {
      throw Object.create(null);
    },
    text: "allow() failed: an error that can't be shown",
  },
  "returns a promise of true": {
    allow: () => Promise.resolve(true),
    text: "neither true nor false",
  },
  "returns a promise that rejects": {
    allow: () => Promise.reject(new Error("later")),
    text: "neither true nor false",
  },
  "returns nothing": { allow: () => {}, text: "neither true nor false" },
  "returns null": { allow: () => null, text: "neither true nor false" },
  "returns 1": { allow: () => 1, text: "neither true nor false" },
  "returns a string": { allow: () => "true", text: "neither true nor false" },
  "returns a Boolean object": {
    allow: () => Object(true),
    text: "neither true nor false",
  },
};

type Allow = NonNullable<TCPServerOptions["allow"]>;

for (const [what, { allow, text }] of Object.entries(REFUSALS)) {
  test(`TCPServerOptions.allow that ${what} refuses the client`, async () => {
    await using served = new Served((message) => message, {
      allow: allow as Allow,
    });
    const { server, errors, connected, disconnected } = served;
    using peer = await served.peer();
    assert(await peer.ended());
    const [error, address] = await errors.next();
    assertEquals(address, peer.address);
    assertInstanceOf(error, Error);
    const [ip, port] = peer.address;
    assertStringIncludes(error.message, `Cannot serve ${ip}:${port}: `);
    assertStringIncludes(error.message, text);
    assertEquals(connected.all, []);
    assertEquals(disconnected.all, []);
    assertEquals(server.getConnectedClients(), []);
    const { connectionsAccepted, connectionsRefused } = server.stats;
    assertEquals([connectionsAccepted, connectionsRefused], [0, 1]);
  });
}

test("TCPServerOptions.allow that throws gives onError its error as the cause", async () => {
  const boom = new RangeError("boom");
  await using served = new Served(undefined, {
    allow: () => {
      throw boom;
    },
  });
  using _peer = await served.peer();
  const [error] = await served.errors.next();
  assertInstanceOf(error, CommunicationError);
  assertStrictEquals(error.cause, boom);
});

test("TCPServerOptions.allow is asked with the client's address before anything is read", async () => {
  const asked = new Queue<[Address, number]>();
  let answer = false;
  await using served = new Served((message) => message, {
    allow: (client) => {
      asked.put([client, served.server.stats.bytesIn]);
      return answer;
    },
  });
  using refused = await served.peer();
  // The server may be gone already.
  await refused.write("Hello\x03".repeat(1_000)).catch(() => {});
  assertEquals(await asked.next(), [refused.address, 0]);
  assert(await refused.ended());
  await served.errors.next();
  assertEquals(served.server.stats.bytesIn, 0);
  assertEquals(served.server.stats.messagesIn, 0);

  answer = true;
  await using client = await served.client();
  assertEquals(await ask(client, "Hello"), "Hello");
  assertEquals(await asked.next(), [client.localAddress, 0]);
  assertEquals(asked.rest(), []);
});

test("TCPServerOptions.allow lets some in while it refuses others, in between", async () => {
  let turn = 0;
  await using served = new Served((message) => message, {
    allow: () => turn++ % 2 === 0,
  });
  for (let n = 0; n < 10; n++) {
    await using client = await served.client();
    assertEquals(await ask(client, `${n}`), `${n}`);
    using peer = await served.peer();
    assert(await peer.ended());
    await served.errors.next();
  }
  const { connectionsAccepted, connectionsRefused } = served.server.stats;
  assertEquals([connectionsAccepted, connectionsRefused], [10, 10]);
});

test("TCPServerOptions.allow does not take a place of maxClients", async () => {
  let allowed = false;
  await using served = new Served((message) => message, {
    maxClients: 1,
    allow: () => allowed,
  });
  for (let n = 0; n < 3; n++) {
    using peer = await served.peer();
    assert(await peer.ended());
    await served.errors.next();
  }
  allowed = true;
  await using client = await served.client();
  assertEquals(await ask(client, "Hello"), "Hello");
});

test("TCPServerOptions.allow may stop the server or ask it anything", async () => {
  await using served = new Served(undefined, {
    allow: () => {
      served.server.sendToAll("someone comes");
      served.server.getConnectedClients();
      served.server.stop();
      return true;
    },
  });
  using peer = await served.peer();
  assert(await peer.ended());
  await served.server.finished;
});

test("TCPServerOptions.allow may stop a server with tls, which waits for no handshake", async () => {
  const authority = await Authority.create("Cell");
  const certificate = await authority.issue([LOOPBACK]);
  await using served = new Served(undefined, {
    // Whoever waits for it waits longer than this test may take.
    tls: { ...certificate, handshakeTimeout: 3_600_000 },
    allow: () => {
      served.server.stop();
      return true;
    },
  });
  using _peer = await served.peer();
  await served.server.finished;
  assertEquals(served.connected.all, []);
});

test("TCPServerOptions.allow refuses a client before its TLS handshake", async () => {
  const authority = await Authority.create("Cell");
  const certificate = await authority.issue([LOOPBACK]);
  const tls = { caCerts: [authority.cert] };
  let allowed = false;
  await using served = new Served((message) => message, {
    tls: certificate,
    allow: () => allowed,
  });
  await assertRejects(async () => {
    await using client = await served.client({ tls });
    await client.receive();
  });
  const [error] = await served.errors.next();
  assertStringIncludes(error.message, "it is not allowed");
  assertEquals(served.connected.all, []);
  assertEquals(served.server.stats.connectionsAccepted, 0);
  assertEquals(served.server.stats.connectionsRefused, 1);
  allowed = true;
  await using client = await served.client({ tls });
  assertEquals(await ask(client, "Hello"), "Hello");
});

test("allowCidr() lets a client of a server in, or not", async () => {
  await using near = new Served((message) => message, {
    allow: allowCidr("127.0.0.0/8"),
  });
  await using client = await near.client();
  assertEquals(await ask(client, "Hello"), "Hello");
  await using far = new Served((message) => message, {
    allow: allowCidr("192.168.1.0/24", "::1"),
  });
  await using refused = await far.client();
  await assertRejects(() => refused.receive(), ClosedError);
  await far.errors.next();
});

test("allowCidr() lets an IPv4 client of an IPv6 server in, or not", async () => {
  for (
    const [range, inside] of [["127.0.0.0/8", true], ["::1", false]] as const
  ) {
    using port = freePort();
    const errors = new Queue<Error>();
    try {
      await using server = createTcpServer(port.port, (message) => message, {
        hostname: "::",
        allow: allowCidr(range),
        onError: (error) => errors.put(error),
      });
      using conn = await Deno.connect({ ...HERE, port: port.wire });
      await conn.write(new TextEncoder().encode("Hello\x03")).catch(() => {});
      const count = await conn.read(new Uint8Array(10)).catch(() => null);
      assertEquals(count, inside ? 6 : null);
      assertEquals(server.stats.connectionsRefused, inside ? 0 : 1);
    } catch (error) {
      // There may be no IPv6 here.
      if (!(error instanceof Error) || !("code" in error)) throw error;
      assertEquals(hasIpv6(), false, error.message);
    }
  }
});

Deno.test("createTcpServer() and createUdpSocket() refuse an allow that is no function", () => {
  using port = freePort();
  for (const allow of [true, "127.0.0.1", ["127.0.0.1"], {}]) {
    const options = { ...HERE, allow: allow as unknown as Allow };
    for (
      const create of [
        () => createTcpServer(port.port, undefined, options),
        () => createUdpSocket(port.port, options),
      ]
    ) {
      // A range is told what makes a function of it.
      const isRange = typeof allow === "string" || Array.isArray(allow);
      const says = isRange
        ? 'write allowCidr("127.0.0.1")'
        : "it takes a function";
      assertThrows(create, TypeError, `as allow: ${says}`);
    }
  }
});

// Sockets

/** A socket, and others that send to it. */
class Fixture implements Disposable {
  readonly #stack = new DisposableStack();
  readonly #port = this.#stack.use(freePort());
  readonly socket: UDPSocket;

  constructor(options: UDPSocketOptions) {
    const { port } = this.#port;
    this.socket = createUdpSocket(port, { ...HERE, ...options });
    this.#stack.defer(() => this.socket.close());
  }

  get address(): Address {
    return this.socket.address;
  }

  /** Another socket, on this IP address. */
  other(hostname: string): UDPSocket {
    const { port } = this.#stack.use(freePort());
    const socket = createUdpSocket(port, { hostname });
    this.#stack.defer(() => socket.close());
    return socket;
  }

  [Symbol.dispose](): void {
    this.#stack.dispose();
  }
}

test("UDPSocketOptions.allow drops and counts datagrams of others, and lets the rest through", async () => {
  const asked = new Queue<Address>();
  using fixture = new Fixture({
    allow: (sender) => {
      asked.put(sender);
      return sender[0] === "127.0.0.2";
    },
  });
  const { socket, address } = fixture;
  const stranger = fixture.other("127.0.0.3");
  const friend = fixture.other("127.0.0.2");
  for (let n = 0; n < 5; n++) {
    await stranger.send(`let me in ${n}`, address);
    await friend.send(`${n}`, address);
    assertEquals(await socket.receive(), [`${n}`, friend.address]);
  }
  const { datagramsDropped, messagesIn, bytesIn } = socket.stats;
  assertEquals([datagramsDropped, messagesIn, bytesIn], [5, 5, 5]);
  assertEquals(asked.all.length, 10);
  assertEquals(asked.all.filter(([ip]) => ip === "127.0.0.3").length, 5);
});

test("UDPSocketOptions.allow drops datagrams that are not UTF-8 too, without an error", async () => {
  using fixture = new Fixture({ allow: ([ip]) => ip !== "127.0.0.3" });
  const { socket, address } = fixture;
  const raw = Deno.listenDatagram({
    transport: "udp",
    hostname: "127.0.0.3",
    port: 0,
  });
  using stack = new DisposableStack();
  stack.defer(() => raw.close());
  const port = address[1] - 65536;
  await raw.send(Uint8Array.of(0xff), { transport: "udp", ...HERE, port });
  const friend = fixture.other("127.0.0.2");
  await friend.send("Hello", address);
  assertEquals(await socket.receive(), ["Hello", friend.address]);
  const { datagramsDropped, invalidMessages, bytesIn } = socket.stats;
  assertEquals([datagramsDropped, invalidMessages, bytesIn], [1, 0, 5]);
});

test("UDPSocketOptions.allow that drops does not use up the time of receive()", async () => {
  using fixture = new Fixture({ allow: () => false });
  const { socket, address } = fixture;
  const stranger = fixture.other("127.0.0.3");
  for (let n = 0; n < 20; n++) await stranger.send(`${n}`, address);
  assertEquals(await socket.receive({ timeout: 100 }), null);
  assertEquals(socket.stats.datagramsDropped, 20);
  assertEquals(socket.stats.messagesIn, 0);
});

for (const [what, { allow, text }] of Object.entries(REFUSALS)) {
  if (what === "returns false") continue;
  test(`UDPSocketOptions.allow that ${what} drops the datagram and says so once`, async () => {
    let broken = true;
    using fixture = new Fixture({
      allow: () => broken ? allow() as boolean : true,
    });
    const { socket, address } = fixture;
    const sender = fixture.other("127.0.0.2");
    await sender.send("lost", address);
    const error = await assertRejects(() => socket.receive(), Error, text);
    assertStringIncludes(error.message, "127.0.0.2");
    assertEquals(socket.stats.datagramsDropped, 1);
    broken = false;
    await sender.send("Hello", address);
    assertEquals(await socket.receive(), ["Hello", sender.address]);
    assertEquals(socket.stats.messagesIn, 1);
  });
}

test("UDPSocketOptions.allow keeps strangers from being answered", async () => {
  using fixture = new Fixture({ allow: () => false });
  const raw = Deno.listenDatagram({ transport: "udp", ...HERE, port: 0 });
  using stack = new DisposableStack();
  stack.defer(() => raw.close());
  const { socket, address } = fixture;
  const port = address[1] - 65536;
  await raw.send(Uint8Array.of(65), { transport: "udp", ...HERE, port });
  assertEquals(await socket.receive({ timeout: 50 }), null);
  const stranger = raw.addr as Deno.NetAddr;
  await assertRejects(
    () => socket.send("who are you?", [LOOPBACK, stranger.port]),
    RangeError,
  );
});

test("UDPSocketOptions.allow may close the socket", async () => {
  using fixture = new Fixture({
    allow: () => {
      fixture.socket.close();
      return true;
    },
  });
  const { socket, address } = fixture;
  const sender = fixture.other("127.0.0.2");
  const receiving = assertRejects(() => socket.receive(), ClosedError);
  await sender.send("Hello", address);
  await receiving;
});

test("allowCidr() lets datagrams to a socket through, or not", async () => {
  using fixture = new Fixture({ allow: allowCidr("127.0.0.2", "10.0.0.0/8") });
  const { socket, address } = fixture;
  const stranger = fixture.other("127.0.0.3");
  const friend = fixture.other("127.0.0.2");
  await stranger.send("no", address);
  await friend.send("yes", address);
  assertEquals(await socket.receive(), ["yes", friend.address]);
  assertEquals(socket.stats.datagramsDropped, 1);
});
