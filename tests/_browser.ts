// Why: a page must be seen as a browser shows it. Chromium is driven by its own
// protocol over a WebSocket, which takes no package.

import { deadline } from "@std/async";
import { isInstalled, PATIENCE } from "./_process.ts";

const PROGRAMS = ["chromium", "chromium-browser", "google-chrome"];

/** The Chromium of this machine, or null. */
export const chromium: string | null =
  PROGRAMS.find((program) => isInstalled(program, "--version")) ?? null;

const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--disable-dev-shm-usage",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--hide-scrollbars",
  "--window-size=1000,800",
  "--remote-debugging-port=0",
];

interface Answer {
  id?: number;
  method?: string;
  error?: { message: string };
  result?: unknown;
}

/** One page of a Chromium of its own. */
export class Page implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #folder: string;
  readonly #answers = new Map<number, (answer: Answer) => void>();
  /** What the page and its script complained about. */
  readonly complaints: string[] = [];
  #socket: WebSocket | undefined;
  #session: string | undefined;
  #stderr: Promise<void> = Promise.resolve();
  #id = 0;

  private constructor(child: Deno.ChildProcess, folder: string) {
    this.#child = child;
    this.#folder = folder;
  }

  static async open(url: string, flags: string[] = []): Promise<Page> {
    const folder = await Deno.makeTempDir({ prefix: "daystar-chromium-" });
    const child = new Deno.Command(chromium ?? "chromium", {
      args: [...FLAGS, ...flags, `--user-data-dir=${folder}`, "about:blank"],
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    const page = new Page(child, folder);
    try {
      await deadline(page.#start(url), PATIENCE);
    } catch (error) {
      await page[Symbol.asyncDispose]();
      throw error;
    }
    return page;
  }

  async #start(url: string): Promise<void> {
    const socket = new WebSocket(await this.#devtools());
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#take(JSON.parse(data) as Answer);
    await new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onerror = reject;
    });
    const { targetInfos } = await this.#call<
      { targetInfos: { type: string; targetId: string }[] }
    >("Target.getTargets");
    const page = targetInfos.find(({ type }) => type === "page");
    const { sessionId } = await this.#call<{ sessionId: string }>(
      "Target.attachToTarget",
      { targetId: page?.targetId, flatten: true },
    );
    this.#session = sessionId;
    await this.#call("Runtime.enable");
    await this.#call("Log.enable");
    await this.#call("Page.navigate", { url });
  }

  /** The address that Chromium prints, once it listens. */
  async #devtools(): Promise<string> {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    const read = async () => {
      let text = "";
      const stderr = this.#child.stderr.pipeThrough(new TextDecoderStream());
      for await (const part of stderr) {
        text = (text + part).slice(-10_000);
        const [, url] = text.match(/DevTools listening on (ws:\S+)\s/) ?? [];
        if (url) resolve(url);
      }
      reject(new Error(`Chromium has ended: ${text}`));
    };
    this.#stderr = read();
    return await promise;
  }

  #take(answer: Answer): void {
    const { id, method } = answer;
    if (id !== undefined) this.#answers.get(id)?.(answer);
    const complains = method === "Runtime.exceptionThrown" ||
      method === "Log.entryAdded";
    if (complains) this.complaints.push(JSON.stringify(answer));
  }

  /** Calls a method; what each one answers is in Chromium's documentation. */
  async #call<Result>(
    method: string,
    params: Record<string, unknown> = {},
  ): Promise<Result> {
    const id = ++this.#id;
    const { promise, resolve } = Promise.withResolvers<Answer>();
    this.#answers.set(id, resolve);
    const sessionId = this.#session;
    this.#socket?.send(JSON.stringify({ id, method, params, sessionId }));
    const { error, result } = await deadline(promise, PATIENCE);
    this.#answers.delete(id);
    if (error) throw new Error(`${method}: ${error.message}`);
    return result as Result;
  }

  /** The value of an expression, once the page has loaded as far as it needs. */
  async evaluate(expression: string): Promise<unknown> {
    const { result, exceptionDetails } = await this.#call<
      { result: { value?: unknown }; exceptionDetails?: unknown }
    >("Runtime.evaluate", {
      expression,
      awaitPromise: true,
      returnByValue: true,
    });
    if (exceptionDetails) throw new Error(JSON.stringify(exceptionDetails));
    return result.value;
  }

  /** Waits until an expression is true: looks again at every frame. */
  async until(expression: string): Promise<void> {
    await deadline(this.#until(expression), PATIENCE).catch(async (cause) => {
      const text = await this.evaluate("document.body?.innerText");
      throw new Error(`Never true: ${expression}, of: ${text}`, { cause });
    });
  }

  async #until(expression: string): Promise<void> {
    while (
      !await this.evaluate(
        `new Promise((done) => setTimeout(() => done(!!(${expression})), 20))`,
      )
    );
  }

  async screenshot(path: string): Promise<void> {
    const { data } = await this.#call<{ data: string }>(
      "Page.captureScreenshot",
    );
    const bytes = Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
    await Deno.writeFile(path, bytes);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { promise: closed, resolve } = Promise.withResolvers<void>();
    if (this.#socket && this.#socket.readyState !== WebSocket.CLOSED) {
      this.#socket.onclose = () => resolve();
      this.#socket.close();
    } else {
      resolve();
    }
    try {
      this.#child.kill("SIGKILL");
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // it has ended
    }
    await this.#child.status;
    await this.#stderr;
    await closed;
    await remove(this.#folder);
  }
}

/** Chromium's other processes may still be writing when the first one has ended. */
async function remove(folder: string): Promise<void> {
  for (let tries = 20;; tries--) {
    try {
      return await Deno.remove(folder, { recursive: true });
    } catch (error) {
      if (tries === 0) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}
