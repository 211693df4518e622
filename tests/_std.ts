// Why: tests that mean something only against the real `@std` (an oracle) ask
// here which one this run has, and are ignored with the stand-ins.

/** Whether `@std/…` comes from JSR, rather than from `tests/std/`. */
export const usesRealStd: boolean = !import.meta.resolve("@std/streams")
  .startsWith("file:");
