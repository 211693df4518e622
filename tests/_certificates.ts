// Why: the certificates of the TLS tests must be wrong in ways that no authority
// sells, and must never have expired by themselves: so they are made at each run,
// with what Deno ships and nothing that has to be downloaded.

import { parseIp } from "../_address.ts";

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
const ECDSA_WITH_SHA256 = der(0x30, oid(42, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2));
const COMMON_NAME = oid(85, 4, 3);
const ALTERNATIVE_NAME = oid(85, 29, 17);
const BASIC_CONSTRAINTS = oid(85, 29, 19);
const DAY = 86_400_000;

/** A certificate and its key, as `tls` of a server takes them. */
export interface Certificate {
  cert: string;
  key: string;
}

/** Between which days, counted from today, a certificate is valid. */
export interface Validity {
  from?: number;
  to?: number;
}

/** Who signs certificates. */
export class Authority {
  readonly #keys: CryptoKeyPair;
  readonly #name: string;
  /** What whoever trusts it is given. */
  readonly cert: string;

  private constructor(keys: CryptoKeyPair, name: string, cert: string) {
    this.#keys = keys;
    this.#name = name;
    this.cert = cert;
  }

  static async create(name: string): Promise<Authority> {
    const keys = await generateKeys();
    const isAuthority = der(0x30, der(0x01, [0xff]));
    const cert = await sign(name, keys.privateKey, name, keys.publicKey, {}, [
      extension(BASIC_CONSTRAINTS, isAuthority),
    ]);
    return new Authority(keys, name, cert);
  }

  /** Certifies whoever has these IP addresses and DNS names. */
  async issue(hosts: string[], validity: Validity = {}): Promise<Certificate> {
    const keys = await generateKeys();
    const names = der(0x30, ...hosts.map(alternativeName));
    const cert = await sign(
      this.#name,
      this.#keys.privateKey,
      hosts[0] ?? "",
      keys.publicKey,
      validity,
      [extension(ALTERNATIVE_NAME, names)],
    );
    const key = await crypto.subtle.exportKey("pkcs8", keys.privateKey);
    return { cert, key: pem("PRIVATE KEY", new Uint8Array(key)) };
  }
}

function generateKeys(): Promise<CryptoKeyPair> {
  return crypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]);
}

/** RFC 5280, section 4.1. */
async function sign(
  issuer: string,
  issuerKey: CryptoKey,
  subject: string,
  subjectKey: CryptoKey,
  { from = -1, to = 1 }: Validity,
  extensions: Uint8Array[],
): Promise<string> {
  const key = await crypto.subtle.exportKey("spki", subjectKey);
  const version3 = der(0xa0, der(0x02, [2]));
  const serial = crypto.getRandomValues(new Uint8Array(8));
  serial[0] = 1; // positive
  const body = der(
    0x30,
    version3,
    der(0x02, serial),
    ECDSA_WITH_SHA256,
    distinguishedName(issuer),
    der(0x30, time(from), time(to)),
    distinguishedName(subject),
    new Uint8Array(key),
    der(0xa3, der(0x30, ...extensions)),
  );
  const signature = await crypto.subtle.sign(ALGORITHM, issuerKey, body);
  const [r, s] = [signature.slice(0, 32), signature.slice(32)].map(integer);
  const bits = der(0x03, [0], der(0x30, r ?? [], s ?? []));
  return pem("CERTIFICATE", der(0x30, body, ECDSA_WITH_SHA256, bits));
}

function distinguishedName(name: string): Uint8Array<ArrayBuffer> {
  const text = der(0x0c, new TextEncoder().encode(name));
  return der(0x30, der(0x31, der(0x30, COMMON_NAME, text)));
}

function alternativeName(host: string): Uint8Array {
  const ip = parseIp(host);
  if (ip === undefined) return der(0x82, new TextEncoder().encode(host));
  const digits = host.includes(":")
    ? ip.toString(16).padStart(32, "0")
    : (ip & 0xffff_ffffn).toString(16).padStart(8, "0");
  return der(0x87, Uint8Array.fromHex(digits));
}

function extension(id: Uint8Array, value: Uint8Array): Uint8Array {
  const critical = der(0x01, [0xff]);
  return der(0x30, id, critical, der(0x04, value));
}

function time(day: number): Uint8Array {
  const iso = new Date(Date.now() + day * DAY).toISOString();
  const text = iso.replace(/\.\d+|[-:T]/g, "");
  return der(0x17, new TextEncoder().encode(text.slice(2)));
}

/** Positive, and in as few bytes as it takes. */
function integer(bytes: ArrayBuffer): Uint8Array {
  let value = new Uint8Array(bytes);
  while (value.length > 1 && value[0] === 0) value = value.slice(1);
  return der(0x02, (value[0] ?? 0) < 0x80 ? value : [0, ...value]);
}

function oid(...bytes: number[]): Uint8Array<ArrayBuffer> {
  return der(0x06, bytes);
}

/** A tag, the length, and what it is made of. */
function der(
  tag: number,
  ...parts: ArrayLike<number>[]
): Uint8Array<ArrayBuffer> {
  const content = parts.flatMap((part) => Array.from(part));
  const { length } = content;
  const size = length < 0x80
    ? [length]
    : length < 0x100
    ? [0x81, length]
    : [0x82, length >> 8, length & 0xff];
  return new Uint8Array([tag, ...size, ...content]);
}

function pem(label: string, bytes: Uint8Array): string {
  const lines = bytes.toBase64().replace(/.{64}/g, "$&\n").trimEnd();
  return `-----BEGIN ${label}-----\n${lines}\n-----END ${label}-----\n`;
}
