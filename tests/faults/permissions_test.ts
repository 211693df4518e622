// Why: a robot's script is given the ports that it talks to and nothing else, and
// runs where nobody is there to answer a prompt. What UDP needs is also seen in
// tests/udp_socket_test.ts and tests/broadcast_test.ts.

import {
  assertEquals,
  assertNotMatch,
  assertStringIncludes,
} from "@std/assert";
import { Authority } from "../_certificates.ts";
import { hasTerminals, Program } from "../_netns.ts";
import { freePort } from "../_ports.ts";
import { Process, ROOT } from "../_process.ts";
import { LOOPBACK, Served, test } from "../_served.ts";

const authority = await Authority.create("Cell");
const NAME = "robot.test";
const named = await authority.issue([NAME]);
const numbered = await authority.issue([LOOPBACK]);

interface Ports {
  tcp: { port: number; wire: number };
  one: { port: number; wire: number };
  two: { port: number; wire: number };
}

/** Every call and every end that a client and a server of TCP have. */
function tcpProgram({ tcp }: Ports): string {
  return `
    const at = "${LOOPBACK}";
    for (const [tls, clientTls] of ${
    JSON.stringify([
      [null, null],
      [numbered, { caCerts: [authority.cert] }],
      [named, { caCerts: [authority.cert], serverName: NAME }],
    ])
  }) {
      const errors = [];
      const server = comm.createTcpServer(${tcp.port}, (message) => {
        if (message === "throw") throw new Error("thrown");
        return "Echo: " + message;
      }, {
        hostname: at,
        maxClients: 2,
        maxMessageBytes: 100,
        idleTimeout: 60_000,
        allow: comm.allowCidr("127.0.0.0/8"),
        onError: (error) => errors.push(error.name),
        ...tls && { tls },
      });
      const connect = (tls) => comm.createTcpClient(at, ${tcp.port}, {
        idleTimeout: 60_000,
        ...tls && { tls },
      });
      {
        await using client = await connect(clientTls);
        await using other = await connect(clientTls);
        for (const message of ["Hello", "throw", "again"]) {
          await client.send(message);
        }
        console.log(await client.receive(), await client.receive());
        await server.sendToAll("all");
        const [first] = server.getConnectedClients();
        await server.send("one", first);
        console.log(await client.receive(), await client.receive());
        console.log(await other.receive(), client.stats.messagesOut);
        await connect(clientTls).then((third) => third.receive())
          .catch(() => console.log("full"));
        await other.send("x".repeat(101));
        await other.receive().catch((error) => console.log(error.name));
      }
      // Too little trust, another name, and none at all.
      for (const wrong of [true, { serverName: "other.test" }, null]) {
        if (!tls) break;
        const error = await connect(wrong).then(async (client) => {
          await client.send("Hello");
          await client.receive();
        }).catch((error) => error);
        console.log(error.name);
      }
      await server.stop();
      console.log(errors.includes("Error"), errors.includes("CommunicationError"));
      // Nobody listens any more.
      await connect(clientTls).catch((error) => console.log(error.name));
    }
  `;
}

const TCP_LINES = [
  "Echo: Hello Echo: again",
  "all one",
  "all 3",
  "full",
  "ClosedError",
];
const REFUSED = ["InvalidData", "InvalidData", "ClosedError"];
const LAST = ["true true", "ConnectionRefused"];
const TCP_OUTPUT = [
  ...TCP_LINES,
  ...LAST,
  ...[0, 1].flatMap(() => [...TCP_LINES, ...REFUSED, ...LAST]),
];

/** Every call of two sockets, the check for broadcasts included. */
function udpProgram({ one, two }: Ports): string {
  return `
    const options = { hostname: "${LOOPBACK}" };
    const socket = comm.createUdpSocket(${one.port}, {
      ...options,
      allow: comm.allowCidr("127.0.0.1"),
    });
    const other = comm.createUdpSocket(${two.port}, options);
    await socket.send("Hello", other.address);
    const [message, sender] = await other.receive();
    await other.send("Reply to " + message, sender);
    console.log((await socket.receive())[0], socket.stats.messagesIn);
    for (const ip of ["255.255.255.255", "127.255.255.255"]) {
      await socket.send("x", [ip, ${two.port}])
        .catch((error) => console.log(error.name));
    }
    socket.enableBroadcast();
    await socket.send("Hello again", other.address);
    console.log((await other.receive())[0]);
    console.log(await other.receive({ timeout: 1 }));
    socket.close();
    other.close();
  `;
}

const UDP_OUTPUT = [
  "Reply to Hello 1",
  "PermissionDenied",
  "PermissionDenied",
  "Hello again",
  "null",
];

/** Three ports, until it is disposed of. */
function freePorts(): Ports & Disposable {
  using stack = new DisposableStack();
  const ports = {
    tcp: stack.use(freePort()),
    one: stack.use(freePort()),
    two: stack.use(freePort()),
  };
  const whole = stack.move();
  return { ...ports, [Symbol.dispose]: () => whole.dispose() };
}

function allow(...wires: number[]): string {
  return `--allow-net=${wires.map((wire) => `${LOOPBACK}:${wire}`).join(",")}`;
}

function lines(text: string): string[] {
  return text.replaceAll("\r", "").trimEnd().split("\n");
}

// Promise 10: TCP, with TLS and without, for exactly the wire port.
test("createTcpServer() and createTcpClient() need --allow-net for their wire port and nothing more", async () => {
  using ports = freePorts();
  using program = new Program(tcpProgram(ports));
  await using process = program.start("--no-prompt", allow(ports.tcp.wire));
  const { code, stdout, stderr } = await process.end();
  assertEquals([code, lines(stdout), stderr], [0, TCP_OUTPUT, ""]);
});

// Promise 10: UDP, for exactly the two wire ports.
test("createUdpSocket() needs --allow-net for its wire port and that of its peer and nothing more", async () => {
  using ports = freePorts();
  using program = new Program(udpProgram(ports));
  await using process = program.start(
    "--no-prompt",
    "--unstable-net",
    allow(ports.one.wire, ports.two.wire),
  );
  const { code, stdout, stderr } = await process.end();
  assertEquals([code, lines(stdout), stderr], [0, UDP_OUTPUT, ""]);
});

// Promise 10: a client alone, whose server is elsewhere.
for (const [how, tls] of [["with", { tls: named }], ["without", {}]] as const) {
  test(`createTcpClient() ${how} tls needs --allow-net for the wire port of its server`, async () => {
    await using served = new Served((message) => `Echo: ${message}`, tls);
    const clientTls = how === "with" &&
      { caCerts: [authority.cert], serverName: NAME };
    using program = new Program(`
      const client = await comm.createTcpClient("${LOOPBACK}", ${served.port}, {
        tls: ${JSON.stringify(clientTls)},
      });
      await client.send("Hello");
      console.log(await client.receive());
      await client.disconnect();
    `);
    await using process = program.start("--no-prompt", allow(served.wire));
    assertEquals(await process.end(), {
      code: 0,
      stdout: "Echo: Hello\n",
      stderr: "",
    });
    // And not less: so the flag above is what let it in.
    await using other = program.start("--no-prompt", allow(served.wire + 1));
    const { code, stderr } = await other.end();
    assertEquals(code, 1);
    assertStringIncludes(stderr, `Cannot connect to ${served.name}`);
    assertStringIncludes(stderr, "NotCapable");
  });
}

// Promise 10: a server on every address of the machine.
test("createTcpServer() without hostname needs --allow-net=0.0.0.0 with its wire port", async () => {
  using port = freePort();
  using program = new Program(`
    const server = comm.createTcpServer(${port.port});
    console.log(...server.address);
    await server.stop();
  `);
  await using process = program.start(
    "--no-prompt",
    `--allow-net=0.0.0.0:${port.wire}`,
  );
  assertEquals(await process.end(), {
    code: 0,
    stdout: `0.0.0.0 ${port.port}\n`,
    stderr: "",
  });
});

for (const protocol of ["TCP", "UDP"]) {
  // Promise 10: no code path prompts.
  test(
    `${protocol} asks for nothing on a terminal with --allow-net for its wire ports alone`,
    async () => {
      using ports = freePorts();
      {
        // The same without the flag, so that a prompt would be seen.
        using program = new Program(udpProgram(ports));
        await using asking = program.startOnTerminal("--unstable-net");
        await asking.read("Deno requests net access");
      }
      const isTcp = protocol === "TCP";
      using program = new Program(
        isTcp ? tcpProgram(ports) : udpProgram(ports),
      );
      await using process = program.startOnTerminal(
        "--unstable-net",
        isTcp ? allow(ports.tcp.wire) : allow(ports.one.wire, ports.two.wire),
      );
      // Closing its input answers a prompt, should there be one.
      const { code, stdout } = await process.end();
      assertNotMatch(stdout, /requests/i);
      assertEquals(lines(stdout), isTcp ? TCP_OUTPUT : UDP_OUTPUT);
      assertEquals(code, 0);
    },
    { ignore: !hasTerminals() },
  );
}

/** What the modules may use of Deno: it takes net, asks before, or takes nothing. */
const HARMLESS = [
  "connect",
  "errors",
  "listen",
  "listenDatagram",
  "listenTls",
  "networkInterfaces", // after `permissions` has said that it may
  "permissions",
  "refTimer",
  "startTls",
  "unrefTimer",
];

interface Graph {
  modules: { specifier: string }[];
}

// Promise 10: nothing else asked for, ever: by what they could ask for.
test("mod.ts and what it loads use nothing of Deno that takes another permission than net", async () => {
  const args = ["info", "--json", "mod.ts"];
  await using info = new Process(Deno.execPath(), args);
  const { code, stdout, stderr } = await info.ended();
  assertEquals(code, 0, stderr);
  const { modules } = JSON.parse(stdout) as Graph;
  const used = new Set<string>();
  for (const { specifier } of modules) {
    const source = await Deno.readTextFile(new URL(specifier, ROOT));
    const program = source.replace(/\/\*[^]*?\*\/|\/\/ .*/g, "")
      // No socket is theirs: they compute on bytes.
      .replaceAll(/"node:(stream|tls)"/g, "");
    // Values begin with a small letter, types with a large one.
    for (const [, name = ""] of program.matchAll(/\bDeno\.([a-z]\w*)/g)) {
      used.add(name);
    }
    assertNotMatch(program, /\bDeno\s*\[|\bnode:|\bfetch\(|\bnew Worker/);
  }
  const others = [...used].filter((name) => !HARMLESS.includes(name));
  assertEquals(others, []);
  // So the search has found them at all.
  assertEquals(used.has("connect") && used.has("listen"), true);
});
