/** `prune inspect`: zeros and N:M patterns of a checkpoint. */
import { EVALUATION_OPTIONS, INSPECTION_OPTIONS } from "../../options/evaluation-options.js";
import { flagsOf, type CommandSpec } from "../command.js";

export const inspect: CommandSpec = {
  name: "inspect",
  description: "zeros per tensor and in total, and which N:M patterns hold",
  examples: [
    "prune inspect ./Llama-0.7",
    "prune inspect ./Llama-0.7 --json | jq .sparsity",
    "prune inspect ./Mistral-7B --config",
  ],
  operand: { name: "model", help: EVALUATION_OPTIONS.model.help },
  flags: flagsOf(INSPECTION_OPTIONS),
  async act({ model, family, config }, session) {
    const api = await import("../../index.js");
    const { renderConfig, renderInspection } = await import("../../report/render.js");
    const request = { model: model as string, family: family as string | undefined, ...session.listening };
    if (config === true) return session.print(await api.inspectConfig(request), renderConfig);
    return session.print(await api.inspect(request), renderInspection);
  },
};
