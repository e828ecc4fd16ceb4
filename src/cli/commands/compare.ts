/** `prune compare`: methods side by side. */
import { type ComparisonFlags, resolveComparison, tokenRowLength } from "../../index.js";
import { comparisonCsv, renderComparison } from "../../report/comparison.js";
import { availableMemory } from "../memory.js";
import { demoModelDirectory } from "../package.js";
import type { CommonFlags } from "../program.js";
import { openSession, ownFlags } from "../session.js";

export async function compareCommand(flags: Readonly<Record<string, unknown>>): Promise<void> {
  const { csv, ...own } = ownFlags(flags);
  const { config, notes } = await resolveComparison(own as ComparisonFlags, {
    workingDirectory: process.cwd(),
    demoModel: demoModelDirectory(),
    freeMemoryBytes: availableMemory(),
    tokenRowLength,
  });
  const session = await openSession(flags as CommonFlags);
  session.say(notes);
  await session.print(
    await session.run("compare", config, { stoppable: true }),
    csv === true ? comparisonCsv : renderComparison,
  );
}
