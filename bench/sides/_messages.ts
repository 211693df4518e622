// Why: all sides send and check the same messages, which are made once, by the
// bench, in a file. Checking must cost little beside receiving.

/** Ends a message in the file and on the wire. */
export const END = "\x03";

export type Alphabet = "ASCII" | "Chinese";

const FILLING: Record<Alphabet, string> = {
  ASCII: "move to x=120.5 y=-33.25 z=410 r=90 speed=0.8; grip 12 N; ",
  Chinese:
    "机器人移动到第三工位夹取零件速度百分之八十然后返回原点等待下一条指令",
};

/** About this many bytes of different messages, and at least four of them. */
const DIFFERENT_BYTES = 262_144;

/** Different messages of so many bytes of UTF-8 each. */
export function makeMessages(size: number, alphabet: Alphabet): string[] {
  const width = alphabet === "ASCII" ? 1 : 3;
  const filling = FILLING[alphabet];
  const first = alphabet === "ASCII" ? 0x41 : 0x4e00;
  const units = Math.floor(size / width);
  const body = filling.repeat(Math.ceil(units / filling.length) + 1);
  const count = Math.max(
    4,
    Math.min(4096, Math.round(DIFFERENT_BYTES / (size + 1))),
  );
  return Array.from({ length: count }, (_, i) => {
    const head = String.fromCharCode(first + i % 57);
    const tail = String.fromCharCode(first + i % 53);
    const start = i % filling.length;
    // ASCII fills up what whole Chinese characters leave.
    return head + body.slice(start, start + units - 2) +
      ".".repeat(size % width) + tail;
  });
}

/** The messages of a file. */
export function readMessages(file: string): string[] {
  return Deno.readTextFileSync(file).split(END).slice(0, -1);
}

/** What a message adds to a checksum, by its length and its ends. */
function valueOf({ length }: ArrayLike<unknown>, first = 0, last = 0): number {
  return length + first + 7 * last;
}

/** Counts messages and sums up what they are and their order. */
export class Tally {
  count = 0;
  sum = 0;

  add(message: string): void {
    const last = message.charCodeAt(message.length - 1);
    const value = valueOf(message, message.charCodeAt(0), last);
    this.sum = (Math.imul(this.sum, 31) + value) | 0;
    this.count++;
  }

  /** What a side answers to ASK. Starts anew. */
  report(): string {
    const text = `${this.count} ${this.sum >>> 0}`;
    this.count = this.sum = 0;
    return text;
  }
}

/** What sides may report that received so many messages: counting only, as text, as bytes. */
export function reportsOf(messages: string[], count: number): string[] {
  const texts = messages.map((message) =>
    valueOf(
      message,
      message.charCodeAt(0),
      message.charCodeAt(message.length - 1),
    )
  );
  const binary = messages.map((message) => {
    const bytes = new TextEncoder().encode(message);
    return valueOf(bytes, bytes[0], bytes.at(-1));
  });
  const sums = [texts, binary].map((values) => checksum(values, count));
  return [`${count}`, ...sums.map((sum) => `${count} ${sum}`)];
}

/** The checksum of so many messages, of which there are fewer different ones. */
function checksum(values: number[], count: number): number {
  const add = (sum: number, value: number) => (Math.imul(sum, 31) + value) | 0;
  const whole = values.reduce(add, 0);
  const factor = values.reduce((factor) => Math.imul(factor, 31), 1);
  let sum = 0;
  for (let left = count; left >= values.length; left -= values.length) {
    sum = (Math.imul(sum, factor) + whole) | 0;
  }
  return values.slice(0, count % values.length).reduce(add, sum) >>> 0;
}

/** Asks a side that counts for its report. */
export const ASK = "?";
