// Copyright 2026 the Daystar authors. MIT license.

/** The checks of arguments that several modules share, so that all word them alike. */

/** Throws unless `options` is an object or left out: `receive(5.0)` means something else. */
export function checkOptions(options: unknown): void {
  if (options === undefined) return;
  if (typeof options !== "object" || options === null) {
    throw new TypeError(
      `Cannot use ${show(options)} as options: it is not an object`,
    );
  }
}

/** Throws unless `value` is a time in milliseconds from `min` to Infinity. */
export function checkTime(name: string, value: unknown, min = 0): void {
  if (typeof value !== "number") {
    throw new TypeError(
      `Cannot use ${show(value)} as ${name}: it is not a number`,
    );
  }
  if (!(value >= min)) {
    throw new RangeError(
      `Cannot use ${value} as ${name}: it takes ${min} ms or more`,
    );
  }
}

/** Throws unless `value` is an integer from `min` to `max`. */
export function checkInteger(
  name: string,
  value: unknown,
  min: number,
  max: number = Number.MAX_SAFE_INTEGER,
): void {
  if (typeof value !== "number") {
    throw new TypeError(
      `Cannot use ${show(value)} as ${name}: it is not a number`,
    );
  }
  if (!Number.isInteger(value) || value < min || value > max) {
    throw new RangeError(
      `Cannot use ${value} as ${name}: it takes an integer from ${min} to ${max}`,
    );
  }
}

/** Throws unless `value` is an AbortSignal or left out. */
export function checkSignal(value: unknown): void {
  if (value !== undefined && !(value instanceof AbortSignal)) {
    throw new TypeError(
      `Cannot use ${show(value)} as signal: it is not an AbortSignal`,
    );
  }
}

/** Throws unless `value` is true, false or left out. */
export function checkBoolean(name: string, value: unknown): void {
  if (value !== undefined && typeof value !== "boolean") {
    throw new TypeError(
      `Cannot use ${show(value)} as ${name}: it is not a boolean`,
    );
  }
}

/** Throws unless `value` is a function or left out. */
export function checkFunction(name: string, value: unknown): void {
  if (value !== undefined && typeof value !== "function") {
    throw new TypeError(
      `Cannot use ${show(value)} as ${name}: it is not a function`,
    );
  }
}

/** Whether a callback has answered later. */
export function isPromise(value: unknown): value is PromiseLike<unknown> {
  return typeof value === "object" && value !== null && "then" in value &&
    typeof value.then === "function";
}

/** A value in an error message: short, and never one that throws itself. */
export function show(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value === "object" && value !== null) {
    return Array.isArray(value) ? "an array" : "an object";
  }
  return typeof value === "function" ? "a function" : String(value);
}

/** Calls a callback of the options, if there is one; what it throws or rejects with goes to `failed`. */
export function notify<Args extends unknown[]>(
  callback: ((...args: Args) => unknown) | undefined,
  failed: (error: unknown) => void,
  ...args: Args
): void {
  try {
    const result = callback?.(...args);
    if (isPromise(result)) result.then(undefined, failed);
  } catch (error) {
    failed(error);
  }
}
