/**
 * Qwen2-MoE: qwen2's attention, a mixture of experts beside an expert that all tokens share through a sigmoid gate,
 * and some dense layers.
 */
import type { Architecture } from "../architecture.js";
import type { ModelConfig } from "../config.js";
import { readSwitchedWindows, type HasTensor } from "../decoder-config.js";
import { describeGatedDecoder } from "../gated-decoder.js";
import { readMixture, readQwenRouter, readSparseLayers, type ShapeOf } from "../moe-config.js";
import { DECODER_EDIT } from "../family-edit.js";
import type { Family } from "../family.js";

function describe(config: ModelConfig, hasTensor: HasTensor, shapeOf: ShapeOf): Architecture {
  const { values } = config;
  const isSparse = readSparseLayers(values);
  return describeGatedDecoder("qwen2_moe", config, hasTensor, {
    hasInputBias: values.boolean("qkv_bias", true),
    windowOf: readSwitchedWindows(values),
    mlpOf(layer, dense) {
      if (!isSparse(layer)) return dense();
      const width = values.count("shared_expert_intermediate_size");
      return readMixture(values, `model.layers.${layer}`, shapeOf, {
        router: readQwenRouter(values),
        shared: { path: "mlp.shared_expert", width, gate: "mlp.shared_expert_gate" },
      });
    },
  });
}

export const QWEN2_MOE: Family = {
  name: "qwen2_moe",
  modelTypes: ["qwen2_moe"],
  exercises: [
    "mixture of experts, weights as the softmax gives them or renormalised",
    "shared expert with a sigmoid gate",
    "dense layers among sparse ones",
    "q/k/v bias",
  ],
  edit: { ...DECODER_EDIT, experts: ["num_experts", "num_local_experts"], mixtures: "mlp_only_layers" },
  describe,
};
