/** MiniMax M2: sigmoid scores with a correction in the choice; norms over all heads; rotary on a part of each head. */
import type { Architecture } from "../architecture.js";
import type { ModelConfig } from "../config.js";
import { readHeads, requireBoolean, type HasTensor } from "../decoder-config.js";
import { describeGatedDecoder, perHeadNorm, readRmsNorm } from "../gated-decoder.js";
import { readNumberedMixture, type ShapeOf } from "../moe-config.js";
import { readRotaryTable } from "../rotary.js";
import { mixtureEdit } from "../family-edit.js";
import type { Family } from "../family.js";

function describe(config: ModelConfig, hasTensor: HasTensor, shapeOf: ShapeOf): Architecture {
  const { values } = config;
  requireBoolean(values, "use_qk_norm", true);
  requireBoolean(values, "use_routing_bias", true);
  if (values.string("qk_norm_type", "per_layer") !== "per_layer") throw values.refuse("qk_norm_type", '"per_layer"');
  if (values.string("scoring_func", "sigmoid") !== "sigmoid") throw values.refuse("scoring_func", '"sigmoid"');
  const heads = readHeads(values, values.count("hidden_size"));
  const fraction = values.has("rotary_dim") ? values.count("rotary_dim") / heads.headDim : 1;
  const chosen = values.count("num_experts_per_tok");
  const router = { chosen, isRenormalized: true, scores: "sigmoid" } as const;
  return describeGatedDecoder("minimax_m2", config, hasTensor, {
    heads,
    hasInputBias: false,
    hasOutputBias: false,
    headNorm: perHeadNorm(readRmsNorm(values), "all-heads"),
    rotaryTables: new Map([["default", readRotaryTable(values, heads.headDim, { fraction })]]),
    mlpOf: (layer) => readNumberedMixture(values, `model.layers.${layer}`, shapeOf, router, "e_score_correction_bias"),
  });
}

export const MINIMAX_M2: Family = {
  name: "minimax_m2",
  modelTypes: ["minimax_m2"],
  exercises: [
    "mixture of experts scored by sigmoid, with a correction in the choice alone",
    "RMS norm over all query heads and over all key heads",
    "partial rotary",
  ],
  edit: mixtureEdit(["num_local_experts", "num_experts"]),
  describe,
};
