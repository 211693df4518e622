// Why: `deno task coverage`: the tests must reach enough of what is published.

import { deno, modules, ROOT } from "./_deno.ts";
import { report, runTests } from "./_run_tests.ts";

const MIN_LINES = 95;
const MIN_BRANCHES = 90;

interface Share {
  hit: number;
  of: number;
}

interface Row {
  name: string;
  lines: Share;
  branches: Share;
}

function percent({ hit, of }: Share): number {
  return of === 0 ? 100 : 100 * hit / of;
}

/** The totals of each module in an lcov report. */
function parse(lcov: string): Map<string, Row> {
  const rows = new Map<string, Row>();
  for (const record of lcov.split("end_of_record")) {
    const field = (key: string) =>
      record.match(new RegExp(`^${key}:(.*)$`, "m"))?.[1] ?? "";
    const share = (key: string): Share => ({
      hit: Number(field(`${key}H`)),
      of: Number(field(`${key}F`)),
    });
    const name = modules.find((path) =>
      field("SF") === new URL(path, ROOT).pathname
    );
    if (!name) continue;
    rows.set(name, { name, lines: share("L"), branches: share("BR") });
  }
  return rows;
}

function line(name: string, lines: Share, branches: Share): string {
  const cell = (share: Share) =>
    `${percent(share).toFixed(1)} % (${share.hit}/${share.of})`.padStart(19);
  return name.padEnd(18) + cell(lines) + cell(branches);
}

const folder = await Deno.makeTempDir({ prefix: "daystar-coverage-" });
try {
  const totals = await runTests(Deno.args, folder);
  const { success, stdout } = await deno(
    ["coverage", "--lcov", folder],
    { stdout: "piped", stderr: "null" },
  ).output();
  const rows = parse(success ? new TextDecoder().decode(stdout) : "");

  const lines = { hit: 0, of: 0 };
  const branches = { hit: 0, of: 0 };
  const missing = [];
  console.log(
    `\n${"".padEnd(18)}${"lines".padStart(19)}${"branches".padStart(19)}`,
  );
  for (const path of modules) {
    const row = rows.get(path);
    if (row) {
      console.log(line(path, row.lines, row.branches));
      lines.hit += row.lines.hit;
      lines.of += row.lines.of;
      branches.hit += row.branches.hit;
      branches.of += row.branches.of;
    } else {
      missing.push(path);
    }
  }
  console.log(line("all", lines, branches));

  const enough = percent(lines) >= MIN_LINES &&
    percent(branches) >= MIN_BRANCHES && lines.of > 0 && missing.length === 0;
  for (const path of missing) console.log(`${path}: not loaded by any test`);
  console.log(
    `${enough ? "enough" : "TOO LITTLE"}: ` +
      `at least ${MIN_LINES} % of lines and ${MIN_BRANCHES} % of branches`,
  );
  report(totals);
  if (!enough || totals.failed > 0) Deno.exitCode = 1;
} finally {
  await Deno.remove(folder, { recursive: true });
}
