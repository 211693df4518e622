// Why: the side that is measured: this module, used as its documentation says.

import { setImmediate } from "node:timers";
import {
  type Address,
  createTcpClient,
  createTcpServer,
  createUdpSocket,
  type TCPClient,
  type TCPServer,
} from "../../mod.ts";
import { ASK, readMessages, Tally } from "./_messages.ts";
import { FILE, heapBytes, HOST, MODE, serve, WIRE } from "./_side.ts";

const PORT = WIRE + 65_536;

const tally = new Tally();
// Where memory is measured, they would be in the way.
const messages = MODE.startsWith("send") ? readMessages(FILE) : [];
let sent = 0;

function next(): string {
  return messages[sent++ % messages.length] ?? "";
}

function count(message: string): string | void {
  if (message === ASK) return tally.report();
  tally.add(message);
}

type Callback = (
  message: string,
  client: Address,
) => string | void | Promise<string | void>;

function listen(callback: Callback): TCPServer {
  return createTcpServer(PORT, callback, {
    hostname: HOST,
    maxClients: 20_000,
    maxSendBufferBytes: 1_000_000_000,
  });
}

/** Receives in one of two ways. */
async function receiveAll(client: TCPClient, how: string): Promise<void> {
  if (how === "receive") {
    while (true) {
      const report = count(await client.receive() ?? "");
      if (report) await client.send(report);
    }
  }
  for await (const message of client) {
    const report = count(message);
    if (report) await client.send(report);
  }
}

/** Sends as many messages as each order says; without `each`, awaits every thousandth. */
async function sendAll(client: TCPClient, each: boolean): Promise<void> {
  for await (const order of client) {
    let last: Promise<void> | undefined;
    for (let i = 1; i <= Number(order); i++) {
      last = client.send(next());
      if (each || i % 1000 === 0) await last;
    }
    await last;
  }
}

async function echoDatagrams(): Promise<void> {
  const socket = createUdpSocket(PORT, { hostname: HOST });
  while (true) {
    const received = await socket.receive();
    if (received) await socket.send(...received);
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** So many that what is not theirs does not count. */
const WAITING = 20_000;

/** Bytes of heap for each short message that waits, one sent in each turn, none awaited. */
async function waitingBytes(server: TCPServer): Promise<number> {
  let client: Address | undefined;
  while (!client) {
    await pause(5);
    [client] = server.getConnectedClients();
  }
  const send = (message: string, to: Address) => {
    server.send(message, to).catch(() => {});
  };
  // More than the kernel takes, so that all behind it waits.
  for (let i = 0; i < 12; i++) send("x".repeat(1_000_000), client);
  await pause(300);
  const before = heapBytes();
  for (let i = 0; i < WAITING; i++) {
    send("hello", client);
    await new Promise((resolve) => setImmediate(resolve));
  }
  await pause(100);
  return (heapBytes() - before) / WAITING;
}

let server: TCPServer | undefined;

switch (MODE) {
  case "count":
    server = listen(count);
    break;
  case "echo":
    server = listen((message) => message);
    break;
  case "echo-async":
    server = listen(async (message) => {
      await Promise.resolve();
      return message;
    });
    break;
  case "send":
    server = listen(async (order) => {
      for (let i = 0; i < Number(order); i++) await server?.sendToAll(next());
    });
    break;
  case "udp":
    echoDatagrams();
    break;
  case "waiting": {
    const waiting = listen(() => {});
    await serve(() => waitingBytes(waiting));
    break;
  }
  case "receive":
  case "for-await":
    receiveAll(await createTcpClient(HOST, PORT), MODE);
    break;
  case "send-each":
  case "send-many":
    sendAll(await createTcpClient(HOST, PORT), MODE === "send-each");
    break;
  default:
    throw new Error(`No such mode: ${MODE}`);
}
await serve();
