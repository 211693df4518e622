// Why: `test` and `coverage` run the same tests, and count what really ran:
// the figures are those of Deno's own summary lines.

import { stripVTControlCharacters } from "node:util";
import { deno, exists, modules, ROOT } from "./_deno.ts";
import { stdFlags } from "./_std.ts";

export interface Totals {
  passed: number;
  failed: number;
  ignored: number;
}

const SUMMARY =
  /^(?:ok|FAILED) \| (\d+) passed.*? \| (\d+) failed(?:.*? \| (\d+) ignored)?/;

/** One `deno test`, shown as it goes. A run without a summary has failed. */
async function run(args: string[]): Promise<Totals> {
  const child = deno(args, { stdout: "piped" }).spawn();
  const [shown, read] = child.stdout.tee();
  const show = shown.pipeTo(Deno.stdout.writable, { preventClose: true });
  let summary: RegExpMatchArray | null = null;
  let rest = "";
  for await (const text of read.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      summary = stripVTControlCharacters(line).match(SUMMARY) ?? summary;
    }
  }
  await show;
  const { success } = await child.status;
  const count = (at: number) => Number(summary?.[at] ?? 0);
  const failed = count(2);
  return {
    passed: count(1),
    failed: success && summary ? failed : Math.max(failed, 1),
    ignored: count(3),
  };
}

function markdown(): string[] {
  const docs = exists("docs")
    ? [...Deno.readDirSync(new URL("docs", ROOT))]
    : [];
  return ["README.md", ...docs.map(({ name }) => `docs/${name}`)]
    .filter((path) => path.endsWith(".md") && exists(path));
}

/**
 * Runs the tests and the doc examples, or the files among `args` alone. What
 * else is in `args` goes to `deno test`. Raw coverage goes to `folder`, if given:
 * a directory for each run, as a run empties the one that it is given.
 */
export async function runTests(
  args: string[],
  folder?: string,
): Promise<Totals> {
  const flags = [
    "test",
    "--allow-all",
    "--no-prompt",
    "--parallel",
    ...await sanitizerFlags(),
    ...await stdFlags(),
    // A filter that fits tests but no doc example, or the reverse, is no error.
    "--permit-no-files",
    ...args.filter((arg) => !isPath(arg)),
  ];
  const paths = args.filter(isPath);
  const isTest = (path: string) => /_test\.ts$|\/$|^[^.]+$/.test(path);
  const tests = paths.length ? paths.filter(isTest) : ["tests/"];
  const docs = paths.length
    ? paths.filter((path) => !isTest(path))
    : [...modules.filter(exists), ...markdown()];
  const totals: Totals = { passed: 0, failed: 0, ignored: 0 };
  const runs: string[][] = [];
  if (tests.length) runs.push([...flags, ...tests]);
  if (docs.length) runs.push([...flags, "--doc", ...docs]);
  for (const [i, args] of runs.entries()) {
    if (folder) {
      args.push(`--coverage=${folder}/${i}`, "--coverage-raw-data-only");
    }
    const { passed, failed, ignored } = await run(args);
    totals.passed += passed;
    totals.failed += failed;
    totals.ignored += ignored;
  }
  return totals;
}

/** Before 2.9 Deno looked for leaks without being told, and did not know the flags. */
async function sanitizerFlags(): Promise<string[]> {
  const help = await deno(["test", "--help"], { stdout: "piped" }).output();
  return new TextDecoder().decode(help.stdout).includes("--sanitize-ops")
    ? ["--sanitize-ops", "--sanitize-resources"]
    : [];
}

function isPath(arg: string): boolean {
  return !arg.startsWith("-") && exists(arg);
}

/** Says the totals, the last line being the one that CI reads. */
export function report({ passed, failed, ignored }: Totals): void {
  if (ignored) console.log(`${ignored} skipped`);
  console.log(`${passed} passed, ${failed} failed`);
}
