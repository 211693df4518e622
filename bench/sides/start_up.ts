// Why: a script that imports the module, listens and ends, to time its start.

import { createTcpServer } from "../../mod.ts";

await createTcpServer(Number(Deno.args[0]), undefined, {
  hostname: "127.0.0.1",
}).stop();
