// Why: people and scripts meet the tool as a process, in pipes and on terminals,
// so that is how it is tested, against our own peers and the Python one.

import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
  fail,
} from "@std/assert";
import { deadline } from "@std/async";
import fc from "fast-check";
import { LineSplitter } from "../cli/_lines.ts";
import { Output } from "../cli/_session.ts";
import {
  type Address,
  createTcpClient,
  createTcpServer,
  createUdpSocket,
  type TCPServer,
  type TCPServerOptions,
} from "../mod.ts";
import {
  LOOPBACK,
  LOOPBACK_BROADCAST,
  onLinux,
  onWindows,
} from "./_machine.ts";
import { Namespace, namespaceObstacle } from "./_netns.ts";
import { type FreePort, freePort } from "./_ports.ts";
import {
  isInstalled,
  PATIENCE,
  Process,
  python,
  ROOT,
  WAIT,
} from "./_process.ts";

const COMMANDS = ["connect", "listen", "udp", "ping", "ports"];

const hasPython = isInstalled("python3");

/** What a terminal must not get, or what would break a line in two. */
const NASTY =
  "a\nb\r\x1b[31m\x00\x7f\u009b31m\u2028\u202e\u200e\u061c\u200b\u{e0041}end";
const NASTY_SHOWN =
  "a␊b␍␛[31m␀␡<U+009B>31m<U+2028><U+202E><U+200E><U+061C><U+200B><U+E0041>end";

/** What comes before the arguments of the tool: no configuration helps it. */
function denoRun(allowed: string | null): string[] {
  return [
    "run",
    "--quiet",
    "--no-prompt",
    "--no-config",
    "--unstable-net",
    ...(allowed === null ? [] : [`--allow-net=${allowed}`]),
    "cli.ts",
  ];
}

const NETWORK = `${LOOPBACK},${LOOPBACK_BROADCAST}`;

function cli(...args: (string | number)[]): Process {
  return cliWith(NETWORK, ...args);
}

/** The tool with the permission for these hosts alone. */
function cliWith(
  allowed: string | null,
  ...args: (string | number)[]
): Process {
  return new Process(Deno.execPath(), [
    ...denoRun(allowed),
    ...args.map(String),
  ]);
}

/** The tool on a terminal of its own, which merges output and error output. */
function cliOnTerminal(
  env: string[],
  ...args: (string | number)[]
): Process {
  const python =
    "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
  return new Process("python3", [
    ...["-c", python, "env", ...env, Deno.execPath(), ...denoRun(NETWORK)],
    ...args.map(String),
  ]);
}

/** The next line of JSON, without its time. */
async function readEvent(tool: Process): Promise<Record<string, unknown>> {
  return toEvent(await tool.read());
}

function toEvent(line: string): Record<string, unknown> {
  const { time, ...event } = JSON.parse(line) as Record<string, unknown>;
  assertEquals(new Date(String(time)).toISOString(), time);
  return event;
}

function toEvents(text: string): Record<string, unknown>[] {
  return text.trimEnd().split("\n").map(toEvent);
}

/** A server of which one client, the tool, is watched. */
interface Watched extends AsyncDisposable {
  server: TCPServer;
  seen: string[];
  connected: Promise<Address>;
  /** The first message. */
  heard: Promise<string>;
  /** With the error where the end was not in order. */
  gone: Promise<Error | undefined>;
}

function serve(
  { port }: FreePort,
  answer: (message: string) => string | null,
  options: TCPServerOptions = {},
): Watched {
  const seen: string[] = [];
  const connected = Promise.withResolvers<Address>();
  const heard = Promise.withResolvers<string>();
  const gone = Promise.withResolvers<Error | undefined>();
  const server = createTcpServer(port, (message) => {
    seen.push(message);
    heard.resolve(message);
    return answer(message);
  }, {
    hostname: LOOPBACK,
    onConnect: connected.resolve,
    onDisconnect: (_, error) => gone.resolve(error),
    ...options,
  });
  return {
    server,
    seen,
    get connected() {
      return deadline(connected.promise, PATIENCE);
    },
    get heard() {
      return deadline(heard.promise, PATIENCE);
    },
    get gone() {
      return deadline(gone.promise, PATIENCE);
    },
    [Symbol.asyncDispose]: () => server.stop(),
  };
}

const echo = (message: string) => message;
const silence = () => null;

/** Accepts one connection, and controls every byte of it. */
async function acceptRaw(port: FreePort): Promise<Deno.TcpConn> {
  using listener = Deno.listen({ hostname: LOOPBACK, port: port.wire });
  return await deadline(listener.accept(), PATIENCE);
}

/** Reads until there is no more. */
async function drain(conn: Deno.TcpConn): Promise<string> {
  let text = "";
  const buffer = new Uint8Array(1024);
  for (;;) {
    const count = await deadline(conn.read(buffer), PATIENCE);
    if (count === null) return text;
    text += new TextDecoder().decode(buffer.subarray(0, count));
  }
}

function bytes(...parts: (string | number)[]): Uint8Array<ArrayBuffer> {
  const chunks = parts.map((part) =>
    typeof part === "string" ? [...new TextEncoder().encode(part)] : [part]
  );
  return new Uint8Array(chunks.flat());
}

Deno.test("cli --help tells every command, and how to install it", async () => {
  await using tool = cliWith(null, "--help");
  const { code, stdout, stderr } = await tool.end();
  assertEquals({ code, stderr }, { code: 0, stderr: "" });
  for (const command of COMMANDS) {
    assertMatch(stdout, RegExp(`^  ${command} `, "m"));
  }
  assertStringIncludes(stdout, "Exit codes: 0 ");
  assertStringIncludes(stdout, "deno install -g -N --unstable-net");
});

Deno.test("cli --help of each command tells its options and events on 80 columns", async () => {
  const expected: Record<string, string[]> = {
    connect: ["--request", "--timeout <ms>", "--wait <ms>", "reply"],
    listen: ["--echo", "--hostname <ip>", "disconnected"],
    udp: ["--to <ip:port>", "--broadcast", "--reuse-address", "message"],
    ping: ["--count <n>", "--interval <ms>", "summary"],
    ports: ["--port-offset <n>", "-h, --help", "port"],
  };
  for (const command of COMMANDS) {
    // Even where the operands are missing.
    await using tool = cliWith(null, command, "-h");
    const { code, stdout, stderr } = await tool.end();
    assertEquals({ code, stderr }, { code: 0, stderr: "" });
    assertStringIncludes(stdout, `Usage: daystar-comm ${command} `);
    assertStringIncludes(stdout, `\n  daystar-comm ${command} `);
    for (const name of ["--json", ...expected[command] ?? fail()]) {
      assertStringIncludes(stdout, `  ${name}`);
    }
    assertEquals(stdout.split("\n").filter((line) => line.length > 80), []);
  }
});

Deno.test("cli --version tells the version of deno.json", async () => {
  const text = Deno.readTextFileSync(new URL("deno.json", ROOT));
  const { version } = JSON.parse(text) as { version: string };
  for (const args of [["--version"], ["connect", "-V"]]) {
    await using tool = cliWith(null, ...args);
    assertEquals(await tool.end(), {
      code: 0,
      stdout: `daystar-comm ${version}\n`,
      stderr: "",
    });
  }
});

Deno.test("cli exits with 2 where it is called wrongly, and touches no socket", async () => {
  const port = "takes an integer from 70000 to 71000";
  const wrong: [args: string[], reason: string][] = [
    [[], "Cannot run without a command"],
    [["--json"], "Cannot run without a command"],
    [["toString"], 'Cannot run "toString": the commands are connect, listen'],
    [["--nope"], "Unknown option '--nope'\n"],
    [["connect", "--nope", LOOPBACK, "70001"], "Unknown option '--nope'\n"],
    [
      ["connect", LOOPBACK],
      "Cannot run connect: it takes an IP address and a port, and got 1 argument\n",
    ],
    [["connect", "", "70001"], "Operand 1 is empty"],
    [
      ["listen", "70001", "70002"],
      "Cannot run listen: it takes a port, and got 2 arguments\n",
    ],
    [
      ["listen", "69999"],
      `Cannot use 69999 as a communication port: it ${port}`,
    ],
    [["listen", "4465"], `${port}; 4465 is the wire port of 70001\n`],
    [
      ["connect", "--ca", "ca.pem", LOOPBACK, "70001"],
      "Cannot use --ca without --tls\n",
    ],
    [
      ["ping", "--server-name", "line-pc", LOOPBACK, "70001"],
      "Cannot use --server-name without --tls\n",
    ],
    [["udp", "70000.5"], `Cannot use "70000.5" as a communication port`],
    [["ports", "70001", "port"], `Cannot use "port" as a communication port`],
    [
      ["udp", "70001", "--to", "70002"],
      "Cannot use 70002 as --to: it takes an address such as",
    ],
    [["udp", "70001", "--to", "::1:70002"], 'Cannot use "::1:70002" as --to'],
    [["udp", "70001", "--to", "[::1]:4465"], "4465 is the wire port of 70001"],
    [["udp", "70001", "--to", "[]:70002"], 'Cannot use "[]:70002" as --to'],
    [["udp", "70001", "--to", "[[::1]]:70002"], "as --to: it takes an address"],
    [["udp", "70001", "--to", "a b:70002"], "as --to: it takes an address"],
    [
      ["listen", "--hostname", "", "70001"],
      'Cannot use "" as --hostname: it takes an IP address\n',
    ],
    [
      ["connect", "--tls", "--server-name", "a/b", LOOPBACK, "70001"],
      'Cannot use "a/b" as --server-name: it takes a host name\n',
    ],
    [
      ["ping", LOOPBACK, "70001", "--timeout", "-5"],
      "Cannot use -5 as --timeout: it takes an integer from 0 to 2147483647\n",
    ],
    [
      ["connect", LOOPBACK, "70001", "--timeout", "--json"],
      "Option '--timeout' needs a value\n",
    ],
    [
      ["udp", "70001", "--wait", "5"],
      "Cannot use --wait without --to or --broadcast\n",
    ],
    [
      ["connect", "--timeout", "5", LOOPBACK, "70001"],
      "Cannot use --timeout without --request\n",
    ],
    [
      ["connect", "--request", "--wait", "5", LOOPBACK, "70001"],
      "Cannot use --wait with --request\n",
    ],
    [
      ["udp", "70001", "--to", "[::1]:70002", "--to=10.0.0.7:70002"],
      "Cannot use --to twice\n",
    ],
    [
      ["ping", "--tls", "--ca=a.pem", "--ca=b.pem", LOOPBACK, "70001"],
      "Cannot use --ca twice\n",
    ],
    [
      ["udp", "70001", "--to", "255.255.255.255:70002"],
      "Cannot use 255.255.255.255 in --to without --broadcast: it is a broadcast address\n",
    ],
    [
      ["udp", "70001", "--to", "robot-7:70002"],
      "Cannot use robot-7 in --to without --broadcast: a name may be that of a broadcast address\n",
    ],
    [
      ["connect", "192.168.1", "70001"],
      'Cannot use "192.168.1" as an IP address: it takes four numbers',
    ],
    [
      ["udp", "70001", "--to", "192.168.1.256:70002"],
      'Cannot use "192.168.1.256" as an IP address: it takes four numbers',
    ],
    [
      ["listen", "70001", "--hostname", "192.168.1"],
      'Cannot use "192.168.1" as --hostname: it takes four numbers',
    ],
    [
      ["ping", LOOPBACK, "70001", "--count", "0"],
      "Cannot use 0 as --count: it takes an integer of 1 or more",
    ],
    [
      ["ping", LOOPBACK, "70001", "--interval", "1e3"],
      'Cannot use "1e3" as --interval: it takes an integer from 0 to 2147483647',
    ],
    [
      ["connect", LOOPBACK, "70001", "--max-message-bytes=999999999999"],
      "as --max-message-bytes: it takes an integer from 1 to",
    ],
    [
      ["connect", LOOPBACK, "70001", "--timeout"],
      "Option '--timeout <value>' argument missing",
    ],
    [["ports", "--json=1"], "Option '--json' does not take an argument"],
    [["ports", "--port-offset", "-5000"], "Cannot use -5000 as --port-offset"],
    [
      ["ports", "--port-offset=-5000", "70001"],
      "it takes an integer from -69999 to -5465",
    ],
  ];
  for (const [args, reason] of wrong) {
    await using tool = cliWith(null, ...args);
    const { code, stdout, stderr } = await tool.end();
    assertEquals({ args, code, stdout }, { args, code: 2, stdout: "" });
    assertStringIncludes(stderr, reason);
    assertMatch(
      stderr,
      /^daystar-comm: .*\ndaystar-comm: Try "daystar-comm .*--help"\n$/,
    );
  }
});

Deno.test("cli connect, ping and udp refuse no flags that work together", async () => {
  // What fails comes after the flags: nobody listens there, or it may not listen.
  using port = freePort();
  const own = [LOOPBACK, `${port.port}`];
  const fine: string[][] = [
    ["connect", "--request", "--timeout=5", "--json", "--json", ...own],
    ["connect", "--wait=5", "--tls", "--server-name=robot", ...own],
    ["ping", "--timeout=5", "--count=1", "--interval=0", ...own],
  ];
  for (const args of fine) {
    await using tool = cli(...args);
    const { code, stderr } = await tool.end();
    assertEquals({ args, code }, { args, code: 1 });
    assertStringIncludes(stderr, "Connection refused");
  }
  const target = `--to=${LOOPBACK}:${port.port}`;
  for (const flags of [[target], ["--broadcast"], [target, "--broadcast"]]) {
    await using tool = cliWith(
      "192.0.2.1",
      "udp",
      port.port,
      "--wait=5",
      ...flags,
    );
    const { code, stderr } = await tool.end();
    assertEquals({ flags, code }, { flags, code: 1 });
    assertStringIncludes(stderr, "Requires net access");
  }
});

Deno.test("cli connect sends each line as a message and shows each message as a line", async () => {
  using port = freePort();
  await using watched = serve(port, (message) => `Echo: ${message}`);
  await using tool = cli("connect", LOOPBACK, port.port);
  await tool.write("Hello\r\n");
  assertEquals(await tool.read(), "Echo: Hello");
  await tool.write("\n你好，");
  assertEquals(await tool.read(), "Echo: ");
  await tool.write("机器人\n");
  assertEquals(await tool.read(), "Echo: 你好，机器人");
  await watched.connected;
  await watched.server.sendToAll("Broadcast message");
  assertEquals(await tool.read(), "Broadcast message");
  await watched.server.stop();
  assertEquals(await tool.ended(), { code: 0, stdout: "", stderr: "" });
});

Deno.test("cli connect in a pipe sends what is pending, and then disconnects in order", async () => {
  using port = freePort();
  await using watched = serve(port, silence);
  await using tool = cli("connect", "--wait", 0, LOOPBACK, port.port);
  const lines = Array.from({ length: 20_000 }, (_, i) => `line ${i}`);
  await tool.write(lines.join("\n"));
  assertEquals(await tool.end(), { code: 0, stdout: "", stderr: "" });
  assertEquals(await watched.gone, undefined);
  assertEquals(watched.seen, lines);
});

Deno.test("cli connect in a pipe shows what still comes after the end of the input", async () => {
  using port = freePort();
  const last = Promise.withResolvers<void>();
  await using watched = serve(port, (message) => {
    if (message === "line 19999") last.resolve();
    return message;
  });
  await using tool = cli("connect", "--wait=forever", LOOPBACK, port.port);
  const lines = Array.from({ length: 20_000 }, (_, i) => `line ${i}\n`).join(
    "",
  );
  await tool.write(lines);
  const ending = tool.end();
  await deadline(last.promise, PATIENCE);
  await watched.server.sendToAll("the last one");
  await watched.server.stop();
  assertEquals(await ending, {
    code: 0,
    stdout: `${lines}the last one\n`,
    stderr: "",
  });
});

Deno.test("cli connect without --wait ends by itself", async () => {
  using port = freePort();
  await using _watched = serve(port, echo);
  await using tool = cli("connect", LOOPBACK, port.port);
  await tool.write("status");
  assertEquals(await tool.end(), { code: 0, stdout: "status\n", stderr: "" });
});

Deno.test("cli connect --request sends a line when the one before has its reply", async () => {
  using port = freePort();
  const accepted = acceptRaw(port);
  await using tool = cli("connect", "--request", LOOPBACK, port.port);
  using conn = await accepted;
  await tool.write("one\ntwo");
  const ending = tool.end();
  const buffer = new Uint8Array(100);
  for (const request of ["one", "two"]) {
    const count = await deadline(conn.read(buffer), PATIENCE);
    assertEquals(buffer.slice(0, count ?? 0), bytes(request, 3));
    await conn.write(bytes(`${request}: ready`, 3));
  }
  // It waits for nothing else.
  assertEquals(await drain(conn), "");
  conn.close();
  assertEquals(await ending, {
    code: 0,
    stdout: "one: ready\ntwo: ready\n",
    stderr: "",
  });
});

Deno.test("cli connect --request shows what nobody asked for on standard error", async () => {
  using port = freePort();
  await using watched = serve(port, (message) => `re: ${message}`);
  await using tool = cli("connect", "--request", LOOPBACK, port.port);
  await watched.connected;
  await watched.server.sendToAll(NASTY);
  assertEquals(await tool.readError(), `not asked for: ${NASTY_SHOWN}`);
  await tool.write("status\n");
  assertEquals(await tool.read(), "re: status");
  assertEquals(await tool.end(), { code: 0, stdout: "", stderr: "" });
});

Deno.test("cli connect --request exits with 1 when a reply does not come in time", async () => {
  using port = freePort();
  await using watched = serve(port, silence);
  await using tool = cli(
    ...["connect", "--request", "--timeout", 50, LOOPBACK, port.port],
  );
  await tool.write("one\ntwo\n");
  assertEquals(await tool.ended(), {
    code: 1,
    stdout: "",
    stderr:
      `daystar-comm: ${LOOPBACK}:${port.port}: No reply within 50 ms to: one\n`,
  });
  assertEquals(await watched.gone, undefined);
  assertEquals(watched.seen, ["one"]);
});

Deno.test("cli connect --request exits with 1 when the server closes instead of replying", async () => {
  using port = freePort();
  await using watched = serve(port, silence);
  await using tool = cli(
    ...["connect", "--request", "--timeout=forever", LOOPBACK, port.port],
  );
  await tool.write("status\n");
  assertEquals(await watched.heard, "status");
  await watched.server.stop();
  const { code, stdout, stderr } = await tool.ended();
  assertEquals({ code, stdout }, { code: 1, stdout: "" });
  assertStringIncludes(
    stderr,
    "No reply before the connection was closed to: status",
  );
});

Deno.test("cli connect exits with 1 when the server closes before all is sent", async () => {
  using port = freePort();
  const accepted = acceptRaw(port);
  await using tool = cli("connect", "--json", LOOPBACK, port.port);
  using conn = await accepted;
  assertEquals((await readEvent(tool)).event, "connected");
  // More than the buffers of both ends take, for a server that reads nothing.
  const line = `${"x".repeat(100_000)}\n`;
  await tool.write(line);
  const written = tool.write(line.repeat(500)).catch(() => {});
  await conn.closeWrite();
  const { code, stdout, stderr } = await tool.ended();
  await written;
  assertEquals(code, 1);
  assertMatch(
    stderr,
    /^daystar-comm: .*: Cannot send \d+ lines of the input: the server has closed the connection\n$/,
  );
  const events = toEvents(stdout).map(({ event }) => event);
  assertEquals(events, ["error", "disconnected"]);
});

Deno.test("cli connect exits with 1 when a line comes after the server has closed", async () => {
  using port = freePort();
  const accepted = acceptRaw(port);
  await using tool = cli("connect", "--request", LOOPBACK, port.port);
  using conn = await accepted;
  await tool.write("quit\none more\n");
  await deadline(conn.read(new Uint8Array(5)), PATIENCE);
  await conn.write(bytes("bye", 3));
  await conn.closeWrite();
  const { code, stdout } = await tool.ended();
  assertEquals({ code, stdout }, { code: 1, stdout: "bye\n" });
});

Deno.test("cli connect tells how many lines came after the server had closed, and exits with 1", async () => {
  using port = freePort();
  const accepted = acceptRaw(port);
  await using tool = cli("connect", LOOPBACK, port.port);
  using conn = await accepted;
  await tool.write("first\n");
  await deadline(conn.read(new Uint8Array(6)), PATIENCE);
  await conn.closeWrite();
  assertEquals(await drain(conn), ""); // it has seen the end
  await tool.write("second\nthird\n");
  assertEquals(await tool.end(), {
    code: 1,
    stdout: "",
    stderr:
      `daystar-comm: ${LOOPBACK}:${port.port}: Cannot send 2 lines of the input: the server has closed the connection\n`,
  });
});

Deno.test("cli connect tells what the server left incomplete, and exits with 1", async () => {
  using port = freePort();
  const accepted = acceptRaw(port);
  await using tool = cli("connect", LOOPBACK, port.port);
  using conn = await accepted;
  await conn.write(bytes("whole", 3, "no terminator\n"));
  await conn.closeWrite();
  assertEquals(await tool.read(), "whole");
  assertEquals(await tool.ended(), {
    code: 1,
    stdout: "",
    stderr:
      `daystar-comm: Cannot receive from ${LOOPBACK}:${port.port} (wire port ${port.wire}): the peer has closed the connection in the middle of a message of which 14 bytes came: no terminator␊\n`,
  });
});

Deno.test("cli connect goes on after a message that is not UTF-8, and exits with 1", async () => {
  using port = freePort();
  const accepted = acceptRaw(port);
  await using tool = cli("connect", LOOPBACK, port.port);
  using conn = await accepted;
  await conn.write(bytes("one", 3, 0xff, 0xfe, 3, "two", 3));
  assertEquals(await tool.read(), "one");
  assertEquals(await tool.read(), "two");
  assertStringIncludes(await tool.readError(), ": 2 bytes, ff fe");
  await conn.closeWrite();
  assertEquals(await tool.ended(), { code: 1, stdout: "", stderr: "" });
});

Deno.test("cli connect exits with 1 after a message over --max-message-bytes", async () => {
  using port = freePort();
  await using watched = serve(port, () => "longer than that");
  await using tool = cli(
    ...["connect", "--max-message-bytes=5", LOOPBACK, port.port],
  );
  await tool.write("longer\nthan\n");
  const { code, stdout, stderr } = await tool.ended();
  assertEquals({ code, stdout }, { code: 1, stdout: "" });
  const [first, second] = stderr.split("\n");
  assertStringIncludes(first ?? "", "6 bytes: the limit is 5 bytes");
  assertStringIncludes(second ?? "", "the limit is 5 bytes");
  assertEquals(watched.seen, ["than"]);
});

Deno.test("cli connect leaves out a line that can't be sent, and exits with 1", async () => {
  for (const mode of ["--wait=0", "--request"]) {
    using port = freePort();
    await using watched = serve(port, echo);
    await using tool = cli("connect", mode, LOOPBACK, port.port);
    await tool.write("one\nt\x03o\nthree\n");
    const { code, stderr } = await tool.end();
    assertEquals(code, 1);
    assertEquals(
      stderr,
      `daystar-comm: ${LOOPBACK}:${port.port}: Cannot send a message with U+0003: it ends a message on the wire\n`,
    );
    await watched.gone;
    assertEquals(watched.seen, ["one", "three"]);
  }
});

Deno.test("cli connect exits with 1 where nobody listens, and names both ports", async () => {
  using port = freePort();
  await using tool = cli("connect", "--json", LOOPBACK, port.port);
  const { code, stdout, stderr } = await tool.end();
  const reason =
    `Cannot connect to ${LOOPBACK}:${port.port} (wire port ${port.wire}): Connection refused`;
  assertEquals(code, 1);
  assertEquals(stderr, `daystar-comm: ${reason}\n`);
  assertEquals(toEvents(stdout), [
    { event: "error", name: "ConnectionRefused", reason },
  ]);
});

Deno.test("cli connect --retry says why it waits, and connects once a server appears", async () => {
  using port = freePort();
  await using tool = cli("connect", "--retry", LOOPBACK, port.port);
  const why =
    `trying again: Cannot connect to ${LOOPBACK}:${port.port} (wire port ${port.wire}): Connection refused`;
  assertEquals(await tool.readError(), why);
  await using _server = createTcpServer(port.port, (line) => line, {
    hostname: LOOPBACK,
  });
  await tool.write("at last\n");
  assertEquals(await tool.read(), "at last");
  const { code, stdout } = await tool.end();
  assertEquals({ code, stdout }, { code: 0, stdout: "" });
});

Deno.test("cli connect shows a message as one line, without control characters", async () => {
  using port = freePort();
  await using _watched = serve(port, () => NASTY);
  await using tool = cli("connect", "--request", LOOPBACK, port.port);
  await tool.write("x\n");
  assertEquals(await tool.read(), NASTY_SHOWN);
  assertEquals((await tool.end()).code, 0);
});

Deno.test("cli connect --json shows messages exactly, without control characters", async () => {
  using port = freePort();
  await using watched = serve(port, () => NASTY);
  await using tool = cli("connect", "--json", LOOPBACK, port.port);
  const local = await watched.connected;
  const peer = [LOOPBACK, port.port];
  assertEquals(await readEvent(tool), {
    event: "connected",
    peer,
    wirePort: port.wire,
    local,
  });
  await tool.write("x\n");
  const line = await tool.read();
  assertMatch(line, /^[ -~]+$/);
  assertEquals(toEvent(line), { event: "message", peer, message: NASTY });
  await watched.server.stop();
  assertEquals(await readEvent(tool), { event: "disconnected", peer });
  assertEquals(await tool.ended(), { code: 0, stdout: "", stderr: "" });
});

Deno.test("cli connect --request --json pairs request and reply", async () => {
  using port = freePort();
  await using watched = serve(port, (message) => `re: ${message}`);
  await using tool = cli("connect", "--request", "--json", LOOPBACK, port.port);
  await watched.connected;
  await watched.server.sendToAll("pushed");
  const peer = [LOOPBACK, port.port];
  assertEquals((await readEvent(tool)).event, "connected");
  assertEquals(await readEvent(tool), {
    event: "message",
    peer,
    message: "pushed",
  });
  await tool.write("status\n");
  const { ms, ...reply } = await readEvent(tool);
  assert(typeof ms === "number" && ms > 0, `${ms}`);
  assertEquals(reply, {
    event: "reply",
    peer,
    request: "status",
    message: "re: status",
  });
  assertEquals((await tool.end()).stderr, "");
});

Deno.test("cli connect --port-offset maps ports otherwise", async () => {
  using port = freePort();
  using other = freePort();
  const portOffset = other.wire - port.port;
  await using _watched = serve(port, echo, { portOffset });
  for (
    const offset of [[`--port-offset=${portOffset}`], [
      "--port-offset",
      portOffset,
    ]]
  ) {
    await using tool = cli(
      "connect",
      "--request",
      ...offset,
      LOOPBACK,
      port.port,
    );
    await tool.write("mapped");
    assertEquals(await tool.end(), { code: 0, stdout: "mapped\n", stderr: "" });
  }
});

Deno.test({
  name: "cli connect ends in order on Ctrl-C",
  ignore: onWindows,
  async fn() {
    using port = freePort();
    await using watched = serve(port, silence);
    await using tool = cli("connect", "--json", LOOPBACK, port.port);
    assertEquals((await readEvent(tool)).event, "connected");
    tool.interrupt();
    const { code, stdout, stderr } = await tool.ended();
    assertEquals({ code, stderr }, { code: 0, stderr: "" });
    assertEquals(toEvents(stdout).map(({ event }) => event), ["disconnected"]);
    assertEquals(await watched.gone, undefined);
  },
});

Deno.test({
  name:
    "cli connect --request exits with 1 when Ctrl-C ends the wait for a reply",
  ignore: onWindows,
  async fn() {
    using port = freePort();
    await using watched = serve(port, silence);
    await using tool = cli("connect", "--request", LOOPBACK, port.port);
    await tool.write("status\n");
    assertEquals(await watched.heard, "status");
    tool.interrupt();
    assertEquals(await tool.ended(), {
      code: 1,
      stdout: "",
      stderr:
        `daystar-comm: ${LOOPBACK}:${port.port}: No reply before the connection was closed to: status
`,
    });
    assertEquals(await watched.gone, undefined);
  },
});

Deno.test({
  name: "cli connect ends at once on a second Ctrl-C",
  ignore: onWindows,
  async fn() {
    using port = freePort();
    const accepted = acceptRaw(port);
    await using tool = cli("connect", LOOPBACK, port.port);
    using conn = await accepted;
    await tool.write("last words\n");
    await conn.read(new Uint8Array(11));
    tool.interrupt();
    // It has closed its side, and waits for the other one, which goes on.
    assertEquals(await drain(conn), "");
    tool.interrupt();
    assertEquals((await tool.ended()).code, 130);
  },
});

Deno.test({
  name: "cli connect talks to a Python server",
  ignore: !hasPython,
  async fn() {
    using port = freePort();
    await using server = await python("tcp-echo-server", port.port);
    const messages = ["Hello", "", "你好，机器人", "🤖 🦾 👩‍🔧", "\uFEFFx"];
    const shown = [
      "Hello",
      "",
      "你好，机器人",
      "🤖 🦾 👩<U+200D>🔧",
      "<U+FEFF>x",
    ];
    await using tool = cli("connect", "--request", LOOPBACK, port.port);
    await tool.write(`first\n${messages.join("\n")}`);
    assertEquals(await tool.end(), {
      code: 0,
      stdout: `first\n${shown.join("\n")}\n`,
      stderr: "",
    });
    await using pushed = cli("connect", "--json", LOOPBACK, port.port);
    await pushed.write("are you there?\n");
    assertEquals((await readEvent(pushed)).event, "connected");
    assertEquals((await readEvent(pushed)).message, "are you there?");
    await server.write(`${JSON.stringify(NASTY)}\n`);
    assertEquals((await readEvent(pushed)).message, NASTY);
    assertEquals((await server.end()).stderr, "");
    assertEquals((await readEvent(pushed)).event, "disconnected");
    assertEquals(await pushed.ended(), { code: 0, stdout: "", stderr: "" });
  },
});

/** `listen` on loopback, once it listens. */
async function listening(port: FreePort, ...args: string[]): Promise<Process> {
  const tool = cli("listen", "--hostname", LOOPBACK, ...args, port.port);
  try {
    const line = args.includes("--json")
      ? (await readEvent(tool)).event
      : await tool.readError();
    assertMatch(String(line), /^listening/);
  } catch (error) {
    await tool[Symbol.asyncDispose]();
    throw error;
  }
  return tool;
}

/** Presses Ctrl-C, which Windows has no way to do, and sees the tool end well. */
async function interrupt(tool: Process): Promise<void> {
  if (onWindows) return;
  tool.interrupt();
  const { code, stderr } = await tool.ended();
  assertEquals({ code, stderr }, { code: 0, stderr: "" });
}

Deno.test("cli listen shows who comes, says what and goes", async () => {
  using port = freePort();
  await using tool = await listening(port);
  const client = await createTcpClient(LOOPBACK, port.port);
  const name = client.localAddress.join(":");
  assertEquals(await tool.read(), `+ ${name}`);
  await client.send("Hello");
  await client.send(NASTY);
  assertEquals(await tool.read(), `< ${name} Hello`);
  assertEquals(await tool.read(), `< ${name} ${NASTY_SHOWN}`);
  assertEquals(await client.receive({ timeout: 0 }), null);
  await client.disconnect();
  assertEquals(await tool.read(), `- ${name}`);
  using broken = await Deno.connect({ hostname: LOOPBACK, port: port.wire });
  await broken.write(bytes(0xff, 3, "half"));
  await broken.closeWrite();
  const other = `${LOOPBACK}:${(broken.localAddr as Deno.NetAddr).port}`;
  assertEquals(await tool.read(), `+ ${other}`);
  assertMatch(await tool.readError(), /^daystar-comm: .*: 1 bytes, ff$/);
  const gone = await tool.read();
  assert(gone.startsWith(`- ${other} `), gone);
  assertStringIncludes(gone, "in the middle of a message");
  await interrupt(tool);
});

Deno.test("cli listen sends lines to all, and --echo each message back", async () => {
  using port = freePort();
  await using tool = await listening(port, "--echo");
  await tool.write("nobody\n");
  assertEquals(await tool.readError(), "not sent: nobody is connected");
  await using first = await createTcpClient(LOOPBACK, port.port);
  await using second = await createTcpClient(LOOPBACK, port.port);
  for (const client of [first, second]) {
    await client.send("echo?");
    assertEquals(await client.receive(WAIT), "echo?");
  }
  await tool.write("t\x03o\nto all\n");
  assertStringIncludes(await tool.readError(), "U+0003");
  for (const client of [first, second]) {
    assertEquals(await client.receive(WAIT), "to all");
  }
});

Deno.test("cli listen --json shows the same as objects", async () => {
  using port = freePort();
  await using tool = cli(
    ...["listen", "--json", "--hostname", LOOPBACK, port.port],
  );
  assertEquals(await readEvent(tool), {
    event: "listening",
    address: [LOOPBACK, port.port],
    wirePort: port.wire,
  });
  const client = await createTcpClient(LOOPBACK, port.port);
  const peer = client.localAddress;
  assertEquals(await readEvent(tool), { event: "connected", peer });
  await client.send(NASTY);
  assertEquals(await readEvent(tool), {
    event: "message",
    peer,
    message: NASTY,
  });
  await tool.write("PICK\n");
  assertEquals(await readEvent(tool), {
    event: "sent",
    message: "PICK",
    clients: 1,
  });
  await client.disconnect();
  assertEquals(await readEvent(tool), { event: "disconnected", peer });
  using broken = await Deno.connect({ hostname: LOOPBACK, port: port.wire });
  await broken.write(bytes("half"));
  await broken.closeWrite();
  assertEquals((await readEvent(tool)).event, "connected");
  const { event, reason } = await readEvent(tool);
  assertEquals(event, "disconnected");
  assertStringIncludes(String(reason), "in the middle of a message");
  await interrupt(tool);
});

Deno.test({
  name:
    "cli listen goes on after the end of its input, and Ctrl-C ends it in order",
  ignore: onWindows,
  async fn() {
    using port = freePort();
    await using tool = await listening(port, "--echo");
    const ending = tool.end();
    await using client = await createTcpClient(LOOPBACK, port.port);
    await client.send("still there?");
    assertEquals(await client.receive(WAIT), "still there?");
    tool.interrupt();
    assertEquals(await Array.fromAsync(client), []);
    const { code, stdout, stderr } = await ending;
    const name = client.localAddress.join(":");
    assertEquals({ code, stderr }, { code: 0, stderr: "" });
    assertEquals(stdout, `+ ${name}\n< ${name} still there?\n- ${name}\n`);
  },
});

Deno.test("cli listen exits with 1 where the port is taken", async () => {
  using port = freePort();
  await using _watched = serve(port, silence);
  await using tool = cli("listen", "--hostname", LOOPBACK, port.port);
  const { code, stdout, stderr } = await tool.ended();
  assertEquals({ code, stdout }, { code: 1, stdout: "" });
  assertStringIncludes(
    stderr,
    `daystar-comm: Cannot listen on ${LOOPBACK}:${port.port} (wire port ${port.wire}): `,
  );
});

Deno.test({
  name: "cli listen talks to a Python client",
  ignore: !hasPython,
  async fn() {
    using port = freePort();
    await using tool = await listening(port, "--echo", "--json");
    await using client = await python("tcp-client", port.port);
    assertEquals((await readEvent(tool)).event, "connected");
    for (const message of ["Hello", "", "你好，机器人", NASTY]) {
      await client.write(`${JSON.stringify(message)}\n`);
      assertEquals((await readEvent(tool)).message, message);
      assertEquals(JSON.parse(await client.read()), message);
    }
    await tool.write("PICK 你\n");
    assertEquals(JSON.parse(await client.read()), "PICK 你");
    assertEquals((await readEvent(tool)).event, "sent");
    assertEquals((await client.end()).code, 0);
    assertEquals((await readEvent(tool)).event, "disconnected");
  },
});

Deno.test("cli udp shows what arrives, and sends lines with --to", async () => {
  using port = freePort();
  using peerPort = freePort();
  using socket = createUdpSocket(peerPort.port, { hostname: LOOPBACK });
  const to = `${LOOPBACK}:${peerPort.port}`;
  await using tool = cli(
    ...["udp", "--hostname", LOOPBACK, "--wait=forever", "--to", to, port.port],
  );
  assertEquals(
    await tool.readError(),
    `listening on ${LOOPBACK}:${port.port} (wire port ${port.wire})`,
  );
  await tool.write("trigger\n\x03 is ordinary\n");
  const sender = [LOOPBACK, port.port] as const;
  assertEquals(await socket.receive(WAIT), ["trigger", sender]);
  assertEquals(await socket.receive(WAIT), ["\x03 is ordinary", sender]);
  await socket.send(NASTY, sender);
  assertEquals(await tool.read(), `< ${to} ${NASTY_SHOWN}`);
});

Deno.test("cli udp in a pipe sends what is pending and ends", async () => {
  using port = freePort();
  using peerPort = freePort();
  using socket = createUdpSocket(peerPort.port, { hostname: LOOPBACK });
  const to = `--to=${LOOPBACK}:${peerPort.port}`;
  await using tool = cli(
    ...["udp", to, "--hostname", LOOPBACK, "--wait", 0, "--json", port.port],
  );
  await tool.write(`one\n${"x".repeat(65_508)}\ntwo`);
  const { code, stdout, stderr } = await tool.end();
  assertEquals(code, 1);
  assertStringIncludes(stderr, "65508 bytes: the limit is 65507 bytes");
  assertEquals((await socket.receive(WAIT))?.[0], "one");
  assertEquals((await socket.receive(WAIT))?.[0], "two");
  const [listening, error] = toEvents(stdout);
  assertEquals(listening, {
    event: "listening",
    address: [LOOPBACK, port.port],
    wirePort: port.wire,
  });
  assertEquals(error?.name, "MessageTooLargeError");
});

Deno.test({
  name: "cli udp goes on after what is not UTF-8, and Ctrl-C ends it",
  ignore: onWindows,
  async fn() {
    using port = freePort();
    await using tool = cli(
      ...["udp", "--hostname", LOOPBACK, "--json", port.port],
    );
    const ending = tool.readError();
    assertEquals((await readEvent(tool)).event, "listening");
    const raw = Deno.listenDatagram({
      transport: "udp",
      hostname: LOOPBACK,
      port: 0,
    });
    const address = {
      transport: "udp",
      hostname: LOOPBACK,
      port: port.wire,
    } as const;
    await raw.send(bytes(0xff), address);
    await raw.send(bytes("Hello"), address);
    const peer = [LOOPBACK, (raw.addr as Deno.NetAddr).port];
    raw.close();
    const { reason, ...error } = await readEvent(tool);
    assertEquals(error, { event: "error", peer, name: "InvalidMessageError" });
    assertStringIncludes(String(reason), ": 1 bytes, ff");
    assertStringIncludes(await ending, ": 1 bytes, ff");
    assertEquals(await readEvent(tool), {
      event: "message",
      peer,
      message: "Hello",
    });
    tool.interrupt();
    assertEquals(await tool.ended(), { code: 0, stdout: "", stderr: "" });
  },
});

Deno.test({
  name: "cli udp sends to a broadcast address with --broadcast alone",
  ignore: !onLinux,
  async fn() {
    using port = freePort();
    using peerPort = freePort();
    using socket = createUdpSocket(peerPort.port, {
      hostname: LOOPBACK_BROADCAST,
    });
    const args = [
      ...["udp", port.port, "--hostname", LOOPBACK, "--wait=0"],
      ...["--to", `${LOOPBACK_BROADCAST}:${peerPort.port}`],
    ];
    await using refused = cli(...args);
    await refused.write("all");
    const { code, stderr } = await refused.end();
    assertEquals(code, 2);
    assertStringIncludes(stderr, "without --broadcast: it is a broadcast");
    await using tool = cli(...args, "--broadcast");
    await tool.write("all");
    assertEquals((await tool.end()).code, 0);
    assertEquals(await socket.receive(WAIT), ["all", [LOOPBACK, port.port]]);
  },
});

Deno.test({
  name:
    "cli udp --broadcast reaches whoever listens on the same port of the network",
  ignore: namespaceObstacle() !== null,
  async fn() {
    using one = new Namespace();
    using two = new Namespace();
    one.link("10.77.0.1/24", two, "10.77.0.2/24");
    two.ip("route", "add", "default", "dev", "cable");
    const args = ["udp", "70500", "--json", "--broadcast", "--wait=forever"];
    const start = ({ name }: Namespace) =>
      new Process("ip", [
        ...["netns", "exec", name, Deno.execPath()],
        ...denoRun("0.0.0.0:4964,255.255.255.255:4964"),
        ...args,
      ]);
    await using receiver = start(one);
    assertEquals((await readEvent(receiver)).event, "listening");
    await using sender = start(two);
    assertEquals((await readEvent(sender)).event, "listening");
    await sender.write("who is there\n");
    assertEquals(await readEvent(receiver), {
      event: "message",
      peer: ["10.77.0.2", 70500],
      message: "who is there",
    });
  },
});

Deno.test("cli udp --reuse-address shares its port", async () => {
  using port = freePort();
  using _socket = createUdpSocket(port.port, {
    hostname: LOOPBACK,
    reuseAddress: true,
  });
  const args = ["udp", "--hostname", LOOPBACK, "--json", port.port];
  await using refused = cli(...args);
  assertEquals((await refused.end()).code, 1);
  await using tool = cli(...args, "--reuse-address");
  assertEquals((await readEvent(tool)).event, "listening");
});

Deno.test({
  name: "cli udp talks to a Python socket, in both roles",
  ignore: !hasPython,
  async fn() {
    using port = freePort();
    using peerPort = freePort();
    const peer: Address = [LOOPBACK, peerPort.port];
    await using tool = cli(
      ...["udp", port.port, "--hostname", LOOPBACK, "--json"],
      ...["--to", peer.join(":")],
    );
    assertEquals((await readEvent(tool)).event, "listening");
    await using echoing = await python("udp-echo", peerPort.port);
    await tool.write("你好\n");
    assertEquals(JSON.parse(await echoing.read()), [
      "你好",
      [LOOPBACK, port.port],
    ]);
    assertEquals(await readEvent(tool), {
      event: "message",
      peer,
      message: "你好",
    });
    assertEquals((await echoing.end()).code, 0);
    await using sending = await python(
      ...["udp-send", peerPort.port, LOOPBACK, port.port],
    );
    await sending.write(`${JSON.stringify(NASTY)}\n`);
    assertEquals(await readEvent(tool), {
      event: "message",
      peer,
      message: NASTY,
    });
    assertEquals((await sending.end()).code, 0);
  },
});

Deno.test("cli udp without --unstable-net says what to do", async () => {
  await using tool = new Process(Deno.execPath(), [
    ...denoRun(NETWORK).filter((flag) => flag !== "--unstable-net"),
    ...["udp", "70001"],
  ]);
  const { code, stderr } = await tool.ended();
  assertEquals(code, 1);
  assertStringIncludes(stderr, 'takes --unstable-net or "unstable": ["net"]');
});

Deno.test("cli ping shows each round trip, then minimum, median and 99th percentile", async () => {
  using port = freePort();
  await using watched = serve(port, (message) => `Echo: ${message}`);
  await using tool = cli(
    ...["ping", "--count=3", "--interval=1", LOOPBACK, port.port],
  );
  await watched.connected;
  await watched.server.sendToAll("no reply");
  const { code, stdout, stderr } = await tool.ended();
  assertEquals({ code, stderr }, { code: 0, stderr: "" });
  const name = `${LOOPBACK}:${port.port}`;
  assertMatch(
    stdout.replaceAll(/\d+\.\d{3} ms/g, "T"),
    RegExp(
      `^1: T\n2: T\n3: T\n${name}: 3 of 3 replies: minimum T, median T, 99th percentile T\n$`,
    ),
  );
  assertEquals(watched.seen, ["ping 1", "ping 2", "ping 3"]);
  assertEquals(await watched.gone, undefined);
});

Deno.test("cli ping --json measures what it sums up", async () => {
  using port = freePort();
  await using _watched = serve(port, echo);
  await using tool = cli(
    ...["ping", "--count=200", "--interval=0", "--json", LOOPBACK, port.port],
  );
  const { code, stdout } = await tool.end();
  assertEquals(code, 0);
  const events = toEvents(stdout);
  const replies = events.filter(({ event }) => event === "reply");
  assertEquals(
    replies.map(({ number }) => number),
    [...Array(200).keys()].map((i) => i + 1),
  );
  const sorted = replies.map(({ ms }) => Number(ms)).sort((a, b) => a - b);
  assertEquals(events.at(-2), {
    event: "summary",
    peer: [LOOPBACK, port.port],
    sent: 200,
    received: 200,
    min: sorted[0],
    median: sorted[99],
    p99: sorted[197],
  });
  assertEquals(events.at(-1)?.event, "disconnected");
});

Deno.test("cli ping exits with 1 where replies are missing", async () => {
  using port = freePort();
  // The late one is not taken for the reply to the next.
  await using _watched = serve(
    port,
    (message) => message === "ping 2" ? "ping 1" : null,
  );
  await using tool = cli(
    ...[
      "ping",
      "--count=2",
      "--interval=0",
      "--timeout=50",
      LOOPBACK,
      port.port,
    ],
  );
  assertEquals(await tool.end(), {
    code: 1,
    stdout:
      `1: no reply within 50 ms\n2: no reply within 50 ms\n${LOOPBACK}:${port.port}: 0 of 2 replies\n`,
    stderr: "",
  });
});

Deno.test("cli ping sums up when the server closes, and exits with 1", async () => {
  using port = freePort();
  await using watched = serve(port, echo);
  await using tool = cli("ping", "--interval=1", LOOPBACK, port.port);
  assertMatch(await tool.read(), /^1: /);
  await watched.server.stop();
  const { code, stdout, stderr } = await tool.ended();
  assertEquals(code, 1);
  assertStringIncludes(stdout, " replies: minimum ");
  assertMatch(stderr, /^daystar-comm: Cannot .*\n$/);
});

Deno.test("cli ping counts the request that the server closes on", async () => {
  using port = freePort();
  const accepted = acceptRaw(port);
  await using tool = cli("ping", "--json", LOOPBACK, port.port);
  using conn = await accepted;
  await deadline(conn.read(new Uint8Array(100)), PATIENCE);
  await conn.closeWrite();
  const { code, stdout } = await tool.ended();
  const { sent, received } = toEvents(stdout)
    .find(({ event }) => event === "summary") ?? fail();
  assertEquals({ code, sent, received }, { code: 1, sent: 1, received: 0 });
});

Deno.test({
  name: "cli ping exits with 1 when Ctrl-C ends the wait for a reply",
  ignore: onWindows,
  async fn() {
    using port = freePort();
    await using watched = serve(
      port,
      (message) => message === "ping 1" ? message : null,
    );
    await using tool = cli("ping", "--interval=1", LOOPBACK, port.port);
    assertMatch(await tool.read(), /^1: /);
    while (watched.seen.length < 2) await watched.server.sendToAll("waiting");
    tool.interrupt();
    const { code, stdout, stderr } = await tool.ended();
    assertEquals({ code, stderr }, { code: 1, stderr: "" });
    assertStringIncludes(stdout, `${LOOPBACK}:${port.port}: 1 of 2 replies: `);
  },
});

Deno.test({
  name: "cli ping sums up on Ctrl-C, also between two round trips",
  ignore: onWindows,
  async fn() {
    using port = freePort();
    await using watched = serve(port, echo);
    await using tool = cli(
      ...["ping", "--interval=1000000", "--json", LOOPBACK, port.port],
    );
    assertEquals((await readEvent(tool)).event, "connected");
    assertEquals((await readEvent(tool)).event, "reply");
    tool.interrupt();
    const { event, sent, received } = await readEvent(tool);
    assertEquals({ event, sent, received }, {
      event: "summary",
      sent: 1,
      received: 1,
    });
    assertEquals((await readEvent(tool)).event, "disconnected");
    assertEquals(await tool.ended(), { code: 0, stdout: "", stderr: "" });
    assertEquals(await watched.gone, undefined);
  },
});

Deno.test({
  name: "cli ping times a Python echo server",
  ignore: !hasPython,
  async fn() {
    using port = freePort();
    await using server = await python("tcp-echo-server", port.port);
    await using tool = cli(
      ...["ping", "--count=20", "--interval=0", LOOPBACK, port.port],
    );
    const { code, stdout } = await tool.end();
    assertEquals(code, 0);
    assertStringIncludes(stdout, "20 of 20 replies: minimum ");
    assertEquals((await server.end()).code, 0);
  },
});

Deno.test("cli ports shows wire ports and permissions, and needs none itself", async () => {
  await using table = cliWith(null, "ports");
  assertEquals(await table.end(), {
    code: 0,
    stdout: [
      "port   wire port  a TCP client needs      a TCP server or UDP socket needs",
      "70000  4464       --allow-net=<ip>:4464   --allow-net=0.0.0.0:4464",
      "71000  5464       --allow-net=<ip>:5464   --allow-net=0.0.0.0:5464",
      "",
    ].join("\n"),
    stderr: "",
  });
  await using json = cliWith(
    null,
    "ports",
    "--json",
    "70001",
    "--port-offset",
    "-60000",
  );
  const { code, stdout } = await json.end();
  assertEquals(code, 0);
  assertEquals(toEvents(stdout), [{
    event: "port",
    port: 70001,
    wirePort: 10001,
    client: "--allow-net=<ip>:10001",
    server: "--allow-net=0.0.0.0:10001",
  }]);
});

Deno.test("cli needs no permission but that which ports tells", async () => {
  using port = freePort();
  const allowed = `${LOOPBACK}:${port.wire}`;
  const hostname = ["--hostname", LOOPBACK];
  await using server = cliWith(
    allowed,
    "listen",
    "--echo",
    "--json",
    ...hostname,
    port.port,
  );
  assertEquals((await readEvent(server)).event, "listening");
  await using client = cliWith(
    allowed,
    "connect",
    "--request",
    LOOPBACK,
    port.port,
  );
  await client.write("status");
  assertEquals(await client.end(), { code: 0, stdout: "status\n", stderr: "" });
  await using udp = cliWith(
    allowed,
    "udp",
    "--json",
    ...hostname,
    port.port,
  );
  assertEquals((await readEvent(udp)).event, "listening");
  await using refused = cliWith(null, "connect", LOOPBACK, port.port);
  const { code, stderr } = await refused.end();
  assertEquals(code, 1);
  assertStringIncludes(stderr, "--allow-net");
});

Deno.test({
  name: "cli ends on Ctrl-C although nobody reads its output any more",
  ignore: onWindows,
  async fn() {
    for (const mode of [[], ["--request"]]) {
      using port = freePort();
      // More than the pipe takes, and what this test reads ahead.
      const reply = "x".repeat(1_000_000);
      await using watched = serve(port, () => reply);
      await using child = new Deno.Command(Deno.execPath(), {
        args: [
          ...denoRun(NETWORK),
          ...["connect", ...mode, LOOPBACK, `${port.port}`],
        ],
        cwd: ROOT,
        stdin: "piped",
        stdout: "piped",
        stderr: "null",
      }).spawn();
      const input = child.stdin.getWriter();
      const output = child.stdout.getReader();
      await input.write(bytes("one\ntwo\n"));
      await deadline(output.read(), PATIENCE);
      child.kill("SIGINT");
      assertEquals(await watched.gone, undefined);
      // What it could not write is a failure.
      const { code, signal } = await deadline(child.status, PATIENCE);
      assertEquals({ code, signal }, { code: 1, signal: null });
      await input.abort().catch(() => {}); // it has ended
      await output.cancel();
    }
  },
});

Deno.test({
  name: "cli ends without a complaint when nobody reads its output",
  ignore: onWindows,
  async fn() {
    using port = freePort();
    await using watched = serve(port, echo);
    const ping = [
      Deno.execPath(),
      ...denoRun(NETWORK),
      ...["ping", "--interval=0", LOOPBACK, `${port.port}`],
    ];
    await using tool = new Process("sh", [
      ...["-c", '{ "$@"; echo "code $?" >&2; } | head -n 1', "sh", ...ping],
    ]);
    const { code, stdout, stderr } = await tool.ended();
    assertEquals({ code, stderr }, { code: 0, stderr: "code 0\n" });
    assertMatch(stdout, /^1: .*\n$/);
    assertEquals(await watched.gone, undefined);
  },
});

/**
 * The tool with its output (1) or error output (2) on a pipe that never blocks,
 * which is read once it is full, and slowly.
 */
function cliReadSlowly(stream: 1 | 2, ...args: (string | number)[]): Process {
  const python = `
import fcntl, os, struct, subprocess, sys, termios, time
stream = int(sys.argv[1])
out, into = os.pipe()
os.set_blocking(into, False)
name = {1: "stdout", 2: "stderr"}[stream]
tool = subprocess.Popen(sys.argv[2:], **{name: into})
os.close(into)
def waiting():
    return struct.unpack("i", fcntl.ioctl(out, termios.FIONREAD, bytes(4)))[0]
# 14 of 16 pages: a short line may have one of its own.
while waiting() < 57344 and tool.poll() is None:
    time.sleep(0.001)
while data := os.read(out, 65536):
    os.write(stream, data)
    time.sleep(0.001)
sys.exit(tool.wait())`;
  return new Process("python3", [
    ...["-c", python, String(stream), Deno.execPath(), ...denoRun(NETWORK)],
    ...args.map(String),
  ]);
}

for (const stream of [1, 2] as const) {
  const name = stream === 1 ? "output" : "error output";
  Deno.test({
    name: `cli holds up the server while a non-blocking ${name} is full`,
    ignore: !hasPython || onWindows,
    async fn() {
      using port = freePort();
      const accepted = acceptRaw(port);
      const mode = stream === 1 ? [] : ["--request"];
      await using tool = cliReadSlowly(
        ...[stream, "connect", ...mode, LOOPBACK, port.port] as const,
      );
      using conn = await accepted;
      // More than what may wait unwritten before lines are left out.
      const lines = Array.from({ length: 150 }, (_, i) => `${i} `.repeat(1e5));
      const writer = conn.writable.getWriter();
      const written = Promise.all(
        lines.map((line) => writer.write(bytes(line, 3))),
      ).then(() => writer.close());
      const { code, stdout, stderr } = await tool.ended();
      await written;
      assertEquals(code, 0);
      const shown = stream === 1 ? stdout : stderr;
      const prefix = stream === 1 ? "" : "not asked for: ";
      const expected = lines.map((line) => `${prefix}${line}\n`).join("");
      assert(shown === expected, `${shown.length} of ${expected.length}`);
    },
  });
}

Deno.test({
  name: "cli listen holds up all clients while its output is full",
  ignore: !hasPython || onWindows,
  async fn() {
    using port = freePort();
    await using tool = cliReadSlowly(
      ...[1, "listen", "--json", "--hostname", LOOPBACK, port.port] as const,
    );
    const payload = "x".repeat(1_000_000);
    // One message of each client would be too much at once.
    const clients = await Promise.all(
      Array.from(
        { length: 25 },
        () =>
          createTcpClient(LOOPBACK, port.port, { retry: { firstDelay: 10 } }),
      ),
    );
    const sent = Promise.all(clients.map(async (client, i) => {
      await client.send(`${i} ${payload}`);
      await client.send(`${i} end`);
      await client.disconnect();
    }));
    const seen = clients.map(() => 0);
    for (let left = 3 * clients.length; left > 0;) {
      const { event, message } = JSON.parse(await tool.read());
      if (event === "disconnected" || event === "message") left--;
      if (event !== "message") continue;
      const [client = "", rest = ""] = String(message).split(" ");
      const number = seen[Number(client)] ?? fail(client);
      seen[Number(client)] = number + 1;
      assertEquals(rest, number === 0 ? payload : "end");
    }
    await sent;
    assertEquals(seen, clients.map(() => 2));
  },
});

Deno.test({
  name: "cli exits with 1 when its output can't be written",
  ignore: !onLinux,
  async fn() {
    await using tool = new Process("sh", [
      ...["-c", '"$@" > /dev/full', "sh", Deno.execPath()],
      ...[...denoRun(null), "ports"],
    ]);
    const { code, stderr } = await tool.ended();
    assertEquals(code, 1);
    assertStringIncludes(
      stderr,
      "Cannot write to standard output: No space left",
    );
  },
});

Deno.test({
  name: "cli ends with 1 at the first output that can't be written",
  ignore: !onLinux,
  async fn() {
    for (const command of ["connect", "listen", "udp", "ping"]) {
      using port = freePort();
      await using _watched = command === "connect" || command === "ping"
        ? serve(port, echo)
        : undefined;
      const operands = {
        connect: [LOOPBACK, `${port.port}`],
        ping: ["--interval=0", LOOPBACK, `${port.port}`],
      }[command] ?? ["--json", "--hostname", LOOPBACK, `${port.port}`];
      await using tool = new Process("sh", [
        ...["-c", 'exec "$@" > /dev/full', "sh", Deno.execPath()],
        ...[...denoRun(NETWORK), command, ...operands],
      ]);
      if (command === "connect") await tool.write("status\n");
      const { code, stderr } = await tool.ended();
      assertEquals({ command, code }, { command, code: 1 });
      assertStringIncludes(
        stderr,
        "Cannot write to standard output: No space left on device\n",
      );
    }
  },
});

Deno.test({
  name: "cli says that standard input can't be read",
  ignore: !onLinux,
  async fn() {
    using port = freePort();
    await using watched = serve(port, silence);
    await using tool = new Process("sh", [
      ...["-c", 'exec "$@" < /', "sh", Deno.execPath()],
      ...[...denoRun(NETWORK), "connect", LOOPBACK, `${port.port}`],
    ]);
    assertEquals(await tool.ended(), {
      code: 1,
      stdout: "",
      stderr: "daystar-comm: Cannot read standard input: Is a directory\n",
    });
    assertEquals(await watched.gone, undefined);
  },
});

Deno.test({
  name: "cli ends as it would where its error output can't be written",
  ignore: !onLinux,
  async fn() {
    for (
      const [redirect, ...args] of [
        ["2> /dev/full", "nope"],
        ["> /dev/full 2> /dev/full", "nope"],
        ["2>&-", "nope"],
        [">&- 2>&- <&-", "nope"],
      ]
    ) {
      await using tool = new Process("sh", [
        ...["-c", `"$@" ${redirect}`, "sh", Deno.execPath()],
        ...[...denoRun(null), ...args],
      ]);
      assertEquals(await tool.ended(), { code: 2, stdout: "", stderr: "" });
    }
  },
});

Deno.test({
  name: "cli listen serves on where its error output can't be written",
  ignore: !onLinux,
  async fn() {
    using port = freePort();
    await using tool = new Process("sh", [
      ...["-c", 'exec "$@" 2> /dev/full', "sh", Deno.execPath()],
      ...[...denoRun(NETWORK), "listen", "--echo", "--json"],
      ...["--hostname", LOOPBACK, `${port.port}`],
    ]);
    assertEquals((await readEvent(tool)).event, "listening");
    using raw = await Deno.connect({ hostname: LOOPBACK, port: port.wire });
    await raw.write(bytes(0xff, 3, "still there?", 3));
    const reply = new Uint8Array(13);
    assertEquals(await deadline(raw.read(reply), PATIENCE), 13);
    assertEquals(reply, bytes("still there?", 3));
  },
});

Deno.test("cli exits with 2 where --ca is a file without a certificate", async () => {
  await using tool = new Process(Deno.execPath(), [
    ...["run", "--no-prompt", "--no-config", "--allow-read=README.md"],
    ...["cli.ts", "connect", "--tls", "--ca", "README.md", LOOPBACK, "70001"],
  ]);
  const { code, stderr } = await tool.ended();
  assertEquals(code, 2);
  assertStringIncludes(
    stderr,
    'Cannot use "README.md" as --ca: it takes a file with certificates as PEM\n',
  );
});

Deno.test({
  name: "cli on a terminal is coloured and talkative, and ends on Ctrl-C",
  ignore: !hasPython || onWindows,
  async fn() {
    using port = freePort();
    await using watched = serve(port, () => NASTY);
    await using tool = cliOnTerminal(
      ["-u", "NO_COLOR"],
      "connect",
      LOOPBACK,
      port.port,
    );
    const address = `${LOOPBACK}:${port.port}`;
    assertEquals(
      await tool.read("\r\n"),
      `\x1b[2mconnected to ${address} (wire port ${port.wire})\x1b[0m`,
    );
    await tool.write("typed\n");
    assertEquals(await tool.read("\r\n"), "typed"); // the terminal's own echo
    assertEquals(await tool.read("\r\n"), `\x1b[36m${NASTY_SHOWN}\x1b[0m`);
    assertEquals(watched.seen, ["typed"]);
    await tool.write("\x03");
    assertEquals((await tool.ended()).code, 0);
    assertEquals(await watched.gone, undefined);
  },
});

Deno.test({
  name: "cli on a terminal has no colours with NO_COLOR, and ends on Ctrl-D",
  ignore: !hasPython || onWindows,
  async fn() {
    using port = freePort();
    await using watched = serve(port, (message) => `re: ${message}`);
    await using tool = cliOnTerminal(
      ["NO_COLOR=1"],
      "connect",
      "--request",
      LOOPBACK,
      port.port,
    );
    const address = `${LOOPBACK}:${port.port}`;
    assertEquals(
      await tool.read("\r\n"),
      `connected to ${address} (wire port ${port.wire})`,
    );
    await tool.write("typed\n");
    assertEquals(await tool.read("\r\n"), "typed");
    assertEquals(await tool.read("\r\n"), "re: typed");
    await tool.write("\x04");
    assertEquals((await tool.ended()).code, 0);
    assertEquals(await watched.gone, undefined);
  },
});

Deno.test({
  name:
    "cli on a terminal ends when the server closes, without waiting for a line",
  ignore: !hasPython || onWindows,
  async fn() {
    using port = freePort();
    await using watched = serve(port, silence);
    await using tool = cliOnTerminal(
      ["NO_COLOR=1"],
      "connect",
      LOOPBACK,
      port.port,
    );
    assertMatch(await tool.read("\r\n"), /^connected to /);
    await watched.server.stop();
    assertEquals(
      await tool.read("\r\n"),
      "the server has closed the connection",
    );
    assertEquals((await tool.ended()).code, 0);
  },
});

Deno.test({
  name: "cli connect on a terminal tells that Ctrl-C has ended the connection",
  ignore: !hasPython || onWindows,
  async fn() {
    for (const mode of [[], ["--request"]]) {
      using port = freePort();
      await using watched = serve(port, silence);
      await using tool = cliOnTerminal(
        ["NO_COLOR=1"],
        ...["connect", ...mode, LOOPBACK, port.port],
      );
      assertMatch(await tool.read("\r\n"), /^connected to /);
      await watched.connected;
      await tool.write("\x03");
      const { code, stdout } = await tool.ended();
      assertEquals(code, 0);
      assertEquals(
        stdout.replace("^C", ""),
        "you have ended the connection\r\n",
      );
      assertEquals(await watched.gone, undefined);
    }
  },
});

Deno.test({
  name: "cli ends on Ctrl-C while Deno asks for a permission",
  ignore: !hasPython || onWindows,
  async fn() {
    const python =
      "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    for (
      const args of [
        ["connect", LOOPBACK, "70001"],
        ["ping", "--retry", LOOPBACK, "70001"],
        ["listen", "70001"],
        ["udp", "70001"],
      ]
    ) {
      await using tool = new Process("python3", [
        ...["-c", python, "env", "-u", "DENO_NO_PROMPT", Deno.execPath()],
        ...["run", "--no-config", "--unstable-net", "cli.ts", ...args],
      ]);
      await tool.read("Allow?");
      await tool.read("> ");
      await tool.write("\x03");
      // By SIGINT, which is -2.
      assertEquals((await tool.ended()).code, 254);
    }
  },
});

Deno.test({
  name: "cli listen on a terminal colours who comes, goes and says what",
  ignore: !hasPython || onWindows,
  async fn() {
    using port = freePort();
    await using tool = cliOnTerminal(
      ["-u", "NO_COLOR"],
      "listen",
      "--hostname",
      LOOPBACK,
      port.port,
    );
    assertStringIncludes(await tool.read("\r\n"), "\x1b[2mlistening on ");
    const client = await createTcpClient(LOOPBACK, port.port);
    const name = client.localAddress.join(":");
    assertEquals(await tool.read("\r\n"), `\x1b[32m+ ${name}\x1b[0m`);
    await client.send("Hello");
    assertEquals(await tool.read("\r\n"), `< ${name} \x1b[36mHello\x1b[0m`);
    await client.disconnect();
    assertEquals(await tool.read("\r\n"), `\x1b[33m- ${name}\x1b[0m`);
    await tool.write("\x03");
    assertEquals((await tool.ended()).code, 0);
  },
});

/** A stream that takes a few bytes at a time, and none until it may. */
class SlowSink {
  readonly may = Promise.withResolvers<void>();
  readonly taken: number[] = [];
  limit = 3;

  async write(bytes: Uint8Array): Promise<number> {
    await this.may.promise;
    const part = bytes.subarray(0, this.limit);
    this.taken.push(...part);
    return part.length;
  }

  isTerminal(): boolean {
    return false;
  }
}

Deno.test("Output.write() writes on where a part was written", async () => {
  const sink = new SlowSink();
  const output = new Output(sink, (error) => fail(`${error}`));
  output.write("one");
  output.write("你好");
  sink.may.resolve();
  await output.flushed();
  output.write("three");
  await output.flushed();
  assertEquals(new Uint8Array(sink.taken), bytes("one\n你好\nthree\n"));
  assertEquals(output.flushed(), undefined);
});

Deno.test("Output.write() waits where its stream is full, and loses nothing", async () => {
  const sink = new SlowSink();
  sink.may.resolve();
  let full = 3;
  const output = new Output({
    write(part) {
      if (sink.taken.length > 0 && full-- > 0) {
        return Promise.reject(new Deno.errors.WouldBlock("full"));
      }
      return sink.write(part);
    },
    isTerminal: () => false,
  }, (error) => fail(`${error}`));
  output.write("one");
  output.write("two");
  await output.flushed();
  assertEquals(new Uint8Array(sink.taken), bytes("one\ntwo\n"));
});

Deno.test("Output.write() stops trying once it is disposed of", async () => {
  const tried = Promise.withResolvers<void>();
  const output = new Output({
    write() {
      tried.resolve();
      return Promise.reject(new Deno.errors.WouldBlock("full"));
    },
    isTerminal: () => false,
  }, (error) => fail(`${error}`));
  output.write("one");
  await tried.promise;
  output[Symbol.dispose]();
  await output.flushed();
  assertEquals(output.flushed(), undefined);
});

Deno.test("Output.ready() waits where much is unwritten", async () => {
  const sink = new SlowSink();
  sink.limit = 1_000_000;
  const output = new Output(sink, (error) => fail(`${error}`));
  assertEquals(output.ready(), undefined);
  output.write("x".repeat(70_000));
  const ready = output.ready();
  assert(ready !== undefined);
  sink.may.resolve();
  await ready;
  assertEquals(output.ready(), undefined);
  assertEquals(sink.taken.length, 70_001);
});

Deno.test("Output.write() leaves lines out rather than hold them without bound, and tells", async () => {
  let text = "";
  const may = Promise.withResolvers<void>();
  const errors: unknown[] = [];
  const output = new Output({
    async write(bytes) {
      await may.promise;
      text += new TextDecoder().decode(bytes);
      return bytes.length;
    },
    isTerminal: () => false,
  }, (error) => errors.push(error));
  const megabyte = "x".repeat(1_000_000);
  for (let i = 0; i < 20; i++) output.write(megabyte);
  may.resolve();
  await output.flushed();
  output.write("after that");
  await output.flushed();
  const written = text.split("\n").slice(0, -1);
  assertEquals(written.length, 18);
  assertEquals(written.at(-1), "after that");
  assertEquals(errors.map(String), [
    "Error: it is read too slowly, 3 lines are left out",
  ]);
});

Deno.test("Output.write() does nothing after a failure, which it tells once", async () => {
  const errors: unknown[] = [];
  const broken = new Deno.errors.BrokenPipe("gone");
  const output = new Output({
    write: () => Promise.reject(broken),
    isTerminal: () => false,
  }, (error) => errors.push(error));
  output.write("one");
  await output.flushed();
  output.write("two");
  assertEquals(output.flushed(), undefined);
  assertEquals(errors, [broken]);
});

/** What a splitter makes of these chunks, and what it reports. */
function split(
  maxBytes: number,
  chunks: Uint8Array<ArrayBuffer>[],
): { lines: string[]; errors: string[] } {
  const errors: string[] = [];
  const splitter = new LineSplitter(
    maxBytes,
    (error) => errors.push(error.message),
  );
  const buffer = new Uint8Array(1024);
  const lines = chunks.flatMap((chunk) => {
    // The same bytes again and again, as a reader does.
    buffer.set(chunk);
    return splitter.split(buffer.subarray(0, chunk.length));
  });
  return { lines: [...lines, ...splitter.end()], errors };
}

Deno.test("LineSplitter gives the same lines however the bytes are cut", () => {
  const line = fc.string({ unit: "grapheme" })
    .filter((text) => !/[\r\n\uFEFF]/.test(text) && text.isWellFormed());
  fc.assert(fc.property(
    fc.array(line, { minLength: 1, maxLength: 20 }),
    fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 1 }),
    fc.constantFrom("\n", "\r\n"),
    (lines, sizes, newline) => {
      const whole = bytes(lines.map((text) => text + newline).join(""));
      const chunks: Uint8Array<ArrayBuffer>[] = [];
      for (let at = 0, i = 0; at < whole.length; i++) {
        const size = sizes[i % sizes.length] ?? 1;
        chunks.push(whole.slice(at, at += size));
      }
      assertEquals(split(1_000, chunks), { lines, errors: [] });
    },
  ));
});

Deno.test("LineSplitter takes a last line without a newline, and no empty one", () => {
  assertEquals(split(10, [bytes("a\nb")]).lines, ["a", "b"]);
  assertEquals(split(10, [bytes("a\n")]).lines, ["a"]);
  assertEquals(split(10, []).lines, []);
  assertEquals(split(10, [bytes("\n")]).lines, [""]);
});

Deno.test("LineSplitter drops a byte order mark at the start of the input alone", () => {
  assertEquals(split(10, [bytes("\uFEFFa\n\uFEFFb\n")]).lines, [
    "a",
    "\uFEFFb",
  ]);
});

Deno.test("LineSplitter reports a line that is not UTF-8 with its number", () => {
  assertEquals(split(10, [bytes("a\n", 0xff, "\nb\n")]), {
    lines: ["a", "b"],
    errors: ["Cannot send line 2 of the input: it is not UTF-8"],
  });
});

Deno.test("LineSplitter reports a line that is too long and goes on with the next", () => {
  const long = Array.from({ length: 100 }, () => bytes("x".repeat(100)));
  assertEquals(split(500, [bytes("a\n"), ...long, bytes("\nb")]), {
    lines: ["a", "b"],
    errors: [
      "Cannot send line 2 of the input: it has 10000 bytes, and the limit is 500 bytes",
    ],
  });
});
