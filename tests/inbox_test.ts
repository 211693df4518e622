// Why: who gets which message, without sockets that blur when it comes.

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import { deadline } from "@std/async";
import fc from "fast-check";
import { Inbox, type ReceiveOptions, type Source } from "../_inbox.ts";
import { ClosedError, InvalidMessageError } from "../mod.ts";
import { outcomes } from "./_served.ts";

const PATIENCE = 10_000;
const WAIT = { timeout: PATIENCE };

/** An inbox whose source gives what the test puts there. */
class Fixture implements Source<string> {
  readonly inbox = new Inbox<string>(this);
  readonly batches: (string | Error)[][] = [];
  /** What the source was told about waiting. */
  readonly awaits: boolean[] = [];
  takes = 0;

  take(): (string | Error)[] | undefined {
    this.takes++;
    return this.batches.shift();
  }

  awaited(waiting: boolean): void {
    this.awaits.push(waiting);
  }

  arrive(...items: (string | Error)[]): void {
    this.batches.push(items);
    this.inbox.deliver();
  }
}

/** A test that cannot hang. */
function test(name: string, fn: (fixture: Fixture) => Promise<void>): void {
  Deno.test(name, () => deadline(fn(new Fixture()), PATIENCE));
}

async function collect(
  inbox: Inbox<string>,
  into: string[] = [],
): Promise<string[]> {
  for await (const message of inbox.iterate()) into.push(message);
  return into;
}

function bad(): InvalidMessageError {
  return new InvalidMessageError("Cannot decode", new Uint8Array([0xff]));
}

function closed(): ClosedError {
  return new ClosedError("Cannot receive: closed");
}

test("Inbox.receive() takes what is there, and asks for no more than it needs", async (fixture) => {
  const { inbox, batches, awaits } = fixture;
  batches.push(["a", ""], ["c"]);
  assertEquals(await inbox.receive(), "a");
  assertEquals(await inbox.receive({ timeout: 0 }), "");
  assertEquals(fixture.takes, 1);
  assertEquals(await inbox.receive(WAIT), "c");
  assertEquals(fixture.takes, 2);
  assertEquals(awaits, []);
});

test("Inbox.receive() serves those who wait in the order of the calls", async (fixture) => {
  const { inbox } = fixture;
  const settled: string[] = [];
  const pending = ["1", "2", "3", "4"].map(async (name) => {
    settled.push(name + await inbox.receive(WAIT));
  });
  fixture.arrive("a");
  fixture.arrive("b", "c");
  await Promise.all(pending.slice(0, 3));
  assertEquals(settled, ["1a", "2b", "3c"]);
  fixture.arrive("d");
  await Promise.all(pending);
  assertEquals(settled, ["1a", "2b", "3c", "4d"]);
});

test("Inbox.receive() does not overtake those who wait", async (fixture) => {
  const { inbox, batches } = fixture;
  const first = inbox.receive(WAIT);
  // There, but not yet delivered: that is a microtask later.
  batches.push(["a", "b", "c"]);
  const second = inbox.receive(WAIT);
  const third = inbox.iterate().next();
  inbox.deliver();
  assertEquals(await Promise.all([first, second]), ["a", "b"]);
  assertEquals(await third, { value: "c", done: false });
});

test("Inbox.receive() keeps what arrives for those to come", async (fixture) => {
  const { inbox } = fixture;
  const first = inbox.receive(WAIT);
  fixture.arrive("a", "b", "c");
  assertEquals(await first, "a");
  assertEquals(await inbox.receive(), "b");
  assertEquals(await inbox.receive({ timeout: 0 }), "c");
  assertEquals(await inbox.receive({ timeout: 0 }), null);
});

test("Inbox.receive() returns null when the time runs out, and loses nothing", async (fixture) => {
  const { inbox } = fixture;
  const short = [0, 1, 2, 0.5].map((timeout) => inbox.receive({ timeout }));
  const long = inbox.receive(WAIT);
  assertEquals(await Promise.all(short), [null, null, null, null]);
  fixture.arrive("late", "later");
  assertEquals(await long, "late");
  assertEquals(await inbox.receive({ timeout: 0 }), "later");
});

test("Inbox.receive() waits longer than timers can", async (fixture) => {
  const { inbox } = fixture;
  const { signal } = new AbortController();
  const options: (ReceiveOptions | undefined)[] = [
    undefined,
    {},
    { signal },
    { timeout: Infinity },
    { timeout: Infinity, signal },
    { timeout: 2 ** 31 },
    { timeout: 2 ** 31, signal },
    { timeout: 2 ** 40 },
  ];
  const waiting = options.map((options) => inbox.receive(options));
  // An overflowing timer would have fired before this one.
  assertEquals(await inbox.receive({ timeout: 5 }), null);
  const messages = options.map((_, i) => String(i));
  fixture.arrive(...messages);
  assertEquals(await Promise.all(waiting), messages);
});

test("Inbox.receive() waits as long as a timer can", async (fixture) => {
  const { inbox } = fixture;
  const waiting = inbox.receive({ timeout: 2 ** 31 - 1 });
  assertEquals(await inbox.receive({ timeout: 5 }), null);
  fixture.arrive("a");
  assertEquals(await waiting, "a");
});

test("Inbox.receive() rejects bad options and loses nothing by it", async (fixture) => {
  const { inbox } = fixture;
  fixture.arrive("a");
  for (const timeout of [-1, -Number.MIN_VALUE, NaN, -Infinity]) {
    await assertRejects(() => inbox.receive({ timeout }), RangeError);
  }
  for (const timeout of ["5", null, true, 5n, [5]]) {
    const options = { timeout } as unknown as ReceiveOptions;
    await assertRejects(() => inbox.receive(options), TypeError);
  }
  for (const options of [5.0, "5", true, null, () => 5]) {
    await assertRejects(() => inbox.receive(options as never), TypeError);
  }
  assertEquals(await inbox.receive({ timeout: 0 }), "a");
  assertEquals(await inbox.receive({ timeout: -0 }), null);
});

test("Inbox.receive() rejects with the reason of its signal, and loses nothing", async (fixture) => {
  const { inbox } = fixture;
  const controller = new AbortController();
  const { signal } = controller;
  const reason = { why: "enough" };
  const pending = outcomes([
    inbox.receive({ signal }),
    inbox.receive(WAIT),
    inbox.receive({ signal, ...WAIT }),
  ]);
  controller.abort(reason);
  fixture.arrive("a", "b");
  const [first, second, third] = await pending;
  assertStrictEquals(first, reason);
  assertEquals(second, "a");
  assertStrictEquals(third, reason);

  const [again] = await outcomes([inbox.receive({ signal, timeout: 0 })]);
  assertStrictEquals(again, reason);
  assertEquals(await inbox.receive({ timeout: 0 }), "b");
});

test("Inbox.receive() leaves nothing on a signal that lives on", async (fixture) => {
  const { inbox } = fixture;
  const { signal } = new AbortController();
  let listening = 0;
  const add = signal.addEventListener;
  const remove = signal.removeEventListener;
  signal.addEventListener = function (...args: Parameters<typeof add>) {
    listening++;
    Reflect.apply(add, this, args);
  };
  signal.removeEventListener = function (...args: Parameters<typeof remove>) {
    listening--;
    Reflect.apply(remove, this, args);
  };
  const served = inbox.receive({ signal });
  assertEquals(listening, 1);
  fixture.arrive("a", "b");
  assertEquals(await served, "a");
  assertEquals(listening, 0);
  await inbox.receive({ signal });
  assertEquals(await inbox.receive({ signal, timeout: 0 }), null);
  assertEquals(listening, 0);
  const cut = outcomes([inbox.receive({ signal })]);
  assertEquals(listening, 1);
  inbox.end(closed);
  await cut;
  assertEquals(listening, 0);
});

test("Inbox tells its source when someone waits", async (fixture) => {
  const { inbox, awaits } = fixture;
  const controller = new AbortController();
  const { signal } = controller;
  const told = () => awaits.splice(0);

  const two = [inbox.receive(), inbox.receive()];
  assertEquals(told(), [true]);
  fixture.arrive("a");
  assertEquals(told(), []);
  fixture.arrive("b");
  assertEquals(told(), [false]);
  await Promise.all(two);

  await inbox.receive({ timeout: 1 });
  assertEquals(told(), [true, false]);

  const aborted = outcomes([inbox.receive({ signal })]);
  controller.abort();
  assertEquals(told(), [true, false]);
  await aborted;

  const ended = outcomes([inbox.receive(), inbox.receive()]);
  inbox.end(closed);
  assertEquals(told(), [true, false]);
  await ended;

  await outcomes([inbox.receive(), inbox.receive({ timeout: 0 })]);
  assertEquals(told(), []);
});

test("Inbox.receive() rejects once for an error that stands for a message", async (fixture) => {
  const { inbox } = fixture;
  const first = bad();
  const second = bad();
  const pending = outcomes([inbox.receive(), inbox.receive()]);
  fixture.arrive(first, "a", second, "b");
  const got = [
    ...await pending,
    ...await outcomes([inbox.receive(), inbox.receive()]),
  ];
  assertEquals(got.length, 4);
  assertStrictEquals(got[0], first);
  assertEquals(got[1], "a");
  assertStrictEquals(got[2], second);
  assertEquals(got[3], "b");
});

test("Inbox.end() leaves what is there to be received", async (fixture) => {
  const { inbox, batches } = fixture;
  batches.push(["a", "b"], ["c"]);
  assertEquals(await inbox.receive(), "a");
  const errors = [closed(), closed(), closed()];
  inbox.end(() => errors.shift() ?? new Error("asked too often"));
  inbox.end(() => new Error("the first end counts"));
  assertEquals(await inbox.receive(), "b");
  assertEquals(await inbox.receive({ timeout: 0 }), "c");
  const expected = [...errors];
  for (const error of expected) {
    const got = await assertRejects(() => inbox.receive({ timeout: 0 }));
    assertStrictEquals(got, error);
  }
});

test("Inbox.end() serves those who wait with what is there, and rejects the others", async (fixture) => {
  const { inbox, batches } = fixture;
  const pending = outcomes([
    inbox.receive(),
    inbox.receive(WAIT),
    inbox.receive({ signal: new AbortController().signal }),
  ]);
  batches.push(["last"]);
  inbox.end(closed);
  const [last, second, third] = await pending;
  assertEquals(last, "last");
  assertInstanceOf(second, ClosedError);
  assertInstanceOf(third, ClosedError);
});

test("Inbox.clear() drops what was not received", async (fixture) => {
  const { inbox } = fixture;
  fixture.arrive("a", "b", "c");
  assertEquals(await inbox.receive(), "a");
  inbox.clear();
  assertEquals(await inbox.receive({ timeout: 0 }), null);
  fixture.arrive("d");
  assertEquals(await inbox.receive({ timeout: 0 }), "d");
});

test("Inbox.iterate() goes on until an orderly end", async (fixture) => {
  const { inbox } = fixture;
  fixture.arrive("a", "");
  const received: string[] = [];
  const iterating = collect(inbox, received);
  fixture.arrive("b");
  fixture.arrive("c", "d");
  inbox.end(closed);
  await iterating;
  assertEquals(received, ["a", "", "b", "c", "d"]);
  assertEquals(await collect(inbox), []);
});

test("Inbox.iterate() throws an end that is not orderly, and is done", async () => {
  const ends = [
    new ClosedError("broken", { cause: new Error("reset") }),
    new ClosedError("cut off", { incomplete: new Uint8Array([0x61]) }),
    new Error("something else"),
  ];
  for (const error of ends) {
    for (const waiting of [true, false]) {
      const fixture = new Fixture();
      const iterator = fixture.inbox.iterate();
      const early = waiting ? outcomes([iterator.next()]) : undefined;
      fixture.inbox.end(() => error);
      const [outcome] = await (early ?? outcomes([iterator.next()]));
      assertStrictEquals(outcome, error);
      assertEquals(await iterator.next(), { value: undefined, done: true });
    }
  }
});

test("Inbox.iterate() throws what is not a message, and another goes on", async (fixture) => {
  const { inbox } = fixture;
  const error = bad();
  for (const waiting of [true, false]) {
    const iterator = inbox.iterate();
    const early = waiting ? outcomes([iterator.next()]) : undefined;
    fixture.arrive(error, "a");
    const [outcome] = await (early ?? outcomes([iterator.next()]));
    assertStrictEquals(outcome, error);
    assertEquals(await iterator.next(), { value: undefined, done: true });
    for await (const message of inbox.iterate()) {
      assertEquals(message, "a");
      break;
    }
  }
});

test("Inbox.iterate() takes nothing more once it is left", async (fixture) => {
  const { inbox } = fixture;
  fixture.arrive("a", "b", "c");
  const iterator = inbox.iterate();
  assertEquals(await iterator.next(), { value: "a", done: false });
  assertEquals(await iterator.return?.(), { value: undefined, done: true });
  assertEquals(await iterator.next(), { value: undefined, done: true });
  assertStrictEquals(iterator[Symbol.asyncIterator](), iterator);
  assertEquals(await inbox.receive(), "b");
  const other = inbox.iterate();
  assertEquals(await other.next(), { value: "c", done: false });
});

test("Inbox.iterate() gives calls that are not awaited their messages in order", async (fixture) => {
  const { inbox } = fixture;
  const iterator = inbox.iterate();
  const results = [iterator.next(), iterator.next(), iterator.next()];
  const between = inbox.receive(WAIT);
  fixture.arrive("a", "b", "c", "d");
  results.push(iterator.next());
  inbox.end(closed);
  const values = (await Promise.all(results)).map((result) => result.value);
  assertEquals(values, ["a", "b", "c", undefined]);
  assertEquals(await between, "d");
});

test("Inbox.iterate() ends its own waits when it is left, and loses nothing", async (fixture) => {
  const { inbox, awaits } = fixture;
  const error = new Error("enough");
  for (const leave of ["return", "throw"] as const) {
    const iterator = inbox.iterate();
    const left = [iterator.next(), iterator.next()];
    const other = inbox.iterate();
    const others = [inbox.receive(), other.next()];
    const [outcome] = await outcomes([
      Promise.resolve(iterator[leave]?.(error)),
    ]);
    if (leave === "throw") assertStrictEquals(outcome, error);
    else assertEquals(outcome, { value: undefined, done: true });
    const done = { value: undefined, done: true } as const;
    assertEquals(await Promise.all(left), [done, done]);
    assertEquals(awaits.splice(0), [true]);
    fixture.arrive("a", "b", "c");
    assertEquals(await Promise.all(others), ["a", { value: "b", done: false }]);
    assertEquals(awaits.splice(0), [false]);
    assertEquals(await iterator.next(), done);
    assertEquals(await inbox.receive(), "c");
  }
});

test("Inbox.iterate() tells its source that nobody waits once it is left", async (fixture) => {
  const { inbox, awaits } = fixture;
  const iterator = inbox.iterate();
  const left = iterator.next();
  iterator.return?.();
  assertEquals(awaits, [true, false]);
  await left;
  fixture.arrive("a");
  assertEquals(await inbox.receive({ timeout: 0 }), "a");
});

test("Inbox.iterate() still gives what was on its way when it is left", async (fixture) => {
  const { inbox } = fixture;
  const iterator = inbox.iterate();
  const served = iterator.next();
  fixture.arrive("a", "b");
  iterator.return?.();
  assertEquals(await served, { value: "a", done: false });
  assertEquals(await inbox.receive(), "b");
});

test("Inbox.iterate() ends its other waits when one throws", async (fixture) => {
  const { inbox } = fixture;
  const iterator = inbox.iterate();
  const waits = outcomes([iterator.next(), iterator.next()]);
  const error = bad();
  fixture.arrive(error);
  const [first, second] = await waits;
  assertStrictEquals(first, error);
  assertEquals(second, { value: undefined, done: true });
  fixture.arrive("a");
  assertEquals(await inbox.receive(), "a");
});

test("Inbox loses nothing when a stream over it is cancelled", async (fixture) => {
  const { inbox, awaits } = fixture;
  const reader = ReadableStream.from(inbox.iterate()).getReader();
  const read = reader.read();
  while (awaits.length === 0) await Promise.resolve();
  await reader.cancel();
  assert((await read).done);
  assertEquals(awaits, [true, false]);
  fixture.arrive("a");
  assertEquals(await inbox.receive({ timeout: 0 }), "a");
});

test("Inbox hands out anything but text alike", async () => {
  const batches: [string, number][][] = [];
  const inbox = new Inbox<[string, number]>({
    take: () => batches.shift(),
    awaited: () => {},
  });
  const pending = inbox.receive(WAIT);
  batches.push([["a", 1], ["b", 2]]);
  inbox.deliver();
  assertEquals(await pending, ["a", 1]);
  assertEquals(await inbox.receive(), ["b", 2]);
});

const step = fc.oneof(
  { weight: 4, arbitrary: fc.constant("receive" as const) },
  { weight: 2, arbitrary: fc.constant("next" as const) },
  { weight: 2, arbitrary: fc.record({ abort: fc.nat(5) }) },
  { weight: 2, arbitrary: fc.record({ leave: fc.nat(5) }) },
  {
    weight: 4,
    arbitrary: fc.record({ arrive: fc.array(fc.boolean(), { minLength: 1 }) }),
  },
);

/** A call that waits, and how it can be ended. */
interface Waiting {
  at: number;
  abort?: () => void;
  leave?: () => void;
}

test("Inbox loses nothing, repeats nothing and keeps the order, whatever happens", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const fixture = new Fixture();
      const { inbox } = fixture;
      const calls: Promise<unknown>[] = [];
      const expected: unknown[] = [];
      // The model: what is there, and who waits, by the place in `calls`.
      const there: unknown[] = [];
      const waiting: Waiting[] = [];
      const end = closed();
      let count = 0;

      const call = (promise: Promise<unknown>, how: Omit<Waiting, "at">) => {
        const at = calls.push(promise.catch((reason) => reason)) - 1;
        if (there.length > 0) expected[at] = there.shift();
        else waiting.push({ at, ...how });
      };
      for (const step of steps) {
        if (step === "receive") {
          const controller = new AbortController();
          const { signal } = controller;
          const abort = () => controller.abort("aborted");
          call(inbox.receive({ signal }), { abort });
        } else if (step === "next") {
          const iterator = inbox.iterate();
          const leave = () => iterator.return?.();
          const next = iterator.next();
          call(next.then(({ done, value }) => done ? end : value), { leave });
        } else if ("abort" in step) {
          const waiter = waiting[step.abort];
          if (!waiter?.abort) continue;
          waiter.abort();
          expected[waiter.at] = "aborted";
          waiting.splice(step.abort, 1);
        } else if ("leave" in step) {
          const waiter = waiting[step.leave];
          if (!waiter?.leave) continue;
          waiter.leave();
          expected[waiter.at] = end;
          waiting.splice(step.leave, 1);
        } else {
          const items = step.arrive.map((good) =>
            good ? `message ${count++}` : bad()
          );
          for (const item of items) {
            const waiter = waiting.shift();
            if (waiter) expected[waiter.at] = item;
            else there.push(item);
          }
          fixture.arrive(...items);
        }
      }
      inbox.end(() => end);
      for (const { at } of waiting) expected[at] = end;

      const got = await Promise.all(calls);
      const different = got.findIndex((outcome, at) =>
        outcome !== expected[at]
      );
      assertEquals(different, -1);
      const left = await outcomes(there.map(() => inbox.receive()));
      assert(left.every((outcome, i) => outcome === there[i]));
      const [last] = await outcomes([inbox.receive({ timeout: 0 })]);
      assertStrictEquals(last, end);
    }),
  );
});
