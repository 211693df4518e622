// Why: what a network does to messages shows only on one, made of namespaces on
// this machine, that can be made as bad as a real one.

import { assertEquals } from "@std/assert";
import { Namespace, namespaceObstacle } from "../_netns.ts";
import { Process, ROOT } from "../_process.ts";

/** The share of frames lost, the delay each way in ms, and the share that is not delayed. */
export interface Faults {
  loss: number;
  delay: number;
  reorder: number;
}

/** What two namespaces are linked by. */
export interface Cable extends AsyncDisposable {
  impair(faults: Faults): Promise<void>;
  cut(): Promise<void>;
  heal(): Promise<void>;
}

/** The two ends of every cable. */
export const HERE = "10.0.0.1";
export const THERE = "10.0.0.2";

function tc(namespace: Namespace, ...args: string[]): void {
  const { success, stderr } = new Deno.Command("tc", {
    args: ["-n", namespace.name, ...args],
  }).outputSync();
  if (success) return;
  const reason = new TextDecoder().decode(stderr).trim();
  throw new Error(`Cannot run "tc ${args.join(" ")}": ${reason}`);
}

/** A switch, into which namespaces are plugged by a veth device `cable` each. */
export class Switch implements Disposable {
  readonly #namespace = new Namespace();
  readonly #plugged: Namespace[] = [];

  constructor() {
    try {
      this.#namespace.ip("link", "add", "bridge", "type", "bridge");
      this.#namespace.ip("link", "set", "bridge", "up");
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  plug(namespace: Namespace, address: string): void {
    const port = `port${this.#plugged.push(namespace)}`;
    namespace.ip(
      ...["link", "add", "cable", "type", "veth"],
      ...["peer", "name", port, "netns", this.#namespace.name],
    );
    this.#namespace.ip("link", "set", port, "master", "bridge");
    this.#namespace.ip("link", "set", port, "up");
    namespace.ip("address", "add", address, "broadcast", "+", "dev", "cable");
    namespace.ip("link", "set", "cable", "up");
  }

  /** The first one plugged in sees that its cable is cut, the others don't. */
  cut(): void {
    this.#namespace.ip("link", "set", "port1", "down");
  }

  heal(): void {
    this.#namespace.ip("link", "set", "port1", "up");
  }

  impair({ loss, delay, reorder }: Faults): void {
    for (const namespace of this.#plugged) {
      tc(
        namespace,
        ...["qdisc", "replace", "dev", "cable", "root", "netem"],
        ...["loss", `${loss * 100}%`, "delay", `${delay}ms`],
        ...["reorder", `${reorder * 100}%`],
      );
    }
  }

  [Symbol.dispose](): void {
    this.#namespace[Symbol.dispose]();
  }
}

/** Cables through a switch; `tc netem` makes them bad. */
// deno-lint-ignore require-await -- as the other kind of cable
export async function veth(here: Namespace, there: Namespace): Promise<Cable> {
  const hub = new Switch();
  hub.plug(here, `${HERE}/24`);
  hub.plug(there, `${THERE}/24`);
  const done = Promise.resolve();
  return {
    impair: (faults) => done.then(() => hub.impair(faults)),
    cut: () => done.then(() => hub.cut()),
    heal: () => done.then(() => hub.heal()),
    [Symbol.asyncDispose]: () => done.then(() => hub[Symbol.dispose]()),
  };
}

/** A cable that is a process, as bad as it is told to be. */
export async function wire(here: Namespace, there: Namespace): Promise<Cable> {
  const process = new Process("python3", [
    new URL("tests/faults/wire.py", ROOT).pathname,
    ...[here.name, `${HERE}/24`, there.name, `${THERE}/24`],
  ]);
  const command = async (text: string) => {
    await process.write(`${text}\n`);
    assertEquals(await process.read(), "ok");
  };
  try {
    assertEquals(await process.read(), "ready");
  } catch (error) {
    await process[Symbol.asyncDispose]();
    throw error;
  }
  return {
    impair: ({ loss, delay, reorder }) =>
      command(`faults ${loss} ${delay / 1000} ${reorder}`),
    cut: () => command("cut"),
    heal: () => command("heal"),
    [Symbol.asyncDispose]: () => process[Symbol.asyncDispose](),
  };
}

/** What a kind of cable can't do here, and why. */
async function obstacle(
  link: typeof wire,
  use: (cable: Cable) => Promise<void>,
): Promise<string | null> {
  const missing = namespaceObstacle();
  if (missing !== null) return missing;
  try {
    using here = new Namespace();
    using there = new Namespace();
    await using cable = await link(here, there);
    await use(cable);
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** Kinds of cables, and what keeps them from being used here, if anything does. */
export interface Kind {
  name: string;
  link: typeof wire;
  /** Why there can be none. */
  obstacle: string | null;
  /** Why it can't be impaired. */
  netem: string | null;
}

const FAULTS = { loss: 0.01, delay: 1, reorder: 0.01 };

async function kind(name: string, link: typeof wire): Promise<Kind> {
  const missing = await obstacle(link, (cable) => cable.cut());
  const netem = await obstacle(link, (cable) => cable.impair(FAULTS));
  if (missing !== null) {
    console.warn(`Tests with ${name} are ignored: ${missing}`);
  } else if (netem !== null) {
    console.warn(`Tests with loss and delay on ${name} are ignored: ${netem}`);
  }
  return { name, link, obstacle: missing, netem };
}

export const VETH: Kind = await kind("veth", veth);
export const WIRE: Kind = await kind("a TAP cable", wire);
