// Why: a link that leads nowhere, a message that nobody explains and C code that
// does not compile are mistakes that only a reader would find.

import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
  fail,
} from "@std/assert";
import { createTcpClient, createTcpServer, wirePort } from "../mod.ts";
import { LOOPBACK, onLinux, onWindows } from "./_machine.ts";
import { freePort } from "./_ports.ts";
import { isInstalled, Process, ROOT, WAIT } from "./_process.ts";
import { connectFrom, Served } from "./_served.ts";
import { modules } from "../tools/_deno.ts";

const PAGES = [
  "README.md",
  "CONTRIBUTING.md",
  "SECURITY.md",
  ...[...Deno.readDirSync(new URL("docs/", ROOT))]
    .map(({ name }) => `docs/${name}`)
    .sort(),
].filter((path) => path.endsWith(".md"));

function read(path: string): string {
  return Deno.readTextFileSync(new URL(path, ROOT));
}

interface Block {
  language: string;
  code: string;
}

/** The code blocks of a page, and what is left without them. */
function split(markdown: string): { blocks: Block[]; prose: string } {
  const blocks: Block[] = [];
  const prose = markdown.replace(
    /^ *```(.*)\n([^]*?)^ *```$/gm,
    (_, language: string, code: string) => {
      blocks.push({ language, code });
      return "";
    },
  );
  return { blocks, prose };
}

/** The anchors of a page's headings, as GitHub makes them. */
function anchorsOf(prose: string): Set<string> {
  const anchors = new Set<string>();
  for (const [, heading = ""] of prose.matchAll(/^#+ (.*)$/gm)) {
    const name = heading.toLowerCase()
      .replace(/\[(.*?)\]\(.*?\)/g, "$1")
      .replace(/[^\p{L}\p{M}\p{N}\p{Pc} -]/gu, "")
      .replaceAll(" ", "-");
    let anchor = name;
    for (let i = 1; anchors.has(anchor); i++) anchor = `${name}-${i}`;
    anchors.add(anchor);
  }
  return anchors;
}

/** Where the links of a page lead to. */
function linksOf(prose: string): string[] {
  return [...prose.replace(/`+[^`]*`+/g, "code").matchAll(/\]\(([^)\s]*)\)/g)]
    .map(([, target = ""]) => target);
}

function leadsSomewhere(page: string, link: string): boolean {
  const url = new URL(link, new URL(page, ROOT));
  if (url.protocol !== "file:") return url.protocol === "https:";
  const anchor = decodeURIComponent(url.hash.slice(1));
  url.hash = "";
  try {
    if (Deno.statSync(url).isDirectory || anchor === "") return anchor === "";
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
  return anchorsOf(split(Deno.readTextFileSync(url)).prose).has(anchor);
}

for (const page of PAGES) {
  Deno.test(`${page}: every link leads somewhere`, () => {
    const links = linksOf(split(read(page)).prose);
    assertEquals(links.filter((link) => !leadsSomewhere(page, link)), []);
  });
}

Deno.test("docs/: links and anchors that are wrong are found", () => {
  assertEquals(leadsSomewhere("docs/ports.md", "protocol.md#reading"), true);
  assertEquals(leadsSomewhere("docs/ports.md", "#firewalls"), true);
  assertEquals(leadsSomewhere("docs/ports.md", "../examples/"), true);
  for (const link of ["protocol.md#red", "#walls", "no.md", "http://a.b/"]) {
    assertEquals(leadsSomewhere("docs/ports.md", link), false, link);
  }
  assert(PAGES.some((page) => linksOf(split(read(page)).prose).length > 10));
});

Deno.test("docs/: every page is in its table of contents", () => {
  const links = linksOf(split(read("docs/README.md")).prose);
  for (const page of PAGES.filter((page) => page.startsWith("docs/"))) {
    const name = page.slice("docs/".length);
    assert(name === "README.md" || links.includes(name), name);
  }
});

Deno.test("docs/: all TypeScript is checked", () => {
  for (const page of PAGES.filter((page) => page.startsWith("docs/"))) {
    for (const { language } of split(read(page)).blocks) {
      assert(
        ["ts", "sh", "json", "c", "python", "text"].includes(language),
        `${page}: ${language}`,
      );
    }
  }
});

/** The scripts of a page by their names, the commands that run Deno, and deno.json. */
function scriptsOf(page: string): {
  scripts: Record<string, string>;
  commands: string[];
  settings: string;
} {
  const { blocks } = split(read(page));
  const scripts: Record<string, string> = {};
  for (const { code } of blocks) {
    const name = code.match(/^\/\/ (\w+\.ts)\n/)?.[1];
    if (name) scripts[name] = code;
  }
  const commands = blocks
    .filter(({ language }) => language === "sh")
    .flatMap(({ code }) => code.split("\n"))
    .filter((line) => line.includes("deno run "));
  const [settings] = blocks.filter(({ language }) => language === "json");
  assert(settings, `${page} has no deno.json`);
  const comm = new URL("./", ROOT).href;
  return {
    scripts,
    // JSR has what is here, once it is published.
    commands: commands.map((line) =>
      line.replace("jsr:@daystar/comm/cli", `${comm}cli.ts`)
    ),
    settings: settings.code.replace("./comm/", comm),
  };
}

/** A project with the scripts of README.md, on ports of its own, as a new user has it. */
class NewUser implements AsyncDisposable {
  readonly #folder = Deno.makeTempDirSync({ prefix: "daystar-readme-" });
  readonly #commands: string[];
  readonly #ports = [70001, 70002, 70003]
    .map((stated) => ({ stated, port: freePort() }));

  constructor() {
    const { scripts, commands, settings } = scriptsOf("README.md");
    this.#commands = commands.map((command) => this.#withOwnPorts(command));
    this.#save("deno.json", settings);
    for (const [name, code] of Object.entries(scripts)) {
      this.#save(name, this.#withOwnPorts(code));
    }
  }

  #withOwnPorts(text: string): string {
    for (const { stated, port } of this.#ports) {
      text = text.replaceAll(`${stated}`, `${port.port}`)
        .replaceAll(`:${wirePort(stated)}`, `:${port.wire}`);
    }
    return text;
  }

  #save(name: string, text: string): void {
    Deno.writeTextFileSync(`${this.#folder}/${name}`, text);
  }

  /** Runs the command that mentions something, checked where Deno only runs it. */
  run(mentioned: string): Process {
    const command = this.#commands.find((line) => line.includes(mentioned));
    assert(command, mentioned);
    const [, args = ""] = command.replace(/ +#.*$/, "").split("deno run ");
    const given = args.split(" ").filter((arg) => arg !== "--no-prompt");
    const deno = ["run", "--check", "--no-prompt", ...given];
    return new Process(Deno.execPath(), deno, this.#folder);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { port } of this.#ports) port[Symbol.dispose]();
    await Deno.remove(this.#folder, { recursive: true });
  }
}

Deno.test("docs/README.md: its deno.json finds all that these pages import, without a registry", async () => {
  const docs = PAGES.filter((page) => page.startsWith("docs/"));
  const blocks = docs.flatMap((page) => split(read(page)).blocks);
  const settings = blocks.find(({ language }) => language === "json");
  assert(settings);
  const folder = Deno.makeTempDirSync({ prefix: "daystar-docs-" });
  const save = (name: string, text: string) => {
    Deno.writeTextFileSync(`${folder}/${name}`, text);
    return name;
  };
  try {
    save("deno.json", settings.code.replaceAll("./comm/", ROOT.href));
    const scripts = blocks.filter(({ language }) => language === "ts")
      .map(({ code }, at) => save(`pasted${at}.ts`, code));
    assert(scripts.length > 10);
    const args = ["check", "--no-remote", "--no-npm", ...scripts];
    await using check = new Process(Deno.execPath(), args, folder);
    const { code, stderr } = await check.ended();
    assertEquals(code, 0, stderr);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});

Deno.test("README.md: its server and client run with its commands", async () => {
  await using user = new NewUser();
  await using server = user.run("server.ts");
  assertEquals(await server.read(), "Listening");
  await using client = user.run("client.ts");
  assertEquals(
    (await client.ended()).stdout,
    "Received reply: Echo: Hello Server\n",
  );
  assertEquals(await server.read(), "Received from 127.0.0.1: Hello Server");
});

Deno.test("README.md: its UDP socket answers the command-line tool, run with its commands", async () => {
  await using user = new NewUser();
  await using socket = user.run("socket.ts");
  // A datagram that comes before it listens is lost: sent until it has ended.
  const answered = socket.ended();
  let ended = false;
  answered.then(() => ended = true, () => ended = true);
  const replies: string[] = [];
  while (!ended) {
    await using tool = user.run("cli.ts udp");
    await tool.write("Hello\n");
    const { code, stdout } = await tool.end();
    assertEquals(code, 0);
    if (stdout) replies.push(stdout);
  }
  assertEquals((await answered).stdout, "Received: Hello\n");
  assertEquals(replies.length, 1);
  assertMatch(replies[0] ?? "", /^< 127\.0\.0\.1:\d+ Echo: Hello\n$/);
});

Deno.test("README.md: its command for help runs", async () => {
  await using user = new NewUser();
  await using tool = user.run("--help");
  assertMatch((await tool.end()).stdout, /Usage: /);
});

/** The end of a quoted text that begins at `at`, and its pieces without what is put in. */
function literalAt(source: string, at: number): string[] | null {
  const quote = source[at];
  if (quote !== "`" && quote !== '"') return null;
  const pieces = [""];
  for (let i = at + 1, depth = 0; i < source.length; i++) {
    const char = source[i] ?? "";
    if (depth === 0 && char === quote) return pieces;
    if (quote === "`" && depth === 0 && source.startsWith("${", i)) {
      pieces.push("");
      depth = 1;
      i++;
    } else if (depth > 0) {
      depth += char === "{" ? 1 : char === "}" ? -1 : 0;
    } else {
      pieces[pieces.length - 1] += char;
    }
  }
  return null;
}

/** What the errors of a module say, as the pieces between what differs. */
function messagesOf(path: string): string[][] {
  const source = read(path).replace(/^ *(\/\*)?\*.*$/gm, "");
  const literals = (starts: RegExp) =>
    [...source.matchAll(starts)]
      .map((match) => literalAt(source, match.index + match[0].length))
      .filter((pieces) => pieces !== null);
  return [
    ...literals(
      /(?:Error|errors\.\w+)\(\s*|(?=["`]Cannot )|(?<=cannot = )/g,
    ).filter((pieces) => pieces.join("").length > "Cannot  ".length),
    // What refuse() puts into its sentence.
    ...literals(/\brefuse\([^,]+,[^,]+,\s*|\btakes = /g)
      .map(([first, ...others]) => [`it takes ${first}`, ...others]),
  ];
}

Deno.test("docs/troubleshooting.md: has every message that the modules can throw", () => {
  const page = read("docs/troubleshooting.md").replace(/\s+/g, " ");
  const messages = modules.filter((path) => !path.startsWith("cli"))
    .flatMap(messagesOf);
  assert(messages.length > 40, `${messages.length} messages`);
  const missing = messages.filter((pieces) => {
    const pattern = pieces
      .map((piece) => piece.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"))
      .join("[^`]*?");
    return !new RegExp(pattern).test(page);
  });
  assertEquals(missing.map((pieces) => pieces.join("…")), []);
});

Deno.test({
  name:
    "docs/troubleshooting.md: has what onDisconnect gets of a reset, as Linux words it",
  ignore: !onLinux,
  async fn() {
    const page = read("docs/troubleshooting.md");
    await using served = new Served();
    const peer = await connectFrom(0, served.wire);
    await served.connected.next();
    await peer.reset();
    const [, error] = await served.disconnected.next();
    assertStringIncludes(page, `\`${error?.message}\``);
    // Where this module says what could not be done, it leaves out the number.
    assertEquals(page.match(/`Cannot [^`]*\(os error[^`]*`/g), null);
  },
});

const HARNESS = `
#include <stdio.h>
#include <unistd.h>

static int sockets[2];

static void echo(const char *message, size_t length) {
  if (send_message(sockets[0], message, length) < 0) perror("send_message");
}

int main(void) {
  static struct frames frames;
  char bytes[3];
  ssize_t count;
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) < 0) return 2;
  while ((count = read(0, bytes, sizeof bytes)) > 0)
    if (feed(&frames, bytes, (size_t)count, echo) < 0) return 1;
  shutdown(sockets[0], SHUT_WR);
  while ((count = read(sockets[1], bytes, sizeof bytes)) > 0)
    if (write(1, bytes, (size_t)count) < 0) return 2;
  return send_message(sockets[0], "\\x03", 1) == -1 ? 0 : 2;
}
`;

/** What a program makes of bytes, and its exit code. */
async function filter(
  program: string,
  bytes: Uint8Array<ArrayBuffer>,
): Promise<{ code: number; stdout: string; stderr: string }> {
  const child = new Deno.Command(program, {
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  // A program that has had enough closes its input.
  const written = new Blob([bytes]).stream().pipeTo(child.stdin)
    .catch(() => {});
  const { code, stdout, stderr } = await child.output();
  await written;
  return {
    code,
    stdout: String(stdout),
    stderr: new TextDecoder().decode(stderr),
  };
}

interface Vectors {
  tcp: Record<
    "frames" | "streams",
    { name: string; bytes: string; maxMessageBytes?: number }[]
  >;
}

Deno.test({
  name: "docs/protocol.md: its C code compiles and holds tests/vectors.json",
  ignore: !isInstalled("cc", "--version") || onWindows,
  async fn() {
    const { tcp } = JSON.parse(read("tests/vectors.json")) as Vectors;
    const code = split(read("docs/protocol.md")).blocks
      .filter(({ language }) => language === "c")
      .map(({ code }) => code);
    assertEquals(code.length, 2);
    const folder = await Deno.makeTempDir({ prefix: "daystar-docs-" });
    try {
      const program = `${folder}/peer`;
      await Deno.writeTextFile(`${program}.c`, [...code, HARNESS].join("\n"));
      const { success, stderr } = await new Deno.Command("cc", {
        args: ["-Wall", "-Wextra", "-Werror", "-o", program, `${program}.c`],
      }).output();
      assert(success, new TextDecoder().decode(stderr));
      for (
        const { name, bytes, maxMessageBytes } of [
          ...tcp.frames,
          ...tcp.streams,
        ]
      ) {
        if (maxMessageBytes !== undefined) continue;
        const input = Uint8Array.from(
          bytes.match(/\w+/g) ?? [],
          (byte) => parseInt(byte, 16),
        );
        assertEquals(await filter(program, input), {
          code: 0,
          stdout: String(input.subarray(0, input.lastIndexOf(0x03) + 1)),
          stderr: "",
        }, name);
      }
      const long = new Uint8Array(1025).fill(0x41);
      assertEquals((await filter(program, long)).code, 1);
      assertEquals((await filter(program, long.subarray(1))).code, 0);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});

/** What robots trust, and what the commands that make it write, in this order. */
const RECIPES = [
  ["self-signed certificate", "cert.pem", ["-keyout key.pem -out cert.pem"]],
  ["own authority", "ca.pem", ["-out ca.pem", "-CAcreateserial -out cert.pem"]],
] as const;
for (const [name, trusted, made] of RECIPES) {
  Deno.test({
    name: `docs/patterns.md: its ${name} can be served with and trusted`,
    ignore: onWindows || !isInstalled("openssl", "version"),
    async fn() {
      const blocks = split(read("docs/patterns.md")).blocks
        .filter(({ language, code }) =>
          language === "sh" && code.startsWith("openssl ")
        )
        .map(({ code }) => code);
      const commands = made.map((what) =>
        blocks.find((code) => code.includes(what)) ?? fail(what)
      );
      const folder = Deno.makeTempDirSync({ prefix: "daystar-tls-" });
      const file = (path: string) => Deno.readTextFileSync(`${folder}/${path}`);
      try {
        const script = ["set -e", ...commands].join("\n")
          .replaceAll("192.168.1.50", LOOPBACK);
        await using shell = new Process("sh", ["-c", script], folder);
        const { code, stderr } = await shell.ended();
        assertEquals(code, 0, stderr);
        using port = freePort();
        const tls = { cert: file("cert.pem"), key: file("key.pem") };
        await using _linePC = createTcpServer(port.port, (message) => message, {
          hostname: LOOPBACK,
          tls,
        });
        await using robot = await createTcpClient(LOOPBACK, port.port, {
          tls: { caCerts: [file(trusted)] },
        });
        await robot.send("PICK 7");
        assertEquals(await robot.receive(WAIT), "PICK 7");
      } finally {
        Deno.removeSync(folder, { recursive: true });
      }
    },
  });
}
