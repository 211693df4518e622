// Why: the framing alone, without sockets: `deno bench bench/framing_bench.ts`.

import {
  checkMessage,
  FrameDecoder,
  FrameDecoderStream,
  FrameEncoder,
  FrameEncoderStream,
} from "../_framing.ts";
import { feed } from "../tests/_feed.ts";
import { type Alphabet, END, makeMessages } from "./sides/_messages.ts";

const BYTES = 1_048_576;
const LIMIT = 1_048_576;
const CHUNK = 65_536;

interface Load {
  messages: string[];
  chunks: Uint8Array<ArrayBuffer>[];
}

/** About a megabyte of messages, and the same as chunks that a socket would give. */
function makeLoad(size: number, alphabet: Alphabet): Load {
  const different = makeMessages(size, alphabet);
  const count = Math.max(1, Math.round(BYTES / (size + 1)));
  const messages = Array.from(
    { length: count },
    (_, i) => different[i % different.length] ?? "",
  );
  const bytes = new TextEncoder().encode(messages.join(END) + END);
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  for (let at = 0; at < bytes.length; at += CHUNK) {
    chunks.push(bytes.slice(at, at + CHUNK));
  }
  return { messages, chunks };
}

function decodeAll({ messages, chunks }: Load): void {
  const decoder = new FrameDecoder(LIMIT);
  let count = 0;
  for (const chunk of chunks) {
    for (const _ of feed(decoder, chunk)) {
      for (let some = decoder.take(); some; some = decoder.take()) {
        count += some.length;
      }
    }
  }
  check(count, messages.length);
}

function encodeAll({ messages, chunks }: Load): void {
  for (const message of messages) checkMessage(message, LIMIT);
  let size = 0;
  for (const encoder of batches(messages)) {
    for (let isWritten = false; !isWritten;) {
      const { length } = encoder.next();
      isWritten = encoder.wrote(length);
      size += length;
    }
  }
  check(size, chunks.reduce((sum, { length }) => sum + length, 0));
}

/** The messages in batches of one write each. */
function* batches(messages: string[]): Generator<FrameEncoder> {
  let encoder = new FrameEncoder();
  for (const message of messages) {
    if (!encoder.fits(message)) {
      yield encoder;
      encoder = new FrameEncoder();
    }
    encoder.add(message);
  }
  yield encoder;
}

async function countAll<T>(stream: ReadableStream<T>): Promise<number> {
  let count = 0;
  for await (const _ of stream) count++;
  return count;
}

function check(is: number, shouldBe: number): void {
  if (is !== shouldBe) throw new Error(`${is} instead of ${shouldBe}`);
}

for (const alphabet of ["ASCII", "Chinese"] as const) {
  for (const size of [16, 64, 1024, 65_536, 1_048_576]) {
    const load = makeLoad(size, alphabet);
    const group = `1 MB of messages of ${size} B, ${alphabet}`;
    Deno.bench(
      `decode, ${size} B ${alphabet}`,
      { group },
      () => decodeAll(load),
    );
    Deno.bench(
      `encode, ${size} B ${alphabet}`,
      { group },
      () => encodeAll(load),
    );
  }
}

const streamed = makeLoad(64, "ASCII");
const group = "1 MB of messages of 64 B, TransformStreams";
Deno.bench("FrameDecoderStream", { group }, async () => {
  const stream = ReadableStream.from(streamed.chunks).pipeThrough(
    new FrameDecoderStream(),
  );
  check(await countAll(stream), streamed.messages.length);
});
Deno.bench("FrameEncoderStream", { group }, async () => {
  const stream = ReadableStream.from(streamed.messages).pipeThrough(
    new FrameEncoderStream(),
  );
  check(await countAll(stream), streamed.messages.length);
});
