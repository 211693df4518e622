// Why: `assertEquals` compares as `@std/assert` does, which `isDeepStrictEqual`
// of Node does not (-0 equals 0, getters and non-enumerable fields count).

const TypedArray = Object.getPrototypeOf(Uint8Array) as new () => Uint8Array;

/** Objects whose whole value is what `String` makes of them. */
const TEXTUAL = [RegExp, URL, URLSearchParams, Intl.Locale];

function same(a: unknown, b: unknown): boolean {
  return a === b || Object.is(a, b);
}

function bytesOf(buffer: ArrayBufferLike): Uint8Array {
  return new Uint8Array(buffer);
}

/** A null prototype counts as `Object.prototype`. */
function prototypeOf(value: object): unknown {
  return Object.getPrototypeOf(value) ?? Object.prototype;
}

/** Every key up to, not including, `Object.prototype` or `Array.prototype`. */
function keysOf(value: object): Set<PropertyKey> {
  const keys = new Set<PropertyKey>();
  let at: object | null = value;
  while (at && at !== Object.prototype && at !== Array.prototype) {
    for (const key of Reflect.ownKeys(at)) keys.add(key);
    at = Object.getPrototypeOf(at) as object | null;
  }
  return keys;
}

type Compare = (a: unknown, b: unknown) => boolean;

/** Sets and maps, read as lists of entries in any order. */
function equalEntries(
  a: Map<unknown, unknown> | Set<unknown>,
  b: Map<unknown, unknown> | Set<unknown>,
  compare: Compare,
): boolean {
  if (a.size !== b.size) return false;
  const rest = [...b.entries()];
  return [...a.entries()].every(([key, value]) => {
    const at = rest.findIndex(([otherKey, other]) =>
      compare(key, otherKey) && compare(value, other)
    );
    if (at < 0) return false;
    rest.splice(at, 1);
    return true;
  });
}

/** Whether `a` and `b` are equal in the eyes of `assertEquals`. */
export function equal(a: unknown, b: unknown): boolean {
  const seen = new Map<object, object>();
  function compare(a: unknown, b: unknown): boolean {
    if (same(a, b)) return true;
    if (typeof a !== "object" || typeof b !== "object") return false;
    if (a === null || b === null) return false;
    if (a instanceof Date && b instanceof Date) {
      return Object.is(a.getTime(), b.getTime());
    }
    if (prototypeOf(a) !== prototypeOf(b)) return false;
    if (a instanceof TypedArray && b instanceof TypedArray) {
      return a.length === b.length && a.every((x, i) => same(x, b[i]));
    }
    if (a instanceof ArrayBuffer && b instanceof ArrayBuffer) {
      return compare(bytesOf(a), bytesOf(b));
    }
    if (a instanceof WeakMap || a instanceof WeakSet) {
      throw new TypeError(`Cannot compare ${a.constructor.name} instances`);
    }
    if (a instanceof WeakRef && b instanceof WeakRef) {
      return compare(a.deref(), b.deref());
    }
    if (TEXTUAL.some((type) => prototypeOf(a) === type.prototype)) {
      return String(a) === String(b);
    }
    if (seen.get(a) === b) return true;
    seen.set(a, b);
    if (Object.keys(a).length !== Object.keys(b).length) return false;
    if (
      (a instanceof Map && b instanceof Map) ||
      (a instanceof Set && b instanceof Set)
    ) {
      return equalEntries(a, b, compare);
    }
    for (const key of keysOf(a).union(keysOf(b))) {
      if (!(key in a) || !(key in b)) return false;
      if (!compare(Reflect.get(a, key), Reflect.get(b, key))) return false;
    }
    return true;
  }
  return compare(a, b);
}
