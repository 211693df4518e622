// Why: figures are for people: short on the terminal, whole in RESULTS.md.

import { firstLine, type Tools } from "./_tools.ts";
import {
  type Outcome,
  ratio,
  type Row,
  type Stat,
  statOf,
} from "./_measure.ts";
import { digits, type Section } from "./_scenario.ts";

/** What a section found, as Markdown. */
export function sectionOf(section: Section): string {
  const { title, about, unit, show, rows, ours, notes } = section;
  const parts = [`## ${title}`, about, `Medians, in ${unit}:`];
  parts.push(table(rows, sidesOf(rows), (row, side) => {
    const figures = row.sides.get(side);
    return figures && show(statOf(figures.values).median);
  }));
  const extras = extrasOf(rows);
  if (extras) parts.push(extras);
  for (const one of ours) {
    const some = rows.filter(({ sides }) => sides.has(one));
    const others = sidesOf(some).filter((side) => !ours.includes(side));
    if (others.length === 0) continue;
    const what = section.less ? "times as much as" : "times as fast as";
    parts.push(`${one} is so many ${what}:`);
    parts.push(table(some, others, (row, side) => {
      const stat = ratio(row, one, side);
      return stat && showStat(stat);
    }));
  }
  parts.push(...notes);
  return parts.join("\n\n");
}

function sidesOf(rows: readonly Row[]): string[] {
  return [...new Set(rows.flatMap(({ sides }) => [...sides.keys()]))];
}

/** Turned on its side where the sides are many: they are what has long names. */
function table(
  rows: readonly Row[],
  sides: readonly string[],
  cell: (row: Row, side: string) => string | undefined,
): string {
  const head = ["", ...rows.map(({ label }) => label)];
  const lines = sides.map((
    side,
  ) => [side, ...rows.map((row) => cell(row, side) ?? "–")]);
  return markdown([head, ...lines]);
}

function markdown([head = [], ...lines]: string[][]): string {
  const rule = head.map((_, i) => i === 0 ? "---" : "--:");
  return [head, rule, ...lines].map((line) => `| ${line.join(" | ")} |`).join(
    "\n",
  );
}

function extrasOf(rows: readonly Row[]): string | undefined {
  const lines: string[][] = [];
  for (const row of rows) {
    for (const [side, { extras }] of row.sides) {
      const values = [...extras.values()].map((all) =>
        digits(statOf(all).median)
      );
      if (values.length > 0) lines.push([`${row.label}, ${side}`, ...values]);
    }
  }
  const names = rows.flatMap(({ sides }) =>
    [...sides.values()].flatMap(({ extras }) => [...extras.keys()])
  );
  return lines.length > 0
    ? markdown([["", ...new Set(names)], ...lines])
    : undefined;
}

/** The median and the middle half. */
function showStat({ median, low, high }: Stat): string {
  return `${digits(median)} (${digits(low)}–${digits(high)})`;
}

/** What was to be reached and what was. */
export function outcomesOf(outcomes: readonly Outcome[]): string {
  return markdown([
    ["", "target", "measured", "met"],
    ...outcomes.map(({ what, target, figure, met }) => [
      what,
      target,
      figure ? showStat(figure) : "not measured here",
      met === undefined ? "–" : met ? "yes" : "**no**",
    ]),
  ]);
}

/** Which processor, or at least which kind. */
async function processor(): Promise<string> {
  const info = await Deno.readTextFile("/proc/cpuinfo").catch(() => "");
  const name = info.match(/^model name\s*:\s*(.*)$/m)?.[1] ?? Deno.build.arch;
  return `${name}, ${navigator.hardwareConcurrency} cores`;
}

/** The whole of RESULTS.md. */
export async function results(
  sections: readonly Section[],
  tools: Tools,
  charts: readonly { title: string; file: string }[],
  findings: string,
): Promise<string> {
  const commit = await firstLine("git", "rev-parse", "--short", "HEAD");
  const facts = [
    new Date().toISOString().slice(0, 10) +
    (commit ? `, commit ${commit}` : ""),
    `${await processor()}; ${Deno.build.os} ${Deno.osRelease()}`,
    tools.versions.join("; "),
    ...tools.missing.map((what) => `left out: ${what}`),
  ];
  return [
    "# How fast it is",
    "Written by `deno task bench`. All is on loopback. The sides of a comparison run alternately in " +
    "one run, several rounds; a ratio is the median over the rounds, in brackets the middle " +
    "half of them. Every message is counted and checked. More is better unless said.",
    facts.map((fact) => `- ${fact}`).join("\n"),
    "## Targets",
    outcomesOf(sections.flatMap(({ outcomes }) => outcomes)),
    ...charts.map(({ title, file }) => `![${title}](charts/${file})`),
    ...sections.map(sectionOf),
    ...(findings ? [findings] : []),
  ].join("\n\n") + "\n";
}
