// Why: two figures mean something side by side only when they were taken
// alternately in one run, so all scenarios measure through here.

/** One measurement. */
export interface Sample {
  /** The figure: a rate, unless the scenario says otherwise. */
  value: number;
  /** How long it took, to make all sides take about as long. */
  seconds: number;
  extras?: Record<string, number>;
}

/** One of those that are compared. */
export interface Side {
  name: string;
  measure(count: number): Promise<Sample>;
}

/** All rounds of one side. */
export class Figures {
  readonly values: number[] = [];
  readonly extras = new Map<string, number[]>();

  add({ value, extras = {} }: Pick<Sample, "value" | "extras">): void {
    this.values.push(value);
    for (const [name, extra] of Object.entries(extras)) {
      if (!Number.isFinite(extra)) continue;
      this.extras.set(name, [...this.extras.get(name) ?? [], extra]);
    }
  }

  get median(): number {
    return statOf(this.values).median;
  }

  /** The median of an extra figure. */
  extra(name: string): number {
    return statOf(this.extras.get(name) ?? []).median;
  }
}

/** All sides of one comparison. */
export interface Row {
  label: string;
  sides: Map<string, Figures>;
}

/** How long to measure, and how often. */
export interface Effort {
  rounds: number;
  /** For one measurement. */
  seconds: number;
  progress: (text: string) => void;
}

/** How many to do in one measurement. */
export interface Counts {
  first: number;
  most: number;
  /** Only multiples of it. */
  step?: number;
}

/** Measures the sides in turn, round after round, in changing order. */
export async function compare(
  label: string,
  sides: readonly Side[],
  effort: Effort,
  counts: Counts,
): Promise<Row> {
  const plan: { side: Side; count: number; figures: Figures }[] = [];
  for (const side of sides) {
    effort.progress(`${label}: warming up ${side.name}`);
    const count = await warmUp(side, effort, counts);
    plan.push({ side, count, figures: new Figures() });
  }
  for (let round = 0; round < effort.rounds; round++) {
    effort.progress(`${label}: round ${round + 1} of ${effort.rounds}`);
    const start = round % plan.length;
    const order = [...plan.slice(start), ...plan.slice(0, start)];
    if (round % 2 === 1) order.reverse();
    for (const { side, count, figures } of order) {
      figures.add(await side.measure(count));
    }
  }
  return {
    label,
    sides: new Map(plan.map(({ side, figures }) => [side.name, figures])),
  };
}

/** How many times the time of a measurement a side runs before the first. */
const WARM_UP = 4;

/** Lets a side get warm, and finds out how many it does in the time. */
async function warmUp(
  side: Side,
  { seconds }: Effort,
  { first, most, step = 1 }: Counts,
): Promise<number> {
  let count = first;
  let spent = 0;
  for (let i = 0; i < 12; i++) {
    const took = Math.max((await side.measure(count)).seconds, 1e-6);
    spent += took;
    const wanted = count * Math.min(20, seconds / took);
    const next = Math.round(Math.min(wanted, most) / step) * step;
    const near = took > 0.6 * seconds || next <= count;
    count = Math.max(step, next);
    if (near && spent > WARM_UP * seconds) break;
  }
  return count;
}

/** The middle of several values, and the middle half of them. */
export interface Stat {
  median: number;
  low: number;
  high: number;
}

export function statOf(values: readonly number[]): Stat {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (share: number) => {
    const place = share * (sorted.length - 1);
    const below = sorted[Math.floor(place)] ?? NaN;
    const above = sorted[Math.ceil(place)] ?? NaN;
    return below + (above - below) * (place - Math.floor(place));
  };
  return { median: at(0.5), low: at(0.25), high: at(0.75) };
}

/** How many times the figure of `against` the figure of `ours` is, round by round. */
export function ratio(
  row: Row | undefined,
  ours: string,
  against: string,
  extra?: string,
): Stat | undefined {
  const of = (side: string) => {
    const figures = row?.sides.get(side);
    return extra ? figures?.extras.get(extra) : figures?.values;
  };
  const [a, b] = [of(ours), of(against)];
  return a && b && statOf(a.map((value, i) => value / (b[i] ?? NaN)));
}

/** A line of the table of targets, and what came out. */
export interface Outcome {
  what: string;
  /** Undefined where a figure has no target. */
  least?: number;
  most?: number;
  /** Undefined where it was not measured. */
  figure: Stat | undefined;
  /** The same ratio by the CPU time that a message takes, which varies less. */
  byCpu?: Stat | undefined;
}

/** Undefined where there is nothing to say. */
export function isMet({ least, most, figure }: Outcome): boolean | undefined {
  if (!figure || least === undefined && most === undefined) return undefined;
  return figure.median >= (least ?? -Infinity) &&
    figure.median <= (most ?? Infinity);
}
