// Why: `deno task bench [--quick] [name …]`: all comparisons, or those named. A
// whole run without --quick writes RESULTS.md and the charts.

import { deno } from "../tools/_deno.ts";
import { drawCharts } from "./_charts.ts";
import { outcomesOf, results, sectionOf } from "./_report.ts";
import { MessageFiles, type Section } from "./_rows.ts";
import { SCENARIOS } from "./_scenarios.ts";
import { findTools, type Tools } from "./_tools.ts";

const FULL = { rounds: 15, seconds: 0.1 };
const QUICK = { rounds: 3, seconds: 0.04 };

/** What was found where a figure could not be reached: written by hand. */
const FINDINGS = new URL("FINDINGS.md", import.meta.url);
const RESULTS = new URL("RESULTS.md", import.meta.url);
const CHARTS = new URL("charts/", import.meta.url);

const began = performance.now();

function elapsed(): string {
  return `${((performance.now() - began) / 1000).toFixed(0)} s`.padStart(6);
}

function show(text: string): void {
  Deno.stderr.writeSync(new TextEncoder().encode(text));
}

/** One line that changes on a terminal; elsewhere a line for each row. */
function progressOf(name: string): (text: string) => void {
  let shown = "";
  return (text) => {
    if (Deno.stderr.isTerminal()) {
      return show(`\r\x1b[K${elapsed()}  ${name}: ${text}`);
    }
    const [part = ""] = text.split(":");
    if (part !== shown) show(`${elapsed()}  ${name}: ${part}\n`);
    shown = part;
  };
}

function clearProgress(): void {
  if (Deno.stderr.isTerminal()) show("\r\x1b[K");
}

async function writeResults(
  sections: ReadonlyMap<string, Section>,
  tools: Tools,
): Promise<void> {
  const charts = drawCharts(sections);
  await Deno.remove(CHARTS, { recursive: true }).catch(() => {});
  await Deno.mkdir(CHARTS, { recursive: true });
  for (const { file, svg } of charts) {
    await Deno.writeTextFile(new URL(file, CHARTS), svg);
  }
  const findings = await Deno.readTextFile(FINDINGS).catch(() => "");
  await Deno.writeTextFile(
    RESULTS,
    await results(sections, tools, charts, findings),
  );
  await deno(["fmt", "--quiet", "bench/RESULTS.md", "bench/charts"]).output();
  console.log("Written: bench/RESULTS.md, bench/charts/");
}

/** The scenarios that are wanted; ends the run where a name is not known. */
function wantedOf(args: string[]): typeof SCENARIOS {
  const known = SCENARIOS.map(({ name }) => name);
  const names = args.filter((arg) => arg !== "--quick");
  const strange = names.filter((name) => !known.includes(name));
  if (strange.length > 0) {
    const usage = `bench [--quick] [${known.join(" | ")}]`;
    console.error(`${strange.join(", ")}: not known. ${usage}`);
    Deno.exit(2);
  }
  return SCENARIOS.filter(({ name }) =>
    names.length === 0 || names.includes(name)
  );
}

async function main(args: string[]): Promise<void> {
  const quick = args.includes("--quick");
  const wanted = wantedOf(args);
  const folder = await Deno.makeTempDir({ prefix: "daystar-bench-" });
  try {
    const tools = await findTools(folder, !quick);
    console.log(tools.versions.join("; "));
    for (const what of tools.missing) console.log(`left out: ${what}`);
    const files = new MessageFiles(folder);
    const sections = new Map<string, Section>();
    for (const { name, run } of wanted) {
      const effort = { ...(quick ? QUICK : FULL), progress: progressOf(name) };
      try {
        const section = await run({ effort, quick, tools, files });
        sections.set(name, section);
        clearProgress();
        console.log(`${sectionOf(section)}\n`);
      } catch (error) {
        clearProgress();
        console.error(`${name} FAILED:`, error);
        Deno.exitCode = 1;
      }
    }
    const outcomes = [...sections.values()].flatMap(({ outcomes }) => outcomes);
    console.log(`## Targets\n\n${outcomesOf(outcomes)}\n`);
    if (quick) {
      console.log("These were quick looks: they show that the bench works.");
    } else if (sections.size === SCENARIOS.length) {
      await writeResults(sections, tools);
    }
    console.log(`${sections.size} scenarios in${elapsed()}`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

await main(Deno.args);
