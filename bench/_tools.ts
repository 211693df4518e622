// Why: not every machine has Node, Python, JSR or npm: what is missing is left
// out of the comparisons and said, and nothing is installed into the repository.

import { deno } from "../tools/_deno.ts";
import { stdFlags } from "../tools/_std.ts";
import type { Kind } from "./_programs.ts";

const SPLIT2 = "4.2.0";

/** What this machine has to compare with. */
export interface Tools {
  /** The command line of a side. */
  command(kind: Kind): string[];
  has(kind: Kind): boolean;
  /** What the sides of `streams` are called: the real ones or their stand-ins. */
  streams: { bytes: string; text: string; lines: string };
  /** What is left out and why. */
  missing: string[];
  versions: string[];
}

function path(file: string): string {
  return `bench/sides/${file}`;
}

/** The first line that a command prints, or null where there is none. */
export async function firstLine(
  command: string,
  ...args: string[]
): Promise<string | null> {
  try {
    const { success, stdout } = await new Deno.Command(command, {
      args,
      stdin: "null",
      stderr: "null",
      signal: AbortSignal.timeout(10_000),
    }).output();
    return success
      ? new TextDecoder().decode(stdout).trim().split("\n")[0] ?? null
      : null;
  } catch {
    return null;
  }
}

/** Installs split2 into a folder, from npm or Deno's cache of it. */
async function installSplit2(folder: string): Promise<boolean> {
  const dependencies = { split2: SPLIT2 };
  await Deno.writeTextFile(
    `${folder}/package.json`,
    JSON.stringify({ dependencies }),
  );
  const { success } = await new Deno.Command(Deno.execPath(), {
    args: ["install", "--quiet"],
    cwd: folder,
    env: { DENO_NO_UPDATE_CHECK: "1" },
    stdin: "null",
    stdout: "null",
    stderr: "null",
    signal: AbortSignal.timeout(30_000),
  }).output();
  return success;
}

/** Looks what there is. `folder` is for what has to be installed. */
export async function findTools(folder: string): Promise<Tools> {
  const flags = await stdFlags();
  const standIns = flags.length > 0;
  const missing: string[] = [];
  const versions = [`Deno ${Deno.version.deno} (V8 ${Deno.version.v8})`];

  const node = await firstLine("node", "--version");
  const hasNode = node !== null && await installSplit2(folder);
  if (hasNode) versions.push(`Node ${node}, split2 ${SPLIT2}`);
  else {missing.push(
      `Node with split2: ${
        node === null ? "no \`node\`" : "split2 cannot be installed"
      }`,
    );}

  const python = await firstLine("python3", "--version");
  if (python) versions.push(python);
  else missing.push("the Python peer: no `python3`");

  if (standIns) {
    missing.push(
      "@std/streams, since JSR does not answer. In its place are stand-ins: a plain " +
        "TransformStream that enqueues the bytes, or the text, of each frame",
    );
  } else versions.push("@std/streams from JSR");

  const run = [
    Deno.execPath(),
    "run",
    "--no-prompt",
    "--unstable-net",
    "--allow-net=127.0.0.1",
    "--allow-read",
    "--v8-flags=--expose-gc",
  ];
  const commands: Record<Kind, string[]> = {
    load: [...run, path("load.ts")],
    daystar: [...run, path("daystar.ts")],
    bare: [...run, path("bare.ts")],
    streams: standIns
      ? [...run, path("streams.ts"), "--stand-ins"]
      : [...run, "--allow-import", path("streams.ts")],
    websocket: [...run, path("websocket.ts")],
    framing: [...run, path("framing.ts")],
    node: ["node", "--expose-gc", path("node.mjs"), folder],
    python: ["python3", path("python.py")],
  };
  return {
    command: (kind) => commands[kind],
    has: (kind) =>
      kind === "node" ? hasNode : kind === "python" ? python !== null : true,
    streams: standIns
      ? {
        bytes: "DelimiterStream stand-in, TextDecoderStream",
        text: "TextDelimiterStream stand-in",
        lines: "TextLineStream stand-in",
      }
      : {
        bytes: "DelimiterStream, TextDecoderStream",
        text: "TextDelimiterStream",
        lines: "TextLineStream",
      },
    missing,
    versions,
  };
}

/** Compiles what runs, so that the first measurement does not wait for it. */
export async function prepare(): Promise<void> {
  const kinds: Kind[] = [
    "load",
    "daystar",
    "bare",
    "streams",
    "websocket",
    "framing",
  ];
  const files = [...kinds, "start_up", "start_up_empty"]
    .map((name) => path(`${name}.ts`));
  const { success } = await deno(["cache", "--quiet", ...files]).output();
  if (!success) throw new Error("The sides do not compile");
}
