/** `prune width`: write a model whose MLPs have fewer channels, refitted to do what all did. */
import { WIDTH_OPTIONS } from "../../options/cut-options.js";
import { flagsOf, type CommandSpec } from "../command.js";

export const width: CommandSpec = {
  name: "width",
  description: "write a model whose MLPs have fewer channels, refitted to do what all did",
  examples: [
    "prune width ./Llama-3.2-1B --ratio 0.1 --calibration c4.jsonl.gz --out ./Llama-narrow",
    "prune width ./Llama-3.2-1B --ratio 0.2 --multiple 64 --calibration c4.jsonl.gz --dry-run",
  ],
  operand: { name: "model", help: WIDTH_OPTIONS.model.help },
  flags: flagsOf(WIDTH_OPTIONS),
  async act(request, session) {
    const api = await import("../../index.js");
    const { renderStructure } = await import("../../report/cut.js");
    const report = await session.stoppable((signal) => api.narrow({ ...request, ...session.listening, signal }));
    return session.print(report, renderStructure, report.out === null ? undefined : { result: report.out });
  },
};
