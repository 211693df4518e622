// Why: what the sides of Deno share. Every side, in whatever language, is started
// with `mode wire-port file` and speaks with the load generator only by messages:
//
// - `count`: counts messages, and answers "?" with their count and a checksum;
// - `echo`: sends each message back; `udp`: the same for datagrams;
// - `send`: to a number, sends so many messages of the file to every connection.
//
// It says `ready` on stdout, and ends when its stdin ends, so none outlives the bench.

export const HOST = "127.0.0.1";

export const [MODE = "", PORT = "", FILE = ""] = Deno.args;
export const WIRE = Number(PORT);

/** Bytes that live, with the garbage collected. */
export function heapBytes(): number {
  const { gc } = globalThis as { gc?: () => void };
  gc?.();
  gc?.();
  const { heapUsed, external } = Deno.memoryUsage();
  return heapUsed + external;
}

/** Answers each line of stdin with a number, until it ends. */
export async function serve(
  answer: () => number | Promise<number> = heapBytes,
): Promise<never> {
  console.log("ready");
  for await (const chunk of Deno.stdin.readable) {
    for (const byte of chunk) if (byte === 0x0a) console.log(await answer());
  }
  Deno.exit(0);
}
