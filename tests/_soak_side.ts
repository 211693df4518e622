// Why: the processes of the soak, which are stopped, killed and watched from
// outside. Each tells lines of JSON on stdout, and ends with what it has found.

import {
  type Address,
  createTcpClient,
  createTcpServer,
  createUdpSocket,
  InvalidMessageError,
  type TCPClient,
  type TCPClientOptions,
} from "../mod.ts";
import { HERE, LOOPBACK } from "./_machine.ts";

/** Of the server that lives on, in ms. */
export const IDLE_TIMEOUT = 5_000;

/** What a process is started with. */
export interface Orders {
  role: keyof typeof roles;
  /** Tells its messages from those of others. */
  id: string;
  ports: {
    plain: number;
    tls: number;
    mortal: number;
    udp: number;
    own: number;
  };
  tls: { cert: string; key: string; ca: string };
}

/** What a process holds, in bytes, after garbage collection, and what it has done. */
export interface Look {
  heap: number;
  rss: number;
  /** For each of its jobs, how many steps so far. */
  steps: Record<string, number>;
}

/** What somebody who sends and waits for the echo has found. */
export interface Called {
  sent: number;
  echoed: number;
  pushes: number;
  datagrams: number;
}

/** What somebody who comes back has found: for each client what went out. */
export interface Returned {
  id: string;
  /** How many messages were with the kernel, at the end and at each new connection. */
  sent: number;
  starts: number[];
}

/** What the server that lives on has counted. */
export interface Served {
  pushed: number;
  /** By sender, the whole datagrams; and those that were nobody's. */
  datagrams: Record<string, number>;
  strange: number;
  stats: Record<string, number>;
}

function tell(...what: unknown[]): void {
  console.log(JSON.stringify(what));
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function below(limit: number): number {
  return Math.floor(Math.random() * limit);
}

/** FNV-1a. */
function checksum(text: string): number {
  let sum = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) {
    sum = Math.imul(sum ^ text.charCodeAt(i), 0x01000193);
  }
  return sum >>> 0;
}

const PARTS = ["MOVE 1 2 3;", "é", "€uro", "😀", "x".repeat(100), "\ufffd"];

/** A message that shows whose it is, which, and whether it is whole. */
function make(id: string, number: number, longest: number): string {
  const length = below(Math.random() < 0.01 ? longest * 10 : longest);
  let text = "";
  while (text.length < length) text += PARTS[below(PARTS.length)];
  const head = `${id} ${number}`;
  return `${head} ${checksum(`${head} ${text}`)} ${text}`;
}

/** Whose and which it is, or null where it is not as it was made. */
function read(message: string): [id: string, number: number] | null {
  const [, id, number, sum, text] =
    message.match(/^(\S+) (\d+) (\d+) (.*)$/s) ?? [];
  if (id === undefined || `${checksum(`${id} ${number} ${text}`)}` !== sum) {
    return null;
  }
  return [id, Number(number)];
}

function fail(message: string): never {
  throw new Error(message);
}

const steps: Record<string, number> = {};

function step(job: string): void {
  steps[job] = (steps[job] ?? 0) + 1;
}

/** Aborts when it is time to end. */
const stop = new AbortController();

async function obey(): Promise<void> {
  const text = Deno.stdin.readable.pipeThrough(new TextDecoderStream());
  for await (const command of text) {
    for (const line of command.trim().split("\n")) {
      if (line === "stop") return stop.abort();
      const { gc } = globalThis as { gc?: () => void };
      gc?.();
      const { heapUsed, external, rss } = Deno.memoryUsage();
      const look: Look = { heap: heapUsed + external, rss, steps };
      tell("look", look);
    }
  }
}

/** Lives on, whatever others do to it: echoes, pushes, and takes datagrams. */
async function steady({ ports, tls }: Orders): Promise<Served> {
  let pushed = 0;
  const options = {
    ...HERE,
    maxMessageBytes: 500_000,
    maxSendBufferBytes: 4_000_000,
    onError: () => {},
    // Vandals leave in other ways: this may be why somebody else was disconnected.
    onDisconnect: ([, port]: Address, error?: Error) => {
      if (error instanceof Deno.errors.TimedOut || /slowly/.test(`${error}`)) {
        tell("gave up", port, `${error}`);
      }
    },
  };
  await using plain = createTcpServer(ports.plain, (text) => text, {
    ...options,
    idleTimeout: IDLE_TIMEOUT,
  });
  const { cert, key } = tls;
  await using safe = createTcpServer(ports.tls, async (text) => {
    await null;
    return text;
  }, { ...options, tls: { cert, key, handshakeTimeout: 2_000 } });
  using udp = createUdpSocket(ports.udp, HERE);
  const datagrams: Record<string, number> = {};
  const last: Record<string, number> = {};
  let strange = 0;
  const receive = async () => {
    while (true) {
      try {
        const [text] = await udp.receive({ signal: stop.signal }) ?? [""];
        const known = read(text);
        if (!known) {
          strange++;
          continue;
        }
        const [id, number] = known;
        if (number <= (last[id] ?? -1)) fail(`datagram ${number} came again`);
        last[id] = number;
        datagrams[id] = (datagrams[id] ?? 0) + 1;
        step(`datagrams of ${id}`);
      } catch (error) {
        if (stop.signal.aborted) return;
        if (!(error instanceof InvalidMessageError)) throw error;
        strange++;
      }
    }
  };
  const receiving = receive();
  while (!stop.signal.aborted) {
    const push = make("push", pushed++, 300);
    await Promise.all([plain.sendToAll(push), safe.sendToAll(push)]);
    step("pushes");
    await pause(10);
  }
  await receiving;
  return { pushed, datagrams, strange, stats: { ...plain.stats } };
}

/** How many messages may be without an answer. */
const WINDOW = 64;

/** Sends, and gets every echo, whole and in order, and every push since it came. */
async function echo(client: TCPClient, id: string): Promise<Called> {
  const found: Called = { sent: 0, echoed: 0, pushes: 0, datagrams: 0 };
  const waiting: string[] = [];
  let push = -1;
  let done = false;
  let wake = () => {};
  const receive = async () => {
    for await (const message of client) {
      const [from, number] = read(message) ??
        fail(`${id} got a broken message`);
      if (from === "push") {
        if (push >= 0 && number !== push + 1) fail(`${number} after ${push}`);
        push = number;
        found.pushes++;
        step(`${id} pushes`);
      } else {
        if (message !== waiting.shift()) fail(`${id} got ${from} ${number}`);
        found.echoed++;
        step(id);
        wake();
      }
    }
    if (done) return;
    const { localAddress, stats } = client;
    fail(`${id} was disconnected: ${JSON.stringify({ localAddress, stats })}`);
  };
  const received = receive();
  while (!stop.signal.aborted || waiting.length > 0) {
    if (stop.signal.aborted || waiting.length >= WINDOW) {
      await new Promise<void>((resolve) => wake = resolve);
      continue;
    }
    const message = make(id, found.sent++, 3_000);
    waiting.push(message);
    const sent = client.send(message);
    if (Math.random() < 0.2) {
      await sent;
      await pause(below(10));
    }
  }
  done = true;
  await client.disconnect();
  await received;
  return found;
}

async function call({ ports, tls, id }: Orders): Promise<Called[]> {
  const options: TCPClientOptions[] = [{}, {}, { tls: { caCerts: [tls.ca] } }];
  const echoes = options.map(async (options, i) => {
    const port = options.tls ? ports.tls : ports.plain;
    const client = await createTcpClient(LOOPBACK, port, options);
    return echo(client, `${id}-${i}`);
  });
  using udp = createUdpSocket(ports.own, HERE);
  let datagrams = 0;
  while (!stop.signal.aborted) {
    await udp.send(make(id, datagrams++, 1_000), [LOOPBACK, ports.udp]);
    step("datagrams");
    await pause(2);
  }
  const found = await Promise.all(echoes);
  return [...found, { sent: 0, echoed: 0, pushes: 0, datagrams }];
}

/** Is killed again and again; tells each message at once, as it may not live to the next. */
async function mortal({ ports }: Orders): Promise<null> {
  await using _server = createTcpServer(ports.mortal, (text) => {
    const [id, number] = read(text) ?? fail("got a broken message");
    tell("got", id, number);
  }, HERE);
  await new Promise((resolve) =>
    stop.signal.addEventListener("abort", resolve)
  );
  return null;
}

/** Goes on sending to a server that is killed again and again. */
async function comeBack({ ports, id }: Orders): Promise<Returned[]> {
  const keepOn = async (i: number): Promise<Returned> => {
    const found: Returned = { id: `${id}-${i}`, sent: 0, starts: [0] };
    const again = { firstDelay: 5, maxDelay: 50 };
    const client = await createTcpClient(LOOPBACK, ports.mortal, {
      retry: again,
      reconnect: again,
      onReconnect: () => found.starts.push(found.sent),
    });
    for (let number = 0; !stop.signal.aborted; number++) {
      const sent = client.send(make(found.id, number, 2_000))
        .then(() => {
          found.sent++;
          step(found.id);
        });
      if (number % 8 > 0) continue;
      await sent;
      await pause(below(20));
    }
    await client.disconnect();
    return found;
  };
  return await Promise.all([0, 1, 2].map(keepOn));
}

/** Everything that nobody should do to a server; it is killed in the middle of it. */
async function vandalize({ ports }: Orders): Promise<null> {
  const bytes = (length: number) =>
    crypto.getRandomValues(new Uint8Array(Math.min(length, 65_536)));
  const tricks: ((conn: Deno.TcpConn) => Promise<unknown>)[] = [
    (conn) => conn.write(bytes(below(5_000))),
    (conn) => conn.write(new TextEncoder().encode("half a mess")),
    (conn) => conn.closeWrite(),
    (conn) => conn.write(new Uint8Array(60_000).fill(3)), // unread replies
    async (conn) => {
      while (true) await conn.write(new Uint8Array(65_536)); // without end
    },
    async (conn) => {
      for (const byte of bytes(100)) {
        await conn.write(new Uint8Array([byte]));
        await pause(1);
      }
    },
    () => pause(below(3_000)), // silence
    () => Promise.resolve(),
  ];
  const datagrams = Deno.listenDatagram({
    ...HERE,
    transport: "udp",
    port: 0,
  });
  const work = async () => {
    while (!stop.signal.aborted) {
      const port = (Math.random() < 0.7 ? ports.plain : ports.tls) - 65_536;
      try {
        using conn = await Deno.connect({ ...HERE, port });
        await tricks[below(tricks.length)]?.(conn);
      } catch {
        // It has been shown out.
      }
      await datagrams.send(bytes(below(100)), {
        ...HERE,
        transport: "udp",
        port: ports.udp - 65_536,
      });
      await pause(below(50));
    }
  };
  await Promise.all([work(), work(), work()]);
  datagrams.close();
  return null;
}

const roles = { steady, call, mortal, comeBack, vandalize };

if (import.meta.main) {
  const orders = JSON.parse(Deno.args[0] ?? "") as Orders;
  const obeying = obey();
  const work = roles[orders.role](orders);
  tell("ready");
  tell("found", await work);
  await obeying;
  // TLS that hangs may hold it up, until the peer goes.
  Deno.exit();
}
