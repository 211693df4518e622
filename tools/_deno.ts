// Why: every tool runs this same Deno, which need not be on PATH (npx), on the
// files that deno.json names.

/** The repository. */
export const ROOT: URL = new URL("../", import.meta.url);

interface Config {
  exports: Record<string, string>;
  imports: Record<string, string>;
  publish: { include: string[] };
}

/** What deno.json says. */
export const config = JSON.parse(
  Deno.readTextFileSync(new URL("deno.json", ROOT)),
) as Config;

/** The entry points that users import. */
export const entryPoints: string[] = Object.values(config.exports);

/** Every module that is published: `publish.include` has a pattern for each folder. */
export const modules: string[] = config.publish.include
  .filter((pattern) => pattern.endsWith("*.ts"))
  .map((pattern) => pattern.slice(0, -"*.ts".length))
  .flatMap((folder) =>
    [...Deno.readDirSync(new URL(`./${folder}`, ROOT))]
      .map(({ name }) => folder + name)
      .filter((path) => path.endsWith(".ts"))
  )
  .sort();

/** A Deno process in the repository, without input or prompts. */
export function deno(
  args: string[],
  options: Pick<Deno.CommandOptions, "stdout" | "stderr"> = {},
): Deno.Command {
  return new Deno.Command(Deno.execPath(), {
    args,
    cwd: ROOT,
    env: { DENO_NO_PROMPT: "1", DENO_NO_UPDATE_CHECK: "1" },
    stdin: "null",
    stdout: "inherit",
    stderr: "inherit",
    ...options,
  });
}

export function exists(path: string): boolean {
  try {
    Deno.statSync(new URL(path, ROOT));
    return true;
  } catch {
    return false;
  }
}
