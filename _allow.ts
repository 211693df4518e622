// Copyright 2026 the Daystar authors. MIT license.

/** Who may connect or send: asked before anything of a peer is read or handed on. */

import { type Address, formatAddress } from "./_address.ts";
import { isPromise, show } from "./_check.ts";
import { CommunicationError, reason } from "./_errors.ts";
import { parseIp } from "./_ip.ts";

/** Says whether a peer may connect to a server, or send to a socket. */
export type Allow = (peer: Address) => boolean;

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
 * addresses. An IPv4 range fits IPv4-mapped IPv6 addresses too.
 * @returns A function that says whether the IP address of a peer is in a range.
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
    const bits = parseIp(ip);
    return bits !== undefined &&
      parsed.some(({ base, shift }) => bits >> shift === base);
  };
}

/** The bits that all addresses of a range share, and how many others there are. */
interface Range {
  base: bigint;
  shift: bigint;
}

function parseRange(range: string): Range {
  const match = typeof range === "string"
    ? range.match(/^([\d.]+|[\da-f:.]+)(?:\/(\d{1,3}))?$/i)
    : null;
  const [, host = "", prefix] = match ?? [];
  const isIpv4 = /^\d+\.\d+\.\d+\.\d+$/.test(host);
  const size = isIpv4 ? 32 : 128;
  const length = prefix === undefined ? size : Number(prefix);
  const bits = isIpv4 || host.includes(":") ? parseIp(host) : undefined;
  if (bits === undefined || length > size) {
    throw new TypeError(
      `Cannot use ${
        show(range)
      } as a range: it takes an IP address, and a prefix of up to ${size} bits`,
    );
  }
  const shift = BigInt(size - length);
  return { base: bits >> shift, shift };
}
