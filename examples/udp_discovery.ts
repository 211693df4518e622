// deno run --no-prompt --unstable-net --allow-net=127.0.0.1:4465,127.255.255.255:4466 examples/udp_discovery.ts find 127.0.0.1 70001 127.255.255.255 70002
// deno run --no-prompt --unstable-net --allow-net=127.0.0.1:4465,127.255.255.255:4466 examples/udp_discovery.ts answer 127.255.255.255 70002 arm-1

// Who is on this network? `answer` runs on each robot, and `find` broadcasts a
// question and prints who answers within a second. On loopback, as above, a
// robot listens on the broadcast address. On a network it listens on 0.0.0.0:
//
//   find 0.0.0.0 70001 255.255.255.255 70002
//       --allow-net=0.0.0.0:4465,255.255.255.255:4466
//   answer 0.0.0.0 70002 arm-1
//       --allow-net, or 0.0.0.0:4466 and the addresses that it may answer
//
// Keep --no-prompt: without it, on a terminal, a datagram from an address without
// permission makes Deno ask for it, and everything stops until somebody answers.
//
// Datagrams get lost, so `find` asks three times and counts nobody twice.

import { createUdpSocket, InvalidMessageError } from "@daystar/comm";

const [role, hostname = "0.0.0.0", port = "", ...rest] = Deno.args;

const QUESTION = "WHO IS THERE?";
const ANSWER = "I AM ";
const ROUNDS = 3;
/** How long to wait for answers after each question, in ms. */
const PATIENCE = 350;

async function find(ip = "255.255.255.255", toPort = ""): Promise<void> {
  using socket = createUdpSocket(Number(port), { hostname });
  socket.enableBroadcast();
  const found = new Set<string>();
  for (let round = 0; round < ROUNDS; round++) {
    await socket.send(QUESTION, [ip, Number(toPort)]);
    const end = performance.now() + PATIENCE;
    for (let left = PATIENCE; left > 0; left = end - performance.now()) {
      const result = await socket.receive({ timeout: left }).catch(ignoreNoise);
      if (!result) continue;
      const [message, sender] = result;
      if (!message.startsWith(ANSWER) || found.has(String(sender))) continue;
      found.add(String(sender));
      console.log(`${message.slice(ANSWER.length)} at ${sender}`);
    }
  }
  console.log(`Found ${found.size}`);
}

async function answer(name = "robot"): Promise<void> {
  using socket = createUdpSocket(Number(port), { hostname });
  let open = true;
  Deno.addSignalListener("SIGINT", () => {
    open = false;
    socket.close();
  });
  console.log(`${name} answers on ${socket.address}, Ctrl-C stops`);
  while (open) {
    try {
      for await (const [message, sender] of socket) {
        if (message !== QUESTION) continue;
        try {
          await socket.send(`${ANSWER}${name}`, sender);
          console.log(`Answered ${sender}`);
        } catch (error) {
          // Nobody can answer a forged sender, such as one with port 0, and this
          // script has no permission for some. The next one may be meant.
          if (open) console.error(Error.isError(error) ? error.message : error);
        }
      }
    } catch (error) {
      ignoreNoise(error);
    }
  }
}

/** Anybody may send anything to a UDP port. */
function ignoreNoise(error: unknown): null {
  if (error instanceof InvalidMessageError) return null;
  throw error;
}

if (role === "find") await find(...rest);
else await answer(...rest);
