// Why: tests and the fuzzer give the decoder bytes, and take pieces of the encoder, as
// a connection does.

import type { InvalidMessageError } from "../_errors.ts";
import type { FrameDecoder, FrameEncoder } from "../_framing.ts";

/** The most that a decoder holds to read into. */
const MAX_ROOM_BYTES = 65_536;

/** Reads a chunk as a socket does, into the room there is; yields after each read. */
export function* feed(
  decoder: FrameDecoder,
  chunk: Uint8Array<ArrayBuffer>,
): Generator<void> {
  for (let at = 0; at < chunk.length;) {
    const room = decoder.room();
    const held = room.buffer.byteLength;
    if (room.length === 0) throw new Error("There is no room to read into");
    if (held > MAX_ROOM_BYTES) throw new Error(`The room holds ${held} bytes`);
    const part = chunk.subarray(at, at + room.length);
    room.set(part);
    // What a room holds behind the bytes that were read must not matter.
    room.subarray(part.length, part.length + 4).fill(0x03);
    decoder.fill(part.length);
    at += part.length;
    yield;
  }
}

/** All that can be taken now, one by one. */
export function* takeEach(
  decoder: FrameDecoder,
): Generator<string | InvalidMessageError> {
  for (let some = decoder.take(); some; some = decoder.take()) {
    if (some.length === 0) throw new Error("take() goes on without a message");
    yield* some;
  }
}

/** Everything that an encoder has, in pieces that are valid until the next. */
export function* pieces(
  encoder: FrameEncoder,
): Generator<Uint8Array<ArrayBuffer>> {
  for (let isWritten = false; !isWritten;) {
    const piece = encoder.next();
    if (piece.length === 0) return;
    yield piece;
    isWritten = encoder.wrote(piece.length);
  }
}
