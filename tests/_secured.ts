// Why: tests of TLS need a server with a certificate that its clients trust, and
// peers that speak TLS, or begin to, without anything of the module.

import { assertEquals, assertStringIncludes } from "@std/assert";
import type {
  MessageCallback,
  ServerTLSOptions,
  TCPClient,
  TCPClientOptions,
  TCPServerOptions,
} from "../mod.ts";
import { Authority, type Certificate } from "./_certificates.ts";
import { HERE, LOOPBACK, Peer, Served } from "./_served.ts";

export const authority: Authority = await Authority.create("Cell");
export const caCerts = [authority.cert];
export const NAME = "robot.test";
export const certificate: Certificate = await authority.issue([
  LOOPBACK,
  "::1",
  NAME,
]);

/** The first bytes of a client's hello, and no more of it. */
export const BEGUN = Uint8Array.of(0x16, 3, 1, 0, 0xd9, 1, 0, 0, 0xd5, 3, 3);

/** A server with TLS, whose certificate its clients know. */
export class Secured extends Served {
  constructor(
    callback?: MessageCallback,
    options: TCPServerOptions = {},
    tls: Partial<ServerTLSOptions> = {},
  ) {
    super(callback, { tls: { ...certificate, ...tls }, ...options });
  }

  override client(options: TCPClientOptions = {}): Promise<TCPClient> {
    return super.client({ tls: { caCerts }, ...options });
  }

  /** A peer that speaks TLS and nothing of the module. */
  async tlsPeer(): Promise<Peer<Deno.TlsConn>> {
    const conn = await Deno.connectTls({ ...HERE, port: this.wire, caCerts });
    return new Peer(conn);
  }

  /** Tells what went wrong with the only client, and that it serves others. */
  async refused(): Promise<Error> {
    const [error, address] = await this.errors.next();
    assertStringIncludes(error.message, `Cannot serve ${LOOPBACK}:`);
    assertEquals(address?.[0], LOOPBACK);
    assertEquals(this.connected.rest(), []);
    return error;
  }
}
