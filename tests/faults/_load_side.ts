// Why: what a server and its clients leave behind can be counted only in a process
// that does nothing else. A command is a line on stdin, its answer a line of JSON.

import { createTcpClient, createTcpServer, type TCPClient } from "../../mod.ts";
import { LOOPBACK } from "../_machine.ts";

/** How many connect at a time: as many as the kernel lets wait to be accepted. */
const AT_ONCE = 100;

/** What a process holds. */
export interface Look {
  clients: number;
  descriptors: number;
  timers: number;
  /** In bytes, after garbage collection. */
  heap: number;
  rss: number;
}

/** Timers that are set and neither over nor cleared. */
const timers = new Set<number>();

function watchTimers(): void {
  const { setTimeout, clearTimeout } = globalThis;
  globalThis.setTimeout = ((callback: () => void, ms?: number) => {
    const timer = setTimeout(() => {
      timers.delete(Number(timer));
      callback();
    }, ms);
    timers.add(Number(timer));
    return timer;
  }) as typeof globalThis.setTimeout;
  globalThis.clearTimeout = (timer) => {
    timers.delete(Number(timer));
    clearTimeout(timer);
  };
}

function look(clients: number): Look {
  const { gc } = globalThis as { gc?: () => void };
  gc?.();
  const { heapUsed, external, rss } = Deno.memoryUsage();
  return {
    clients,
    descriptors: [...Deno.readDirSync("/proc/self/fd")].length,
    timers: timers.size,
    heap: heapUsed + external,
    rss,
  };
}

type Commands = Record<string, (...args: number[]) => unknown>;

function serve(port: number): [Commands, () => Promise<void>] {
  const server = createTcpServer(port, (text) => text, {
    hostname: LOOPBACK,
    maxClients: 20_000,
    idleTimeout: 3_600_000,
  });
  const commands = { look: () => look(server.getConnectedClients().length) };
  return [commands, () => server.stop()];
}

function call(port: number): [Commands, () => Promise<void>] {
  const clients: TCPClient[] = [];
  const connect = async (i: number): Promise<TCPClient> => {
    const client = await createTcpClient(LOOPBACK, port, {
      idleTimeout: 3_600_000,
    });
    await client.send(`${i}`);
    const reply = await client.receive();
    if (reply !== `${i}`) throw new Error(`${i} was answered by ${reply}`);
    return client;
  };
  const release = async () => {
    await Promise.all(clients.splice(0).map((client) => client.disconnect()));
  };
  const commands = {
    look: () => look(clients.length),
    async hold(count: number) {
      const begin = performance.now();
      let next = 0;
      const work = async () => {
        for (let i: number; (i = next++) < count;) {
          clients.push(await connect(i));
        }
      };
      await Promise.all(Array.from({ length: AT_ONCE }, work));
      return performance.now() - begin;
    },
    release,
    /** Connects, asks and disconnects so many times a second, as far as it gets. */
    async churn(rate: number, seconds: number) {
      const begin = performance.now();
      const count = rate * seconds;
      const running = new Set<Promise<void>>();
      for (let i = 0; i < count;) {
        const due = Math.min(count, (performance.now() - begin) * rate / 1000);
        for (; i < due && running.size < AT_ONCE; i++) {
          const cycle = connect(i).then((client) => client.disconnect());
          running.add(cycle);
          cycle.then(() => running.delete(cycle));
        }
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
      await Promise.all(running);
      return performance.now() - begin;
    },
  };
  return [commands, release];
}

async function main(role: string, port: number): Promise<void> {
  watchTimers();
  const [commands, end] = role === "server" ? serve(port) : call(port);
  console.log(`"ready"`);
  let text = "";
  for await (
    const chunk of Deno.stdin.readable.pipeThrough(new TextDecoderStream())
  ) {
    const lines = (text + chunk).split("\n");
    text = lines.pop() ?? "";
    for (const line of lines) {
      const [name = "", ...args] = line.split(" ");
      const answer = await commands[name]?.(...args.map(Number));
      console.log(JSON.stringify(answer ?? null));
    }
  }
  await end();
}

if (import.meta.main) await main(Deno.args[0] ?? "", Number(Deno.args[1]));
