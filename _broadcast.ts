// Copyright 2026 the Daystar authors. MIT license.

/**
 * Which addresses are broadcast addresses. Deno turns SO_BROADCAST on for every UDP
 * socket (`ext/net/ops.rs`), so the check that the kernel would make
 * ({@link https://man7.org/linux/man-pages/man7/ip.7.html}) has to be made here.
 */

import { IPV4, parseIp } from "./_ip.ts";

/** How long the list of the machine's networks is good for, in ms. */
const FRESH = 5_000;

const LIMITED = IPV4 + 0xffff_ffffn;
const LOOPBACK = IPV4 + 0x7fff_ffffn;

/** By host, as far as they were asked for since the list was made. */
const known = new Map<string, boolean>();
const MAX_KNOWN = 1_000;
/** Every how many questions to look at the clock. */
const ASKS = 100;
let asks = 0;
let networks = new Set<bigint>();
let expires = -Infinity;

/** Whether datagrams to this host go to every machine of a network. */
export function isBroadcast(hostname: string): boolean {
  // The clock is not asked for each datagram: it takes a while.
  if (--asks <= 0 || known.size >= MAX_KNOWN) {
    asks = ASKS;
    if (performance.now() >= expires || known.size >= MAX_KNOWN) refresh();
  }
  let answer = known.get(hostname);
  if (answer === undefined) known.set(hostname, answer = check(hostname));
  return answer;
}

function check(hostname: string): boolean {
  const ip = parseIp(hostname);
  return ip !== undefined &&
    (ip === LIMITED || ip === LOOPBACK || networks.has(ip));
}

function refresh(): void {
  expires = performance.now() + FRESH;
  known.clear();
  networks = directed();
}

/** The broadcast addresses of the networks that this machine is in, as far as it may know them. */
function directed(): Set<bigint> {
  const found = new Set<bigint>();
  // Asked for, so that nobody is prompted.
  const { state } = Deno.permissions.querySync({
    name: "sys",
    kind: "networkInterfaces",
  });
  if (state !== "granted") return found;
  for (const { family, address, netmask } of Deno.networkInterfaces()) {
    const ip = parseIp(address);
    const mask = parseIp(netmask);
    if (family !== "IPv4" || ip === undefined || mask === undefined) continue;
    const hosts = LIMITED - mask;
    // A network of one or two addresses has none (RFC 3021).
    if (hosts > 1n) found.add(ip | hosts);
  }
  return found;
}
