// deno run --no-prompt --unstable-net --allow-net=127.0.0.1:4465,127.0.0.1:4466 examples/udp_sender.ts 127.0.0.1 70002 127.0.0.1 70001

// Sends one datagram to an address, from an address. Without arguments it goes
// to 192.168.1.100, which takes --allow-net=0.0.0.0:4465,192.168.1.100:4466.

import { createUdpSocket } from "@daystar/comm";

const [
  ip = "192.168.1.100",
  port = "70002",
  hostname = "0.0.0.0",
  localPort = "70001",
] = Deno.args;

using sender = createUdpSocket(Number(localPort), { hostname });
await sender.send("Hello UDP", [ip, Number(port)]);
