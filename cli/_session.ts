// Copyright 2026 the Daystar authors. MIT license.

/**
 * What every command shares with the user: lines in, lines out as text or JSON,
 * and Ctrl-C. Nothing of a peer reaches a terminal but through here.
 */

import { type Address, formatAddress } from "../_address.ts";
import { NAME } from "./_args.ts";
import { LineSplitter } from "./_lines.ts";
import { ClosedError, InvalidMessageError, reason } from "../_errors.ts";

/** Unwritten characters from which on a command should wait before it shows more … */
const HIGH_WATER = 65_536;
/** … and those from which on what can't wait is dropped. */
const MAX_UNWRITTEN = 16_777_216;
/** How long an interrupted tool waits for somebody to read its output, in ms. */
const LINGER = 500;

const STYLES = { dim: 2, red: 31, green: 32, yellow: 33, cyan: 36 } as const;

/** How a part of a line looks on a terminal. */
export type Style = keyof typeof STYLES;

/** What could make one message look like several, or like something else. */
const HIDDEN = /[\p{Cc}\p{Zl}\p{Zp}\u202a-\u202e\u2066-\u2069]/gu;

/** A text on one line, safe for a terminal: `␊` for a newline, `<U+009B>` for what has no symbol. */
export function visible(text: string): string {
  return text.replace(HIDDEN, (character) => {
    const code = character.charCodeAt(0);
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    return code === 0x7f ? "␡" : `<U+${hex(code, 4).toUpperCase()}>`;
  });
}

/** The same in JSON, which leaves some of these characters as they are. */
function toJson(value: unknown): string {
  return JSON.stringify(value)
    .replace(HIDDEN, (character) => `\\u${hex(character.charCodeAt(0), 4)}`);
}

function hex(number: number, digits: number): string {
  return number.toString(16).padStart(digits, "0");
}

/** What {@linkcode Output} needs of standard output. */
export interface Sink {
  write(bytes: Uint8Array): Promise<number>;
  isTerminal(): boolean;
}

/** Writes to a stream that may be slow or gone, while the event loop goes on. */
export class Output {
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
    if (this.#text.length > MAX_UNWRITTEN) {
      this.#dropped++;
      return;
    }
    this.#text += `${line}\n`;
    this.#writing ??= this.#write();
  }

  /** Settles when everything is written, or will never be. */
  flushed(): Promise<void> | undefined {
    return this.#writing;
  }

  /** Something to wait for where more would pile up. */
  ready(): Promise<void> | undefined {
    return this.#text.length > HIGH_WATER ? this.#writing : undefined;
  }

  async #write(): Promise<void> {
    // So that the lines of one turn of the event loop leave together.
    await undefined;
    try {
      while (this.#text !== "") {
        let bytes = new TextEncoder().encode(this.#take());
        while (bytes.length > 0) {
          bytes = bytes.subarray(await this.#stream.write(bytes));
        }
      }
    } catch (error) {
      this.#dead = true;
      this.#text = "";
      this.#failed(error);
    }
    this.#writing = undefined;
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
  /** Whether events are shown as JSON. */
  json = false;
  /** Whether somebody types the lines. */
  readonly interactive: boolean;
  readonly #stdout = new Output(Deno.stdout, (error) => this.#blame(error));
  readonly #stderr = new Output(Deno.stderr, () => {});
  readonly #end = new AbortController();
  readonly #interrupted: Promise<void>;
  readonly #interrupt = () => {
    if (this.signal.aborted) Deno.exit(130);
    this.#stop();
  };
  readonly #stop = () => this.#end.abort(new Interrupted());

  constructor() {
    this.interactive = Deno.stdin.isTerminal();
    this.#interrupted = new Promise((resolve) => {
      this.signal.addEventListener("abort", () => resolve(), { once: true });
    });
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

  /** A reader that has gone, such as `head`, wants an end, and is no failure. */
  #blame(error: unknown): void {
    if (error instanceof Deno.errors.BrokenPipe) return this.#stop();
    this.failed = true;
    this.warn(`Cannot write to standard output: ${reason(error)}`);
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
    return this.#stdout.ready();
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
    const buffer = new Uint8Array(HIGH_WATER);
    for (;;) {
      const count = await Deno.stdin.read(buffer);
      if (count === null) break;
      yield splitter.split(buffer.subarray(0, count));
    }
    yield splitter.end();
  }

  /** Settles when all is written; soon, when interrupted. */
  flushed(): Promise<void> {
    return this.finished(this.#flush());
  }

  async #flush(): Promise<void> {
    await this.#stdout.flushed();
    // Only now, as it is told there what went wrong with the other.
    await this.#stderr.flushed();
  }

  /** Settles as `work` does; soon, when interrupted, as it may wait for a reader. */
  async finished(work: Promise<unknown> | undefined): Promise<void> {
    let done = false;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = this.#interrupted.then(() =>
      new Promise<void>((resolve) => {
        if (!done) timer = setTimeout(resolve, LINGER);
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
