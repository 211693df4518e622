// Why: what several sides do with bare bytes: making, writing and checking them.

import { Buffer } from "node:buffer";
import { END, readMessages } from "./_messages.ts";

/** How messages are on the wire: our way, as lines, or as WebSocket frames of either side. */
export type Wire = "frames" | "lines" | "from client" | "from server";

/** Bytes in one write, at least, where there is no reason to write fewer. */
const WRITE_BYTES = 262_144;

/** The messages of a file as bytes that are sent again and again. */
export interface Cycle {
  bytes: Uint8Array<ArrayBuffer>;
  /** Bytes of one message. */
  each: number;
}

export function makeCycle(file: string, wire: Wire): Cycle {
  const encoder = new TextEncoder();
  const parts = readMessages(file).map((message): Uint8Array => {
    if (wire === "frames") return encoder.encode(message + END);
    if (wire === "lines") return encoder.encode(message + "\n");
    return webSocketFrame(encoder.encode(message), wire === "from client");
  });
  const once = Buffer.concat(parts);
  const times = Math.ceil(WRITE_BYTES / once.length);
  const bytes = new Uint8Array(once.length * times);
  for (let i = 0; i < times; i++) bytes.set(once, i * once.length);
  return { bytes, each: once.length / parts.length };
}

/** One text frame (RFC 6455, 5.2). A client's is masked, here with zeros. */
function webSocketFrame(payload: Uint8Array, masked: boolean): Uint8Array {
  const size = payload.length;
  const extra = size < 126 ? 0 : size < 65_536 ? 2 : 8;
  const header = new Uint8Array(2 + extra + (masked ? 4 : 0));
  const view = new DataView(header.buffer);
  view.setUint8(0, 0x81);
  view.setUint8(
    1,
    (masked ? 0x80 : 0) + (extra === 0 ? size : extra === 2 ? 126 : 127),
  );
  if (extra === 2) view.setUint16(2, size);
  if (extra === 8) view.setBigUint64(2, BigInt(size));
  return Buffer.concat([header, payload]);
}

/** Asks for a WebSocket, and reads the answer to its end. */
export async function upgrade(conn: Deno.Conn): Promise<void> {
  const request =
    "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n" +
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
  await writeAll(conn, new TextEncoder().encode(request));
  const byte = new Uint8Array(1);
  // A byte at a time, since frames may follow.
  for (let text = ""; !text.endsWith("\r\n\r\n");) {
    if (await conn.read(byte) === null) {
      throw new Error(`No WebSocket: ${text}`);
    }
    text += String.fromCharCode(byte[0] ?? 0);
  }
}

export async function writeAll(
  conn: Deno.Conn,
  bytes: Uint8Array,
): Promise<void> {
  for (let rest = bytes; rest.length > 0;) {
    rest = rest.subarray(await conn.write(rest));
  }
}

/** Writes so many messages, in pieces of so many bytes (0: large ones). */
export async function writeCycle(
  conn: Deno.Conn,
  { bytes, each }: Cycle,
  count: number,
  piece = 0,
): Promise<void> {
  const most = piece || bytes.length;
  let at = 0;
  for (let left = count * each; left > 0;) {
    const part = bytes.subarray(at, at + Math.min(left, most));
    await writeAll(conn, part);
    left -= part.length;
    at = (at + part.length) % bytes.length;
  }
}

/** Checks that what arrives is the bytes of a cycle. */
export class Checker {
  readonly #bytes: Uint8Array;
  #at = 0;
  /** Bytes that arrived. */
  count = 0;
  /** Bytes in chunks that were not right. */
  wrong = 0;

  constructor({ bytes }: Cycle) {
    this.#bytes = bytes;
  }

  add(chunk: Uint8Array): void {
    this.count += chunk.length;
    for (let rest = chunk; rest.length > 0;) {
      const expected = this.#bytes.subarray(this.#at, this.#at + rest.length);
      const part = rest.subarray(0, expected.length);
      if (Buffer.compare(part, expected) !== 0) this.wrong += part.length;
      rest = rest.subarray(part.length);
      this.#at = (this.#at + part.length) % this.#bytes.length;
    }
  }
}

/** Reads so many bytes, or to the end, and checks them. */
export async function readCycle(
  conn: Deno.Conn,
  checker: Checker,
  bytes = Infinity,
): Promise<void> {
  const buffer = new Uint8Array(Math.min(bytes, 65_536));
  for (let left = bytes; left > 0;) {
    const count = await conn.read(buffer);
    if (count === null) return;
    checker.add(buffer.subarray(0, count));
    left -= count;
  }
}

/** Ends a connection in order: the peer has all, and nothing is cut off. */
export async function closeInOrder(conn: Deno.TcpConn): Promise<void> {
  try {
    await conn.closeWrite();
    const buffer = new Uint8Array(1024);
    while (await conn.read(buffer) !== null);
  } catch (error) {
    if (!isGone(error)) throw error;
  }
  conn.close();
}

/** Whether the other side was faster. */
export function isGone(error: unknown): boolean {
  return error instanceof Deno.errors.ConnectionReset ||
    error instanceof Deno.errors.BrokenPipe ||
    error instanceof Deno.errors.NotConnected ||
    error instanceof Deno.errors.BadResource ||
    error instanceof Deno.errors.Interrupted;
}

export const HOST = "127.0.0.1";

/** Connects, without Nagle's algorithm. */
export async function dial(port: number): Promise<Deno.TcpConn> {
  const conn = await Deno.connect({ hostname: HOST, port });
  conn.setNoDelay(true);
  return conn;
}
