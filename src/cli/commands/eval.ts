/** `prune eval`: perplexity of a checkpoint, with its protocol. */
import { type EvaluationFlags, resolveEvaluationConfig, tokenRowLength } from "../../index.js";
import { renderEvaluation } from "../../report/render.js";
import type { CommonFlags } from "../program.js";
import { openSession, ownFlags } from "../session.js";

export async function evalCommand(model: string, flags: Readonly<Record<string, unknown>>): Promise<void> {
  const own = { ...ownFlags(flags), model } as EvaluationFlags;
  const { config, notes } = await resolveEvaluationConfig(own, { workingDirectory: process.cwd(), tokenRowLength });
  const session = await openSession(flags as CommonFlags);
  session.say(notes);
  await session.print(await session.run("evaluate", config, { stoppable: true }), renderEvaluation);
}
