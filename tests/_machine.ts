// Why: tests and the processes that they start ask the same things of the machine
// they run on; the processes have no import map, so nothing is imported here.

export const LOOPBACK = "127.0.0.1";
export const HERE = { hostname: LOOPBACK };
export const LOOPBACK_BROADCAST = "127.255.255.255";

export const onLinux: boolean = Deno.build.os === "linux";
export const onWindows: boolean = Deno.build.os === "windows";

/** Whether the machine has the loopback address of IPv6. */
export function hasIpv6(): boolean {
  try {
    Deno.listen({ hostname: "::1", port: 0 }).close();
    return true;
  } catch (error) {
    if (
      error instanceof Deno.errors.AddrNotAvailable || error instanceof Error &&
        "code" in error && error.code === "EAFNOSUPPORT"
    ) return false;
    throw error;
  }
}
