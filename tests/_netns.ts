// Why: limited broadcast must never leave this machine, and programs must be
// seen with permissions, flags and networks that the test itself does not have.

import { LOOPBACK, onLinux } from "./_machine.ts";
import { isInstalled, Process, ROOT } from "./_process.ts";

/** Runs `ip` of iproute2. */
function ip(...args: string[]): void {
  const { success, stderr } = new Deno.Command("ip", { args }).outputSync();
  if (success) return;
  const reason = new TextDecoder().decode(stderr).trim();
  throw new Error(`Cannot run "ip ${args.join(" ")}": ${reason}`);
}

/** A network of a test's own, with nothing but loopback until it is linked. */
export class Namespace implements Disposable {
  readonly name = `daystar-${crypto.randomUUID()}`;

  constructor() {
    ip("netns", "add", this.name);
    try {
      this.ip("link", "set", "lo", "up");
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /** Runs `ip` in here. */
  ip(...args: string[]): void {
    ip("-n", this.name, ...args);
  }

  /** Links this network and `peer`, each of which gets an address such as `10.0.0.1/24`. */
  link(address: string, peer: Namespace, peerAddress: string): void {
    this.ip(
      ...["link", "add", "cable", "type", "veth"],
      ...["peer", "name", "cable", "netns", peer.name],
    );
    peer.ip("address", "add", peerAddress, "broadcast", "+", "dev", "cable");
    this.ip("address", "add", address, "broadcast", "+", "dev", "cable");
    // The last one up can send at once; the other may drop what it sends first.
    peer.ip("link", "set", "cable", "up");
    this.ip("link", "set", "cable", "up");
  }

  /** A program in here. */
  start(program: Program, ...flags: string[]): Process {
    return new Process("ip", [
      ...["netns", "exec", this.name, Deno.execPath()],
      ...program.args(flags),
    ]);
  }

  [Symbol.dispose](): void {
    ip("netns", "delete", this.name);
  }
}

/** Why there can be no namespaces here (it takes root, Linux and iproute2), or null. */
export function namespaceObstacle(): string | null {
  try {
    using _namespace = new Namespace();
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** Flags of a program that may use every network … */
export const ANY_NETWORK = ["--no-prompt", "--unstable-net", "--allow-net"];
/** … and of one that may use TCP on this machine alone. */
export const LOOPBACK_ONLY = ["--no-prompt", `--allow-net=${LOOPBACK}`];

/** Whether programs can be started on a terminal; script of BSD has other arguments. */
export function hasTerminals(): boolean {
  return onLinux && isInstalled("script", "--version");
}

/** A program in a file of its own, out of reach of deno.json. */
export class Program implements Disposable {
  readonly #directory = Deno.makeTempDirSync({ prefix: "daystar-" });

  /** @param body What follows the import of mod.ts as `comm`. */
  constructor(body: string) {
    const mod = JSON.stringify(new URL("mod.ts", ROOT).href);
    Deno.writeTextFileSync(
      this.#path,
      `import * as comm from ${mod};\n${body}`,
    );
  }

  get #path(): string {
    return `${this.#directory}/program.ts`;
  }

  /** What to give to `deno`. */
  args(flags: string[]): string[] {
    return ["run", "--quiet", "--no-config", ...flags, this.#path];
  }

  start(...flags: string[]): Process {
    return new Process(Deno.execPath(), this.args(flags));
  }

  /** On a terminal, where Deno asks for the permissions it was not given. */
  startOnTerminal(...flags: string[]): Process {
    const command = [Deno.execPath(), ...this.args(flags)]
      .map((arg) => `'${arg}'`).join(" ");
    // The tests run without prompts, and these look for them.
    const environment = "env --unset=DENO_NO_PROMPT NO_COLOR=1";
    return new Process("script", [
      ...["--quiet", "--return", "--flush"],
      ...["--command", `${environment} ${command}`, "/dev/null"],
    ]);
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.#directory, { recursive: true });
  }
}
