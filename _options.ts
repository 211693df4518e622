// Copyright 2026 the Daystar authors. MIT license.

/** Reading and checking options, and the sentence that refuses a value. */

/** Checks the value of an option, or fills in the default; `name` is for the error. */
export type Option<T> = (value: unknown, name: string) => T;

/** One check for each option of an interface. */
export type OptionsTable<Options> = {
  readonly [Name in keyof Options]-?: Option<Read<Options[Name]> | undefined>;
};

/** With undefined for each option within an option that has no default. */
type Read<T> = T extends Callback ? T
  : T extends object ? { [Name in keyof T]: T[Name] | undefined }
  : T;

// deno-lint-ignore no-explicit-any -- nothing else takes every function
type Callback = (...args: any[]) => unknown;

type Table = Readonly<Record<string, Option<unknown>>>;

/** The options of a table as they were read: checked, and with the defaults in place. */
export type Settings<T extends Table> = {
  readonly [Name in keyof T]: ReturnType<T[Name]>;
};

/**
 * Reads each option once and by name, so that getters and inherited properties count.
 *
 * @param caller The function whose options they are, for the error.
 * @param options What was passed; undefined means the defaults.
 * @param table The options there are.
 * @param args The names of the arguments before the options.
 * @returns The settings.
 * @throws {TypeError | RangeError} If there is no such option, or it does not take the value.
 */
export function readOptions<T extends Table>(
  caller: string,
  options: unknown,
  table: T,
  args: readonly string[] = [],
): Settings<T> {
  const given = options === undefined ? {} : options;
  checkNames(caller, given, table, args);
  return readAll("", given, table);
}

/** What has entries that are no properties, which would be dropped in silence. */
const BUILT_IN = new Set(["Map", "Set", "Promise"]);

/** Throws unless `options` is an object whose properties are all options of the table. */
export function checkNames(
  caller: string,
  options: unknown,
  table: Table,
  args: readonly string[] = [],
): asserts options is object {
  if (!isBag(options)) throw refuseOptions(options, table);
  let isEmpty = true;
  for (const name in options) {
    isEmpty = false;
    // Much faster than Object.hasOwn().
    if (!(name in table) || name in Object.prototype) {
      throw refuseName(name, caller, Object.keys(table), args);
    }
  }
  // A promise, a Map, a boxed number: what looks like no options at all.
  const kind = Object.prototype.toString.call(options).slice(8, -1);
  if (isEmpty && kind !== "Object" || BUILT_IN.has(kind)) {
    throw new TypeError(
      `Cannot use ${/^[AEIO]/.test(kind) ? "an" : "a"} ${kind} ` +
        `as options: it takes a plain object with ${list(Object.keys(table))}`,
    );
  }
}

function isBag(value: unknown): value is object {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function readAll<T extends Table>(
  prefix: string,
  options: object,
  table: T,
): Settings<T> {
  const given = options as Record<string, unknown>;
  const settings: Record<string, unknown> = {};
  for (const [name, read] of Object.entries(table)) {
    settings[name] = read(given[name], prefix + name);
  }
  return settings as Settings<T>;
}

/** Reads the options within the option `name`. */
function readNested<T extends Table>(
  name: string,
  options: object,
  table: T,
): Settings<T> {
  checkNames(name, options, table);
  return readAll(`${name}.`, options, table);
}

// Checks

/** An integer from `least` to `most`, or the default. */
export function integer(
  least: number,
  most: number,
  otherwise: number,
): Option<number> {
  return (value, name) => {
    if (value === undefined || value === otherwise) return otherwise;
    if (Number.isInteger(value) && isWithin(value, least, most)) return value;
    const takes = `an integer from ${least} to ${most}`;
    throw refuse(name, value, takes, kindOf(value));
  };
}

/** A number from `least` to `most`. */
export function fraction(
  least: number,
  most: number,
  otherwise: number,
): Option<number> {
  return (value, name) => {
    if (value === undefined) return otherwise;
    if (isWithin(value, least, most)) return value;
    const takes = `a number from ${least} to ${most}`;
    throw refuse(name, value, takes, kindOf(value));
  };
}

/** A time from `least` milliseconds to Infinity. */
export function milliseconds(least: number, otherwise: number): Option<number> {
  return (value, name) => {
    if (value === undefined) return otherwise;
    if (isWithin(value, least, Infinity)) return value;
    const takes = `a number of milliseconds, ${least} or more`;
    throw refuse(name, value, takes, kindOf(value));
  };
}

function isWithin(
  value: unknown,
  least: number,
  most: number,
): value is number {
  return typeof value === "number" && value >= least && value <= most;
}

function kindOf(value: unknown): ErrorConstructor {
  return typeof value === "number" ? RangeError : TypeError;
}

/** True or false. */
export function boolean(otherwise: boolean): Option<boolean> {
  return (value, name) => {
    if (value === undefined) return otherwise;
    if (typeof value === "boolean") return value;
    throw refuse(name, value, "true or false");
  };
}

/** An AbortSignal, or undefined. */
export function signal(): Option<AbortSignal | undefined> {
  return (value, name) => {
    if (value === undefined || value instanceof AbortSignal) return value;
    throw refuse(name, value, "an AbortSignal");
  };
}

/** A function; undefined and null, as Python's None, mean none. */
export function callback<F extends Callback>(): Option<F | undefined>;
/** A function; undefined and null, as Python's None, mean `otherwise`. */
export function callback<F extends Callback>(otherwise: F): Option<F>;
export function callback<F extends Callback>(
  otherwise?: F,
): Option<F | undefined> {
  return (value, name) => {
    if (value === undefined || value === null) return otherwise;
    if (typeof value === "function") return value as F;
    throw refuse(name, value, "a function");
  };
}

/** Options within an option, or undefined. */
export function nested<T extends Table>(
  table: T,
): Option<Settings<T> | undefined> {
  return (value, name) => {
    if (value === undefined) return undefined;
    if (isBag(value)) return readNested(name, value, table);
    throw refuse(name, value, `{ ${Object.keys(table).join(", ")} }`);
  };
}

/** Options within an option, where `true` means their defaults, and `false` undefined. */
export function switchable<T extends Table>(
  table: T,
): Option<Settings<T> | undefined> {
  return (value, name) => {
    if (value === undefined || value === false) return undefined;
    const options = value === true ? {} : value;
    if (isBag(options)) return readNested(name, options, table);
    throw refuse(name, value, `true or { ${Object.keys(table).join(", ")} }`);
  };
}

// Refusing

/** The error for a value that can't be used. */
export function refuse(
  name: string,
  value: unknown,
  takes: string,
  Kind: ErrorConstructor = TypeError,
): Error {
  return new Kind(`Cannot use ${show(value)} as ${name}: it takes ${takes}`);
}

/**
 * Numbers from here on are taken for milliseconds, or for Python's `recv(1024)`: no
 * script waits 100 seconds for a message, and none less than 100 ms for a reply.
 */
const LEAST_AS_MS = 100;

/** The error for what can't be options; Python takes a timeout as a number of seconds. */
function refuseOptions(options: unknown, table: Table): Error {
  const timeout = ["timeout", "connectTimeout"].find((name) => name in table);
  if (timeout && typeof options === "number" && options >= 0) {
    const isMs = options >= LEAST_AS_MS;
    const ms = isMs ? options : Math.round(options * 1000);
    return new TypeError(
      `Cannot use ${options} as options: write { ${timeout}: ${ms} }` +
        (isMs ? ", which is in milliseconds" : ""),
    );
  }
  const names = list(Object.keys(table));
  return refuse("options", options, `an object with ${names}`);
}

/** The error for a property that is no option, with what was meant. */
function refuseName(
  name: string,
  owner: string,
  options: readonly string[],
  args: readonly string[],
): TypeError {
  const cannot = `Cannot use ${show(name)} as an option of ${owner}`;
  const at = args.findIndex((arg) => fold(arg) === fold(name));
  if (at >= 0) {
    return new TypeError(
      `${cannot}: ${args[at]} is the ${["first", "second"][at]} argument`,
    );
  }
  const meant = alias(name, owner, options) ?? closest(name, options);
  if (meant === undefined) {
    return new TypeError(`${cannot}: it takes ${list(options)}`);
  }
  const isOption = options.includes(meant);
  return new TypeError(
    `${cannot}: ${isOption ? `did you mean ${show(meant)}?` : meant}`,
  );
}

/** Names of other modules, folded, and the option that they have here. */
const ALIASES: Readonly<Record<string, readonly string[]>> = {
  hostname: ["ip", "address", "addr", "interface", "bindaddress", "bind"],
  maxMessageBytes: ["buffersize", "bufsize", "maxmessagesize", "maxlength"],
  maxClients: ["maxconnections"],
  reuseAddress: ["reuseport"],
  tls: ["ssl", "secure", "sslcontext"],
  caCerts: ["ca", "cafile"],
  attempts: ["retries", "maxretries", "count", "times"],
  firstDelay: ["interval", "pause", "backoff"],
  timeout: ["seconds", "ms", "wait"],
};

const IP_IS_FIRST = "ip is the first argument";
const CALLBACK_IS_SECOND = "messageCallback is the second argument";
const READ_CLIENT = "read with for await (const message of client)";
const READ_SOCKET = "read with for await (const [message, sender] of socket)";
const BROADCAST = "call socket.enableBroadcast()";
const CLIENT_TIMEOUT = "client.receive({ timeout: 5000 }) takes it";
const SOCKET_TIMEOUT = "socket.receive({ timeout: 5000 }) takes it";

/** The same where no option has it, but something else does. */
const ELSEWHERE: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  createTcpClient: {
    host: IP_IS_FIRST,
    hostname: IP_IS_FIRST,
    address: IP_IS_FIRST,
    server: IP_IS_FIRST,
    serverip: IP_IS_FIRST,
    callback: READ_CLIENT,
    messagecallback: READ_CLIENT,
    onmessage: READ_CLIENT,
    readtimeout: CLIENT_TIMEOUT,
    receivetimeout: CLIENT_TIMEOUT,
    recvtimeout: CLIENT_TIMEOUT,
    retries: "write { retry: { attempts: 5 } }",
    maxretries: "write { retry: { attempts: 5 } }",
  },
  createTcpServer: {
    callback: CALLBACK_IS_SECOND,
    handler: CALLBACK_IS_SECOND,
    onmessage: CALLBACK_IS_SECOND,
    reuseaddress:
      "a server can have the port again as soon as another has left it",
    reuseaddr:
      "a server can have the port again as soon as another has left it",
  },
  createUdpSocket: {
    broadcast: BROADCAST,
    enablebroadcast: BROADCAST,
    allowbroadcast: BROADCAST,
    callback: READ_SOCKET,
    messagecallback: READ_SOCKET,
    onmessage: READ_SOCKET,
    readtimeout: SOCKET_TIMEOUT,
    receivetimeout: SOCKET_TIMEOUT,
    recvtimeout: SOCKET_TIMEOUT,
    timeout: SOCKET_TIMEOUT,
  },
};

/** What a name of Python or of another module means: an option, or where it is. */
function alias(
  name: string,
  owner: string,
  options: readonly string[],
): string | undefined {
  const folded = fold(name);
  const elsewhere = ELSEWHERE[owner] ?? {};
  if (Object.hasOwn(elsewhere, folded)) return elsewhere[folded];
  return options.find((option) => ALIASES[option]?.includes(folded));
}

/** So that Python's `connect_timeout` is `connectTimeout`. */
function fold(name: string): string {
  return name.replaceAll(/[_-]/g, "").toLowerCase();
}

/** Typing errors up to this are told from other words. */
const MAX_TYPOS = 2;
/** Shorter parts of names are in too many of them. */
const MIN_PART = 3;

/** What was meant: a typing error, or else the first of which one is a part of the other. */
function closest(
  name: string,
  options: readonly string[],
): string | undefined {
  const folded = fold(name);
  const most = Math.min(MAX_TYPOS, Math.floor(folded.length / 3));
  let nearest: string | undefined;
  let least = most + 1;
  for (const option of options) {
    const typos = distance(folded, fold(option), least);
    if (typos < least) [nearest, least] = [option, typos];
  }
  return nearest ?? options.find((option) => isPart(folded, fold(option)));
}

function isPart(a: string, b: string): boolean {
  return Math.min(a.length, b.length) >= MIN_PART &&
    (a.includes(b) || b.includes(a));
}

/** How many letters to change, insert or leave out (Levenshtein), or `most`. */
function distance(a: string, b: string, most: number): number {
  if (Math.abs(a.length - b.length) >= most) return most;
  let row = Array.from({ length: b.length + 1 }, (_, at) => at);
  for (const [i, letter] of [...a].entries()) {
    const next = [i + 1];
    for (const [j, other] of [...b].entries()) {
      next.push(Math.min(
        (row[j] ?? most) + (letter === other ? 0 : 1),
        (row[j + 1] ?? most) + 1,
        (next[j] ?? most) + 1,
      ));
    }
    row = next;
  }
  return Math.min(row[b.length] ?? most, most);
}

/** Names in a sentence: `a, b and c`. */
function list(names: readonly string[]): string {
  return names.join(", ").replace(/, ([^,]*)$/, " and $1");
}

/** Whether a callback has answered later. */
export function isPromise(value: unknown): value is PromiseLike<unknown> {
  return typeof value === "object" && value !== null && "then" in value &&
    typeof value.then === "function";
}

/** A longer text may be a private key: no more of it is shown than its first line. */
const MAX_SHOWN = 200;
const BEGINNING = 27;

function showText(text: string): string {
  const isLong = text.length > MAX_SHOWN;
  return JSON.stringify(isLong ? `${text.slice(0, BEGINNING)}…` : text);
}

/** A value in an error message: short, and never one that throws itself. */
export function show(value: unknown): string {
  try {
    if (typeof value === "string") return showText(value);
    if (typeof value === "object" && value !== null) {
      return Array.isArray(value) ? "an array" : "an object";
    }
    return typeof value === "function" ? "a function" : String(value);
  } catch {
    return "an object"; // a revoked proxy
  }
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
