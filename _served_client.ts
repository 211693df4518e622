// Copyright 2026 the Daystar authors. MIT license.

/**
 * One client of a server: its callback, replies, pushes and backpressure. And all of
 * them: who is connected, and waiting for those that get the same frame.
 */

import type { Address } from "./_address.ts";
import {
  Connection,
  type ConnectionOptions,
  LINGER_MS,
  type LinkEvents,
  type Received,
} from "./_connection.ts";
import { MessageTooLargeError, type Reports } from "./_errors.ts";
import { isPromise, show } from "./_options.ts";
import type { Batch, Watcher } from "./_outbox.ts";
import { within } from "./_time.ts";
import type { Conn } from "./_tls.ts";

/** Above this many unsent bytes a client is read no further. */
const HIGH_WATER_BYTES = 65_536;
/** How long stopping leaves to the peer at the least, after a callback that does not settle, in ms. */
const MIN_LINGER_MS = 100;
/** How long sendToAll() waits for slow clients, in ms. */
const PATIENCE_MS = 100;
/** How many calls of sendToAll() may wait at once. */
const MAX_ROUNDS = 100;

/**
 * What a {@linkcode MessageCallback} may return: a string is sent back to the
 * client, `null` and `undefined` send nothing.
 */
export type Reply = string | null | undefined | void;

/** The third argument of a {@linkcode MessageCallback}: one object for each client. */
export interface MessageContext {
  /**
   * Aborts when the client has ended its side, its connection broke, or the server has
   * closed it; its reason is a {@linkcode ClosedError}. It is the dead-man's switch of
   * a motion: `await move(to, { signal })`.
   *
   * While a callback works, the server reads no further once 4 KiB wait, and does not
   * see an end behind them, not even a reset: these messages are handed on with a
   * signal that has not aborted, until less than 4 KiB is left or a reply can't be
   * written. So let a client send one order at a time, and give the order a deadline.
   * Nor is silence an end then: `idleTimeout` waits for the callback.
   */
  readonly signal: AbortSignal;
}

/**
 * Called with each message of each client, one at a time for a client, in the
 * order they arrived. It is called no more once the server sees that the connection
 * broke: messages that wait are dropped then, and the reply of a callback at work is
 * sent to nobody. It may see that late while 4 KiB or more wait: see
 * {@linkcode MessageContext.signal}. A client that has only ended its side still gets
 * its messages handled and answered.
 *
 * @param message The message.
 * @param clientAddr The address of the client.
 * @param context The signal that aborts when the client is gone.
 * @returns The reply, or a promise of it.
 */
export type MessageCallback = (
  message: string,
  clientAddr: Address,
  context: MessageContext,
) => Reply | Promise<Reply>;

/** The server, as its clients know it. */
export interface Host {
  /** Whether no more messages are handed on: a plain property, as each message asks. */
  stopped: boolean;
  readonly callback: MessageCallback | undefined;
  readonly maxSendBufferBytes: number;
  /** Where to report what went wrong. */
  readonly reports: Reports;
  /** The client has ended its side: it gets nothing but the replies that are due. */
  leaving(client: ServedClient): void;
  /** The client is gone, for `error` if that was not an orderly end. */
  gone(client: ServedClient, error: Error | undefined): void;
  /** Nothing of it is left. */
  closed(client: ServedClient): void;
}

/** One client of a server. */
export class ServedClient implements LinkEvents {
  readonly address: Address;
  readonly #host: Host;
  readonly #connection: Connection;
  #context: Context | undefined;
  /** What has arrived, and which of it is next. */
  #messages: Received = [];
  #next = 0;
  /** What the next message waits for: a callback, or a client that takes its replies. */
  #busy: Promise<Reply> | undefined;
  /** Whether no more messages are handed on. */
  #ended = false;
  /** Whether the server knows that it is gone. */
  #gone = false;
  /** Whether sendToAll() timed out on this client and it still has unsent bytes. */
  #slow = false;
  #closed: Promise<void> | undefined;

  /**
   * @param conn The socket, which belongs to the client from here on.
   * @param options Address and limits.
   * @param host The server.
   */
  constructor(conn: Conn, options: ConnectionOptions, host: Host) {
    this.address = options.remoteAddress;
    this.#host = host;
    this.#connection = new Connection(conn, options, this);
  }

  /** Begins to serve. */
  start(): void {
    this.#connection.start();
  }

  /** The address of the server's end. */
  get localAddress(): Address {
    return this.#connection.localAddress;
  }

  /** Whether it gets pushes. */
  get open(): boolean {
    return this.#connection.open;
  }

  /** Whether a call of sendToAll() has waited for it in vain, and it has not caught up. */
  get slow(): boolean {
    if (this.#slow && this.#connection.outbox.bytes === 0) this.#slow = false;
    return this.#slow;
  }

  /** A call of sendToAll() waits for it no more. */
  markSlow(): void {
    this.#slow = true;
  }

  /** Keeps the script alive for it, or not. */
  hold(held: boolean): void {
    this.#connection.hold(held);
  }

  // Messages

  /** Hands on what has arrived, until something has to be waited for. */
  arrived(): void {
    if (this.#busy) return;
    this.#busy = this.#handle();
    if (this.#busy) this.#work(this.#busy);
  }

  /** Goes on while there is something to wait for. */
  async #work(wait: Promise<Reply>): Promise<void> {
    this.#connection.expect(false);
    for (let next: Promise<Reply> | undefined = wait; next;) {
      try {
        this.#reply(await next);
      } catch (error) {
        this.#host.reports.thrown("Message callback", error, this.address);
      }
      // Once for each message: there may always be more to push.
      const room = this.#backpressure();
      if (room) await room;
      this.#busy = next = this.#handle();
    }
    this.#connection.expect(true);
    if (this.#connection.over) this.#finish();
  }

  /** Hands messages on; returns what the next one has to wait for. */
  #handle(): Promise<Reply> | undefined {
    for (let message; (message = this.#take()) !== undefined;) {
      const wait = this.#handleOne(message) ?? this.#backpressure();
      if (wait) return wait;
    }
    return undefined;
  }

  #take(): string | Error | undefined {
    if (this.#ended || this.#host.stopped || this.#connection.broken) {
      return undefined;
    }
    if (this.#next >= this.#messages.length) {
      this.#messages = this.#connection.take() ?? [];
      this.#next = 0;
    }
    const message = this.#messages[this.#next];
    // While its callback works, or its reply waits, it may be let go.
    this.#messages[this.#next++] = "";
    return message;
  }

  #backpressure(): Promise<void> | undefined {
    const { maxSendBufferBytes } = this.#host;
    const most = Math.min(HIGH_WATER_BYTES, maxSendBufferBytes);
    return this.#connection.outbox.bytes > most
      ? this.#connection.writer.flushed()
      : undefined;
  }

  #handleOne(message: string | Error): Promise<Reply> | undefined {
    if (typeof message !== "string") return this.#refuse(message);
    const { callback } = this.#host;
    if (!callback) return undefined;
    try {
      this.#context ??= new Context(this.#connection);
      const reply = callback(message, this.address, this.#context);
      if (isPromise(reply)) return Promise.resolve(reply);
      this.#reply(reply);
    } catch (error) {
      this.#host.reports.thrown("Message callback", error, this.address);
    }
    return undefined;
  }

  #reply(reply: Reply): void {
    // One that is gone gets no reply, and onDisconnect has said so.
    if (reply === undefined || reply === null) return;
    if (this.#gone || this.#connection.broken) return;
    try {
      this.#connection.reply(toMessage(reply));
    } catch (error) {
      this.#host.reports.add(error as Error, this.address);
    }
  }

  /** A message that can't be handed on. One over the limit ends the connection. */
  #refuse(error: Error): undefined {
    if (error instanceof MessageTooLargeError) this.#ended = true;
    else this.#host.reports.add(error, this.address);
  }

  // The end

  /**
   * The connection broke, or the peer has ended its side and gets nothing but the replies
   * that are due. One that broke off wants nothing done any more.
   */
  gone(error: Error | undefined): void {
    this.#context?.abort();
    if (!this.#connection.broken) {
      this.#host.leaving(this);
      this.#watchReplies();
      return;
    }
    this.#ended = true;
    this.#connection.destroy();
    this.#tellGone(error);
    this.#host.closed(this);
  }

  /** A client that has ended its side and takes nothing of its replies is given up. */
  async #watchReplies(): Promise<void> {
    while (await this.#connection.flush(Infinity)) {
      if (!this.#busy || this.#gone) return;
      // A callback is at work; otherwise it is the client that is waited for.
      if (this.#connection.outbox.bytes === 0) await settled(this.#busy);
    }
    this.#giveUp();
  }

  #giveUp(): void {
    if (this.#gone) return;
    const { broken } = this.#connection;
    this.destroy(
      (broken ? this.#connection.endError() : undefined) ??
        new Deno.errors.TimedOut("it does not take what is pending"),
    );
  }

  over(): void {
    if (!this.#busy) this.#finish();
  }

  /** No more messages will come, and all are handed on. */
  async #finish(): Promise<void> {
    if (!await this.#connection.flush(Infinity)) this.#giveUp();
    await this.#connection.close();
    this.#tellGone(this.#connection.endError());
    this.#host.closed(this);
  }

  #tellGone(error: Error | undefined): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#host.gone(this, error);
  }

  /** Ends it at once, because of `cause`. */
  destroy(cause: Error): void {
    this.#ended = true;
    this.#connection.destroy(cause);
    this.#context?.abort();
    this.#tellGone(cause);
    this.#host.closed(this);
  }

  /** Ends it in order, for a server that stops; waits for a callback at work. */
  close(): Promise<void> {
    return this.#closed ??= this.#close();
  }

  async #close(): Promise<void> {
    const end = performance.now() + LINGER_MS;
    this.#ended = true;
    if (this.#busy) {
      await within(LINGER_MS - MIN_LINGER_MS, settled(this.#busy));
    }
    const isFlushed = await this.#connection.flush();
    if (!isFlushed) this.#giveUp();
    await this.#connection.close(Math.max(0, end - performance.now()));
    this.#context?.abort();
    this.#tellGone(this.#connection.endError());
    this.#host.closed(this);
  }

  // Pushes

  /** Whether one more message, or its frame, is too much for it. */
  isFull(item: string | Uint8Array<ArrayBuffer>): boolean {
    const { maxSendBufferBytes } = this.#host;
    return this.#connection.outbox.isFull(item, maxSendBufferBytes);
  }

  /** Pushes a message. */
  send(message: string): Promise<void> {
    return this.#connection.send(message);
  }

  /** Pushes a frame; returns the batch that it leaves in. */
  push(frame: Uint8Array<ArrayBuffer>): Batch {
    return this.#connection.push(frame);
  }
}

/** Settles when a promise has, whatever it has settled with. */
async function settled(promise: Promise<unknown>): Promise<void> {
  try {
    // Not by its own catch(), which may be the script's.
    await promise;
  } catch {
    // Whoever works with it has reported that.
  }
}

/** Throws unless a callback has returned what it may. */
function toMessage(reply: unknown): string {
  if (typeof reply === "string") return reply;
  throw new TypeError(
    `Cannot reply with ${show(reply)}: a reply is a string, null or undefined`,
  );
}

/** Made once for each client; the signal only when a callback asks for it. */
class Context implements MessageContext {
  readonly #connection: Connection;
  #controller: AbortController | undefined;

  /** @param connection The connection of the client. */
  constructor(connection: Connection) {
    this.#connection = connection;
  }

  get signal(): AbortSignal {
    this.#controller ??= new AbortController();
    if (!this.#connection.open) this.abort();
    return this.#controller.signal;
  }

  /** The client is gone. */
  abort(): void {
    this.#controller?.abort(this.#connection.sendError("serve"));
  }
}

/** The clients of a server. */
export class Clients {
  /** Those that get pushes, connected longest first. */
  readonly #connected = new Set<ServedClient>();
  /** The same by remote address: usually one, or one for each address of this machine. */
  readonly #byAddress = new Map<string, ServedClient[]>();
  /** Whose address this very object is. */
  readonly #owners = new WeakMap<Address, ServedClient>();
  /** All that are not closed, by both ends: also those that only wait for replies. */
  readonly #byEnds = new Map<string, ServedClient>();

  /** How many get pushes. */
  get count(): number {
    return this.#connected.size;
  }

  /** Those that get pushes, connected longest first. */
  connected(): ServedClient[] {
    return [...this.#connected].filter(({ open }) => open);
  }

  /** All that are not closed. */
  all(): ServedClient[] {
    return [...this.#byEnds.values()];
  }

  /** Takes in a client that has just connected. */
  add(client: ServedClient): void {
    const key = toKey(client.address);
    this.#connected.add(client);
    this.#byEnds.set(toKey(client.address, client.localAddress), client);
    this.#owners.set(client.address, client);
    const others = this.#byAddress.get(key);
    if (others) others.push(client);
    else this.#byAddress.set(key, [client]);
  }

  /** It gets no more pushes, and its place is free. */
  forget(client: ServedClient): void {
    if (!this.#connected.delete(client)) return;
    const key = toKey(client.address);
    const others = this.#byAddress.get(key)?.filter((one) => one !== client);
    if (others?.length) this.#byAddress.set(key, others);
    else this.#byAddress.delete(key);
  }

  /** Nothing is left of it. */
  close(client: ServedClient): void {
    const key = toKey(client.address, client.localAddress);
    if (this.#byEnds.get(key) === client) this.#byEnds.delete(key);
  }

  /** A connection whose both ends come again is dead: its reset went unseen. */
  dropGhost(remote: Address, local: Address): void {
    this.#byEnds.get(toKey(remote, local))
      ?.destroy(new Deno.errors.ConnectionReset("it has connected anew"));
  }

  /** By its own address object this very client, by an equal one the newest. */
  find(address: Address): ServedClient | undefined {
    const client = this.#owners.get(address) ??
      this.#byAddress.get(toKey(address))?.at(-1);
    return client?.open && this.#connected.has(client) ? client : undefined;
  }
}

function toKey(...addresses: Address[]): string {
  return addresses.flat().join(" ");
}

/** The calls of sendToAll() that wait, and the one timer that ends them: there may be thousands. */
export class Rounds {
  /** Those that wait, and when they end, soonest first. */
  readonly #ends = new Map<Round, number>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #last: Round | undefined;

  /**
   * Pushes a frame to clients, and waits for the writes, which paces a caller that sends
   * all the time: for nobody longer than {@linkcode PATIENCE_MS}, and for clients that let
   * it wait before, until they have taken everything, only when there is nobody else.
   *
   * @returns The number of clients that the frame was written to, or waits for.
   */
  push(
    clients: ServedClient[],
    frame: Uint8Array<ArrayBuffer>,
  ): Promise<number> {
    if (clients.length === 0) return Promise.resolve(0);
    const quick = clients.filter(({ slow }) => !slow);
    const awaited = quick.length > 0 ? quick : clients;
    const batches = awaited.map((client) => client.push(frame));
    if (awaited.length < clients.length) {
      for (const client of clients) if (client.slow) client.push(frame);
    }
    // Frames that leave in the same writes are awaited once, however many there are.
    if (this.#last?.is(batches, clients.length)) return this.#last.done;
    const { length } = clients;
    const round = new Round(this, awaited, batches, length, quick.length > 0);
    this.#ends.set(round, performance.now() + PATIENCE_MS);
    this.#timer ??= setTimeout(() => this.#look(), PATIENCE_MS);
    this.#last = round;
    // Nobody awaits so many, which take memory for each client.
    if (this.#ends.size > MAX_ROUNDS) this.#ends.keys().next().value?.end();
    return round.done;
  }

  /** A round has ended. */
  delete(round: Round): void {
    this.#ends.delete(round);
    if (this.#last === round) this.#last = undefined;
    if (this.#ends.size > 0) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #look(): void {
    this.#timer = undefined;
    for (const [round, end] of this.#ends) {
      const left = end - performance.now();
      if (left > 0) {
        this.#timer = setTimeout(() => this.#look(), left);
        return;
      }
      round.end();
    }
  }
}

/** Waits for the batches of some clients. */
class Round implements Watcher {
  /** Resolves with the number of clients that the frame was written to, or waits for. */
  readonly done: Promise<number>;
  readonly #resolve: (count: number) => void;
  readonly #rounds: Rounds;
  /** Whether it waits for all of its batches, or for one of them. */
  readonly #forAll: boolean;
  #clients: readonly ServedClient[];
  #batches: readonly Batch[];
  #left: number;
  #count: number;

  /**
   * @param rounds Where to say that it has ended.
   * @param clients Whom it waits for.
   * @param batches For which of their batches.
   * @param count How many clients get the frame.
   * @param forAll Whether it waits for all batches, or for one of them.
   */
  constructor(
    rounds: Rounds,
    clients: readonly ServedClient[],
    batches: readonly Batch[],
    count: number,
    forAll: boolean,
  ) {
    this.#rounds = rounds;
    this.#clients = clients;
    this.#batches = batches;
    this.#left = batches.length;
    this.#count = count;
    this.#forAll = forAll;
    const { promise, resolve } = Promise.withResolvers<number>();
    this.done = promise;
    this.#resolve = resolve;
    for (const batch of batches) batch.watch(this);
  }

  /** Whether it waits for the same. */
  is(batches: readonly Batch[], count: number): boolean {
    return count === this.#count && batches.length === this.#batches.length &&
      batches.every((batch, i) => batch === this.#batches[i]);
  }

  settled(error: Error | undefined): void {
    if (error) this.#count--;
    if (--this.#left === 0 || !this.#forAll) this.end();
  }

  /** Waits no more: nothing of it is left with those who have not taken the frame. */
  end(): void {
    for (const [i, batch] of this.#batches.entries()) {
      if (batch.isSettled) continue;
      batch.unwatch(this);
      this.#clients[i]?.markSlow();
    }
    this.#clients = this.#batches = [];
    this.#rounds.delete(this);
    this.#resolve(this.#count);
  }
}
