// Why: `deno task bench [--quick] [name …]`: all comparisons, or those named. A
// whole run without --quick writes RESULTS.md and the charts.

import { deno } from "../tools/_deno.ts";
import { type Chart, drawCharts } from "./_charts.ts";
import type { Effort } from "./_measure.ts";
import { outcomesOf, results, sectionOf } from "./_report.ts";
import { MessageFiles, type Scenario, type Section } from "./_scenario.ts";
import { findTools, prepare, type Tools } from "./_tools.ts";
import { fanOut } from "./scenarios/fan_out.ts";
import { growth } from "./scenarios/growth.ts";
import { oneWay } from "./scenarios/one_way.ts";
import { resources } from "./scenarios/resources.ts";
import { roundTrip } from "./scenarios/round_trip.ts";
import { datagrams } from "./scenarios/udp.ts";

const SCENARIOS: Scenario[] = [
  ...oneWay,
  ...roundTrip,
  ...fanOut,
  ...datagrams,
  ...growth,
  ...resources,
];

const FULL = { rounds: 5, seconds: 0.1 };
const QUICK = { rounds: 3, seconds: 0.02 };

/** What was found where a figure could not be reached: written by hand. */
const FINDINGS = new URL("FINDINGS.md", import.meta.url);
const RESULTS = new URL("RESULTS.md", import.meta.url);
const CHARTS = new URL("charts/", import.meta.url);

const began = performance.now();

function elapsed(): string {
  return `${((performance.now() - began) / 1000).toFixed(0)} s`.padStart(6);
}

/** One line that changes on a terminal; elsewhere a line now and then. */
function progressOf(name: string): (text: string) => void {
  let shown = "";
  return (text) => {
    if (Deno.stderr.isTerminal()) {
      const line = `\r\x1b[K${elapsed()}  ${name}: ${text}`;
      Deno.stderr.writeSync(new TextEncoder().encode(line));
      return;
    }
    const [part = ""] = text.split(":");
    if (part === shown) return;
    shown = part;
    console.error(`${elapsed()}  ${name}: ${part}`);
  };
}

function clearProgress(): void {
  if (Deno.stderr.isTerminal()) {
    Deno.stderr.writeSync(new TextEncoder().encode("\r\x1b[K"));
  }
}

async function writeResults(
  sections: ReadonlyMap<string, Section>,
  tools: Tools,
): Promise<void> {
  let charts: Chart[] = [];
  try {
    charts = await drawCharts(sections);
  } catch (error) {
    console.error("No charts:", error);
    Deno.exitCode = 1;
  }
  await Deno.mkdir(CHARTS, { recursive: true });
  for (const { file, svg } of charts) {
    await Deno.writeTextFile(new URL(file, CHARTS), svg);
  }
  const findings = await Deno.readTextFile(FINDINGS).catch(() => "");
  await Deno.writeTextFile(
    RESULTS,
    await results([...sections.values()], tools, charts, findings),
  );
  await deno(["fmt", "--quiet", "bench/RESULTS.md", "bench/charts"]).output();
  console.log("Written: bench/RESULTS.md, bench/charts/");
}

async function main(args: string[]): Promise<void> {
  const quick = args.includes("--quick");
  const names = args.filter((arg) => !arg.startsWith("-"));
  const known = SCENARIOS.map(({ name }) => name);
  const strange = args.filter((arg) =>
    arg !== "--quick" && !known.includes(arg)
  );
  if (strange.length > 0) {
    console.error(
      `${strange.join(", ")}: not known. bench [--quick] [${
        known.join(" | ")
      }]`,
    );
    Deno.exit(2);
  }
  const folder = await Deno.makeTempDir({ prefix: "daystar-bench-" });
  try {
    const tools = await findTools(folder);
    await prepare();
    for (const what of tools.missing) console.log(`left out: ${what}`);
    const messages = new MessageFiles(folder);
    const sections = new Map<string, Section>();
    const failed: string[] = [];
    const wanted = SCENARIOS.filter(({ name }) =>
      names.length === 0 || names.includes(name)
    );
    for (const { name, run } of wanted) {
      const effort: Effort = {
        ...(quick ? QUICK : FULL),
        progress: progressOf(name),
      };
      try {
        const section = await run({ effort, quick, tools, messages });
        sections.set(name, section);
        clearProgress();
        console.log(`${sectionOf(section)}\n`);
      } catch (error) {
        clearProgress();
        console.error(`${name} FAILED:`, error);
        failed.push(name);
      }
    }
    const outcomes = [...sections.values()].flatMap((section) =>
      section.outcomes
    );
    console.log(`## Targets\n\n${outcomesOf(outcomes)}\n`);
    if (quick) {
      console.log("These were quick looks: they show that the bench works.");
    }
    if (failed.length > 0) {
      Deno.exitCode = 1;
      console.error(`failed: ${failed.join(", ")}`);
    } else if (!quick && names.length === 0) {
      await writeResults(sections, tools);
    }
    console.log(`${sections.size} scenarios in${elapsed()}`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

await main(Deno.args);
