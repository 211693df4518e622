// Why: stands in for `@std/streams` where JSR does not answer: what reads a
// whole stream, and the name and type of `DelimiterStream`, which is an oracle
// in the tests and is therefore never imitated.

type Bytes = ReadableStream<Uint8Array<ArrayBuffer>>;

export function toBytes(stream: Bytes): Promise<Uint8Array<ArrayBuffer>> {
  return new Response(stream).bytes();
}

export function toArrayBuffer(stream: Bytes): Promise<ArrayBuffer> {
  return new Response(stream).arrayBuffer();
}

export async function toText(
  stream: ReadableStream<string> | ReadableStream<Uint8Array>,
): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of stream as ReadableStream<string | Uint8Array>) {
    text += typeof chunk === "string"
      ? chunk
      : decoder.decode(chunk, { stream: true });
  }
  return text + decoder.decode();
}

/** Refuses to work: a test that needs it is ignored, see `tests/_std.ts`. */
export class DelimiterStream extends TransformStream<Uint8Array, Uint8Array> {
  constructor(
    _delimiter: Uint8Array,
    _options?: { disposition?: "suffix" | "prefix" | "discard" },
  ) {
    super();
    throw new Error(
      "DelimiterStream needs the real @std/streams: ignore this test unless usesRealStd",
    );
  }
}
