// Why: what Node and Bun do with messages is the same; only the sockets differ.

import { readFileSync } from "node:fs";
import process from "node:process";

export const HOST = "127.0.0.1";
export const [, , MODE, PORT, FILE] = process.argv;
export const WIRE = Number(PORT);

const END = "\x03";
const messages = readFileSync(FILE, "utf8").split(END).slice(0, -1);
let sent = 0;

/**
 * Makes what takes the text of one connection, read by read, and gives what is
 * to be written: one text for each read.
 */
export function makeReader(sendToAll) {
  let rest = "";
  let count = 0;
  let sum = 0;
  const answers = {
    echo: (message) => message,
    count(message) {
      if (message !== "?") {
        count++;
        const last = message.charCodeAt(message.length - 1);
        sum = (Math.imul(sum, 31) + message.length + message.charCodeAt(0) +
          7 * last) | 0;
        return;
      }
      const report = `${count} ${sum >>> 0}`;
      count = sum = 0;
      return report;
    },
    async send(order) {
      for (let i = 0; i < Number(order); i++) {
        await sendToAll(messages[sent++ % messages.length] + END);
      }
    },
  };
  const answer = answers[MODE];
  return (text) => {
    const parts = (rest + text).split(END);
    rest = parts.pop();
    let replies = "";
    for (const message of parts) {
      const reply = answer(message);
      if (typeof reply === "string") replies += reply + END;
    }
    return replies;
  };
}

export function ready() {
  console.log("ready");
  process.stdin.on("end", () => process.exit(0)).resume();
}
