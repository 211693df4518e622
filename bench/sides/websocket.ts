// Why: WebSocket messages over Deno.serve, as what an edge developer would pick
// instead of TCP with a terminator.

import { HOST } from "./_bytes.ts";
import { type Job, latencies, type Result, serve } from "./_jobs.ts";
import { readMessages, Tally } from "./_messages.ts";

let server: Deno.HttpServer | undefined;
let result: Promise<Result> | undefined;

/** Serves until it is shut down. */
async function start(
  { wire }: Job,
  use: (socket: WebSocket) => void,
): Promise<void> {
  await server?.shutdown();
  const { promise, resolve } = Promise.withResolvers<void>();
  server = Deno.serve(
    { hostname: HOST, port: wire, onListen: () => resolve() },
    (request) => {
      const { socket, response } = Deno.upgradeWebSocket(request);
      use(socket);
      return response;
    },
  );
  await promise;
}

/** More than this many bytes are not left waiting to be sent. */
const BEHIND = 1_048_576;

/** Sends what there is to send, and waits where the socket is behind. */
async function sendAll(
  socket: WebSocket,
  { count, file }: Job,
): Promise<Result> {
  const messages = readMessages(file);
  const start = performance.now();
  for (let i = 0; i < count; i++) {
    socket.send(messages[i % messages.length] ?? "");
    while (socket.bufferedAmount > BEHIND) await turn();
  }
  while (socket.bufferedAmount > 0) await turn();
  return { seconds: (performance.now() - start) / 1000 };
}

/** One turn of the event loop: WebSocket does not tell when it is done. */
function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

await serve({
  async listen(job): Promise<Result> {
    const tally = new Tally();
    const { promise, resolve } = Promise.withResolvers<Result>();
    result = promise;
    await start(job, (socket) => {
      let began = 0;
      socket.onopen = () => began = performance.now();
      socket.onmessage = ({ data }) => {
        tally.add(data as string);
        if (tally.count < job.count) return;
        const seconds = (performance.now() - began) / 1000;
        resolve({ seconds, count: tally.count, sum: tally.sum });
      };
      socket.onerror = () => {};
    });
    return {};
  },

  async arrived(): Promise<Result> {
    return await result ?? {};
  },

  async offer(job): Promise<Result> {
    const { promise, resolve, reject } = Promise.withResolvers<Result>();
    result = promise;
    await start(job, (socket) => {
      socket.onopen = () => sendAll(socket, job).then(resolve, reject);
      socket.onerror = () => {};
    });
    return {};
  },

  async echo(job): Promise<Result> {
    await start(job, (socket) => {
      socket.onmessage = ({ data }) => socket.send(data);
      socket.onerror = () => {};
    });
    return {};
  },

  async ping({ wire, count, file }): Promise<Result> {
    const messages = readMessages(file);
    const times = new Float64Array(count);
    let wrong = 0;
    const socket = new WebSocket(`ws://${HOST}:${wire}/`);
    await new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onerror = reject;
    });
    let got: (message: string) => void = () => {};
    socket.onmessage = ({ data }) => got(data as string);
    const start = performance.now();
    for (let i = 0; i < count; i++) {
      const message = messages[i % messages.length] ?? "";
      const sent = performance.now();
      const reply = new Promise<string>((resolve) => got = resolve);
      socket.send(message);
      if (await reply !== message) wrong++;
      times[i] = performance.now() - sent;
    }
    const seconds = (performance.now() - start) / 1000;
    socket.close();
    return { ...latencies(times), seconds, count, wrong };
  },
});
