// Why: the README shows figures as pictures: bars in SVG, dark where the reader's
// system is.

import { OURS, type Section } from "./_rows.ts";

export interface Chart {
  title: string;
  file: string;
  svg: string;
}

const WIDTH = 760;
const NAMES = 250;
const BARS = WIDTH - NAMES - 80;
const STEP = 28;

const STYLE = `
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-size: 15px; font-weight: 600 }
.name { text-anchor: end }
rect { fill: #8c959f }
rect.ours { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  rect { fill: #7d8590 }
  rect.ours { fill: #4493f8 }
}
`;

interface Bar {
  name: string;
  value: number;
}

/** Bars with their values written at them, longest first. */
function draw(
  title: string,
  some: Bar[],
  show: (value: number) => string,
): string {
  const sorted = some.toSorted((a, b) => b.value - a.value);
  const most = sorted[0]?.value ?? 1;
  const bars = sorted.map(({ name, value }, i) => {
    const y = 40 + STEP * i;
    const width = Math.max(1, BARS * value / most).toFixed(1);
    const ours = name.startsWith(OURS) ? ` class="ours"` : "";
    return `<text class="name" x="${NAMES - 8}" y="${y + 14}">${name}</text>` +
      `<rect${ours} x="${NAMES}" y="${y}" width="${width}" height="20"/>` +
      `<text x="${NAMES + 6 + Number(width)}" y="${y + 14}">${
        show(value)
      }</text>`;
  });
  const height = 48 + STEP * sorted.length;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" ` +
    `viewBox="0 0 ${WIDTH} ${height}" role="img">`,
    `<title>${title}</title><style>${STYLE}</style>`,
    `<text class="title" x="0" y="18">${title}</text>`,
    ...bars,
    "</svg>",
  ].join("\n") + "\n";
}

/** Scenario, row and title of each chart; the file is called as the scenario. */
const CHARTS: [file: string, scenario: string, row: string, title: string][] = [
  ["receive.svg", "receive", "64 B", "Messages of 64 B received per second"],
  ["send.svg", "send", "64 B", "Messages of 64 B sent per second"],
  [
    "echo.svg",
    "echo",
    "1 × 1000",
    "Echoes of 64 B per second, 1,000 in flight",
  ],
];

/** The charts of what was measured. */
export function drawCharts(sections: ReadonlyMap<string, Section>): Chart[] {
  return CHARTS.flatMap(([file, scenario, label, title]) => {
    const section = sections.get(scenario);
    const row = section?.rows.find((row) => row.label === label);
    if (!section || !row) return [];
    const bars = Array.from(row.sides, ([name, { median }]) => ({
      name,
      value: median,
    }));
    const svg = draw(title, bars, section.show);
    return [{ title, file, svg }];
  });
}
