// Why: what a Deno user would write today, with @std/streams from JSR; where JSR
// does not answer (`--stand-ins`), plain TransformStreams in their place.

import { dial, HOST, isGone } from "./_bytes.ts";
import { type Job, type Result, serve, settledMemory, until } from "./_jobs.ts";
import { END, Tally } from "./_messages.ts";

type Bytes = TransformStream<Uint8Array, Uint8Array<ArrayBuffer>>;
type Text = TransformStream<string, string>;

interface Streams {
  DelimiterStream: new (
    delimiter: Uint8Array,
    options: { disposition: "discard" },
  ) => Bytes;
  TextDelimiterStream: new (
    delimiter: string,
    options: { disposition: "discard" },
  ) => Text;
  TextLineStream: new () => Text;
}

/** Enqueues the bytes of each frame. */
class ByteFrames extends TransformStream<Uint8Array, Uint8Array<ArrayBuffer>> {
  constructor(delimiter: Uint8Array) {
    const end = delimiter[0] ?? 0;
    let parts: Uint8Array[] = [];
    super({
      transform(chunk, controller) {
        let start = 0;
        for (let at; (at = chunk.indexOf(end, start)) >= 0; start = at + 1) {
          parts.push(chunk.subarray(start, at));
          controller.enqueue(join(parts));
          parts = [];
        }
        if (start < chunk.length) parts.push(chunk.subarray(start));
      },
    });
  }
}

function join(parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const [only] = parts;
  if (only && parts.length === 1) return only as Uint8Array<ArrayBuffer>;
  const whole = new Uint8Array(
    parts.reduce((size, part) => size + part.length, 0),
  );
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** Enqueues the text of each frame. */
class TextFrames extends TransformStream<string, string> {
  constructor(delimiter = "\n") {
    let rest = "";
    super({
      transform(chunk, controller) {
        let start = 0;
        for (
          let at;
          (at = chunk.indexOf(delimiter, start)) >= 0;
          start = at + 1
        ) {
          controller.enqueue(rest + chunk.slice(start, at));
          rest = "";
        }
        rest += chunk.slice(start);
      },
    });
  }
}

/** Not a literal, since type checks have to pass without JSR. */
const STD_STREAMS: string = "@std/streams";

const streams: Streams = Deno.args.includes("--stand-ins")
  ? {
    DelimiterStream: ByteFrames,
    TextDelimiterStream: TextFrames,
    TextLineStream: TextFrames,
  }
  : await import(STD_STREAMS) as Streams;

function messagesOf(conn: Deno.Conn, { how }: Job): ReadableStream<string> {
  if (how === "lines") {
    return conn.readable.pipeThrough(new TextDecoderStream())
      .pipeThrough(new streams.TextLineStream());
  }
  if (how === "text") {
    return conn.readable.pipeThrough(new TextDecoderStream())
      .pipeThrough(
        new streams.TextDelimiterStream(END, { disposition: "discard" }),
      );
  }
  const delimiter = new TextEncoder().encode(END);
  return conn.readable
    .pipeThrough(
      new streams.DelimiterStream(delimiter, { disposition: "discard" }),
    )
    .pipeThrough(new TextDecoderStream());
}

let served = 0;

/** Sends back what comes. */
async function start(job: Job): Promise<void> {
  for await (const conn of Deno.listen({ hostname: HOST, port: job.wire })) {
    served++;
    const work = job.how === "lines" ? echoLines(conn, job) : echo(conn, job);
    work.catch((error) => {
      if (!isGone(error)) throw error;
    });
  }
}

/** As in denoland/deno issue 16523. */
async function echoLines(conn: Deno.Conn, job: Job): Promise<void> {
  for await (const line of messagesOf(conn, job)) {
    conn.write(new TextEncoder().encode(line + "\n"));
  }
}

/** That would lose what a write does not take whole, where messages are many. */
async function echo(conn: Deno.Conn, job: Job): Promise<void> {
  const writer = conn.writable.getWriter();
  const encoder = new TextEncoder();
  for await (const message of messagesOf(conn, job)) {
    await writer.write(encoder.encode(message + END));
  }
}

await serve({
  async receive(job): Promise<Result> {
    const tally = new Tally();
    const conn = await dial(job.wire);
    const start = performance.now();
    for await (const message of messagesOf(conn, job)) {
      tally.add(message);
      if (tally.count === job.count) break;
    }
    const seconds = (performance.now() - start) / 1000;
    try {
      conn.close();
    } catch (error) {
      if (!isGone(error)) throw error;
    }
    return { seconds, count: tally.count, sum: tally.sum };
  },

  echo(job): Result {
    start(job);
    return {};
  },

  listen(job): Result {
    start(job);
    return {};
  },

  async memory({ clients }): Promise<Result> {
    await until(() => served === clients);
    return { rss: settledMemory() };
  },
});
