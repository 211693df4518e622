// Why: figures are for people: short on the terminal, whole in RESULTS.md.

import {
  type Figures,
  isMet,
  type Outcome,
  ratio,
  type Row,
  type Stat,
} from "./_measure.ts";
import {
  CPU,
  digits,
  MEDIAN,
  OURS,
  P99,
  type Section,
  showRate,
} from "./_rows.ts";
import { outputOf, type Tools } from "./_tools.ts";

/** What a section found, as Markdown. */
export function sectionOf(section: Section): string {
  const { title, about, unit, show, rows, compares } = section;
  const sides = [...new Set(rows.flatMap(({ sides }) => [...sides.keys()]))];
  const parts = [
    `## ${title}`,
    about,
    `Medians, in ${unit}:`,
    table(rows, sides, ({ sides }, side) => {
      const figures = sides.get(side);
      if (!figures) return undefined;
      const cpu = figures.extra(CPU);
      const beside = Number.isFinite(cpu) ? ` (${digits(cpu)})` : "";
      return show(figures.median) + beside;
    }),
  ];
  const slow = latencies(rows, sides);
  if (slow) {
    parts.push("Median latency, and of the slowest hundredth, in µs:", slow);
  }
  if (compares) {
    parts.push(
      `${OURS} is so many times as fast as (in brackets: the middle half of the rounds):`,
      table(rows, sides.filter((side) => side !== OURS), (row, side) => {
        const stat = ratio(row, OURS, side);
        return stat && showStat(stat);
      }),
    );
  }
  return parts.join("\n\n");
}

/** The latencies of the rows that have them. */
function latencies(
  rows: readonly Row[],
  sides: readonly string[],
): string | undefined {
  const timed = rows.filter(({ sides }) =>
    [...sides.values()].some(({ extras }) => extras.has(MEDIAN))
  );
  if (timed.length === 0) return undefined;
  return table(timed, sides, (row, side) => {
    const figures = row.sides.get(side);
    return figures &&
      `${digits(figures.extra(MEDIAN))}, ${digits(figures.extra(P99))}`;
  });
}

function table(
  rows: readonly Row[],
  sides: readonly string[],
  cell: (row: Row, side: string) => string | undefined,
): string {
  const head = ["", ...rows.map(({ label }) => label)];
  const lines = sides.map((side) => [
    side,
    ...rows.map((row) => cell(row, side) ?? "–"),
  ]);
  return markdown([head, ...lines]);
}

function markdown([head = [], ...lines]: string[][]): string {
  const rule = head.map((_, i) => i === 0 ? "---" : "--:");
  return [head, rule, ...lines].map((line) => `| ${line.join(" | ")} |`)
    .join("\n");
}

/** The median and the middle half. */
function showStat({ median, low, high }: Stat): string {
  return low === high
    ? digits(median)
    : `${digits(median)} (${digits(low)}–${digits(high)})`;
}

/** What was to be reached and what was. */
export function outcomesOf(outcomes: readonly Outcome[]): string {
  return markdown([
    ["", "target", "measured", "met", "by CPU time"],
    ...outcomes.map((outcome) => {
      const { what, least, most, figure, byCpu } = outcome;
      const met = isMet(outcome);
      return [
        what,
        least !== undefined
          ? `≥ ${least}`
          : most !== undefined
          ? `≤ ${most}`
          : "–",
        figure ? showStat(figure) : "not measured",
        met === undefined ? "–" : met ? "yes" : "**no**",
        byCpu ? showStat(byCpu) : "–",
      ];
    }),
  ]);
}

/** For a reader who only wants to know whether this is fast enough, and against what. */
export function summary(sections: ReadonlyMap<string, Section>): string {
  const row = (section: string, label: string) =>
    sections.get(section)?.rows.find((row) => row.label === label);
  type Line = [what: string, row: Row | undefined, (one: Figures) => string];
  const share = (one: Figures) => `${digits(one.extra(CPU) * 5000 / 1e4)} %`;
  const rate = (one: Figures) => showRate(one.median);
  const lines: Line[] = [
    [
      "µs until a message is answered",
      row("echo", "1 × 1"),
      (one) => digits(one.extra(MEDIAN)),
    ],
    ["of one core, for those robots", row("echo", "100 × 1"), share],
    ["answers a second, 1,000 in flight", row("echo", "1 × 1000"), rate],
    ["messages a second, one way", row("receive", "64 B"), rate],
    ["deliveries a second to 500", row("send-to-all", "500 clients"), rate],
  ];
  const sides = [...row("echo", "1 × 1")?.sides.keys() ?? []];
  const [answer, cost, many] = lines.map(([, row, show]) => {
    const ours = row?.sides.get(OURS);
    return ours ? show(ours) : "–";
  });
  return [
    `**Is this fast enough for me?** A server answers a message of 64 B after ${answer} µs on ` +
    "loopback; a real network takes longer than that. 50 robots that each ask 100 times a second, and " +
    `wait for the answer, keep ${cost} of one core busy. One connection that does not wait gets ` +
    `${many} answers a second. The same by other means, on the same machine in the same run:`,
    markdown([
      ["", ...sides],
      ...lines.map(([what, row, show]) => [
        what,
        ...sides.map((side) => {
          const figures = row?.sides.get(side);
          return figures ? show(figures) : "–";
        }),
      ]),
    ]),
  ].join("\n\n");
}

/** Which processor, or at least which kind. */
async function processor(): Promise<string> {
  const info = await Deno.readTextFile("/proc/cpuinfo").catch(() => "");
  const name = info.match(/^model name\s*:\s*(.*)$/m)?.[1] ?? Deno.build.arch;
  return `${name}, ${navigator.hardwareConcurrency} cores`;
}

/** The whole of RESULTS.md. */
export async function results(
  sections: ReadonlyMap<string, Section>,
  tools: Tools,
  charts: readonly { title: string; file: string }[],
  findings: string,
): Promise<string> {
  const commit = await outputOf("git", ["rev-parse", "--short", "HEAD"]);
  const facts = [
    new Date().toISOString().slice(0, 10) +
    (commit ? `, commit ${commit}` : ""),
    `${await processor()}; ${Deno.build.os} ${Deno.osRelease()}`,
    tools.versions.join("; "),
    ...tools.missing.map((what) => `left out: ${what}`),
  ];
  const all = [...sections.values()];
  return [
    "# How fast it is",
    outcomesOf(all.flatMap(({ outcomes }) => outcomes)),
    summary(sections),
    "Written by `deno task bench`. All is on loopback, and a side and the load generator share one " +
    "core, so that a rate tells what both cost and not where the scheduler put them. The sides of a comparison run " +
    "alternately in one run, several rounds; a ratio is the median over the rounds, in brackets " +
    "the middle half of them. One load generator faces all sides, holds the only clock, and " +
    "checks each message. CPU time is user and system time of the side's process, from the " +
    "operating system. More is better unless said.",
    facts.map((fact) => `- ${fact}`).join("\n"),
    ...charts.map(({ title, file }) => `![${title}](charts/${file})`),
    ...all.map(sectionOf),
    ...(findings ? [findings] : []),
  ].join("\n\n") + "\n";
}
