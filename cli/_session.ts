// Copyright 2026 the Daystar authors. MIT license.

/**
 * What every command shares with the user: lines in, lines out as text or JSON,
 * and Ctrl-C. Nothing of a peer reaches a terminal but through here.
 */

import { setTimeout as delay } from "node:timers/promises";
import { type Address, formatAddress } from "../_address.ts";
import { NAME } from "./_args.ts";
import { LineSplitter, NEWLINE } from "./_lines.ts";
import {
  ClosedError,
  explain,
  InvalidMessageError,
  reason,
} from "../_errors.ts";

/** Unwritten characters from which on a command should wait before it shows more … */
const HIGH_WATER_BYTES = 65_536;
/** … and those from which on what can't wait is dropped. */
const MAX_UNWRITTEN_BYTES = 16_777_216;
/** How long an interrupted tool waits for somebody to read its output. */
const LINGER_MS = 500;
/** How long a full stream is left alone at first, and at most: nothing tells when it has room. */
const MIN_FULL_MS = 1;
const MAX_FULL_MS = 50;
/** PIPE_BUF of Linux. */
const PIPE_BYTES = 4_096;

const STYLES = { dim: 2, red: 31, green: 32, yellow: 33, cyan: 36 } as const;

/** How a part of a line looks on a terminal. */
export type Style = keyof typeof STYLES;

/**
 * What could make one message look like several, or like another one: control and
 * format characters, line breaks, and what takes no space.
 */
const HIDDEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]/gu;

/** A text on one line, safe for a terminal: `␊` for a newline, `<U+009B>` for what has no symbol. */
export function visible(text: string): string {
  return text.replace(HIDDEN, (character) => {
    const code = character.codePointAt(0) ?? 0;
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    return code === 0x7f ? "␡" : `<U+${hex(code, 4).toUpperCase()}>`;
  });
}

/** The same in JSON, which leaves some of these characters as they are. */
function toJson(value: unknown): string {
  const escape = (unit: string) => `\\u${hex(unit.charCodeAt(0), 4)}`;
  return JSON.stringify(value)
    .replace(HIDDEN, (character) => character.split("").map(escape).join(""));
}

function hex(number: number, digits: number): string {
  return number.toString(16).padStart(digits, "0");
}

/** What {@linkcode Output} needs of standard output. */
export interface Sink {
  /** Rejects with `WouldBlock` where the stream is full and does not wait. */
  write(bytes: Uint8Array): Promise<number>;
  isTerminal(): boolean;
}

/** Writes to a stream that may be slow, full or gone, while the event loop goes on. */
export class Output implements Disposable {
  readonly #stream: Sink;
  readonly #failed: (error: unknown) => void;
  readonly #colours: boolean;
  #text = "";
  #dropped = 0;
  #dead = false;
  #writing: Promise<void> | undefined;

  /**
   * @param stream Where to write.
   * @param failed Called with what went wrong; after a failed write all is dropped.
   */
  constructor(stream: Sink, failed: (error: unknown) => void) {
    this.#stream = stream;
    this.#failed = failed;
    this.#colours = stream.isTerminal() && !Deno.noColor;
  }

  /** A text in a colour, where it goes to a terminal. */
  paint(style: Style, text: string): string {
    return this.#colours ? `\x1b[${STYLES[style]}m${text}\x1b[0m` : text;
  }

  /** Writes a line, unless too many wait already. */
  write(line: string): void {
    if (this.#dead) return;
    if (this.#text.length > MAX_UNWRITTEN_BYTES) {
      this.#dropped++;
      return;
    }
    this.#text += `${line}\n`;
    this.#writing ??= this.#write();
  }

  /** Whether everything is dropped, as after a failed write. */
  get dead(): boolean {
    return this.#dead;
  }

  /** Settles when everything is written, or will never be. */
  flushed(): Promise<void> | undefined {
    return this.#writing;
  }

  /** Something to wait for where more would pile up. */
  ready(): Promise<void> | undefined {
    return this.#text.length > HIGH_WATER_BYTES ? this.#writing : undefined;
  }

  /** Gives up on what is unwritten. */
  [Symbol.dispose](): void {
    this.#dead = true;
    this.#text = "";
  }

  async #write(): Promise<void> {
    // So that the lines of one turn of the event loop leave together.
    await undefined;
    try {
      while (this.#text !== "") {
        await this.#writeAll(new TextEncoder().encode(this.#take()));
      }
    } catch (error) {
      this[Symbol.dispose]();
      this.#failed(error);
    }
    this.#writing = undefined;
  }

  async #writeAll(bytes: Uint8Array): Promise<void> {
    let pause = MIN_FULL_MS;
    while (bytes.length > 0 && !this.#dead) {
      try {
        bytes = bytes.subarray(await this.#stream.write(piece(bytes)));
        pause = MIN_FULL_MS;
      } catch (error) {
        if (!(error instanceof Deno.errors.WouldBlock)) throw error;
        await delay(pause);
        pause = Math.min(2 * pause, MAX_FULL_MS);
      }
    }
  }

  #take(): string {
    const text = this.#text;
    this.#text = "";
    if (this.#dropped > 0) {
      const error =
        `it is read too slowly, ${this.#dropped} lines are left out`;
      this.#dropped = 0;
      this.#failed(new Error(error));
    }
    return text;
  }
}

/**
 * As much of some lines as a full pipe takes whole or not at all. Deno keeps the rest
 * of a line in a buffer and reports nothing of it when the pipe is full then; a piece
 * that ends with a newline, or that is longer than this buffer, never stays there.
 */
function piece(lines: Uint8Array): Uint8Array {
  const part = lines.subarray(0, PIPE_BYTES);
  const end = part.lastIndexOf(NEWLINE) + 1;
  return end > 0 ? part.subarray(0, end) : part;
}

/** Thrown where Ctrl-C ends something that has not done its work. */
export class Interrupted extends Error {
  override message = "Interrupted";
}

function endSignals(): Deno.Signal[] {
  return Deno.build.os === "windows"
    ? ["SIGINT", "SIGBREAK"]
    : ["SIGINT", "SIGTERM"];
}

/** One run of the tool. */
export class Session implements Disposable {
  /** Whether something has failed, which the exit code tells. */
  failed = false;
  /** Whether the reader of the output has gone, such as `head`: that ends all, and is no failure. */
  unread = false;
  /** Whether Ctrl-C, or a signal like it, has ended all. */
  endedByUser = false;
  /** Whether events are shown as JSON. */
  json = false;
  /** Whether somebody types the lines. */
  readonly interactive: boolean;
  readonly #stdout = new Output(Deno.stdout, (error) => this.#blame(error));
  readonly #stderr = new Output(Deno.stderr, (error) => {
    this.warn(`Cannot write to standard error: ${reason(error)}`);
  });
  readonly #end = new AbortController();
  readonly #interrupted: Promise<void>;
  readonly #interrupt = () => {
    if (this.signal.aborted) Deno.exit(130);
    this.endedByUser = true;
    this.#stop();
  };
  readonly #stop = () => this.#end.abort(new Interrupted());

  constructor() {
    this.interactive = Deno.stdin.isTerminal();
    this.#interrupted = new Promise((resolve) => {
      this.signal.addEventListener("abort", () => resolve(), { once: true });
    });
  }

  /**
   * Lets Ctrl-C end everything in order. Call after the first call that may ask for
   * a permission: Deno's prompt is deaf to a Ctrl-C that a listener catches.
   */
  catchSignals(): void {
    for (const signal of endSignals()) {
      Deno.addSignalListener(signal, this.#interrupt);
    }
  }

  /** Aborts when the user, or whoever reads the output, wants no more. */
  get signal(): AbortSignal {
    return this.#end.signal;
  }

  /** Settles as `work` does, or when there is to be an end. */
  async until(work: Promise<void>): Promise<void> {
    try {
      await Promise.race([work, this.#interrupted]);
    } catch (error) {
      if (!this.signal.aborted) throw error;
    }
  }

  #blame(error: unknown): void {
    if (error instanceof Deno.errors.BrokenPipe) {
      this.unread = true;
      return this.#stop();
    }
    this.failed = true;
    this.warn(`Cannot write to standard output: ${reason(error)}`);
    // Each further message would be taken from the peer and lost.
    if (this.#stdout.dead) this.#stop();
  }

  /** Colours a part of a text for {@linkcode Session.show}. */
  paint(style: Style, text: string): string {
    return this.#stdout.paint(style, text);
  }

  /** Text as it is: the help. */
  print(text: string): void {
    this.#stdout.write(text.trimEnd());
  }

  /** What the tool is there for: a line of text, if any, or the event as JSON. */
  show(text: string | undefined, event: string, data: object): void {
    if (this.json) {
      const time = new Date().toISOString();
      this.#stdout.write(toJson({ time, event, ...data }));
    } else if (text !== undefined) {
      this.#stdout.write(text);
    }
  }

  /** Something to wait for before showing more, where the output is slow. */
  ready(): Promise<void> | undefined {
    return this.#stdout.ready() ?? this.#stderr.ready();
  }

  /** The same as {@linkcode Session.show}, once there is room for it. */
  async showInTurn(
    text: string | undefined,
    event: string,
    data: object,
  ): Promise<void> {
    // Of several that wait, the first may have filled it again.
    while (this.ready()) await this.ready();
    this.show(text, event, data);
  }

  /** A message that somebody has sent, once there is room for it. */
  async showMessage(peer: Address, message: string): Promise<void> {
    const text = `< ${formatAddress(peer)} ${this.paintMessage(message)}`;
    await this.showInTurn(text, "message", { peer, message });
  }

  /** A message on one line. */
  paintMessage(message: string): string {
    return this.paint("cyan", visible(message));
  }

  /** What is good to know, for people only. */
  note(text: string): void {
    if (this.json) return;
    this.#stderr.write(this.#stderr.paint("dim", visible(text)));
  }

  /** What went wrong, on standard error, and as an event for machines. */
  complain(error: unknown, peer?: Address): void {
    const text = error instanceof Error ? describe(error) : String(error);
    const from = peer && !text.includes(formatAddress(peer))
      ? `${formatAddress(peer)}: `
      : "";
    this.warn(from + text);
    if (!this.json) return;
    this.show(undefined, "error", {
      ...(peer ? { peer } : {}),
      name: error instanceof Error ? error.name : "Error",
      reason: text,
    });
  }

  /** The same on standard error alone: wrong usage. */
  warn(text: string): void {
    const line = `${this.#stderr.paint("red", `${NAME}:`)} ${visible(text)}`;
    this.#stderr.write(line);
  }

  /** The same, and the exit code tells. */
  fail(error: unknown, peer?: Address): void {
    this.failed = true;
    this.complain(error, peer);
  }

  /** The lines of standard input, as many at a time as have come together. */
  async *lines(maxBytes: number): AsyncGenerator<string[]> {
    const splitter = new LineSplitter(maxBytes, (error) => this.fail(error));
    const buffer = new Uint8Array(HIGH_WATER_BYTES);
    for (;;) {
      const count = await Deno.stdin.read(buffer).catch((error) => {
        throw explain("Cannot read standard input", error);
      });
      if (count === null) break;
      yield splitter.split(buffer.subarray(0, count));
    }
    yield splitter.end();
  }

  /** Settles when all is written; soon, when interrupted. */
  async flushed(): Promise<void> {
    await this.finished(this.#stdout.flushed());
    if (this.#stdout.flushed()) {
      this.failed = true;
      this.warn("Cannot write all of the output: nobody reads it");
    }
    // Only now, as it is told there what went wrong with the other.
    await this.finished(this.#stderr.flushed());
  }

  /** Settles as `work` does; soon, when interrupted, as it may wait for a reader. */
  async finished(work: Promise<unknown> | undefined): Promise<void> {
    let done = false;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = this.#interrupted.then(() =>
      new Promise<void>((resolve) => {
        if (!done) timer = setTimeout(resolve, LINGER_MS);
      })
    );
    try {
      await Promise.race([work, late]);
    } finally {
      done = true;
      clearTimeout(timer);
    }
  }

  [Symbol.dispose](): void {
    for (const signal of endSignals()) {
      Deno.removeSignalListener(signal, this.#interrupt);
    }
    this.#stop();
    this.#stdout[Symbol.dispose]();
    this.#stderr[Symbol.dispose]();
  }
}

/** The message of an error, and what of it only its properties tell. */
function describe(error: Error): string {
  if (error instanceof ClosedError && error.incomplete.length > 0) {
    const { incomplete } = error;
    const start = new TextDecoder().decode(incomplete.subarray(0, 60));
    return `${error.message} of which ${incomplete.length} bytes came: ${start}`;
  }
  if (error instanceof InvalidMessageError) {
    const start = [...error.bytes.subarray(0, 16)].map((byte) => hex(byte, 2));
    return `${error.message}: ${error.bytes.length} bytes, ${start.join(" ")}`;
  }
  return error.message;
}
