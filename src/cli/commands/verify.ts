/** `prune verify`: whether a checkpoint keeps zeros that it should have. */
import { EVALUATION_OPTIONS } from "../../options/evaluation-options.js";
import { VERIFICATION_OPTIONS } from "../../options/mask-options.js";
import { flagsOf, type CommandSpec } from "../command.js";

export const verify: CommandSpec = {
  name: "verify",
  description: "check that a checkpoint keeps zeros, whoever made it since: after fine-tuning, quantising, conversion",
  examples: [
    "prune verify ./Llama-tuned --mask mask.safetensors",
    "prune verify ./Llama-2of4 --pattern 2:4",
    "prune verify ./Llama-tuned --against ./Llama-0.7",
  ],
  operand: { name: "model", help: EVALUATION_OPTIONS.model.help },
  flags: flagsOf(VERIFICATION_OPTIONS),
  async act(request, session) {
    const api = await import("../../index.js");
    const { renderZeroChecks } = await import("../../report/render.js");
    const { expectZerosKept } = api;
    const report = await api.verifyZeros({ ...request, ...session.listening });
    await session.print(report, renderZeroChecks);
    expectZerosKept(report);
  },
};
