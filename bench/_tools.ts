// Why: not every machine has each language: what is missing is left out of the
// comparisons and said. Nothing is installed outside the run's own folder.

import { deno } from "../tools/_deno.ts";

const BUN = "1.4.5";

export type Kind =
  | "load"
  | "daystar"
  | "bare"
  | "node"
  | "bun"
  | "go"
  | "c"
  | "python";

/** What this machine has to compare with. */
export class Tools {
  readonly commands = new Map<Kind, string[]>();
  /** Goes before a command so that it runs on one core; empty where that cannot be had. */
  pin: string[] = [];
  /** What is left out and why. */
  readonly missing: string[] = [];
  readonly versions: string[] = [];
}

function side(file: string): string {
  return `bench/sides/${file}`;
}

/** What a command prints, or null where it fails or there is none. */
export async function outputOf(
  command: string,
  args: string[],
  options: Deno.CommandOptions = {},
): Promise<string | null> {
  try {
    const { success, stdout } = await new Deno.Command(command, {
      args,
      stdin: "null",
      stderr: "null",
      signal: AbortSignal.timeout(60_000),
      ...options,
    }).output();
    return success ? new TextDecoder().decode(stdout).trim() : null;
  } catch {
    return null;
  }
}

/** Bun's program: the one on PATH, or the one from npm. */
async function findBun(folder: string, fetch: boolean): Promise<string | null> {
  if (await outputOf("bun", ["--version"])) return "bun";
  if (!fetch || Deno.build.os !== "linux" || Deno.build.arch !== "x86_64") {
    return null;
  }
  const dependencies = { "@oven/bun-linux-x64": BUN };
  const json = JSON.stringify({ dependencies });
  await Deno.writeTextFile(`${folder}/package.json`, json);
  await outputOf(Deno.execPath(), ["install", "--quiet"], { cwd: folder });
  const path = `${folder}/node_modules/@oven/bun-linux-x64/bin/bun`;
  return await outputOf(path, ["--version"]) && path;
}

/** Compiles a program, and says how it is called. */
async function compile(
  compiler: string,
  args: string[],
  folder: string,
  file: string,
): Promise<string | null> {
  const target = `${folder}/${file.replace(".", "-")}`;
  const env = { GO111MODULE: "off" };
  const done = await outputOf(
    compiler,
    [...args, "-o", target, new URL(`sides/${file}`, import.meta.url).pathname],
    { env },
  );
  return done === null ? null : target;
}

/** Looks what there is. `folder` is for what is made; `fetch` permits npm. */
export async function findTools(
  folder: string,
  fetch: boolean,
): Promise<Tools> {
  const tools = new Tools();
  const add = (kind: Kind, command: string[], version: string | null) => {
    tools.commands.set(kind, command);
    const [line] = (version ?? "").split("\n");
    if (line && !tools.versions.includes(line)) tools.versions.push(line);
  };
  const pin = ["taskset", "-c", `${navigator.hardwareConcurrency - 1}`];
  if (await outputOf("taskset", [...pin.slice(1), "true"]) !== null) {
    tools.pin = pin;
  } else tools.missing.push("one core for all: no `taskset`");
  const run = [
    Deno.execPath(),
    "run",
    "--no-prompt",
    "--unstable-net",
    "--allow-net=127.0.0.1",
    "--allow-read",
    "--v8-flags=--expose-gc",
  ];
  const version = `Deno ${Deno.version.deno} (V8 ${Deno.version.v8})`;
  add("daystar", [...run, side("daystar.ts")], version);
  add("bare", [...run, side("bare.ts")], version);
  await cacheSides();

  const [load, epoll, go, bun, node, python] = await Promise.all([
    compile("cc", ["-O2"], folder, "load.c"),
    compile("cc", ["-O2"], folder, "epoll.c"),
    compile("go", ["build"], folder, "server.go"),
    findBun(folder, fetch),
    outputOf("node", ["--version"]),
    outputOf("python3", ["--version"]),
  ]);
  if (load) add("load", [load], await outputOf("cc", ["--version"]));
  else {
    add("load", [...run, side("load.ts")], version);
    tools.missing.push(
      "the load generator in C: no `cc` that compiles it, so it is Deno's",
    );
  }
  if (epoll) add("c", [epoll], null);
  else tools.missing.push("C: no `cc` that compiles it");
  if (go) add("go", [go], await outputOf("go", ["version"]));
  else tools.missing.push("Go: no `go`");
  if (bun) {
    const version = await outputOf(bun, ["--version"]);
    add("bun", [bun, side("bun.mjs")], `Bun ${version}`);
  } else tools.missing.push("Bun: no `bun`");
  if (node) add("node", ["node", side("node.mjs")], `Node ${node}`);
  else tools.missing.push("Node: no `node`");
  if (python) add("python", ["python3", side("python.py")], python);
  else tools.missing.push("the Python peer: no `python3`");
  return tools;
}

/** Compiles what runs, so that the first measurement does not wait for it. */
async function cacheSides(): Promise<void> {
  const files = ["load", "daystar", "bare", "start_up", "start_up_empty"]
    .map((name) => side(`${name}.ts`));
  const { success } = await deno(["cache", "--quiet", ...files]).output();
  if (!success) throw new Error("The sides do not compile");
}
