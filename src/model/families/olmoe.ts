/** OLMoE and FlexOlmo: OLMo's attention with mixtures of experts in every layer. */
import type { Architecture } from "../architecture.js";
import type { ConfigObject, ModelConfig } from "../config.js";
import type { HasTensor } from "../decoder-config.js";
import { describeGatedDecoder, type GatedVariations, perHeadNorm, POST_NORM, readRmsNorm } from "../gated-decoder.js";
import { readMixture, type ShapeOf } from "../moe-config.js";
import { mixtureEdit } from "../family-edit.js";
import type { Family } from "../family.js";

/** Experts of `intermediate_size`. */
function mixtures(values: ConfigObject, shapeOf: ShapeOf): NonNullable<GatedVariations["mlpOf"]> {
  return (layer) =>
    readMixture(values, `model.layers.${layer}`, shapeOf, {
      width: values.count("intermediate_size"),
      router: {
        experts: values.count("num_experts"),
        isRenormalized: values.boolean("norm_topk_prob", false),
      },
    });
}

function describeOlmoe(config: ModelConfig, hasTensor: HasTensor, shapeOf: ShapeOf): Architecture {
  const { values } = config;
  const norm = readRmsNorm(values);
  return describeGatedDecoder("olmoe", config, hasTensor, {
    norm,
    headNorm: perHeadNorm(norm, "all-heads"),
    clip: values.numberOrNull("clip_qkv"),
    mlpOf: mixtures(values, shapeOf),
  });
}

export const OLMOE: Family = {
  name: "olmoe",
  modelTypes: ["olmoe"],
  exercises: [
    "mixture of experts, weights as the softmax gives them or renormalised",
    "RMS norm over all query heads and over all key heads",
    "queries, keys and values clipped",
  ],
  edit: mixtureEdit(["num_experts", "num_local_experts"]),
  describe: describeOlmoe,
};

function describeFlexOlmo(config: ModelConfig, hasTensor: HasTensor, shapeOf: ShapeOf): Architecture {
  const { values } = config;
  const norm = readRmsNorm(values);
  return describeGatedDecoder("flex_olmo", config, hasTensor, {
    norm,
    norms: POST_NORM,
    headNorm: perHeadNorm(norm, "all-heads"),
    mlpOf: mixtures(values, shapeOf),
  });
}

export const FLEX_OLMO: Family = {
  name: "flex_olmo",
  modelTypes: ["flex_olmo"],
  exercises: ["mixture of experts", "norms on what the branches return", "RMS norm over all query and all key heads"],
  edit: mixtureEdit(["num_experts", "num_local_experts"]),
  describe: describeFlexOlmo,
};
