// Why: tests of several workers and runs share the communication ports of one
// machine, so a port in use is locked by a listener that others can see.

import { wirePort } from "../mod.ts";
import { LOOPBACK } from "./_machine.ts";

/** The rest is left to what has fixed ports: the demo and the doc examples. */
const FIRST = 70100;
const LAST = 70899;

/** Locks are this far above the wire ports, so they are in nobody's way. */
const LOCK_OFFSET = 10_000;

/** A communication port that is this test's own until it is disposed of. */
export interface FreePort extends Disposable {
  readonly port: number;
  /** The TCP and UDP port that it is on the wire. */
  readonly wire: number;
}

/** In which TCP keeps an address that can be listened on all the same. */
const TIME_WAIT = "06";

/** Opens a socket, unless its port is taken. */
function tryOpen<T extends Disposable>(open: () => T): T | null {
  try {
    return open();
  } catch (error) {
    if (error instanceof Deno.errors.AddrInUse) return null;
    throw error;
  }
}

/**
 * Whether no program has the port, as Linux tells. Trying it out would hold it: a
 * process that another test starts at that moment has a copy of every socket.
 */
function isFree(wire: number): boolean {
  const local = `:${wire.toString(16).toUpperCase().padStart(4, "0")}`;
  return ["tcp", "tcp6", "udp", "udp6"].every((kind) => {
    try {
      const lines = Deno.readTextFileSync(`/proc/net/${kind}`).split("\n");
      return !lines.some((line) => {
        const [, address, , state] = line.trim().split(/\s+/);
        return address?.endsWith(local) && state !== TIME_WAIT;
      });
    } catch {
      return true; // not Linux, or no IPv6
    }
  });
}

/**
 * A communication port whose wire port nobody has, for TCP and UDP: no program
 * at this moment, and no other caller of this function until it is disposed of.
 *
 * ```ts ignore
 * using port = freePort();
 * await using server = createTcpServer(port.port);
 * ```
 */
export function freePort(): FreePort {
  const count = LAST - FIRST + 1;
  // Anywhere, so that a port just released is seldom the next one given out.
  const start = Math.floor(Math.random() * count);
  for (let i = 0; i < count; i++) {
    const port = FIRST + (start + i) % count;
    const wire = wirePort(port);
    const lock = tryOpen(() =>
      Deno.listen({ hostname: LOOPBACK, port: wire + LOCK_OFFSET })
    );
    if (!lock) continue;
    // Only under the lock, or two could find the same port free.
    if (isFree(wire)) {
      return { port, wire, [Symbol.dispose]: () => lock.close() };
    }
    lock.close();
  }
  throw new Error(`No port of ${FIRST} to ${LAST} is free`);
}
