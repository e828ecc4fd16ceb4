/** `prune inspect`: zeros and N:M patterns of a checkpoint. */
import { INSPECTION_OPTIONS } from "../../options/evaluation-options.js";
import type { InspectionRequest, Listening } from "../../index.js";
import { flagsOf, MODEL, type CommandSpec } from "../command.js";

export const inspect: CommandSpec = {
  name: "inspect",
  description: "zeros per tensor and in total, and which N:M patterns hold",
  examples: [
    "prune inspect ./Llama-0.7",
    "prune inspect ./Llama-0.7 --json | jq .sparsity",
    "prune inspect ./Mistral-7B --config",
  ],
  operand: MODEL,
  flags: flagsOf(INSPECTION_OPTIONS),
  async act({ config, ...request }, session) {
    const api = await import("../../index.js");
    const { renderConfig, renderInspection } = await import("../../report/render.js");
    const report = <Report>(work: (asked: InspectionRequest & Listening) => Promise<Report>): Promise<Report> =>
      session.stoppable((signal) => work({ ...request, ...session.listening, signal }));
    if (config === true) return session.print(await report(api.inspectConfig), renderConfig);
    return session.print(await report(api.inspect), renderInspection);
  },
};
