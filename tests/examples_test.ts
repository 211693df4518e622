// Why: an example is the first thing people run, so each one runs here as its
// first comment says, with those permissions and no others.

import {
  assert,
  assertEquals,
  assertRejects,
  assertThrows,
  fail,
} from "@std/assert";
import { deadline } from "@std/async";
import {
  ClosedError,
  createTcpClient,
  createTcpServer,
  createUdpSocket,
  type TCPClient,
  type TCPServer,
  wirePort,
} from "../mod.ts";
import { toNumber } from "../examples/_numbers.ts";
import { Example } from "./_example.ts";
import {
  LOOPBACK,
  LOOPBACK_BROADCAST,
  onLinux,
  onWindows,
} from "./_machine.ts";
import { freePort } from "./_ports.ts";
import { output, PATIENCE, ROOT, WAIT } from "./_process.ts";

/** The part of the order that comes next, or null when it is sent home. */
async function order(robot: TCPClient): Promise<string | null> {
  const message = await robot.receive(WAIT) ?? fail("timed out");
  if (message === "HOME") return null;
  return message.match(/^PICK (\d+)$/)?.[1] ?? fail(message);
}

async function pick(robot: TCPClient): Promise<string> {
  return await order(robot) ?? fail("sent home");
}

/** Does a part and all to come, until it is sent home; those it has done. */
async function workUntilHome(
  robot: TCPClient,
  first: string,
): Promise<string[]> {
  const parts: string[] = [];
  for (let part: string | null = first; part; part = await order(robot)) {
    parts.push(part);
    await robot.send(`DONE ${part}`);
    await robot.send("READY");
  }
  return parts;
}

/** What is to be seen of each example, for its counterpart and on its screen. */
const runs: Record<string, (example: Example) => Promise<void>> = {
  async "tcp_client.ts"(example) {
    const seen: string[] = [];
    await using _server = createTcpServer(example.port(70001), (message) => {
      seen.push(message);
      return `Echo: ${message}`;
    }, { hostname: LOOPBACK });
    await using process = example.start();
    assertEquals(await output(process), "Received reply: Echo: Hello Server\n");
    assertEquals(seen, ["Hello Server"]);
  },

  async "tcp_server.ts"(example) {
    const port = example.port(70001);
    await using process = example.start();
    assertEquals(
      await process.read(),
      `Listening on ${LOOPBACK},${port}, Ctrl-C stops`,
    );
    await using client = await createTcpClient(LOOPBACK, port);
    await client.send("你好");
    assertEquals(await client.receive(WAIT), "Echo: 你好");
    assertEquals(
      await process.read(),
      `Received from ${client.localAddress}: 你好`,
    );
    process.interrupt();
    assertEquals(await client.receive(WAIT), "Broadcast message");
    await assertRejects(() => client.receive(WAIT), ClosedError);
    assertEquals(await output(process), "");
  },

  async "udp_receiver.ts"(example) {
    const [port, own] = [example.port(70002), example.port(70001)];
    await using process = example.start();
    assertEquals(await process.read(), `Listening on ${LOOPBACK},${port}`);
    using sender = createUdpSocket(own, { hostname: LOOPBACK });
    await sender.send("Hello UDP", [LOOPBACK, port]);
    assertEquals(await sender.receive(WAIT), [
      "Reply: Hello UDP",
      [LOOPBACK, port],
    ]);
    assertEquals(
      await output(process),
      `Received: Hello UDP from: ${LOOPBACK},${own}\n`,
    );
  },

  async "udp_sender.ts"(example) {
    using receiver = createUdpSocket(example.port(70002), {
      hostname: LOOPBACK,
    });
    await using process = example.start();
    assertEquals(await receiver.receive(WAIT), [
      "Hello UDP",
      [LOOPBACK, example.port(70001)],
    ]);
    assertEquals(await output(process), "");
  },

  async "udp_broadcast.ts"(example) {
    using receiver = createUdpSocket(example.port(70002), {
      hostname: LOOPBACK_BROADCAST,
    });
    await using process = example.start();
    assertEquals(await receiver.receive(WAIT), [
      "Broadcast message",
      [LOOPBACK, example.port(70001)],
    ]);
    assertEquals(await output(process), "");
  },

  async "plc_handshake.ts"(example) {
    const answers: Record<string, string[]> = {
      REQUEST: ["WAIT", "PICK 7 120.5 -80", "STOP"],
      "PICKED 7": ["PLACE 3"],
      "PLACED 7": ["OK"],
    };
    await using _plc = createTcpServer(
      example.port(70001),
      (message) => answers[message]?.shift() ?? fail(message),
      { hostname: LOOPBACK },
    );
    await using process = example.start();
    assertEquals((await output(process)).split("\n"), [
      "REQUEST    → WAIT",
      "REQUEST    → PICK 7 120.5 -80",
      "           at part 7, x 120.5, y -80",
      "PICKED 7   → PLACE 3",
      "           at tray 3",
      "PLACED 7   → OK",
      "REQUEST    → STOP",
      "Placed 1 parts",
      "",
    ]);
    assertEquals(Object.values(answers).flat(), []);
  },

  async "line_pc.ts"(example) {
    const port = example.port(70001);
    await using process = example.start();
    assertEquals(
      await process.read(),
      `Listening on ${LOOPBACK},${port} for 2 robots`,
    );
    await using first = await createTcpClient(LOOPBACK, port);
    await first.send("READY");
    await using second = await createTcpClient(LOOPBACK, port);
    for (const robot of [first, second]) {
      assertEquals(await robot.receive(WAIT), "START");
    }
    await second.send("READY");
    const [lost, kept] = [await pick(first), await pick(second)];
    // Its part goes to the one that is left, once that one is ready.
    await first.disconnect();
    const done = await workUntilHome(second, kept);
    assertEquals(done.sort(), ["1", "2", "3", "4", "5"]);
    const { code, stdout, stderr } = await process.ended();
    assertEquals({ code, stderr }, { code: 0, stderr: "" });
    const lines = stdout.trimEnd().split("\n");
    assert(lines.includes("Started 2 robots"), stdout);
    assert(
      lines.includes(`${first.localAddress} is gone with part ${lost}`),
      stdout,
    );
    assertEquals(
      lines.filter((line) => / has done part /.test(line)).length,
      5,
    );
    assert(lines.includes("Sent 1 robots home"), stdout);
  },

  async "line_robot.ts"(example) {
    const messages = Promise.withResolvers<string[]>();
    const seen: string[] = [];
    await using server = createTcpServer(
      example.port(70001),
      async (message, robot) => {
        if (message === "") return "";
        if (seen.push(message) === 5) messages.resolve(seen);
        if (message === "DONE 1") await server.sendToAll("START");
        if (message !== "READY") return;
        if (seen.length === 5) return "HOME";
        // In the middle of the first motion, an order too many.
        await server.send(`PICK ${seen.length === 1 ? 1 : 2}`, robot);
        if (seen.length === 1) return "PICK 9";
      },
      { hostname: LOOPBACK },
    );
    await using process = example.start();
    assertEquals(await deadline(messages.promise, PATIENCE), [
      "READY",
      "DONE 1",
      "READY",
      "DONE 2",
      "READY",
    ]);
    const { code, stdout, stderr } = await process.ended();
    assertEquals({ code, stdout, stderr }, {
      code: 0,
      stdout: "Picks part 1\nPicks part 2\nHome\n",
      stderr: "Ignored PICK 9: a motion is under way\n",
    });
  },

  async "udp_discovery.ts"(example) {
    const [own, port] = [example.port(70001), example.port(70002)];
    await using robot = example.startSecond();
    assertEquals(
      await robot.read(),
      `arm-1 answers on ${LOOPBACK_BROADCAST},${port}, Ctrl-C stops`,
    );
    await using finder = example.start();
    assertEquals(
      await output(finder),
      `arm-1 at ${LOOPBACK},${port}\nFound 1\n`,
    );
    assertEquals(await robot.read(), `Answered ${LOOPBACK},${own}`);
    // One that it has no permission to answer.
    using free = freePort();
    using stranger = createUdpSocket(free.port, { hostname: LOOPBACK });
    stranger.enableBroadcast();
    await stranger.send("WHO IS THERE?", [LOOPBACK_BROADCAST, port]);
    const why = await robot.readError();
    assert(
      why.startsWith(`Cannot send to ${LOOPBACK}:${free.port}`) &&
        why.includes("Requires net access"),
      why,
    );
    using noise = createUdpSocket(own, { hostname: LOOPBACK });
    noise.enableBroadcast();
    await noise.send("hello", [LOOPBACK_BROADCAST, port]);
    await noise.send("WHO IS THERE?", [LOOPBACK_BROADCAST, port]);
    assertEquals((await noise.receive(WAIT))?.[0], "I AM arm-1");
    robot.interrupt();
    const answered = `Answered ${LOOPBACK},${own}\n`;
    assertEquals(await output(robot), answered.repeat(3));
  },

  async "gateway.ts"(example) {
    const [tcp, udp, target] = [70001, 70002, 70003]
      .map((stated) => example.port(stated)) as [number, number, number];
    using camera = createUdpSocket(target, { hostname: LOOPBACK });
    await using process = example.start();
    assertEquals(
      await process.read(),
      `From TCP ${LOOPBACK},${tcp} to UDP ${LOOPBACK},${target}, Ctrl-C stops`,
    );
    await using first = await createTcpClient(LOOPBACK, tcp);
    await using second = await createTcpClient(LOOPBACK, tcp);
    for (const client of [first, second]) {
      await client.send("trigger 触发");
      assertEquals(await camera.receive(WAIT), [
        "trigger 触发",
        [LOOPBACK, udp],
      ]);
    }
    await camera.send("not for TCP: \x03", [LOOPBACK, udp]);
    assertEquals(
      await process.readError(),
      "Dropped a datagram: Cannot send a message with U+0003: it ends a message on the wire",
    );
    await camera.send("seen 3", [LOOPBACK, udp]);
    for (const client of [first, second]) {
      assertEquals(await client.receive(WAIT), "seen 3");
    }
    process.interrupt();
    assertEquals(await output(process), "");
    await assertRejects(() => first.receive(WAIT), ClosedError);
  },

  async "server_worker.ts"(example) {
    const port = example.port(70001);
    await using process = example.start();
    assertEquals(await process.read(), `Listening on ${LOOPBACK},${port}`);
    await using client = await createTcpClient(LOOPBACK, port);
    for (let steps = -1, now = -1; now < 2; steps = now) {
      await client.send("status");
      const status = await client.receive(WAIT) ?? fail("timed out");
      now = Number(status.match(/^(\d+) steps$/)?.[1] ?? fail(status));
      assert(now >= steps, status);
    }
    await client.send("stop");
    assertEquals(await client.receive(WAIT), "stopping");
    await assertRejects(() => client.receive(WAIT), ClosedError);
    const stdout = await output(process);
    assert(/^Stopped after \d+ steps\n$/.test(stdout), stdout);
  },

  async "dashboard.ts"(example) {
    const port = example.port(70001);
    const host = `${LOOPBACK}:${example.pagePort(8080)}`;
    await using process = example.start();
    assertEquals(await process.read(), `Robots: ${LOOPBACK},${port}`);
    assertEquals(await process.read(), `Page: http://${host}/, Ctrl-C stops`);
    const page = await fetch(`http://${host}/`);
    assertEquals(page.headers.get("content-type"), "text/html; charset=utf-8");
    assert((await page.text()).startsWith("<!DOCTYPE html>"));
    const nothing = await fetch(`http://${host}/nothing`);
    assertEquals([nothing.status, await nothing.text()], [404, "Not found"]);
    // Deno's WebSocket says no origin, as a page of another site says its own.
    const events = new WebSocket(`ws://${host}/events`);
    const refused = Promise.withResolvers<boolean>();
    events.onopen = () => refused.resolve(false);
    events.onerror = () => refused.resolve(true);
    const closed = new Promise((resolve) => events.onclose = resolve);
    assertEquals(await deadline(refused.promise, PATIENCE), true);
    await deadline(closed, PATIENCE);
    process.interrupt();
    assertEquals(await output(process), "");
  },

  async "demo.ts"(example) {
    using tcp = freePort();
    using udp1 = freePort();
    using udp2 = freePort();
    using broadcast = freePort();
    await using process = example.start(
      ...[tcp, udp1, udp2, broadcast].map(({ port }) => port),
    );
    const text = await output(process);
    assert(text.includes(`${LOOPBACK}:${tcp.port}, on the wire ${tcp.wire}`));
    const count = onLinux ? 11 : 9;
    const summary =
      `All ${count} messages arrived, and every socket is closed.`;
    assertEquals(text.trimEnd().split("\n").at(-1), summary);
    assertEquals([...text.matchAll(/^ *[\d.]+ .{10} ← /gm)].length, count);
  },
};

/** Elsewhere loopback has no broadcast address. */
const onLinuxOnly = ["udp_broadcast.ts", "udp_discovery.ts"];
/** Windows has no SIGINT for one process to send to another. */
const notOnWindows = [
  "dashboard.ts",
  "gateway.ts",
  "tcp_server.ts",
  "udp_discovery.ts",
];

const files = [...Deno.readDirSync(new URL("examples/", ROOT))]
  .map(({ name }) => name).filter((name) => !name.startsWith("_"));

for (const name of new Set([...files, ...Object.keys(runs)].sort())) {
  Deno.test({
    name: `examples/${name}: runs with the permissions that it states`,
    ignore: onLinuxOnly.includes(name) && !onLinux ||
      notOnWindows.includes(name) && onWindows,
    async fn() {
      const run = runs[name] ?? fail(`tests/examples_test.ts has no ${name}`);
      using example = new Example(name);
      await run(example);
    },
  });
}

Deno.test("examples/demo.ts: exits with 1 and a reason when it fails", async () => {
  using port = freePort();
  using _taken = Deno.listen({ hostname: LOOPBACK, port: port.wire });
  using example = new Example("demo.ts");
  await using process = example.start(port.port);
  const { code, stderr } = await process.ended();
  assertEquals(code, 1);
  assertEquals(
    stderr,
    "\nThe demo failed: All ports are taken by other programs\n",
  );
});

for (
  const [answer, reason] of [
    [
      "PICK 7 somewhere",
      'The PLC gave no place for part 7: Cannot use "somewhere" as a number: it takes a decimal such as -80.5',
    ],
    [
      "PICK 7  -80",
      'The PLC gave no place for part 7: Cannot use "" as a number: it takes a decimal such as -80.5',
    ],
    [
      "PICK 7 0x10 1e2",
      'The PLC gave no place for part 7: Cannot use "0x10" as a number: it takes a decimal such as -80.5',
    ],
    [
      "PICK 7 120.5",
      "The PLC gave no place for part 7: Cannot use nothing as a number: it takes a decimal such as -80.5",
    ],
    ["PICK 7 1 2 3", "The PLC answered REQUEST with PICK 7 1 2 3"],
    ["PICK  1 2", "The PLC answered REQUEST with PICK  1 2"],
    ["HURRY", "The PLC answered REQUEST with HURRY"],
  ] as const
) {
  Deno.test(`examples/plc_handshake.ts: stops at ${answer}, and says so`, async () => {
    using example = new Example("plc_handshake.ts");
    const fault = Promise.withResolvers<string>();
    await using _plc = createTcpServer(example.port(70001), (message) => {
      if (message === "REQUEST") return answer;
      fault.resolve(message);
      return "OK";
    }, { hostname: LOOPBACK });
    await using process = example.start();
    const { code, stdout, stderr } = await process.ended();
    assertEquals({ code, stdout, stderr }, {
      code: 1,
      stdout: `REQUEST    → ${answer}\n`,
      stderr: `Stopped: ${reason}\n`,
    });
    assertEquals(await deadline(fault.promise, PATIENCE), `FAULT ${reason}`);
  });
}

Deno.test("examples/_numbers.ts: toNumber() takes plain decimal numbers", () => {
  const good: [string, number][] = [
    ["0", 0],
    ["-80", -80],
    ["+120.5", 120.5],
    ["007", 7],
    ["0.25", 0.25],
    ["1".repeat(300), Number("1".repeat(300))],
  ];
  for (const [text, number] of good) assertEquals(toNumber(text), number);
});

Deno.test("examples/_numbers.ts: toNumber() throws on anything else", () => {
  const bad = ["", " ", "\t", " 1", "1 ", "1\n", "0x10", "0b1", "1e2", "1_000"]
    .concat("1,5", ".5", "5.", "--1", "+", "-", "NaN", "Infinity", "1.2.3")
    .concat("١", "１", "1".repeat(400), "1px", "null", "\ufeff1");
  for (const text of [...bad, undefined]) {
    const { message } = assertThrows(() => toNumber(text), RangeError);
    const shown = text === undefined ? "nothing" : JSON.stringify(text);
    assertEquals(
      message,
      `Cannot use ${shown} as a number: it takes a decimal such as -80.5`,
    );
  }
});

const STOPS: [name: string, why: string, stop: (line: TCPServer) => unknown][] =
  [
    // An order behind it is not obeyed either.
    ["an ESTOP", "ESTOP", async (line) => {
      await line.sendToAll("ESTOP");
      await line.sendToAll("PICK 2");
    }],
    ["a line PC that goes", "the line PC is gone", (line) => line.stop()],
  ];
for (const [name, why, stop] of STOPS) {
  Deno.test(`examples/line_robot.ts: ${name} stops the motion, and no other begins`, async () => {
    using example = new Example("line_robot.ts");
    const seen: string[] = [];
    await using server = createTcpServer(example.port(70001), (message) => {
      seen.push(message);
      if (message === "READY") return "PICK 1";
    }, { hostname: LOOPBACK });
    await using process = example.start();
    assertEquals(await process.read(), "Picks part 1");
    await stop(server);
    assertEquals(await process.readError(), `Stopped at part 1: ${why}`);
    await server.stop();
    assertEquals(await output(process), "The line PC is gone\n");
    assertEquals(seen.filter((message) => message !== ""), ["READY"]);
  });
}

Deno.test("examples/line_robot.ts: a line PC that breaks off stops the motion before the script ends", async () => {
  using example = new Example("line_robot.ts");
  const port = wirePort(example.port(70001));
  using listener = Deno.listen({ hostname: LOOPBACK, port });
  await using process = example.start();
  const conn = await deadline(listener.accept(), PATIENCE);
  await conn.write(new TextEncoder().encode("PICK 1\x03"));
  assertEquals(await process.read(), "Picks part 1");
  await conn.write(new TextEncoder().encode("PIC"));
  conn.close(); // in the middle of a message, which is an error
  const { code, stdout, stderr } = await process.ended();
  assertEquals({ code, stderr }, {
    code: 0,
    stderr: "Stopped at part 1: the line PC is gone\n",
  });
  assert(stdout.startsWith("The line PC is gone: Cannot receive"), stdout);
});
