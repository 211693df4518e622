// Why: every socket finds its port through these functions, so that an error of
// one at either end of the range would be an error of all of them.

import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import fc from "fast-check";
import { createTcpClient, createTcpServer, createUdpSocket } from "../mod.ts";
import { freePort } from "./_ports.ts";
import {
  type Address,
  checkAddress,
  checkHost,
  formatAddress,
  formatWithWire,
  MAX_PORT,
  MIN_PORT,
  toAddress,
  wirePort,
} from "../_address.ts";

/** The offsets that leave the wire ports 1 to 1001, and 64535 to 65535. */
const LOWEST_OFFSET = -69_999;
const HIGHEST_OFFSET = -5_465;

const anyPort = fc.integer({ min: 70_000, max: 71_000 });
const anyOffset = fc.integer({ min: LOWEST_OFFSET, max: HIGHEST_OFFSET });

Deno.test("MIN_PORT and MAX_PORT are the ends of the communication ports", () => {
  assertEquals([MIN_PORT, MAX_PORT], [70_000, 71_000]);
});

Deno.test("wirePort() gives the low 16 bits", () => {
  for (let port = 70_000; port <= 71_000; port++) {
    assertEquals(wirePort(port), port & 0xffff);
  }
  assertEquals([wirePort(70_000), wirePort(71_000)], [4464, 5464]);
  assertEquals(wirePort(70_001, undefined), 4465);
});

Deno.test("wirePort() adds any offset that keeps every port within 1 to 65535", () => {
  fc.assert(fc.property(anyPort, anyOffset, (port, offset) => {
    assertEquals(wirePort(port, offset), port + offset);
  }));
  assertEquals(wirePort(70_000, LOWEST_OFFSET), 1);
  assertEquals(wirePort(71_000, HIGHEST_OFFSET), 65_535);
});

/** What is not a communication port, and how an error shows it. */
const BAD_PORTS: [port: unknown, shown: string][] = [
  [69_999, "69999"],
  [71_001, "71001"],
  [70_000.5, "70000.5"],
  [70_999.999, "70999.999"],
  [4464, "4464"],
  [4465, "4465"],
  [5464, "5464"],
  [65_535, "65535"],
  [0, "0"],
  [-70_001, "-70001"],
  [NaN, "NaN"],
  [Infinity, "Infinity"],
  [-Infinity, "-Infinity"],
  [Number.MAX_VALUE, "1.7976931348623157e+308"],
  ["70001", '"70001"'],
  ["", '""'],
  [70_001n, "70001"],
  [true, "true"],
  [null, "null"],
  [undefined, "undefined"],
  [Symbol("port"), "Symbol(port)"],
  [{}, "an object"],
  [Object.create(null), "an object"],
  [new Number(70_001), "an object"],
  [[70_001], "an array"],
  [() => 70_001, "a function"],
];

Deno.test("wirePort() refuses what is not a communication port, and names it and the range", () => {
  for (const [port, shown] of BAD_PORTS) {
    const hint = typeof port === "number" && port >= 4464 && port <= 5464
      ? `; ${port} is the wire port of ${port + 65_536}`
      : port === "70001"
      ? "; write 70001 without quotes, or Number(port)"
      : "";
    const error = assertThrows(() => wirePort(port as number), RangeError);
    assertEquals(
      error.message,
      `Cannot use ${shown} as a communication port: it takes an integer from 70000 to 71000${hint}`,
    );
  }
});

Deno.test("wirePort() tells whose wire port was given, with any portOffset", () => {
  fc.assert(fc.property(anyPort, anyOffset, (port, offset) => {
    const wire = wirePort(port, offset);
    if (wire >= MIN_PORT) return;
    const { message } = assertThrows(() => wirePort(wire, offset), RangeError);
    assertStringIncludes(message, `; ${wire} is the wire port of ${port}`);
  }));
});

Deno.test("wirePort() refuses every number out of the range", () => {
  const bad = fc.oneof(
    fc.double().filter((port) => !Number.isInteger(port)),
    fc.integer({ max: 69_999 }),
    fc.integer({ min: 71_001 }),
  );
  fc.assert(fc.property(bad, anyOffset, (port, offset) => {
    assertThrows(() => wirePort(port, offset), RangeError, `${port}`);
  }));
});

/** What is not an offset; the first two miss by one. */
const BAD_OFFSETS: [offset: unknown, shown: string][] = [
  [LOWEST_OFFSET - 1, "-70000"],
  [HIGHEST_OFFSET + 1, "-5464"],
  [0, "0"],
  [65_536, "65536"],
  [-65_535.5, "-65535.5"],
  [NaN, "NaN"],
  [-Infinity, "-Infinity"],
  ["-65536", '"-65536"'],
  [-65_536n, "-65536"],
  [null, "null"],
  [{}, "an object"],
];

Deno.test("wirePort() refuses an offset that takes a port out of 1 to 65535", () => {
  for (const [offset, shown] of BAD_OFFSETS) {
    // Whether or not the port at hand would be within.
    for (const port of [70_000, 70_500, 71_000]) {
      assertThrows(
        () => wirePort(port, offset as number),
        RangeError,
        `Cannot use ${shown} as portOffset`,
      );
    }
  }
});

Deno.test("toAddress() gives the communication port exactly where there is one", () => {
  const toPort = (port: number) => toAddress({ hostname: "10.0.0.1", port })[1];
  assertEquals([4464, 4465, 5464].map(toPort), [70_000, 70_001, 71_000]);
  const outside = [0, 1, 4463, 5465, 49_152, 65_535];
  assertEquals(outside.map(toPort), outside);
});

Deno.test("toAddress() undoes wirePort(), whatever the offset", () => {
  fc.assert(fc.property(anyPort, anyOffset, (port, offset) => {
    const peer = { hostname: "10.0.0.1", port: wirePort(port, offset) };
    assertEquals(toAddress(peer, offset), ["10.0.0.1", port]);
  }));
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 65_535 }),
      anyOffset,
      (port, offset) => {
        const [, mapped] = toAddress({ hostname: "10.0.0.1", port }, offset);
        const known = port >= 70_000 + offset && port <= 71_000 + offset;
        assertEquals(mapped, known ? port - offset : port);
      },
    ),
  );
});

Deno.test("toAddress() gives an address that nobody can change", () => {
  assert(Object.isFrozen(toAddress({ hostname: "::1", port: 4465 })));
});

Deno.test("formatAddress() puts an IPv6 address in brackets", () => {
  const addresses: [Address, string][] = [
    [["192.168.1.100", 70_001], "192.168.1.100:70001"],
    [["localhost", 49_152], "localhost:49152"],
    [["::1", 70_001], "[::1]:70001"],
    [["fe80::1%eth0", 1], "[fe80::1%eth0]:1"],
  ];
  for (const [address, text] of addresses) {
    assertEquals(formatAddress(address), text);
  }
});

Deno.test("formatWithWire() names both ports, where there are two", () => {
  assertEquals(
    formatWithWire(["192.168.1.100", 70_001]),
    "192.168.1.100:70001 (wire port 4465)",
  );
  assertEquals(
    formatWithWire(["::1", 71_000], -60_000),
    "[::1]:71000 (wire port 11000)",
  );
  assertEquals(formatWithWire(["10.0.0.1", 65_535]), "10.0.0.1:65535");
});

/** Addresses as every program reads them, and names. */
const HOSTS = [
  ...["127.0.0.1", "0.0.0.0", "255.255.255.255", "::", "::1", "[::1]"],
  ...["fe80::7%eth1", "fe80::1%br-lan.7", "::ffff:192.168.1.7", "localhost"],
  ...["robot.local", "robot-7", "robot_7.cell", "plc1", "7.robots.example"],
  ...["1.2.3.example", "localhost.", "a.b.c.d", "10.robots", "1a.2b.3c.4d"],
];

/** What somebody meant as an address. */
const MISTYPED = [
  ...["192.168.1.1O", "192.168.1.l0", "192.168.1.O", "192.168.1.7a"],
  ...["192.168.1", "192.168.1.256", "192.168.1.1.1", "192.168.1.7."],
  ...["192.168.1O.1", "192.168..7", "3232235879", "0xc0a80107", "127.1"],
  ...["192.168.1.7 ", " 192.168.1.7", "192.168.1.7/24"],
  ...[
    "http://robot-7",
    "robot 7",
    "192,168,1,7",
    "röbot",
    "::g",
    "fe80::1::2",
    "fe80::1%",
    "[::1",
  ],
];

Deno.test("checkHost() takes IP addresses and names", () => {
  for (const host of HOSTS) checkHost(host);
  for (const host of ["", undefined, null, 127, ["127.0.0.1"], {}]) {
    assertThrows(() => checkHost(host), TypeError, "as an IP address");
  }
});

Deno.test("checkHost() refuses a mistyped IP address, and names it", () => {
  for (const host of MISTYPED) {
    const error = assertThrows(
      () => checkHost(host),
      TypeError,
      undefined,
      host,
    );
    assertEquals(
      error.message,
      `Cannot use "${host}" as an IP address: it takes four numbers from 0 to 255 such as "192.168.1.100", an IPv6 address or a host name`,
    );
  }
});

Deno.test("checkHost() refuses numbers with leading zeros, which resolvers take for octal", () => {
  for (const host of ["192.168.001.010", "010.0.0.1", "192.168.1.08"]) {
    const error = assertThrows(() => checkHost(host, "hostname"), TypeError);
    assertEquals(
      error.message,
      `Cannot use "${host}" as hostname: some programs read numbers with leading zeros as octal`,
    );
  }
});

Deno.test("createTcpClient(), hostname and UDPSocket.send() refuse a mistyped IP address", async () => {
  using port = freePort();
  using socket = createUdpSocket(port.port, { hostname: "127.0.0.1" });
  socket.enableBroadcast();
  const hostname = "192.168.1";
  const refused = (run: () => unknown, name: string) =>
    assertRejects(
      async () => await run(),
      TypeError,
      `Cannot use "${hostname}" as ${name}: it takes `,
    );
  await refused(() => createTcpClient(hostname, 70_001), "an IP address");
  await refused(
    () => createTcpServer(70_001, undefined, { hostname }),
    "hostname",
  );
  await refused(() => createUdpSocket(70_001, { hostname }), "hostname");
  await refused(() => socket.send("x", [hostname, 70_001]), "an IP address");
});

Deno.test("checkAddress() takes a pair with a host", () => {
  checkAddress(["127.0.0.1", 70_001]);
  const bad = [
    undefined,
    null,
    "127.0.0.1:70001",
    { 0: "127.0.0.1", 1: 70_001, length: 2 },
    [],
    ["127.0.0.1"],
    ["127.0.0.1", 70_001, 1],
  ];
  for (const address of bad) {
    assertThrows(
      () => checkAddress(address),
      TypeError,
      "as an address: it takes [ip, port]",
    );
  }
  for (const address of [["", 70_001], [70_001, "127.0.0.1"]]) {
    assertThrows(() => checkAddress(address), TypeError, "as an IP address");
  }
});
