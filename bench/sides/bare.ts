// Why: the limit of Deno: loops over its own sockets that do the least a side
// must do, and the streams that a Deno user would write instead.

import { ASK, END, readMessages, Tally } from "./_messages.ts";
import { FILE, HOST, MODE, serve, WIRE } from "./_side.ts";

const ROOM_BYTES = 65_536;
const END_BYTE = END.charCodeAt(0);

const encoder = new TextEncoder();
const messages = readMessages(FILE);
const conns = new Set<Deno.TcpConn>();
let sent = 0;

function next(): Uint8Array<ArrayBuffer> {
  return encoder.encode(messages[sent++ % messages.length] + END);
}

async function write(conn: Deno.Conn, bytes: Uint8Array): Promise<void> {
  let written = await conn.write(bytes);
  while (written < bytes.length) {
    written += await conn.write(bytes.subarray(written));
  }
}

/** Gives the whole messages of each read: decoded at once, split, and nothing else. */
async function reads(
  conn: Deno.Conn,
  use: (messages: string[]) => Promise<unknown> | undefined,
): Promise<void> {
  const decoder = new TextDecoder();
  let room = new Uint8Array(ROOM_BYTES);
  let have = 0; // bytes of a message that has not ended
  for (let size; (size = await conn.read(room.subarray(have))) !== null;) {
    const all = have + size;
    const end = room.lastIndexOf(END_BYTE, all - 1);
    if (end >= have) {
      const work = use(decoder.decode(room.subarray(0, end)).split(END));
      if (work) await work;
      room.copyWithin(0, end + 1, all);
      have = all - end - 1;
    } else have = all;
    if (have < room.length) continue;
    const larger = new Uint8Array(2 * room.length);
    larger.set(room);
    room = larger;
  }
}

/** Calls nobody: only the lengths of the arrays are added up. */
function count(conn: Deno.TcpConn): Promise<void> {
  let count = 0;
  return reads(conn, (parts) => {
    count += parts.length;
    if (parts.at(-1) !== ASK) return;
    const report = `${count - 1}${END}`;
    count = 0;
    return write(conn, encoder.encode(report));
  });
}

/** Joins, and writes once for each read. */
function echo(conn: Deno.TcpConn): Promise<void> {
  return reads(
    conn,
    (parts) => write(conn, encoder.encode(parts.join(END) + END)),
  );
}

/** Messages that the large writes of `send-many` hold. */
const JOINED = 1000;

async function sendMany(conn: Deno.TcpConn, many: number): Promise<void> {
  for (let left = many; left > 0; left -= JOINED) {
    const some = Array.from(
      { length: Math.min(left, JOINED) },
      () => messages[sent++ % messages.length] + END,
    );
    await write(conn, encoder.encode(some.join("")));
  }
}

function send(conn: Deno.TcpConn): Promise<void> {
  return reads(conn, async (orders) => {
    for (const order of orders) {
      if (MODE === "send-many") await sendMany(conn, Number(order));
      else for (let i = 0; i < Number(order); i++) await writeToAll(next());
    }
  });
}

async function writeToAll(bytes: Uint8Array): Promise<void> {
  await Promise.all(Array.from(conns, (conn) => write(conn, bytes)));
}

/** As `count`, by streams. */
async function countByStreams(conn: Deno.TcpConn): Promise<void> {
  let rest = "";
  const split = new TransformStream<string, string>({
    transform(text, controller) {
      const parts = (rest + text).split(END);
      rest = parts.pop() ?? "";
      for (const part of parts) controller.enqueue(part);
    },
  });
  const tally = new Tally();
  const all = conn.readable.pipeThrough(new TextDecoderStream())
    .pipeThrough(split);
  const writer = conn.writable.getWriter();
  for await (const message of all) {
    if (message !== ASK) tally.add(message);
    else await writer.write(encoder.encode(tally.report() + END));
  }
}

const MODES: Record<string, (conn: Deno.TcpConn) => Promise<void>> = {
  "count": count,
  "echo": echo,
  "send": send,
  "send-each": send,
  "send-many": send,
  "streams": countByStreams,
};

/** Works for a connection until the load generator is gone. */
async function work(conn: Deno.TcpConn): Promise<void> {
  conn.setNoDelay(true);
  conns.add(conn);
  await MODES[MODE]?.(conn).catch(() => {});
  conns.delete(conn);
}

async function accept(listener: Deno.TcpListener): Promise<void> {
  for await (const conn of listener) work(conn);
}

async function echoDatagrams(socket: Deno.DatagramConn): Promise<void> {
  const room = new Uint8Array(ROOM_BYTES);
  while (true) {
    const [datagram, sender] = await socket.receive(room);
    await socket.send(datagram, sender);
  }
}

const here = { hostname: HOST, port: WIRE };
if (MODE === "udp") {
  echoDatagrams(Deno.listenDatagram({ ...here, transport: "udp" }));
} else if (MODE.startsWith("send-")) {
  work(await Deno.connect(here));
} else {
  accept(Deno.listen(here));
}
await serve();
