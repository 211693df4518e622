// Why: the other end of every comparison: it sends to or receives from the side
// that is measured, the same to all, as fast as bytes go, and checks each byte.

import {
  Checker,
  closeInOrder,
  type Cycle,
  dial,
  HOST,
  makeCycle,
  readCycle,
  upgrade,
  type Wire,
  writeCycle,
} from "./_bytes.ts";
import { type Job, type Result, serve } from "./_jobs.ts";

let listener: Deno.TcpListener | undefined;
let idle: Deno.TcpConn[] = [];
let subscribers: Subscriber[] = [];

/** Made once for each file. */
const cycles = new Map<string, Cycle>();

function cycleOf({ file }: Job, wire: Wire): Cycle {
  const key = `${wire} ${file}`;
  const cycle = cycles.get(key) ?? makeCycle(file, wire);
  cycles.set(key, cycle);
  return cycle;
}

function isWebSocket({ how }: Job): boolean {
  return how === "WebSocket";
}

/** The connection to the side: accepted where it dials, else dialled. */
async function connection(job: Job): Promise<Deno.TcpConn> {
  if (listener) {
    const conn = await listener.accept();
    listener.close();
    listener = undefined;
    conn.setNoDelay(true);
    return conn;
  }
  const conn = await dial(job.wire);
  if (isWebSocket(job)) await upgrade(conn);
  return conn;
}

/** A client, and the check of all that a server sends to it. */
interface Subscriber {
  conn: Deno.TcpConn;
  checker: Checker;
}

/** Connects, a few at a time, or the listener's queue would overflow. */
async function dialMany(wire: number, count: number): Promise<Deno.TcpConn[]> {
  const conns: Deno.TcpConn[] = [];
  while (conns.length < count) {
    const some = Math.min(50, count - conns.length);
    conns.push(
      ...await Promise.all(Array.from({ length: some }, () => dial(wire))),
    );
  }
  return conns;
}

/** One client with one message in flight. */
async function pingPong(
  conn: Deno.TcpConn,
  { bytes, each }: Cycle,
  count: number,
): Promise<number> {
  const buffer = new Uint8Array(1024);
  let wrong = 0;
  for (let i = 0; i < count; i++) {
    const at = (i * each) % bytes.length;
    await conn.write(bytes.subarray(at, at + each));
    for (let got = 0; got < each;) {
      const more = await conn.read(buffer.subarray(got));
      if (more === null) return wrong + count - i;
      got += more;
    }
    for (let b = 0; b < each; b++) if (buffer[b] !== bytes[at + b]) wrong++;
  }
  return wrong;
}

await serve({
  listen({ wire }): Result {
    listener = Deno.listen({ hostname: HOST, port: wire });
    return {};
  },

  /** Sends messages. */
  async feed(job): Promise<Result> {
    const cycle = cycleOf(job, isWebSocket(job) ? "from client" : "frames");
    const conn = await connection(job);
    await writeCycle(conn, cycle, job.count, job.piece);
    // The side closes when it has all; WebSocket's closing handshake is not for us.
    if (isWebSocket(job)) conn.close();
    else await closeInOrder(conn);
    return {};
  },

  /** Receives messages. */
  async sink(job): Promise<Result> {
    const cycle = cycleOf(job, isWebSocket(job) ? "from server" : "frames");
    const conn = await connection(job);
    const checker = new Checker(cycle);
    await readCycle(conn, checker, job.count * cycle.each);
    conn.close();
    return { count: checker.count / cycle.each, wrong: checker.wrong };
  },

  /** Sends messages and receives them back, without waiting in between. */
  async flood(job): Promise<Result> {
    const ws = isWebSocket(job);
    const cycle = cycleOf(job, ws ? "from client" : "frames");
    const back = cycleOf(job, ws ? "from server" : "frames");
    const conn = await connection(job);
    const checker = new Checker(back);
    const start = performance.now();
    await Promise.all([
      writeCycle(conn, cycle, job.count),
      readCycle(conn, checker, job.count * back.each),
    ]);
    const seconds = (performance.now() - start) / 1000;
    conn.close();
    return { seconds, count: checker.count / back.each, wrong: checker.wrong };
  },

  /** Clients that each send a message, wait for it to come back, and so on. */
  async clients(job): Promise<Result> {
    const cycle = cycleOf(job, job.how === "lines" ? "lines" : "frames");
    const conns = await dialMany(job.wire, job.clients);
    const each = Math.ceil(job.count / job.clients);
    const start = performance.now();
    const wrong = await Promise.all(
      conns.map((conn) => pingPong(conn, cycle, each)),
    );
    const seconds = (performance.now() - start) / 1000;
    for (const conn of conns) conn.close();
    return {
      seconds,
      count: each * job.clients,
      wrong: wrong.reduce((a, b) => a + b, 0),
    };
  },

  /** Connects clients that receive; what they had before goes. */
  async subscribe(job): Promise<Result> {
    for (const { conn } of subscribers) conn.close();
    const cycle = cycleOf(job, "frames");
    const conns = await dialMany(job.wire, job.clients);
    subscribers = conns.map((conn) => ({ conn, checker: new Checker(cycle) }));
    return {};
  },

  /** Reads what each of them has been sent: so many messages. */
  async delivered(job): Promise<Result> {
    const { each } = cycleOf(job, "frames");
    let count = 0;
    let wrong = 0;
    await Promise.all(subscribers.map(async ({ conn, checker }) => {
      const before = { ...checker };
      await readCycle(conn, checker, job.count * each);
      count += (checker.count - before.count) / each;
      wrong += checker.wrong - before.wrong;
    }));
    return { count, wrong };
  },

  /** Has so many connections that do nothing. */
  async idle({ wire, clients }): Promise<Result> {
    idle.push(...await dialMany(wire, clients - idle.length));
    return {};
  },

  leave(): Result {
    for (const conn of idle) conn.close();
    idle = [];
    return {};
  },

  /** A server that takes connections and ends them when the client does. */
  welcome({ wire }): Result {
    const server = Deno.listen({ hostname: HOST, port: wire });
    (async () => {
      for await (const conn of server) closeInOrder(conn);
    })();
    return {};
  },
});
