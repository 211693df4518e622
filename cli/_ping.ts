// Copyright 2026 the Daystar authors. MIT license.

/** `ping`. */

import { formatAddress } from "../_address.ts";
import { type Command, NAME } from "./_args.ts";
import {
  closeClient,
  CONNECTING,
  openClient,
  pause,
  round,
} from "./_connect.ts";
import type { Session } from "./_session.ts";
import type { TCPClient } from "../tcp_client.ts";

const DEFAULT_INTERVAL_MS = 1_000;
const DEFAULT_TIMEOUT_MS = 5_000;
/** How many round trips the figures are of; before that many, of all. */
const MAX_SAMPLES = 100_000;

export const ping: Command = {
  operands: "<ip> <port>",
  takes: "an IP address and a port",
  arity: [2, 2],
  summary: "Time round trips to a TCP echo server",
  details:
    `Sends "ping 1", "ping 2" and so on, each when the reply to the one before has
come, and shows how long each reply took; then minimum, median and 99th
percentile (of the last ${MAX_SAMPLES} at the most). A reply is a message that
contains the one sent; others are passed over. Ctrl-C ends it. The exit code is
1 where a reply is missing, also the one that Ctrl-C did not wait for.`,
  options: {
    "count": {
      value: "n",
      help: "How many round trips (default: until Ctrl-C)",
    },
    "interval": {
      value: "ms",
      help:
        `How long from one to the next, at the least; 0 is\nas fast as replies come (default: ${DEFAULT_INTERVAL_MS})`,
    },
    "timeout": {
      value: "ms",
      help: `How long to wait for a reply (default: ${DEFAULT_TIMEOUT_MS})`,
    },
    ...CONNECTING,
  },
  events: {
    "connected": "peer [ip, port], wirePort, local [ip, port]",
    "reply": "peer, number, ms",
    "timeout": "peer, number",
    "summary":
      "peer, sent, received, and where there were any\nmin, median, p99 (ms)",
    "disconnected": "peer",
    "error": "name, reason, and peer where one is concerned",
  },
  examples: [
    `${NAME} ping 192.168.1.100 70001`,
    `${NAME} ping --count 1000 --interval 0 --json 192.168.1.100 70001`,
  ],
  async run(args, session) {
    const count = args.count("count", Infinity);
    const interval = args.time("interval", DEFAULT_INTERVAL_MS);
    const timeout = args.time("timeout", DEFAULT_TIMEOUT_MS);
    const client = await openClient(args, session);
    const pinger = new Pinger(client, session, timeout);
    try {
      await session.until(pinger.run(count, interval));
    } catch (error) {
      session.fail(error, client.remoteAddress);
    }
    pinger.summarize();
    await closeClient(client, session);
  },
};

class Pinger {
  readonly #client: TCPClient;
  readonly #session: Session;
  readonly #timeout: number;
  readonly #samples: number[] = [];
  #sent = 0;
  #received = 0;

  constructor(client: TCPClient, session: Session, timeout: number) {
    this.#client = client;
    this.#session = session;
    this.#timeout = timeout;
  }

  async run(count: number, interval: number): Promise<void> {
    for (let number = 1; number <= count; number++) {
      const start = performance.now();
      const ms = await this.#roundTrip(`ping ${number}`, start);
      await this.#show(number, ms);
      const left = start + interval - performance.now();
      if (number < count && left > 0) await pause(left, this.#session);
    }
  }

  /** How long it took; null when time was up. */
  async #roundTrip(message: string, start: number): Promise<number | null> {
    await this.#send(message);
    for (;;) {
      const left = start + this.#timeout - performance.now();
      const reply = await this.#client.receive({ timeout: Math.max(left, 0) });
      if (reply === null) return null;
      if (reply.includes(message)) return performance.now() - start;
    }
  }

  /** Counts it now, as nobody may come back to it when Ctrl-C ends the wait for a reply. */
  async #send(message: string): Promise<void> {
    this.#sent++;
    try {
      await this.#client.send(message);
    } catch (error) {
      this.#sent--;
      throw error;
    }
  }

  async #show(number: number, ms: number | null): Promise<void> {
    const peer = this.#client.remoteAddress;
    if (ms === null) {
      this.#session.failed = true;
      const text = `${number}: no reply within ${this.#timeout} ms`;
      const red = this.#session.paint("red", text);
      return await this.#session.showInTurn(red, "timeout", { peer, number });
    }
    this.#samples[this.#received++ % MAX_SAMPLES] = ms;
    const text = `${number}: ${this.#session.paint("cyan", format(ms))}`;
    const event = { peer, number, ms: round(ms) };
    await this.#session.showInTurn(text, "reply", event);
  }

  summarize(): void {
    const peer = this.#client.remoteAddress;
    const sent = this.#sent;
    const received = this.#received;
    if (received < sent && !this.#session.unread) this.#session.failed = true;
    const figures = summarize(this.#samples);
    const times = figures
      ? `: minimum ${format(figures.min)}, median ${
        format(figures.median)
      }, 99th percentile ${format(figures.p99)}`
      : "";
    const text = `${
      formatAddress(peer)
    }: ${received} of ${sent} replies${times}`;
    this.#session.show(text, "summary", { peer, sent, received, ...figures });
  }
}

interface Figures {
  min: number;
  median: number;
  p99: number;
}

/** By nearest rank: each figure is one that was measured. */
function summarize(samples: number[]): Figures | undefined {
  const sorted = Float64Array.from(samples).sort();
  const rank = (share: number) =>
    round(sorted[Math.max(Math.ceil(share * sorted.length) - 1, 0)] ?? 0);
  if (sorted.length === 0) return undefined;
  return { min: rank(0), median: rank(0.5), p99: rank(0.99) };
}

function format(ms: number): string {
  return `${ms.toFixed(3)} ms`;
}
