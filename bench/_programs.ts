// Why: sides run in processes of their own, which must be told what to do, be
// given up when they hang, and end with the bench.

import { ROOT } from "../tools/_deno.ts";
import type { Tools } from "./_tools.ts";
import type { Job, Result } from "./sides/_jobs.ts";

/** How long a job may take, in milliseconds; only a failure takes so long. */
const PATIENCE = 60_000;

/** The programs of `bench/sides/`. */
export type Kind =
  | "load"
  | "daystar"
  | "bare"
  | "streams"
  | "websocket"
  | "framing"
  | "node"
  | "python";

/** One process that does jobs. */
export class Program implements AsyncDisposable {
  readonly #kind: Kind;
  readonly #child: Deno.ChildProcess;
  readonly #stdin: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  readonly #answers: ReadableStreamDefaultReader<string>;
  #rest = "";

  constructor(kind: Kind, [command = "", ...args]: string[]) {
    this.#kind = kind;
    this.#child = new Deno.Command(command, {
      args,
      cwd: ROOT,
      env: { DENO_NO_PROMPT: "1", DENO_NO_UPDATE_CHECK: "1", NO_COLOR: "1" },
      stdin: "piped",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    this.#stdin = this.#child.stdin.getWriter();
    this.#answers = this.#child.stdout.pipeThrough(new TextDecoderStream())
      .getReader();
  }

  /** Has a job done. */
  async do(name: string, job: Partial<Job> = {}): Promise<Result> {
    const line = JSON.stringify([name, job]) + "\n";
    const answer = this.#stdin.write(new TextEncoder().encode(line)).then(() =>
      this.#answer()
    );
    let timer;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        reject(
          new Error(
            `${this.#kind} did not finish "${name}" within ${PATIENCE} ms`,
          ),
        );
      }, PATIENCE);
    });
    try {
      return await Promise.race([answer, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  async #answer(): Promise<Result> {
    let end: number;
    while ((end = this.#rest.indexOf("\n")) < 0) {
      const { value, done } = await this.#answers.read();
      if (done) {
        const { code } = await this.#child.status;
        throw new Error(`${this.#kind} ended with ${code}`);
      }
      this.#rest += value;
    }
    const line = this.#rest.slice(0, end);
    this.#rest = this.#rest.slice(end + 1);
    return JSON.parse(line) as Result;
  }

  /** Lets it end by itself, for a while. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stdin.close().catch(() => {}); // it may have ended first
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), 2_000);
    await this.#child.status;
    clearTimeout(timer);
    await this.#answers.cancel().catch(() => {}); // a job that failed may still read
  }
}

/** The programs of one comparison, which end together. */
export class Programs implements AsyncDisposable {
  readonly #tools: Tools;
  readonly #all: Program[] = [];

  constructor(tools: Tools) {
    this.#tools = tools;
  }

  start(kind: Kind): Program {
    const program = new Program(kind, this.#tools.command(kind));
    this.#all.push(program);
    return program;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(
      this.#all.map((program) => program[Symbol.asyncDispose]()),
    );
  }
}
