// Why: does what `load.c` does, where there is no C compiler.

import { ASK, END } from "./_messages.ts";
import { HOST } from "./_side.ts";

/** Bytes of one write, at least, where there is no reason to write fewer. */
const WRITE_BYTES = 262_144;
const PATIENCE_MS = 30_000;

interface Result {
  seconds: number;
  count: number;
  wrong: number;
  reply?: string;
  median?: number;
  p99?: number;
}

const encoder = new TextEncoder();

/** The messages of the file, again and again. */
let cycle = new Uint8Array();
let each = 0;
let wrong = 0;

async function readFile(file: string): Promise<void> {
  const once = await Deno.readFile(file);
  const times = Math.ceil(WRITE_BYTES / once.length);
  cycle = new Uint8Array(once.length * times);
  for (let i = 0; i < times; i++) cycle.set(once, i * once.length);
  each = once.indexOf(END.charCodeAt(0)) + 1;
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

async function writeAll(conn: Deno.Conn, bytes: Uint8Array): Promise<void> {
  for (let rest = bytes; rest.length > 0;) {
    rest = rest.subarray(await conn.write(rest));
  }
}

/** A connection, and where in the cycle it is, in bytes. */
class Stream {
  readonly conn: Deno.Conn;
  readonly #room = new Uint8Array(65_536);
  sent = 0;
  got = 0;

  constructor(conn: Deno.Conn) {
    this.conn = conn;
  }

  /** Sends the next bytes of the cycle. */
  async give(size: number): Promise<void> {
    for (let left = size; left > 0;) {
      const at = this.sent % cycle.length;
      const part = cycle.subarray(at, at + left);
      await writeAll(this.conn, part);
      this.sent += part.length;
      left -= part.length;
    }
  }

  async read(): Promise<Uint8Array> {
    const size = await this.conn.read(this.#room);
    if (size === null) throw new Error("The side is gone");
    return this.#room.subarray(0, size);
  }

  /** Receives, and checks, the next bytes of the cycle. */
  async take(): Promise<void> {
    for (let rest = await this.read(); rest.length > 0;) {
      const at = this.got % cycle.length;
      const expected = cycle.subarray(at, at + rest.length);
      const part = rest.subarray(0, expected.length);
      if (!isSame(part, expected)) wrong += part.length;
      this.got += part.length;
      rest = rest.subarray(part.length);
    }
  }
}

const streams: Stream[] = [];
let listener: Deno.TcpListener | undefined;
let udp: Deno.DatagramConn | undefined;
let udpTo: Deno.NetAddr | undefined;

async function dial(port: number): Promise<void> {
  const conn = await Deno.connect({ hostname: HOST, port });
  conn.setNoDelay(true);
  streams.push(new Stream(conn));
}

/** UDP needs a port of its own: the count. */
async function open(port: number, count: number, how: string): Promise<void> {
  if (how === "listen") {
    listener = Deno.listen({ hostname: HOST, port });
  } else if (how === "udp") {
    const transport = "udp";
    udpTo = { transport, hostname: HOST, port };
    udp = Deno.listenDatagram({ transport, hostname: HOST, port: count });
  } else {
    while (streams.length < count) {
      const some = Math.min(50, count - streams.length);
      await Promise.all(Array.from({ length: some }, () => dial(port)));
    }
  }
}

/** A listener serves one connection: a side that dials. */
async function accept(): Promise<void> {
  if (!listener) return;
  const conn = await listener.accept();
  conn.setNoDelay(true);
  streams.push(new Stream(conn));
  listener.close();
  listener = undefined;
}

function latencies(times: Float64Array): Partial<Result> {
  times.sort();
  const at = (share: number) =>
    1000 * (times[Math.floor(share * times.length)] ?? NaN);
  return { median: at(0.5), p99: at(0.99) };
}

async function blast(count: number): Promise<Partial<Result>> {
  const stream = streams.at(-1);
  if (!stream) throw new Error("Nothing is open");
  stream.sent = 0;
  await stream.give(count * each);
  await writeAll(stream.conn, encoder.encode(ASK + END));
  let reply = "";
  while (!reply.endsWith(END)) {
    reply += new TextDecoder().decode(await stream.read());
  }
  return { count, reply: reply.slice(0, -1) };
}

async function window(
  count: number,
  inFlight: number,
): Promise<Partial<Result>> {
  const per = count / streams.length * each;
  const times: number[] = [];
  const timed = streams.length === 1 && inFlight === 1;
  await Promise.all(streams.map(async (stream) => {
    const base = stream.got;
    let last = performance.now();
    await stream.give(Math.min(per, inFlight * each));
    while (stream.got - base < per) {
      await stream.take();
      const got = stream.got - base;
      if (timed && got % each === 0) {
        times.push(performance.now() - last);
        last = performance.now();
      }
      const may = Math.min(per, (Math.floor(got / each) + inFlight) * each);
      await stream.give(may - (stream.sent - base));
    }
  }));
  return { count, ...(timed && latencies(Float64Array.from(times))) };
}

async function order(count: number): Promise<Partial<Result>> {
  const [first] = streams;
  if (first) await writeAll(first.conn, encoder.encode(count + END));
  await Promise.all(streams.map(async (stream) => {
    const end = stream.got + count * each;
    while (stream.got < end) await stream.take();
  }));
  return { count: count * streams.length };
}

async function datagrams(count: number): Promise<Partial<Result>> {
  const times = new Float64Array(count);
  const room = new Uint8Array(65_536);
  for (let i = 0; udp && udpTo && i < count; i++) {
    const at = i * each % cycle.length;
    const message = cycle.subarray(at, at + each - 1);
    const sent = performance.now();
    await udp.send(message, udpTo);
    const [datagram] = await udp.receive(room);
    if (!isSame(datagram, message)) wrong++;
    times[i] = performance.now() - sent;
  }
  return { count, ...latencies(times) };
}

async function touch(): Promise<Partial<Result>> {
  const hello = encoder.encode(`hello${END}`);
  for (const { conn } of streams) await writeAll(conn, hello);
  return {};
}

async function run(line: string): Promise<Result> {
  const [name, a = "", b = "", how = "", path = ""] = line.split(" ");
  const commands: Record<string, () => Promise<Partial<Result>>> = {
    open: async () => {
      await readFile(path);
      await open(Number(a), Number(b), how);
      return {};
    },
    blast: () => blast(Number(a)),
    window: () => window(Number(a), Number(b)),
    order: () => order(Number(a)),
    datagrams: () => datagrams(Number(a)),
    touch,
  };
  await accept();
  wrong = 0;
  const start = performance.now();
  const found = await commands[name ?? ""]?.();
  const seconds = (performance.now() - start) / 1000;
  return { seconds, count: 0, wrong, ...found };
}

let rest = "";
for await (
  const text of Deno.stdin.readable.pipeThrough(new TextDecoderStream())
) {
  const lines = (rest + text).split("\n");
  rest = lines.pop() ?? "";
  for (const line of lines) {
    const timer = setTimeout(() => Deno.exit(1), PATIENCE_MS);
    console.log(JSON.stringify(await run(line)));
    clearTimeout(timer);
  }
}
Deno.exit(0);
