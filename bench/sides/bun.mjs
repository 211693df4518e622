// Why: the same on Bun's own sockets. Run by Bun itself.

import { HOST, makeReader, MODE, ready, WIRE } from "./_modes.mjs";

const { Bun } = globalThis;

const sockets = new Set();

/** Writes what the socket takes, and keeps the rest for `drain`. */
function write(socket, bytes) {
  const { data } = socket;
  if (data.rest) {
    data.rest = Buffer.concat([data.rest, bytes]);
  } else {
    const written = Math.max(0, socket.write(bytes));
    if (written < bytes.length) data.rest = bytes.subarray(written);
  }
  if (!data.rest) return;
  return new Promise((resolve) => data.drained.push(resolve));
}

function drain(socket) {
  const { data } = socket;
  const bytes = data.rest;
  data.rest = null;
  if (bytes) write(socket, bytes);
  if (!data.rest) { for (const done of data.drained.splice(0)) done(); }
}

async function sendToAll(frame) {
  const bytes = Buffer.from(frame);
  for (const pending of Array.from(sockets, (socket) => write(socket, bytes))) {
    if (pending) await pending;
  }
}

if (MODE === "udp") {
  await Bun.udpSocket({
    hostname: HOST,
    port: WIRE,
    socket: {
      data: (socket, datagram, port, host) => socket.send(datagram, port, host),
    },
  });
} else {
  Bun.listen({
    hostname: HOST,
    port: WIRE,
    socket: {
      open(socket) {
        const decoder = new TextDecoder();
        socket.data = { decoder, read: makeReader(sendToAll), drained: [] };
        socket.setNoDelay(true);
        sockets.add(socket);
      },
      data(socket, chunk) {
        const { decoder, read } = socket.data;
        const replies = read(decoder.decode(chunk, { stream: true }));
        if (replies) write(socket, Buffer.from(replies));
      },
      drain,
      close: (socket) => sockets.delete(socket),
      error() {},
    },
  });
}
ready();
