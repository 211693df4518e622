// Why: stands in for `@std/assert` where JSR does not answer: the same names,
// types and outcomes for the assertions used here, made of what Deno ships.

import { AssertionError as NodeAssertionError } from "node:assert/strict";
import { stripVTControlCharacters } from "node:util";
import { equal } from "./equal.ts";

export { equal };

// deno-lint-ignore no-explicit-any -- the type that @std/assert gives it
type AnyClass<T> = abstract new (...args: any[]) => T;

/** What every assertion here throws. */
export class AssertionError extends Error {
  override name = "AssertionError";
}

function refuse(what: string, msg?: string, details = ""): never {
  throw new AssertionError(
    `${what}${msg ? `: ${msg}` : "."}${details && `\n${details}`}`,
  );
}

function show(value: unknown): string {
  return Deno.inspect(value, {
    depth: 10,
    iterableLimit: 100,
    sorted: true,
    strAbbreviateSize: 10_000,
    trailingComma: true,
  });
}

function difference(actual: unknown, expected: unknown): string {
  const { message } = new NodeAssertionError({
    actual,
    expected,
    operator: "deepStrictEqual",
  });
  return stripVTControlCharacters(message);
}

export function assert(expr: unknown, msg = ""): asserts expr {
  if (!expr) throw new AssertionError(msg);
}

export function assertFalse(
  expr: unknown,
  msg = "",
): asserts expr is false | 0 | "" | null | undefined {
  if (expr) throw new AssertionError(msg);
}

export function assertEquals<T>(actual: T, expected: T, msg?: string): void {
  if (equal(actual, expected)) return;
  refuse("Values are not equal", msg, difference(actual, expected));
}

export function assertNotEquals<T>(actual: T, expected: T, msg?: string): void {
  if (!equal(actual, expected)) return;
  refuse(`Expected actual: ${show(actual)} not to be: ${show(expected)}`, msg);
}

export function assertStrictEquals<T>(
  actual: unknown,
  expected: T,
  msg?: string,
): asserts actual is T {
  if (Object.is(actual, expected)) return;
  refuse(
    "Values are not strictly equal",
    msg,
    `${show(actual)}\n${show(expected)}`,
  );
}

export function assertNotStrictEquals<T>(
  actual: T,
  expected: T,
  msg?: string,
): void {
  if (!Object.is(actual, expected)) return;
  refuse(`Expected "actual" not to be strictly equal to: ${show(actual)}`, msg);
}

export function assertExists<T>(
  actual: T,
  msg?: string,
): asserts actual is NonNullable<T> {
  if (actual !== undefined && actual !== null) return;
  refuse(`Expected actual: "${actual}" to not be null or undefined`, msg);
}

export function assertInstanceOf<T extends AnyClass<unknown>>(
  actual: unknown,
  expectedType: T,
  msg?: string,
): asserts actual is InstanceType<T> {
  if (actual instanceof expectedType) return;
  refuse(
    `Expected object to be an instance of "${expectedType.name}" but was ${
      show(actual)
    }`,
    msg,
  );
}

export function assertNotInstanceOf<A, T>(
  actual: A,
  unexpectedType: AnyClass<T>,
  msg?: string,
): asserts actual is Exclude<A, T> {
  if (!(actual instanceof unexpectedType)) return;
  refuse(
    `Expected object to not be an instance of "${unexpectedType.name}"`,
    msg,
  );
}

export function assertStringIncludes(
  actual: string,
  expected: string,
  msg?: string,
): void {
  if (actual.includes(expected)) return;
  refuse(`Expected actual: "${actual}" to contain: "${expected}"`, msg);
}

export function assertArrayIncludes<T>(
  actual: ArrayLike<T> & object,
  expected: ArrayLike<T> & object,
  msg?: string,
): void {
  const all = Array.from(actual);
  const missing = Array.from(expected).filter((item) =>
    !all.some((other) => equal(item, other))
  );
  if (missing.length === 0) return;
  refuse(`Expected actual: ${show(actual)} to include: ${show(missing)}`, msg);
}

export function assertMatch(
  actual: string,
  expected: RegExp,
  msg?: string,
): void {
  if (expected.test(actual)) return;
  refuse(`Expected actual: "${actual}" to match: "${expected}"`, msg);
}

export function assertNotMatch(
  actual: string,
  expected: RegExp,
  msg?: string,
): void {
  if (!expected.test(actual)) return;
  refuse(`Expected actual: "${actual}" to not match: "${expected}"`, msg);
}

export function assertGreater<T>(actual: T, expected: T, msg?: string): void {
  if (actual > expected) return;
  throw new AssertionError(msg ?? `Expect ${show(actual)} > ${show(expected)}`);
}

export function assertGreaterOrEqual<T>(
  actual: T,
  expected: T,
  msg?: string,
): void {
  if (actual >= expected) return;
  throw new AssertionError(
    msg ?? `Expect ${show(actual)} >= ${show(expected)}`,
  );
}

export function assertLess<T>(actual: T, expected: T, msg?: string): void {
  if (actual < expected) return;
  throw new AssertionError(msg ?? `Expect ${show(actual)} < ${show(expected)}`);
}

export function assertLessOrEqual<T>(
  actual: T,
  expected: T,
  msg?: string,
): void {
  if (actual <= expected) return;
  throw new AssertionError(
    msg ?? `Expect ${show(actual)} <= ${show(expected)}`,
  );
}

export function assertIsError<E extends Error = Error>(
  error: unknown,
  ErrorClass?: AnyClass<E>,
  msgMatches?: string | RegExp,
  msg?: string,
): asserts error is E {
  if (!(error instanceof Error)) {
    refuse(`Expected "error" to be an Error object`, msg);
  }
  if (ErrorClass && !(error instanceof ErrorClass)) {
    refuse(
      `Expected error to be instance of "${ErrorClass.name}", but was "${error.constructor.name}"`,
      msg,
      show(error),
    );
  }
  const text = stripVTControlCharacters(error.message);
  const found = typeof msgMatches === "string"
    ? text.includes(stripVTControlCharacters(msgMatches))
    : msgMatches?.test(text) ?? true;
  if (!found) {
    refuse(
      `Expected error message to include ${
        msgMatches instanceof RegExp ? msgMatches : JSON.stringify(msgMatches)
      }, but got ${JSON.stringify(error.message)}`,
      msg,
    );
  }
}

/** What the optional arguments of `assertThrows`, `assertRejects` ask for. */
function verify<E extends Error>(
  error: unknown,
  classOrMsg: AnyClass<E> | string | undefined,
  msgIncludes: string | undefined,
  msg: string | undefined,
  how: "thrown" | "rejected",
): void {
  if (typeof classOrMsg !== "function") return;
  if (!(error instanceof Error)) {
    refuse(`A non-Error object was ${how}`, msg);
  }
  assertIsError(error, classOrMsg, msgIncludes, msg);
}

export function assertThrows(fn: () => unknown, msg?: string): unknown;
export function assertThrows<E extends Error = Error>(
  fn: () => unknown,
  ErrorClass: AnyClass<E>,
  msgIncludes?: string,
  msg?: string,
): E;
export function assertThrows<E extends Error = Error>(
  fn: () => unknown,
  classOrMsg?: AnyClass<E> | string,
  msgIncludes?: string,
  msg?: string,
): unknown {
  if (typeof classOrMsg === "string") msg = classOrMsg;
  try {
    fn();
  } catch (error) {
    verify(error, classOrMsg, msgIncludes, msg, "thrown");
    return error;
  }
  refuse("Expected function to throw", msg);
}

export function assertRejects(
  fn: () => PromiseLike<unknown>,
  msg?: string,
): Promise<unknown>;
export function assertRejects<E extends Error = Error>(
  fn: () => PromiseLike<unknown>,
  ErrorClass: AnyClass<E>,
  msgIncludes?: string,
  msg?: string,
): Promise<E>;
export async function assertRejects<E extends Error = Error>(
  fn: () => PromiseLike<unknown>,
  classOrMsg?: AnyClass<E> | string,
  msgIncludes?: string,
  msg?: string,
): Promise<unknown> {
  if (typeof classOrMsg === "string") msg = classOrMsg;
  let promise: unknown;
  try {
    promise = fn();
  } catch {
    refuse("Function throws when expected to reject", msg);
  }
  if (
    typeof promise !== "object" || promise === null ||
    typeof Reflect.get(promise, "then") !== "function"
  ) {
    refuse("Function throws when expected to reject", msg);
  }
  try {
    await promise;
  } catch (error) {
    verify(error, classOrMsg, msgIncludes, msg, "rejected");
    return error;
  }
  refuse("Expected function to reject", msg);
}

export function fail(msg?: string): never {
  refuse("Failed assertion", msg);
}

export function unreachable(msg?: string): never {
  refuse("Unreachable", msg);
}
