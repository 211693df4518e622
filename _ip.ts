// Copyright 2026 the Daystar authors. MIT license.

/** IP addresses as numbers, in which broadcasts and ranges are compared. */

/** IPv4 addresses are those from ::ffff:0:0 on ({@link https://www.rfc-editor.org/rfc/rfc4291#section-2.5.5.2}). */
export const IPV4: bigint = 0xffff_0000_0000n;
const MAX_REMEMBERED = 1_000;

/** By how they were written, since parsing takes longer than sending a datagram. */
const parsed = new Map<string, bigint | undefined>();

/** The 128 bits of an IP address in whichever of its many forms, or undefined for a name. */
export function parseIp(text: string): bigint | undefined {
  if (parsed.has(text)) return parsed.get(text);
  if (parsed.size >= MAX_REMEMBERED) parsed.clear();
  const ip = toBits(text);
  parsed.set(text, ip);
  return ip;
}

function toBits(text: string): bigint | undefined {
  if (!/^[\w.:%[\]]+$/.test(text)) return undefined;
  // URLs know every form that resolvers do: 0xffffffff, 255.255.65535, ::ffff:1.2.3.4.
  const bare = text.replace(/^\[(.*)\]$/, "$1").replace(/%.*$/, "");
  const url = bare.includes(":") ? `http://[${bare}]` : `http://${bare}`;
  const host = URL.parse(url)?.hostname;
  if (host?.startsWith("[")) return fromGroups(host.slice(1, -1));
  if (!host || !/^\d+\.\d+\.\d+\.\d+$/.test(host)) return undefined;
  return host.split(".").reduce(
    (bits, part) => bits * 256n + BigInt(part),
    0n,
  ) + IPV4;
}

/** From the groups of an IPv6 address, with at most one `::`. */
function fromGroups(text: string): bigint {
  const [head = [], tail = []] = text.split("::")
    .map((half) => half === "" ? [] : half.split(":"));
  const zeros = Array<string>(8 - head.length - tail.length).fill("0");
  return [...head, ...zeros, ...tail]
    .reduce((bits, group) => bits * 65536n + BigInt(`0x${group}`), 0n);
}
