// Why: a server without a descriptor left cannot accept, and must not end of it.

import {
  assert,
  assertEquals,
  assertGreater,
  assertLessOrEqual,
} from "@std/assert";
import {
  createTcpClient,
  type TCPClient,
  type TCPServerOptions,
} from "../../mod.ts";
import { freePort } from "../_ports.ts";
import { Process } from "../_process.ts";
import { caCerts, certificate } from "../_secured.ts";
import {
  ask,
  figure,
  HERE,
  LOOPBACK,
  onLinux,
  Peer,
  Queue,
  Served,
  test,
} from "../_served.ts";

const TOO_MANY = "Too many open files";

/** A server with few descriptors, in a process of its own. */
function runShort(port: number, options: TCPServerOptions): Process {
  return new Process("bash", [
    "-c",
    'ulimit -n 48 && exec "$0" eval "$1"',
    Deno.execPath(),
    // Deno opens what it watches signals with at the first need, and panics without.
    `import { createTcpServer } from "./mod.ts";
    Deno.addSignalListener("SIGUSR2", () => {});
    const server = createTcpServer(${port}, (message) => {
      if (message === "stop") server.stop();
      else return message;
    }, {
      ...${JSON.stringify({ ...HERE, ...options })},
      onError: (error) => console.log("onError", error.message),
    });
    console.log("ready");`,
  ]);
}

/** What a server in that process answers, or how the process has ended instead. */
async function askChild(child: Process, client: TCPClient): Promise<void> {
  const error = await ask(client, "Hello").then((reply) => {
    assertEquals(reply, "Hello");
  }, (error: unknown) => error);
  if (error === undefined) return;
  const { code, stderr } = await child.ended();
  throw new Error(`It has ended with ${code}: ${stderr}`, { cause: error });
}

// Promise 5: out of descriptors during accept, then back. That plain TCP serves again
// holds "TCPServer outlives running out of file descriptors and serves again" in
// tests/tcp_server_test.ts, too; here for those who are connected meanwhile.
for (const secured of [false, true]) {
  test(
    `TCPServer ${
      secured ? "with" : "without"
    } tls serves who is connected while it is out of descriptors, and others after`,
    async () => {
      using port = freePort();
      await using child = runShort(
        port.port,
        secured ? { tls: certificate } : {},
      );
      assertEquals(await child.read(), "ready");
      const options = secured ? { tls: { caCerts } } : {};
      const connect = () => createTcpClient(LOOPBACK, port.port, options);
      await using early = await connect();
      for (let n = 0; n < 3; n++) {
        {
          using peers = new DisposableStack();
          for (let n = 0; n < 80; n++) {
            const conn = await Deno.connect({ ...HERE, port: port.wire });
            peers.use(new Peer(conn));
          }
          // With tls the peers of before are reported too.
          while (!(await child.read()).includes(TOO_MANY));
          await askChild(child, early);
        }
        const start = performance.now();
        await using late = await connect();
        await askChild(child, late);
        const took = Math.round(performance.now() - start);
        figure(`serving again after ${took} ms`);
      }
      await early.send("stop");
      const { code, stderr } = await child.ended();
      assertEquals([code, stderr], [0, ""]);
    },
    { ignore: !onLinux },
  );
}

// Promise 5: serving again within a second: no pause is longer than half of one,
// however long it lasts. By what is asked of the timers, since no clock is exact.
test("TCPServer waits at most half a second before it accepts again", async () => {
  const failing = Promise.withResolvers<void>();
  const pauses = new Queue<number>();
  let left = 12;
  const { listen } = Deno;
  const { setTimeout } = globalThis;
  using stack = new DisposableStack();
  stack.defer(() => {
    Reflect.set(Deno, "listen", listen);
    Reflect.set(globalThis, "setTimeout", setTimeout);
  });
  Reflect.set(Deno, "listen", (options: Deno.TcpListenOptions) => {
    const listener = listen(options);
    const accept = listener.accept.bind(listener);
    listener.accept = () => {
      if (left-- > 0) return Promise.reject(new Error(TOO_MANY));
      failing.resolve();
      return accept();
    };
    return listener;
  });
  const served = new Served((message) => message);
  // From here until it accepts, its pauses are the only timers.
  Reflect.set(
    globalThis,
    "setTimeout",
    (callback: () => void, ms: number) => {
      pauses.put(ms);
      return setTimeout(callback, 0);
    },
  );
  await failing.promise;
  Reflect.set(globalThis, "setTimeout", setTimeout);
  await using _served = served;
  assertEquals(pauses.all.length, 12);
  assertGreater(Math.min(...pauses.all), 0, "it does not spin");
  assertLessOrEqual(Math.max(...pauses.all), 500);
  assertGreater(pauses.all.at(-1) ?? 0, pauses.all[0] ?? 0);
  await using client = await served.client();
  assertEquals(await ask(client, "Hello"), "Hello");
  assert(served.errors.rest().length === 12);
});
