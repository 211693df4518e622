// Why: a script that sends in one go gives nobody the time to count, and the limit
// must hold all the same in real bytes: a Chinese character has three.

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertNotInstanceOf,
} from "@std/assert";
import {
  ClosedError,
  CommunicationError,
  type TCPClient,
  type TCPServer,
} from "../mod.ts";
import { Line, send, sequence, SOON, soon, turn } from "./_line.ts";
import {
  KIB,
  MIB,
  outcome,
  outcomes,
  type Peer,
  Served,
  TERMINATOR,
  test,
} from "./_served.ts";

const LIMIT = MIB;
/** What a message may count for besides its bytes: more would refuse what fits. */
const MAX_OVERHEAD_BYTES = KIB;

const encoder = new TextEncoder();

/** Messages of characters of three bytes: shorter and longer than one write. */
const LENGTHS = [1_000, 4_000, 30_000, 70_000];

function text(n: number, length: number): string {
  return `${n} `.padEnd(length, "中");
}

function bytesOf(messages: readonly string[]): number {
  return messages.reduce((sum, text) => sum + encoder.encode(text).length, 0) +
    messages.length;
}

/** Asserts that so many messages are what the limit lets wait, and no fewer. */
function assertLimited(waiting: readonly string[], next: string): void {
  const bytes = bytesOf(waiting);
  const what = `${waiting.length} messages of ${bytes} bytes`;
  assert(bytes <= LIMIT, `${what} are too many`);
  const more = [...waiting, next];
  assert(
    bytesOf(more) + more.length * MAX_OVERHEAD_BYTES > LIMIT,
    `${what} are too few`,
  );
}

/** Reads exactly these messages. */
async function assertReads(
  { conn }: Peer,
  messages: readonly string[],
): Promise<void> {
  const bytes = new Uint8Array(bytesOf(messages));
  for (let at = 0; at < bytes.length;) {
    const count = await conn.read(bytes.subarray(at));
    assert(count !== null, `cut off after ${at} bytes`);
    at += count;
  }
  const expected = messages.map((text) => text + TERMINATOR).join("");
  assert(new TextDecoder().decode(bytes) === expected, "other messages");
}

type Push = (
  server: TCPServer,
  peer: Peer,
  message: string,
) => Promise<unknown>;

const push: Push = (server, { address }, message) =>
  server.send(message, address);
const pushToAll: Push = (server, _, message) => server.sendToAll(message);
const pushBoth: Push = (server, peer, message) =>
  (sequence(message) % 2 ? push : pushToAll)(server, peer, message);

const PUSHES: [what: string, one: Push][] = [
  ["TCPServer.send()", push],
  ["TCPServer.sendToAll()", pushToAll],
  ["TCPServer.send() and sendToAll()", pushBoth],
];

for (const [what, one] of PUSHES) {
  for (const length of LENGTHS) {
    for (const busy of [false, true]) {
      const when = busy ? "while a write is under way" : "with nothing before";
      test(`${what} in one turn counts the bytes of ${length} Chinese characters, ${when}`, async () => {
        await using served = new Served(undefined, {
          maxSendBufferBytes: LIMIT,
        });
        const { server } = served;
        using peer = await served.known();
        const first = busy ? outcome(server.send("中", peer.address)) : null;
        // No turn of the event loop: the write has begun, and cannot have ended.
        for (let n = 0; n < 10; n++) await null;
        const waiting: string[] = [];
        const sent: Promise<unknown>[] = [];
        for (let n = 0; n <= LIMIT / length; n++) {
          const message = text(n, length);
          sent.push(outcome(one(server, peer, message)));
          if (server.stats.slowClientsDropped > 0) break;
          waiting.push(message);
        }
        assertEquals(server.stats.slowClientsDropped, 1);
        assertLimited(waiting, text(waiting.length, length));
        await Promise.all(sent);
        await first;
        const [client, error] = await served.disconnected.next();
        assertEquals(client, peer.address);
        assertInstanceOf(error, Error);
        assertEquals(server.getConnectedClients(), []);
      });
    }
  }
}

test("TCPServer.send() in one turn refuses nothing that fits, in whatever characters", async () => {
  await using served = new Served(undefined, { maxSendBufferBytes: LIMIT });
  const { server } = served;
  using peer = await served.known();
  const messages: string[] = [];
  for (let n = 0;; n++) {
    const unit = ["x", "é", "中", "😀"][n % 4] ?? "";
    const message = `${n} ${unit.repeat(n * 37 % 6_000)}`;
    const more = [...messages, message];
    if (bytesOf(more) + more.length * MAX_OVERHEAD_BYTES > LIMIT) break;
    messages.push(message);
  }
  const sent = messages.map((message) => server.send(message, peer.address));
  await assertReads(peer, messages);
  await Promise.all(sent);
  assertEquals(server.stats.bytesOut, bytesOf(messages));
});

/** Sends more in one turn than may wait; returns what does, and its promises. */
async function fill(
  client: TCPClient,
  length: number,
): Promise<[waiting: string[], sent: Promise<void>[]]> {
  const tries = Array.from(
    { length: Math.ceil(LIMIT / length) },
    (_, n) => text(n, length),
  );
  const refused: unknown[] = [];
  const sent = tries.map((message) => send(client, message));
  for (const promise of sent) promise.catch((error) => refused.push(error));
  await turn();
  for (const error of refused) {
    assertInstanceOf(error, CommunicationError);
    assertNotInstanceOf(error, ClosedError);
  }
  // Those that came first wait.
  const count = tries.length - refused.length;
  return [tries.slice(0, count), sent.slice(0, count)];
}

for (const length of LENGTHS) {
  test(`TCPClient.send() with reconnect in one turn without a connection counts the bytes of ${length} Chinese characters`, async () => {
    await using line = new Line();
    const { client } = await line.strand({ maxSendBufferBytes: LIMIT });
    const [waiting, sent] = await fill(client, length);
    assertLimited(waiting, text(waiting.length, length));
    line.open();
    const peer = await soon(line.accept(), "the next connection");
    await assertReads(peer, waiting);
    await Promise.all(sent);
  });
}

/** Reads up to the end of a message that nothing comes behind. */
async function readUpTo({ conn }: Peer, last: string): Promise<void> {
  const decoder = new TextDecoder();
  const room = new Uint8Array(64 * KIB);
  for (let end = ""; !end.endsWith(last + TERMINATOR);) {
    const count = await conn.read(room);
    assert(count !== null, `cut off before ${last}`);
    const text = decoder.decode(room.subarray(0, count), { stream: true });
    end = (end + text).slice(-last.length - 1);
  }
}

test("TCPClient.send() with reconnect has all of its room again after connections that cut what leaves in one write", async () => {
  await using line = new Line();
  const { client, peer, gone } = await line.connect({
    reconnect: SOON,
    maxSendBufferBytes: LIMIT,
  });
  // In all more than the kernels hold, so that some of them have left in a write, and some not.
  const count = 85_000;
  const last = `${count - 1} `.padEnd(200);
  let connected = peer;
  for (let round = 0; round < 4; round++) {
    const sent = outcomes(
      Array.from({ length: count }, (_, n) => client.send(`${n} `.padEnd(200))),
    );
    await connected.conn.read(new Uint8Array(1));
    await turn();
    connected.conn.close();
    await soon(gone.next(), "the loss of the connection");
    connected = await soon(line.accept(), "the next connection");
    await readUpTo(connected, last);
    assert((await sent).every((one) => one === undefined));
  }
  line.close();
  connected.conn.close();
  await soon(gone.next(), "the end of the connection");
  const [waiting, all] = await fill(client, 15_000);
  assertLimited(waiting, text(waiting.length, 15_000));
  line.open();
  connected = await soon(line.accept(), "the next connection");
  await assertReads(connected, waiting);
  await Promise.all(all);
});
