// Why: `deno task check`: everything that can be said without running the
// code. All steps run, so that one look shows all that is wrong.

import { deno, entryPoints, modules, ROOT } from "./_deno.ts";
import { stdFlags } from "./_std.ts";

/** What importing the entry points loads must be what is published. */
async function graphIsOurs(): Promise<boolean> {
  const loaded = new Set<string>();
  for (const path of entryPoints) {
    const { stdout } = await deno(["info", "--json", path], { stdout: "piped" })
      .output();
    const graph = JSON.parse(new TextDecoder().decode(stdout)) as {
      modules: { specifier: string }[];
    };
    for (const { specifier } of graph.modules) {
      // The tool may use what Deno ships of Node; the modules may not.
      const shipped = path === "./cli.ts" && specifier.startsWith("node:");
      if (!shipped) loaded.add(specifier);
    }
  }
  const published = new Set(modules.map((path) => new URL(path, ROOT).href));
  for (const url of loaded.difference(published)) {
    console.error(`${url} is loaded but not published`);
  }
  for (const url of published.difference(loaded)) {
    console.error(`${url} is published but not loaded`);
  }
  return loaded.symmetricDifference(published).size === 0;
}

async function succeeds(args: string[]): Promise<boolean> {
  return (await deno(args).output()).success;
}

const steps: Record<string, () => Promise<boolean>> = {
  "fmt": () => succeeds(["fmt", "--check"]),
  "lint": () => succeeds(["lint"]),
  "types": async () => succeeds(["check", ...await stdFlags(), "."]),
  "doc": () => succeeds(["doc", "--lint", ...entryPoints]),
  "imports": graphIsOurs,
  "publish": () => succeeds(["publish", "--dry-run", "--allow-dirty"]),
};

const failed: string[] = [];
for (const [name, step] of Object.entries(steps)) {
  console.log(`\n== ${name}`);
  if (!await step()) failed.push(name);
}
console.log(
  failed.length ? `\nfailed: ${failed.join(", ")}` : "\nall in order",
);
if (failed.length) Deno.exitCode = 1;
