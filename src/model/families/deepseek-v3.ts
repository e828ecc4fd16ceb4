/**
 * DeepSeek-V3 and R1: DeepSeek-V2's latent attention; a router that scores by sigmoid, corrects its choice and limits it
 * to groups of experts (arXiv:2412.19437). Layers that predict further tokens are carried along.
 */
import type { Architecture } from "../architecture.js";
import type { ModelConfig } from "../config.js";
import type { HasTensor } from "../decoder-config.js";
import { describeGatedDecoder } from "../gated-decoder.js";
import { readCorrectedMixtures, type ShapeOf } from "../moe-config.js";
import { DECODER_EDIT } from "../family-edit.js";
import type { Family } from "../family.js";
import { readLatentAttention } from "./deepseek-v2.js";

function describe(config: ModelConfig, hasTensor: HasTensor, shapeOf: ShapeOf): Architecture {
  const { values } = config;
  if (values.string("scoring_func", "sigmoid") !== "sigmoid") throw values.refuse("scoring_func", '"sigmoid"');
  if (values.string("topk_method", "noaux_tc") !== "noaux_tc") throw values.refuse("topk_method", '"noaux_tc"');
  return describeGatedDecoder("deepseek_v3", config, hasTensor, {
    ...readLatentAttention(values),
    hasMlpBias: false,
    mlpOf: readCorrectedMixtures(values, shapeOf),
  });
}

export const DEEPSEEK_V3: Family = {
  name: "deepseek_v3",
  modelTypes: ["deepseek_v3"],
  exercises: [
    "latent attention",
    "mixture of experts scored by sigmoid, with a correction and groups in the choice",
    "shared experts",
    "dense layers first",
    "layers of further tokens carried along",
  ],
  edit: {
    ...DECODER_EDIT,
    experts: ["n_routed_experts", "num_experts", "num_local_experts"],
    mixtures: "first_k_dense_replace",
  },
  describe,
};
