/** `prune verify`: whether a checkpoint has the tensors that its config.json says, and keeps zeros that it should have. */
import { EVALUATION_OPTIONS } from "../../options/evaluation-options.js";
import { VERIFICATION_OPTIONS } from "../../options/mask-options.js";
import { flagsOf, type CommandSpec } from "../command.js";

export const verify: CommandSpec = {
  name: "verify",
  description: "check a checkpoint's tensors against config.json, or zeros it should keep",
  examples: [
    "prune verify ./Llama-14-blocks",
    "prune verify ./Llama-tuned --mask mask.safetensors",
    "prune verify ./Llama-2of4 --pattern 2:4",
    "prune verify ./Llama-tuned --against ./Llama-0.7",
  ],
  operand: { name: "model", help: EVALUATION_OPTIONS.model.help },
  flags: flagsOf(VERIFICATION_OPTIONS),
  async act(request, session) {
    const api = await import("../../index.js");
    const { expectZerosKept } = api;
    const { mask, pattern, against, ...checked } = request;
    if (mask === undefined && pattern === undefined && against === undefined) {
      const { renderVerification } = await import("../../report/cut.js");
      return session.print(await api.verify({ ...checked, ...session.listening }), renderVerification);
    }
    const { renderZeroChecks } = await import("../../report/render.js");
    const report = await api.verifyZeros({ ...request, ...session.listening });
    await session.print(report, renderZeroChecks);
    expectZerosKept(report);
  },
};
