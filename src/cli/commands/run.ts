/** `prune run`: prune a checkpoint, or with --dry-run say what that would take. */
import type { GateRequest, Listening, RunRequest } from "../../index.js";
import { GATE_OPTIONS } from "../../options/gate-options.js";
import { RUN_OPTIONS } from "../../options/run-options.js";
import { flagsOf, MODEL, type CommandSpec } from "../command.js";

export const run: CommandSpec = {
  name: "run",
  description: "prune a checkpoint (the default command)",
  isDefault: true,
  examples: [
    "prune meta-llama/Llama-3.2-1B --method wanda --sparsity 0.7 --calibration c4.jsonl.gz --out ./Llama-0.7",
    "prune ./Llama-3.2-1B --method sparsegpt --pattern 2:4 --calibration ids.safetensors#calib",
    "prune --sparsity 70%                              the embedded demo model, nothing to download",
    "prune ./Llama-3.2-1B --recipe sparsegpt-2of4 --calibration c4.jsonl.gz --text wiki.test.txt --max-ppl-ratio 1.2",
  ],
  operand: MODEL,
  flags: [
    ...flagsOf(RUN_OPTIONS, GATE_OPTIONS),
    {
      spelling: "--dry-run",
      help: "say what would be done, and what it would cost, without doing it",
      group: "Running",
    },
  ],
  async act({ dryRun, ...request }, session) {
    const { expectLimitsKept, plan, prune } = await import("../../index.js");
    const { renderPlan, renderRun } = await import("../../report/render.js");
    const asked = <Report>(work: (options: RunRequest & GateRequest & Listening) => Promise<Report>): Promise<Report> =>
      session.stoppable((signal) => work({ ...request, ...session.listening, signal }));
    if (dryRun === true) return session.print(await asked(plan), renderPlan);
    const report = await asked(prune);
    await session.print(report, renderRun, { result: report.out });
    if (report.evaluation !== undefined) expectLimitsKept(report.evaluation);
  },
};
