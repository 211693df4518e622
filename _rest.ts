// Copyright 2026 the Daystar authors. MIT license.

/**
 * Letting all sockets have their turn, TCP and UDP. As long as one is ready without
 * a pause, Tokio looks at the others only after every 61 tasks
 * ({@link https://docs.rs/tokio/1/tokio/runtime/struct.Builder.html#method.event_interval}),
 * which may take seconds: so all rest for a moment now and then.
 */

/** How long sockets may be read that are always ready, in ms. */
const SPELL = 100;

/** Since when they are. */
let spell: number | undefined;
let timer: ReturnType<typeof setTimeout> | undefined;
let wake = () => {};

/** What everybody waits for before reading on, if anything. */
export let resting: Promise<void> | undefined;

/** To be told after a read that leaves its socket ready. */
export function restAfterSpell(): void {
  const now = performance.now();
  spell ??= now;
  if (now - spell < SPELL || resting) return;
  resting = new Promise((resolve) => wake = resolve);
  // The first timer comes when all that was read is dealt with, and for the second
  // there is nothing else to do but to look.
  timer = setTimeout(() => timer = setTimeout(endRest, 1));
}

/** Lets everybody read on. */
export function endRest(): void {
  if (!resting) return;
  clearTimeout(timer);
  resting = spell = undefined;
  wake();
}
