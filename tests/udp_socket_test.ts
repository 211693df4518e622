// Why: everything that the design promises of UDP, against plain sockets, which
// show what is on the wire.

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertLess,
  assertNotMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { deadline, delay, retry } from "@std/async";
import fc from "fast-check";
import {
  type Address,
  ClosedError,
  createTcpServer,
  createUdpSocket,
  InvalidMessageError,
  MAX_PORT,
  MessageTooLargeError,
  MIN_PORT,
  type UDPSocket,
  type UDPSocketOptions,
} from "../mod.ts";
import { hasIpv6, LOOPBACK, onLinux } from "./_machine.ts";
import { hasTerminals, Program } from "./_netns.ts";
import { type FreePort, freePort } from "./_ports.ts";
import { type Ended, PATIENCE, Process, WAIT } from "./_process.ts";

const MAX_BYTES = 65_507;

/** What goes wrong when bytes, characters and messages are confused. */
const MESSAGES = [
  "Hello UDP",
  "",
  "\x03",
  "a\x03b\x03",
  "\uFEFFa BOM at the start",
  "\uFEFF",
  "你好，机器人",
  "🤖 🦾 👩‍🔧",
  "\uFFFD is a character too",
  "lines\r\nand \0",
];

/** A plain socket, as a PLC or netcat has, which shows and sends any bytes. */
class Raw implements Disposable {
  readonly #conn: Deno.DatagramConn;

  constructor(hostname = LOOPBACK, port = 0) {
    this.#conn = Deno.listenDatagram({ transport: "udp", hostname, port });
  }

  /** The real port, where it is outside the communication ports. */
  get address(): Address {
    const { hostname, port } = this.#conn.addr as Deno.NetAddr;
    return [hostname, port];
  }

  async send(
    data: string | Uint8Array,
    port: number,
    hostname = LOOPBACK,
  ): Promise<void> {
    const bytes = typeof data === "string"
      ? new TextEncoder().encode(data)
      : data;
    await this.#conn.send(bytes, { transport: "udp", hostname, port });
  }

  async receive(): Promise<[text: string, wire: number]> {
    const [bytes, sender] = await deadline(this.#conn.receive(), PATIENCE);
    const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
    return [text, (sender as Deno.NetAddr).port];
  }

  [Symbol.dispose](): void {
    this.#conn.close();
  }
}

/** A socket, and a plain one on no communication port that sends to it. */
class Pair implements Disposable {
  readonly port: FreePort = freePort();
  readonly socket: UDPSocket = open(this.port);
  readonly raw = new Raw();

  /** Sends from the plain socket to the other one. */
  send(data: string | Uint8Array): Promise<void> {
    return this.raw.send(data, this.port.wire);
  }

  [Symbol.dispose](): void {
    this.socket.close();
    this.raw[Symbol.dispose]();
    this.port[Symbol.dispose]();
  }
}

function open(
  { port }: { port: number },
  options?: UDPSocketOptions,
): UDPSocket {
  return createUdpSocket(port, { hostname: LOOPBACK, ...options });
}

/**
 * The same on the port of a socket that was closed just now: a process that
 * another thread starts has a copy of every socket for a moment.
 */
function openSoon(port: FreePort): Promise<UDPSocket> {
  const often = { minTimeout: 5, maxTimeout: 50, maxAttempts: 200 };
  return retry(() => open(port), often);
}

/** The next message alone. */
async function nextMessage(socket: UDPSocket): Promise<string | undefined> {
  return (await socket.receive(WAIT))?.[0];
}

// Ports

/** Bad communication ports, how an error shows them, and what it adds. */
const BAD_PORTS: [port: unknown, shown: string, hint?: string][] = [
  [69999, "69999"],
  [71001, "71001"],
  [70000.5, "70000.5"],
  [NaN, "NaN"],
  [Infinity, "Infinity"],
  [-70001, "-70001"],
  [0, "0"],
  [4465, "4465", "; 4465 is the wire port of 70001"],
  [
    "70001",
    '"70001"',
    "; write 70001 without quotes, or Number(port)",
  ],
  [70001n, "70001"],
  [undefined, "undefined"],
  [null, "null"],
  [{}, "an object"],
  [[70001], "an array"],
  [Symbol("port"), "Symbol(port)"],
];

const BAD_OFFSETS = [
  -70_000, // 70000 would be 0
  -5_464, // 71000 would be 65536
  0,
  65_536,
  -65_536.5,
  NaN,
  -Infinity,
  "-65536",
  null,
];

const BAD_HOSTS = ["", 127, null, {}, ["127.0.0.1"]];

// Without the permission a socket that is touched is NotCapable, not RangeError.
const untouchable = { permissions: { net: false } } as const;

Deno.test(
  "createUdpSocket() refuses what is no communication port, before any socket",
  untouchable,
  () => {
    for (const [port, shown, hint = ""] of BAD_PORTS) {
      const error = assertThrows(
        () => createUdpSocket(port as number),
        RangeError,
      );
      assertEquals(
        error.message,
        `Cannot use ${shown} as a communication port: it takes an integer from 70000 to 71000${hint}`,
      );
    }
  },
);

Deno.test(
  "createUdpSocket() refuses a portOffset that takes a port off the wire, before any socket",
  untouchable,
  () => {
    for (const portOffset of BAD_OFFSETS) {
      const error = assertThrows(
        () => createUdpSocket(70001, { portOffset: portOffset as number }),
        RangeError,
      );
      assertStringIncludes(error.message, "portOffset");
    }
  },
);

Deno.test(
  "createUdpSocket() refuses a hostname that is no string, before any socket",
  untouchable,
  () => {
    for (const hostname of BAD_HOSTS) {
      assertThrows(
        () => createUdpSocket(70001, { hostname: hostname as string }),
        TypeError,
      );
    }
  },
);

Deno.test(
  "createUdpSocket() refuses options that are no object, before any socket",
  untouchable,
  () => {
    for (const options of [null, 5, "127.0.0.1"]) {
      assertThrows(() => createUdpSocket(70001, options as never), TypeError);
    }
  },
);

Deno.test(
  "createUdpSocket() says both ports when it may not open a socket",
  untouchable,
  () => {
    const cases: [
      port: number,
      portOffset: number | undefined,
      wire: number,
    ][] = [
      [MIN_PORT, undefined, 4464],
      [MAX_PORT, undefined, 5464],
      [70001, undefined, 4465],
      [MIN_PORT, -69_999, 1],
      [MAX_PORT, -5_465, 65_535],
    ];
    for (const [port, portOffset, wire] of cases) {
      const options = portOffset === undefined
        ? {}
        : { portOffset, hostname: LOOPBACK };
      const error = assertThrows(
        () => createUdpSocket(port, options),
        Deno.errors.NotCapable,
      );
      assertStringIncludes(
        error.message,
        `${
          options.hostname ?? "0.0.0.0"
        }:${port} (wire port ${wire}): Requires net access`,
      );
    }
  },
);

for (const port of [MIN_PORT, MAX_PORT]) {
  Deno.test(`createUdpSocket() takes ${port}, an end of the range`, async () => {
    using free = freePort();
    const portOffset = free.wire - port;
    using socket = createUdpSocket(port, { hostname: LOOPBACK, portOffset });
    assertEquals(socket.address, [LOOPBACK, port]);
    await socket.send("to myself", [LOOPBACK, port]);
    assertEquals(await socket.receive(WAIT), ["to myself", [LOOPBACK, port]]);
  });
}

Deno.test("createUdpSocket() uses the low 16 bits of the port on the wire", async () => {
  using port = freePort();
  using own = freePort();
  using raw = new Raw(LOOPBACK, port.port & 0xffff);
  using socket = open(own);
  await socket.send("out", [LOOPBACK, port.port]);
  assertEquals(await raw.receive(), ["out", own.port & 0xffff]);
  await raw.send("in", own.port & 0xffff);
  assertEquals(await socket.receive(WAIT), ["in", [LOOPBACK, port.port]]);
});

Deno.test("createUdpSocket() with portOffset maps to the wire and back", async () => {
  using port = freePort();
  using own = freePort();
  // What the default takes for the ports next to these.
  const portOffset = -65_535;
  using raw = new Raw(LOOPBACK, port.wire);
  using socket = createUdpSocket(own.wire - portOffset, {
    hostname: LOOPBACK,
    portOffset,
  });
  await socket.send("out", [LOOPBACK, port.wire - portOffset]);
  assertEquals(await raw.receive(), ["out", own.wire]);
  await raw.send("in", own.wire);
  const sender = [LOOPBACK, port.wire - portOffset] as const;
  assertEquals(await socket.receive(WAIT), ["in", [...sender]]);
});

Deno.test("createUdpSocket() with portOffset answers senders that it maps to no communication port", async () => {
  using one = freePort();
  using two = freePort();
  const [low, high] = one.wire < two.wire ? [one, two] : [two, one];
  using peer = open(low);
  using socket = createUdpSocket(MIN_PORT, {
    hostname: LOOPBACK,
    portOffset: high.wire - MIN_PORT,
  });
  await peer.send("hello", [LOOPBACK, high.port]);
  const received = await socket.receive(WAIT);
  assertEquals(received, ["hello", [LOOPBACK, low.wire]]);
  assert(received);
  await socket.send("answer", received[1]);
  assertEquals(await peer.receive(WAIT), ["answer", [LOOPBACK, high.port]]);
});

for (const reuseAddress of [undefined, false]) {
  Deno.test(`createUdpSocket() with reuseAddress ${reuseAddress} is AddrInUse with both ports where another socket is`, async () => {
    using port = freePort();
    using raw = new Raw(LOOPBACK, port.wire);
    const error = assertThrows(
      () => open(port, reuseAddress === undefined ? {} : { reuseAddress }),
      Deno.errors.AddrInUse,
    );
    assertEquals(error.name, "AddrInUse");
    assertEquals(
      error.message,
      `Cannot create a UDP socket on ${LOOPBACK}:${port.port} (wire port ${port.wire}): Address already in use`,
    );
    assertInstanceOf(error.cause, Deno.errors.AddrInUse);
    assert(error.cause !== error);
    await raw.send("the first one works on", port.wire);
    assertEquals(await raw.receive(), ["the first one works on", port.wire]);
  });
}

Deno.test("createUdpSocket() takes the port of a closed socket", async () => {
  using port = freePort();
  open(port).close();
  using socket = await openSoon(port);
  await socket.send("to myself", socket.address);
  assertEquals(await nextMessage(socket), "to myself");
});

// Sending

Deno.test("UDPSocket.send() refuses a bad port, sends nothing and works on", async () => {
  using pair = new Pair();
  using port = freePort();
  using raw = new Raw(LOOPBACK, port.wire);
  const { socket } = pair;
  // Once without and once with senders whose real ports are known.
  for (const known of [false, true]) {
    if (known) {
      await pair.send("hello");
      await socket.receive(WAIT);
    }
    const own: typeof BAD_PORTS[number] = [
      port.wire,
      `${port.wire}`,
      `; ${port.wire} is the wire port of ${port.port}`,
    ];
    for (const [bad, shown, hint = ""] of [...BAD_PORTS, own]) {
      const error = await assertRejects(
        () => socket.send("refused", [LOOPBACK, bad as number]),
        RangeError,
        undefined,
        `${shown}, ${known ? "known" : "no known"} senders`,
      );
      assertEquals(
        error.message,
        `Cannot use ${shown} as a communication port: it takes an integer from 70000 to 71000${hint}`,
      );
    }
    await socket.send("good", [LOOPBACK, port.port]);
    assertEquals(await raw.receive(), ["good", pair.port.wire]);
  }
});

Deno.test("UDPSocket.send() refuses a sender's real port that is not a number", async () => {
  using pair = new Pair();
  await pair.send("hello");
  await pair.socket.receive(WAIT);
  const [ip, port] = pair.raw.address;
  for (const bad of [`${port}`, [port], BigInt(port), new Number(port)]) {
    await assertRejects(
      () => pair.socket.send("refused", [ip, bad as number]),
      RangeError,
    );
  }
  await pair.socket.send("good", [ip, port]);
  assertEquals(await pair.raw.receive(), ["good", pair.port.wire]);
});

Deno.test("UDPSocket.send() refuses what is no address, sends nothing and works on", async () => {
  using pair = new Pair();
  using port = freePort();
  using raw = new Raw(LOOPBACK, port.wire);
  const { socket } = pair;
  const bad = [
    undefined,
    null,
    LOOPBACK,
    port.port,
    {},
    { 0: LOOPBACK, 1: port.port, length: 2 },
    [],
    [LOOPBACK],
    [LOOPBACK, port.port, 0],
    ...BAD_HOSTS.map((host) => [host, port.port]),
  ];
  for (const address of bad) {
    await assertRejects(
      () => socket.send("refused", address as unknown as Address),
      TypeError,
    );
  }
  await socket.send("good", [LOOPBACK, port.port]);
  assertEquals(await raw.receive(), ["good", pair.port.wire]);
});

Deno.test("UDPSocket.send() refuses what is no message, sends nothing and works on", async () => {
  using pair = new Pair();
  using port = freePort();
  using raw = new Raw(LOOPBACK, port.wire);
  const bad = [
    undefined,
    null,
    5,
    new String("text"),
    new Uint8Array(1),
    ["text"],
    "\uD83E",
    "lone \uDD16 surrogate",
    "\uDD16\uD83E",
  ];
  for (const message of bad) {
    await assertRejects(
      () => pair.socket.send(message as string, [LOOPBACK, port.port]),
      TypeError,
    );
  }
  await pair.socket.send("good", [LOOPBACK, port.port]);
  assertEquals(await raw.receive(), ["good", pair.port.wire]);
});

Deno.test("UDPSocket.send() sends one datagram of UTF-8 for one message", async () => {
  using pair = new Pair();
  using port = freePort();
  using raw = new Raw(LOOPBACK, port.wire);
  for (const message of MESSAGES) {
    await pair.socket.send(message, [LOOPBACK, port.port]);
    assertEquals(await raw.receive(), [message, pair.port.wire]);
  }
});

Deno.test("UDPSocket.receive() returns one message for one datagram of UTF-8", async () => {
  using pair = new Pair();
  for (const message of MESSAGES) {
    await pair.send(message);
    assertEquals(await pair.socket.receive(WAIT), [message, pair.raw.address]);
  }
});

Deno.test("UDPSocket.receive() returns any messages as they were sent", async () => {
  using one = freePort();
  using two = freePort();
  using sender = open(one);
  using receiver = open(two);
  const message = fc.string({ unit: "binary", maxLength: 60 })
    .map((text) => text.toWellFormed());
  const property = fc.asyncProperty(
    fc.array(message, { maxLength: 20 }),
    async (messages) => {
      for (const message of messages) {
        await sender.send(message, receiver.address);
      }
      for (const message of messages) {
        const expected = [message, sender.address] as const;
        assertEquals(await receiver.receive(WAIT), [...expected]);
      }
      assertEquals(await receiver.receive({ timeout: 0 }), null);
    },
  );
  await fc.assert(property, { numRuns: 50 });
});

Deno.test("UDPSocket.send() may be called many times without waiting", async () => {
  using one = freePort();
  using two = freePort();
  using sender = open(one);
  using receiver = open(two);
  const messages = Array.from(
    { length: 100 },
    (_, i) => `${i} 号`.padEnd(20 + i, "机"),
  );
  await Promise.all(
    messages.map((message) => sender.send(message, receiver.address)),
  );
  assertEquals(await take(receiver, messages.length), messages);
});

/** So many messages, in the order they arrive. */
async function take(socket: UDPSocket, count: number): Promise<string[]> {
  const received: string[] = [];
  while (received.length < count) {
    received.push(await nextMessage(socket) ?? "");
  }
  return received;
}

const NUMBERS = Array.from({ length: 8 }, (_, i) => String(i));

Deno.test("UDPSocket.send() sends in the order of the calls, awaited or not", async () => {
  using one = freePort();
  using two = freePort();
  using three = freePort();
  using sender = open(one);
  using receiver = open(two);
  using other = open(three);
  for (let round = 0; round < 20; round++) {
    const sends = NUMBERS.flatMap((message) =>
      [receiver, other].map(({ address }) => sender.send(message, address))
    );
    const later = sends[3]?.then(() => sender.send("later", receiver.address));
    assertEquals(await take(receiver, 9), [...NUMBERS, "later"]);
    assertEquals(await take(other, 8), NUMBERS);
    await Promise.all([...sends, later]);
    await sender.send("awaited", receiver.address);
    assertEquals(await take(receiver, 1), ["awaited"]);
  }
  assertEquals(sender.stats.messagesOut, 20 * 18);
});

Deno.test("UDPSocket.send() that fails does not fail or stop those behind it", async () => {
  using one = freePort();
  using two = freePort();
  using sender = open(one);
  using receiver = open(two);
  // An IPv4 socket has no way to there.
  const nowhere: Address = ["::1", two.port];
  const sends = NUMBERS.map((message, i) =>
    sender.send(message, i % 2 === 0 ? nowhere : receiver.address)
  );
  const outcomes = await Promise.allSettled(sends);
  assertEquals(
    outcomes.map(({ status }) => status),
    NUMBERS.map((_, i) => i % 2 === 0 ? "rejected" : "fulfilled"),
  );
  assertEquals(await take(receiver, 4), ["1", "3", "5", "7"]);
});

Deno.test("UDPSocket.send() that waits for its turn goes where it was told at first", async () => {
  using one = freePort();
  using two = freePort();
  using sender = open(one);
  using receiver = open(two);
  const addr: [string, number] = [LOOPBACK, two.port];
  const sends = NUMBERS.map((message) => sender.send(message, addr));
  addr[0] = "127.0.0.2";
  addr[1] = one.port;
  await Promise.all(sends);
  assertEquals(await take(receiver, NUMBERS.length), NUMBERS);
});

Deno.test("UDPSocket.close() lets what was sent before leave, in order", async () => {
  using one = freePort();
  using two = freePort();
  using receiver = open(two);
  for (let round = 0; round < 20; round++) {
    const sender = await openSoon(one);
    const waiting = assertRejects(() => sender.receive(), ClosedError);
    const sends = NUMBERS.map((message) =>
      sender.send(message, receiver.address)
    );
    sender.close();
    await assertRejects(
      () => sender.send("late", receiver.address),
      ClosedError,
    );
    await Promise.all(sends);
    await waiting;
    assertEquals(await take(receiver, NUMBERS.length), NUMBERS);
  }
});

Deno.test("UDPSocket.send() that waits for its turn holds no bytes but its message", async () => {
  using port = freePort();
  const count = 2_000;
  using program = new Program(withSocket(
    port,
    `
      const used = () => {
        gc();
        const { heapUsed, external } = Deno.memoryUsage();
        return heapUsed + external;
      };
      const message = "x".repeat(20_000);
      await socket.send(message, socket.address);
      const before = used();
      const sends = [];
      for (let i = 0; i < ${count}; i++) {
        sends.push(socket.send(message, socket.address));
      }
      console.log((used() - before) / ${count});
      await Promise.all(sends);
    `,
  ));
  await using process = program.start(...FLAGS, "--v8-flags=--expose-gc");
  const { code, stdout, stderr } = await process.ended();
  assertEquals({ code, stderr }, { code: 0, stderr: "" });
  assertLess(Number(stdout), 2_000);
});

/** Messages of exactly 65,507 bytes, in characters of one to four bytes. */
const LARGEST: Record<string, string> = {
  "1 byte": "a".repeat(MAX_BYTES),
  "2 bytes": "é".repeat((MAX_BYTES - 1) / 2) + "a",
  "3 bytes": "机".repeat((MAX_BYTES - 2) / 3) + "é",
  "4 bytes": "🤖".repeat((MAX_BYTES - 3) / 4) + "机",
};

for (const [name, largest] of Object.entries(LARGEST)) {
  Deno.test({
    name:
      `UDPSocket.send() sends 65,507 bytes in characters of ${name}, and nothing of 65,508`,
    ignore: !onLinux, // others have smaller limits of their own
    async fn() {
      using one = freePort();
      using two = freePort();
      using sender = open(one);
      using receiver = open(two);
      const error = await assertRejects(
        () => sender.send(`${largest}b`, receiver.address),
        MessageTooLargeError,
      );
      assertEquals([error.limit, error.size], [MAX_BYTES, MAX_BYTES + 1]);
      await sender.send(largest, receiver.address);
      const received = await nextMessage(receiver);
      assert(received === largest, `${received?.length} characters arrived`);
      assertEquals(await receiver.receive({ timeout: 0 }), null);
    },
  });
}

Deno.test("UDPSocket.send() tells the size of a message far over the limit", async () => {
  using pair = new Pair();
  const error = await assertRejects(
    () => pair.socket.send("机".repeat(1_000_000), pair.socket.address),
    MessageTooLargeError,
  );
  assertEquals([error.limit, error.size], [MAX_BYTES, 3_000_000]);
  await pair.socket.send("good", pair.socket.address);
  assertEquals(await nextMessage(pair.socket), "good");
});

// Receiving

Deno.test("UDPSocket.receive() returns null when the time runs out, and the late message next", async () => {
  using pair = new Pair();
  assertEquals(await pair.socket.receive({ timeout: 1 }), null);
  assertEquals(await pair.socket.receive({ timeout: 1 }), null);
  await pair.send("late");
  await pair.send("later");
  assertEquals(await nextMessage(pair.socket), "late");
  assertEquals(await nextMessage(pair.socket), "later");
  assertEquals(await pair.socket.receive({ timeout: 1 }), null);
});

/** Lets all sockets have what has arrived for them. */
async function letArrive(): Promise<void> {
  using raw = new Raw();
  const [, port] = raw.address;
  for (let i = 0; i < 3; i++) {
    const received = raw.receive();
    await raw.send(`${i}`, port);
    assertEquals(await received, [`${i}`, port]);
  }
}

Deno.test("UDPSocket.receive() returns what came while nobody waited", async () => {
  using pair = new Pair();
  const { socket } = pair;
  const controller = new AbortController();
  const waits: (() => Promise<unknown>)[] = [
    () => socket.receive({ timeout: 1 }),
    async () => {
      const aborted = socket.receive({ signal: controller.signal });
      controller.abort("enough");
      assertEquals(await aborted.catch((reason) => reason), "enough");
    },
  ];
  for (const wait of waits) {
    await wait();
    for (const message of ["1", "2", "3"]) await pair.send(message);
    await letArrive();
    for (const message of ["1", "2", "3"]) {
      assertEquals(await socket.receive(WAIT), [message, pair.raw.address]);
    }
  }
});

Deno.test("UDPSocket.receive() with no timeout waits", async () => {
  using pair = new Pair();
  for (const options of [undefined, {}, { timeout: Infinity }]) {
    const message = deadline(pair.socket.receive(options), PATIENCE);
    await pair.send("at last");
    assertEquals(await message, ["at last", pair.raw.address]);
  }
});

Deno.test("UDPSocket.receive() waits longer than timers can", async () => {
  using pair = new Pair();
  const message = pair.socket.receive({ timeout: 2 ** 31 });
  // Were the first cut short, it would be served before this one.
  assertEquals(await pair.socket.receive({ timeout: 5 }), null);
  await pair.send("at last");
  assertEquals(await deadline(message, PATIENCE), [
    "at last",
    pair.raw.address,
  ]);
});

Deno.test("UDPSocket.receive() with timeout 0 takes what is there, all of it", async () => {
  using pair = new Pair();
  assertEquals(await pair.socket.receive({ timeout: 0 }), null);
  const messages = Array.from({ length: 100 }, (_, i) => `${i}`);
  for (let round = 0; round < 10; round++) {
    for (const message of messages) await pair.send(message);
    const received: string[] = [];
    let next;
    while ((next = await pair.socket.receive({ timeout: 0 }))) {
      received.push(next[0]);
    }
    assertEquals(received, messages, `round ${round}`);
  }
});

Deno.test("UDPSocket.receive() with timeout 0 takes what came since the last one", async () => {
  using pair = new Pair();
  for (let i = 0; i < 100; i++) {
    assertEquals(await pair.socket.receive({ timeout: 0 }), null);
    await pair.send(`${i}`);
    const received = await pair.socket.receive({ timeout: 0 });
    assertEquals(received, [`${i}`, pair.raw.address]);
  }
});

Deno.test("UDPSocket.receive() serves pending calls in their order", async () => {
  using pair = new Pair();
  const messages = Array.from({ length: 20 }, (_, i) => `${i}`);
  const received = messages.map(() => nextMessage(pair.socket));
  for (const message of messages) await pair.send(message);
  assertEquals(await Promise.all(received), messages);
});

Deno.test("UDPSocket.receive() passes over calls that ended by time and by signal", async () => {
  using pair = new Pair();
  const { socket } = pair;
  const controller = new AbortController();
  const first = nextMessage(socket);
  const timed = socket.receive({ timeout: 1 });
  const second = nextMessage(socket);
  const aborted = socket.receive({ signal: controller.signal });
  const third = nextMessage(socket);
  const outcome = assertRejects(() => aborted, Error, "enough");
  controller.abort(new Error("enough"));
  await outcome;
  assertEquals(await timed, null);
  for (const message of ["1", "2", "3"]) await pair.send(message);
  assertEquals(await Promise.all([first, second, third]), ["1", "2", "3"]);
});

Deno.test("UDPSocket.receive() rejects with the signal's reason and loses nothing", async () => {
  using pair = new Pair();
  const { socket } = pair;
  const controller = new AbortController();
  const { signal } = controller;
  const reason = { any: "thing" };
  const pending = socket.receive({ signal, timeout: PATIENCE });
  const caught = pending.catch((error) => error);
  controller.abort(reason);
  assert(await caught === reason);
  await pair.send("kept");
  // Nor does a call that is aborted from the start take it.
  const again = await socket.receive({ signal }).catch((error) => error);
  assert(again === reason);
  assertEquals(await socket.receive(WAIT), ["kept", pair.raw.address]);
});

Deno.test("UDPSocket.receive() is not touched by a signal that aborts later", async () => {
  using pair = new Pair();
  const controller = new AbortController();
  const pending = pair.socket.receive({ ...WAIT, signal: controller.signal });
  await pair.send("1");
  assertEquals((await pending)?.[0], "1");
  controller.abort();
  await pair.send("2");
  assertEquals(await nextMessage(pair.socket), "2");
});

Deno.test("UDPSocket.receive() loses and repeats nothing when message and time meet", async () => {
  using pair = new Pair();
  for (let i = 0; i < 150; i++) {
    const [received] = await Promise.all([
      pair.socket.receive({ timeout: i % 3 }),
      delay(i % 3).then(() => pair.send(`${i}`)),
    ]);
    const [message] = received ?? await pair.socket.receive(WAIT) ?? [];
    assertEquals(message, `${i}`);
  }
  assertEquals(await pair.socket.receive({ timeout: 0 }), null);
});

Deno.test("UDPSocket.receive() loses and repeats nothing when messages, times and signals meet", async () => {
  using pair = new Pair();
  const { socket } = pair;
  const sent: string[] = [];
  const received: string[] = [];
  async function take(call: ReturnType<UDPSocket["receive"]>) {
    const message = await call.catch((error) => {
      assertEquals(error, "enough");
      return null;
    });
    if (message) received.push(message[0]);
  }
  for (let i = 0; i < 100; i++) {
    const controller = new AbortController();
    const { signal } = controller;
    const messages = [`${i}.0`, `${i}.1`];
    sent.push(...messages);
    await Promise.all([
      take(socket.receive({ timeout: i % 3 })),
      take(socket.receive({ signal })),
      take(socket.receive({ timeout: 1, signal })),
      delay(1).then(async () => {
        for (const message of messages) await pair.send(message);
      }),
      delay(1 + i % 2).then(() => controller.abort("enough")),
    ]);
  }
  while (received.length < sent.length) await take(socket.receive(WAIT));
  assertEquals(received, sent);
  assertEquals(await socket.receive({ timeout: 0 }), null);
});

Deno.test("UDPSocket.receive() refuses a timeout that is no time, and works on", async () => {
  using pair = new Pair();
  const { socket } = pair;
  for (const timeout of [-1, -0.001, -Infinity, NaN]) {
    await assertRejects(() => socket.receive({ timeout }), RangeError);
  }
  for (const options of [{ timeout: "5" }, { timeout: null }, 5, null]) {
    await assertRejects(() => socket.receive(options as never), TypeError);
  }
  await pair.send("good");
  assertEquals(await nextMessage(socket), "good");
});

/** None of these is UTF-8. */
const INVALID = [
  [0xff],
  [0x61, 0xc3], // a character cut off
  [0xed, 0xa0, 0x80], // a surrogate
  [0xc0, 0x80], // a NUL in two bytes
  [0xf4, 0x90, 0x80, 0x80], // over U+10FFFF
  [0xef, 0xbf, 0xbd, 0xff], // U+FFFD, then no character
];

Deno.test("UDPSocket.receive() rejects once for a datagram that is not UTF-8", async () => {
  using pair = new Pair();
  const { socket, raw } = pair;
  const errors: InvalidMessageError[] = [];
  for (const bytes of INVALID) {
    await pair.send("before");
    await pair.send(Uint8Array.from(bytes));
    await pair.send("after");
    assertEquals(await nextMessage(socket), "before");
    errors.push(
      await assertRejects(() => socket.receive(WAIT), InvalidMessageError),
    );
    assertEquals(await nextMessage(socket), "after");
  }
  // Only now: later datagrams must not have changed the bytes.
  assertEquals(errors.map(({ bytes }) => [...bytes]), INVALID);
  for (const error of errors) {
    assertEquals(error.sender, raw.address);
    assertStringIncludes(error.message, raw.address.join(":"));
  }
});

Deno.test("UDPSocket.receive() rejects the first of several pending calls for a bad datagram", async () => {
  using pair = new Pair();
  const { socket } = pair;
  const rejected = assertRejects(
    () => socket.receive(WAIT),
    InvalidMessageError,
  );
  const good = nextMessage(socket);
  await pair.send(Uint8Array.of(0xff));
  await pair.send("good");
  await rejected;
  assertEquals(await good, "good");
});

Deno.test("UDPSocket.receive() keeps a bad datagram that comes when nobody waits", async () => {
  using pair = new Pair();
  assertEquals(await pair.socket.receive({ timeout: 0 }), null);
  await pair.send(Uint8Array.of(0xff, 0xfe));
  await letArrive();
  const error = await assertRejects(
    () => pair.socket.receive(WAIT),
    InvalidMessageError,
  );
  assertEquals([...error.bytes], [0xff, 0xfe]);
});

// Iterating

Deno.test("UDPSocket iterates over messages and senders, and stays open after break", async () => {
  using pair = new Pair();
  for (const message of MESSAGES) await pair.send(message);
  await pair.send("end");
  const received: string[] = [];
  for await (const [message, sender] of pair.socket) {
    assertEquals(sender, pair.raw.address);
    if (message === "end") break;
    received.push(message);
  }
  assertEquals(received, MESSAGES);
  await pair.send("still open");
  assertEquals(await nextMessage(pair.socket), "still open");
  await pair.send("and again");
  for await (const [message] of pair.socket) {
    assertEquals(message, "and again");
    break;
  }
});

Deno.test("UDPSocket ends loops over it when it is closed, within and without", async () => {
  using pair = new Pair();
  const { socket } = pair;
  const received: string[] = [];
  await pair.send("1");
  await pair.send("2");
  for await (const [message] of socket) {
    received.push(message);
    if (message === "2") socket.close();
  }
  assertEquals(received, ["1", "2"]);
  assertEquals(await Array.fromAsync(socket), []);

  using other = new Pair();
  const loop = Array.fromAsync(other.socket);
  const next = nextMessage(other.socket);
  await other.send("1");
  await other.send("2");
  assertEquals(await next, "2");
  other.socket.close();
  const messages = await deadline(loop, PATIENCE);
  assertEquals(messages.map(([message]) => message), ["1"]);
});

Deno.test("UDPSocket throws out of a loop for a bad datagram, and another loop goes on", async () => {
  using pair = new Pair();
  await pair.send("1");
  await pair.send(Uint8Array.of(0xff));
  await pair.send("2");
  const received: string[] = [];
  async function loop() {
    for await (const [message] of pair.socket) {
      received.push(message);
      if (message === "2") break;
    }
  }
  await assertRejects(loop, InvalidMessageError);
  await loop();
  assertEquals(received, ["1", "2"]);
});

// Closing

Deno.test("UDPSocket.close() rejects pending receives, and may be called twice", async () => {
  using port = freePort();
  const socket = open(port);
  const pending = [{}, WAIT, { signal: new AbortController().signal }]
    .map((options) =>
      assertRejects(() => socket.receive(options), ClosedError)
    );
  socket.close();
  socket.close();
  for (const error of await deadline(Promise.all(pending), PATIENCE)) {
    assertStringIncludes(error.message, socket.address.join(":"));
    assertEquals(error.cause, undefined);
    assertEquals(error.incomplete, new Uint8Array(0));
  }
  socket.close();
});

Deno.test("UDPSocket.send() and receive() reject with ClosedError after close()", async () => {
  using pair = new Pair();
  const { socket } = pair;
  await pair.send("known");
  const [, sender] = await socket.receive(WAIT) ?? [];
  assert(sender);
  assertEquals(await socket.receive({ timeout: 0 }), null);
  await pair.send("never received");
  await letArrive();
  socket.close();
  for (const addr of [socket.address, sender]) {
    await assertRejects(() => socket.send("late", addr), ClosedError);
  }
  for (const options of [undefined, { timeout: 0 }, WAIT]) {
    await assertRejects(() => socket.receive(options), ClosedError);
  }
});

Deno.test("UDPSocket closes at the end of using and await using", async () => {
  using port = freePort();
  const sockets: UDPSocket[] = [];
  {
    using socket = open(port);
    sockets.push(socket);
  }
  {
    await using socket = await openSoon(port);
    sockets.push(socket);
  }
  {
    using socket = await openSoon(port);
    socket.close();
    sockets.push(socket);
  }
  using _socket = await openSoon(port);
  for (const socket of sockets) {
    await assertRejects(() => socket.receive(WAIT), ClosedError);
  }
});

Deno.test("UDPSocket at the end of await using has released its port", async () => {
  using one = freePort();
  using two = freePort();
  using receiver = open(two);
  const later: Promise<unknown>[] = [];
  const uses: ((socket: UDPSocket) => unknown)[] = [
    (socket) => socket.receive({ timeout: 1 }),
    (socket) => {
      later.push(assertRejects(() => socket.receive(), ClosedError));
    },
    (socket) => {
      later.push(...NUMBERS.map((text) => socket.send(text, receiver.address)));
    },
    (socket) => socket.close(),
    () => {},
  ];
  for (let round = 0; round < 10; round++) {
    for (const use of uses) {
      // A port that is not free is AddrInUse.
      await using socket = open(one);
      await use(socket);
    }
    await Promise.all(later);
    assertEquals(await take(receiver, NUMBERS.length), NUMBERS);
  }
});

Deno.test("UDPSocket at the end of await using lets a script go on that nothing else keeps alive", async () => {
  using port = freePort();
  assertEquals(
    await run(
      withSocket(
        port,
        `
          await socket.receive({ timeout: 1 });
          // Long enough for the read under way to keep nothing alive any more.
          await new Promise((resolve) => setTimeout(resolve, 100));
          await socket[Symbol.asyncDispose]();
          console.log("went on");
        `,
      ),
      ...FLAGS,
    ),
    { code: 0, stdout: "went on\n", stderr: "" },
  );
});

Deno.test("UDPSocket.close() within allow drops the datagram that was asked about", async () => {
  using port = freePort();
  using raw = new Raw();
  const socket = open(port, {
    allow: () => {
      socket.close();
      return true;
    },
  });
  const waiting = assertRejects(() => socket.receive(), ClosedError);
  await raw.send("dropped", port.wire);
  await waiting;
  await assertRejects(() => socket.receive({ timeout: 0 }), ClosedError);
  await assertRejects(() => socket.receive(), ClosedError);
  assertEquals(await Array.fromAsync(socket), []);
  assertEquals(socket.stats.messagesIn, 0);
});

// Leaving loops

Deno.test("UDPSocket loses nothing to an iterator that was left, or to a cancelled stream", async () => {
  using pair = new Pair();
  const { socket } = pair;
  const iterator = socket[Symbol.asyncIterator]();
  const left = iterator.next();
  await iterator.return?.();
  assertEquals((await left).done, true);
  await pair.send("a");
  assertEquals(await nextMessage(socket), "a");

  const reader = ReadableStream.from(socket).getReader();
  const read = reader.read();
  await reader.cancel();
  assertEquals((await read).done, true);
  await pair.send("b");
  assertEquals(await nextMessage(socket), "b");
});

// Answering

Deno.test("UDPSocket.receive() returns senders as communication ports, to be answered", async () => {
  using one = freePort();
  using two = freePort();
  using robot = open(one);
  using camera = open(two);
  await robot.send("trigger", [LOOPBACK, two.port]);
  const received = await camera.receive(WAIT);
  assertEquals(received, ["trigger", [LOOPBACK, one.port]]);
  assert(received);
  await camera.send("image", received[1]);
  assertEquals(await robot.receive(WAIT), ["image", [LOOPBACK, two.port]]);
});

Deno.test("UDPSocket.send() answers a sender outside the communication ports, by its address or a copy", async () => {
  using pair = new Pair();
  await pair.send("hello");
  const [message, sender] = await pair.socket.receive(WAIT) ?? [];
  assert(sender);
  assertEquals([message, sender], ["hello", pair.raw.address]);
  const copies: Address[] = [
    sender,
    [...sender],
    [sender[0], sender[1]],
    JSON.parse(JSON.stringify(sender)),
    pair.raw.address,
  ];
  for (const [i, copy] of copies.entries()) {
    await pair.socket.send(`${i}`, copy);
    assertEquals(await pair.raw.receive(), [`${i}`, pair.port.wire]);
  }
});

Deno.test("UDPSocket.send() answers whoever sent what is not UTF-8", async () => {
  using pair = new Pair();
  await pair.send(Uint8Array.of(0xff));
  const { sender } = await assertRejects(
    () => pair.socket.receive(WAIT),
    InvalidMessageError,
  );
  assert(sender);
  await pair.socket.send("UTF-8, please", sender);
  assertEquals(await pair.raw.receive(), ["UTF-8, please", pair.port.wire]);
});

Deno.test("UDPSocket.send() refuses an address outside the range that this socket never received", async () => {
  using pair = new Pair();
  using other = new Pair();
  using stranger = new Raw();
  await pair.send("hello");
  await other.send("hello");
  await pair.socket.receive(WAIT);
  await other.socket.receive(WAIT);
  const [, port] = pair.raw.address;
  const never: Address[] = [
    stranger.address,
    other.raw.address,
    ["127.0.0.2", port],
    ["localhost", port],
    [LOOPBACK, pair.port.wire],
  ];
  for (const address of never) {
    await assertRejects(
      () => pair.socket.send("refused", address),
      RangeError,
    );
  }
  await stranger.send("now known", pair.port.wire);
  assertEquals(await nextMessage(pair.socket), "now known");
  await pair.socket.send("good", stranger.address);
  assertEquals(await stranger.receive(), ["good", pair.port.wire]);
});

Deno.test({
  name: "UDPSocket.send() answers the last 10,000 senders outside the range",
  ignore: !onLinux, // elsewhere 127.0.0.1 is all there is of 127.0.0.0/8
  async fn() {
    using pair = new Pair();
    async function receiveFrom(raw: Raw): Promise<Address> {
      await raw.send("hello", pair.port.wire);
      const [, sender] = await pair.socket.receive(WAIT) ?? [];
      assert(sender);
      return sender;
    }
    /** From an address that nobody else has. */
    async function receiveFromStranger(i: number): Promise<Address> {
      using raw = new Raw(`127.1.${i >> 8}.${i & 255}`);
      return await receiveFrom(raw);
    }
    await receiveFrom(pair.raw);
    const oldest = await receiveFromStranger(1);
    const second = await receiveFromStranger(2);
    for (let i = 3; i < 10_000; i++) await receiveFromStranger(i);
    await pair.socket.send("10,000", oldest);
    await receiveFrom(pair.raw);
    await pair.socket.send("heard again, no new one", oldest);
    const newest = await receiveFromStranger(10_000);
    await assertRejects(() => pair.socket.send("one more", oldest), RangeError);
    for (const sender of [second, newest, pair.raw.address]) {
      await pair.socket.send("known", sender);
    }
    assertEquals(await pair.raw.receive(), ["known", pair.port.wire]);
  },
});

// IPv6

Deno.test({
  name: "UDPSocket works on ::1, with addresses to be answered",
  ignore: !hasIpv6(),
  async fn() {
    using one = freePort();
    using two = freePort();
    using robot = open(one, { hostname: "::1" });
    using camera = open(two, { hostname: "::1" });
    assertEquals(robot.address, ["::1", one.port]);
    await robot.send("你好", camera.address);
    assertEquals(await camera.receive(WAIT), ["你好", ["::1", one.port]]);
    using raw = new Raw("::1");
    await raw.send("hello", one.wire, "::1");
    const received = await robot.receive(WAIT);
    assertEquals(received, ["hello", raw.address]);
    assert(received);
    await robot.send("answer", received[1]);
    assertEquals(await raw.receive(), ["answer", one.wire]);
    const error = assertThrows(
      () => open(one, { hostname: "::1" }),
      Deno.errors.AddrInUse,
    );
    assertEquals(
      error.message,
      `Cannot create a UDP socket on [::1]:${one.port} (wire port ${one.wire}): Address already in use`,
    );
  },
});

Deno.test({
  name: "UDPSocket.receive() cuts nothing off a datagram of IPv6's size",
  ignore: !hasIpv6() || !onLinux, // others have smaller limits of their own
  async fn() {
    using port = freePort();
    using socket = open(port, { hostname: "::1" });
    using raw = new Raw("::1");
    const message = "a".repeat(65_527);
    await raw.send(message, port.wire, "::1");
    const received = await nextMessage(socket);
    assert(received === message, `${received?.length} characters arrived`);
  },
});

Deno.test({
  name: "UDPSocket.send() says both ports of an address that it cannot reach",
  ignore: !hasIpv6(),
  async fn() {
    using pair = new Pair();
    const error = await assertRejects(
      () => pair.socket.send("no way", ["::1", pair.port.port]),
      Error,
    );
    assertStringIncludes(
      error.message,
      `Cannot send to [::1]:${pair.port.port} (wire port ${pair.port.wire}): `,
    );
    assertNotMatch(error.message, /os error/);
    assertInstanceOf(error.cause, Error);
  },
});

// Permissions, flags and the life of a process

const FLAGS = ["--no-prompt", "--unstable-net", `--allow-net=${LOOPBACK}`];

/** A program that opens `socket`, with what it takes to end one that does not. */
function withSocket(port: FreePort, body: string): string {
  return `
    const socket = comm.createUdpSocket(${port.port}, {
      hostname: "${LOOPBACK}",
    });
    ${body}
  `;
}

async function run(source: string, ...flags: string[]): Promise<Ended> {
  using program = new Program(source);
  await using process = program.start(...flags);
  return await process.ended();
}

Deno.test("createUdpSocket() without --unstable-net says what to do", async () => {
  using port = freePort();
  const ended = await run(
    `
      try {
        comm.createUdpSocket(${port.port});
      } catch (error) {
        console.log(error instanceof Deno.errors.NotSupported);
        console.log(error.name + ": " + error.message);
      }
      try {
        comm.createUdpSocket(4465);
      } catch (error) {
        console.log(error.name);
      }
    `,
    "--no-prompt",
    "--allow-net",
  );
  assertEquals(ended, {
    code: 0,
    stdout: [
      "true",
      `NotSupported: Cannot create a UDP socket: this Deno runs without Deno.listenDatagram, which takes --unstable-net or "unstable": ["net"] in deno.json`,
      "RangeError",
      "",
    ].join("\n"),
    stderr: "",
  });
});

/** Two sockets and all that could ask for a permission. */
function conversation(one: FreePort, two: FreePort): string {
  return withSocket(
    one,
    `
      const other = comm.createUdpSocket(${two.port}, {
        hostname: "${LOOPBACK}",
      });
      await socket.send("hello", other.address);
      console.log(...await other.receive({ timeout: ${PATIENCE} }));
      await socket.send("refused", ["127.255.255.255", ${two.port}])
        .catch((error) => console.log(error.name));
      socket.enableBroadcast();
      await socket.send("allowed", other.address);
      console.log(...await other.receive({ timeout: ${PATIENCE} }));
      socket.close();
      other.close();
    `,
  );
}

function conversationOutput(one: FreePort): string {
  const sender = `[ "${LOOPBACK}", ${one.port} ]`;
  return `hello ${sender}\nPermissionDenied\nallowed ${sender}\n`;
}

Deno.test("UDPSocket needs --allow-net=127.0.0.1 and --unstable-net, and nothing more", async () => {
  using one = freePort();
  using two = freePort();
  assertEquals(await run(conversation(one, two), ...FLAGS), {
    code: 0,
    stdout: conversationOutput(one),
    stderr: "",
  });
});

Deno.test("UDPSocket.send() keeps Deno's error, with both ports and the cause, and works on", async () => {
  using port = freePort();
  const ended = await run(
    withSocket(
      port,
      `
        await socket.send("refused", ["127.0.0.2", 70001]).catch((error) => {
          console.log(error instanceof Deno.errors.NotCapable);
          console.log(error.cause instanceof Deno.errors.NotCapable);
          console.log(error.message);
        });
        await socket.send("good", socket.address);
        console.log((await socket.receive({ timeout: ${PATIENCE} }))[0]);
      `,
    ),
    ...FLAGS,
  );
  assertEquals({ ...ended, stdout: "" }, { code: 0, stdout: "", stderr: "" });
  const [isDenos, isCause, message, next] = ended.stdout.split("\n");
  assertEquals([isDenos, isCause, next], ["true", "true", "good"]);
  assertStringIncludes(
    message ?? "",
    "Cannot send to 127.0.0.2:70001 (wire port 4465): Requires net access",
  );
});

Deno.test({
  name: "UDPSocket asks for no permission on a terminal",
  ignore: !hasTerminals(),
  async fn() {
    using curious = new Program(`Deno.networkInterfaces();`);
    await using asking = curious.startOnTerminal();
    await asking.read("Deno requests sys access"); // so it would be seen
    using one = freePort();
    using two = freePort();
    using program = new Program(conversation(one, two));
    await using process = program.startOnTerminal(
      ...FLAGS.filter((flag) => flag !== "--no-prompt"),
    );
    // Closing its input answers a prompt, should there be one.
    const { code, stdout } = await process.end();
    assertEquals(stdout.replaceAll("\r", ""), conversationOutput(one));
    assertEquals(code, 0);
  },
});

/** What leaves a socket open, and nobody waiting. */
const NOBODY_WAITS: Record<string, string> = {
  "was just opened": "",
  "timed out": `
    console.log(await socket.receive({ timeout: 1 }));`,
  "was aborted": `
    const signal = AbortSignal.timeout(1);
    await socket.receive({ signal }).catch((error) => console.log(error.name));`,
  "has received": `
    await socket.send("hello", socket.address);
    console.log((await socket.receive())[0]);`,
  "has left a loop": `
    await socket.send("hello", socket.address);
    for await (const [message] of socket) {
      console.log(message);
      break;
    }`,
  "has left an iterator that waited": `
    const iterator = socket[Symbol.asyncIterator]();
    const waiting = iterator.next();
    await iterator.return();
    console.log((await waiting).done);`,
  "has cancelled a stream over it": `
    const stream = ReadableStream.from(socket);
    const reader = stream.getReader();
    const waiting = reader.read();
    await new Promise((resolve) => setTimeout(resolve));
    await reader.cancel();
    console.log((await waiting).done);`,
};
const PRINTED = [
  "",
  "null\n",
  "TimeoutError\n",
  "hello\n",
  "hello\n",
  "true\n",
  "true\n",
];

for (const [i, [name, body]] of Object.entries(NOBODY_WAITS).entries()) {
  Deno.test(`UDPSocket that ${name} does not keep a process alive`, async () => {
    using port = freePort();
    assertEquals(await run(withSocket(port, body), ...FLAGS), {
      code: 0,
      stdout: PRINTED[i] ?? "",
      stderr: "",
    });
  });
}

Deno.test("UDPSocket that is flooded lets the script's other sockets be heard", async () => {
  using pair = new Pair();
  using tcp = freePort();
  await using _server = createTcpServer(tcp.port, () => "pong", {
    hostname: LOOPBACK,
  });
  await using _sensor = new Process(Deno.execPath(), [
    ...["eval", "--unstable-net"],
    `const here = { transport: "udp", hostname: "${LOOPBACK}" };
    const socket = Deno.listenDatagram({ ...here, port: 0 });
    const bytes = new TextEncoder().encode("x".repeat(1000));
    for (;;) await socket.send(bytes, { ...here, port: ${pair.port.wire} });`,
  ]);
  let flooded = 0;
  const taking = (async () => {
    for await (const _ of pair.socket) {
      flooded++;
      const end = performance.now() + 1;
      while (performance.now() < end); // what a script does with a reading
    }
  })();
  while (flooded < 10) await delay(1);
  await using asking = new Process(Deno.execPath(), [
    "eval",
    `const conn = await Deno.connect({
      hostname: "${LOOPBACK}", port: ${tcp.wire} });
    for (let n = 0; n < 10; n++) {
      await conn.write(new TextEncoder().encode("ping\\x03"));
      await conn.read(new Uint8Array(5));
    }`,
  ]);
  const { code, stderr } = await asking.ended();
  assertEquals({ code, stderr }, { code: 0, stderr: "" });
  pair.socket.close();
  await taking;
});

/** What waits, once on its own and once after a wait that ended. */
const SOMEBODY_WAITS: Record<string, string> = {
  "receive()": "",
  "receive() after one that timed out": `
    await socket.receive({ timeout: 1 });`,
};

for (const [name, before] of Object.entries(SOMEBODY_WAITS)) {
  Deno.test(`UDPSocket keeps a process alive while it waits: ${name}`, async () => {
    using port = freePort();
    using raw = new Raw();
    using program = new Program(withSocket(
      port,
      `${before}
      socket.receive().then(([message]) => console.log(message));
      console.log("waiting");`,
    ));
    await using process = program.start(...FLAGS);
    assertEquals(await process.read(), "waiting");
    await delay(200); // long enough for one to end that nothing keeps alive
    await raw.send("hello", port.wire);
    assertEquals(await process.ended(), {
      code: 0,
      stdout: "hello\n",
      stderr: "",
    });
  });
}
