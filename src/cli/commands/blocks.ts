/** `prune blocks`: write a model without the blocks that are missed least. */
import { BLOCK_OPTIONS } from "../../options/cut-options.js";
import { flagsOf, type CommandSpec } from "../command.js";

export const blocks: CommandSpec = {
  name: "blocks",
  description: "write a model without the blocks that are missed least",
  examples: [
    "prune blocks ./Llama-3.2-1B --drop 2 --calibration c4.jsonl.gz --out ./Llama-14-blocks",
    "prune blocks ./Llama-3.2-1B --ratio 0.125 --criterion influence --calibration notes.txt --dry-run",
  ],
  operand: { name: "model", help: BLOCK_OPTIONS.model.help },
  flags: flagsOf(BLOCK_OPTIONS),
  async act(request, session) {
    const api = await import("../../index.js");
    const { renderStructure } = await import("../../report/cut.js");
    const report = await session.stoppable((signal) => api.dropBlocks({ ...request, ...session.listening, signal }));
    return session.print(report, renderStructure, report.out === null ? undefined : { result: report.out });
  },
};
