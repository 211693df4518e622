// Why: with TLS the sockets of a server must be those of plain TCP: free when they are
// closed, tuned, and letting the script end; and nothing a network does to the bytes
// may pass for an orderly end or for another server.

import {
  assert,
  assertEquals,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertRejects,
} from "@std/assert";
import { delay } from "@std/async";
import { createServer } from "node:tls";
import {
  createTcpClient,
  type TCPClient,
  type TCPServerOptions,
} from "../mod.ts";
import { Authority } from "./_certificates.ts";
import { freePort } from "./_ports.ts";
import { Process } from "./_process.ts";
import { BEGUN, caCerts, certificate, NAME, Secured } from "./_secured.ts";
import {
  ask,
  echo,
  HERE,
  LOOPBACK,
  MIB,
  onLinux,
  Peer,
  Queue,
  standstill,
  test,
  until,
} from "./_served.ts";

// Descriptors, counted by the process that they belong to

/** A program that says all the time how many descriptors it has. */
function counting(program: string): Process {
  return new Process(Deno.execPath(), [
    "eval",
    `import { createTcpClient, createTcpServer } from "./mod.ts";
    // Deno opens descriptors for signals half a second after it has started: not then.
    Deno.addSignalListener("SIGUSR2", () => {});
    ${program}
    setInterval(() => {
      console.log([...Deno.readDirSync("/proc/self/fd")].length);
    }, 10);`,
  ]);
}

function countingServer(port: number, options: TCPServerOptions): Process {
  return counting(`
    const options = ${JSON.stringify({ ...HERE, ...options })};
    const server = createTcpServer(${port}, (message, client) => {
      while (server.getConnectedClients().length > 0) {
        server.send("x".repeat(65_536), client).catch(() => {});
      }
    }, { ...options, onError: () => {} });
  `);
}

/** Reads counts until one is right. */
async function counted(
  process: Process,
  isRight: (count: number) => boolean,
): Promise<number> {
  for (;;) {
    const count = Number(await process.read());
    if (isRight(count)) return count;
  }
}

test(
  "ServerTLSOptions.handshakeTimeout frees the descriptor of a client that stays",
  async () => {
    using port = freePort();
    const tls = { ...certificate, handshakeTimeout: 1500 };
    await using server = countingServer(port.port, { tls });
    const before = await counted(server, () => true);
    using peers = new DisposableStack();
    for (let n = 0; n < 20; n++) {
      const conn = await Deno.connect({ ...HERE, port: port.wire });
      const peer = peers.use(new Peer(conn));
      if (n % 2) await peer.write(BEGUN);
    }
    await counted(server, (count) => count > before);
    await counted(server, (count) => count === before);
  },
  { ignore: !onLinux },
);

test(
  "TCPServer with tls frees the descriptor of a slow client that stays",
  async () => {
    using port = freePort();
    await using server = countingServer(port.port, {
      tls: certificate,
      maxSendBufferBytes: MIB,
    });
    const before = await counted(server, () => true);
    const conn = await Deno.connectTls({ ...HERE, port: port.wire, caCerts });
    using peer = new Peer(conn);
    await conn.handshake();
    await counted(server, (count) => count > before);
    await peer.write("flood me\x03");
    await counted(server, (count) => count === before);
  },
  { ignore: !onLinux },
);

test(
  "TCPClientOptions.tls keeps the descriptor of a server that never answers until it leaves",
  async () => {
    using port = freePort();
    using silent = new DisposableStack();
    using listener = Deno.listen({ ...HERE, port: port.wire });
    await using client = counting(`
      const options = { tls: true, connectTimeout: 50 };
      await createTcpClient("${LOOPBACK}", ${port.port}, options).catch(() => {});
    `);
    silent.use(await listener.accept());
    const held = await counted(client, () => true);
    silent.dispose();
    await counted(client, (count) => count === held - 1);
  },
  { ignore: !onLinux },
);

// The socket of plain TCP

test("TCPServer with tls turns Nagle's algorithm off and keep-alive on", async () => {
  const calls: unknown[] = [];
  const { listen } = Deno;
  using stack = new DisposableStack();
  stack.defer(() => Reflect.set(Deno, "listen", listen));
  Reflect.set(Deno, "listen", (options: Deno.TcpListenOptions) => {
    const listener = listen(options);
    const accept = listener.accept.bind(listener);
    listener.accept = async () => {
      const conn = await accept();
      conn.setNoDelay = (on) => calls.push(["noDelay", on]);
      conn.setKeepAlive = (on) => calls.push(["keepAlive", on]);
      return conn;
    };
    return listener;
  });
  await using served = new Secured(echo);
  await using client = await served.client();
  assertEquals(await ask(client, "Hello"), "Hello");
  assertEquals(calls, [["noDelay", true], ["keepAlive", true]]);
});

test("TCPServer.unref() with tls lets the script end", async () => {
  using port = freePort();
  await using child = new Process(Deno.execPath(), [
    "eval",
    `import { createTcpClient, createTcpServer } from "./mod.ts";
    const options = ${
      JSON.stringify({
        ...HERE,
        tls: { ...certificate, handshakeTimeout: 3e6 },
      })
    };
    const server = createTcpServer(${port.port}, (message) => message, options);
    const tls = { caCerts: ${JSON.stringify(caCerts)} };
    const client = await createTcpClient("${LOOPBACK}", ${port.port}, { tls });
    await client.send("Hello");
    console.log(await client.receive());
    const hanging = await Deno.connect({ hostname: "${LOOPBACK}", port: ${port.wire} });
    server.unref();`,
  ]);
  assertEquals(await child.ended(), { code: 0, stdout: "Hello\n", stderr: "" });
});

test("TCPServer.stop() inside allow with tls waits for no handshake", async () => {
  await using served = new Secured(undefined, {
    tls: { ...certificate, handshakeTimeout: Infinity },
    allow: () => {
      served.server.stop();
      return true;
    },
  });
  using _peer = await served.peer();
  await served.server.finished;
});

test("TCPServer.stop() and TCPClient.disconnect() with tls at once are orderly ends", async () => {
  for (let n = 0; n < 20; n++) {
    await using served = new Secured(echo);
    await using client = await served.client();
    assertEquals(await ask(client, "Hello"), "Hello");
    await Promise.all([served.server.stop(), client.disconnect()]);
    const [address, error] = await served.disconnected.next();
    assertEquals([address, error], [client.localAddress, undefined]);
  }
});

// What a network does to the bytes

/** Passes bytes on between a client and the server, and may do worse. */
class Relay implements AsyncDisposable {
  readonly #port = freePort();
  readonly #listener = Deno.listen({ ...HERE, port: this.#port.wire });
  readonly #conns: Deno.TcpConn[] = [];
  #passing: Promise<unknown> | undefined;
  /** What becomes of bytes from the client. */
  change = (bytes: Uint8Array): Uint8Array => bytes;
  /** How many bytes to pass on at once. */
  size = () => Infinity;

  async client(wire: number): Promise<TCPClient> {
    const connecting = createTcpClient(LOOPBACK, this.#port.port, {
      tls: { caCerts },
    });
    const inner = await this.#listener.accept();
    const outer = await Deno.connect({ ...HERE, port: wire });
    outer.setNoDelay(true);
    this.#conns.push(inner, outer);
    this.#passing = Promise.allSettled([
      this.#pass(inner, outer, (bytes) => this.change(bytes)),
      this.#pass(outer, inner, (bytes) => bytes),
    ]);
    return await connecting;
  }

  async #pass(
    from: Deno.TcpConn,
    to: Deno.TcpConn,
    change: (bytes: Uint8Array) => Uint8Array,
  ): Promise<void> {
    const buffer = new Uint8Array(65_536);
    for (let count; (count = await from.read(buffer)) !== null;) {
      const bytes = change(buffer.slice(0, count));
      for (let rest = bytes; rest.length > 0;) {
        rest = rest.subarray(await to.write(rest.subarray(0, this.size())));
      }
    }
    await to.closeWrite();
  }

  /** Ends what goes to the server, without the alert that announces it. */
  async cut(): Promise<void> {
    await this.#conns[1]?.closeWrite();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const conn of this.#conns) conn.close();
    this.#listener.close();
    await this.#passing;
    this.#port[Symbol.dispose]();
  }
}

test("TCPServer with tls tells a connection that was cut from one that has ended", async () => {
  await using served = new Secured(echo);
  await using relay = new Relay();
  await using client = await relay.client(served.wire);
  assertEquals(await ask(client, "Hello"), "Hello");
  await relay.cut();
  const [, error] = await served.disconnected.next();
  assertInstanceOf(error, Deno.errors.UnexpectedEof);
});

/** Passes on what comes, until either side is gone. */
async function pass(from: Deno.TcpConn, to: Deno.TcpConn): Promise<void> {
  const buffer = new Uint8Array(65_536);
  try {
    for (let count; (count = await from.read(buffer)) !== null;) {
      for (let rest = buffer.subarray(0, count); rest.length > 0;) {
        rest = rest.subarray(await to.write(rest));
      }
    }
  } catch {
    // The test has ended it.
  }
}

/** Reads messages of a peer as they come, until it is gone. */
async function collect(peer: Peer<Deno.TlsConn>, into: string[]) {
  try {
    for (let text; (text = await peer.read()) !== null;) {
      into.push(text.trimEnd());
    }
  } catch {
    // It was cut off.
  }
}

test("TCPClient with reconnect and tls sends nothing twice that it was sending when it was cut off, also if onDisconnect computes", async () => {
  using stack = new DisposableStack();
  const outside = stack.use(freePort());
  const relay = stack.use(Deno.listen({ ...HERE, port: outside.wire }));
  const listener = stack.use(
    Deno.listenTls({ ...HERE, port: 0, ...certificate }),
  );
  const passing: Promise<void>[] = [];
  const accept = async () => {
    const inner = stack.use(await relay.accept());
    const [outer, conn] = await Promise.all([
      Deno.connect({ ...HERE, port: listener.addr.port }),
      listener.accept(),
    ]);
    stack.use(outer);
    passing.push(pass(outer, inner));
    return { inner, outer, peer: stack.use(new Peer(conn)) };
  };
  const gone = Promise.withResolvers<void>();
  const connecting = createTcpClient(LOOPBACK, outside.port, {
    tls: { caCerts },
    reconnect: { firstDelay: 1, jitter: 0 },
    onDisconnect: async () => {
      gone.resolve();
      for (let n = 0; n < 20; n++) await null;
      for (const end = performance.now() + 400; performance.now() < end;);
    },
  });
  const first = await accept();
  // Only the handshake passes at first.
  let open = Promise.resolve();
  const gate = Promise.withResolvers<void>();
  const read = first.inner.read.bind(first.inner);
  first.inner.read = (room) => open.then(() => read(room));
  passing.push(pass(first.inner, first.outer));
  await first.peer.conn.handshake();
  await using client = await connecting;
  open = gate.promise;

  // More than the buffers of all kernels hold.
  const count = 24 * 1024;
  const texts = Array.from({ length: count }, (_, n) => `${n}`);
  const sends = texts.map((text) => client.send(text.padEnd(1023)));
  await standstill(() => client.stats.bytesOut, () => delay(1));
  // Without the alert that announces it.
  await first.inner.closeWrite();
  await gone.promise;
  gate.resolve();
  const before: string[] = [];
  const after: string[] = [];
  passing.push(collect(first.peer, before));
  const second = await accept();
  passing.push(pass(second.inner, second.outer), collect(second.peer, after));
  await Promise.all(sends);
  await client.disconnect();
  await until(() => after.at(-1) === texts.at(-1));
  await standstill(() => before.length, () => delay(1));
  assert(before.length > 0 && after.length > 0);
  const twice = new Set(before).intersection(new Set(after));
  assertEquals([...twice], []);
  stack.dispose();
  await Promise.all(passing);
});

test("TCPServer with tls takes nothing that was changed on the way", async () => {
  const received = new Queue<string>();
  await using served = new Secured((message) => {
    received.put(message);
    return message;
  });
  await using relay = new Relay();
  await using client = await relay.client(served.wire);
  assertEquals(await ask(client, "Hello"), "Hello");
  relay.change = (bytes) => bytes.with(-1, (bytes.at(-1) ?? 0) ^ 1);
  await client.send("MOVE 1");
  const [, error] = await served.disconnected.next();
  assertInstanceOf(error, Deno.errors.InvalidData);
  assertEquals(received.all, ["Hello"]);
});

test("TCPServer and TCPClient with tls take records in any pieces", async () => {
  await using served = new Secured(echo);
  await using relay = new Relay();
  relay.size = () => 1 + Math.floor(Math.random() ** 4 * 20_000);
  await using client = await relay.client(served.wire);
  const sent = [
    ...Array.from({ length: 2_000 }, (_, n) => `small ${n}`),
    "x".repeat(MIB),
    ...Array.from({ length: 20 }, (_, n) => `${n}`.padEnd(16_384 + n)),
    "é".repeat(MIB / 2),
  ];
  const sending = Promise.all(sent.map((message) => client.send(message)));
  for (const message of sent) assert(await client.receive() === message);
  await sending;
  await client.disconnect();
  assertEquals(
    await served.disconnected.next().then(([, error]) => error),
    undefined,
  );
});

// Whom a client trusts

/** A certificate of version 1 that names the authority, and that it has not signed. */
async function forge(): Promise<{ cert: string; key: string }> {
  const mallory = await Authority.create("Cell");
  const { cert, key } = await mallory.issue([NAME]);
  const der = Uint8Array.fromBase64(cert.replaceAll(/-----.*-----|\s/g, ""));
  const version3 = [0xa0, 3, 2, 1, 2];
  const at = der.findIndex((_, n) =>
    version3.every((byte, k) => der[n + k] === byte)
  );
  assertGreaterOrEqual(at, 0);
  der[at + 4] = 0;
  const lines = der.toBase64().replaceAll(/.{64}/g, "$&\n");
  const [begin, end] = ["BEGIN", "END"].map((word) =>
    `-----${word} CERTIFICATE-----`
  );
  return { cert: `${begin}\n${lines}\n${end}\n`, key };
}

// Node's TLS in Deno 2.9 takes it, which is why the client has Deno's own.
test("createTcpClient() with tls refuses a forged certificate of version 1", async () => {
  using port = freePort();
  const server = createServer(await forge());
  server.on("tlsClientError", () => {});
  const { promise: listening, resolve } = Promise.withResolvers<void>();
  server.listen(port.wire, LOOPBACK, resolve);
  await listening;
  try {
    const tls = { caCerts, serverName: NAME };
    await assertRejects(
      () => createTcpClient(LOOPBACK, port.port, { tls }),
      Deno.errors.InvalidData,
      "invalid peer certificate",
    );
  } finally {
    await new Promise((resolve) => server.close(resolve));
  }
});
