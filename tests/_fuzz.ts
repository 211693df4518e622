// Why: a decoder is right when it does what a few obvious lines do, for any bytes;
// `deno task test` tries some, and `deno task soak` many.

import { deadline } from "@std/async";
import { FrameDecoder } from "../_framing.ts";
import {
  ClosedError,
  createTcpClient,
  createTcpServer,
  InvalidMessageError,
  MessageTooLargeError,
} from "../mod.ts";
import { feed, takeEach } from "./_feed.ts";
import { LOOPBACK } from "./_machine.ts";
import { freePort } from "./_ports.ts";
import { PATIENCE } from "./_process.ts";

const TERMINATOR = 3;

/** Numbers that look random, and the same again for the same seed. */
class Chance {
  #state: number;

  constructor(seed: number) {
    this.#state = seed;
  }

  /** From 0 to 1 (mulberry32). */
  next(): number {
    this.#state = this.#state + 0x6d2b79f5 | 0;
    let t = Math.imul(this.#state ^ this.#state >>> 15, this.#state | 1);
    t ^= t + Math.imul(t ^ t >>> 7, t | 61);
    return ((t ^ t >>> 14) >>> 0) / 2 ** 32;
  }

  below(limit: number): number {
    return Math.floor(this.next() * limit);
  }

  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)] as T;
  }
}

const encoder = new TextEncoder();
/** What streams are made of: good text of every length … */
const GOOD: readonly Uint8Array[] = [
  ...[
    "",
    "a",
    "MOVE 1 2 3",
    "é",
    "€",
    "😀",
    "\ufeff",
    "\ufffd",
    "\0",
    "\x16\x03",
  ],
  ...["x".repeat(1023), "x".repeat(4095), "é".repeat(2048), "€😀".repeat(700)],
].map((text) => encoder.encode(text));
/** … and every way to spoil it, seldom, as it takes long to refuse. */
const BAD: readonly Uint8Array[] = [
  ...["80", "c0af", "c3", "e28f", "e082ac", "eda080", "f09f98", "f4908080"],
  "ff",
].map((hex) => Uint8Array.fromHex(hex));

/** Any bytes, among which messages and pieces of messages are more frequent than by chance. */
function makeStream(chance: Chance, longest: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(
    chance.below(chance.pick([8, 64, 512, longest])),
  );
  for (let at = 0; at < bytes.length;) {
    const kind = chance.next();
    if (kind < 0.3) bytes[at++] = TERMINATOR;
    else if (kind < 0.35) bytes[at++] = chance.below(256);
    else {
      const pieces = chance.next() < 0.95 ? GOOD : BAD;
      const piece = chance.pick(pieces).subarray(0, bytes.length - at);
      bytes.set(piece, at);
      at += piece.length;
      if (chance.next() < 0.7 && at < bytes.length) bytes[at++] = TERMINATOR;
    }
  }
  // As the first byte it would be TLS, which is told from messages.
  if (bytes[0] === 0x15 || bytes[0] === 0x16) bytes[0] = 0x41;
  return bytes;
}

function* cutUp(
  bytes: Uint8Array<ArrayBuffer>,
  chance: Chance,
): Generator<Uint8Array<ArrayBuffer>> {
  const shortest = bytes.length < 200 ? 1 : 50;
  const longest = chance.pick([shortest, 10 * shortest, bytes.length + 1]);
  for (let at = 0; at < bytes.length;) {
    const end = at + 1 + chance.below(longest);
    yield bytes.subarray(at, end);
    at = end;
  }
}

/** What arrived: a message, the bytes of one that is not UTF-8, or what was in the way. */
type Arrived = string | readonly [what: string, bytes?: string];

function name(error: unknown): Arrived {
  if (error instanceof InvalidMessageError) {
    return ["invalid", error.bytes.toHex()];
  }
  if (error instanceof MessageTooLargeError) return ["too large"];
  throw error;
}

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** What must arrive: `bytes` split at 0x03, and strict UTF-8. */
function expect(bytes: Uint8Array, limit: number): Arrived[] {
  const arrived: Arrived[] = [];
  for (let start = 0;;) {
    const end = bytes.indexOf(TERMINATOR, start);
    const message = bytes.subarray(start, end < 0 ? bytes.length : end);
    if (message.length > limit) return [...arrived, ["too large"]];
    if (end < 0) {
      return message.length === 0
        ? arrived
        : [...arrived, ["incomplete", message.toHex()]];
    }
    try {
      arrived.push(strict.decode(message));
    } catch {
      arrived.push(["invalid", message.toHex()]);
    }
    start = end + 1;
  }
}

function check(arrived: Arrived[], expected: Arrived[], what: string): void {
  const [got, wanted] = [JSON.stringify(arrived), JSON.stringify(expected)];
  if (got === wanted) return;
  throw new Error(
    `${what}: ${got.slice(0, 500)} is not ${wanted.slice(0, 500)}`,
  );
}

function decode(
  bytes: Uint8Array<ArrayBuffer>,
  limit: number,
  chance: Chance,
): Arrived[] {
  const arrived: Arrived[] = [];
  const decoder = new FrameDecoder(limit);
  const takeAll = () => {
    for (const item of takeEach(decoder)) {
      arrived.push(typeof item === "string" ? item : name(item));
    }
  };
  try {
    for (const chunk of cutUp(bytes, chance)) {
      for (const _ of feed(decoder, chunk)) {
        // Now and then later, as where nobody receives.
        if (chance.next() >= 0.2) takeAll();
      }
    }
    takeAll();
    const rest = decoder.incomplete();
    if (rest.length > 0) arrived.push(["incomplete", rest.toHex()]);
  } catch (error) {
    arrived.push(name(error));
  }
  return arrived;
}

/** Puts so many random streams through the decoder; throws what shows a difference again. */
export function fuzzDecoder(count: number, seed: number): void {
  for (let i = 0; i < count; i++) {
    const chance = new Chance(seed + i);
    const longest = i % 100 === 0 ? 40_000 : 600;
    const bytes = makeStream(chance, longest);
    const limit = chance.pick([1, 10, 100, 5000, 1_048_576]);
    check(
      decode(bytes, limit, chance),
      expect(bytes, limit),
      `fuzzDecoder(1, ${seed + i})`,
    );
  }
}

const LIMIT = 20_000;

async function write(
  conn: Deno.TcpConn,
  bytes: Uint8Array<ArrayBuffer>,
  chance: Chance,
): Promise<void> {
  try {
    for (const chunk of cutUp(bytes, chance)) {
      for (let rest = chunk; rest.length > 0;) {
        rest = rest.subarray(await conn.write(rest));
      }
      // So that not all is read at once.
      if (chance.next() < 0.1) {
        await new Promise((resolve) => setTimeout(resolve));
      }
    }
    await conn.closeWrite();
    while (await conn.read(new Uint8Array(64)) !== null);
  } catch {
    // A message over the limit ends the connection.
  } finally {
    conn.close();
  }
}

/** At the end of a connection. */
function nameEnd(error: unknown): Arrived[] {
  if (error instanceof ClosedError) {
    if (error.incomplete.length === 0) return [];
    return [["incomplete", error.incomplete.toHex()]];
  }
  return error === undefined ? [] : [name(error)];
}

/** One side of the sockets: sends a stream, and says what arrived. */
type Send = (
  bytes: Uint8Array<ArrayBuffer>,
  chance: Chance,
) => Promise<Arrived[]>;

/** Streams to a server. */
function toServer(port: number, wire: number): [Send, () => Promise<void>] {
  const clients = new Map<number, Arrived[]>();
  const ends = new Map<number, (arrived: Arrived[]) => void>();
  const of = (port: number) => clients.get(port) ?? [];
  const server = createTcpServer(
    port,
    (message, [, port]) => void of(port).push(message),
    {
      hostname: LOOPBACK,
      maxMessageBytes: LIMIT,
      onConnect: ([, port]) => void clients.set(port, []),
      onError: (error, address) => void of(address?.[1] ?? 0).push(name(error)),
      onDisconnect: ([, port], error) => {
        ends.get(port)?.([...of(port), ...nameEnd(error)]);
        ends.delete(port);
        clients.delete(port);
      },
    },
  );
  const send: Send = async (bytes, chance) => {
    const conn = await Deno.connect({ hostname: LOOPBACK, port: wire });
    const { promise, resolve } = Promise.withResolvers<Arrived[]>();
    ends.set((conn.localAddr as Deno.NetAddr).port, resolve);
    const [arrived] = await Promise.all([promise, write(conn, bytes, chance)]);
    return arrived;
  };
  return [send, () => server.stop()];
}

/** Streams to clients. */
function toClient(port: number, wire: number): [Send, () => Promise<void>] {
  const listener = Deno.listen({ hostname: LOOPBACK, port: wire });
  const receive = async (): Promise<Arrived[]> => {
    await using client = await createTcpClient(LOOPBACK, port, {
      maxMessageBytes: LIMIT,
    });
    const arrived: Arrived[] = [];
    while (true) {
      try {
        arrived.push(await client.receive() ?? ["time"]);
      } catch (error) {
        if (error instanceof ClosedError) {
          return [...arrived, ...nameEnd(error)];
        }
        arrived.push(name(error));
        if (error instanceof MessageTooLargeError) return arrived;
      }
    }
  };
  // One at a time, so that who is accepted is who was connected.
  let turn = Promise.resolve();
  const send: Send = async (bytes, chance) => {
    const before = turn;
    const accepted = Promise.withResolvers<void>();
    turn = accepted.promise;
    await before;
    const received = receive();
    const conn = await listener.accept();
    accepted.resolve();
    const [arrived] = await Promise.all([received, write(conn, bytes, chance)]);
    return arrived;
  };
  return [
    send,
    () => {
      listener.close();
      return turn;
    },
  ];
}

const AT_ONCE = 16;

/** Sends so many random streams through real sockets, half to a server, half to clients. */
export async function fuzzSockets(count: number, seed: number): Promise<void> {
  using first = freePort();
  using second = freePort();
  const [serve, stopServer] = toServer(first.port, first.wire);
  const [call, stopListener] = toClient(second.port, second.wire);
  let next = 0;
  const work = async () => {
    for (let i: number; (i = next++) < count;) {
      const chance = new Chance(seed + i);
      const bytes = makeStream(chance, 30_000);
      const send = i % 2 === 0 ? serve : call;
      const what = `stream ${i} of fuzzSockets(…, ${seed})`;
      const arrived = await deadline(send(bytes, chance), PATIENCE)
        .catch((cause) => {
          throw new Error(what, { cause });
        });
      check(arrived, expect(bytes, LIMIT), what);
    }
  };
  try {
    await Promise.all(Array.from({ length: AT_ONCE }, work));
  } finally {
    await stopServer();
    await stopListener();
  }
}

/** For a run that nobody repeats by accident. */
export function newSeed(): number {
  return Math.floor(Math.random() * 2 ** 31);
}
