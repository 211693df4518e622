// Copyright 2026 the Daystar authors. MIT license.

/**
 * Which addresses are broadcast addresses. Deno turns SO_BROADCAST on for every UDP
 * socket (`ext/net/ops.rs`), so the check that the kernel would make
 * ({@link https://man7.org/linux/man-pages/man7/ip.7.html}) has to be made here.
 */

/** How long the list of the machine's networks is good for, in ms. */
const FRESH = 5_000;
const MAX_REMEMBERED = 1_000;

const LIMITED = 0xffffffff;
const LOOPBACK = 0x7fffffff;

/** IPv4 addresses as numbers by how they were written, since parsing takes longer than sending. */
const parsed = new Map<string, number | undefined>();
let networks = new Set<number>();
let expires = -Infinity;

/** Whether datagrams to this host go to every machine of a network. */
export function isBroadcast(hostname: string): boolean {
  const ip = parse(hostname);
  return ip !== undefined &&
    (ip === LIMITED || ip === LOOPBACK || directed().has(ip));
}

/** The number of an IPv4 address, in whichever of its many forms. */
function parse(hostname: string): number | undefined {
  if (parsed.has(hostname)) return parsed.get(hostname);
  if (parsed.size >= MAX_REMEMBERED) parsed.clear();
  const ip = toNumber(hostname);
  parsed.set(hostname, ip);
  return ip;
}

function toNumber(hostname: string): number | undefined {
  // URLs know every form that the resolver does: 0xffffffff, 255.255.65535, ::ffff:ffff:ffff.
  const host = URL.parse(
    `http://${hostname.includes(":") ? `[${hostname}]` : hostname}`,
  )?.hostname;
  const mapped = host?.match(/^\[::ffff:([0-9a-f]+):([0-9a-f]+)\]$/);
  if (mapped) {
    return parseInt(`${mapped[1]}`, 16) * 65536 + parseInt(`${mapped[2]}`, 16);
  }
  if (!host || !/^\d+\.\d+\.\d+\.\d+$/.test(host)) return undefined;
  return host.split(".").reduce(
    (number, part) => number * 256 + Number(part),
    0,
  );
}

/** The broadcast addresses of the networks that this machine is in, as far as it may know them. */
function directed(): Set<number> {
  const now = performance.now();
  if (now < expires) return networks;
  expires = now + FRESH;
  networks = new Set();
  // Asked for, so that nobody is prompted.
  const permission = Deno.permissions.querySync({
    name: "sys",
    kind: "networkInterfaces",
  });
  if (permission.state !== "granted") return networks;
  for (const { family, address, netmask } of Deno.networkInterfaces()) {
    const ip = toNumber(address);
    const mask = toNumber(netmask);
    // A network of one or two addresses has none (RFC 3021).
    if (
      family !== "IPv4" || ip === undefined || mask === undefined ||
      mask >= 0xfffffffe
    ) continue;
    networks.add((ip | ~mask) >>> 0);
  }
  return networks;
}
