/** Phi-3.5-MoE: layer norms, biases, and two experts chosen one after the other by a sparse mixer. */
import type { Architecture } from "../architecture.js";
import type { ModelConfig } from "../config.js";
import { readWindows, type HasTensor } from "../decoder-config.js";
import { describeGatedDecoder } from "../gated-decoder.js";
import { readNumberedMixture, type ShapeOf } from "../moe-config.js";
import { mixtureEdit } from "../family-edit.js";
import type { Family } from "../family.js";

function describe(config: ModelConfig, hasTensor: HasTensor, shapeOf: ShapeOf): Architecture {
  const { values } = config;
  if (values.count("num_experts_per_tok") !== 2) throw values.refuse("num_experts_per_tok", "2");
  const mixerMargin = 2 * values.number("router_jitter_noise");
  return describeGatedDecoder("phimoe", config, hasTensor, {
    norm: { kind: "layer", epsilon: values.number("rms_norm_eps"), hasBias: true },
    windowOf: readWindows(values, () => true),
    hasHeadBias: values.boolean("lm_head_bias", false),
    mlpOf: (layer) =>
      readNumberedMixture(values, `model.layers.${layer}`, shapeOf, { chosen: 2, isRenormalized: false, mixerMargin }),
  });
}

export const PHIMOE: Family = {
  name: "phimoe",
  modelTypes: ["phimoe"],
  exercises: [
    "mixture of two experts chosen by a sparse mixer",
    "layer norm with biases",
    "attention and head biases",
    "longrope rotary scaling with factors of its own",
  ],
  edit: mixtureEdit(["num_local_experts", "num_experts"]),
  describe,
};
