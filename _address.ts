// Copyright 2026 the Daystar authors. MIT license.

import { type Option, refuse } from "./_options.ts";

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

/** The mistake of who has just opened a firewall. */
function wireHint(port: unknown, portOffset: number): string {
  if (typeof port !== "number" || !Number.isInteger(port)) return "";
  const [, mapped] = toAddress({ hostname: "", port }, portOffset);
  return mapped === port ? "" : `; ${port} is the wire port of ${mapped}`;
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

/** The option `hostname`. */
export function host(otherwise: string): Option<string> {
  return (value = otherwise, name) => {
    if (typeof value === "string" && value !== "") return value;
    throw refuse(name, value, 'a string such as "127.0.0.1"');
  };
}

/** Throws unless `ip` can be the host of an address. */
export function checkHost(ip: unknown): void {
  if (typeof ip === "string" && ip !== "") return;
  throw refuse("an IP address", ip, 'a string such as "127.0.0.1"');
}

/** Throws unless `address` is a pair; the port is left to {@linkcode wirePort}. */
export function checkAddress(address: unknown): void {
  if (!Array.isArray(address) || address.length !== 2) {
    throw refuse("an address", address, "[ip, port]");
  }
  checkHost(address[0]);
}
