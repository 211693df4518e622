// Copyright 2026 the Daystar authors. MIT license.

/**
 * IP addresses as numbers: which of them are in a range, who may therefore connect or
 * send, and which are broadcast addresses.
 */

import {
  type Address,
  EXACT_IPV4,
  formatAddress,
  IPV4,
  OCTAL_WHY,
  parseIp,
} from "./_address.ts";
import { callback, isPromise, type Option, show } from "./_options.ts";
import { CommunicationError, reason } from "./_errors.ts";

const IPV4_BITS = 32n;

/**
 * The same of an address that every program reads alike: resolvers take 010.1 for
 * 8.0.0.1, and people for 10.0.0.1.
 */
function parseExactIp(text: string): bigint | undefined {
  return text.includes(":") || EXACT_IPV4.test(text)
    ? parseIp(text)
    : undefined;
}

/** Says whether a peer may connect to a server, or send to a socket. */
export type Allow = (peer: Address) => boolean;

const readAllow = callback<Allow>();

/** The option `allow`; a range in its place is told what makes a function of it. */
export const allowOption: Option<Allow | undefined> = (value, name) => {
  const [range]: unknown[] = Array.isArray(value) ? value : [value];
  if (typeof range !== "string" || !/[.:]/.test(range)) {
    return readAllow(value, name);
  }
  throw new TypeError(
    `Cannot use ${show(value)} as ${name}: write allowCidr(${show(range)})`,
  );
};

/** Why a peer is refused, or undefined: only a plain `true` lets it in. */
export function refusal(
  allow: Allow | undefined,
  peer: Address,
): Error | undefined {
  if (!allow) return undefined;
  const cannot = `Cannot serve ${formatAddress(peer)}`;
  try {
    const answer: unknown = allow(peer);
    if (answer === true) return undefined;
    if (answer === false) {
      return new CommunicationError(`${cannot}: it is not allowed`);
    }
    if (isPromise(answer)) answer.then(undefined, () => {});
    return new TypeError(
      `${cannot}: allow() returned ${
        show(answer)
      }, which is neither true nor false`,
    );
  } catch (error) {
    return new CommunicationError(
      `${cannot}: allow() failed: ${reason(error)}`,
      {
        cause: error,
      },
    );
  }
}

/**
 * Allows peers by ranges of IP addresses, for the `allow` of a server or a socket.
 *
 * @param ranges Ranges such as `"192.168.1.0/24"` or `"fd00::/64"`, or single
 * addresses. An IPv4 address is four decimal numbers without leading zeros. An IPv4
 * range fits IPv4-mapped IPv6 addresses too, and so does the same range written as
 * one within `"::ffff:0:0/96"`. Another IPv6 range fits neither, but for `"::/0"`,
 * which is every address.
 * @returns A function that says whether the IP address of a peer, written as Deno
 * writes it, is in a range.
 * @throws {TypeError} If there is no range, or one that is not an IP address and a
 * prefix.
 *
 * @example Serving a cell network only
 * ```ts
 * import { allowCidr, createTcpServer } from "@daystar/comm";
 * import { assertEquals } from "@std/assert";
 *
 * const allow = allowCidr("192.168.1.0/24", "fd00::/64", "127.0.0.1");
 * assertEquals(allow(["192.168.1.7", 51234]), true);
 * assertEquals(allow(["192.168.2.7", 51234]), false);
 *
 * await using _server = createTcpServer(70971, undefined, { hostname: "127.0.0.1", allow });
 * ```
 */
export function allowCidr(...ranges: string[]): (peer: Address) => boolean {
  if (ranges.length === 0) {
    throw new TypeError(
      "Cannot allow nobody: allowCidr() takes at least one range",
    );
  }
  const parsed = ranges.map(parseRange);
  return ([ip]) => {
    const bits = parseExactIp(ip);
    if (bits === undefined) return false;
    const isPeerIpv4 = bits >> IPV4_BITS === IPV4 >> IPV4_BITS;
    return parsed.some(({ base, shift, isIpv6 }) =>
      !(isIpv6 && isPeerIpv4) && bits >> shift === base
    );
  };
}

/** The bits that all addresses of a range share, and how many others there are. */
interface Range {
  base: bigint;
  shift: bigint;
  /** Whether IPv4 addresses are none of it: a short prefix would take in all of them. */
  isIpv6: boolean;
}

function parseRange(range: string): Range {
  if (typeof range !== "string") throw badRange(range, RANGE_FORMS);
  const [host = "", prefix, ...rest] = range.split("/");
  if (/(?:^|[.:])0\d+\.|\.0\d+$/.test(host) || /^0\d/.test(prefix ?? "")) {
    throw badRange(
      range,
      OCTAL_WHY,
    );
  }
  const bits = /[%[\]]/.test(host) ? undefined : parseExactIp(host);
  if (bits === undefined || rest.length > 0) throw badRange(range, RANGE_FORMS);
  const size = host.includes(":") ? 128 : 32;
  const isMapped = size === 128 && bits >> IPV4_BITS === IPV4 >> IPV4_BITS;
  const least = isMapped ? 96 : 0;
  if (prefix !== undefined && !isPrefix(prefix, least, size)) {
    throw badRange(range, `it takes a prefix of ${least} to ${size} bits`);
  }
  const length = Number(prefix ?? size);
  const shift = BigInt(size - length);
  const isIpv6 = size === 128 && !isMapped && length > 0;
  return { base: bits >> shift, shift, isIpv6 };
}

function isPrefix(text: string, least: number, most: number): boolean {
  return /^\d+$/.test(text) && +text >= least && +text <= most;
}

const RANGE_FORMS =
  'it takes an IP address such as "192.168.1.7" or "fd00::7", with or without a prefix such as "/24"';

function badRange(range: unknown, why: string): TypeError {
  return new TypeError(`Cannot use ${show(range)} as a range: ${why}`);
}

// Deno turns SO_BROADCAST on for every UDP socket (`ext/net/ops.rs`), so the check that
// the kernel would make (https://man7.org/linux/man-pages/man7/ip.7.html) is made here.

/** How long the list of the machine's networks is good for, in ms. */
const FRESH_MS = 5_000;

const LIMITED = IPV4 + 0xffff_ffffn;
const LOOPBACK = IPV4 + 0x7fff_ffffn;

/** To whom datagrams to a host go: of a name nobody knows before they are sent. */
export type Reach = "one" | "broadcast" | "unknown";

/** By host, as far as they were asked for since the list was made. */
const known = new Map<string, Reach>();
const MAX_KNOWN = 1_000;
let networks = new Set<bigint>();
let expires = -Infinity;

/** Whether datagrams to this host go to one address or to every machine of a network. */
export function reach(hostname: string): Reach {
  if (performance.now() >= expires || known.size >= MAX_KNOWN) refresh();
  let answer = known.get(hostname);
  if (answer === undefined) known.set(hostname, answer = check(hostname));
  return answer;
}

function check(hostname: string): Reach {
  const ip = parseIp(hostname);
  // Loopback by definition: https://www.rfc-editor.org/rfc/rfc6761#section-6.3
  if (ip === undefined) return hostname === "localhost" ? "one" : "unknown";
  const toAll = ip === LIMITED || ip === LOOPBACK || networks.has(ip);
  return toAll ? "broadcast" : "one";
}

function refresh(): void {
  known.clear();
  try {
    networks = directed();
    expires = performance.now() + FRESH_MS;
  } catch {
    // No descriptor is left to ask with: what was known holds, until it can be asked again.
  }
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
