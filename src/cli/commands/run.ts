/** `prune run`: prune a checkpoint, or with --dry-run say what that would take. */
import { availableMemory } from "../memory.js";
import { demoModelDirectory } from "../package.js";
import { resolveRunConfig, type RunFlags, tokenRowLength } from "../../index.js";
import { renderPlan, renderRun } from "../../report/render.js";
import type { CommonFlags } from "../program.js";
import { openSession, ownFlags } from "../session.js";

export async function runCommand(flags: Readonly<Record<string, unknown>>): Promise<void> {
  const { dryRun, ...own } = ownFlags(flags);
  const { config, notes } = await resolveRunConfig(own as RunFlags, dryRun === true, {
    workingDirectory: process.cwd(),
    demoModel: demoModelDirectory(),
    freeMemoryBytes: availableMemory(),
    tokenRowLength,
  });
  const session = await openSession(flags as CommonFlags);
  session.say(notes);
  if (dryRun === true) {
    await session.print(await session.run("plan", config, { stoppable: false }), renderPlan);
  } else {
    await session.print(await session.run("prune", config, { stoppable: true }), renderRun);
  }
}
