/** `prune generate-calibration`: text sampled from a model, to calibrate with. */
import { GENERATION_OPTIONS } from "../../options/generation-options.js";
import { flagsOf, MODEL, type CommandSpec } from "../command.js";

export const generateCalibration: CommandSpec = {
  name: "generate-calibration",
  description: "calibration data sampled from the model itself",
  examples: [
    "prune generate-calibration ./Llama-3.2-1B --out generated.safetensors",
    "prune generate-calibration ./Llama-3.2-1B --nsamples 64 --seqlen 512 --out generated.jsonl",
    "prune generate-calibration ./Llama-3.2-1B --prompts openings.txt --temperature 0.8 --out generated.txt",
    "prune --model ./Llama-3.2-1B --sparsity 0.6 --calibration generated.safetensors",
  ],
  operand: MODEL,
  flags: flagsOf(GENERATION_OPTIONS),
  async act(request, session) {
    const api = await import("../../index.js");
    const { renderGeneration } = await import("../../report/render.js");
    const report = await session.stoppable((signal) =>
      api.generateCalibration({ ...request, ...session.listening, signal }),
    );
    return session.print(report, renderGeneration, { result: report.out });
  },
};
