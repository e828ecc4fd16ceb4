/** Qwen3-MoE: qwen3's attention with its norms per head, a mixture of experts, and some dense layers. */
import type { Architecture } from "../architecture.js";
import type { ModelConfig } from "../config.js";
import { readWindows, type HasTensor } from "../decoder-config.js";
import { describeGatedDecoder, perHeadNorm, readRmsNorm } from "../gated-decoder.js";
import { readMixture, readQwenRouter, readSparseLayers, type ShapeOf } from "../moe-config.js";
import { DECODER_EDIT } from "../family-edit.js";
import type { Family } from "../family.js";

function describe(config: ModelConfig, hasTensor: HasTensor, shapeOf: ShapeOf): Architecture {
  const { values } = config;
  const isSparse = readSparseLayers(values);
  const hasBias = values.boolean("attention_bias", false);
  const isWindowed = values.boolean("use_sliding_window", false);
  return describeGatedDecoder("qwen3_moe", config, hasTensor, {
    hasInputBias: hasBias,
    hasOutputBias: hasBias,
    headNorm: perHeadNorm(readRmsNorm(values)),
    windowOf: isWindowed ? readWindows(values, () => true, 4096) : () => undefined,
    mlpOf: (layer, dense) =>
      isSparse(layer)
        ? readMixture(values, `model.layers.${layer}`, shapeOf, { router: readQwenRouter(values) })
        : dense(),
  });
}

export const QWEN3_MOE: Family = {
  name: "qwen3_moe",
  modelTypes: ["qwen3_moe"],
  exercises: [
    "mixture of experts, weights renormalised or as the softmax gives them",
    "experts stored one by one or stacked",
    "dense layers among sparse ones",
    "q/k norm per head",
  ],
  edit: { ...DECODER_EDIT, experts: ["num_experts", "num_local_experts"], mixtures: "mlp_only_layers" },
  describe,
};
