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

let networks = new Set<bigint>();
let expires = -Infinity;

/** Whether datagrams to this host go to every machine of a network. */
export function isBroadcast(hostname: string): boolean {
  const ip = parseIp(hostname);
  return ip !== undefined &&
    (ip === LIMITED || ip === LOOPBACK || directed().has(ip));
}

/** The broadcast addresses of the networks that this machine is in, as far as it may know them. */
function directed(): Set<bigint> {
  const now = performance.now();
  if (now < expires) return networks;
  expires = now + FRESH;
  networks = new Set();
  // Asked for, so that nobody is prompted.
  const { state } = Deno.permissions.querySync({
    name: "sys",
    kind: "networkInterfaces",
  });
  if (state !== "granted") return networks;
  for (const { family, address, netmask } of Deno.networkInterfaces()) {
    const ip = parseIp(address);
    const mask = parseIp(netmask);
    if (family !== "IPv4" || ip === undefined || mask === undefined) continue;
    const hosts = LIMITED - mask;
    // A network of one or two addresses has none (RFC 3021).
    if (hosts > 1n) networks.add(ip | hosts);
  }
  return networks;
}
