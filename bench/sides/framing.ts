// Why: what a message costs that arrives in many pieces, without the sockets,
// which join pieces as they like.

import { FrameDecoder } from "../../_framing.ts";
import { type Result, serve } from "./_jobs.ts";

await serve({
  /** Decodes `count` times a message of `clients` pieces of `piece` bytes. */
  pieces({ count, clients, piece }): Result {
    const bytes = new Uint8Array(clients * piece).fill(0x61);
    bytes[bytes.length - 1] = 0x03;
    const decoder = new FrameDecoder(bytes.length);
    let messages = 0;
    let wrong = 0;
    const start = performance.now();
    for (let i = 0; i < count; i++) {
      for (let at = 0; at < bytes.length;) {
        const part = bytes.subarray(at, at + piece);
        const room = decoder.room();
        const fits = part.subarray(0, room.length);
        room.set(fits);
        decoder.fill(fits.length);
        at += fits.length;
        for (let some = decoder.take(); some; some = decoder.take()) {
          for (const message of some) {
            messages++;
            const whole = typeof message === "string" &&
              message.length === bytes.length - 1;
            if (!whole || message.charCodeAt(message.length - 1) !== 0x61) {
              wrong++;
            }
          }
        }
      }
    }
    const seconds = (performance.now() - start) / 1000;
    return { seconds, count: messages, wrong };
  },
});
