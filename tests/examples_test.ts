// Why: an example is the first thing people run, so each one runs here as its
// first comment says, with those permissions and no others.

import { assert, assertEquals, assertRejects, fail } from "@std/assert";
import {
  ClosedError,
  createTcpClient,
  createTcpServer,
  createUdpSocket,
  wirePort,
} from "../mod.ts";
import { type FreePort, freePort } from "./_ports.ts";
import { PATIENCE, Process, ROOT } from "./_process.ts";

const LOOPBACK = "127.0.0.1";
const LOOPBACK_BROADCAST = "127.255.255.255";
const WAIT = { timeout: PATIENCE };

/** An example's command, with free ports in the place of those it states. */
class Example implements Disposable {
  readonly #stated: string;
  readonly #args: string[];
  readonly #ports = new Map<number, FreePort>();

  constructor(name: string) {
    const source = Deno.readTextFileSync(new URL(`examples/${name}`, ROOT));
    this.#stated = source.slice(0, source.indexOf("\n"));
    const [slashes, deno, ...args] = this.#stated.split(" ");
    assertEquals([slashes, deno, args[0]], ["//", "deno", "run"], this.#stated);
    assert(args.includes("--no-prompt"), this.#stated);
    assert(args.includes(`examples/${name}`), this.#stated);
    try {
      this.#args = args.map((arg) => this.#withFreePorts(arg));
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /** The port that this run has in the place of one that the comment states. */
  port(stated: number): number {
    const port = this.#ports.get(stated) ??
      fail(`${stated} is not in: ${this.#stated}`);
    return port.port;
  }

  start(...args: (string | number)[]): Process {
    return new Process(Deno.execPath(), [...this.#args, ...args.map(String)]);
  }

  [Symbol.dispose](): void {
    for (const port of this.#ports.values()) port[Symbol.dispose]();
  }

  /** Wire ports of permissions and communication ports of arguments. */
  #withFreePorts(arg: string): string {
    if (arg.startsWith("--allow-net=")) {
      return arg.replace(/:(\d+)/g, (_, wire) => {
        const stated = Number(wire) - wirePort(70000) + 70000;
        return `:${this.#freePort(stated).wire}`;
      });
    }
    return /^7\d{4}$/.test(arg) ? `${this.#freePort(Number(arg)).port}` : arg;
  }

  #freePort(stated: number): FreePort {
    let port = this.#ports.get(stated);
    if (!port) this.#ports.set(stated, port = freePort());
    return port;
  }
}

/** Waits for an example that has nothing to complain about; its output. */
async function output(process: Process): Promise<string> {
  const { code, stdout, stderr } = await process.ended();
  assertEquals({ code, stderr }, { code: 0, stderr: "" });
  return stdout;
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
    const count = Deno.build.os === "linux" ? 11 : 9;
    const summary =
      `All ${count} messages arrived, and every socket is closed.`;
    assertEquals(text.trimEnd().split("\n").at(-1), summary);
    assertEquals([...text.matchAll(/^ *[\d.]+ .{10} ← /gm)].length, count);
  },
};

/** Elsewhere loopback has no broadcast address. */
const onLinuxOnly = ["udp_broadcast.ts"];

const files = [...Deno.readDirSync(new URL("examples/", ROOT))]
  .map(({ name }) => name);

for (const name of new Set([...files, ...Object.keys(runs)].sort())) {
  Deno.test({
    name: `examples/${name}: runs with the permissions that it states`,
    ignore: onLinuxOnly.includes(name) && Deno.build.os !== "linux",
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
