// Why: the robot's own side is Python, and anything else speaks plain sockets;
// both must understand us, and we them, through the default wire ports.

import { assert, assertEquals, assertRejects, fail } from "@std/assert";
import { deadline } from "@std/async";
import {
  type Address,
  ClosedError,
  createTcpClient,
  createTcpServer,
  createUdpSocket,
} from "../mod.ts";
import { LOOPBACK, LOOPBACK_BROADCAST, onLinux } from "./_machine.ts";
import { type FreePort, freePort } from "./_ports.ts";
import { isInstalled, PATIENCE, Process, python, WAIT } from "./_process.ts";

/** What goes wrong when bytes, characters and messages are confused. */
const MESSAGES = [
  "Hello",
  "",
  "\uFEFFa BOM at the start",
  "你好，机器人",
  "🤖 🦾 👩‍🔧",
  "lines\r\nand \0 and \x02 and \x04",
];
/** 300 KiB of characters of three bytes, which no buffer size divides. */
const LARGE = "机".repeat(100 * 1024);
const MANY = Array.from({ length: 1_000 }, (_, i) => `message ${i} 号`);

const hasPython = isInstalled("python3");
const hasSocat = isInstalled("socat");
/** Elsewhere loopback has no broadcast address. */

function line(message: string): string {
  return JSON.stringify(message) + "\n";
}

async function readJson(peer: Process): Promise<unknown> {
  return JSON.parse(await peer.read());
}

/** Ends a peer in which nothing went wrong. */
async function end(peer: Process): Promise<void> {
  const { code, stderr } = await peer.end();
  assertEquals({ code, stderr }, { code: 0, stderr: "" });
}

/** Like assertEquals, which is slow and floods the screen at 300 KiB. */
function assertMessage(actual: unknown, expected: string): void {
  const show = (value: unknown) =>
    Deno.inspect(value, { strAbbreviateSize: 80 });
  if (actual !== expected) {
    fail(`received ${show(actual)} instead of ${show(expected)}`);
  }
}

Deno.test({
  name: "Python TCP server: answers TCPClient",
  ignore: !hasPython,
  async fn() {
    using port = freePort();
    await using server = await python("tcp-echo-server", port.port);
    await using client = await createTcpClient(LOOPBACK, port.port);
    for (const message of [...MESSAGES, LARGE]) {
      await client.send(message);
      assertMessage(await client.receive(WAIT), message);
    }
    await client.disconnect();
    await end(server);
  },
});

Deno.test({
  name: "Python TCP server: answers 1,000 pipelined messages in order",
  ignore: !hasPython,
  async fn() {
    using port = freePort();
    await using server = await python("tcp-echo-server", port.port);
    await using client = await createTcpClient(LOOPBACK, port.port);
    const sent = Promise.all(MANY.map((message) => client.send(message)));
    for (const message of MANY) {
      assertMessage(await client.receive(WAIT), message);
    }
    await sent;
    await client.disconnect();
    await end(server);
  },
});

Deno.test({
  name: "Python TCP server: send_to_all reaches every TCPClient, then it stops",
  ignore: !hasPython,
  async fn() {
    using port = freePort();
    await using server = await python("tcp-echo-server", port.port);
    await using first = await createTcpClient(LOOPBACK, port.port);
    await using second = await createTcpClient(LOOPBACK, port.port);
    for (const client of [first, second]) {
      // An answer means that the server has accepted the client.
      await client.send("are you there?");
      assertMessage(await client.receive(WAIT), "are you there?");
    }
    for (const message of [...MESSAGES, LARGE]) {
      await server.write(line(message));
      assertMessage(await first.receive(WAIT), message);
      assertMessage(await second.receive(WAIT), message);
    }
    await end(server);
    await assertRejects(() => first.receive(WAIT), ClosedError);
    assertEquals(await Array.fromAsync(second), []);
  },
});

Deno.test({
  name: "Python TCP client: is answered by TCPServer",
  ignore: !hasPython,
  async fn() {
    using port = freePort();
    const seen: string[] = [];
    await using _server = createTcpServer(port.port, (message) => {
      seen.push(message);
      return message;
    }, { hostname: LOOPBACK });
    await using client = await python("tcp-client", port.port);
    for (const message of [...MESSAGES, LARGE]) {
      await client.write(line(message));
      assertMessage(await readJson(client), message);
      assertMessage(seen.pop(), message);
    }
    await end(client);
  },
});

Deno.test({
  name: "Python TCP client: is answered 1,000 pipelined messages in order",
  ignore: !hasPython,
  async fn() {
    using port = freePort();
    await using _server = createTcpServer(
      port.port,
      (message) => message,
      { hostname: LOOPBACK },
    );
    await using client = await python("tcp-client", port.port);
    const written = client.write(MANY.map(line).join(""));
    for (const message of MANY) assertMessage(await readJson(client), message);
    await written;
    await end(client);
  },
});

Deno.test({
  name: "Python TCP client: gets what TCPServer pushes, to it and to all",
  ignore: !hasPython,
  async fn() {
    using port = freePort();
    const connected = Promise.withResolvers<Address>();
    const gone = Promise.withResolvers<Address>();
    await using server = createTcpServer(port.port, undefined, {
      hostname: LOOPBACK,
      onConnect: connected.resolve,
      onDisconnect: gone.resolve,
    });
    await using client = await python("tcp-client", port.port);
    const address = await deadline(connected.promise, PATIENCE);
    assertEquals(server.getConnectedClients(), [address]);
    for (const message of [...MESSAGES, LARGE]) {
      await server.send(message, address);
      assertMessage(await readJson(client), message);
      assertEquals(await server.sendToAll(message), 1);
      assertMessage(await readJson(client), message);
    }
    await client.end();
    assertEquals(await deadline(gone.promise, PATIENCE), address);
    assertEquals(server.getConnectedClients(), []);
    assertEquals(await server.sendToAll("nobody"), 0);
  },
});

Deno.test({
  name: "Python TCP client: sees TCPServer stop, after what it still sent",
  ignore: !hasPython,
  async fn() {
    using port = freePort();
    const connected = Promise.withResolvers<Address>();
    await using server = createTcpServer(port.port, undefined, {
      hostname: LOOPBACK,
      onConnect: connected.resolve,
    });
    await using client = await python("tcp-client", port.port);
    await deadline(connected.promise, PATIENCE);
    const sent = server.sendToAll(LARGE);
    await server.stop();
    assertEquals(await sent, 1);
    assertMessage(await readJson(client), LARGE);
    assertEquals(await client.read(), "closed");
    await end(client);
  },
});

Deno.test({
  name: "Python UDP socket: exchanges messages with UDPSocket",
  ignore: !hasPython,
  async fn() {
    using port = freePort();
    using peerPort = freePort();
    await using peer = await python("udp-echo", peerPort.port);
    using socket = createUdpSocket(port.port, { hostname: LOOPBACK });
    // The last one is the largest datagram there is.
    for (const message of [...MESSAGES, "机".repeat(21_835) + "ab"]) {
      await socket.send(message, [LOOPBACK, peerPort.port]);
      const [seen, sender] = await readJson(peer) as [string, Address];
      assertMessage(seen, message);
      assertEquals(sender, [LOOPBACK, port.port]);
      const [echo, from] = await socket.receive(WAIT) ?? fail("timed out");
      assertMessage(echo, message);
      assertEquals(from, [LOOPBACK, peerPort.port]);
    }
    await end(peer);
  },
});

Deno.test({
  name: "Python UDP socket: is answered by UDPSocket at its sender address",
  ignore: !hasPython,
  async fn() {
    using port = freePort();
    using peerPort = freePort();
    using socket = createUdpSocket(port.port, { hostname: LOOPBACK });
    await using peer = await python(
      "udp-send",
      peerPort.port,
      LOOPBACK,
      port.port,
    );
    for (const message of MESSAGES) {
      await peer.write(line(message));
      const [seen, sender] = await socket.receive(WAIT) ?? fail("timed out");
      assertMessage(seen, message);
      assertEquals(sender, [LOOPBACK, peerPort.port]);
      await socket.send(`Reply: ${message}`, sender);
      assertEquals(await readJson(peer), [
        `Reply: ${message}`,
        [LOOPBACK, port.port],
      ]);
    }
    await end(peer);
  },
});

Deno.test({
  name: "Python UDP socket: broadcasts to UDPSocket",
  ignore: !hasPython || !onLinux,
  async fn() {
    using port = freePort();
    using peerPort = freePort();
    using socket = createUdpSocket(port.port, { hostname: LOOPBACK_BROADCAST });
    await using peer = await python(
      "udp-broadcast",
      peerPort.port,
      LOOPBACK_BROADCAST,
      port.port,
    );
    await peer.write(line("你好 all"));
    assertEquals(await socket.receive(WAIT), [
      "你好 all",
      [LOOPBACK, peerPort.port],
    ]);
    await end(peer);
  },
});

Deno.test({
  name: "Python UDP socket: gets what UDPSocket broadcasts, and answers",
  ignore: !hasPython || !onLinux,
  async fn() {
    using port = freePort();
    using peerPort = freePort();
    await using peer = await python(
      "udp-echo",
      peerPort.port,
      LOOPBACK_BROADCAST,
    );
    using socket = createUdpSocket(port.port, { hostname: LOOPBACK });
    socket.enableBroadcast();
    await socket.send("你好 all", [LOOPBACK_BROADCAST, peerPort.port]);
    assertEquals(await socket.receive(WAIT), [
      "你好 all",
      [LOOPBACK, peerPort.port],
    ]);
    await end(peer);
  },
});

Deno.test({
  name: "Python peer: takes communication ports only, as the robot does",
  ignore: !hasPython,
  async fn() {
    for (const port of ["69999", "71001", "4465"]) {
      await using peer = new Process("python3", [
        "-B",
        "tests/peers/peer.py",
        "tcp-client",
        port,
      ]);
      const { code, stderr } = await peer.end();
      assertEquals(code, 1);
      assert(stderr.includes(`ValueError: port ${port}`), stderr);
    }
  },
});

/** socat with its other end at `address`, and our end its stdin and stdout. */
function socat(address: string): Process {
  // -t: after the end of stdin it waits that long for the peer to end as well.
  return new Process("socat", ["-t", "20", "-", address]);
}

Deno.test({
  name: "socat: a one-shot client of TCPServer gets its reply and the end",
  ignore: !hasSocat,
  async fn() {
    using port = freePort();
    await using _server = createTcpServer(
      port.port,
      (message) => `Echo: ${message}`,
      { hostname: LOOPBACK },
    );
    await using client = socat(`TCP:${LOOPBACK}:${port.wire}`);
    await client.write("hello\x03你好\x03");
    // Ends its direction at once: the replies must come all the same.
    assertEquals(await client.end(), {
      code: 0,
      stdout: "Echo: hello\x03Echo: 你好\x03",
      stderr: "",
    });
  },
});

Deno.test({
  name: "socat: a client of TCPServer gets replies and pushes",
  ignore: !hasSocat,
  async fn() {
    using port = freePort();
    const gone = Promise.withResolvers<Address>();
    await using server = createTcpServer(
      port.port,
      (message) => `Echo: ${message}`,
      { hostname: LOOPBACK, onDisconnect: gone.resolve },
    );
    await using client = socat(`TCP:${LOOPBACK}:${port.wire}`);
    await client.write("in ");
    await client.write("pieces\x03\x03");
    assertEquals(await client.read("\x03"), "Echo: in pieces");
    assertEquals(await client.read("\x03"), "Echo: ");
    assertEquals(await server.sendToAll("Broadcast message"), 1);
    assertEquals(await client.read("\x03"), "Broadcast message");
    await end(client);
    await deadline(gone.promise, PATIENCE);
  },
});

/** socat as a server for one client, once it listens. */
async function socatServer(port: FreePort): Promise<Process> {
  const server = new Process("socat", [
    "-d",
    "-d",
    "-t",
    "20",
    "-",
    `TCP-LISTEN:${port.wire},bind=${LOOPBACK},reuseaddr`,
  ]);
  await server.readError("listening on");
  return server;
}

Deno.test({
  name: "socat: a server exchanges messages with TCPClient",
  ignore: !hasSocat,
  async fn() {
    using port = freePort();
    await using server = await socatServer(port);
    await using client = await createTcpClient(LOOPBACK, port.port);
    for (const message of MESSAGES) {
      await client.send(message);
      assertMessage(await server.read("\x03"), message);
      await server.write(`${message}\x03`);
      assertMessage(await client.receive(WAIT), message);
    }
    await server.write("last\x03incomplete");
    const ending = server.end();
    assertMessage(await client.receive(WAIT), "last");
    const error = await assertRejects(() => client.receive(WAIT), ClosedError);
    assertEquals(error.incomplete, new TextEncoder().encode("incomplete"));
    await client.disconnect();
    assertEquals((await ending).code, 0);
  },
});

Deno.test({
  name: "socat: TCPClient disconnects without losing what it sent",
  ignore: !hasSocat,
  async fn() {
    using port = freePort();
    await using server = await socatServer(port);
    await using client = await createTcpClient(LOOPBACK, port.port);
    await server.write("never received\x03");
    const sent = client.send(LARGE);
    await client.disconnect();
    await sent;
    assertMessage(await server.read("\x03"), LARGE);
    assertEquals((await server.end()).stdout, "");
  },
});

Deno.test({
  name: "socat: UDPSocket answers a sender outside the range",
  ignore: !hasSocat,
  async fn() {
    using port = freePort();
    using socket = createUdpSocket(port.port, { hostname: LOOPBACK });
    await using peer = socat(`UDP:${LOOPBACK}:${port.wire}`);
    for (const message of ["hello", "你好 \x03 is ordinary"]) {
      await peer.write(message);
      const [seen, sender] = await socket.receive(WAIT) ?? fail("timed out");
      assertEquals(seen, message);
      // The kernel's choice, above the wire ports, so it is shown as it is.
      assertEquals(sender[0], LOOPBACK);
      assert(sender[1] > 5464 && sender[1] < 65_536, `port ${sender[1]}`);
      await socket.send(`Reply: ${message}\n`, sender);
      assertEquals(await peer.read(), `Reply: ${message}`);
    }
  },
});

Deno.test({
  name: "socat: UDPSocket exchanges messages with a wire port in the range",
  ignore: !hasSocat,
  async fn() {
    using port = freePort();
    using peerPort = freePort();
    using socket = createUdpSocket(port.port, { hostname: LOOPBACK });
    await using peer = socat(
      `UDP:${LOOPBACK}:${port.wire},bind=${LOOPBACK}:${peerPort.wire}`,
    );
    await peer.write("hello");
    assertEquals(await socket.receive(WAIT), [
      "hello",
      [LOOPBACK, peerPort.port],
    ]);
    await socket.send("你好\n", [LOOPBACK, peerPort.port]);
    assertEquals(await peer.read(), "你好");
  },
});
