// Copyright 2026 the Daystar authors. MIT license.

/**
 * Lines of standard input: what can't be a message is reported with the number of
 * its line and left out, and memory is bounded, which no stream of the web offers.
 */

import { concat } from "../_framing.ts";

/** The byte that ends a line. */
export const NEWLINE = 0x0a;
/** A byte order mark and a carriage return, which are not sent. */
const EXTRA_BYTES = 4;

/** Cuts bytes into lines. */
export class LineSplitter {
  readonly #maxBytes: number;
  readonly #report: (error: Error) => void;
  readonly #decoder = new TextDecoder("utf-8", {
    fatal: true,
    ignoreBOM: true,
  });
  #pieces: Uint8Array<ArrayBuffer>[] = [];
  #size = 0;
  #number = 0;

  /**
   * @param maxBytes The longest line.
   * @param report Called with what is wrong with a line.
   */
  constructor(maxBytes: number, report: (error: Error) => void) {
    this.#maxBytes = maxBytes;
    this.#report = report;
  }

  /** The lines that these bytes end. */
  split(bytes: Uint8Array<ArrayBuffer>): string[] {
    const lines: string[] = [];
    let start = 0;
    for (;;) {
      const end = bytes.indexOf(NEWLINE, start);
      if (end < 0) break;
      this.#keep(bytes.subarray(start, end));
      this.#finish(lines);
      start = end + 1;
    }
    // A copy: the caller reads into the same bytes again.
    this.#keep(bytes.slice(start));
    return lines;
  }

  /** The last line, where no newline ended it. */
  end(): string[] {
    const lines: string[] = [];
    if (this.#size > 0) this.#finish(lines);
    return lines;
  }

  #keep(piece: Uint8Array<ArrayBuffer>): void {
    if (piece.length === 0) return;
    this.#size += piece.length;
    if (this.#size > this.#maxBytes + EXTRA_BYTES) this.#pieces = [];
    else this.#pieces.push(piece);
  }

  #finish(lines: string[]): void {
    this.#number++;
    try {
      lines.push(this.#decode());
    } catch (error) {
      this.#report(error as Error);
    }
    this.#pieces = [];
    this.#size = 0;
  }

  #decode(): string {
    const cannot = `Cannot send line ${this.#number} of the input`;
    if (this.#size > this.#maxBytes + EXTRA_BYTES) {
      throw new Error(
        `${cannot}: it has ${this.#size} bytes, and the limit is ${this.#maxBytes} bytes`,
      );
    }
    let line: string;
    try {
      line = this.#decoder.decode(concat(this.#pieces));
    } catch (cause) {
      throw new Error(`${cannot}: it is not UTF-8`, { cause });
    }
    if (this.#number === 1) line = line.replace(/^\uFEFF/, "");
    return line.replace(/\r$/, "");
  }
}
