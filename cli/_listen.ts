// Copyright 2026 the Daystar authors. MIT license.

/** `listen`. */

import {
  type Address,
  formatAddress,
  formatWithWire,
  wirePort,
} from "../_address.ts";
import {
  type Args,
  type Command,
  LIMITS,
  NAME,
  type Option,
  UsageError,
} from "./_args.ts";
import { type Session, visible } from "./_session.ts";
import { reason } from "../_errors.ts";
import { createTcpServer, type TCPServer } from "../tcp_server.ts";

/** The option that `udp` has too. */
export const HOSTNAME: Record<string, Option> = {
  "hostname": {
    value: "ip",
    help: "The address to listen on (default: 0.0.0.0)",
  },
};

/** Where to listen, as the option says. */
export function hostnameOf(args: Args): string {
  const hostname = args.text("hostname") ?? "0.0.0.0";
  // That of a variable without a value must not open the port to everybody.
  if (hostname) return args.host(hostname, "--hostname");
  throw new UsageError('Cannot use "" as --hostname: it takes an IP address');
}

/** Shows what is listened on. */
export function showListening(
  address: Address,
  { mapping: { portOffset } }: Args,
  session: Session,
): void {
  session.note(`listening on ${formatWithWire(address, portOffset)}`);
  session.show(undefined, "listening", {
    address,
    wirePort: wirePort(address[1], portOffset),
  });
}

export const listen: Command = {
  operands: "<port>",
  takes: "a port",
  arity: [1, 1],
  summary: "Serve TCP clients, show who comes, goes and says what",
  details:
    `Shows "+ ip:port" for a client that has connected, "< ip:port message" for what
it sends, and "- ip:port" when it is gone, with the reason where that was not in
order. Each line of the input goes to all clients. The end of the input changes
nothing: Ctrl-C ends it.`,
  options: {
    "echo": { help: "Send each message back to its client" },
    ...HOSTNAME,
    ...LIMITS,
  },
  events: {
    "listening": "address [hostname, port], wirePort",
    "connected": "peer [ip, port]",
    "message": "peer, message",
    "sent": "message, clients (to how many it went)",
    "disconnected": "peer, and reason where it was not in order",
    "error": "name, reason, and peer where one is concerned",
  },
  examples: [
    `${NAME} listen --echo 70001`,
    `${NAME} listen --hostname 127.0.0.1 --json 70001 \\\n    | jq -r 'select(.event == "message").message'`,
  ],
  async run(args, session) {
    const { maxMessageBytes } = args;
    await using server = startServer(args, session);
    session.catchSignals();
    showListening(server.address, args, session);
    const work = pushLines(server, session, maxMessageBytes);
    await session.until(work.then(() => server.finished));
  },
};

function startServer(args: Args, session: Session): TCPServer {
  const echo = args.has("echo");
  return createTcpServer(
    args.port(args.operand(0)),
    async (message, peer) => {
      await session.showMessage(peer, message);
      return echo ? message : undefined;
    },
    {
      ...args.mapping,
      hostname: hostnameOf(args),
      maxMessageBytes: args.maxMessageBytes,
      onConnect(peer) {
        const text = session.paint("green", `+ ${formatAddress(peer)}`);
        session.show(text, "connected", { peer });
      },
      onDisconnect(peer, error) {
        const why = error ? { reason: reason(error) } : {};
        const text = `- ${formatAddress(peer)} ${visible(why.reason ?? "")}`;
        session.show(session.paint("yellow", text.trimEnd()), "disconnected", {
          peer,
          ...why,
        });
      },
      onError: (error, peer) => session.complain(error, peer),
    },
  );
}

async function pushLines(
  server: TCPServer,
  session: Session,
  maxMessageBytes: number,
): Promise<void> {
  for await (const lines of session.lines(maxMessageBytes)) {
    for (const message of lines) {
      try {
        const clients = await server.sendToAll(message);
        if (clients === 0) session.note("not sent: nobody is connected");
        session.show(undefined, "sent", { message, clients });
      } catch (error) {
        session.fail(error);
      }
    }
  }
}
