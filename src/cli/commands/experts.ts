/** `prune experts`: write a mixture of experts without those that are missed least. */
import { EXPERT_OPTIONS } from "../../options/cut-options.js";
import { flagsOf, type CommandSpec } from "../command.js";

export const experts: CommandSpec = {
  name: "experts",
  description: "write a mixture of experts without those that are missed least",
  examples: [
    "prune experts ./Qwen3-30B-A3B --keep 96 --calibration code.jsonl --out ./Qwen3-96-experts",
    "prune experts ./Qwen3-30B-A3B --ratio 25% --calibration code.jsonl --dry-run --json",
  ],
  operand: { name: "model", help: EXPERT_OPTIONS.model.help },
  flags: flagsOf(EXPERT_OPTIONS),
  async act(request, session) {
    const api = await import("../../index.js");
    const { renderStructure } = await import("../../report/cut.js");
    const report = await session.stoppable((signal) => api.keepExperts({ ...request, ...session.listening, signal }));
    return session.print(report, renderStructure, report.out === null ? undefined : { result: report.out });
  },
};
