// Why: `deno task soak [--seconds=600]`: what shows only after a while, or in one
// case of many. Here only so that it gets its `@std` as the tests do.

import { deno } from "../tools/_deno.ts";
import { stdFlags } from "../tools/_std.ts";

const { code } = await deno([
  ...["run", "--allow-all", "--no-prompt", ...await stdFlags()],
  ...["tests/_soak.ts", ...Deno.args],
]).output();
Deno.exitCode = code;
