// Copyright 2026 the Daystar authors. MIT license.

/** `connect`, and how `ping` connects too. */

import { setTimeout as delay } from "node:timers/promises";
import { type Address, formatWithWire, wirePort } from "../_address.ts";
import {
  type Args,
  type Command,
  LIMITS,
  NAME,
  type Option,
  UsageError,
} from "./_args.ts";
import type { Session } from "./_session.ts";
import { ClosedError, InvalidMessageError, reason } from "../_errors.ts";
import {
  type ClientTLSOptions,
  createTcpClient,
  type TCPClient,
  type TCPClientOptions,
} from "../tcp_client.ts";

const DEFAULT_TIMEOUT_MS = 5_000;
const DEFAULT_WAIT_MS = 1_000;
/** How long the input may take to tell that it has ended, once the server has closed … */
const INPUT_END_MS = 250;
/** … and where it has brought lines, so that those behind them are counted. */
const USED_INPUT_END_MS = 2_000;
/** What a certificate as PEM begins with. */
const CERTIFICATE = "-----BEGIN CERTIFICATE-----";

/** Options of {@linkcode openClient}. */
export const CONNECTING: Record<string, Option> = {
  "connect-timeout": {
    value: "ms",
    help:
      "How long to try to connect, with --retry each\nattempt (default: 10000)",
  },
  "retry": {
    help: "Keep trying until there is a server",
  },
  "tls": {
    help: "Speak TLS",
  },
  "ca": {
    value: "file",
    help:
      "Trust the certificates in this PEM file too; needs\n--tls and --allow-read",
    needs: ["tls"],
  },
  "server-name": {
    value: "name",
    help:
      "The name that the certificate of the server is for\n(default: the IP address); needs --tls",
    needs: ["tls"],
  },
  ...LIMITS,
};

/** Connects as the operands and {@linkcode CONNECTING} say, and shows that. */
export async function openClient(
  args: Args,
  session: Session,
): Promise<TCPClient> {
  const ip = args.host(args.operand(0));
  const port = args.port(args.operand(1));
  const { mapping } = args;
  const options: TCPClientOptions = {
    ...mapping,
    connectTimeout: args.time("connect-timeout", 10_000, 1),
    maxMessageBytes: args.maxMessageBytes,
    signal: session.signal,
    retry: args.has("retry"),
    tls: await readTls(args),
    onRetry: (error) => session.note(`trying again: ${error.message}`),
  };
  const connecting = createTcpClient(ip, port, options);
  // Any prompt for the permission has been answered by now.
  session.catchSignals();
  const client = await connecting.catch((error) => {
    throw blameServerName(error);
  });
  const peer: Address = client.remoteAddress;
  if (session.interactive) {
    session.note(`connected to ${formatWithWire(peer, mapping.portOffset)}`);
  }
  session.show(undefined, "connected", {
    peer,
    wirePort: wirePort(port, mapping.portOffset),
    local: client.localAddress,
  });
  return client;
}

async function readTls(args: Args): Promise<ClientTLSOptions | false> {
  const ca = args.text("ca");
  const serverName = args.text("server-name");
  if (!args.has("tls")) return false;
  return {
    ...(ca === undefined ? {} : { caCerts: [await readCertificates(ca)] }),
    ...(serverName === undefined ? {} : { serverName }),
  };
}

async function readCertificates(path: string): Promise<string> {
  const cannot = `Cannot use ${JSON.stringify(path)} as --ca`;
  let pem: string;
  try {
    pem = await Deno.readTextFile(path);
  } catch (cause) {
    throw new Error(`${cannot}: ${reason(cause)}`, { cause });
  }
  if (pem.includes(CERTIFICATE)) return pem;
  throw new UsageError(`${cannot}: it takes a file with certificates as PEM`);
}

/** Which names can be used, the client knows: what it refuses was called wrongly. */
function blameServerName(error: unknown): unknown {
  const option = "tls.serverName";
  if (!(error instanceof TypeError && error.message.includes(option))) {
    return error;
  }
  return new UsageError(error.message.replace(option, "--server-name"));
}

/** Ends a connection in order, and shows that. */
export async function closeClient(
  client: TCPClient,
  session: Session,
): Promise<void> {
  await client.disconnect();
  session.show(undefined, "disconnected", { peer: client.remoteAddress });
}

/** Waits, though not longer than the session. */
export async function pause(ms: number, session: Session): Promise<void> {
  const { signal } = session;
  if (ms < Infinity) return await delay(ms, undefined, { signal });
  await new Promise(() => {});
}

export const connect: Command = {
  operands: "<ip> <port>",
  takes: "an IP address and a port",
  arity: [2, 2],
  summary: "Send lines to a TCP server as messages, show what it sends",
  details:
    `Each line of the input is a message, and each message that arrives is a line
of output, until the server closes the connection or the input ends: what is
pending is sent then, and what arrives within --wait is still shown. With
--request each line waits for its reply, and the end of the input is the end;
a reply that does not come in time ends it too, with exit code 1, and messages
that nobody asked for go to standard error. Lines that come after the server has
closed are counted for two seconds, and end it with exit code 1.`,
  options: {
    "request": {
      help: "Wait for one reply to each line before the next goes",
    },
    "timeout": {
      value: "ms",
      help:
        `How long to wait for such a reply, or "forever"\n(default: ${DEFAULT_TIMEOUT_MS}); needs --request`,
      needs: ["request"],
    },
    "wait": {
      value: "ms",
      help:
        `How long to go on receiving after the end of the\ninput, without --request, or "forever"\n(default: ${DEFAULT_WAIT_MS})`,
      excludes: "request",
    },
    ...CONNECTING,
  },
  events: {
    "connected": "peer [ip, port], wirePort, local [ip, port]",
    "message": "peer, message",
    "reply": "peer, request, message, ms (with --request)",
    "disconnected": "peer",
    "error": "name, reason, and peer where one is concerned",
  },
  examples: [
    `${NAME} connect 192.168.1.100 70001`,
    `echo status | ${NAME} connect --request 192.168.1.100 70001`,
    `${NAME} connect --json --wait forever 192.168.1.100 70001 < /dev/null`,
  ],
  async run(args, session) {
    const settings: Settings = {
      request: args.has("request"),
      timeout: args.time("timeout", DEFAULT_TIMEOUT_MS),
      wait: args.time("wait", DEFAULT_WAIT_MS),
      maxMessageBytes: args.maxMessageBytes,
    };
    const client = await openClient(args, session);
    const conversation = new Conversation(client, session, settings);
    try {
      await session.until(conversation.run());
      if (session.interactive && session.endedByUser) {
        session.note("you have ended the connection");
      }
    } finally {
      await client.disconnect();
      await conversation.finished();
      conversation.tellUnsent();
      await closeClient(client, session);
    }
  },
};

interface Settings {
  request: boolean;
  timeout: number;
  wait: number;
  maxMessageBytes: number;
}

/** Lines to a server, messages from it. */
class Conversation {
  readonly #client: TCPClient;
  readonly #session: Session;
  readonly #settings: Settings;
  /** Takes the reply that is waited for; undefined is the end of the connection. */
  #answer: ((reply: string | null | undefined) => void) | undefined;
  #closed = false;
  /** How many lines the input has brought, and how many of them were not sent. */
  #lines = 0;
  #unsent = 0;
  #atHand: Promise<boolean> | undefined;

  constructor(client: TCPClient, session: Session, settings: Settings) {
    this.#client = client;
    this.#session = session;
    this.#settings = settings;
  }

  get #peer(): Address {
    return this.#client.remoteAddress;
  }

  async run(): Promise<void> {
    const received = this.#receive();
    const sent = this.#send();
    await Promise.race([received, sent]);
    if (!this.#closed) {
      if (this.#settings.request) return;
      return await Promise.race([
        received,
        pause(this.#settings.wait, this.#session),
      ]);
    }
    // It is this side that has ended it.
    if (this.#session.signal.aborted) return;
    if (this.#session.interactive) {
      return this.#session.note("the server has closed the connection");
    }
    await this.#client.disconnect();
    await this.finished();
    // A line that is there can't be sent any more, which must not go unsaid.
    const limit = this.#lines > 0 ? USED_INPUT_END_MS : INPUT_END_MS;
    await Promise.race([sent, pause(limit, this.#session)]);
  }

  /** Says how many lines were not sent. */
  tellUnsent(): void {
    if (this.#unsent === 0) return;
    const lines = this.#unsent === 1 ? "1 line" : `${this.#unsent} lines`;
    const who = this.#closed ? "the server has closed" : "this side has closed";
    const error = `Cannot send ${lines} of the input: ${who} the connection`;
    this.#session.fail(new Error(error), this.#peer);
  }

  /** Settles when the lines at hand are sent and replied to, or never will be. */
  async finished(): Promise<void> {
    await this.#session.finished(this.#atHand);
  }

  async #receive(): Promise<void> {
    while (!this.#closed) {
      try {
        for await (const message of this.#client) {
          await this.#show(message);
        }
        this.#closed = true;
      } catch (error) {
        this.#session.fail(error, this.#peer);
        await this.#session.ready();
        this.#closed = !(error instanceof InvalidMessageError);
      }
    }
    this.#answer?.(undefined);
  }

  async #show(message: string): Promise<void> {
    if (this.#answer) return this.#answer(message);
    const { request } = this.#settings;
    const text = request ? undefined : this.#session.paintMessage(message);
    const event = { peer: this.#peer, message };
    await this.#session.showInTurn(text, "message", event);
    if (request) this.#session.note(`not asked for: ${message}`);
  }

  async #send(): Promise<void> {
    const { request, maxMessageBytes } = this.#settings;
    for await (const lines of this.#session.lines(maxMessageBytes)) {
      this.#lines += lines.length;
      this.#atHand = request ? this.#askAll(lines) : this.#sendAll(lines);
      if (!await this.#atHand && request) return;
    }
  }

  /** Whether the connection can take more. */
  async #sendAll(lines: string[]): Promise<boolean> {
    const sent = lines.map((line) => this.#client.send(line));
    let isOpen = true;
    for (const result of await Promise.allSettled(sent)) {
      if (result.status === "fulfilled") continue;
      if (result.reason instanceof ClosedError) {
        isOpen = false;
        this.#unsent++;
      } else {
        this.#session.fail(result.reason, this.#peer);
      }
    }
    return isOpen;
  }

  async #askAll(lines: string[]): Promise<boolean> {
    for (const line of lines) {
      if (!await this.#ask(line)) return false;
    }
    return true;
  }

  /** Whether there was a reply, or no request that could have had one. */
  async #ask(request: string): Promise<boolean> {
    const start = performance.now();
    const waiting = this.#reply();
    try {
      await this.#client.send(request);
    } catch (error) {
      this.#answer?.(undefined);
      this.#session.fail(error, this.#peer);
      return !(error instanceof ClosedError);
    }
    const message = await waiting;
    const ms = round(performance.now() - start);
    if (typeof message === "string") {
      const text = this.#session.paintMessage(message);
      const event = { peer: this.#peer, request, message, ms };
      await this.#session.showInTurn(text, "reply", event);
      return true;
    }
    const why = message === null
      ? `within ${this.#settings.timeout} ms`
      : "before the connection was closed";
    this.#session.fail(new Error(`No reply ${why} to: ${request}`), this.#peer);
    return false;
  }

  /** The next message; null when time is up, undefined when there will be none. */
  async #reply(): Promise<string | null | undefined> {
    const { promise, resolve } = Promise.withResolvers<
      string | null | undefined
    >();
    this.#answer = (reply) => {
      this.#answer = undefined;
      resolve(reply);
    };
    const { timeout } = this.#settings;
    if (this.#closed) this.#answer(undefined);
    const timer = timeout === Infinity
      ? undefined
      : setTimeout(() => this.#answer?.(null), timeout);
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Milliseconds to the microsecond. */
export function round(ms: number): number {
  return Math.round(ms * 1_000) / 1_000;
}
