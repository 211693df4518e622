// deno run --no-prompt --allow-net=127.0.0.1:4465 examples/line_pc.ts 127.0.0.1 70001 2 5

// A line PC that hands parts out to a fleet of robots. It waits for so many
// robots, tells all of them to start, gives each one a part whenever it is
// ready, and sends all of them home when every part is done:
//
//   robot → line PC    READY              give me work
//                      DONE 3             part 3 is done
//   line PC → robot    START, HOME        to all of them
//                      PICK 3             to the one that is ready
//
// The part of a robot that disconnects goes to another one. A robot sends an empty
// message now and then, which is answered: one that is silent for five seconds is
// gone too. line_robot.ts is such a robot. Arguments: address,
// port, robots, parts. Without them it listens on every interface, which takes
// --allow-net=0.0.0.0:4465.

import { type Address, ClosedError, createTcpServer } from "@daystar/comm";

const [hostname = "0.0.0.0", port = "70001", robots = "2", parts = "5"] =
  Deno.args;

const waiting = Array.from({ length: Number(parts) }, (_, i) => `${i + 1}`);
const idle: Address[] = [];
/** Who works on what, by `String(address)`. */
const working = new Map<string, string>();
let done = 0;
let started = false;
const finished = Promise.withResolvers<void>();

function handleMessage(message: string, robot: Address): string | void {
  if (message === "") return ""; // alive
  const [word, part] = message.split(" ");
  if (word === "DONE" && part && part === working.get(String(robot))) {
    working.delete(String(robot));
    console.log(`${robot} has done part ${part}`);
    if (++done === Number(parts)) finished.resolve();
  } else if (word === "READY" && !working.has(String(robot))) {
    forget(robot);
    idle.push(robot);
    handOut();
  } else {
    throw new Error(`${JSON.stringify(message)} does not fit`);
  }
}

/** A part for each robot that is ready, as far as there are any. */
function handOut(): void {
  while (started && idle.length > 0 && waiting.length > 0) {
    const [robot, part] = [idle.shift()!, waiting.shift()!];
    working.set(String(robot), part);
    server.send(`PICK ${part}`, robot).catch((error) => {
      // It has just gone, and onDisconnect takes its part back.
      if (!(error instanceof ClosedError)) throw error;
    });
  }
}

async function welcome(robot: Address): Promise<void> {
  console.log(`${robot} is here`);
  if (started) return server.send("START", robot);
  if (server.getConnectedClients().length < Number(robots)) return;
  started = true;
  console.log(`Started ${await server.sendToAll("START")} robots`);
  handOut();
}

function forget(robot: Address): void {
  const at = idle.findIndex((other) => String(other) === String(robot));
  if (at >= 0) idle.splice(at, 1);
}

function goodbye(robot: Address, error?: Error): void {
  forget(robot);
  const part = working.get(String(robot));
  working.delete(String(robot));
  const why = error ? `: ${error.message}` : "";
  console.log(`${robot} is gone${part ? ` with part ${part}` : ""}${why}`);
  if (part) {
    waiting.unshift(part);
    handOut();
  }
}

await using server = createTcpServer(Number(port), handleMessage, {
  hostname,
  idleTimeout: 5_000,
  onConnect: welcome,
  onDisconnect: goodbye,
  onError: (error, robot) => console.error(`${robot}: ${error.message}`),
});
console.log(`Listening on ${server.address} for ${robots} robots`);

await finished.promise;
console.log(`Sent ${await server.sendToAll("HOME")} robots home`);
