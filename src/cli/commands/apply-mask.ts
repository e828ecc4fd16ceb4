/** `prune apply-mask`: the zeros of a saved mask in another checkpoint. */
import { MASK_OPTIONS } from "../../options/mask-options.js";
import { flagsOf, type CommandSpec } from "../command.js";

export const applyMask: CommandSpec = {
  name: "apply-mask",
  description: "put the zeros of a saved mask into a checkpoint, fine-tuned perhaps",
  examples: ["prune apply-mask ./Llama-tuned --mask mask.safetensors --out ./Llama-sparse"],
  operand: { name: "model", help: MASK_OPTIONS.model.help },
  flags: flagsOf(MASK_OPTIONS),
  async act(request, session) {
    const api = await import("../../index.js");
    const { renderMask } = await import("../../report/render.js");
    const report = await session.stoppable((signal) => api.applyMask({ ...request, ...session.listening, signal }));
    return session.print(report, renderMask, { result: report.out });
  },
};
