// Why: the same on Node's `net` with `split2` from npm, and the echo server of
// denoland/deno issue 16523 on `net` and `readline`. Run by Node itself.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import net from "node:net";
import process from "node:process";
import readline from "node:readline";

/** The folder that split2 is installed in. */
const [, , folder] = process.argv;
const split2 = createRequire(`${folder}/package.json`)("split2");

const HOST = "127.0.0.1";
const END = "\x03";

const sockets = new Set();
let sent = 0;

function readMessages(file) {
  return readFileSync(file, "utf8").split(END).slice(0, -1);
}

function dial(port) {
  const socket = net.connect({ host: HOST, port, noDelay: true });
  return new Promise((resolve, reject) => {
    socket.once("error", reject);
    socket.once("connect", () => resolve(socket));
  });
}

function listen(port, work) {
  const server = net.createServer({ noDelay: true }, (socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => sockets.delete(socket));
    work(socket);
  });
  return new Promise((resolve) =>
    server.listen({ host: HOST, port, backlog: 511 }, resolve)
  );
}

function drained(socket) {
  return new Promise((resolve) => socket.once("drain", resolve));
}

function closed(socket) {
  return new Promise((resolve) => socket.once("close", resolve));
}

async function until(isSo) {
  for (let i = 0; !isSo(); i++) {
    if (i > 6000) throw new Error("It did not come to be within 30 s");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

function latencies(times) {
  times.sort();
  const at = (share) => 1000 * times[Math.floor(share * (times.length - 1))];
  return { median: at(0.5), p99: at(0.99) };
}

const jobs = {
  async receive({ wire, count: wanted }) {
    const socket = await dial(wire);
    const start = performance.now();
    const result = await new Promise((resolve) => {
      let count = 0;
      let sum = 0;
      socket.pipe(split2(END)).on("data", (message) => {
        count++;
        const ends = message.charCodeAt(0) +
          7 * message.charCodeAt(message.length - 1);
        sum = (Math.imul(sum, 31) + message.length + ends) | 0;
        if (count === wanted) {
          resolve({ seconds: (performance.now() - start) / 1000, count, sum });
        }
      });
    });
    socket.destroy();
    return result;
  },

  async send({ wire, count, file }) {
    const messages = readMessages(file);
    const socket = await dial(wire);
    const start = performance.now();
    for (let i = 0; i < count; i++) {
      if (!socket.write(messages[i % messages.length] + END)) {
        await drained(socket);
      }
    }
    await new Promise((resolve) => socket.end(resolve));
    const seconds = (performance.now() - start) / 1000;
    socket.resume();
    await closed(socket);
    return { seconds };
  },

  async echo({ wire, how }) {
    if (how === "lines") {
      await listen(wire, async (socket) => {
        for await (const line of readline.createInterface({ input: socket })) {
          socket.write(line + "\n");
        }
      });
    } else {
      await listen(wire, (socket) => {
        socket.pipe(split2(END)).on(
          "data",
          (message) => socket.write(message + END),
        );
      });
    }
    return {};
  },

  async ping({ wire, count, file }) {
    const messages = readMessages(file);
    const times = new Float64Array(count);
    const socket = await dial(wire);
    let got = () => {};
    socket.pipe(split2(END)).on("data", (message) => got(message));
    let wrong = 0;
    const start = performance.now();
    for (let i = 0; i < count; i++) {
      const message = messages[i % messages.length];
      const sent = performance.now();
      const reply = new Promise((resolve) => got = resolve);
      socket.write(message + END);
      if (await reply !== message) wrong++;
      times[i] = performance.now() - sent;
    }
    const seconds = (performance.now() - start) / 1000;
    socket.destroy();
    return { ...latencies(times), seconds, count, wrong };
  },

  async listen({ wire }) {
    await listen(wire, (socket) => socket.pipe(split2(END)).resume());
    return {};
  },

  async members({ clients }) {
    await until(() => sockets.size === clients);
    return {};
  },

  async broadcast({ count, file }) {
    const messages = readMessages(file);
    const start = performance.now();
    for (let i = 0; i < count; i++) {
      const frame = messages[sent++ % messages.length] + END;
      await Promise.all(
        [...sockets].map((socket) => socket.write(frame) || drained(socket)),
      );
    }
    return { seconds: (performance.now() - start) / 1000 };
  },

  async connect({ wire, count }) {
    const start = performance.now();
    for (let i = 0; i < count; i++) {
      const socket = await dial(wire);
      socket.end();
      socket.resume();
      await closed(socket);
    }
    return { seconds: (performance.now() - start) / 1000, count };
  },

  async memory({ clients }) {
    await until(() => sockets.size === clients);
    globalThis.gc?.();
    globalThis.gc?.();
    return { rss: process.memoryUsage().rss };
  },
};

for await (const line of readline.createInterface({ input: process.stdin })) {
  const [name, job] = JSON.parse(line);
  const answer = await jobs[name](job);
  process.stdout.write(JSON.stringify(answer) + "\n");
}
process.exit(0);
