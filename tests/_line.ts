// Why: tests of a client that loses its connection need a server made of bare
// sockets, which goes away, comes back, cuts and resets when the test says so.

import { assert, assertEquals, assertRejects } from "@std/assert";
import { deadline } from "@std/async";
import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";
import {
  ClosedError,
  createTcpClient,
  type TCPClient,
  type TCPClientOptions,
} from "../mod.ts";
import { type FreePort, freePort } from "./_ports.ts";
import { HERE, LOOPBACK, MIB, Peer, Queue } from "./_served.ts";

/** Reconnects as fast as it can, so that tests are fast. */
export const SOON = { firstDelay: 1, maxDelay: 10, jitter: 0 };
/** A pause that no test lives to see the end of. */
export const NEVER = { firstDelay: 3_600_000, maxDelay: 3_600_000 };

/** How long an event may take, in milliseconds; only a failure takes so long. */
const SOON_MS = 10_000;

/** Fails with `what` where an event does not come. */
export async function soon<T>(promise: Promise<T>, what: string): Promise<T> {
  try {
    return await deadline(promise, SOON_MS);
  } catch (error) {
    if (!(error instanceof DOMException)) throw error;
    throw new Error(`Never came: ${what}`, { cause: error });
  }
}

/** More than the buffers of both kernels hold. */
export const LONG = "0123456789abcdef".repeat(MIB);
export const ROOM = { maxMessageBytes: LONG.length };

/** The next message of a peer to which the client sends nothing behind it. */
export async function readLong({ conn }: Peer): Promise<string> {
  const bytes = new Uint8Array(LONG.length + 1);
  let at = 0;
  do {
    const count = await conn.read(bytes.subarray(at));
    assert(count !== null, `cut off after ${at} bytes`);
    at += count;
  } while (bytes[at - 1] !== 3);
  return new TextDecoder().decode(bytes.subarray(0, at - 1));
}

/** One turn of the event loop. */
export function turn(ms = 0): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Sends a message of which a test that fails first need not see the end. */
export function send(client: TCPClient, message: string): Promise<void> {
  const sent = client.send(message);
  sent.catch(() => {});
  return sent;
}

/** The number that a message begins with. */
export function sequence(message: string): number {
  return Number(message.split(" ", 1)[0]);
}

/** What a test aborts and throws with. */
export class Reason extends Error {
  override name = "Reason";
}

/** A server made of bare sockets; ends its clients with the test, also one that fails. */
export class Line implements AsyncDisposable {
  readonly free: FreePort = freePort();
  readonly #clients: TCPClient[] = [];
  readonly #peers: Peer[] = [];
  #listener: Deno.TcpListener | undefined;

  constructor() {
    this.open();
  }

  open(): void {
    this.#listener = Deno.listen({ ...HERE, port: this.free.wire });
  }

  /** Refuses new connections; those there are stay. */
  close(): void {
    this.#listener?.close();
    this.#listener = undefined;
  }

  async accept(): Promise<Peer> {
    assert(this.#listener);
    const peer = new Peer(await this.#listener.accept());
    this.#peers.push(peer);
    return peer;
  }

  /** Connects a client, and returns the other end and what the client tells too. */
  async connect(
    options: TCPClientOptions = {},
  ): Promise<
    { client: TCPClient; peer: Peer; gone: Queue<Error | undefined> }
  > {
    const gone = new Queue<Error | undefined>();
    const [client, peer] = await Promise.all([
      createTcpClient(LOOPBACK, this.free.port, {
        onDisconnect: (error) => gone.put(error),
        ...options,
      }),
      this.accept(),
    ]);
    this.#clients.push(client);
    return { client, peer, gone };
  }

  /** A client of a server that is not this line's own, but has its port. */
  async join(options: TCPClientOptions): Promise<TCPClient> {
    const client = await createTcpClient(LOOPBACK, this.free.port, options);
    this.#clients.push(client);
    return client;
  }

  /** A client with `reconnect` that has just lost its connection to a closed line. */
  async strand(
    options: TCPClientOptions = {},
  ): Promise<{ client: TCPClient; gone: Queue<Error | undefined> }> {
    const { client, peer, gone } = await this.connect({
      reconnect: SOON,
      ...options,
    });
    this.close();
    peer.conn.close();
    await soon(gone.next(), "the loss of the connection");
    return { client, gone };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = this.#clients.map((client) => client.disconnect());
    this.close();
    for (const peer of this.#peers) peer[Symbol.dispose]();
    await Promise.all(ended);
    this.free[Symbol.dispose]();
  }
}

/** A server whose connections can be reset, which Deno's own can't. */
export class ResettableLine implements AsyncDisposable {
  readonly free: FreePort;
  readonly #server: Server;
  readonly #clients: TCPClient[] = [];
  readonly #sockets = new Queue<Socket>();

  private constructor(free: FreePort, server: Server) {
    this.free = free;
    this.#server = server;
    server.on("connection", (socket: Socket) => {
      socket.on("error", () => {}); // a reset is one
      this.#sockets.put(socket);
    });
  }

  static async open(): Promise<ResettableLine> {
    const free = freePort();
    const server = createServer({ allowHalfOpen: true });
    const line = new ResettableLine(free, server);
    server.listen(free.wire, LOOPBACK);
    await once(server, "listening");
    return line;
  }

  accept(): Promise<Socket> {
    return this.#sockets.next();
  }

  /** Connects a client that is told of nothing but what `options` say. */
  async join(
    options: TCPClientOptions = {},
  ): Promise<{ client: TCPClient; socket: Socket }> {
    const [client, socket] = await Promise.all([
      createTcpClient(LOOPBACK, this.free.port, options),
      this.accept(),
    ]);
    this.#clients.push(client);
    return { client, socket };
  }

  async connect(
    options: TCPClientOptions = {},
  ): Promise<
    { client: TCPClient; socket: Socket; gone: Queue<Error | undefined> }
  > {
    const gone = new Queue<Error | undefined>();
    const onDisconnect = (error?: Error) => gone.put(error);
    return { ...await this.join({ onDisconnect, ...options }), gone };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = this.#clients.map((client) => client.disconnect());
    for (const socket of this.#sockets.all) socket.destroy();
    await Promise.all(ended);
    const closed = once(this.#server, "close");
    this.#server.close();
    await closed;
    this.free[Symbol.dispose]();
  }
}

/** Writes to a resettable socket until the kernel has it. */
export function put(socket: Socket, text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.write(text, (error) => error ? reject(error) : resolve());
  });
}

/** Resets a connection. */
export async function reset(socket: Socket): Promise<void> {
  const closed = once(socket, "close");
  socket.resetAndDestroy();
  await closed;
}

/** Sees each attempt to connect, how it ended, and what the kernel takes of each connection. */
export class Kernel implements Disposable {
  /** How many attempts there were. */
  attempts = 0;
  readonly ended = new Queue<"connected" | "failed">();
  /** The texts of the writes of each connection, as far as the kernel took them. */
  readonly writes: string[][] = [];
  readonly #connect = Deno.connect;

  /** @param gate What an attempt waits for; it then connects, aborted or not. */
  constructor(gate?: () => Promise<void>) {
    const original = this.#connect;
    const replacement = async (
      options: Deno.ConnectOptions,
    ): Promise<Deno.TcpConn> => {
      this.attempts++;
      await gate?.();
      const { signal, ...rest } = options;
      try {
        const conn = await original(gate || !signal ? rest : options);
        this.#watch(conn);
        this.ended.put("connected");
        return conn;
      } catch (error) {
        this.ended.put("failed");
        throw error;
      }
    };
    Deno.connect = replacement as typeof Deno.connect;
  }

  #watch(conn: Deno.TcpConn): void {
    const writes: string[] = [];
    this.writes.push(writes);
    const write = conn.write.bind(conn);
    const decoder = new TextDecoder("latin1");
    conn.write = async (bytes) => {
      const count = await write(bytes);
      writes.push(decoder.decode(bytes.subarray(0, count)));
      return count;
    };
  }

  [Symbol.dispose](): void {
    Deno.connect = this.#connect;
  }
}

/** Asserts that a client neither connects nor waits any more. */
export async function assertEnded(client: TCPClient): Promise<void> {
  assertEquals(client.connected, false);
  await Promise.all([
    assertRejects(() => client.send("late"), ClosedError),
    assertRejects(() => client.receive(), ClosedError),
  ]);
  await client.disconnect();
}
