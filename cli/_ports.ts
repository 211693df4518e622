// Copyright 2026 the Daystar authors. MIT license.

/** `ports`. */

import { MAX_PORT, MIN_PORT, wirePort } from "../_address.ts";
import { type Command, NAME } from "./_args.ts";

const HEADER = row([
  "port",
  "wire port",
  "a TCP client needs",
  "a TCP server or UDP socket needs",
]);

export const ports: Command = {
  operands: "[port…]",
  takes: "any number of ports",
  arity: [0, Infinity],
  summary: "Show wire ports, and the permission to give for them",
  details:
    `Shows, for each communication port, the port on the wire, which firewalls and
other programs see, and the permission that Deno needs for it. Without a port
these are the first and the last one. <ip> is the address of the server, 0.0.0.0
the hostname that is listened on; a UDP socket needs <ip> too for each address
that it sends to.`,
  options: {},
  events: {
    "port": "port, wirePort, client, server (the permissions)",
  },
  examples: [
    `${NAME} ports 70001`,
    `${NAME} ports --json 70001 70002 | jq .wirePort`,
  ],
  run(args, session) {
    const list = args.operands.length > 0
      ? args.operands.map((text) => args.port(text))
      : [MIN_PORT, MAX_PORT];
    const rows = list.map((port) => {
      const wire = wirePort(port, args.mapping.portOffset);
      const client = `--allow-net=<ip>:${wire}`;
      return {
        port,
        wirePort: wire,
        client,
        server: `--allow-net=0.0.0.0:${wire}`,
      };
    });
    if (!session.json) session.print(HEADER);
    for (const { port, wirePort, client, server } of rows) {
      const text = row([`${port}`, `${wirePort}`, client, server]);
      session.show(text, "port", { port, wirePort, client, server });
    }
  },
};

function row(
  [port = "", wire = "", client = "", server = ""]: string[],
): string {
  return `${port.padEnd(7)}${wire.padEnd(11)}${client.padEnd(24)}${server}`;
}
