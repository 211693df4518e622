// Why: our framing agrees with a decoder we did not write. Ignored with the
// stand-ins, which have no such decoder.

import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { FrameDecoderStream } from "../_framing.ts";
import { usesRealStd } from "./_std.ts";

const TERMINATOR = 0x03;

/** `bytes` cut at `cuts`, any numbers, empty chunks included. */
function cutUp(
  bytes: Uint8Array<ArrayBuffer>,
  cuts: readonly number[],
): Uint8Array<ArrayBuffer>[] {
  const ends = cuts.map((cut) => cut % (bytes.length + 1));
  ends.push(bytes.length);
  ends.sort((a, b) => a - b);
  return ends.map((end, i) => bytes.slice(ends[i - 1] ?? 0, end));
}

Deno.test({
  name: "FrameDecoderStream agrees with DelimiterStream of @std/streams",
  ignore: !usesRealStd,
  async fn() {
    const { DelimiterStream } = await import("@std/streams");
    const message = fc.string({ unit: "binary", maxLength: 40 })
      .map((text) => text.replaceAll("\x03", "").toWellFormed());
    const property = fc.asyncProperty(
      fc.array(message, { maxLength: 30 }),
      fc.array(fc.nat(), { maxLength: 30 }),
      async (messages, cuts) => {
        const bytes = new TextEncoder().encode(
          messages.map((text) => `${text}\x03`).join(""),
        );
        const chunks = cutUp(bytes, cuts);
        const decoder = new TextDecoder("utf-8", {
          fatal: true,
          ignoreBOM: true,
        });
        const pieces = await Array.fromAsync(
          ReadableStream.from(chunks).pipeThrough(
            new DelimiterStream(Uint8Array.of(TERMINATOR)),
          ),
        );
        const expected = pieces.map((piece) => decoder.decode(piece));
        // What follows the last terminator, here always nothing.
        assertEquals(expected.pop(), "");
        const actual = await Array.fromAsync(
          ReadableStream.from(chunks).pipeThrough(new FrameDecoderStream()),
        );
        assertEquals(actual, expected);
        assertEquals(actual, messages);
      },
    );
    await fc.assert(property);
  },
});
