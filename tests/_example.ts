// Why: an example's first comment says how to run it, and tests of examples run
// exactly that, with those permissions and no others.

import { assert, assertEquals, fail } from "@std/assert";
import { MAX_PORT, MIN_PORT, wirePort } from "../mod.ts";
import { type FreePort, freePort } from "./_ports.ts";
import { Process, ROOT } from "./_process.ts";

/** Ports that no browser opens, nor fetch(). */
const SIP = [5060, 5061];

/** An example's commands, with free ports in the place of those they state. */
export class Example implements Disposable {
  readonly #stated: string[];
  readonly #commands: string[][];
  /** By wire port, or by the port itself where no communication port has it. */
  readonly #ports = new Map<number, FreePort>();

  constructor(name: string) {
    const source = Deno.readTextFileSync(new URL(`examples/${name}`, ROOT));
    const comment = source.slice(0, source.indexOf("\n\n")).split("\n");
    this.#stated = comment;
    try {
      this.#commands = comment.map((stated) => this.#parse(name, stated));
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  #parse(name: string, stated: string): string[] {
    const [slashes, deno, ...args] = stated.split(" ");
    assertEquals([slashes, deno, args[0]], ["//", "deno", "run"], stated);
    assert(args.includes("--no-prompt"), stated);
    assert(args.includes(`examples/${name}`), stated);
    return args.map((arg) => this.#withFreePorts(arg));
  }

  /** The communication port that this run has in the place of a stated one. */
  port(stated: number): number {
    return this.#port(wirePort(stated)).port;
  }

  /** The same for a port of a page in the browser. */
  pagePort(stated: number): number {
    return this.#port(stated).wire;
  }

  #port(wire: number): FreePort {
    return this.#ports.get(wire) ??
      fail(`${wire} is not in: ${this.#stated.join(" ")}`);
  }

  start(...args: (string | number)[]): Process {
    return this.#start(0, args);
  }

  /** Runs the second command of an example that has two roles. */
  startSecond(...args: (string | number)[]): Process {
    return this.#start(1, args);
  }

  #start(index: number, more: (string | number)[]): Process {
    const args = this.#commands[index] ??
      fail(`no command ${index} in: ${this.#stated.join(" ")}`);
    return new Process(Deno.execPath(), [...args, ...more.map(String)]);
  }

  [Symbol.dispose](): void {
    for (const port of this.#ports.values()) port[Symbol.dispose]();
  }

  /** Ports of permissions, and arguments that are the same ports. */
  #withFreePorts(arg: string): string {
    if (arg.startsWith("--allow-net=")) {
      return arg.replace(
        /:(\d+)/g,
        (_, wire) => `:${this.#freePort(Number(wire)).wire}`,
      );
    }
    if (!/^\d{4,5}$/.test(arg)) return arg;
    const number = Number(arg);
    return number >= MIN_PORT && number <= MAX_PORT
      ? `${this.#freePort(wirePort(number)).port}`
      : `${this.#freePort(number).wire}`;
  }

  #freePort(wire: number): FreePort {
    let port = this.#ports.get(wire);
    if (!port) {
      port = freePort();
      if (SIP.includes(port.wire)) {
        using _held = port;
        return this.#freePort(wire);
      }
      this.#ports.set(wire, port);
    }
    return port;
  }
}
