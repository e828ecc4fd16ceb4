/** `prune verify`: whether a checkpoint has the tensors that its config.json says. */
import { EVALUATION_OPTIONS } from "../../options/evaluation-options.js";
import { flagsOf, type CommandSpec } from "../command.js";

export const verify: CommandSpec = {
  name: "verify",
  description:
    "check a checkpoint's tensors against its config.json: none missing, none too many, none of another shape",
  examples: ["prune verify ./Llama-14-blocks", "prune verify ./Mixtral-6-experts --json"],
  operand: { name: "model", help: EVALUATION_OPTIONS.model.help },
  flags: flagsOf({ family: EVALUATION_OPTIONS.family }),
  async act({ model, family }, session) {
    const api = await import("../../index.js");
    const { renderVerification } = await import("../../report/cut.js");
    const request = { model: model as string, family: family as string | undefined, ...session.listening };
    return session.print(await api.verify(request), renderVerification);
  },
};
