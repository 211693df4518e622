// Why: sides run in processes of their own, which must be told what to do, be
// given up when they hang, and end with the bench. What they cost is asked of
// the operating system.

import { ROOT } from "../tools/_deno.ts";

/** How long an answer may take; only a failure takes so long. */
const PATIENCE_MS = 40_000;

/** One process that answers lines with lines. */
export class Program implements AsyncDisposable {
  readonly #name: string;
  readonly #child: Deno.ChildProcess;
  readonly #stdin: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  readonly #stdout: ReadableStreamDefaultReader<string>;
  #rest = "";

  constructor([command = "", ...args]: string[]) {
    this.#name = `${command.split("/").at(-1)} ${args.slice(-4).join(" ")}`;
    this.#child = new Deno.Command(command, {
      args,
      cwd: ROOT,
      env: { DENO_NO_PROMPT: "1", DENO_NO_UPDATE_CHECK: "1", NO_COLOR: "1" },
      stdin: "piped",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    this.#stdin = this.#child.stdin.getWriter();
    this.#stdout = this.#child.stdout.pipeThrough(new TextDecoderStream())
      .getReader();
  }

  /** Sends a line and returns the line that answers it. */
  async ask(line: string): Promise<string> {
    await this.#stdin.write(new TextEncoder().encode(line + "\n"));
    return await this.line();
  }

  /** The next line that it prints. */
  async line(): Promise<string> {
    const { promise: late, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(() => {
      reject(new Error(`${this.#name} said nothing for ${PATIENCE_MS} ms`));
    }, PATIENCE_MS);
    try {
      return await Promise.race([this.#line(), late]);
    } finally {
      clearTimeout(timer);
    }
  }

  async #line(): Promise<string> {
    let end: number;
    while ((end = this.#rest.indexOf("\n")) < 0) {
      const { value, done } = await this.#stdout.read();
      if (done) {
        const { code } = await this.#child.status;
        throw new Error(`${this.#name} ended with ${code}`);
      }
      this.#rest += value;
    }
    const line = this.#rest.slice(0, end);
    this.#rest = this.#rest.slice(end + 1);
    return line;
  }

  /** Seconds of CPU time so far, user and system, of all its threads; NaN where unknown. */
  cpuSeconds(): number {
    try {
      const tasks = `/proc/${this.#child.pid}/task`;
      const threads = Array.from(Deno.readDirSync(tasks), ({ name }) => name);
      const nanoseconds = threads.map((thread) =>
        Number(
          Deno.readTextFileSync(`${tasks}/${thread}/schedstat`).split(" ")[0],
        )
      );
      return nanoseconds.reduce((a, b) => a + b, 0) / 1e9;
    } catch {
      return NaN; // not Linux, or a thread ended in between
    }
  }

  /** Resident memory in bytes; NaN where unknown. */
  residentBytes(): number {
    try {
      const text = Deno.readTextFileSync(`/proc/${this.#child.pid}/status`);
      return 1024 * Number(text.match(/^VmRSS:\s+(\d+) kB/m)?.[1] ?? NaN);
    } catch {
      return NaN;
    }
  }

  /** Lets it end by itself, for a while. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stdin.close().catch(() => {}); // it may have ended first
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), 2_000);
    await this.#child.status;
    clearTimeout(timer);
    await this.#stdout.cancel().catch(() => {}); // a failed ask may still read
  }
}
