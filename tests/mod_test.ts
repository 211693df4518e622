// Why: what mod.ts exports is what users depend on, and importing it must load
// nothing that a robot cell without a network would lack.

import { assert, assertEquals, assertStrictEquals } from "@std/assert";
import type * as Main from "../mod.ts";
import type * as Client from "../tcp_client.ts";
import type * as Server from "../tcp_server.ts";
import type * as Udp from "../udp_socket.ts";
import { Process, ROOT } from "./_process.ts";
import { modules } from "../tools/_deno.ts";

interface Config {
  name: string;
  exports: Record<string, string>;
}

async function readConfig(): Promise<Config> {
  const text = await Deno.readTextFile(new URL("deno.json", ROOT));
  return JSON.parse(text) as Config;
}

/** Each entry point, and what it exports beside types. */
const ENTRY_POINTS: Record<string, string[]> = {
  ".": [
    "ClosedError",
    "CommunicationError",
    "FrameDecoderStream",
    "FrameEncoderStream",
    "InvalidMessageError",
    "MAX_PORT",
    "MIN_PORT",
    "MessageTooLargeError",
    "TCPClient",
    "TCPServer",
    "UDPSocket",
    "allowCidr",
    "createTcpClient",
    "createTcpServer",
    "createUdpSocket",
    "wirePort",
  ],
  "./tcp-client": ["TCPClient", "createTcpClient"],
  "./tcp-server": ["TCPServer", "allowCidr", "createTcpServer"],
  "./udp-socket": ["UDPSocket", "allowCidr", "createUdpSocket"],
  "./cli": ["main"],
};

type Same<A, B> = [A, B] extends [B, A] ? true : never;

/** The types that the entry points export: checked before any test runs. */
const _types: true[] = [
  true satisfies Same<Main.Address, readonly [ip: string, port: number]>,
  true satisfies Same<Main.Address, Client.Address>,
  true satisfies Same<Main.Address, Server.Address>,
  true satisfies Same<Main.Address, Udp.Address>,
  true satisfies Same<Main.ReceiveOptions, Client.ReceiveOptions>,
  true satisfies Same<Main.ReceiveOptions, Udp.ReceiveOptions>,
  true satisfies Same<Main.TCPClientOptions, Client.TCPClientOptions>,
  true satisfies Same<Main.TCPServerOptions, Server.TCPServerOptions>,
  true satisfies Same<Main.MessageCallback, Server.MessageCallback>,
  true satisfies Same<Main.Reply, string | null | undefined | void>,
  true satisfies Same<Main.UDPSocketOptions, Udp.UDPSocketOptions>,
];

type Exports = Record<string, unknown>;

function load(specifier: string): Promise<Exports> {
  return import(specifier) as Promise<Exports>;
}

Deno.test("mod.ts exports the public names and nothing else", async () => {
  const names = Object.keys(await import("../mod.ts")).sort();
  assertEquals(names, ENTRY_POINTS["."]);
});

Deno.test("deno.json names each entry point, by which it exports what mod.ts does", async () => {
  const { name, exports } = await readConfig();
  assertEquals(Object.keys(exports).sort(), Object.keys(ENTRY_POINTS).sort());
  const main = await load("../mod.ts");
  for (const [entry, names] of Object.entries(ENTRY_POINTS)) {
    const module = await load(`${name}${entry.slice(1)}`);
    assertEquals(Object.keys(module).sort(), names);
    for (const name of entry === "./cli" ? [] : names) {
      assertStrictEquals(module[name], main[name]);
    }
    const file = new URL(exports[entry] ?? "", ROOT).href;
    assertStrictEquals(await load(file), module);
  }
});

interface Graph {
  modules: { specifier: string; error?: string }[];
}

/** Every module that importing one loads. */
async function graphOf(path: string): Promise<string[]> {
  await using info = new Process(Deno.execPath(), ["info", "--json", path]);
  const { code, stdout, stderr } = await info.ended();
  assertEquals(code, 0, stderr);
  const { modules } = JSON.parse(stdout) as Graph;
  for (const { error } of modules) assertEquals(error, undefined);
  return modules.map(({ specifier }) => specifier);
}

Deno.test("mod.ts and every entry point load published files of this package alone", async () => {
  const { exports } = await readConfig();
  const published = modules.map((path) => new URL(path, ROOT).href);
  for (const path of Object.values(exports)) {
    const loaded = await graphOf(path);
    assert(loaded.includes(new URL(path, ROOT).href));
    // Only the tool may use what Deno ships of Node.
    const shipped = path === "./cli.ts" ? "node:" : "none";
    const foreign = loaded.filter((url) =>
      !published.includes(url) && !url.startsWith(shipped)
    );
    assertEquals(foreign, [], `loaded by ${path}`);
  }
});

Deno.test("mod.ts and cli.ts load every module that is published", async () => {
  const published = modules.map((path) => new URL(path, ROOT).href);
  const loaded = [...await graphOf("mod.ts"), ...await graphOf("cli.ts")]
    .filter((url) => url.startsWith("file:"));
  assertEquals([...new Set(loaded)].sort(), published.sort());
});
