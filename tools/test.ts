// Why: `deno task test [flags and files of deno test]`.

import { report, runTests } from "./_run_tests.ts";

const totals = await runTests(Deno.args);
report(totals);
// A run in which no test passed has shown nothing.
if (totals.failed > 0 || totals.passed === 0) Deno.exitCode = 1;
