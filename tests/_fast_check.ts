// Why: `fast-check` by its name, but not from npm in deno.json: `deno task`
// fetches what is named there before any task, and `demo` must need no registry.

// deno-lint-ignore no-import-prefix -- see above
export { default } from "npm:fast-check@4.10.2";
