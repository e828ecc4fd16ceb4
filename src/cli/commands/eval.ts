/** `prune eval`: perplexity of a checkpoint, with its protocol. */
import { EVALUATION_OPTIONS } from "../../options/evaluation-options.js";
import { flagsOf, MODEL, type CommandSpec } from "../command.js";

export const evaluate: CommandSpec = {
  name: "eval",
  description: "perplexity of a checkpoint",
  examples: [
    "prune eval ./Llama-0.7 --text wiki.test.txt --seqlen 2048",
    "prune eval ./Llama-0.7 --text ids.safetensors#test --json",
    "prune eval ./Llama-0.7 --text wiki.test.txt --reference ./Llama --max-ppl-ratio 1.05",
  ],
  operand: MODEL,
  flags: flagsOf(EVALUATION_OPTIONS),
  async act(request, session) {
    const api = await import("../../index.js");
    const { renderEvaluation } = await import("../../report/render.js");
    const { expectLimitsKept } = api;
    const report = await session.stoppable((signal) => api.evaluate({ ...request, ...session.listening, signal }));
    await session.print(report, renderEvaluation, { keepIn: "eval-report.json" });
    expectLimitsKept(report);
  },
};
