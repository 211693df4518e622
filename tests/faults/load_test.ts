// Why: a line PC runs for months, with clients that come and go all the time.

import { load } from "./_load.ts";
import { onLinux } from "../_served.ts";

Deno.test({
  name:
    "TCPServer and TCPClient leave no descriptor, timer or memory after 1,000 connections at once and 1,000 one after the other",
  ignore: !onLinux,
  async fn() {
    for (
      const figure of await load({
        connections: 1_000,
        rate: 1_000,
        seconds: 1,
      })
    ) {
      console.log(figure);
    }
  },
});
