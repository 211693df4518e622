// deno run --no-prompt --unstable-net --allow-net=127.0.0.1:4465,127.0.0.1:4466,127.0.0.1:4467 examples/gateway.ts 127.0.0.1 70001 70002 127.0.0.1 70003

// A gateway between TCP and UDP: what any TCP client says goes on as a datagram
// to one UDP address, and what comes back from there goes to all TCP clients.
// Arguments: address, TCP port, UDP port, and the UDP address and port to hand
// messages on to. On every interface that takes, for instance,
// --allow-net=0.0.0.0:4465,0.0.0.0:4466,192.168.1.100:4467.

import {
  CommunicationError,
  createTcpServer,
  createUdpSocket,
} from "@daystar/comm";

const [
  hostname = "0.0.0.0",
  tcpPort = "70001",
  udpPort = "70002",
  ip = "192.168.1.100",
  port = "70003",
] = Deno.args;

/** The longest datagram; a TCP client that sends more is disconnected. */
const maxMessageBytes = 65_507;

using socket = createUdpSocket(Number(udpPort), {
  hostname,
  // Anybody may send to a UDP port, and not everybody is meant.
  allow: ([sender]) => sender === ip,
});
await using server = createTcpServer(
  Number(tcpPort),
  async (message) => await socket.send(message, [ip, Number(port)]),
  { hostname, maxMessageBytes },
);
console.log(`From TCP ${server.address} to UDP ${ip},${port}, Ctrl-C stops`);

let open = true;
Deno.addSignalListener("SIGINT", () => {
  open = false;
  socket.close();
});

while (open) {
  try {
    for await (const [message] of socket) await server.sendToAll(message);
  } catch (error) {
    // Not UTF-8, or with U+0003 in it, which TCP has no way to send.
    const harmless = error instanceof CommunicationError ||
      error instanceof TypeError;
    if (!harmless) throw error;
    console.error(`Dropped a datagram: ${error.message}`);
  }
}
