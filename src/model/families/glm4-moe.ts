/**
 * GLM-4.5 and its successors: grouped-query attention with rotary positions on half of each head, one dense layer, then
 * mixtures of experts whose router scores by sigmoid and corrects its choice. Layers that predict further tokens follow
 * the decoder's own in released files; they are carried along.
 */
import type { Architecture } from "../architecture.js";
import type { ModelConfig } from "../config.js";
import { readHeads, type HasTensor } from "../decoder-config.js";
import { describeGatedDecoder, perHeadNorm, readRmsNorm } from "../gated-decoder.js";
import { readCorrectedMixtures, type ShapeOf } from "../moe-config.js";
import { readRotaryTable } from "../rotary.js";
import { DECODER_EDIT } from "../family-edit.js";
import type { Family } from "../family.js";

function describe(config: ModelConfig, hasTensor: HasTensor, shapeOf: ShapeOf): Architecture {
  const { values } = config;
  const heads = readHeads(values, values.count("hidden_size"));
  const norm = readRmsNorm(values);
  return describeGatedDecoder("glm4_moe", config, hasTensor, {
    norm,
    heads,
    hasInputBias: values.boolean("attention_bias", false),
    hasOutputBias: false,
    hasMlpBias: false,
    headNorm: values.boolean("use_qk_norm", false) ? perHeadNorm(norm) : undefined,
    rotaryTables: new Map([["default", readRotaryTable(values, heads.headDim, { isPartial: true })]]),
    mlpOf: readCorrectedMixtures(values, shapeOf),
  });
}

export const GLM4_MOE: Family = {
  name: "glm4_moe",
  modelTypes: ["glm4_moe"],
  exercises: [
    "mixture of experts scored by sigmoid, with a correction in the choice alone",
    "shared experts",
    "dense layers first",
    "partial rotary",
    "q/k norm per head",
    "layers of further tokens carried along",
  ],
  edit: {
    ...DECODER_EDIT,
    experts: ["n_routed_experts", "num_experts", "num_local_experts"],
    mixtures: "first_k_dense_replace",
  },
  describe,
};
