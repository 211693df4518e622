// deno run --no-prompt --unstable-net --allow-net=127.0.0.1:4465,127.0.0.1:4466 examples/udp_receiver.ts 127.0.0.1 70002

// Waits for one datagram and answers it; the second address of --allow-net is
// the sender that it may answer. Without arguments it listens on every
// interface, which takes --allow-net (or 0.0.0.0:4466 and the senders). Keep
// --no-prompt: a sender without permission would make Deno ask, and wait.

import { createUdpSocket } from "@daystar/comm";

const [hostname = "0.0.0.0", port = "70002"] = Deno.args;

using receiver = createUdpSocket(Number(port), { hostname });
console.log(`Listening on ${receiver.address}`);
const result = await receiver.receive({ timeout: 10_000 });
if (result !== null) {
  const [message, senderAddr] = result;
  console.log(`Received: ${message} from: ${senderAddr}`);
  try {
    await receiver.send(`Reply: ${message}`, senderAddr);
  } catch (error) {
    // Anybody may have sent it, from where nobody can be answered.
    console.error(Error.isError(error) ? error.message : error);
  }
}
