// Copyright 2026 the Daystar authors. MIT license.

/** One client of a server: its callback, replies, pushes and backpressure. */

import type { Address } from "./_address.ts";
import {
  type Batch,
  Connection,
  type ConnectionOptions,
  LINGER_MS,
  MESSAGE_OVERHEAD_BYTES,
  type Received,
} from "./_connection.ts";
import { MessageTooLargeError } from "./_errors.ts";
import { isPromise, show } from "./_options.ts";
import { within } from "./_time.ts";
import type { Conn } from "./_tls.ts";

/** Above this many unsent bytes a client is read no further. */
const HIGH_WATER_BYTES = 65_536;
/** How long stopping leaves to the peer at the least, after a callback that does not settle, in ms. */
const MIN_LINGER_MS = 100;

/**
 * What a {@linkcode MessageCallback} may return: a string is sent back to the
 * client, `null` and `undefined` send nothing.
 */
export type Reply = string | null | undefined | void;

/** The third argument of a {@linkcode MessageCallback}: one object for each client. */
export interface MessageContext {
  /**
   * Aborts when the client has ended its side or its connection broke: what was
   * started for the client can stop then.
   */
  readonly signal: AbortSignal;
}

/**
 * Called with each message of each client, one at a time for a client, in the
 * order they arrived.
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
  /** Whether no more messages are handed on. */
  readonly stopped: boolean;
  readonly callback: MessageCallback | undefined;
  readonly maxSendBufferBytes: number;
  /** The client has ended its side: it gets nothing but the replies that are due. */
  leaving(client: ServedClient): void;
  /** The client is gone, for `error` if that was not an orderly end. */
  gone(client: ServedClient, error: Error | undefined): void;
  /** Nothing of it is left. */
  closed(client: ServedClient): void;
  /** Something went wrong with the client. */
  report(error: Error, address: Address): void;
  /** A callback of the script has thrown. */
  thrown(what: string, error: unknown, address: Address): void;
}

/** One client of a server. */
export class ServedClient {
  readonly address: Address;
  readonly #host: Host;
  readonly #connection: Connection;
  #context: Context | undefined;
  /** What has arrived, and which of it is next. */
  #messages: Received = [];
  #next = 0;
  /** What the next message waits for: a callback, or a client that takes its replies. */
  #busy: Promise<void> | undefined;
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
    this.#connection = new Connection(conn, options, {
      arrived: () => this.#serve(),
      gone: (error) => this.#lost(error),
      over: () => void (this.#busy ?? this.#finish()),
    });
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
    if (this.#slow && this.#connection.unsentBytes === 0) this.#slow = false;
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
  #serve(): void {
    if (this.#busy) return;
    this.#busy = this.#handle();
    if (this.#busy) this.#work(this.#busy);
  }

  /** Goes on while there is something to wait for. */
  async #work(wait: Promise<void>): Promise<void> {
    this.#connection.expect(false);
    for (let next: Promise<void> | undefined = wait; next;) {
      await next;
      this.#busy = next = this.#handle();
    }
    this.#connection.expect(true);
    if (!this.#connection.readable) this.#finish();
  }

  /** Hands messages on; returns what the next one has to wait for. */
  #handle(): Promise<void> | undefined {
    for (;;) {
      if (this.#ended || this.#host.stopped) return undefined;
      const room = this.#backpressure();
      if (room) return room;
      const message = this.#take();
      if (message === undefined) return undefined;
      const reply = this.#handleOne(message);
      if (reply) return reply;
    }
  }

  #take(): string | Error | undefined {
    if (this.#next >= this.#messages.length) {
      this.#messages = this.#connection.take() ?? [];
      this.#next = 0;
    }
    return this.#messages[this.#next++];
  }

  #backpressure(): Promise<void> | undefined {
    return this.#connection.unsentBytes > HIGH_WATER_BYTES
      ? this.#connection.flushed()
      : undefined;
  }

  #handleOne(message: string | Error): Promise<void> | undefined {
    if (typeof message !== "string") return this.#refuse(message);
    const { callback } = this.#host;
    if (!callback) return;
    try {
      this.#context ??= new Context(this.#connection);
      const reply = callback(message, this.address, this.#context);
      if (isPromise(reply)) return this.#replyLater(reply);
      this.#reply(reply);
    } catch (error) {
      this.#host.thrown("Message callback", error, this.address);
    }
  }

  async #replyLater(reply: PromiseLike<Reply>): Promise<void> {
    try {
      this.#reply(await reply);
    } catch (error) {
      this.#host.thrown("Message callback", error, this.address);
    }
  }

  #reply(reply: Reply): void {
    // One that is gone gets no reply, and onDisconnect has said so.
    if (reply === undefined || reply === null || this.#gone) return;
    try {
      this.#connection.reply(toMessage(reply));
    } catch (error) {
      this.#host.report(error as Error, this.address);
    }
  }

  /** A message that can't be handed on. One over the limit ends the connection. */
  #refuse(error: Error): undefined {
    if (error instanceof MessageTooLargeError) this.#ended = true;
    else this.#host.report(error, this.address);
  }

  // The end

  /**
   * The connection broke, or the peer has ended its side and gets nothing but the replies
   * that are due. One that broke off wants nothing done any more.
   */
  #lost(error: Error | undefined): void {
    this.#context?.abort();
    if (!this.#connection.broken) return this.#host.leaving(this);
    this.#ended = true;
    this.#connection.destroy();
    this.#tellGone(error);
    this.#host.closed(this);
  }

  /** No more messages will come, and all are handed on. */
  async #finish(): Promise<void> {
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
    if (this.#busy) await within(LINGER_MS - MIN_LINGER_MS, this.#busy);
    await this.#connection.close(end - performance.now());
    this.#context?.abort();
    this.#tellGone(this.#connection.endError());
    this.#host.closed(this);
  }

  // Pushes

  /** Whether one more frame of this size is too much for it. */
  isFull(bytes: number): boolean {
    const { unsentBytes, unsentCost } = this.#connection;
    const cost = unsentCost + bytes + MESSAGE_OVERHEAD_BYTES;
    return unsentBytes > 0 && cost > this.#host.maxSendBufferBytes;
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
    this.#controller?.abort(this.#connection.sendError());
  }
}
