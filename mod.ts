// Copyright 2026 the Daystar authors. MIT license.

/**
 * Message-level TCP and UDP for robot task scripts: the interfaces of Python's
 * `daystar_api.tcp_client`, `tcp_server` and `udp_socket`, on the same wire format.
 *
 * ```ts
 * import { createTcpClient, createTcpServer } from "@daystar/comm";
 * import { assertEquals } from "@std/assert";
 *
 * await using _server = createTcpServer(70970, (message) => `Echo: ${message}`, {
 *   hostname: "127.0.0.1",
 * });
 *
 * await using client = await createTcpClient("127.0.0.1", 70970);
 * await client.send("Hello Server");
 * assertEquals(await client.receive({ timeout: 5_000 }), "Echo: Hello Server");
 * ```
 *
 * @module
 */

export { type Address, MAX_PORT, MIN_PORT, wirePort } from "./_address.ts";
export {
  ClosedError,
  type ClosedErrorOptions,
  CommunicationError,
  InvalidMessageError,
  MessageTooLargeError,
} from "./_errors.ts";
export {
  FrameDecoderStream,
  FrameEncoderStream,
  type FrameStreamOptions,
} from "./_framing.ts";
export type { ReceiveOptions } from "./_inbox.ts";
export * from "./tcp_client.ts";
export * from "./tcp_server.ts";
export * from "./udp_socket.ts";
