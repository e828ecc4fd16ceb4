/** `prune inspect`: zeros and N:M patterns of a checkpoint. */
import { resolve } from "node:path";
import { checkModelDirectory } from "../../index.js";
import { renderInspection } from "../../report/render.js";
import type { CommonFlags } from "../program.js";
import { openSession } from "../session.js";

export async function inspectCommand(model: string, flags: CommonFlags): Promise<void> {
  const directory = resolve(model);
  const problem = checkModelDirectory(directory);
  if (problem !== undefined) throw problem;
  const session = await openSession(flags);
  await session.print(await session.run("inspect", { directory }, { stoppable: false }), renderInspection);
}
