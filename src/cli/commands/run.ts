/** `prune run`: prune a checkpoint, or with --dry-run say what that would take. */
import { RUN_OPTIONS } from "../../options/run-options.js";
import { flagsOf, MODEL, type CommandSpec } from "../command.js";

export const run: CommandSpec = {
  name: "run",
  description: "prune a checkpoint (the default command)",
  isDefault: true,
  examples: [
    "prune --model ./Llama-3.2-1B --method wanda --sparsity 0.7 --calibration c4.jsonl.gz --out ./Llama-0.7",
    "prune --model ./Llama-3.2-1B --method sparsegpt --pattern 2:4 --calibration ids.safetensors#calib",
    "prune --sparsity 70%                              the embedded demo model, nothing to download",
    "prune eval ./Llama-0.7 --text wiki.test.txt --seqlen 2048",
  ],
  operand: MODEL,
  flags: [
    ...flagsOf(RUN_OPTIONS),
    {
      spelling: "--dry-run",
      help: "say what would be done, and what it would cost, without doing it",
      group: "Running",
    },
  ],
  async act({ dryRun, ...request }, session) {
    const { plan, prune } = await import("../../index.js");
    const { renderPlan, renderRun } = await import("../../report/render.js");
    if (dryRun === true) return session.print(await plan({ ...request, ...session.listening }), renderPlan);
    const report = await session.stoppable((signal) => prune({ ...request, ...session.listening, signal }));
    return session.print(report, renderRun, { result: report.out });
  },
};
