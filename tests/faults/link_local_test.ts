// Why: a link-local address means another machine on each network card, and Deno
// does not tell by which of them a datagram came.

import { assertEquals } from "@std/assert";
import {
  ANY_NETWORK,
  Namespace,
  namespaceObstacle,
  Program,
} from "../_netns.ts";

const CARDS = ["eth1", "eth2"] as const;

/** Links `here` by one of its cards to a network of another, without a switch. */
function link(here: Namespace, card: string, there: Namespace): void {
  here.ip(
    ...["link", "add", card, "type", "veth"],
    ...["peer", "name", "cable", "netns", there.name],
  );
  // Without looking for others with the same address, which takes a second.
  there.ip("address", "add", "fe80::2/64", "dev", "cable", "nodad");
  // Or the kernel adds an address of its own, and may answer from that.
  here.ip("link", "set", card, "addrgenmode", "none");
  here.ip("address", "add", "fe80::1/64", "dev", card, "nodad");
  there.ip("link", "set", "cable", "up");
  here.ip("link", "set", card, "up");
}

function ipv6Obstacle(): string | null {
  const obstacle = namespaceObstacle();
  if (obstacle !== null) return obstacle;
  try {
    using here = new Namespace();
    using there = new Namespace();
    link(here, "eth1", there);
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

const obstacle = ipv6Obstacle();
if (obstacle !== null) {
  console.warn(`Tests with link-local addresses are ignored: ${obstacle}`);
}

/** Answers by the card that the message names, and on its other port by that it is bound to. */
const HERE = `
  await using server = comm.createTcpServer(70001, (text) => "TCP " + text, {
    hostname: "::",
  });
  for (const card of ${JSON.stringify(CARDS)}) {
    const bound = comm.createUdpSocket(70002, { hostname: "fe80::1%" + card });
    (async () => {
      for await (const [text, sender] of bound) {
        await bound.send("bound " + text, sender);
      }
    })();
  }
  using socket = comm.createUdpSocket(70001, { hostname: "::" });
  console.log("ready");
  for await (const [card, [ip, port]] of socket) {
    await socket.send("named " + card, [ip + "%" + card, port]);
  }
`;

/** Asks from a communication port and from another one, and on TCP. */
function there(card: string): string {
  return `
    using socket = comm.createUdpSocket(70001, { hostname: "::" });
    const raw = Deno.listenDatagram({
      transport: "udp", hostname: "::", port: 6000,
    });
    for (const port of [70001, 70002]) {
      await socket.send("${card}", ["fe80::1%cable", port]);
      console.log((await socket.receive()).flat().join(" "));
      const bytes = new TextEncoder().encode("${card}");
      await raw.send(bytes, {
        transport: "udp",
        hostname: "fe80::1%cable",
        port: comm.wirePort(port),
      });
      console.log(new TextDecoder().decode((await raw.receive())[0]));
    }
    raw.close();
    await using client = await comm.createTcpClient("fe80::1%cable", 70001);
    await client.send("${card}");
    console.log(await client.receive(), ...client.remoteAddress);
  `;
}

Deno.test({
  name:
    "UDPSocket.send() and createTcpClient() reach a link-local address by the card it names, or the socket's own",
  ignore: obstacle !== null,
  async fn() {
    using here = new Namespace();
    using first = new Namespace();
    using second = new Namespace();
    const peers = [first, second];
    for (const [i, card] of CARDS.entries()) {
      link(here, card, peers[i] ?? first);
    }
    using answering = new Program(HERE);
    await using process = here.start(answering, ...ANY_NETWORK);
    assertEquals(await process.read(), "ready");
    for (const [i, card] of CARDS.entries()) {
      using asking = new Program(there(card));
      await using peer = (peers[i] ?? first).start(asking, ...ANY_NETWORK);
      const lines = [
        `named ${card} fe80::1 70001`,
        `named ${card}`,
        `bound ${card} fe80::1 70002`,
        `bound ${card}`,
        `TCP ${card} fe80::1%cable 70001`,
      ];
      assertEquals(await peer.ended(), {
        code: 0,
        stdout: lines.map((line) => `${line}\n`).join(""),
        stderr: "",
      });
    }
  },
});
