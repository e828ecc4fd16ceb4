/** `prune compare`: methods side by side. */
import { COMPARISON_OPTIONS } from "../../options/comparison-options.js";
import { LIMIT_OPTIONS } from "../../options/gate-options.js";
import { flagsOf, MODEL, type CommandSpec } from "../command.js";

export const compare: CommandSpec = {
  name: "compare",
  description: "several methods and targets side by side, by what is left of the model",
  examples: [
    "prune compare --methods magnitude,wanda,sparsegpt --sparsities 0.5,0.7",
    "prune compare --model ./Llama-3.2-1B --methods wanda,wanda+admm-update --calibration c4.jsonl.gz --text wiki.test.txt --csv",
    "prune compare --methods wanda --allocation uniform --allocation owl:M=3 --patterns unstructured --text wiki.test.txt",
  ],
  operand: MODEL,
  flags: [
    ...flagsOf(COMPARISON_OPTIONS, LIMIT_OPTIONS),
    { spelling: "--csv", help: "print the rows as CSV", group: "Output" },
  ],
  async act({ csv, ...request }, session) {
    const api = await import("../../index.js");
    const { comparisonCsv, renderComparison } = await import("../../report/comparison.js");
    const report = await session.stoppable((signal) => api.compare({ ...request, ...session.listening, signal }));
    await session.print(report, csv === true ? comparisonCsv : renderComparison, { keepIn: "compare-report.json" });
    api.expectRowsKept(report);
  },
};
