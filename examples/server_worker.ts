// deno run --no-prompt --allow-read=. --allow-net=127.0.0.1:4465 examples/server_worker.ts 127.0.0.1 70001

// A server that answers while the script computes and does not await: it runs in
// a Worker, which is this file again and takes --allow-read, and both see the
// same few numbers in shared memory. A client that sends "status" is told how
// far it is, and "stop" ends it. Without arguments it listens on every
// interface, which takes --allow-net=0.0.0.0:4465.

import { createTcpServer } from "@daystar/comm";

const [hostname = "0.0.0.0", port = "70001"] = Deno.args;
const STEPS = 0;
const STOP = 1;

if (self.name === "server") {
  addEventListener("message", (event) => {
    if (event instanceof MessageEvent) serve(event.data);
  });
} else {
  const shared = new Int32Array(new SharedArrayBuffer(8));
  const worker = new Worker(import.meta.url, {
    type: "module",
    name: "server",
  });
  worker.postMessage(shared);
  compute(shared);
}

/** In the Worker: answers from what it sees in shared memory. */
function serve(shared: Int32Array): void {
  const server = createTcpServer(Number(port), (message) => {
    if (message === "status") return `${Atomics.load(shared, STEPS)} steps`;
    if (message !== "stop") return "unknown";
    Atomics.store(shared, STOP, 1);
    server.stop().then(() => self.close());
    return "stopping";
  }, { hostname });
  console.log(`Listening on ${server.address}`);
}

/** In the script: computes without a pause, in the place of your own work. */
function compute(shared: Int32Array): void {
  while (Atomics.load(shared, STOP) === 0) {
    for (let x = 0; x < 1_000_000; x++) Math.sqrt(x);
    Atomics.add(shared, STEPS, 1);
  }
  console.log(`Stopped after ${Atomics.load(shared, STEPS)} steps`);
}
