// Why: the kernel's own check is switched off by Deno, so ours must catch every
// way to write a broadcast address, and let nothing out before it does.

import { assertEquals, assertRejects } from "@std/assert";
import { reach } from "../_ip.ts";
import { createUdpSocket, type UDPSocket } from "../mod.ts";
import { LOOPBACK, LOOPBACK_BROADCAST, onLinux } from "./_machine.ts";
import {
  ANY_NETWORK,
  Namespace,
  namespaceObstacle,
  Program,
} from "./_netns.ts";
import { freePort } from "./_ports.ts";
import { output, PATIENCE, Process, WAIT } from "./_process.ts";

/** 255.255.255.255, as an IPv4 socket takes it. */
const LIMITED = ["255.255.255.255"];
/** The same, as resolvers take it and sockets here refuse it. */
const LIMITED_SPELLINGS = [
  "4294967295",
  "0xffffffff",
  "0XFFFFFFFF",
  "255.255.65535",
  "255.0xffffff",
  "0377.0377.0377.0377",
  "037777777777",
];
/** The same, as an IPv6 socket takes it. */
const LIMITED_MAPPED = [
  "::ffff:255.255.255.255",
  "::FFFF:255.255.255.255",
  "::ffff:ffff:ffff",
  "0:0:0:0:0:ffff:255.255.255.255",
  "0000:0000:0000:0000:0000:ffff:ffff:ffff",
  "[::ffff:255.255.255.255]",
  "::ffff:ffff:ffff%1",
];
/** With a network card that is there on few machines. */
const LIMITED_ON_BRIDGE = "::ffff:ffff:ffff%br-lan";
const LOOPBACK_SPELLINGS = [
  "2147483647",
  "0x7fffffff",
  "127.255.65535",
  "127.0xffffff",
  "0177.0377.0377.0377",
];
const ORDINARY = [
  LOOPBACK,
  "127.255.255.254",
  "127.0.0.255",
  "0.0.0.0",
  "255.255.255.254",
  "4294967294",
  "192.0.2.1",
  "::1",
  "::",
  "::ffff:127.0.0.1",
  "ff02::1",
  "2001:db8::ffff:ffff",
  "fe80::1",
  "fe80::1%eth1",
  "fe80::1%br-lan.7",
  "[fe80::1%2]",
  "localhost",
];
/** What resolvers may take for a name, or for an address that URLs don't know. */
const NAMES = [
  "robot-7",
  "robot_7.cell",
  "broadcasthost",
  "localhost.",
  "localhost.cell",
  "LOCALHOST",
  "255.255.255.255 ",
  " 255.255.255.255",
  "255.255.255.256",
  "255.255.255.255.0",
  "255.255.255.255/32",
  "fe80::1%",
  "fe80::1%a b",
];

const obstacle = namespaceObstacle();
if (obstacle !== null) {
  console.warn(`Tests in network namespaces are ignored: ${obstacle}`);
}

for (
  const host of [
    ...LIMITED,
    ...LIMITED_SPELLINGS,
    ...LIMITED_MAPPED,
    LIMITED_ON_BRIDGE,
    LOOPBACK_BROADCAST,
    ...LOOPBACK_SPELLINGS,
  ]
) {
  Deno.test(`reach() knows ${host}`, () => {
    assertEquals(reach(host), "broadcast");
  });
}

Deno.test("reach() lets other addresses pass", () => {
  assertEquals(ORDINARY.filter((host) => reach(host) !== "one"), []);
});

Deno.test("reach() goes by what it knew where the networks can't be asked for", () => {
  const original = Deno.networkInterfaces;
  const now = performance.now;
  using stack = new DisposableStack();
  stack.defer(() => {
    Deno.networkInterfaces = original;
    performance.now = now;
  });
  const card = {
    family: "IPv4" as const,
    name: "eth0",
    address: "10.9.8.1",
    netmask: "255.255.255.0",
    cidr: "10.9.8.1/24",
    mac: "",
    scopeid: null,
  };
  const later = (ms: number) =>
    performance.now = () => now.call(performance) + ms;
  // Every question looks at the clock, so the first one that comes too late asks anew.
  later(1e9);
  Deno.networkInterfaces = () => [card];
  assertEquals(reach("10.9.8.255"), "broadcast");
  later(2e9);
  Deno.networkInterfaces = () => {
    throw new Error("Too many open files");
  };
  assertEquals([reach("10.9.8.255"), reach("10.9.8.7")], ["broadcast", "one"]);
  Deno.networkInterfaces = () => [];
  assertEquals(reach("10.9.8.255"), "one");
});

Deno.test("reach() knows of no name where it leads", () => {
  assertEquals(NAMES.filter((host) => reach(host) !== "unknown"), []);
});

/** Sends the host itself as the message. */
async function assertRefused(socket: UDPSocket, host: string, port: number) {
  const error = await assertRejects(
    () => socket.send(host, [host, port]),
    Deno.errors.PermissionDenied,
  );
  assertEquals(
    error.message,
    `Cannot send to ${host}:${port} (wire port ${
      port - 65536
    }): it is a broadcast address, and enableBroadcast() was not called`,
  );
}

async function assertNoSpellings(socket: UDPSocket, port: number) {
  for (const host of LOOPBACK_SPELLINGS) {
    await assertRejects(
      () => socket.send(host, [host, port]),
      TypeError,
      `Cannot use "${host}" as an IP address: `,
    );
  }
}

Deno.test({
  name:
    "UDPSocket.send() refuses 127.255.255.255 until enableBroadcast(), and nothing leaves",
  ignore: !onLinux,
  async fn() {
    using port = freePort();
    using receiver = createUdpSocket(port.port, {
      hostname: LOOPBACK_BROADCAST,
    });
    using own = freePort();
    using sender = createUdpSocket(own.port, { hostname: LOOPBACK });
    const host = LOOPBACK_BROADCAST;
    await assertRefused(sender, host, port.port);
    await assertNoSpellings(sender, port.port);
    sender.enableBroadcast();
    await assertNoSpellings(sender, port.port);
    await sender.send(host, [host, port.port]);
    assertEquals(await receiver.receive(WAIT), [host, [LOOPBACK, own.port]]);
  },
});

/** Starts a program to which names lead where only a hosts file can say so. */
function startWithHosts(network: Namespace, program: Program): Process {
  const hosts = "127.0.0.1 localhost\n255.255.255.255 broadcasthost robot-7\n";
  return new Process("ip", [
    ...["netns", "exec", network.name, "sh", "-c"],
    // A mount in here is seen by nobody else: `ip` has made a namespace for it.
    `file=$(mktemp) && printf "$0" > "$file" &&
    mount --bind "$file" /etc/hosts && rm "$file" && exec "$@"`,
    ...[hosts, Deno.execPath(), ...program.args(ANY_NETWORK)],
  ]);
}

Deno.test({
  name:
    "UDPSocket.send() refuses a name that may be a broadcast address's until enableBroadcast()",
  ignore: obstacle !== null,
  async fn() {
    using here = new Namespace();
    using there = new Namespace();
    here.link("10.0.0.1/24", there, "10.0.0.2/24");
    here.ip("route", "add", "default", "dev", "cable");
    using receiving = new Program(RECEIVER);
    using sending = new Program(`
      using sender = comm.createUdpSocket(70002, { hostname: "10.0.0.1" });
      const send = (text, host) =>
        sender.send(text, [host, 70001]).then(
          () => console.log("sent"),
          (error) => console.log(error.name, error.message),
        );
      await send("before", "broadcasthost");
      await send("before", "robot-7");
      await send("to myself", "localhost");
      sender.enableBroadcast();
      await send("after", "broadcasthost");
      await send("end", "10.0.0.2");
    `);
    await using receiver = there.start(receiving, ...ANY_NETWORK);
    assertEquals(await receiver.read(), "0.0.0.0 70001");
    await using process = startWithHosts(here, sending);
    const refused = (host: string) =>
      `TypeError Cannot send to ${host}:70001 (wire port 4465): UDP takes an IP address, as a name may be that of a broadcast address, and enableBroadcast() was not called\n`;
    assertEquals(
      await output(process),
      `${refused("broadcasthost")}${refused("robot-7")}sent\nsent\nsent\n`,
    );
    assertEquals(await output(receiver), "after 10.0.0.1 70002\n");
  },
});

Deno.test({
  name: "UDPSocket.send() refuses ::ffff:127.255.255.255 on an IPv6 socket",
  ignore: obstacle !== null,
  async fn() {
    using network = new Namespace();
    using program = new Program(`
      using receiver = comm.createUdpSocket(70001, {
        hostname: "127.255.255.255",
      });
      using sender = comm.createUdpSocket(70002, { hostname: "::" });
      for (const host of ["::ffff:127.255.255.255", "::ffff:7fff:ffff"]) {
        await sender.send("refused", [host, 70001])
          .catch((error) => console.log(error.name));
      }
      sender.enableBroadcast();
      await sender.send("allowed", ["::ffff:127.255.255.255", 70001]);
      console.log(...await receiver.receive({ timeout: ${PATIENCE} }));
    `);
    await using process = network.start(program, ...ANY_NETWORK);
    assertEquals(
      await output(process),
      `PermissionDenied\nPermissionDenied\nallowed [ "127.0.0.1", 70002 ]\n`,
    );
  },
});

Deno.test({
  name: "UDPSocket.enableBroadcast() holds for its own socket alone",
  ignore: !onLinux,
  async fn() {
    using port = freePort();
    using one = freePort();
    using two = freePort();
    using receiver = createUdpSocket(port.port, {
      hostname: LOOPBACK_BROADCAST,
    });
    using allowed = createUdpSocket(one.port, { hostname: LOOPBACK });
    using other = createUdpSocket(two.port, { hostname: LOOPBACK });
    allowed.enableBroadcast();
    allowed.enableBroadcast();
    await assertRefused(other, LOOPBACK_BROADCAST, port.port);
    await allowed.send("allowed", [LOOPBACK_BROADCAST, port.port]);
    assertEquals(await receiver.receive(WAIT), [
      "allowed",
      [LOOPBACK, one.port],
    ]);
  },
});

Deno.test("UDPSocket.enableBroadcast() leaves sending to one address as it is", async () => {
  using port = freePort();
  using socket = createUdpSocket(port.port, { hostname: LOOPBACK });
  socket.enableBroadcast();
  await socket.send("to myself", socket.address);
  assertEquals(await socket.receive(WAIT), ["to myself", socket.address]);
});

Deno.test({
  name: "createUdpSocket() with reuseAddress: each socket gets a broadcast",
  ignore: !onLinux,
  async fn() {
    using port = freePort();
    using own = freePort();
    const options = { hostname: LOOPBACK_BROADCAST, reuseAddress: true };
    using first = createUdpSocket(port.port, options);
    using second = createUdpSocket(port.port, options);
    using sender = createUdpSocket(own.port, { hostname: LOOPBACK });
    sender.enableBroadcast();
    for (const message of ["to all", "and again"]) {
      await sender.send(message, [LOOPBACK_BROADCAST, port.port]);
      const expected = [message, [LOOPBACK, own.port]] as const;
      assertEquals(await first.receive(WAIT), [...expected]);
      assertEquals(await second.receive(WAIT), [...expected]);
    }
  },
});

/** Prints each message and its sender, to the end marked by "end". */
const RECEIVER = `
  using receiver = comm.createUdpSocket(70001);
  console.log(...receiver.address);
  for await (const [message, sender] of receiver) {
    if (message === "end") break;
    console.log(message, ...sender);
  }
`;

/** Sends each host to itself, before and after enableBroadcast(). */
function sender(hostname: string, hosts: string[]): string {
  return `
    using sender = comm.createUdpSocket(70002, {
      hostname: ${JSON.stringify(hostname)},
    });
    async function sendAll(when) {
      for (const host of ${JSON.stringify(hosts)}) {
        try {
          await sender.send(when + " " + host, [host, 70001]);
          console.log("sent", host);
        } catch (error) {
          console.log(error.name, host);
        }
      }
    }
    await sendAll("before");
    sender.enableBroadcast();
    await sendAll("after");
    await sender.send("end", ["10.0.0.2", 70001]);
  `;
}

/** What the sender prints and what gets through to another network. */
async function exchange(
  program: string,
  ...flags: string[]
): Promise<{ sent: string[]; received: string[] }> {
  using here = new Namespace();
  using there = new Namespace();
  here.link("10.0.0.1/24", there, "10.0.0.2/24");
  here.ip("route", "add", "default", "dev", "cable");
  using receiving = new Program(RECEIVER);
  using sending = new Program(program);
  await using receiver = there.start(receiving, ...ANY_NETWORK);
  assertEquals(await receiver.read(), "0.0.0.0 70001");
  await using sender = here.start(sending, ...ANY_NETWORK, ...flags);
  const sent = await output(sender);
  return {
    sent: sent.trimEnd().split("\n"),
    received: (await output(receiver)).trimEnd().split("\n"),
  };
}

for (
  const [hostname, hosts] of [
    ["0.0.0.0", LIMITED],
    ["::", [...LIMITED_MAPPED, ...LIMITED]],
  ] as const
) {
  Deno.test({
    name:
      `UDPSocket.send() on ${hostname} keeps 255.255.255.255 in until enableBroadcast(), then reaches the network`,
    ignore: obstacle !== null,
    async fn() {
      const { sent, received } = await exchange(
        sender(hostname, [...hosts, ...LIMITED_SPELLINGS]),
      );
      const refused = LIMITED_SPELLINGS.map((host) => `TypeError ${host}`);
      assertEquals(
        received,
        hosts.map((host) => `after ${host} 10.0.0.1 70002`),
      );
      assertEquals(sent, [
        ...hosts.map((host) => `PermissionDenied ${host}`),
        ...refused,
        ...hosts.map((host) => `sent ${host}`),
        ...refused,
      ]);
    },
  });
}

/** The directed broadcast address of the network between the two. */
const DIRECTED = "10.0.0.255";

Deno.test({
  name:
    "UDPSocket.send() refuses an own network's broadcast address where sys is granted",
  ignore: obstacle !== null,
  async fn() {
    const { sent, received } = await exchange(
      sender("0.0.0.0", [DIRECTED]),
      "--allow-sys=networkInterfaces",
    );
    assertEquals(received, [`after ${DIRECTED} 10.0.0.1 70002`]);
    assertEquals(sent, [`PermissionDenied ${DIRECTED}`, `sent ${DIRECTED}`]);
  },
});

Deno.test({
  name:
    "UDPSocket.send() takes an own network's broadcast address for another where sys is not granted",
  ignore: obstacle !== null,
  async fn() {
    const { sent, received } = await exchange(sender("0.0.0.0", [DIRECTED]));
    assertEquals(sent, [`sent ${DIRECTED}`, `sent ${DIRECTED}`]);
    assertEquals(received, [
      `before ${DIRECTED} 10.0.0.1 70002`,
      `after ${DIRECTED} 10.0.0.1 70002`,
    ]);
  },
});

Deno.test({
  name:
    "reach() goes by the netmask of each interface, and networks of two have none",
  ignore: obstacle !== null,
  async fn() {
    using network = new Namespace();
    using peer = new Namespace();
    network.link("172.16.5.9/22", peer, "172.16.5.10/22");
    network.ip("address", "add", "10.1.2.2/31", "dev", "cable");
    network.ip("address", "add", "10.1.2.9/32", "dev", "cable");
    network.ip("address", "add", "10.1.2.17/30", "dev", "cable");
    const broadcast = ["172.16.7.255", "::ffff:172.16.7.255", "10.1.2.19"];
    const ordinary = ["172.16.5.255", "10.1.2.3", "10.1.2.9"];
    using program = new Program(`
      using sender = comm.createUdpSocket(70002, { hostname: "0.0.0.0" });
      for (const host of ${JSON.stringify([...broadcast, ...ordinary])}) {
        await sender.send("", [host, 70001]).then(
          () => console.log(host, "sent"),
          (error) => console.log(host, error.name),
        );
      }
    `);
    await using process = network.start(
      program,
      ...ANY_NETWORK,
      "--allow-sys=networkInterfaces",
    );
    assertEquals((await output(process)).trimEnd().split("\n"), [
      ...broadcast.map((host) => `${host} PermissionDenied`),
      ...ordinary.map((host) => `${host} sent`),
    ]);
  },
});
