// Why: the same on Node's `net` and `dgram`. Run by Node itself.

import dgram from "node:dgram";
import net from "node:net";
import { HOST, makeReader, MODE, ready, WIRE } from "./_modes.mjs";

const sockets = new Set();

function sendToAll(frame) {
  return Promise.all(Array.from(sockets, (socket) =>
    socket.write(frame) ||
    new Promise((resolve) => socket.once("drain", resolve))));
}

if (MODE === "udp") {
  const socket = dgram.createSocket("udp4");
  socket.on(
    "message",
    (datagram, { port, address }) => socket.send(datagram, port, address),
  );
  socket.bind(WIRE, HOST, ready);
} else {
  net.createServer({ noDelay: true }, (socket) => {
    sockets.add(socket);
    const read = makeReader(sendToAll);
    socket.setEncoding("utf8");
    socket.on("data", (text) => {
      const replies = read(text);
      if (replies) socket.write(replies);
    });
    socket.on("error", () => {});
    socket.on("close", () => sockets.delete(socket));
  }).listen({ host: HOST, port: WIRE, backlog: 1024 }, ready);
}
