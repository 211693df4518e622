// Why: stands in for `@std/async` where JSR does not answer: the same names,
// types and outcomes for the functions used here, made of timers and signals.

export interface DelayOptions {
  signal?: AbortSignal;
  persistent?: boolean;
}

export interface DeadlineOptions {
  signal?: AbortSignal;
}

export interface RetryOptions {
  multiplier?: number;
  maxTimeout?: number;
  maxAttempts?: number;
  minTimeout?: number;
  jitter?: number;
  isRetriable?: (err: unknown) => boolean;
  signal?: AbortSignal;
}

/** What `retry` throws once it has tried often enough. */
export class RetryError extends Error {
  override name = "RetryError";
  constructor(cause: unknown, attempts: number) {
    super(`Retrying exceeded the maxAttempts (${attempts}).`, { cause });
  }
}

export function delay(ms: number, options: DelayOptions = {}): Promise<void> {
  const { signal, persistent = true } = options;
  if (signal?.aborted) return Promise.reject(signal.reason);
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const abort = () => {
    clearTimeout(timer);
    reject(signal?.reason);
  };
  const timer = setTimeout(() => {
    signal?.removeEventListener("abort", abort);
    resolve();
  }, ms);
  signal?.addEventListener("abort", abort, { once: true });
  if (!persistent) Deno.unrefTimer(timer);
  return promise;
}

/** A promise that rejects when `signal` aborts, and how to stop listening. */
function aborted(signal: AbortSignal): [Promise<never>, () => void] {
  const { promise, reject } = Promise.withResolvers<never>();
  promise.catch(() => {});
  const abort = () => reject(signal.reason);
  if (signal.aborted) abort();
  else signal.addEventListener("abort", abort, { once: true });
  return [promise, () => signal.removeEventListener("abort", abort)];
}

async function* abortableIterable<T>(
  source: AsyncIterable<T>,
  signal: AbortSignal,
): AsyncGenerator<T> {
  signal.throwIfAborted();
  const [abort, stop] = aborted(signal);
  const iterator = source[Symbol.asyncIterator]();
  let ended = false;
  try {
    while (true) {
      const next = await Promise.race([abort, iterator.next()]);
      if (next.done) {
        ended = true;
        return;
      }
      yield next.value;
    }
  } finally {
    stop();
    if (!ended) await iterator.return?.();
  }
}

export function abortable<T>(p: Promise<T>, signal: AbortSignal): Promise<T>;
export function abortable<T>(
  p: AsyncIterable<T>,
  signal: AbortSignal,
): AsyncGenerator<T>;
export function abortable<T>(
  p: Promise<T> | AsyncIterable<T>,
  signal: AbortSignal,
): Promise<T> | AsyncGenerator<T> {
  if (!(p instanceof Promise)) return abortableIterable(p, signal);
  const [abort, stop] = aborted(signal);
  return Promise.race([abort, p]).finally(stop);
}

export async function deadline<T>(
  p: Promise<T>,
  ms: number,
  options: DeadlineOptions = {},
): Promise<T> {
  const signals = options.signal ? [options.signal] : [];
  if (ms < Number.MAX_SAFE_INTEGER) signals.push(AbortSignal.timeout(ms));
  return await abortable(p, AbortSignal.any(signals));
}

export async function retry<T>(
  fn: (() => Promise<T>) | (() => T),
  options: RetryOptions = {},
): Promise<T> {
  const {
    multiplier = 2,
    maxTimeout = 60_000,
    maxAttempts = 5,
    minTimeout = 1_000,
    jitter = 1,
    isRetriable = () => true,
    signal,
  } = options;
  for (let attempt = 0;; attempt++) {
    signal?.throwIfAborted();
    try {
      return await fn();
    } catch (error) {
      if (!isRetriable(error)) throw error;
      if (attempt + 1 >= maxAttempts) throw new RetryError(error, maxAttempts);
    }
    const longest = Math.min(maxTimeout, minTimeout * multiplier ** attempt);
    const wait = longest * (1 - jitter * Math.random());
    await delay(wait, signal ? { signal } : {});
  }
}
