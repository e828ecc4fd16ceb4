/** dots.llm1: attention with normed heads, dense layers first, then mixtures with DeepSeek-V3's router. */
import type { Architecture } from "../architecture.js";
import type { ModelConfig } from "../config.js";
import { readWindows, type HasTensor } from "../decoder-config.js";
import { describeGatedDecoder, perHeadNorm, readRmsNorm } from "../gated-decoder.js";
import { readCorrectedMixtures, type ShapeOf } from "../moe-config.js";
import { DECODER_EDIT } from "../family-edit.js";
import type { Family } from "../family.js";

function describe(config: ModelConfig, hasTensor: HasTensor, shapeOf: ShapeOf): Architecture {
  const { values } = config;
  const firstLocal = values.number("max_window_layers");
  return describeGatedDecoder("dots1", config, hasTensor, {
    hasMlpBias: false,
    headNorm: perHeadNorm(readRmsNorm(values)),
    windowOf: readWindows(values, (layer) => layer >= firstLocal),
    mlpOf: readCorrectedMixtures(values, shapeOf),
  });
}

export const DOTS1: Family = {
  name: "dots1",
  modelTypes: ["dots1"],
  exercises: [
    "mixture of experts scored by sigmoid, with a correction in the choice alone",
    "shared experts",
    "dense layers first",
    "q/k norm per head",
    "sliding window on some layers",
  ],
  edit: {
    ...DECODER_EDIT,
    experts: ["n_routed_experts", "num_experts", "num_local_experts"],
    mixtures: "first_k_dense_replace",
  },
  describe,
};
