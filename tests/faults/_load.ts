// Why: many connections at once and one after the other, a few of them at each
// `deno task test`, and all of them at `deno task soak`.

import { assert, assertEquals } from "@std/assert";
import { freePort } from "../_ports.ts";
import { Process, ROOT } from "../_process.ts";
import type { Look } from "./_load_side.ts";

/** How much memory may be more after it, in bytes: what one run and the next differ by. */
const HEAP = 8 * 1024 ** 2;
const RSS = 64 * 1024 ** 2;

export interface Load {
  /** How many are connected at once. */
  connections: number;
  /** How many connect and disconnect each second, and for how many seconds. */
  rate: number;
  seconds: number;
}

class Side {
  readonly #process: Process;

  private constructor(process: Process) {
    this.#process = process;
  }

  static async start(
    stack: AsyncDisposableStack,
    role: string,
    port: number,
  ): Promise<Side> {
    const path = new URL("tests/faults/_load_side.ts", ROOT).pathname;
    const process = stack.use(
      new Process(Deno.execPath(), [
        ...["run", "--quiet", "--no-config", "--no-prompt"],
        ...["--allow-all"],
        ...["--v8-flags=--expose-gc", path, role, `${port}`],
      ]),
    );
    const side = new Side(process);
    assertEquals(JSON.parse(await process.read()), "ready");
    return side;
  }

  async do(command: string): Promise<unknown> {
    await this.#process.write(`${command}\n`);
    return JSON.parse(await this.#process.read());
  }

  /** Does it so often, in steps that take seconds; returns how many ms all took. */
  async inSteps(what: string, times: number, step: number): Promise<number> {
    let ms = 0;
    for (let left = times; left > 0; left -= step) {
      ms += await this.do(`${what} ${Math.min(left, step)}`) as number;
    }
    return ms;
  }

  look(): Promise<Look> {
    return this.do("look") as Promise<Look>;
  }

  /** What it holds once nobody is connected. */
  async rest(): Promise<Look> {
    let look: Look;
    do look = await this.look(); while (look.clients > 0);
    return look;
  }

  /** Ends by itself, as nothing keeps it alive. */
  async end(): Promise<void> {
    const { code, stdout, stderr } = await this.#process.end();
    assertEquals({ code, stdout, stderr }, { code: 0, stdout: "", stderr: "" });
  }
}

function mib(bytes: number): string {
  return `${(bytes / 1024 ** 2).toFixed(1)} MiB`;
}

function assertNothingLeft(what: string, before: Look, after: Look): string {
  const { descriptors, timers } = before;
  assertEquals(
    { descriptors: after.descriptors, timers: after.timers },
    { descriptors, timers },
    what,
  );
  const heap = after.heap - before.heap;
  const rss = after.rss - before.rss;
  assert(heap < HEAP, `${what}: ${mib(heap)} more on the heap`);
  assert(rss < RSS, `${what}: ${mib(rss)} more in memory`);
  return `heap ${mib(heap)}, memory ${mib(rss)} more on the ${what}`;
}

/** Puts a server and its clients under load, in a process each; returns the figures. */
export async function load(
  { connections, rate, seconds }: Load,
): Promise<string[]> {
  using port = freePort();
  await using stack = new AsyncDisposableStack();
  const server = await Side.start(stack, "server", port.port);
  const clients = await Side.start(stack, "clients", port.port);
  const hold = async () => {
    const ms = await clients.inSteps("hold", connections, 1_000);
    const full = await server.look();
    assertEquals(full.clients, connections);
    await clients.do("release");
    return { ms, full };
  };

  // Once to get to size: what grows then grows for something.
  await hold();
  await clients.do(`churn ${Math.min(rate, 200)} 1`);
  const before = [await server.rest(), await clients.rest()] as const;

  const { ms, full } = await hold();
  const held = [await server.rest(), await clients.rest()] as const;
  const leftByHeld = [
    assertNothingLeft("server", before[0], held[0]),
    assertNothingLeft("clients", before[1], held[1]),
  ];
  const churned = await clients.inSteps(`churn ${rate}`, seconds, 5);
  const after = [await server.rest(), await clients.rest()] as const;
  const leftByChurn = [
    assertNothingLeft("server", before[0], after[0]),
    assertNothingLeft("clients", before[1], after[1]),
  ];
  await clients.end();
  await server.end();
  const each = Math.round((full.heap - before[0].heap) / connections);
  const done = rate * seconds;
  return [
    `${connections} connections at once, connected in ${Math.round(ms)} ms, ` +
    `${each} bytes of heap each; afterwards ${leftByHeld.join("; ")}`,
    `${done} connects and disconnects, ${
      Math.round(done / churned * 1000)
    } a second for ${(churned / 1000).toFixed(1)} s; afterwards ${
      leftByChurn.join("; ")
    }`,
  ];
}
