// Why: the README shows figures as pictures. ECharts draws SVG without a browser;
// the dark colours are put in afterwards, since an image cannot ask its page.

import { median, type Row } from "./_measure.ts";
import { BARE, CALLBACK, type Section, sizeName } from "./_scenario.ts";

export interface Chart {
  title: string;
  file: string;
  svg: string;
}

/** Light colours, and what they are where the reader's system is dark. */
const COLORS: Record<string, string> = {
  "#24292f": "#e6edf3", // text
  "#d0d7de": "#3d444d", // lines
  "#0969da": "#4493f8", // this module
  "#8c959f": "#7d8590", // others
  "#bc4c00": "#f0883e",
  "#1a7f37": "#3fb950",
  "#8250df": "#ab7df8",
  "#bf3989": "#db61a2",
  "#7d4e00": "#d29922",
  "#0a7b83": "#39c5cf",
};

const [TEXT = "", LINE = "", OURS = "", OTHERS = "", ...MORE] = Object.keys(
  COLORS,
);

const WIDTH = 760;

/** For the names of the sides, of which the library does not know how wide they are. */
const NAMES = 290;

/** Not a literal, or every run would fetch it: only one that draws needs it. */
const ECHARTS: string = "npm:echarts@6.1.0";

/** What is used of it. */
interface ECharts {
  init(
    dom: null,
    theme: null,
    options: { renderer: "svg"; ssr: true; width: number; height: number },
  ): {
    setOption(option: Record<string, unknown>): void;
    renderToSVGString(): string;
    dispose(): void;
  };
}

async function draw(
  title: string,
  height: number,
  option: Record<string, unknown>,
): Promise<string> {
  const { init } = await import(ECHARTS) as ECharts;
  const chart = init(null, null, {
    renderer: "svg",
    ssr: true,
    width: WIDTH,
    height,
  });
  try {
    chart.setOption({
      animation: false,
      textStyle: { color: TEXT, fontFamily: "system-ui, sans-serif" },
      title: {
        text: title,
        left: 0,
        textStyle: { color: TEXT, fontSize: 15, fontWeight: 600 },
      },
      ...option,
    });
    return withDark(chart.renderToSVGString(), title);
  } finally {
    chart.dispose();
  }
}

function withDark(svg: string, title: string): string {
  const rules = Object.entries(COLORS).map(([light, dark]) =>
    `[fill="${light}"]{fill:${dark}}[stroke="${light}"]{stroke:${dark}}`
  );
  const style = `<style>@media (prefers-color-scheme:dark){${
    rules.join("")
  }}</style>`;
  const start = svg.indexOf(">") + 1;
  return `${
    svg.slice(0, start - 1)
  } role="img"><title>${title}</title>${style}${svg.slice(start)}`;
}

interface Bar {
  name: string;
  value: number;
  ours: boolean;
}

/** Bars with their values written at them, longest first. */
function bars(
  title: string,
  some: Bar[],
  show: (value: number) => string,
): Promise<string> {
  const sorted = some.toSorted((a, b) => a.value - b.value);
  return draw(title, 70 + 30 * some.length, {
    grid: { left: NAMES, right: 70, top: 40, bottom: 8 },
    xAxis: { type: "value", show: false },
    yAxis: {
      type: "category",
      data: sorted.map(({ name }) => name),
      axisLabel: { color: TEXT },
      axisLine: { show: false },
      axisTick: { show: false },
    },
    series: [{
      type: "bar",
      barWidth: "65%",
      label: {
        show: true,
        position: "right",
        color: TEXT,
        formatter: (bar: { value: number }) => show(bar.value),
      },
      data: sorted.map(({ value, ours }) => ({
        value,
        itemStyle: { color: ours ? OURS : OTHERS },
      })),
    }],
  });
}

/** Lines over sizes or numbers of clients. */
function lines(
  title: string,
  unit: string,
  xs: string[],
  series: { name: string; values: number[]; ours: boolean }[],
  log: boolean,
): Promise<string> {
  let other = 0;
  return draw(title, 340, {
    grid: { left: 60, right: NAMES + 50, top: 65, bottom: 30 },
    legend: {
      orient: "vertical",
      top: 55,
      left: WIDTH - NAMES - 30,
      icon: "circle",
      textStyle: { color: TEXT },
      data: series.map(({ name }) => name),
    },
    xAxis: {
      type: "category",
      data: xs,
      axisLabel: { color: TEXT },
      axisLine: { lineStyle: { color: LINE } },
      axisTick: { show: false },
    },
    yAxis: {
      type: log ? "log" : "value",
      name: unit,
      nameTextStyle: { color: TEXT, align: "left" },
      axisLabel: { color: TEXT },
      splitLine: { lineStyle: { color: LINE } },
    },
    series: series.map(({ name, values, ours }) => {
      const color = ours
        ? OURS
        : name === BARE
        ? OTHERS
        : MORE[other++ % MORE.length] ?? OTHERS;
      return {
        name,
        type: "line",
        data: values.map((value) => Number(value.toPrecision(4))),
        color,
        symbol: "circle",
        symbolSize: 7,
        lineStyle: { color, width: ours ? 3 : 1.5 },
        itemStyle: { color },
      };
    }),
  });
}

function barsOf(row: Row, { ours }: Section): Bar[] {
  return [...row.sides.keys()].map((name) => ({
    name: ours.includes(name) && !name.startsWith("@")
      ? `@daystar/comm, ${name}`
      : name,
    value: median(row, name),
    ours: ours.includes(name),
  }));
}

/** The charts of what was measured. */
export async function drawCharts(
  sections: ReadonlyMap<string, Section>,
): Promise<Chart[]> {
  const charts: Chart[] = [];
  const add = async (file: string, title: string, svg: Promise<string>) => {
    charts.push({ title, file: `${file}.svg`, svg: await svg });
  };
  const barChart = async (name: string, label: string, title: string) => {
    const section = sections.get(name);
    const row = section?.rows.find((row) => row.label === label);
    if (section && row) {
      await add(name, title, bars(title, barsOf(row, section), section.show));
    }
  };

  await barChart(
    "receive",
    "64 B ASCII",
    "Messages of 64 B received per second",
  );
  const received = sections.get("receive");
  if (received) {
    const rows = received.rows.filter(({ label }) => label.endsWith("ASCII"));
    const names = [...rows[0]?.sides.keys() ?? []]
      .filter((name) => name === CALLBACK || !received.ours.includes(name));
    const series = names.map((name) => ({
      name: name === CALLBACK ? "@daystar/comm" : name,
      values: rows.map((row) => median(row, name) * (row.size ?? 0) / 1e6),
      ours: name === CALLBACK,
    }));
    const title = "Megabytes of messages received per second, by message size";
    await add(
      "receive-sizes",
      title,
      lines(
        title,
        "MB/s",
        rows.map(({ size = 0 }) => sizeName(size)),
        series,
        true,
      ),
    );
  }
  await barChart("send", "64 B ASCII", "Messages of 64 B sent per second");
  await barChart(
    "request",
    "64 B",
    "Request and reply: round trips per second, 64 B",
  );
  await barChart("echo", "64 B", "Pipelined echo: messages of 64 B per second");
  await barChart(
    "ten-clients",
    "36 B, 10 clients",
    "Echoes per second to 10 clients (denoland/deno issue 16523)",
  );
  const toAll = sections.get("send-to-all");
  if (toAll) {
    const xs = toAll.rows.map(({ label }) => label);
    const names = [...toAll.rows[0]?.sides.keys() ?? []]
      .filter((name) => toAll.rows.every(({ sides }) => sides.has(name)));
    const series = names.map((name) => ({
      name,
      values: toAll.rows.map((row) => median(row, name)),
      ours: toAll.ours.includes(name),
    }));
    const title = "sendToAll: deliveries per second, by number of clients";
    await add(
      "send-to-all",
      title,
      lines(title, "deliveries/s", xs, series, false),
    );
  }
  await barChart(
    "memory",
    "5000 connections",
    "KB of memory for an idle connection, at 5,000 (less is better)",
  );
  return charts;
}
