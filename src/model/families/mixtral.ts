/** Mixtral: llama's attention, and in every layer a mixture of experts whose chosen weights are renormalised. */
import type { Architecture } from "../architecture.js";
import type { ModelConfig } from "../config.js";
import { readWindows, type HasTensor } from "../decoder-config.js";
import { describeGatedDecoder, readRmsNorm } from "../gated-decoder.js";
import { readNumberedMixture, type ShapeOf } from "../moe-config.js";
import { mixtureEdit } from "../family-edit.js";
import type { Family } from "../family.js";

function describe(config: ModelConfig, hasTensor: HasTensor, shapeOf: ShapeOf): Architecture {
  const { values } = config;
  const router = { chosen: values.count("num_experts_per_tok", 2), isRenormalized: true };
  return describeGatedDecoder("mixtral", config, hasTensor, {
    norm: readRmsNorm(values, 1e-5),
    windowOf: readWindows(values, () => true),
    mlpOf: (layer) => readNumberedMixture(values, `model.layers.${layer}`, shapeOf, router),
  });
}

export const MIXTRAL: Family = {
  name: "mixtral",
  modelTypes: ["mixtral"],
  exercises: ["mixture of experts, chosen weights renormalised", "experts stored one by one or stacked"],
  edit: mixtureEdit(["num_local_experts", "num_experts"]),
  describe,
};
