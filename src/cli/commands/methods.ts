/** `prune methods`: what `--method` and `--then` take. */
import { describeMethods, renderMethods } from "../../report/methods.js";
import type { CommonFlags } from "../program.js";
import { openSession } from "../session.js";

export async function methodsCommand(flags: CommonFlags): Promise<void> {
  const session = await openSession(flags);
  await session.print(describeMethods(), renderMethods);
}
