/** `prune inspect`: zeros and N:M patterns of a checkpoint. */
import { EVALUATION_OPTIONS } from "../../options/evaluation-options.js";
import { flagsOf, type CommandSpec } from "../command.js";

export const inspect: CommandSpec = {
  name: "inspect",
  description: "zeros per tensor and in total, and which N:M patterns hold",
  examples: ["prune inspect ./Llama-0.7", "prune inspect ./Llama-0.7 --json | jq .sparsity"],
  operand: { name: "model", help: EVALUATION_OPTIONS.model.help },
  flags: flagsOf({ family: EVALUATION_OPTIONS.family }),
  async act({ model, family }, session) {
    const api = await import("../../index.js");
    const { renderInspection } = await import("../../report/render.js");
    const request = { model: model as string, family: family as string | undefined };
    return session.print(await api.inspect({ ...request, ...session.listening }), renderInspection);
  },
};
