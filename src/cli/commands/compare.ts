/** `prune compare`: methods side by side. */
import { type ComparisonFlags, resolveComparison } from "../../index.js";
import { comparisonCsv, renderComparison } from "../../report/comparison.js";
import type { CommonFlags } from "../program.js";
import { openSession, ownFlags } from "../session.js";
import { surroundings } from "../surroundings.js";

export async function compareCommand(flags: Readonly<Record<string, unknown>>): Promise<void> {
  const { csv, ...own } = ownFlags(flags);
  const { config, notes } = await resolveComparison(own as ComparisonFlags, surroundings());
  const session = await openSession(flags as CommonFlags);
  session.say(notes);
  await session.print(
    await session.run("compare", config, { stoppable: true }),
    csv === true ? comparisonCsv : renderComparison,
  );
}
