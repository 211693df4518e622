// Why: tests/vectors.json is what docs/protocol.md offers to whoever writes a
// peer, so every way in and out of this module, and the Python peer, holds it.

import {
  assert,
  assertEquals,
  assertRejects,
  assertThrows,
  fail,
} from "@std/assert";
import { deadline } from "@std/async";
import {
  concat,
  encodeFrame,
  FrameDecoder,
  FrameEncoder,
} from "../_framing.ts";
import {
  type Address,
  ClosedError,
  createTcpClient,
  createTcpServer,
  createUdpSocket,
  FrameDecoderStream,
  FrameEncoderStream,
  InvalidMessageError,
  MessageTooLargeError,
  wirePort,
} from "../mod.ts";
import { feed, pieces, takeEach } from "./_feed.ts";
import { LOOPBACK } from "./_machine.ts";
import { freePort } from "./_ports.ts";
import { isInstalled, PATIENCE, Process, ROOT, WAIT } from "./_process.ts";

/** What a receiver makes of bytes; those in errors are hexadecimal. */
type Event =
  | { message: string }
  | { invalid: string }
  | { incomplete: string }
  | { tooLarge: number };

interface Limited {
  name: string;
  maxMessageBytes?: number;
}

interface Frames extends Limited {
  messages: string[];
  bytes: string;
}

interface Stream extends Limited {
  bytes: string;
  events: Event[];
}

interface Unsendable extends Limited {
  message?: string;
  utf16?: string;
}

interface Vectors {
  ports: { wire: [port: number, wire: number][]; refused: number[] };
  tcp: { frames: Frames[]; streams: Stream[]; unsendable: Unsendable[] };
  udp: {
    datagrams: { name: string; message: string; bytes: string }[];
    invalid: { name: string; bytes: string }[];
    unsendable: Unsendable[];
  };
}

const FILE = new URL("tests/vectors.json", ROOT);
const { ports, tcp, udp } = JSON.parse(
  Deno.readTextFileSync(FILE),
) as Vectors;

const DEFAULT_LIMIT = 1_048_576;

/** Whatever a receiver has to make events of: the valid bytes, and the others. */
const streams: Stream[] = [
  ...tcp.frames.map(({ messages, ...rest }) => ({
    ...rest,
    events: messages.map((message) => ({ message })),
  })),
  ...tcp.streams,
];

function parse(hex: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(hex.match(/\w+/g) ?? [], (byte) => parseInt(byte, 16));
}

function format(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0"))
    .join(" ");
}

function textOf({ message, utf16 = "" }: Unsendable): string {
  if (message !== undefined) return message;
  const units = utf16.split(" ").map((unit) => parseInt(unit, 16));
  return String.fromCharCode(...units);
}

function limits({ maxMessageBytes }: Limited): { maxMessageBytes?: number } {
  return maxMessageBytes === undefined ? {} : { maxMessageBytes };
}

/** The event that an error stands for, or undefined for an orderly end. */
function eventOf(error: unknown): Event | undefined {
  if (error instanceof InvalidMessageError) {
    return { invalid: format(error.bytes) };
  }
  if (error instanceof MessageTooLargeError) return { tooLarge: error.limit };
  if (error instanceof ClosedError && error.cause === undefined) {
    const incomplete = format(error.incomplete);
    return incomplete ? { incomplete } : undefined;
  }
  throw error;
}

/** Events up to the first of which there can be none after. */
function untilFailure(events: Event[]): Event[] {
  const end = events.findIndex((event) => !("message" in event));
  return end < 0 ? events : events.slice(0, end + 1);
}

/** The chunks of so many bytes that these make. */
function* cut(
  bytes: Uint8Array<ArrayBuffer>,
  size: number,
): Generator<Uint8Array<ArrayBuffer>> {
  for (let at = 0; at < bytes.length; at += size) {
    yield bytes.slice(at, at + size);
  }
}

function decode({ bytes, maxMessageBytes }: Stream, size: number): Event[] {
  const decoder = new FrameDecoder(maxMessageBytes ?? DEFAULT_LIMIT);
  const events: Event[] = [];
  try {
    for (const chunk of cut(parse(bytes), size)) {
      for (const _ of feed(decoder, chunk)) {
        for (const message of takeEach(decoder)) {
          events.push(
            typeof message === "string"
              ? { message }
              : { invalid: format(message.bytes) },
          );
        }
      }
    }
  } catch (error) {
    return [...events, eventOf(error) ?? fail("an orderly end")];
  }
  const incomplete = format(decoder.incomplete());
  return incomplete ? [...events, { incomplete }] : events;
}

/** Reads a raw connection to its end. */
async function readAll(conn: Deno.TcpConn): Promise<string> {
  const parts: Uint8Array[] = [];
  const buffer = new Uint8Array(4096);
  for (
    let count = await conn.read(buffer);
    count !== null;
    count = await conn.read(buffer)
  ) {
    parts.push(buffer.slice(0, count));
  }
  return format(concat(parts));
}

Deno.test("tests/vectors.json is plain: no name twice, bytes that can be read", () => {
  const cases = [
    ...streams,
    ...udp.datagrams.map(({ name, bytes }) => ({ name: `udp ${name}`, bytes })),
    ...udp.invalid.map(({ name, bytes }) => ({ name: `udp ${name}`, bytes })),
  ];
  assert(tcp.frames.length > 0 && udp.datagrams.length > 0);
  assertEquals(new Set(cases.map(({ name }) => name)).size, cases.length);
  for (const { bytes } of cases) assertEquals(format(parse(bytes)), bytes);
});

Deno.test("wirePort() maps the ports of tests/vectors.json", () => {
  for (const [port, wire] of ports.wire) assertEquals(wirePort(port), wire);
  for (const port of ports.refused) {
    assertThrows(() => wirePort(port), RangeError);
  }
});

Deno.test("FrameDecoder makes of tests/vectors.json what it says, cut anywhere", () => {
  for (const stream of streams) {
    for (let size = 1; size <= stream.bytes.length; size++) {
      assertEquals(
        decode(stream, size),
        stream.events,
        `${stream.name}, ${size} bytes at a time`,
      );
    }
  }
});

Deno.test("FrameEncoder makes the bytes of tests/vectors.json", () => {
  for (const { name, messages, bytes } of tcp.frames) {
    const encoder = new FrameEncoder();
    for (const message of messages) encoder.add(message);
    const written = Array.from(pieces(encoder), (piece) => piece.slice());
    assertEquals(format(concat(written)), bytes, name);
    assertEquals(format(concat(messages.map(encodeFrame))), bytes, name);
  }
});

Deno.test("FrameEncoderStream makes the bytes of tests/vectors.json", async () => {
  for (const { name, messages, bytes } of tcp.frames) {
    const frames = ReadableStream.from(messages)
      .pipeThrough(new FrameEncoderStream());
    assertEquals(
      format(concat(await Array.fromAsync(frames))),
      bytes,
      name,
    );
  }
});

Deno.test("FrameEncoderStream refuses what tests/vectors.json calls unsendable", async () => {
  for (const unsendable of tcp.unsendable) {
    const frames = ReadableStream.from([textOf(unsendable)])
      .pipeThrough(new FrameEncoderStream(limits(unsendable)));
    await assertRejects(
      () => Array.fromAsync(frames),
      unsendable.maxMessageBytes ? MessageTooLargeError : TypeError,
    );
  }
});

Deno.test("FrameDecoderStream makes of tests/vectors.json what it says, up to a failure", async () => {
  for (const stream of streams) {
    for (const size of [1, 2, 3, stream.bytes.length]) {
      const events: Event[] = [];
      const messages = ReadableStream.from(cut(parse(stream.bytes), size))
        .pipeThrough(new FrameDecoderStream(limits(stream)));
      try {
        for await (const message of messages) events.push({ message });
      } catch (error) {
        events.push(eventOf(error) ?? fail("an orderly end"));
      }
      assertEquals(events, untilFailure(stream.events), stream.name);
    }
  }
});

Deno.test("TCPClient receives what tests/vectors.json says", async () => {
  using port = freePort();
  using listener = Deno.listen({ hostname: LOOPBACK, port: port.wire });
  for (const stream of streams) {
    const accepted = listener.accept();
    await using client = await createTcpClient(
      LOOPBACK,
      port.port,
      limits(stream),
    );
    using peer = await accepted;
    const bytes = parse(stream.bytes);
    if (bytes.length > 0) await peer.write(bytes);
    await peer.closeWrite();
    assertEquals(await receiveAll(client), stream.events, stream.name);
  }
});

async function receiveAll(
  client: { receive(options: typeof WAIT): Promise<string | null> },
): Promise<Event[]> {
  const events: Event[] = [];
  while (true) {
    try {
      events.push({ message: await client.receive(WAIT) ?? fail("timed out") });
    } catch (error) {
      const event = eventOf(error);
      if (event) events.push(event);
      if (!(error instanceof InvalidMessageError)) return events;
    }
  }
}

Deno.test("TCPClient sends the bytes of tests/vectors.json", async () => {
  using port = freePort();
  using listener = Deno.listen({ hostname: LOOPBACK, port: port.wire });
  for (const { name, messages, bytes } of tcp.frames) {
    const accepted = listener.accept();
    await using client = await createTcpClient(LOOPBACK, port.port);
    using peer = await accepted;
    for (const message of messages) await client.send(message);
    const disconnected = client.disconnect();
    assertEquals(await readAll(peer), bytes, name);
    peer.close();
    await disconnected;
  }
});

Deno.test("TCPClient.send() refuses what tests/vectors.json calls unsendable", async () => {
  using port = freePort();
  using listener = Deno.listen({ hostname: LOOPBACK, port: port.wire });
  for (const unsendable of tcp.unsendable) {
    const accepted = listener.accept();
    await using client = await createTcpClient(
      LOOPBACK,
      port.port,
      limits(unsendable),
    );
    using peer = await accepted;
    await assertRejects(
      () => client.send(textOf(unsendable)),
      unsendable.maxMessageBytes ? MessageTooLargeError : TypeError,
    );
    const disconnected = client.disconnect();
    assertEquals(await readAll(peer), "", unsendable.name);
    peer.close();
    await disconnected;
  }
});

// A port each: where another test starts a process, that has a copy of every
// socket for a moment, and the port of a server that was stopped is taken.

Deno.test("TCPServer receives what tests/vectors.json says", async () => {
  for (const stream of streams) {
    using port = freePort();
    const events: Event[] = [];
    const gone = Promise.withResolvers<Error | undefined>();
    await using _server = createTcpServer(port.port, (message) => {
      events.push({ message });
    }, {
      ...limits(stream),
      hostname: LOOPBACK,
      onError: (error) => events.push(eventOf(error) ?? fail("no event")),
      onDisconnect: (_address, error) => gone.resolve(error),
    });
    using peer = await Deno.connect({ hostname: LOOPBACK, port: port.wire });
    const bytes = parse(stream.bytes);
    if (bytes.length > 0) await peer.write(bytes);
    await peer.closeWrite().catch(() => {}); // it may have ended it already
    const error = await deadline(gone.promise, PATIENCE);
    const last = error && eventOf(error);
    if (last) events.push(last);
    assertEquals(events, stream.events, stream.name);
  }
});

Deno.test("TCPServer sends the bytes of tests/vectors.json, to one and to all", async () => {
  for (const { name, messages, bytes } of tcp.frames) {
    using port = freePort();
    const connected = Promise.withResolvers<Address>();
    await using server = createTcpServer(port.port, undefined, {
      hostname: LOOPBACK,
      onConnect: connected.resolve,
    });
    using peer = await Deno.connect({ hostname: LOOPBACK, port: port.wire });
    const address = await deadline(connected.promise, PATIENCE);
    for (const message of messages) await server.send(message, address);
    for (const message of messages) await server.sendToAll(message);
    const stopped = server.stop();
    assertEquals(await readAll(peer), `${bytes} ${bytes}`, name);
    peer.close();
    await stopped;
  }
});

Deno.test("UDPSocket holds tests/vectors.json both ways", async () => {
  using port = freePort();
  using peerPort = freePort();
  using socket = createUdpSocket(port.port, { hostname: LOOPBACK });
  const peer = Deno.listenDatagram({
    transport: "udp",
    hostname: LOOPBACK,
    port: peerPort.wire,
  });
  using _closing = { [Symbol.dispose]: () => peer.close() };
  const to = {
    transport: "udp",
    hostname: LOOPBACK,
    port: port.wire,
  } as const;
  const address: Address = [LOOPBACK, peerPort.port];
  for (const { name, message, bytes } of udp.datagrams) {
    await peer.send(parse(bytes), to);
    assertEquals(await socket.receive(WAIT), [message, address], name);
    await socket.send(message, address);
    const [received] = await deadline(peer.receive(), PATIENCE);
    assertEquals(format(received), bytes, name);
  }
  for (const { bytes } of udp.invalid) {
    await peer.send(parse(bytes), to);
    const error = await assertRejects(
      () => socket.receive(WAIT),
      InvalidMessageError,
    );
    assertEquals(format(error.bytes), bytes);
  }
  for (const unsendable of udp.unsendable) {
    await assertRejects(
      () => socket.send(textOf(unsendable), address),
      TypeError,
    );
  }
});

Deno.test({
  name: "Python peer: holds tests/vectors.json, where it has no limits to show",
  ignore: !isInstalled("python3"),
  async fn() {
    using port = freePort();
    using rawPort = freePort();
    await using peer = new Process("python3", [
      "-B",
      "tests/peers/peer.py",
      "vectors",
      `${port.port}`,
      `${rawPort.port}`,
      "tests/vectors.json",
    ]);
    const { code, stdout, stderr } = await peer.end();
    const cases = [
      ...ports.wire,
      ...ports.refused,
      ...streams,
      ...tcp.frames,
      ...tcp.unsendable,
      ...udp.datagrams,
      ...udp.invalid,
      ...udp.unsendable,
    ];
    const limited = [...streams, ...tcp.unsendable]
      .filter(({ maxMessageBytes }) => maxMessageBytes !== undefined).length;
    assert(limited < cases.length / 3);
    assertEquals({ code, stdout, stderr }, {
      code: 0,
      stdout: `${
        cases.length - limited
      } cases, ${limited} with limits left out\n`,
      stderr: "",
    });
  },
});
