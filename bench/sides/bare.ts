// Why: the limit: the same bytes through Deno's own sockets, without messages.

import {
  Checker,
  closeInOrder,
  dial,
  HOST,
  isGone,
  makeCycle,
  writeAll,
  writeCycle,
} from "./_bytes.ts";
import {
  latencies,
  type Result,
  serve,
  settledMemory,
  until,
} from "./_jobs.ts";
import { END, readMessages } from "./_messages.ts";

let listener: Deno.TcpListener | undefined;
const conns = new Set<Deno.TcpConn>();
let sent = 0;
let udp: Deno.DatagramConn | undefined;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Serves each connection that comes. */
async function start(
  wire: number,
  work: (conn: Deno.TcpConn) => Promise<void>,
): Promise<void> {
  listener = Deno.listen({ hostname: HOST, port: wire });
  for await (const conn of listener) {
    conns.add(conn);
    conn.setNoDelay(true);
    work(conn).catch((error) => {
      if (!isGone(error)) throw error;
    });
  }
}

async function echo(conn: Deno.TcpConn): Promise<void> {
  const buffer = new Uint8Array(65_536);
  for (let count; (count = await conn.read(buffer)) !== null;) {
    await writeAll(conn, buffer.subarray(0, count));
  }
  conn.close();
}

/** A string of each 8 KiB, wherever characters end: what text costs at least. */
function decodeAll(bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; at += 8192) {
    decoder.decode(bytes.subarray(at, at + 8192), { stream: true });
  }
}

async function idle(conn: Deno.TcpConn): Promise<void> {
  const buffer = new Uint8Array(1024);
  while (await conn.read(buffer) !== null);
  conn.close();
}

function toAddress(port: number): Deno.NetAddr {
  return { transport: "udp", hostname: HOST, port };
}

await serve({
  async receive({ wire, count, how, file }): Promise<Result> {
    const { each } = makeCycle(file, "frames");
    const decodes = how === "decoded";
    const wanted = count * each;
    const buffer = new Uint8Array(65_536);
    let bytes = 0;
    const conn = await dial(wire);
    const start = performance.now();
    while (bytes < wanted) {
      const more = await conn.read(buffer);
      if (more === null) break;
      bytes += more;
      if (decodes) decodeAll(buffer.subarray(0, more));
    }
    const seconds = (performance.now() - start) / 1000;
    conn.close();
    return { seconds, count: bytes / each };
  },

  async send({ wire, count, how, file }): Promise<Result> {
    const messages = readMessages(file);
    const cycle = makeCycle(file, "frames");
    const conn = await dial(wire);
    const start = performance.now();
    if (how === "awaited") {
      for (let i = 0; i < count; i++) {
        const bytes = encoder.encode(messages[i % messages.length] + END);
        const written = await conn.write(bytes);
        if (written < bytes.length) {
          await writeAll(conn, bytes.subarray(written));
        }
      }
    } else {
      await writeCycle(conn, cycle, count);
    }
    const seconds = (performance.now() - start) / 1000;
    await closeInOrder(conn);
    return { seconds };
  },

  echo({ wire }): Result {
    start(wire, echo);
    return {};
  },

  async ping({ wire, count, file }): Promise<Result> {
    const { bytes, each } = makeCycle(file, "frames");
    const times = new Float64Array(count);
    const checker = new Checker({ bytes, each });
    const buffer = new Uint8Array(65_536);
    const conn = await dial(wire);
    const start = performance.now();
    for (let i = 0; i < count; i++) {
      const at = (i * each) % bytes.length;
      const frame = bytes.subarray(at, at + each);
      const sent = performance.now();
      const written = await conn.write(frame);
      if (written < each) await writeAll(conn, frame.subarray(written));
      for (let got = 0; got < each;) {
        const more = await conn.read(buffer);
        if (more === null) throw new Error("The server is gone");
        checker.add(buffer.subarray(0, more));
        got += more;
      }
      times[i] = performance.now() - sent;
    }
    const seconds = (performance.now() - start) / 1000;
    conn.close();
    return {
      ...latencies(times),
      seconds,
      count: checker.count / each,
      wrong: checker.wrong,
    };
  },

  listen({ wire }): Result {
    start(wire, idle);
    return {};
  },

  async members({ clients }): Promise<Result> {
    await until(() => conns.size === clients);
    return {};
  },

  async broadcast({ count, file }): Promise<Result> {
    const messages = readMessages(file);
    const start = performance.now();
    for (let i = 0; i < count; i++) {
      const bytes = encoder.encode(messages[sent++ % messages.length] + END);
      await Promise.all([...conns].map(async (conn) => {
        const written = await conn.write(bytes);
        if (written < bytes.length) {
          await writeAll(conn, bytes.subarray(written));
        }
      }));
    }
    return { seconds: (performance.now() - start) / 1000 };
  },

  async connect({ wire, count }): Promise<Result> {
    const start = performance.now();
    for (let i = 0; i < count; i++) await closeInOrder(await dial(wire));
    return { seconds: (performance.now() - start) / 1000, count };
  },

  async memory({ clients }): Promise<Result> {
    await until(() => conns.size === clients);
    return { rss: settledMemory() };
  },

  udp({ wire }): Result {
    udp?.close();
    udp = Deno.listenDatagram(
      toAddress(wire) as Deno.UdpListenOptions & { transport: "udp" },
    );
    return {};
  },

  async udpReceive({ count, window, file }): Promise<Result> {
    const { bytes, each } = makeCycle(file, "frames");
    const buffer = new Uint8Array(65_535);
    const checker = new Checker({ bytes, each });
    const on = encoder.encode("on");
    for (let i = 0; udp && i < count; i++) {
      const [datagram, sender] = await udp.receive(buffer);
      checker.add(datagram);
      if (i % window === window - 1) await udp.send(on, sender);
    }
    return { count: checker.count / each, wrong: checker.wrong };
  },

  async udpSend({ wire, count, window, file }): Promise<Result> {
    const { bytes, each } = makeCycle(file, "frames");
    const to = toAddress(wire);
    const buffer = new Uint8Array(65_535);
    const start = performance.now();
    for (let i = 0; i < count; i++) {
      const at = (i * each) % bytes.length;
      await udp?.send(bytes.subarray(at, at + each), to);
      if (i % window === window - 1) await udp?.receive(buffer);
    }
    return { seconds: (performance.now() - start) / 1000 };
  },

  async udpEcho({ count }): Promise<Result> {
    const buffer = new Uint8Array(65_535);
    for (let i = 0; udp && i < count; i++) {
      const [datagram, sender] = await udp.receive(buffer);
      await udp.send(datagram, sender);
    }
    return {};
  },

  async udpPing({ wire, count, file }): Promise<Result> {
    const { bytes, each } = makeCycle(file, "frames");
    const to = toAddress(wire);
    const times = new Float64Array(count);
    const checker = new Checker({ bytes, each });
    const buffer = new Uint8Array(65_535);
    const start = performance.now();
    for (let i = 0; udp && i < count; i++) {
      const at = (i * each) % bytes.length;
      const sent = performance.now();
      await udp.send(bytes.subarray(at, at + each), to);
      checker.add((await udp.receive(buffer))[0]);
      times[i] = performance.now() - sent;
    }
    const seconds = (performance.now() - start) / 1000;
    return {
      ...latencies(times),
      seconds,
      count: checker.count / each,
      wrong: checker.wrong,
    };
  },
});
