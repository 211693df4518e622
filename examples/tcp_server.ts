// deno run --no-prompt --allow-net=127.0.0.1:4465 examples/tcp_server.ts 127.0.0.1 70001

// Answers every message until Ctrl-C, then pushes one to all clients and stops.
// Without arguments it listens on every interface, which takes
// --allow-net=0.0.0.0:4465.

import { type Address, createTcpServer } from "@daystar/comm";

const [hostname = "0.0.0.0", port = "70001"] = Deno.args;

function handleMessage(message: string, clientAddr: Address): string {
  console.log(`Received from ${clientAddr}: ${message}`);
  return `Echo: ${message}`; // what is returned is sent as the reply
}

const server = createTcpServer(Number(port), handleMessage, { hostname });
console.log(`Listening on ${server.address}, Ctrl-C stops`);

const interrupted = Promise.withResolvers<void>();
Deno.addSignalListener("SIGINT", interrupted.resolve);
await interrupted.promise;
Deno.removeSignalListener("SIGINT", interrupted.resolve);

// Proactively push message to all clients
await server.sendToAll("Broadcast message");

// Stop server
await server.stop();
