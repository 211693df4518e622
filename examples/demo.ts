// deno run --no-prompt --unstable-net --allow-net=127.0.0.1,127.255.255.255 examples/demo.ts

// The main job on loopback: a TCP server with two clients, UDP, and a UDP
// broadcast. Prints what happens on every socket, checks that all of it really
// happened, and exits with 1 and a reason if it did not. It takes free ports
// from 70001 on, or those given as arguments.

import {
  type Address,
  ClosedError,
  createTcpClient,
  createTcpServer,
  createUdpSocket,
  MAX_PORT,
  type TCPClient,
  type UDPSocket,
  wirePort,
} from "@daystar/comm";

const LOOPBACK = "127.0.0.1";
const LOOPBACK_BROADCAST = "127.255.255.255";
/** How long one message may take, and how long everything, in milliseconds. */
const PATIENCE = 2_000;
const LONGEST = 15_000;

/** Who has which address, as `String([ip, port])`. */
const names = new Map<string, string>();
/** Messages that were printed as sent and have not arrived so far. */
const underway: string[] = [];
let arrived = 0;
let act = 0;

function explain(text: string): void {
  console.log(`\n${++act}. ${text}`);
}

/** One line: time, socket, what it does, text. */
function print(socket: string, what: string, text: string): void {
  const ms = performance.now().toFixed(1).padStart(8);
  const columns = `${ms}  ${socket.padEnd(9)} ${what.padEnd(12)} ${text}`;
  console.log(columns.trimEnd());
}

function sending(from: string, to: string[], text: string): void {
  print(from, `→ ${to.length > 1 ? "all" : to}`, text);
  underway.push(...to.map((name) => `${from} → ${name}: ${text}`));
}

function received(to: string, from: string, text: string): void {
  print(to, `← ${from}`, text);
  const index = underway.indexOf(`${from} → ${to}: ${text}`);
  if (index < 0) throw new Error(`${to} received what ${from} never sent`);
  underway.splice(index, 1);
  arrived++;
}

function nameOf(address: Address): string {
  const name = names.get(String(address));
  if (name === undefined) throw new Error(`Nobody has the address ${address}`);
  return name;
}

function show([ip, port]: Address): string {
  return `${ip}:${port}, on the wire ${wirePort(port)}`;
}

function check(holds: boolean, what: string): void {
  if (!holds) throw new Error(`It is not true that ${what}`);
}

function fail(reason: unknown): never {
  const text = reason instanceof Error ? reason.message : String(reason);
  console.error(`\nThe demo failed: ${text}`);
  Deno.exit(1);
}

/** The ports to take, each one once. */
const ports = Deno.args.length > 0
  ? Deno.args.map(Number).values()
  : Array.from({ length: MAX_PORT - 70000 }, (_, i) => 70001 + i).values();

/** Opens a socket on the next port that no other program has. */
function onFreePort<T>(open: (port: number) => T): T {
  for (const port of ports) {
    try {
      return open(port);
    } catch (error) {
      if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    }
  }
  throw new Error("All ports are taken by other programs");
}

async function receiveTcp(name: string, client: TCPClient): Promise<void> {
  const message = await client.receive({ timeout: PATIENCE });
  if (message === null) throw new Error(`${name} received nothing in time`);
  received(name, "server", message);
}

async function receiveUdp(name: string, socket: UDPSocket): Promise<Address> {
  const result = await socket.receive({ timeout: PATIENCE });
  if (result === null) throw new Error(`${name} received nothing in time`);
  const [message, sender] = result;
  received(name, nameOf(sender), message);
  return sender;
}

async function tcp(): Promise<void> {
  explain("A TCP server listens, and two clients connect to it.");
  const left = Promise.withResolvers<Address>();
  await using server = onFreePort((port) =>
    createTcpServer(port, (message, clientAddr) => {
      const client = nameOf(clientAddr);
      received("server", client, message);
      const reply = `Echo: ${message}`;
      sending("server", [client], reply);
      return reply;
    }, {
      hostname: LOOPBACK,
      onDisconnect: left.resolve,
      onError: fail,
    })
  );
  print("server", "listens", show(server.address));
  const connect = async (name: string): Promise<TCPClient> => {
    const client = await createTcpClient(...server.address);
    names.set(String(client.localAddress), name);
    print(name, "connects", `from port ${client.localAddress[1]}`);
    return client;
  };
  await using client1 = await connect("client 1");
  await using client2 = await connect("client 2");

  explain("Each client sends a message, and the server replies to each.");
  sending("client 1", ["server"], "Hello Server");
  await client1.send("Hello Server");
  await receiveTcp("client 1", client1);
  sending("client 2", ["server"], "你好，服务器 🤖");
  await client2.send("你好，服务器 🤖");
  await receiveTcp("client 2", client2);

  explain("The server pushes, unasked: to one client, then to all of them.");
  sending("server", ["client 1"], "Only for you");
  await server.send("Only for you", client1.localAddress);
  await receiveTcp("client 1", client1);
  sending("server", ["client 1", "client 2"], "Broadcast message");
  const reached = await server.sendToAll("Broadcast message");
  check(reached === 2, "the message was written to 2 clients");
  await receiveTcp("client 1", client1);
  await receiveTcp("client 2", client2);

  explain("A client disconnects, and the server sees it.");
  print("client 2", "disconnects", "");
  await client2.disconnect();
  check(nameOf(await left.promise) === "client 2", "client 2 was the one");
  const [rest, ...others] = server.getConnectedClients();
  check(rest !== undefined && others.length === 0, "one client is left");
  print("server", "sees it", `still connected: ${rest && nameOf(rest)}`);

  explain("The server stops, and the client that is left sees it.");
  print("server", "stops", "");
  await server.stop();
  try {
    await client1.receive({ timeout: PATIENCE });
    throw new Error("client 1 did not see the server stop");
  } catch (error) {
    if (!(error instanceof ClosedError)) throw error;
    print("client 1", "sees it", error.message);
  }
}

async function udp(): Promise<void> {
  explain("Two UDP sockets: one sends, the other one replies to the sender.");
  const open = (name: string) => {
    const socket = onFreePort((port) =>
      createUdpSocket(port, { hostname: LOOPBACK })
    );
    names.set(String(socket.address), name);
    print(name, "listens", show(socket.address));
    return socket;
  };
  using udp1 = open("udp 1");
  using udp2 = open("udp 2");
  sending("udp 1", ["udp 2"], "Hello UDP");
  await udp1.send("Hello UDP", udp2.address);
  const sender = await receiveUdp("udp 2", udp2);
  sending("udp 2", [nameOf(sender)], "Reply: Hello UDP");
  await udp2.send("Reply: Hello UDP", sender);
  await receiveUdp("udp 1", udp1);

  explain("A UDP broadcast reaches every socket that listens on its port.");
  if (Deno.build.os !== "linux") {
    console.log(`          left out: ${Deno.build.os} has none on loopback`);
    return;
  }
  // Keeps off another demo: sockets that reuse an address share it with anyone.
  using own = onFreePort((port) =>
    createUdpSocket(port, { hostname: LOOPBACK })
  );
  const options = { hostname: LOOPBACK_BROADCAST, reuseAddress: true };
  using udp3 = createUdpSocket(own.address[1], options);
  print("udp 3", "listens", show(udp3.address));
  using udp4 = createUdpSocket(udp3.address[1], options);
  print("udp 4", "listens", "the same");
  udp1.enableBroadcast();
  sending("udp 1", ["udp 3", "udp 4"], "Broadcast message");
  await udp1.send("Broadcast message", udp3.address);
  await receiveUdp("udp 3", udp3);
  await receiveUdp("udp 4", udp4);
}

// Unreferenced: it does not hold up an end, and still catches what hangs.
Deno.unrefTimer(setTimeout(
  () => fail(`not finished after ${LONGEST} ms, waiting for ${underway}`),
  LONGEST,
));

try {
  console.log("TCP and UDP messages between sockets of this computer.");
  console.log("→ sends to, ← receives from; times are in milliseconds.");
  await tcp();
  await udp();
  check(underway.length === 0, `all arrived, not so: ${underway}`);
  console.log(`\nAll ${arrived} messages arrived, and every socket is closed.`);
} catch (error) {
  fail(error);
}
