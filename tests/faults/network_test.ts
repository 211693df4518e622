// Why: loopback loses nothing, delays nothing and is never unplugged.

import { assert, assertEquals } from "@std/assert";
import { deadline, delay } from "@std/async";
import { ANY_NETWORK, Namespace, Program } from "../_netns.ts";
import type { Process } from "../_process.ts";
import { type Cable, Switch, THERE, VETH, WIRE } from "./_network.ts";

/** How long a test may take, in milliseconds; only a failure takes so long. */
const LIMIT = 90_000;

function test(
  name: string,
  obstacle: string | null,
  fn: () => Promise<void>,
): void {
  Deno.test({
    name,
    ignore: obstacle !== null,
    fn: () => deadline(fn(), LIMIT),
  });
}

/** What every program begins with. */
const COMMON = `
  const say = (...what) => console.log(JSON.stringify(what));
  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const failure = (error) => error && [error.name, error.message];
  /** A text that shows whether it is whole: its number, its length, its characters. */
  const make = (i, length) => (i + " " + length + " ").padEnd(length, "é" + i % 10);
  const number = (text) => {
    const [i, length] = text.split(" ", 2).map(Number);
    return text === make(i, length) ? i : "broken: " + text.slice(0, 20);
  };
`;

/** Runs a program on each side of a cable. */
async function between(
  link: (here: Namespace, there: Namespace) => Promise<Cable>,
  server: string,
  client: string,
  body: (cable: Cable, server: Process, client: Process) => Promise<void>,
): Promise<void> {
  using here = new Namespace();
  using there = new Namespace();
  await using cable = await link(here, there);
  using serving = new Program(COMMON + server);
  using calling = new Program(COMMON + client);
  await using other = there.start(serving, ...ANY_NETWORK);
  assertEquals(await hear(other), ["ready"]);
  await using own = here.start(calling, ...ANY_NETWORK);
  assertEquals(await hear(own), ["ready"]);
  await body(cable, other, own);
}

async function hear(process: Process): Promise<unknown[]> {
  return JSON.parse(await process.read()) as unknown[];
}

/** Echoes over TCP, and says over TCP, when asked, what came over UDP. */
const ECHO = `
  const datagrams = [];
  comm.createTcpServer(70001, (text) =>
    text === "report" ? JSON.stringify(datagrams) : text);
  say("ready");
  for await (const [text] of comm.createUdpSocket(70002)) {
    datagrams.push(number(text));
  }
`;

/** What the client says at the end: what went out, and what came back. */
interface Report {
  sent: number;
  received: unknown[];
  datagramsSent: number;
  datagrams: unknown[];
}

function upTo(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}

/** Datagrams are whole, and none comes twice; returns how many were overtaken. */
function assertWhole({ datagrams, datagramsSent }: Report): number {
  const numbers = datagrams.map(Number);
  assertEquals(datagrams.filter((i) => typeof i !== "number"), []);
  assertEquals(new Set(numbers).size, numbers.length, "none twice");
  assert(numbers.every((i) => i < datagramsSent));
  let highest = -1;
  return numbers.filter((n) => n < (highest = Math.max(highest, n))).length;
}

for (const kind of [VETH, WIRE]) {
  test(
    `TCP loses nothing and UDP whole datagrams only with 5 % loss, 200 ms delay and reordering on ${kind.name}`,
    kind.netem,
    () =>
      between(
        kind.link,
        ECHO,
        `
        using udp = comm.createUdpSocket(70002);
        await using client = await comm.createTcpClient("${THERE}", 70001);
        say("ready");
        await client.send("warm"), await client.receive();
        await new Promise((resolve) => Deno.stdin.read(new Uint8Array(9)).then(resolve));
        const begin = performance.now();
        const sends = [];
        for (let i = 0; i < 150; i++) sends.push(client.send(make(i, 20 + i * 7 % 400)));
        for (let i = 0; i < 400; i++) {
          await udp.send(make(i, 20 + i * 37 % 2000), ["${THERE}", 70002]);
          if (i % 4 === 0) await pause(1);
        }
        const received = [];
        while (received.length < 150) received.push(number(await client.receive()));
        await Promise.all(sends);
        await client.send("report");
        const datagrams = JSON.parse(await client.receive());
        const ms = performance.now() - begin;
        say({ sent: 150, received, datagramsSent: 400, datagrams }, Math.round(ms));
      `,
        async (cable, _server, client) => {
          await cable.impair({ loss: 0.05, delay: 200, reorder: 0.1 });
          await client.write("go\n");
          const [report, ms] = await hear(client) as [Report, number];
          assertEquals(report.received, upTo(report.sent));
          const late = assertWhole(report);
          const lost = report.datagramsSent - report.datagrams.length;
          assert(lost > 0, "the cable did lose some");
          assert(late > 0, "the cable did reorder some");
          console.log(
            `${kind.name}: ${report.sent} messages there and back in ${ms} ms, ` +
              `${lost} of ${report.datagramsSent} datagrams lost, ${late} overtaken`,
          );
        },
      ),
  );
}

test(
  "TCP loses nothing and UDP whole datagrams only when a link is cut for 5 seconds and healed",
  VETH.obstacle,
  () =>
    between(
      VETH.link,
      ECHO,
      `
      using udp = comm.createUdpSocket(70002);
      await using client = await comm.createTcpClient("${THERE}", 70001);
      say("ready");
      let more = true;
      Deno.stdin.read(new Uint8Array(9)).then(() => more = false);
      const sends = [];
      let datagramsSent = 0;
      const received = [];
      const receiving = (async () => {
        for await (const text of client) {
          if (text.startsWith("[")) return JSON.parse(text);
          if (received.push(number(text)) === 10) say("running");
        }
      })();
      while (more) {
        sends.push(client.send(make(sends.length, 3000)));
        await udp.send(make(datagramsSent, 3000), ["${THERE}", 70002])
          .then(() => datagramsSent++, () => {});
        await pause(20);
      }
      await Promise.all(sends);
      await client.send("report");
      const datagrams = await receiving;
      say({ sent: sends.length, received, datagramsSent, datagrams });
    `,
      async (cable, _server, client) => {
        assertEquals(await hear(client), ["running"]);
        await cable.cut();
        await delay(5_000);
        await cable.heal();
        const healed = performance.now();
        await client.write("stop\n");
        const [report] = await hear(client) as [Report];
        const ms = Math.round(performance.now() - healed);
        assertEquals(report.received, upTo(report.sent));
        assertWhole(report);
        const lost = report.datagramsSent - report.datagrams.length;
        assert(lost > 0, "the link was cut");
        console.log(
          `${report.sent} messages whole ${ms} ms after the link was healed, ` +
            `${lost} of ${report.datagramsSent} datagrams lost`,
        );
      },
    ),
);

/** A server and a client that send all the time, until they give each other up. */
const IDLE = 1_000;
const TALKING_SERVER = `
  let last = performance.now();
  const server = comm.createTcpServer(70001, (text) => {
    last = performance.now();
    return text;
  }, {
    idleTimeout: ${IDLE},
    onDisconnect: (_, error) =>
      say("gone", failure(error), Math.round(performance.now() - last)),
  });
  say("ready");
`;
const GIVEN_UP = ["TimedOut", `nothing came for ${IDLE} ms`];

function talkingClient(options: string): string {
  return `
    let last = performance.now();
    const client = await comm.createTcpClient("${THERE}", 70001, {
      idleTimeout: ${IDLE},
      connectTimeout: 500,
      onDisconnect: (error) =>
        say("gone", failure(error), Math.round(performance.now() - last)),
      onReconnect: () => say("back"),
      ${options}
    });
    say("ready");
    let sent = 0;
    const talking = setInterval(() => {
      client.send("still here " + sent++).catch(() => clearInterval(talking));
    }, 50);
    let running = false;
    for await (const text of client) {
      last = performance.now();
      if (!running && Number(text.split(" ")[2]) > 10) say("running", running = true);
    }
  `;
}

for (const kind of [VETH, WIRE]) {
  test(
    `A link cut for good is noticed by both sides within idleTimeout on ${kind.name}`,
    kind.obstacle,
    () =>
      between(
        kind.link,
        TALKING_SERVER,
        talkingClient("").replace(
          "for await",
          "try { for await",
        ) + `} catch (error) { say(...failure(error)); }`,
        async (cable, server, client) => {
          assertEquals(await hear(client), ["running", true]);
          await cable.cut();
          const [what, error, ms] = await hear(client);
          assertEquals([what, error], ["gone", GIVEN_UP]);
          assertEquals(await hear(client), [
            "ClosedError",
            `Cannot receive from ${THERE}:70001 (wire port 4465): ${
              GIVEN_UP[1]
            }`,
          ]);
          const [whatThere, errorThere, msThere] = await hear(server);
          assertEquals([whatThere, errorThere], ["gone", GIVEN_UP]);
          console.log(
            `${kind.name}: noticed ${ms} and ${msThere} ms after the last message`,
          );
        },
      ),
  );
}

test(
  "TCPClient with reconnect comes back when a link is healed that was cut beyond idleTimeout",
  WIRE.obstacle,
  () =>
    between(
      WIRE.link,
      TALKING_SERVER,
      talkingClient("reconnect: { firstDelay: 10, maxDelay: 100 },"),
      async (cable, server, client) => {
        assertEquals(await hear(client), ["running", true]);
        await cable.cut();
        assertEquals((await hear(client)).slice(0, 2), ["gone", GIVEN_UP]);
        assertEquals((await hear(server)).slice(0, 2), ["gone", GIVEN_UP]);
        await cable.heal();
        assertEquals(await hear(client), ["back"]);
      },
    ),
);

test(
  "UDPSocket reaches all others by broadcast, and none of them before enableBroadcast()",
  VETH.obstacle,
  async () => {
    using hub = new Switch();
    using stack = new DisposableStack();
    const [robot, ...others] = upTo(4).map((i) => {
      const namespace = stack.use(new Namespace());
      hub.plug(namespace, `10.0.0.${i + 1}/24`);
      namespace.ip("route", "add", "default", "dev", "cable");
      return namespace;
    });
    assert(robot);
    using receiving = new Program(`${COMMON}
      using udp = comm.createUdpSocket(70001);
      say("ready");
      for await (const [text, [ip, port]] of udp) {
        say(text, ip, port);
        if (text === "end") break;
      }
    `);
    await using processes = new AsyncDisposableStack();
    const receivers = others.map((namespace) =>
      processes.use(namespace.start(receiving, ...ANY_NETWORK))
    );
    for (const receiver of receivers) {
      assertEquals(await hear(receiver), ["ready"]);
    }
    using sending = new Program(`${COMMON}
      using udp = comm.createUdpSocket(70002);
      const send = (text, ip) =>
        udp.send(text, [ip, 70001]).then(() => say("sent"), (e) => say(e.name));
      await send("refused", "255.255.255.255");
      await send("refused", "10.0.0.255");
      udp.enableBroadcast();
      await send("limited", "255.255.255.255");
      await send("directed", "10.0.0.255");
      await send("end", "10.0.0.255");
    `);
    await using sender = robot.start(
      sending,
      ...ANY_NETWORK,
      "--allow-sys=networkInterfaces",
    );
    const { code, stdout, stderr } = await sender.ended();
    assertEquals({ code, stderr }, { code: 0, stderr: "" });
    assertEquals(stdout.trimEnd().split("\n"), [
      '["PermissionDenied"]',
      '["PermissionDenied"]',
      '["sent"]',
      '["sent"]',
      '["sent"]',
    ]);
    for (const receiver of receivers) {
      for (const text of ["limited", "directed", "end"]) {
        assertEquals(await hear(receiver), [text, "10.0.0.1", 70002]);
      }
    }
  },
);
