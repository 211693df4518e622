// Why: interop and example tests talk to processes, which must be waited for
// with a limit, explain themselves when they fail, and never outlive a test.

import { assertEquals } from "@std/assert";
import { deadline } from "@std/async";

/** The repository. */
export const ROOT: URL = new URL("../", import.meta.url);

/** How long anything may take, in milliseconds; only a failure takes so long. */
export const PATIENCE = 20_000;
export const WAIT = { timeout: PATIENCE };

/**
 * Whether a program is there. Nothing but its absence makes tests that need it
 * ignored: one that is there and fails makes them fail.
 */
export function isInstalled(program: string, flag = "-V"): boolean {
  try {
    const command = new Deno.Command(program, {
      args: [flag],
      stdout: "null",
      stderr: "null",
    });
    return command.outputSync().success;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/** Text of a process, read as far as is asked for. */
class Output {
  readonly #reader: ReadableStreamDefaultReader<string>;
  #text = "";

  constructor(bytes: ReadableStream<Uint8Array<ArrayBuffer>>) {
    const decoder = new TextDecoderStream("utf-8", { ignoreBOM: true });
    this.#reader = bytes.pipeThrough(decoder).getReader();
  }

  /** What comes before the next `mark`, or null if the output ends first. */
  async until(mark: string): Promise<string | null> {
    let end: number;
    while ((end = this.#text.indexOf(mark)) < 0) {
      if (!await this.#more()) return null;
    }
    const found = this.#text.slice(0, end);
    this.#text = this.#text.slice(end + mark.length);
    return found;
  }

  async rest(): Promise<string> {
    while (await this.#more());
    const rest = this.#text;
    this.#text = "";
    return rest;
  }

  cancel(): Promise<void> {
    return this.#reader.cancel();
  }

  async #more(): Promise<boolean> {
    const { value, done } = await this.#reader.read();
    this.#text += value ?? "";
    return !done;
  }
}

/** How a process ended, and what it had written that nobody has read. */
export interface Ended {
  code: number;
  stdout: string;
  stderr: string;
}

/** A process that a test talks to. */
export class Process implements AsyncDisposable {
  readonly #name: string;
  readonly #child: Deno.ChildProcess;
  readonly #stdin: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  readonly #stdout: Output;
  readonly #stderr: Output;

  constructor(command: string, args: string[], cwd: string | URL = ROOT) {
    this.#name = [command, ...args].join(" ");
    this.#child = new Deno.Command(command, {
      args,
      cwd,
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#stdin = this.#child.stdin.getWriter();
    this.#stdout = new Output(this.#child.stdout);
    this.#stderr = new Output(this.#child.stderr);
  }

  async write(text: string): Promise<void> {
    await this.#stdin.write(new TextEncoder().encode(text));
  }

  /** Its output up to the next `mark`: the next line, unless told otherwise. */
  read(mark = "\n"): Promise<string> {
    return this.#read(this.#stdout, mark);
  }

  /** The same of its error output. */
  readError(mark = "\n"): Promise<string> {
    return this.#read(this.#stderr, mark);
  }

  /** Presses Ctrl-C. */
  interrupt(): void {
    this.#child.kill("SIGINT");
  }

  /** Closes its input and waits for it to end. */
  async end(): Promise<Ended> {
    await this.#stdin.close().catch(() => {}); // it may have ended first
    return await this.ended();
  }

  /** Waits for it to end by itself. */
  async ended(): Promise<Ended> {
    const [{ code }, stdout, stderr] = await deadline(
      Promise.all([
        this.#child.status,
        this.#stdout.rest(),
        this.#stderr.rest(),
      ]),
      PATIENCE,
    );
    return { code, stdout, stderr };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // it has ended
    }
    await this.#child.status;
    await this.#stdin.abort().catch(() => {});
    await this.#stdout.cancel();
    await this.#stderr.cancel();
  }

  async #read(output: Output, mark: string): Promise<string> {
    const text = await deadline(output.until(mark), PATIENCE);
    if (text !== null) return text;
    const { code, stdout, stderr } = await this.ended();
    throw new Error(
      `"${this.#name}" ended with ${code} before ${
        JSON.stringify(mark)
      }: ${stdout}${stderr}`,
    );
  }
}

/** Waits for a process that has nothing to complain about; its output. */
export async function output(process: Process): Promise<string> {
  const { code, stdout, stderr } = await process.ended();
  assertEquals({ code, stderr }, { code: 0, stderr: "" });
  return stdout;
}

/** The Python peer, once it listens or is connected. */
export async function python(...args: (string | number)[]): Promise<Process> {
  // -B: no __pycache__ in the repository.
  const script = ["-B", "tests/peers/peer.py"];
  const peer = new Process("python3", [...script, ...args.map(String)]);
  try {
    const line = await peer.read();
    if (line !== "ready") throw new Error(`The Python peer says ${line}`);
  } catch (error) {
    await peer[Symbol.asyncDispose]();
    throw error;
  }
  return peer;
}
