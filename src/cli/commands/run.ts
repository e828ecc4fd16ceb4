/** `prune run`: prune a checkpoint, or with --dry-run say what that would take. */
import { resolveRunConfig, type RunFlags } from "../../index.js";
import { renderPlan, renderRun } from "../../report/render.js";
import type { CommonFlags } from "../program.js";
import { openSession, ownFlags } from "../session.js";
import { surroundings } from "../surroundings.js";

export async function runCommand(flags: Readonly<Record<string, unknown>>): Promise<void> {
  const { dryRun, ...own } = ownFlags(flags);
  const { config, notes } = await resolveRunConfig(own as RunFlags, dryRun === true, surroundings());
  const session = await openSession(flags as CommonFlags);
  session.say(notes);
  if (dryRun === true) {
    await session.print(await session.run("plan", config, { stoppable: false }), renderPlan);
  } else {
    await session.print(await session.run("prune", config, { stoppable: true }), renderRun);
  }
}
