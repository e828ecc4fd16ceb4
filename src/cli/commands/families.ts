/** `prune families`: what is supported, what each family exercises, and what of it is pruned. */
import { describeFamilies, renderFamilies } from "../../report/families.js";
import type { CommonFlags } from "../program.js";
import { openSession } from "../session.js";

export async function familiesCommand(flags: CommonFlags): Promise<void> {
  const session = await openSession(flags);
  await session.print(describeFamilies(), renderFamilies);
}
