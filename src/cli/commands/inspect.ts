/** `prune inspect`: zeros and N:M patterns of a checkpoint. */
import { resolve } from "node:path";
import { checkModelDirectory } from "../../index.js";
import { renderInspection } from "../../report/render.js";
import type { CommonFlags } from "../program.js";
import { openSession } from "../session.js";

export async function inspectCommand(model: string, flags: CommonFlags & { readonly family?: string }): Promise<void> {
  const directory = resolve(model);
  const problem = checkModelDirectory(directory);
  if (problem !== undefined) throw problem;
  const config = { directory, ...(flags.family === undefined ? {} : { family: flags.family }) };
  const session = await openSession(flags);
  await session.print(await session.run("inspect", config, { stoppable: false }), renderInspection);
}
