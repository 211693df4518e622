// deno run --no-prompt --unstable-net --allow-net=127.0.0.1:4465,127.255.255.255:4466 examples/udp_broadcast.ts 127.255.255.255 70002 127.0.0.1 70001

// Sends one datagram to everyone on a network, from an address. Without
// arguments that is the network this machine is in, which takes
// --allow-net=0.0.0.0:4465,255.255.255.255:4466.

import { createUdpSocket } from "@daystar/comm";

const [
  ip = "255.255.255.255",
  port = "70002",
  hostname = "0.0.0.0",
  localPort = "70001",
] = Deno.args;

using broadcaster = createUdpSocket(Number(localPort), { hostname });
broadcaster.enableBroadcast();
await broadcaster.send("Broadcast message", [ip, Number(port)]);
