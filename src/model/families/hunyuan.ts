/**
 * Hunyuan V1, dense and sparse: heads are normed after rotation; the base of the rotation may have grown for a longer
 * context (`alpha`). The sparse models add an expert that all tokens share to the chosen ones.
 */
import type { Architecture } from "../architecture.js";
import type { ConfigObject, ModelConfig } from "../config.js";
import type { HasTensor } from "../decoder-config.js";
import { describeGatedDecoder, gatedFamily, readRmsNorm, type GatedVariations } from "../gated-decoder.js";
import { readMixture, type ShapeOf } from "../moe-config.js";
import { mixtureEdit } from "../family-edit.js";
import type { Family } from "../family.js";

function common(values: ConfigObject): GatedVariations {
  const norm = readRmsNorm(values);
  return {
    norm,
    hasMlpBias: false,
    headNorm: {
      norm,
      query: "self_attn.query_layernorm",
      key: "self_attn.key_layernorm",
      gain: "shared",
      isAfterRotation: true,
    },
  };
}

export const HUNYUAN_V1_DENSE = gatedFamily(
  "hunyuan_v1_dense",
  ["q/k norm per head after rotation", "rotary base grown by alpha"],
  common,
);

/** A number for all layers, or a list with one for each. */
function ofLayer(values: ConfigObject, key: string): (layer: number) => number {
  if (!Array.isArray(values.raw(key))) {
    const all = values.count(key);
    return () => all;
  }
  const each = values.numbers(key) ?? [];
  return (layer) => {
    const count = each[layer];
    if (count !== undefined && Number.isSafeInteger(count) && count > 0) return count;
    throw values.refuse(key, "a positive whole number for every layer");
  };
}

function describeMoe(config: ModelConfig, hasTensor: HasTensor, shapeOf: ShapeOf): Architecture {
  const { values } = config;
  const [experts, chosen] = [ofLayer(values, "num_experts"), ofLayer(values, "moe_topk")];
  const width = values.count("intermediate_size");
  return describeGatedDecoder("hunyuan_v1_moe", config, hasTensor, {
    ...common(values),
    mlpOf: (layer) =>
      readMixture(values, `model.layers.${layer}`, shapeOf, {
        width,
        router: { path: "mlp.gate.wg", experts: experts(layer), chosen: chosen(layer), isRenormalized: true },
        shared: { path: "mlp.shared_mlp", width },
      }),
  });
}

export const HUNYUAN_V1_MOE: Family = {
  name: "hunyuan_v1_moe",
  modelTypes: ["hunyuan_v1_moe"],
  exercises: ["q/k norm per head after rotation", "mixture of experts", "shared expert without a gate"],
  edit: mixtureEdit(["num_experts"]),
  describe: describeMoe,
};
