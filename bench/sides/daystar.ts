// Why: the side that is measured: this module, used as its documentation says.

import {
  createTcpClient,
  createTcpServer,
  createUdpSocket,
} from "../../mod.ts";
import type { TCPServer, UDPSocket } from "../../mod.ts";
import { HOST } from "./_bytes.ts";
import {
  type Job,
  latencies,
  type Result,
  serve,
  settledMemory,
  until,
} from "./_jobs.ts";
import { readMessages, Tally } from "./_messages.ts";

let server: TCPServer | undefined;
let arrived: Promise<Result> | undefined;
let sent = 0;
let udp: UDPSocket | undefined;

function start(
  { port }: Job,
  callback?: (message: string) => string | void,
  onConnect?: () => void,
): void {
  server = createTcpServer(port, callback, {
    hostname: HOST,
    maxClients: 20_000,
    ...(onConnect && { onConnect }),
  });
}

async function receiveAll({ port, count, how }: Job): Promise<Result> {
  const tally = new Tally();
  await using client = await createTcpClient(HOST, port);
  const start = performance.now();
  if (how === "receive") {
    while (tally.count < count) {
      const message = await client.receive();
      if (message !== null) tally.add(message);
    }
  } else {
    for await (const message of client) {
      tally.add(message);
      if (tally.count === count) break;
    }
  }
  const seconds = (performance.now() - start) / 1000;
  return { seconds, count: tally.count, sum: tally.sum };
}

await serve({
  /** A server that counts what comes. */
  listen(job): Result {
    const tally = new Tally();
    const { promise, resolve } = Promise.withResolvers<Result>();
    arrived = promise;
    let began = 0;
    const count = job.count;
    const callback = (message: string) => {
      tally.add(message);
      if (tally.count < count) return;
      const seconds = (performance.now() - began) / 1000;
      resolve({ seconds, count: tally.count, sum: tally.sum });
    };
    start(job, callback, () => began = performance.now());
    return {};
  },

  async arrived(): Promise<Result> {
    const result = await arrived;
    await server?.stop();
    return result ?? {};
  },

  receive: receiveAll,

  async send({ port, count, how, file }): Promise<Result> {
    const messages = readMessages(file);
    await using client = await createTcpClient(HOST, port);
    const start = performance.now();
    if (how === "awaited") {
      for (let i = 0; i < count; i++) {
        await client.send(messages[i % messages.length] ?? "");
      }
    } else {
      // The last of each thousand is awaited, and so all before it.
      let last: Promise<void> | undefined;
      for (let i = 0; i < count; i++) {
        last = client.send(messages[i % messages.length] ?? "");
        if (i % 1000 === 999) await last;
      }
      await last;
    }
    return { seconds: (performance.now() - start) / 1000 };
  },

  echo(job): Result {
    start(job, (message) => message);
    return {};
  },

  async ping({ port, count, file }): Promise<Result> {
    const messages = readMessages(file);
    const times = new Float64Array(count);
    let wrong = 0;
    await using client = await createTcpClient(HOST, port);
    const start = performance.now();
    for (let i = 0; i < count; i++) {
      const message = messages[i % messages.length] ?? "";
      const sent = performance.now();
      await client.send(message);
      if (await client.receive() !== message) wrong++;
      times[i] = performance.now() - sent;
    }
    const seconds = (performance.now() - start) / 1000;
    return { ...latencies(times), seconds, count, wrong };
  },

  async members({ clients }): Promise<Result> {
    await until(() => server?.getConnectedClients().length === clients);
    return {};
  },

  async broadcast({ count, file }): Promise<Result> {
    const messages = readMessages(file);
    const start = performance.now();
    for (let i = 0; i < count; i++) {
      await server?.sendToAll(messages[sent++ % messages.length] ?? "");
    }
    return { seconds: (performance.now() - start) / 1000 };
  },

  async connect({ port, count }): Promise<Result> {
    const start = performance.now();
    for (let i = 0; i < count; i++) {
      const client = await createTcpClient(HOST, port);
      await client.disconnect();
    }
    return { seconds: (performance.now() - start) / 1000, count };
  },

  async memory({ clients }): Promise<Result> {
    await until(() => server?.getConnectedClients().length === clients);
    return { rss: settledMemory() };
  },

  udp({ port }): Result {
    udp?.close();
    udp = createUdpSocket(port, { hostname: HOST });
    return {};
  },

  /** Receives, and says so after each window. */
  async udpReceive({ count, window }): Promise<Result> {
    const tally = new Tally();
    while (udp && tally.count < count) {
      const received = await udp.receive();
      if (!received) break;
      tally.add(received[0]);
      if (tally.count % window === 0) await udp.send("on", received[1]);
    }
    return { count: tally.count, sum: tally.sum };
  },

  async udpSend({ port, count, window, file }): Promise<Result> {
    const messages = readMessages(file);
    const to = [HOST, port] as const;
    const start = performance.now();
    for (let i = 0; i < count; i++) {
      await udp?.send(messages[i % messages.length] ?? "", to);
      if (i % window === window - 1) await udp?.receive();
    }
    return { seconds: (performance.now() - start) / 1000 };
  },

  async udpEcho({ count }): Promise<Result> {
    for (let i = 0; i < count; i++) {
      const received = await udp?.receive();
      if (received) await udp?.send(...received);
    }
    return {};
  },

  async udpPing({ port, count, file }): Promise<Result> {
    const messages = readMessages(file);
    const to = [HOST, port] as const;
    const times = new Float64Array(count);
    let wrong = 0;
    const start = performance.now();
    for (let i = 0; i < count; i++) {
      const message = messages[i % messages.length] ?? "";
      const sent = performance.now();
      await udp?.send(message, to);
      if ((await udp?.receive())?.[0] !== message) wrong++;
      times[i] = performance.now() - sent;
    }
    const seconds = (performance.now() - start) / 1000;
    return { ...latencies(times), seconds, count, wrong };
  },
});
