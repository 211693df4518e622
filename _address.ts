// Copyright 2026 the Daystar authors. MIT license.

import { type Option, refuse, show } from "./_options.ts";

/**
 * What Python calls an addr tuple: an IP address and a communication port, such
 * as `["192.168.1.100", 70001]`.
 *
 * The port of a peer outside the communication ports (a TCP client's, as a rule)
 * is its wire port.
 */
export type Address = readonly [ip: string, port: number];

/** The lowest communication port. */
export const MIN_PORT = 70000;

/** The highest communication port. */
export const MAX_PORT = 71000;

/** The low 16 bits of a communication port, which is what C's `htons()` makes of it. */
const DEFAULT_OFFSET = -65536;

/**
 * The TCP or UDP port that a communication port uses on the wire, where ports
 * have 16 bits ({@link https://www.rfc-editor.org/rfc/rfc9293#section-3.1}).
 *
 * @param port The communication port, an integer from 70000 to 71000.
 * @param portOffset What the peer adds to get the wire port, such that every
 * communication port stays within 1 to 65535.
 * @returns The wire port: 4464 to 5464 with the default offset.
 * @throws {RangeError} If `port` or `portOffset` is outside its range.
 *
 * @example The permission to give
 * ```ts
 * import { wirePort } from "@daystar/comm";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(`--allow-net=192.168.1.100:${wirePort(70001)}`, "--allow-net=192.168.1.100:4465");
 * ```
 */
export function wirePort(
  port: number,
  portOffset: number = DEFAULT_OFFSET,
): number {
  offset(portOffset, "portOffset");
  if (
    typeof port !== "number" || !Number.isInteger(port) || port < MIN_PORT ||
    port > MAX_PORT
  ) {
    const hint = wireHint(port, portOffset);
    const takes = `an integer from ${MIN_PORT} to ${MAX_PORT}${hint}`;
    throw refuse("a communication port", port, takes, RangeError);
  }
  return port + portOffset;
}

/** The mistake of who has just opened a firewall, or reads `Deno.args`. */
function wireHint(port: unknown, portOffset: number): string {
  if (typeof port === "string" && /^7\d{4}$/.test(port)) {
    return `; write ${port} without quotes, or Number(port)`;
  }
  if (typeof port !== "number" || !Number.isInteger(port)) return "";
  const [, mapped] = toAddress({ hostname: "", port }, portOffset);
  return mapped === port ? "" : `; ${port} is the wire port of ${mapped}`;
}

/** Throws where an address stands in the place of the port, as in Python's `bind()`. */
export function checkNoHost(port: unknown): void {
  if (typeof port !== "string") return;
  const isIp = /[.:]/.test(port) && parseIp(port) !== undefined;
  if (!isIp && !/^[a-z][\w.-]*$/i.test(port)) return;
  const takes = `an integer from ${MIN_PORT} to ${MAX_PORT}; ` +
    "the address to listen on is the option hostname";
  throw refuse("a communication port", port, takes, RangeError);
}

/** The option `portOffset`: every communication port stays within 1 to 65535. */
export const offset: Option<number> = (value = DEFAULT_OFFSET, name) => {
  const [least, most] = [1 - MIN_PORT, 65535 - MAX_PORT];
  if (
    typeof value === "number" && Number.isInteger(value) && value >= least &&
    value <= most
  ) return value;
  const takes = `an integer from ${least} to ${most}`;
  throw refuse(name, value, takes, RangeError);
};

/** The address to hand to users: with the communication port where there is one. */
export function toAddress(
  { hostname, port }: { hostname: string; port: number },
  portOffset: number = DEFAULT_OFFSET,
): Address {
  const mapped = port - portOffset;
  const known = mapped >= MIN_PORT && mapped <= MAX_PORT;
  return Object.freeze([hostname, known ? mapped : port] as const);
}

/** An address in an error message: `192.168.1.100:70001`. */
export function formatAddress([ip, port]: Address): string {
  return ip.includes(":") ? `[${ip}]:${port}` : `${ip}:${port}`;
}

/** The same with both ports: `192.168.1.100:70001 (wire port 4465)`. */
export function formatWithWire(
  address: Address,
  portOffset: number = DEFAULT_OFFSET,
): string {
  const text = formatAddress(address);
  if (address[1] < MIN_PORT) return text;
  return `${text} (wire port ${address[1] + portOffset})`;
}

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
  // A network card may be named by anything but a blank or a slash: fe80::1%br-lan.
  const bare = text.replace(/^\[(.*)\]$/, "$1").replace(/%[^\s/%]+$/, "");
  if (!/^[\w.:]+$/.test(bare)) return undefined;
  // URLs know every form that resolvers do: 0xffffffff, 255.255.65535, ::ffff:1.2.3.4.
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

/** An IPv4 address that every program reads alike: resolvers take 010.1 for 8.0.0.1. */
export const EXACT_IPV4 = /^(?:(?:0|[1-9]\d*)\.){3}(?:0|[1-9]\d*)$/;
/** A number with a zero before it, which resolvers take for octal. */
const OCTAL = /(?:^|\.)0\d/;
/** What resolvers and URLs take for an address, or for nothing: its last part is a number. */
const NUMBER_LAST = /(?:^|\.)(?:\d+|0x[\da-f]*)\.?$/i;
/** All that a name is made of. */
const NAME = /^[\w.-]+$/;
/** Four numbers of which the last one has letters in the place of digits, or behind them. */
const NEARLY_IPV4 = /^\d+\.\d+\.\d+\.(?:\d\w*|[IOlo\d]+)$/;
const HOST_FORMS =
  'four numbers from 0 to 255 such as "192.168.1.100", an IPv6 address or a host name';
/** An address or a name with a port behind it: `127.0.0.1:70001`, `[::1]:70001`. */
const WITH_PORT = /^(?:[^:]+|\[.*\]):\d+$/;
/** Why an address with such a number is refused. */
export const OCTAL_WHY =
  "some programs read numbers with leading zeros as octal";

/**
 * Throws unless `host` can be the host of an address. A mistyped IP address is none:
 * resolvers take 192.168.1 for 192.168.0.1, which is another machine.
 */
export function checkHost(
  host: unknown,
  name = "an IP address",
): asserts host is string {
  if (typeof host !== "string" || host === "") {
    throw refuse(name, host, 'a string such as "127.0.0.1"');
  }
  if (parseIp(host) === undefined) {
    const isName = NAME.test(host) && !NUMBER_LAST.test(host) &&
      !NEARLY_IPV4.test(host);
    if (isName) return;
  } else if (host.includes(":") || EXACT_IPV4.test(host)) return;
  if (WITH_PORT.test(host)) {
    throw new TypeError(
      `Cannot use ${show(host)} as ${name}: the port is an argument of its own`,
    );
  }
  if (OCTAL.test(host)) {
    throw new TypeError(
      `Cannot use ${show(host)} as ${name}: ${OCTAL_WHY}`,
    );
  }
  throw refuse(name, host, HOST_FORMS);
}

/** The option `hostname`. */
export function host(otherwise: string): Option<string> {
  return (value = otherwise, name) => {
    checkHost(value, name);
    return value;
  };
}

/** Throws unless `address` is a pair; the port is left to {@linkcode wirePort}. */
export function checkAddress(address: unknown): void {
  if (!Array.isArray(address) || address.length !== 2) {
    throw refuse("an address", address, "[ip, port]");
  }
  checkHost(address[0]);
}
