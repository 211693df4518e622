// Why: what a server holds for clients that take nothing is seen only in a process of
// its own, with memory that nothing else uses and a collection that can be forced.

import { setImmediate } from "node:timers";
import { type Address, createTcpServer, type TCPServer } from "../../mod.ts";
import { freePort } from "../_ports.ts";

/** How messages come to wait. */
export type How =
  | "send"
  | "sendToAll"
  | "replies"
  | "mix"
  | "beside traffic"
  | "forwarded slices"
  | "replied slices";

/** What is tried. */
export interface Case {
  how: How;
  /** How many clients take nothing. */
  clients: number;
  /** Bytes of a message. */
  size: number;
  /** Whether each push has a turn of the event loop of its own. */
  turns: boolean;
  /** `maxSendBufferBytes`. */
  limit: number;
  /** Bytes of the ASCII messages that slices are cut from, if not those of {@linkcode LONG}. */
  parent?: number;
}

/** What was seen. */
export interface Seen {
  /** How many messages were pushed to each client when one was dropped, or no more came. */
  pushes: number;
  /** The most that was held meanwhile, in bytes of heap and external memory. */
  peak: number;
  dropped: number;
}

/** Enough for every limit, so that a server that counts too little ends in time. */
const MAX_PUSHES = 500_000;
/** Turns without another message after which a client is read no further. */
const STILL_TURNS = 50;
const LONG_BYTES = 65_536;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Lets everything run that can. */
const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** A string of its own, in one piece. */
function text(n: number, size: number): string {
  return decoder.decode(encoder.encode(`${n}`.padStart(size, "0")));
}

function used(): number {
  const { gc } = globalThis as { gc?: () => void };
  if (!gc) throw new Error("Run with --v8-flags=--expose-gc");
  // What the first one finds of array buffers is freed beside it, and counts until then.
  gc();
  gc();
  const { heapUsed, external } = Deno.memoryUsage();
  return heapUsed + external;
}

/** Makes writes to clients stay under way for ever, as to those whose buffers are full. */
class Stuck {
  /** By their own ports. */
  readonly healthy = new Set<number>();
  /** What is under way stays in memory with whoever waits for it, as Deno's does. */
  readonly #writes = new Map<object, [Uint8Array, Promise<never>]>();

  constructor(conn: Deno.TcpConn, wire: number) {
    let owner: object = conn;
    while (!Object.hasOwn(owner, "write")) owner = Object.getPrototypeOf(owner);
    const write: Deno.TcpConn["write"] = Reflect.get(owner, "write");
    const { healthy } = this;
    const writes = this.#writes;
    const patched = function (this: Deno.TcpConn, data: Uint8Array) {
      const isServers = this.localAddr.port === wire;
      if (!isServers || healthy.has(this.remoteAddr.port)) {
        return write.call(this, data);
      }
      const { promise } = Promise.withResolvers<never>();
      writes.set(this, [data, promise]);
      return promise;
    };
    Reflect.set(owner, "write", patched);
  }
}

/** A client without anything of the module. */
class Raw {
  readonly conn: Deno.TcpConn;

  constructor(conn: Deno.TcpConn) {
    this.conn = conn;
  }

  get port(): number {
    return this.conn.localAddr.port;
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let rest = bytes; rest.length > 0;) {
      rest = rest.subarray(await this.conn.write(rest));
    }
  }

  async drain(): Promise<void> {
    const buffer = new Uint8Array(LONG_BYTES);
    while (await this.conn.read(buffer) !== null);
  }
}

const ASK = encoder.encode("ask\x03");
/** A message that slices are cut from. */
const LONG = encoder.encode(`${"中".repeat(LONG_BYTES / 3)}\x03`);

/** A server with clients that take nothing, and one that takes everything. */
class Load {
  readonly #case: Case;
  readonly #server: TCPServer;
  readonly #wire: number;
  readonly #stuck: Raw[] = [];
  readonly #long: Uint8Array<ArrayBuffer>;
  #addresses: readonly Address[] = [];
  #healthy: Raw | undefined;
  #healthyAddress: Address | undefined;
  #next = 0;
  #read = true;

  constructor(one: Case) {
    this.#case = one;
    this.#long = one.parent === undefined
      ? LONG
      : encoder.encode("0123456789abcdef".repeat(one.parent / 16) + "\x03");
    const port = freePort();
    this.#wire = port.wire;
    const { limit: maxSendBufferBytes } = one;
    this.#server = createTcpServer(port.port, (message) => {
      return this.#called(message);
    }, { hostname: "127.0.0.1", maxSendBufferBytes });
  }

  async connect(): Promise<void> {
    const healthy = this.#healthy = await this.#raw();
    new Stuck(healthy.conn, this.#wire).healthy.add(healthy.port);
    healthy.drain().catch(() => {});
    for (let n = 0; n < this.#case.clients; n++) {
      this.#stuck.push(await this.#raw());
    }
    let addresses: Address[] = [];
    while (addresses.length <= this.#case.clients) {
      await turn();
      addresses = this.#server.getConnectedClients();
    }
    const isHealthy = ([, port]: Address) => port === healthy.port;
    this.#healthyAddress = addresses.find(isHealthy);
    this.#addresses = addresses.filter((address) => !isHealthy(address));
  }

  async #raw(): Promise<Raw> {
    const where = { hostname: "127.0.0.1", port: this.#wire };
    return new Raw(await Deno.connect(where));
  }

  get dropped(): number {
    return this.#server.stats.slowClientsDropped;
  }

  get #text(): string {
    return text(this.#next++, this.#case.size);
  }

  #called(message: string): string | undefined {
    const { how, size } = this.#case;
    if (how === "replies" || how === "mix") return this.#text;
    if (how === "replied slices") return message.slice(0, size);
    if (how === "forwarded slices") {
      for (const address of this.#addresses) {
        this.#server.send(message.slice(0, size), address);
      }
    }
  }

  /** Has one more message wait for each client; false where no more will. */
  push(n: number): Promise<boolean> | void {
    switch (this.#case.how) {
      case "send":
        return this.#send();
      case "sendToAll":
        return void this.#server.sendToAll(this.#text);
      case "replies":
        return this.#ask(ASK);
      case "replied slices":
        return this.#ask(this.#long);
      case "forwarded slices":
        return this.#forward();
      case "beside traffic":
        return this.#besideTraffic();
      case "mix":
        if (n % 3 === 0) return this.#send();
        if (n % 3 === 1) return void this.#server.sendToAll(this.#text);
        return this.#askWhileRead();
    }
  }

  #send(): void {
    // Not awaited, as a script does that does not care.
    for (const address of this.#addresses) {
      this.#server.send(this.#text, address);
    }
  }

  /** Has every client ask for a reply; false where it is read no further. */
  async #ask(bytes: Uint8Array): Promise<boolean> {
    const before = this.#server.stats.messagesIn;
    const due = before + this.#stuck.length;
    Promise.all(this.#stuck.map((raw) => raw.write(bytes))).catch(() => {});
    for (let seen = before, still = 0; seen < due; still++) {
      await new Promise((resolve) => setTimeout(resolve, 1));
      const { messagesIn } = this.#server.stats;
      if (messagesIn > seen) still = 0;
      if (still > STILL_TURNS) return false;
      seen = messagesIn;
    }
    return true;
  }

  /** Asks until it is read no further; then the other ways go on. */
  async #askWhileRead(): Promise<boolean> {
    if (this.#read) this.#read = await this.#ask(ASK);
    return true;
  }

  async #forward(): Promise<boolean> {
    const due = this.#server.stats.messagesIn + 1;
    await this.#healthy?.write(this.#long);
    while (this.#server.stats.messagesIn < due) await turn();
    return true;
  }

  async #besideTraffic(): Promise<boolean> {
    this.#send();
    // As much as any buffer that messages could share.
    for (let n = 0; n < 4 && this.#healthyAddress; n++) {
      await this.#server.send(text(n, LONG_BYTES / 4), this.#healthyAddress);
    }
    return true;
  }
}

/** Pushes until a client is dropped, and looks every now and then. */
async function measure(one: Case): Promise<Seen> {
  const load = new Load(one);
  await load.connect();
  const bound = 2 * one.clients * one.limit;
  const step = Math.max(1, Math.floor(one.limit / (one.size + 1024) / 6));
  for (let n = 0; n < 10; n++) await turn();
  used();
  const before = used();
  let peak = 0;
  let pushes = 0;
  while (load.dropped === 0 && pushes < MAX_PUSHES && peak <= bound) {
    const more = load.push(pushes);
    if (more && !await more) break;
    pushes++;
    if (one.turns) await turn();
    if (pushes % step !== 0) continue;
    // What waits is encoded once it has waited for a moment.
    if (one.turns) await new Promise((resolve) => setTimeout(resolve, 5));
    peak = Math.max(peak, used() - before);
  }
  peak = Math.max(peak, used() - before);
  return { pushes, peak, dropped: load.dropped };
}

if (import.meta.main) {
  // What was not awaited rejects when its client is dropped.
  addEventListener("unhandledrejection", (event) => event.preventDefault());
  const one: Case = JSON.parse(Deno.args[0] ?? "");
  console.log(JSON.stringify(await measure(one)));
  Deno.exit();
}
