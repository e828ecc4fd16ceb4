/** `prune cut`: a part of a checkpoint by a plan. */
import { CUT_OPTIONS } from "../../options/cut-options.js";
import { flagsOf, type CommandSpec } from "../command.js";

export const cut: CommandSpec = {
  name: "cut",
  description: "write a smaller checkpoint by a plan: fewer blocks, experts or channels",
  examples: [
    "prune cut ./Llama-3.2-1B --plan plan.json --out ./Llama-14-blocks",
    "prune cut ./Llama-3.2-1B --plan ./Llama-14-blocks/plan.json --dry-run",
  ],
  operand: { name: "model", help: CUT_OPTIONS.model.help },
  flags: flagsOf(CUT_OPTIONS),
  async act(request, session) {
    const api = await import("../../index.js");
    const { renderCut } = await import("../../report/cut.js");
    const report = await session.stoppable((signal) => api.cut({ ...request, ...session.listening, signal }));
    return session.print(report, renderCut, report.out === null ? undefined : { result: report.out });
  },
};
