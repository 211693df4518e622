// Why: `@std` is on JSR, which robot cells and CI cannot reach. Where it does
// not answer, an import map puts the stand-ins of tests/std/ in its place.

import { config, deno, ROOT } from "./_deno.ts";

/** How long JSR may take to answer. */
const PATIENCE = 4_000;

/** One small file of each package: enough to know that they can be had. */
const PROBES: Record<string, string> = {
  "@std/assert": "/assert",
  "@std/async": "/delay",
  "@std/streams": "/to-text",
};

async function jsrAnswers(): Promise<boolean> {
  const specifiers = Object.entries(PROBES)
    .map(([name, file]) => config.imports[name] + file);
  const probe = deno(["cache", "--no-config", "--no-lock", ...specifiers], {
    stdout: "null",
    stderr: "null",
  }).spawn();
  const timer = setTimeout(() => probe.kill("SIGKILL"), PATIENCE);
  const { success } = await probe.status;
  clearTimeout(timer);
  return success;
}

/** The imports of deno.json, with `@std` from tests/std/. */
function standInMap(): string {
  const imports: Record<string, string> = {};
  for (const [name, target] of Object.entries(config.imports)) {
    if (name in PROBES) {
      const file = name.replace("@std/", "tests/std/") + ".ts";
      imports[name] = new URL(file, ROOT).href;
    } else {
      imports[name] = new URL(target, ROOT).href;
    }
  }
  const json = JSON.stringify({ imports });
  return `data:application/json,${encodeURIComponent(json)}`;
}

/**
 * The flags that give a Deno command its `@std`, and says which one it is.
 * `DAYSTAR_STD=jsr` or `DAYSTAR_STD=stand-ins` decides without asking JSR.
 */
export async function stdFlags(): Promise<string[]> {
  const wish = Deno.env.get("DAYSTAR_STD");
  const real = wish ? wish === "jsr" : await jsrAnswers();
  if (real) {
    console.log("@std: the real one, from JSR");
    return [];
  }
  const why = wish ? "DAYSTAR_STD is set" : "JSR does not answer";
  console.log(`@std: the stand-ins of tests/std/ (${why})`);
  return [`--import-map=${standInMap()}`];
}
