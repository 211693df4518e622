// Why: the page of examples/dashboard.ts is worth nothing but in a browser.

import { assertEquals } from "@std/assert";
import { createTcpClient } from "../mod.ts";
import { chromium, Page } from "./_browser.ts";
import { Example } from "./_example.ts";
import { LOOPBACK, onWindows } from "./_machine.ts";

/** The rows of the page's table, newest first, without the time. */
const ROWS = `[...document.querySelectorAll("#log tr")].map((row) =>
  [...row.cells].slice(1).map((cell) => cell.textContent))`;
const CARDS = `[...document.querySelectorAll("#robots li")].map((card) =>
  [...card.children].map((line) => line.textContent))`;

Deno.test({
  name: "examples/dashboard.ts: a browser shows messages as they come",
  ignore: chromium === null || onWindows,
  async fn() {
    using example = new Example("dashboard.ts");
    const port = example.port(70001);
    await using process = example.start();
    assertEquals(await process.read(), `Robots: ${LOOPBACK},${port}`);
    const url = (await process.read()).match(/http:\S+(?=,)/)?.[0] ?? "";

    await using first = await createTcpClient(LOOPBACK, port);
    await first.send("before the page was open");
    await using page = await Page.open(url);
    const one = first.localAddress.join(":");
    await page.until(`${ROWS}.length === 2`);
    assertEquals(await page.evaluate(ROWS), [
      [one, "before the page was open"],
      [one, "connected"],
    ]);
    assertEquals(
      await page.evaluate("document.querySelector('#state').textContent"),
      "live",
    );

    const second = await createTcpClient(LOOPBACK, port);
    const two = second.localAddress.join(":");
    const tag = "<img src=x onerror='document.title = 1'>";
    await second.send("抓取 7 🤖");
    await second.send(tag);
    await page.until(`${ROWS}.length === 5`);
    assertEquals(await page.evaluate(ROWS), [
      [two, tag],
      [two, "抓取 7 🤖"],
      [two, "connected"],
      [one, "before the page was open"],
      [one, "connected"],
    ]);
    assertEquals(await page.evaluate(CARDS), [
      [one, "1 × · before the page was open"],
      [two, `2 × · ${tag}`],
    ]);
    assertEquals(await page.evaluate("document.querySelector('img')"), null);

    await second.disconnect();
    await page.until(`${CARDS}.length === 1`);
    const rows = await page.evaluate(ROWS) as string[][];
    assertEquals(rows[0], [two, "disconnected"]);
    assertEquals(page.complaints, []);

    process.interrupt();
    assertEquals((await process.ended()).code, 0);
    await page.until(
      "document.querySelector('#state').textContent.startsWith('disconnected')",
    );
    await using _again = example.start();
    await page.until("document.querySelector('#state').textContent === 'live'");
    assertEquals(await page.evaluate(`[${ROWS}, ${CARDS}]`), [[], []]);
  },
});
