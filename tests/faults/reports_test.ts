// Why: a report of what went wrong must not go wrong itself, nor fill the disk that
// it is written to: whoever connects, or sends what is no message, has a say in it.

import {
  assert,
  assertEquals,
  assertLess,
  assertLessOrEqual,
  assertMatch,
  assertNotMatch,
} from "@std/assert";
import { delay } from "@std/async";
import { createTcpClient } from "../../mod.ts";
import { type FreePort, freePort } from "../_ports.ts";
import { Process } from "../_process.ts";
import { ask, HERE, KIB, LOOPBACK, onLinux, Peer, test } from "../_served.ts";

const INVALID = new Uint8Array([0xff, 0x03]);

/** A server in a process of its own, whose standard error goes to `stderr`. */
async function run(
  port: FreePort,
  options: string,
  stderr = "",
): Promise<Process> {
  const code = `import { createTcpServer } from "./mod.ts";
    const server = createTcpServer(${port.port}, (message) => {
      if (message === "throw") throw new Error("boom");
      if (message === "stop") return void server.stop();
      return message;
    }, { hostname: "${LOOPBACK}", ${options} });
    console.log("ready");`;
  const process = new Process("bash", [
    "-c",
    `exec "$0" eval "$1" ${stderr}`,
    Deno.execPath(),
    code,
  ]);
  if (await process.read() !== "ready") throw new Error("It is not ready");
  return process;
}

async function connect(port: FreePort): Promise<Peer> {
  return new Peer(await Deno.connect({ ...HERE, port: port.wire }));
}

async function stop(port: FreePort, process: Process) {
  await using client = await createTcpClient(LOOPBACK, port.port);
  assertEquals(await ask(client, "last"), "last");
  await client.send("stop");
  return await process.ended();
}

test("TCPServer serves on after a callback threw an error whose stack can't be read", async () => {
  using port = freePort();
  const broken = `onConnect: () => {
    throw Object.defineProperty(new Error("boom"), "stack", {
      get() { throw new Error("no stack"); },
    });
  }`;
  await using process = await run(port, broken);
  using peer = await connect(port);
  await peer.write("throw\x03ping\x03");
  assertEquals(await peer.read(), "ping");
  peer.conn.close();
  const { code, stderr } = await stop(port, process);
  assertEquals(code, 0, stderr);
  assertMatch(stderr, /onConnect failed for .*: an error that can't be shown/);
});

// Ways in which a report can fail

const UNWRITABLE: [what: string, options: string, stderr: string][] = [
  ["standard error on a full disk", "", "2>/dev/full"],
  ["standard error that is closed", "", "2>&-"],
  [
    "an onError that throws and standard error on a full disk",
    `onError() { throw new Error("worse"); },`,
    "2>/dev/full",
  ],
  [
    "an onError that rejects and standard error on a full disk",
    `async onError() { throw new Error("worse"); },`,
    "2>/dev/full",
  ],
  ["an onError that throws", `onError() { throw new Error("worse"); },`, ""],
  [
    "an onError that rejects",
    `onError: () => Promise.reject(new Error("worse")),`,
    "",
  ],
];

for (const [what, options, stderr] of UNWRITABLE) {
  test(
    `TCPServer serves on after a refused connection with ${what}`,
    async () => {
      using port = freePort();
      await using process = await run(
        port,
        `maxClients: 1, ${options}`,
        stderr,
      );
      {
        await using client = await createTcpClient(LOOPBACK, port.port);
        assertEquals(await ask(client, "Hello"), "Hello");
        for (let n = 0; n < 3; n++) {
          using refused = await connect(port);
          assert(await refused.ended());
          assertEquals(await ask(client, "still there"), "still there");
        }
        await client.send("stop");
      }
      assertEquals((await process.ended()).code, 0);
    },
    { ignore: !onLinux },
  );

  test(
    `TCPServer keeps the sender of a message that is not UTF-8 with ${what}`,
    async () => {
      using port = freePort();
      await using process = await run(port, options, stderr);
      using peer = await connect(port);
      for (let n = 0; n < 3; n++) {
        await peer.write(INVALID);
        await peer.write("throw\x03Hello\x03");
        assertEquals(await peer.read(), "Hello");
      }
      assertEquals((await stop(port, process)).code, 0);
    },
    { ignore: !onLinux },
  );
}

// How much is reported

const FLOOD = 16 * KIB;

/** How many reports a log says that it leaves out: its large numbers that are no port. */
function leftOut(log: string): number {
  const numbers = log.replace(/(?<=\d),(?=\d)/g, "")
    .matchAll(/(?<![:.\d]|wire port )\d{3,}(?![.\d])/g);
  return [...numbers].reduce((sum, [number]) => sum + Number(number), 0);
}

test("TCPServerOptions.onError by default writes ten lines a second, and counts the rest in one", async () => {
  using port = freePort();
  using stack = new DisposableStack();
  const file = Deno.makeTempFileSync({ prefix: "daystar-" });
  stack.defer(() => Deno.removeSync(file));
  const read = () => Deno.readTextFileSync(file);
  await using process = await run(port, "", `2>${file}`);
  const begin = performance.now();
  const bytes = new Uint8Array(FLOOD * INVALID.length);
  for (let n = 0; n < FLOOD; n++) bytes.set(INVALID, n * INVALID.length);
  {
    using peer = await connect(port);
    await peer.write(bytes);
    await peer.write("end\x03");
    assertEquals(await peer.read(), "end");
  }
  const most = () => {
    const seconds = 1 + Math.ceil((performance.now() - begin) / 1000);
    return 11 * seconds; // ten, and one that counts
  };
  // Without the last line of a few, which may come before a hundred are left out.
  const all = () => FLOOD - most() - 99 * most() / 11;
  assertLessOrEqual(read().split("\n").length - 1, most());
  while (leftOut(read()) < all()) {
    assertLessOrEqual(read().split("\n").length - 1, most());
    await delay(20);
  }
  assertLessOrEqual(leftOut(read()), FLOOD);
  assertLess(read().length, most() * KIB);
  assertEquals((await stop(port, process)).code, 0);
});

test("TCPServerOptions.onError by default writes one line for an error of this module", async () => {
  using port = freePort();
  await using process = await run(port, "maxClients: 1,");
  let address: string;
  {
    using peer = await connect(port);
    await peer.write(INVALID);
    await peer.write("Hello\x03");
    assertEquals(await peer.read(), "Hello");
    address = peer.address.join(":");
    using refused = await connect(port);
    assert(await refused.ended());
    await peer.write("stop\x03");
    await peer.ended();
  }
  const { code, stderr } = await process.ended();
  assertEquals(code, 0);
  const [invalid = "", full = "", ...rest] = stderr.trimEnd().split("\n");
  assertEquals(rest, []);
  assert(invalid.includes(address), invalid);
  assertMatch(invalid, /UTF-8/);
  assertMatch(full, /1 clients? (is|are) connected already/);
  assertNotMatch(stderr, /^\s+at /m);
});

test("TCPServerOptions.onError by default writes the stack of what a callback threw", async () => {
  using port = freePort();
  await using process = await run(port, "");
  let address: string;
  {
    using peer = await connect(port);
    address = peer.address.join(":");
    await peer.write("throw\x03Hello\x03");
    assertEquals(await peer.read(), "Hello");
  }
  const { code, stderr } = await stop(port, process);
  assertEquals(code, 0);
  assert(stderr.includes(address), stderr);
  assertMatch(stderr, /Error: boom\n\s+at /);
});
