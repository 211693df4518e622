// Why: every side is a process that does jobs: a line of JSON on stdin, a line
// of JSON back on stdout, until stdin ends. So no process outlives the bench.

/** What a job is told. Each job uses some of it. */
export interface Job {
  /** The communication port, and the port that it is on the wire. */
  port: number;
  wire: number;
  /** Messages, each followed by 0x03: the ones to send, again and again. */
  file: string;
  /** How many messages, round trips, connections … */
  count: number;
  /** Which of several ways to do it. */
  how: string;
  /** How many clients. */
  clients: number;
  /** Bytes for each write; 0 = as many as fit. */
  piece: number;
  /** How many datagrams may be on their way. */
  window: number;
}

/** What a job answers. Each job fills in some of it. */
export interface Result {
  /** How long it took. */
  seconds?: number;
  /** Messages that arrived, a sum over them and their order, bytes that arrived. */
  count?: number;
  sum?: number;
  bytes?: number;
  /** Messages or bytes that were not what they should have been. */
  wrong?: number;
  /** Latencies in microseconds. */
  median?: number;
  p99?: number;
  /** Resident memory in bytes. */
  rss?: number;
}

export type Jobs = Record<string, (job: Job) => Result | Promise<Result>>;

/** Does the jobs that stdin asks for, one after the other. */
export async function serve(jobs: Jobs): Promise<never> {
  const encoder = new TextEncoder();
  let rest = "";
  for await (
    const text of Deno.stdin.readable.pipeThrough(new TextDecoderStream())
  ) {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      const [name, job] = JSON.parse(line) as [string, Job];
      const work = jobs[name];
      if (!work) throw new Error(`No such job: ${name}`);
      const answer = JSON.stringify(await work(job)) + "\n";
      Deno.stdout.writeSync(encoder.encode(answer));
    }
  }
  Deno.exit(0);
}

/** Sorts latencies, in milliseconds, and says what the usual and the slow ones are. */
export function latencies(sorted: Float64Array): Result {
  sorted.sort();
  const at = (share: number) =>
    1000 * (sorted[Math.floor(share * (sorted.length - 1))] ?? 0);
  return { median: at(0.5), p99: at(0.99) };
}

/** This process's memory, with the garbage collected. */
export function settledMemory(): number {
  const { gc } = globalThis as { gc?: () => void };
  gc?.();
  gc?.();
  return Deno.memoryUsage().rss;
}

/** Waits until something is so, but not for ever. */
export async function until(isSo: () => boolean): Promise<void> {
  for (let i = 0; !isSo(); i++) {
    if (i > 6_000) throw new Error("It did not come to be within 30 s");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
