// deno run --no-prompt --allow-net=127.0.0.1:4465 examples/tcp_client.ts 127.0.0.1 70001

// Sends a message to a TCP server and prints the reply. Without arguments the
// server is 192.168.1.100, which takes --allow-net=192.168.1.100:4465.

import { createTcpClient } from "@daystar/comm";

const [ip = "192.168.1.100", port = "70001"] = Deno.args;

await using client = await createTcpClient(ip, Number(port));
await client.send("Hello Server");
const response = await client.receive({ timeout: 5_000 });
if (response !== null) {
  console.log(`Received reply: ${response}`);
}
