// Copyright 2026 the Daystar authors. MIT license.

/**
 * A command-line tool to look and poke with: it knows communication ports and the
 * terminator of messages, which netcat and socat do not.
 *
 * ```sh
 * # Lines typed are messages, messages that arrive are lines.
 * deno run -N --unstable-net jsr:@daystar/comm/cli connect 192.168.1.100 70001
 *
 * # One request, one reply, in a pipe.
 * echo status | deno run -N --unstable-net jsr:@daystar/comm/cli connect --request 192.168.1.100 70001
 *
 * # Who comes, goes and says what.
 * deno run -N --unstable-net jsr:@daystar/comm/cli listen --echo 70001
 *
 * # Datagrams.
 * deno run -N --unstable-net jsr:@daystar/comm/cli udp 70002 --to 192.168.1.100:70003
 *
 * # Round trips to an echo server, and wire ports.
 * deno run -N --unstable-net jsr:@daystar/comm/cli ping --count 100 192.168.1.100 70001
 * deno run jsr:@daystar/comm/cli ports 70001
 * ```
 *
 * To have it at hand as `daystar-comm`:
 *
 * ```sh
 * deno install -g -N --unstable-net -n daystar-comm jsr:@daystar/comm/cli
 * ```
 *
 * `--help` tells all commands, `connect --help` the options of one. It needs the
 * permission for the network alone, and `--unstable-net` for `udp` alone.
 *
 * - A message is one line: control characters, line breaks, and what takes no space
 *   or turns the direction of text are shown as symbols (`␊` is a newline) or as
 *   `<U+200E>`. Colours are for terminals, and not with `NO_COLOR`.
 * - `--json` prints one object a line, with `time` (ISO 8601), `event`, and what
 *   `--help` of the command tells for each event. Messages are exact there.
 * - What went wrong is told on standard error. The exit code is 0 where all went
 *   well, 1 where something failed, and 2 where it was called wrongly. A host that
 *   nobody knows and a certificate that can't be used are failures.
 * - Slow output slows a TCP peer down: nothing is lost. With `udp` the kernel drops
 *   datagrams meanwhile. Memory stays bounded.
 *   Output that can't be written, as on a full disk, ends it with 1.
 * - Ctrl-C ends it in order: what is pending is sent, and connections are closed.
 *   Output that nobody reads is left out then, and the exit code is 1. A second
 *   Ctrl-C ends it at once, with 130. At Deno's prompt for a permission the first
 *   one does; only the prompt for the target of `udp` takes nothing but an answer.
 *
 * @module
 */

import {
  Args,
  type Command,
  COMMON,
  help,
  helpOf,
  NAME,
  UsageError,
} from "./cli/_args.ts";
import { connect } from "./cli/_connect.ts";
import { listen } from "./cli/_listen.ts";
import { ping } from "./cli/_ping.ts";
import { ports } from "./cli/_ports.ts";
import { Interrupted, Session } from "./cli/_session.ts";
import { udp } from "./cli/_udp.ts";

/** That of deno.json. */
const VERSION = "0.1.0";

const COMMANDS: Record<string, Command> = { connect, listen, udp, ping, ports };

/**
 * Runs the tool on standard input, output and error. It does not end the process,
 * which may be reading standard input still: that takes `Deno.exit()`.
 *
 * @param args A command, its operands and options, such as `["ports", "70001"]`.
 * @returns The exit code: 0 where all went well, 1 where something failed, 2 where
 * the arguments are wrong. For an array of strings it never rejects.
 *
 * @example The tool in a script of your own
 * ```ts
 * import { main } from "@daystar/comm/cli";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(await main(["ports", "70001"]), 0);
 * ```
 */
export async function main(args: string[]): Promise<number> {
  using session = new Session();
  const code = await run(args, session);
  await session.flushed();
  return session.failed ? Math.max(code, 1) : code;
}

async function run(args: string[], session: Session): Promise<number> {
  const [name = ""] = args;
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  try {
    if (command) await runCommand(name, command, args.slice(1), session);
    else runAlone(args, session);
    return 0;
  } catch (error) {
    if (error instanceof UsageError) {
      const about = command ? `${NAME} ${name}` : NAME;
      session.warn(error.message);
      session.warn(`Try "${about} --help"`);
      return 2;
    }
    if (error instanceof Interrupted) session.warn(error.message);
    else session.complain(error);
    return 1;
  }
}

async function runCommand(
  name: string,
  command: Command,
  rest: string[],
  session: Session,
): Promise<void> {
  const args = new Args(rest, { ...command.options, ...COMMON });
  if (args.has("help")) return session.print(helpOf(name, command));
  if (args.has("version")) return session.print(`${NAME} ${VERSION}`);
  session.json = args.has("json");
  const [least, most] = command.arity;
  const { length } = args.operands;
  if (length < least || length > most) {
    const got = length === 1 ? "1 argument" : `${length} arguments`;
    throw new UsageError(
      `Cannot run ${name}: it takes ${command.takes}, and got ${got}`,
    );
  }
  args.checkTogether();
  await command.run(args, session);
}

/** Without a command there is help alone. */
function runAlone(rest: string[], session: Session): void {
  const [first] = rest;
  if (first !== undefined && !first.startsWith("-")) {
    throw new UsageError(
      `Cannot run ${JSON.stringify(first)}: the commands are ${
        Object.keys(COMMANDS).join(", ")
      }`,
    );
  }
  const args = new Args(rest, COMMON);
  if (args.has("help")) return session.print(help(COMMANDS));
  if (args.has("version")) return session.print(`${NAME} ${VERSION}`);
  throw new UsageError(
    `Cannot run without a command: the commands are ${
      Object.keys(COMMANDS).join(", ")
    }`,
  );
}

if (import.meta.main) Deno.exit(await main(Deno.args));
