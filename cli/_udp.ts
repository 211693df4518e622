// Copyright 2026 the Daystar authors. MIT license.

/** `udp`. */

import type { Address } from "../_address.ts";
import { type Args, type Command, NAME, UsageError } from "./_args.ts";
import { pause } from "./_connect.ts";
import { HOSTNAME, hostnameOf, showListening } from "./_listen.ts";
import type { Session } from "./_session.ts";
import { ClosedError, InvalidMessageError } from "../_errors.ts";
import { reach } from "../_ip.ts";
import { createUdpSocket, type UDPSocket } from "../udp_socket.ts";

const DEFAULT_WAIT_MS = 1_000;
/** More than a datagram can have: the socket tells the exact limit. */
const MAX_LINE_BYTES = 65_536;

export const udp: Command = {
  operands: "<port>",
  takes: "a port",
  arity: [1, 1],
  summary: "Show datagrams that arrive, and send lines in datagrams",
  details:
    `Shows "< ip:port message" for each datagram that arrives at the port. With --to
or --broadcast each line of the input is sent as a datagram, and the end of the
input is the end, after --wait. Without them the input is not read, and Ctrl-C
ends it.`,
  options: {
    "to": {
      value: "ip:port",
      help: "Where lines go to; the port is a communication port",
    },
    "broadcast": {
      help:
        "Let --to be a broadcast address; without --to, lines go to\n255.255.255.255, to the port that is listened on",
    },
    "wait": {
      value: "ms",
      help:
        `How long to go on receiving after the end of the input,\nor "forever" (default: ${DEFAULT_WAIT_MS})`,
      needs: ["to", "broadcast"],
    },
    "reuse-address": {
      help:
        "Share the port with other programs that do the same;\neach of them gets the broadcasts",
    },
    ...HOSTNAME,
  },
  events: {
    "listening": "address [hostname, port], wirePort",
    "message": "peer [ip, port], message",
    "error": "name, reason, and peer where one is concerned",
  },
  examples: [
    `${NAME} udp 70002`,
    `echo trigger | ${NAME} udp 70002 --to 192.168.1.100:70003`,
    `echo who is there | ${NAME} udp 70002 --broadcast --wait 3000`,
  ],
  async run(args, session) {
    const port = args.port(args.operand(0));
    const target = targetOf(args, port);
    const wait = args.time("wait", DEFAULT_WAIT_MS);
    using socket = createUdpSocket(port, {
      ...args.mapping,
      hostname: hostnameOf(args),
      reuseAddress: args.has("reuse-address"),
    });
    session.catchSignals();
    if (args.has("broadcast")) socket.enableBroadcast();
    showListening(socket.address, args, session);
    const received = receive(socket, session);
    const work = target
      ? sendLines(socket, target, session).then(() => pause(wait, session))
      : received;
    await session.until(Promise.race([received, work]));
  },
};

function targetOf(args: Args, port: number): Address | undefined {
  const to = args.address("to");
  if (!args.has("broadcast")) {
    if (to) checkReach(to);
    return to;
  }
  return to ?? ["255.255.255.255", port];
}

/** Each line would be refused otherwise, by a socket that knows no flags. */
function checkReach([ip]: Address): void {
  const reached = reach(ip);
  if (reached === "one") return;
  const why = reached === "broadcast"
    ? "it is a broadcast address"
    : "a name may be that of a broadcast address";
  throw new UsageError(
    `Cannot use ${ip} in --to without --broadcast: ${why}`,
  );
}

async function receive(socket: UDPSocket, session: Session): Promise<void> {
  for (;;) {
    try {
      for await (const [message, peer] of socket) {
        await session.showMessage(peer, message);
      }
      return;
    } catch (error) {
      // Anybody can send anything: that is no failure of this tool.
      if (!(error instanceof InvalidMessageError)) throw error;
      session.complain(error, error.sender);
      await session.ready();
    }
  }
}

async function sendLines(
  socket: UDPSocket,
  target: Address,
  session: Session,
): Promise<void> {
  for await (const lines of session.lines(MAX_LINE_BYTES)) {
    for (const line of lines) {
      try {
        await socket.send(line, target);
      } catch (error) {
        if (error instanceof ClosedError) return;
        session.fail(error, target);
      }
    }
  }
}
