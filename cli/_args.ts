// Copyright 2026 the Daystar authors. MIT license.

/**
 * What commands and options are: parsing and help are made of the same tables, so
 * that neither tells what the other does not do.
 */

import { parseArgs } from "node:util";
import {
  type Address,
  checkHost,
  MAX_PORT,
  MIN_PORT,
  wirePort,
} from "../_address.ts";
import { reason } from "../_errors.ts";
import { DEFAULT_MAX_MESSAGE_BYTES, maxMessageBytes } from "../_framing.ts";
import { MAX_TIMER_MS } from "../_time.ts";
import type { Session } from "./_session.ts";

/** What `deno install` is told to call it. */
export const NAME = "daystar-comm";

/** How the module is run where nothing is installed. */
export const RUN = "deno run -N --unstable-net jsr:@daystar/comm/cli";

/** What the user can mend by calling the tool in another way. */
export class UsageError extends Error {}

/** An option; one without `value` is a flag. */
export interface Option {
  value?: string;
  short?: string;
  help: string;
  /** Options of which it takes one: without them it would do nothing. */
  needs?: readonly string[];
  /** The option that leaves it nothing to do. */
  excludes?: string;
}

/** A command: what it takes, how to help with it, and what it does. */
export interface Command {
  /** Such as `<ip> <port>`. */
  operands: string;
  /** The same in words. */
  takes: string;
  /** How many operands it takes: at least, and at most. */
  arity: readonly [number, number];
  summary: string;
  details: string;
  options: Record<string, Option>;
  /** The keys of each event with `--json`, behind `time` and `event`. */
  events: Record<string, string>;
  examples: readonly string[];
  run(args: Args, session: Session): Promise<void> | void;
}

/** Options of every command. */
export const COMMON: Record<string, Option> = {
  "port-offset": {
    value: "n",
    help:
      "What a peer adds to a communication port to get the\nwire port (default: -65536)",
  },
  "json": { help: "Print one JSON object a line" },
  "help": { short: "h", help: "Show this help" },
  "version": { short: "V", help: "Show the version" },
};

/** Options of the commands that hold messages. */
export const LIMITS: Record<string, Option> = {
  "max-message-bytes": {
    value: "n",
    help: "The longest message either way (default: 1048576)",
  },
};

/** Operands and options of a call, checked as they are asked for. */
export class Args {
  /** What is not an option, without the command. */
  readonly operands: readonly string[];
  readonly #values: Record<string, string | boolean | undefined>;
  readonly #options: Record<string, Option>;

  /** @throws {UsageError} If an option is unknown, lacks its value, or has two. */
  constructor(args: readonly string[], options: Record<string, Option>) {
    const config = Object.fromEntries(
      Object.entries(options).map(([name, { value, short }]) => [name, {
        type: value ? "string" as const : "boolean" as const,
        ...(short ? { short } : {}),
      }]),
    );
    this.#options = options;
    const parsed = parse({
      args: joinNumbers(args, options),
      options: config,
      allowPositionals: true,
      tokens: true,
    });
    this.#values = { ...parsed.values };
    this.operands = parsed.positionals;
    const given = new Set<string>();
    for (const token of parsed.tokens) {
      if (token.kind !== "option" || token.value === undefined) continue;
      const { name } = token;
      if (given.has(name)) throw new UsageError(`Cannot use --${name} twice`);
      given.add(name);
    }
  }

  /** @throws {UsageError} If an option would do nothing beside the others. */
  checkTogether(): void {
    const isGiven = (name: string) => this.#values[name] !== undefined;
    for (const [name, { needs, excludes }] of Object.entries(this.#options)) {
      if (!isGiven(name)) continue;
      if (needs && !needs.some(isGiven)) {
        throw new UsageError(
          `Cannot use --${name} without --${needs.join(" or --")}`,
        );
      }
      if (excludes !== undefined && isGiven(excludes)) {
        throw new UsageError(`Cannot use --${name} with --${excludes}`);
      }
    }
  }

  has(flag: string): boolean {
    return this.#values[flag] === true;
  }

  text(name: string): string | undefined {
    const value = this.#values[name];
    return typeof value === "string" ? value : undefined;
  }

  #number(name: string, min: number, max: number): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const number = toInteger(text);
    if (number >= min && number <= max) return number;
    const range = max === Number.MAX_SAFE_INTEGER
      ? `of ${min} or more`
      : `from ${min} to ${max}`;
    throw new UsageError(
      `Cannot use ${quote(text)} as --${name}: it takes an integer ${range}`,
    );
  }

  /** A count of at least one. */
  count(name: string, otherwise: number): number {
    return this.#number(name, 1, Number.MAX_SAFE_INTEGER) ?? otherwise;
  }

  /** Milliseconds. */
  time(name: string, otherwise: number, min = 0): number {
    if (this.text(name) === "forever") return Infinity;
    return this.#number(name, min, MAX_TIMER_MS) ?? otherwise;
  }

  get maxMessageBytes(): number {
    const name = "max-message-bytes";
    const limit = this.count(name, DEFAULT_MAX_MESSAGE_BYTES);
    try {
      return maxMessageBytes(limit, `--${name}`);
    } catch (error) {
      throw new UsageError(reason(error));
    }
  }

  /** The option of the modules, where it was given. */
  get mapping(): { portOffset?: number } {
    const portOffset = this.#number(
      "port-offset",
      1 - MIN_PORT,
      65535 - MAX_PORT,
    );
    return portOffset === undefined ? {} : { portOffset };
  }

  /** The operand at `index`, which {@linkcode Command.arity} demands. */
  operand(index: number): string {
    const text = this.operands[index];
    if (text) return text;
    throw new UsageError(`Operand ${index + 1} is empty`);
  }

  /** An IP address or a host name. */
  host(text: string, name?: string): string {
    try {
      checkHost(text, name);
      return text;
    } catch (error) {
      throw new UsageError(reason(error));
    }
  }

  /** A communication port. */
  port(text: string): number {
    const port = toInteger(text);
    // What is no integer is shown as it was typed.
    const given: unknown = Number.isNaN(port) ? text : port;
    try {
      wirePort(given as number, this.mapping.portOffset);
      return port;
    } catch (error) {
      throw new UsageError(reason(error));
    }
  }

  /** An address such as `192.168.1.100:70001` or `[::1]:70001`. */
  address(name: string): Address | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const [, ipv6, ipv4, port] =
      text.match(/^(?:\[([^[\]\s]+)\]|([^:[\]\s]+)):(\d+)$/) ?? [];
    const ip = ipv6 ?? ipv4;
    if (ip !== undefined && port !== undefined) {
      return [this.host(ip), this.port(port)];
    }
    throw new UsageError(
      `Cannot use ${
        quote(text)
      } as --${name}: it takes an address such as 192.168.1.100:70001`,
    );
  }
}

const parse: typeof parseArgs = (config) => {
  try {
    return parseArgs(config);
  } catch (error) {
    throw new UsageError(adapt(reason(error)));
  }
};

/** parseArgs wants a value that begins with a dash behind a "=": a negative number, here. */
function joinNumbers(
  args: readonly string[],
  options: Record<string, Option>,
): string[] {
  const joined: string[] = [];
  for (const arg of args) {
    const option = joined.at(-1)?.match(/^--([\w-]+)$/)?.[1] ?? "";
    const takesIt = Object.hasOwn(options, option) && options[option]?.value;
    if (takesIt && /^-\d/.test(arg)) joined.push(`${joined.pop()}=${arg}`);
    else joined.push(arg);
  }
  return joined;
}

/** One sentence of what parseArgs says, without advice that no command here can use. */
function adapt(text: string): string {
  return text
    .replace(/'(--[\w-]+)' argument is ambiguous\..*$/s, "'$1' needs a value")
    .replace(/\. To specify a pos.*$/s, "");
}

function toInteger(text: string): number {
  return /^-?\d+$/.test(text) ? Number(text) : NaN;
}

function quote(text: string): string {
  return /^-?\d+$/.test(text) ? text : JSON.stringify(text);
}

/** Two columns; lines of the second one are broken where the text is. */
function columns(rows: readonly (readonly [string, string])[]): string {
  const width = Math.max(...rows.map(([left]) => left.length)) + 2;
  return rows.map(([left, right]) =>
    `  ${left.padEnd(width)}${right.replaceAll("\n", "\n  ".padEnd(width + 3))}`
  ).join("\n");
}

function optionRow([name, option]: [string, Option]): [string, string] {
  const long = option.value ? `--${name} <${option.value}>` : `--${name}`;
  return [option.short ? `-${option.short}, ${long}` : long, option.help];
}

function section(title: string, body: string): string {
  return `${title}:\n${body}\n`;
}

function usageOf(name: string, { operands }: Command): string {
  return `${name} ${operands}`;
}

/** The help of the tool. */
export function help(commands: Record<string, Command>): string {
  const list = Object.entries(commands)
    .map(([name, command]) =>
      [usageOf(name, command), command.summary] as const
    );
  return [
    "Messages over TCP and UDP on communication ports 70000 to 71000, for robot\ntask scripts.\n",
    `Usage: ${NAME} <command> [options] …\n`,
    section("Commands", columns(list)),
    section(
      "Options of every command",
      columns(Object.entries(COMMON).map(optionRow)),
    ),
    "A message is one line, typed or shown. Control and invisible characters in one\n" +
    "that arrives are shown as symbols, such as ␊ for a newline or <U+200E>; --json\n" +
    "gives messages exactly.\n" +
    "Ctrl-C ends every command in order; a second one ends it at once.\n",
    "Exit codes: 0 all went well, 1 something failed, 2 it was called wrongly.\n",
    section(
      "To run it without installing, or to install it",
      `  ${RUN} <command> …\n  deno install -g -N --unstable-net -n ${NAME} jsr:@daystar/comm/cli`,
    ),
  ].join("\n");
}

/** The help of a command. */
export function helpOf(name: string, command: Command): string {
  const options = { ...command.options, ...COMMON };
  const events = Object.entries(command.events);
  return [
    `${command.summary}.\n`,
    `Usage: ${NAME} ${name} [options] ${command.operands}\n`,
    `${command.details}\n`,
    section("Options", columns(Object.entries(options).map(optionRow))),
    section(
      'With --json each line has "time" and "event", and of an event',
      columns(events),
    ),
    section(
      "Examples",
      command.examples.map((example) => `  ${example}`).join("\n"),
    ),
  ].join("\n");
}
