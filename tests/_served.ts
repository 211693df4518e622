// Why: tests of faults need a server whose callbacks can be awaited, and peers
// that misbehave to the byte.

import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import { deadline, delay } from "@std/async";
import { connect } from "node:net";
import {
  type Address,
  createTcpClient,
  createTcpServer,
  type MessageCallback,
  type TCPClient,
  type TCPClientOptions,
  type TCPServer,
  type TCPServerOptions,
} from "../mod.ts";
import { HERE, LOOPBACK, onLinux } from "./_machine.ts";
import { freePort } from "./_ports.ts";

export { HERE, LOOPBACK, onLinux };
export const TERMINATOR = "\x03";
export const KIB = 1024;
export const MIB = KIB * KIB;

/** How long a test may take, in milliseconds; only a failure takes so long. */
const LIMIT = 60_000;

const encoder = new TextEncoder();

/** A test that fails where it would hang, with what went wrong first. */
export function test(
  name: string,
  body: () => Promise<void>,
  options: Pick<Deno.TestDefinition, "ignore" | "permissions"> = {},
): void {
  const fn = async () => {
    try {
      await deadline(body(), LIMIT);
    } catch (error) {
      // What went wrong first says more than what that led to.
      throw error instanceof SuppressedError ? error.suppressed : error;
    }
  };
  Deno.test({ ...options, name, fn });
}

/** What callbacks were called with, to be awaited. */
export class Queue<T> {
  readonly all: T[] = [];
  #taken = 0;
  #wake = () => {};

  put(item: T): void {
    this.all.push(item);
    this.#wake();
  }

  async next(): Promise<T> {
    while (this.#taken === this.all.length) {
      await new Promise<void>((resolve) => this.#wake = resolve);
    }
    return this.all[this.#taken++] as T;
  }

  rest(): T[] {
    const rest = this.all.slice(this.#taken);
    this.#taken = this.all.length;
    return rest;
  }
}

/** One end of a connection, without anything of the module. */
export class Peer<C extends Deno.TcpConn | Deno.TlsConn = Deno.TcpConn>
  implements Disposable {
  readonly conn: C;
  /** As the other end names it. */
  readonly address: Address;
  readonly #decoder = new TextDecoder();
  #text = "";

  constructor(conn: C) {
    this.conn = conn;
    const { hostname, port } = conn.localAddr as Deno.NetAddr;
    this.address = [hostname, port];
  }

  async write(data: string | Uint8Array): Promise<void> {
    let rest = typeof data === "string" ? encoder.encode(data) : data;
    while (rest.length > 0) {
      rest = rest.subarray(await this.conn.write(rest));
    }
  }

  /** The next message, or null at the end. */
  async read(): Promise<string | null> {
    let end: number;
    while ((end = this.#text.indexOf(TERMINATOR)) < 0) {
      if (!await this.#more()) return null;
    }
    const message = this.#text.slice(0, end);
    this.#text = this.#text.slice(end + 1);
    return message;
  }

  /** All messages up to the end; so slowly, if a pause after each read is given. */
  async messages(pause?: number): Promise<string[]> {
    while (await this.#more()) {
      if (pause !== undefined) await delay(pause);
    }
    const messages = this.#text.split(TERMINATOR);
    assertEquals(messages.pop(), "", "the last message is whole");
    return messages;
  }

  /** Whether the other end is gone, in order or not; drops what still comes. */
  async ended(): Promise<true> {
    try {
      while (await this.#more());
    } catch (error) {
      const isTls = "handshake" in this.conn;
      assertInstanceOf(error, isTls ? Error : Deno.errors.ConnectionReset);
    }
    return true;
  }

  [Symbol.dispose](): void {
    try {
      this.conn.close();
    } catch {
      // The test has closed it.
    }
  }

  async #more(): Promise<boolean> {
    const buffer = new Uint8Array(128 * KIB);
    const count = await this.conn.read(buffer);
    if (count === null) return false;
    const bytes = buffer.subarray(0, count);
    this.#text += this.#decoder.decode(bytes, { stream: true });
    return true;
  }
}

/** A raw peer that can have a port of its own, as controllers do, and can break off. */
export interface Bound extends AsyncDisposable {
  write(text: string): void;
  /** The next message. */
  read(): Promise<string>;
  /** Ends its side, as `shutdown` does. */
  end(): void;
  /** Breaks off with nothing but a reset, where `Deno.Conn` ends its side first. */
  reset(): Promise<void>;
}

/** Connects from a port, 0 for any, to one of any address of this machine. */
export async function connectFrom(
  localPort: number,
  port: number,
  host: string = LOOPBACK,
): Promise<Bound> {
  const socket = connect({
    host,
    port,
    localAddress: LOOPBACK,
    localPort,
    allowHalfOpen: true,
  });
  await new Promise<void>((resolve, reject) => {
    socket.once("connect", resolve);
    socket.once("error", reject);
  });
  socket.on("error", () => {});
  const gone = async (leave: () => void) => {
    if (socket.destroyed) return;
    const closed = new Promise<void>((done) => socket.once("close", done));
    leave();
    await closed;
  };
  let text = "";
  return {
    write: (text) => void socket.write(text),
    async read() {
      let end: number;
      while ((end = text.indexOf(TERMINATOR)) < 0) {
        text += await new Promise<string>((resolve) => {
          socket.once("data", (bytes) => {
            socket.pause();
            resolve(String(bytes));
          });
          socket.resume();
        });
      }
      const message = text.slice(0, end);
      text = text.slice(end + 1);
      return message;
    },
    end: () => void socket.end(),
    reset: () => gone(() => socket.resetAndDestroy()),
    [Symbol.asyncDispose]: () => gone(() => socket.destroy()),
  };
}

export const echo: MessageCallback = (message) => message;

/** A server on a free port, and what its callbacks were called with. */
export class Served implements AsyncDisposable {
  readonly server: TCPServer;
  readonly connected = new Queue<Address>();
  readonly disconnected = new Queue<[Address, Error | undefined]>();
  readonly errors = new Queue<[Error, Address | undefined]>();
  readonly #free = freePort();

  constructor(callback?: MessageCallback, options: TCPServerOptions = {}) {
    try {
      this.server = createTcpServer(this.port, callback, {
        ...HERE,
        onConnect: (client) => this.connected.put(client),
        onDisconnect: (...args) => this.disconnected.put([args[0], args[1]]),
        onError: (...args) => this.errors.put([args[0], args[1]]),
        ...options,
      });
    } catch (error) {
      this.#free[Symbol.dispose]();
      throw error;
    }
  }

  get port(): number {
    return this.#free.port;
  }

  get wire(): number {
    return this.#free.wire;
  }

  /** How errors name it. */
  get name(): string {
    return `${LOOPBACK}:${this.port} (wire port ${this.wire})`;
  }

  client(options?: TCPClientOptions): Promise<TCPClient> {
    return createTcpClient(LOOPBACK, this.port, options);
  }

  async peer(): Promise<Peer> {
    return new Peer(await Deno.connect({ ...HERE, port: this.wire }));
  }

  /** A raw peer and the server's address for it, known to the server already. */
  async known(): Promise<Peer> {
    const peer = await this.peer();
    assertEquals(await this.connected.next(), peer.address);
    return peer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.stop();
    this.#free[Symbol.dispose]();
    assertEquals(this.errors.rest(), [], "nothing but the expected errors");
  }
}

export async function ask(
  client: TCPClient,
  message: string,
): Promise<string | null> {
  await client.send(message);
  return await client.receive();
}

/** How a promise ended. */
export function outcome(promise: Promise<unknown>): Promise<unknown> {
  return promise.then((value) => value, (error) => error);
}

/** How each of the promises ended. */
export function outcomes(
  promises: Iterable<Promise<unknown>>,
): Promise<unknown[]> {
  return Promise.all(Array.from(promises, outcome));
}

/** A bad argument as an error must show it. */
export function shown(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value === "function") return "a function";
  if (Array.isArray(value)) return "an array";
  return typeof value === "object" && value !== null
    ? "an object"
    : String(value);
}

/** Takes what goes to console.error meanwhile. */
export function captureConsole(): Disposable & { calls: unknown[][] } {
  const original = console.error;
  const calls: unknown[][] = [];
  console.error = (...args: unknown[]) => void calls.push(args);
  return { calls, [Symbol.dispose]: () => void (console.error = original) };
}

/** Lets the event loop turn until something holds that nothing tells of. */
export async function until(condition: () => boolean): Promise<void> {
  const end = performance.now() + LIMIT / 2;
  while (!condition()) {
    assert(performance.now() < end, `waited too long for ${condition}`);
    await delay(1);
  }
}

/** Waits until a count stands still for so many ticks, in each of which something is at work. */
export async function standstill(
  count: () => number,
  tick: () => Promise<unknown>,
  ticks = 100,
): Promise<void> {
  for (let seen = -1, still = 0; still < ticks;) {
    await tick();
    const now = count();
    still = seen === now ? still + 1 : 0;
    seen = now;
  }
}

/** Asserts that an echo server reads no further from a peer that reads nothing, and loses nothing. */
export async function assertHeldBack(
  greedy: Peer<Deno.TcpConn | Deno.TlsConn>,
  other: TCPClient,
): Promise<void> {
  const limit = 256 * KIB; // messages of 1 KiB: no kernel holds as much
  let sent = 0;
  let enough = false;
  const write = async () => {
    while (!enough && sent < limit) {
      let text = "";
      for (let n = 0; n < 64; n++) {
        text += `${sent + n}`.padStart(KIB - 1) + TERMINATOR;
      }
      await greedy.write(text);
      sent += 64;
    }
    await greedy.conn.closeWrite();
  };
  const writing = write();
  // The other client is the clock: the server is at work, and takes no more.
  await standstill(
    () => sent,
    async () => assertEquals(await ask(other, "tick"), "tick"),
  );
  assert(sent < limit, "it is read without bound");
  enough = true;
  let received = 0;
  for (let text; (text = await greedy.read()) !== null; received++) {
    assertEquals(Number(text), received);
  }
  await writing;
  assertEquals(received, sent);
}

/** Says what docs/reliability.md tells as seen, to whoever asks for it. */
export function figure(text: string): void {
  if (Deno.env.has("DAYSTAR_FIGURES")) console.log(`    ${text}`);
}
