// Why: all sides send and check the same messages, which are made once, by the
// bench, in a file. Checking must cost little beside receiving.

/** What ends a message in the file and on the wire. */
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
  const first = alphabet === "ASCII" ? 0x21 : 0x4e00;
  const units = Math.floor(size / width);
  const body = filling.repeat(Math.ceil(units / filling.length) + 1);
  const count = Math.max(
    4,
    Math.min(4096, Math.round(DIFFERENT_BYTES / (size + 1))),
  );
  return Array.from({ length: count }, (_, i) => {
    const head = String.fromCharCode(first + i % 89);
    const tail = String.fromCharCode(first + i % 83);
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

/** Counts messages and sums up what they are and their order. */
export class Tally {
  count = 0;
  sum = 0;

  add(message: string): void {
    this.count++;
    const ends = message.charCodeAt(0) +
      7 * message.charCodeAt(message.length - 1);
    this.sum = (Math.imul(this.sum, 31) + message.length + ends) | 0;
  }
}
