// Copyright 2026 the Daystar authors. MIT license.

/** What this module throws, and reporting what nobody waits for. */

import { type Address, formatAddress } from "./_address.ts";
import { notify, show } from "./_options.ts";

/**
 * What every error class of this module extends, so that one `instanceof` tells
 * them from the errors of a script.
 *
 * Errors of the operating system (connection refused, address in use, …) keep
 * Deno's own classes, such as {@linkcode Deno.errors.ConnectionRefused}.
 *
 * @example Telling errors of the connection from other errors
 * ```ts
 * import { CommunicationError } from "@daystar/comm";
 * import { assert } from "@std/assert";
 *
 * try {
 *   throw new CommunicationError("Cannot send: the line is down");
 * } catch (error) {
 *   assert(error instanceof CommunicationError);
 * }
 * ```
 */
export class CommunicationError extends Error {
  /**
   * Constructs a new instance.
   *
   * @param message What could not be done, and why.
   * @param options The `cause`, where another error led to this one.
   */
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "CommunicationError";
  }
}

/** Options of the constructor of {@linkcode ClosedError}. */
export interface ClosedErrorOptions {
  /** Why it was closed, where that was not an orderly end. */
  cause?: unknown;
  /**
   * The bytes of a last message that never got its terminator.
   *
   * @default {new Uint8Array(0)}
   */
  incomplete?: Uint8Array;
}

/**
 * Sending to or receiving from something that is closed: by this side, by the
 * peer, or by a fault.
 *
 * @example Receiving until the peer closes
 * ```ts
 * import { ClosedError, createTcpClient, createTcpServer } from "@daystar/comm";
 * import { assertInstanceOf } from "@std/assert";
 *
 * const server = createTcpServer(70900, undefined, { hostname: "127.0.0.1" });
 * await using client = await createTcpClient("127.0.0.1", 70900);
 * await server.stop();
 * const error = await client.receive().catch((error) => error);
 * assertInstanceOf(error, ClosedError);
 * ```
 */
export class ClosedError extends CommunicationError {
  /**
   * The bytes of a last message that never got its terminator, empty where
   * there is none.
   *
   * @example Looking at what was cut off
   * ```ts
   * import { ClosedError } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * const incomplete = new TextEncoder().encode("MOVE 1");
   * const error = new ClosedError("Cannot receive", { incomplete });
   * assertEquals(new TextDecoder().decode(error.incomplete), "MOVE 1");
   * ```
   */
  readonly incomplete: Uint8Array;

  /**
   * Constructs a new instance.
   *
   * @param message What could not be done, and why.
   * @param options The `cause` and the `incomplete` bytes.
   */
  constructor(message: string, options: ClosedErrorOptions = {}) {
    super(message, "cause" in options ? { cause: options.cause } : undefined);
    this.name = "ClosedError";
    this.incomplete = options.incomplete ?? new Uint8Array(0);
  }
}

/**
 * A message is over the limit: `maxMessageBytes` on TCP, 65,507 bytes on UDP.
 *
 * @example Refusing to send a long message
 * ```ts
 * import { createTcpClient, createTcpServer, MessageTooLargeError } from "@daystar/comm";
 * import { assertEquals, assertRejects } from "@std/assert";
 *
 * await using _server = createTcpServer(70901, undefined, { hostname: "127.0.0.1" });
 * await using client = await createTcpClient("127.0.0.1", 70901, { maxMessageBytes: 8 });
 * const error = await assertRejects(() => client.send("much too long"), MessageTooLargeError);
 * assertEquals([error.limit, error.size], [8, 13]);
 * ```
 */
export class MessageTooLargeError extends CommunicationError {
  /**
   * The limit, in bytes.
   *
   * @example Usage
   * ```ts
   * import { MessageTooLargeError } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * assertEquals(new MessageTooLargeError("Cannot send", 8, 13).limit, 8);
   * ```
   */
  readonly limit: number;
  /**
   * The size of the message, in bytes; of one that arrives without an end, what
   * had arrived of it when it was given up.
   *
   * @example Usage
   * ```ts
   * import { MessageTooLargeError } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * assertEquals(new MessageTooLargeError("Cannot send", 8, 13).size, 13);
   * ```
   */
  readonly size: number;

  /**
   * Constructs a new instance.
   *
   * @param message What could not be done, and why.
   * @param limit The limit, in bytes.
   * @param size The size of the message, in bytes.
   */
  constructor(message: string, limit: number, size: number) {
    super(message);
    this.name = "MessageTooLargeError";
    this.limit = limit;
    this.size = size;
  }
}

/**
 * A message that arrived is not UTF-8. Messages before and after it are not
 * touched by that: receiving goes on with the next one.
 *
 * @example Looking at what arrived instead
 * ```ts
 * import { FrameDecoderStream, InvalidMessageError } from "@daystar/comm";
 * import { assertEquals, assertRejects } from "@std/assert";
 *
 * const bytes = ReadableStream.from([new Uint8Array([0xff, 0x03])]);
 * const error = await assertRejects(
 *   () => Array.fromAsync(bytes.pipeThrough(new FrameDecoderStream())),
 *   InvalidMessageError,
 * );
 * assertEquals(error.bytes, new Uint8Array([0xff]));
 * ```
 */
export class InvalidMessageError extends CommunicationError {
  /**
   * The message as it arrived, without its terminator.
   *
   * @example Usage
   * ```ts
   * import { InvalidMessageError } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * const error = new InvalidMessageError("Cannot decode", new Uint8Array([0xff]));
   * assertEquals(error.bytes, new Uint8Array([0xff]));
   * ```
   */
  readonly bytes: Uint8Array;
  /**
   * Who sent it, on UDP.
   *
   * @example Usage
   * ```ts
   * import { InvalidMessageError } from "@daystar/comm";
   * import { assertEquals } from "@std/assert";
   *
   * const error = new InvalidMessageError("Cannot decode", new Uint8Array([0xff]), [
   *   "192.168.1.100",
   *   70001,
   * ]);
   * assertEquals(error.sender, ["192.168.1.100", 70001]);
   * ```
   */
  readonly sender: readonly [ip: string, port: number] | undefined;

  /**
   * Constructs a new instance.
   *
   * @param message What could not be done, and why.
   * @param bytes The message as it arrived.
   * @param sender Who sent it, on UDP.
   */
  constructor(
    message: string,
    bytes: Uint8Array,
    sender?: readonly [ip: string, port: number],
  ) {
    super(message);
    this.name = "InvalidMessageError";
    this.bytes = bytes;
    this.sender = sender;
  }
}

/** The text of anything thrown, without the number of the kernel's error; never throws. */
export function reason(error: unknown): string {
  return textOf(() => error instanceof Error ? error.message : error)
    .replace(/ \(os error \d+\)$/, "");
}

/** Text that a script made, which may be anything, or throw when it is asked for. */
function textOf(get: () => unknown): string {
  try {
    return String(get());
  } catch {
    return "an error that can't be shown";
  }
}

/** As `instanceof`, which throws itself where a proxy makes it. */
function isError(thrown: unknown): thrown is Error {
  try {
    return thrown instanceof Error;
  } catch {
    return false;
  }
}

/** The same kind of error as `cause`, with a message that says what it stopped. */
export function explain(what: string, cause: unknown): Error {
  const message = `${what}: ${reason(cause)}`;
  if (!isError(cause)) return new Error(message, { cause });
  const Kind = cause.constructor as ErrorConstructor;
  const error = new Kind(message, { cause });
  if (Object.hasOwn(cause, "code") && "code" in cause) {
    Object.assign(error, { code: cause.code });
  }
  return error;
}

/** How many errors are written to standard error in a second, and how much of each. */
const MAX_LINES = 10;
const MAX_CHARACTERS = 4_000;
const SECOND_MS = 1_000;

/**
 * What goes wrong in a server, where nobody waits for it. Without onError it goes to
 * standard error: a line for an error of this module, the stack for what a script threw.
 * A peer that makes errors can't fill the disk, and nothing here ends the server.
 */
export class Reports {
  readonly #onError: ((error: Error, client?: Address) => void) | undefined;
  #lines = 0;
  #skipped = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** @param onError Where to report to. */
  constructor(
    onError: ((error: Error, client?: Address) => void) | undefined,
  ) {
    this.#onError = onError;
  }

  /** Reports an error of this module, about a client if there is one. */
  add(error: Error, client?: Address): void {
    const what = client ? formatAddress(client) : "";
    if (this.#onError) this.#call(this.#onError, what, error, client);
    else this.#write(what, reason(error));
  }

  /** Reports what a callback of the script has thrown. */
  thrown(callback: string, thrown: unknown, client: Address): void {
    const what = `${callback} failed for ${formatAddress(client)}`;
    const error = toError(thrown);
    if (this.#onError) this.#call(this.#onError, what, error, client);
    else this.#write(what, stackOf(error));
  }

  /** Where onError fails too, both errors are written. */
  #call(
    onError: (error: Error, client?: Address) => void,
    what: string,
    error: Error,
    client: Address | undefined,
  ): void {
    notify(
      onError,
      (thrown) => {
        this.#write(what, stackOf(error));
        this.#write("onError failed", stackOf(toError(thrown)));
      },
      error,
      client,
    );
  }

  #write(what: string, text: string): void {
    if (this.#lines++ >= MAX_LINES) {
      this.#skipped++;
      return;
    }
    if (this.#timer === undefined) {
      this.#timer = setTimeout(() => this.end(), SECOND_MS);
      Deno.unrefTimer(this.#timer);
    }
    const line = what === "" ? text : `${what}: ${text}`;
    const isLong = line.length > MAX_CHARACTERS;
    print(isLong ? `${line.slice(0, MAX_CHARACTERS)} …` : line);
  }

  /** Writes how many were only counted. */
  end(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#lines = 0;
    if (this.#skipped > 0) print(`${this.#skipped} more errors`);
    this.#skipped = 0;
  }
}

function print(text: string): void {
  try {
    console.error(text);
  } catch {
    // A full disk, or nobody who reads it: there is nowhere left to report to.
  }
}

function stackOf(error: Error): string {
  return textOf(() => error.stack ?? error);
}

/** Reports what a callback of a client has thrown; never throws itself. */
export function report(thrown: unknown): void {
  try {
    thrown instanceof Error;
  } catch {
    // Deno would ask the same of it, also as a cause, and report nothing any more.
    thrown = new CommunicationError(toError(thrown).message);
  }
  reportError(thrown);
}

/** What was thrown, as an error. */
export function toError(thrown: unknown): Error {
  return isError(thrown) ? thrown : new CommunicationError(
    `Caught ${show(thrown)}, which is not an Error`,
    { cause: thrown },
  );
}
