// Why: scripts tell what went wrong by these classes and fields alone.

import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import {
  ClosedError,
  CommunicationError,
  explain,
  InvalidMessageError,
  MessageTooLargeError,
  reason,
} from "../_errors.ts";

Deno.test("every error has its class's name and message, and is a CommunicationError", () => {
  const errors: [CommunicationError, string][] = [
    [new CommunicationError("Cannot send"), "CommunicationError"],
    [new ClosedError("Cannot send"), "ClosedError"],
    [new MessageTooLargeError("Cannot send", 8, 13), "MessageTooLargeError"],
    [
      new InvalidMessageError("Cannot send", new Uint8Array(1)),
      "InvalidMessageError",
    ],
  ];
  for (const [error, name] of errors) {
    assertInstanceOf(error, Error);
    assertInstanceOf(error, CommunicationError);
    assertEquals(error.name, name);
    assertEquals(error.constructor.name, name);
    assertEquals(error.message, "Cannot send");
    assertEquals(String(error), `${name}: Cannot send`);
    assert(error.stack?.includes("errors_test.ts"));
    assertFalse("cause" in error);
  }
  for (const Kind of [ClosedError, MessageTooLargeError, InvalidMessageError]) {
    const kin = errors.filter(([error]) => error instanceof Kind);
    assertEquals(kin.map(([, name]) => name), [Kind.name]);
  }
});

Deno.test("CommunicationError keeps its cause", () => {
  const cause = new Error("the line is down");
  assertStrictEquals(new CommunicationError("", { cause }).cause, cause);
});

Deno.test("ClosedError keeps its cause, whatever it is", () => {
  for (const cause of [new Error("reset"), "reset", 0, null, undefined]) {
    const error = new ClosedError("", { cause });
    assert("cause" in error);
    assertStrictEquals(error.cause, cause);
  }
});

Deno.test("ClosedError.incomplete is empty unless there are such bytes", () => {
  const incomplete = Uint8Array.of(1, 2);
  assertStrictEquals(
    new ClosedError("", { incomplete }).incomplete,
    incomplete,
  );
  for (const error of [new ClosedError(""), new ClosedError("", {})]) {
    assertEquals(error.incomplete, new Uint8Array(0));
  }
  const error = new ClosedError("", { incomplete });
  assertFalse("cause" in error);
});

Deno.test("MessageTooLargeError has limit and size", () => {
  const { limit, size } = new MessageTooLargeError("", 8, 13);
  assertEquals([limit, size], [8, 13]);
});

Deno.test("InvalidMessageError has the bytes, and on UDP the sender", () => {
  const bytes = Uint8Array.of(0xff);
  const tcp = new InvalidMessageError("", bytes);
  assertStrictEquals(tcp.bytes, bytes);
  assertEquals(tcp.sender, undefined);
  const udp = new InvalidMessageError("", bytes, ["192.168.1.100", 70_001]);
  assertEquals(udp.sender, ["192.168.1.100", 70_001]);
});

Deno.test("reason() gives the text of anything thrown, without the kernel's number", () => {
  const thrown: [unknown, string][] = [
    [new Error("Connection refused (os error 111)"), "Connection refused"],
    [new Error("Access is denied. (os error 5)"), "Access is denied."],
    [new Error("no number"), "no number"],
    [
      new Error("(os error 1) is not at the end"),
      "(os error 1) is not at the end",
    ],
    [new Error("not one (os error x)"), "not one (os error x)"],
    [new Error(""), ""],
    ["just text (os error 3)", "just text"],
    [42, "42"],
    [null, "null"],
    [undefined, "undefined"],
  ];
  for (const [error, text] of thrown) assertEquals(reason(error), text);
});

Deno.test("explain() keeps Deno's class, name and cause", () => {
  for (const [name, Kind] of Object.entries(Deno.errors)) {
    const cause = new Kind("Connection refused (os error 111)");
    const error = explain("Cannot connect", cause);
    assertStrictEquals(error.constructor, Kind);
    assertEquals(error.name, name);
    assertEquals(error.message, "Cannot connect: Connection refused");
    assertStrictEquals(error.cause, cause);
    assertFalse("code" in error);
  }
});

Deno.test("explain() keeps the class and code of what Deno really throws", () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const taken = listener.addr as Deno.NetAddr;
  const cause = assertThrows(
    () => Deno.listen({ hostname: taken.hostname, port: taken.port }),
    Deno.errors.AddrInUse,
    "(os error",
  );
  const error = explain("Cannot listen for the robot", cause);
  assertInstanceOf(error, Deno.errors.AddrInUse);
  assertEquals(Reflect.get(error, "code"), "EADDRINUSE");
  assert(error.message.startsWith("Cannot listen for the robot: "));
  assertFalse(error.message.includes("os error"));
  assertStrictEquals(error.cause, cause);
  // The original is left as it was.
  assert(cause.message.includes("(os error"));
});

Deno.test("explain() keeps the classes of the language", () => {
  for (const Kind of [Error, TypeError, RangeError]) {
    const cause = new Kind("no");
    const error = explain("Cannot send", cause);
    assertStrictEquals(error.constructor, Kind);
    assertEquals(error.message, "Cannot send: no");
    assertStrictEquals(error.cause, cause);
  }
});

Deno.test("explain() makes an error of what is none", () => {
  for (const cause of ["no", 42, null, undefined]) {
    const error = explain("Cannot send", cause);
    assertStrictEquals(error.constructor, Error);
    assertEquals(error.message, `Cannot send: ${cause}`);
    assertStrictEquals(error.cause, cause);
  }
});

Deno.test("explain() makes an error of an abort, whose code is read-only", () => {
  const cause = new DOMException("it was aborted", "AbortError");
  const error = explain("Cannot connect", cause);
  assertInstanceOf(error, Error);
  assertEquals(error.message, "Cannot connect: it was aborted");
  assertStrictEquals(error.cause, cause);
});
