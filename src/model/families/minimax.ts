/**
 * MiniMax-Text-01 (arXiv:2501.08313): lightning attention in most layers, norms on the residual stream itself, residual
 * sums with factors, and in every layer a mixture of experts whose chosen weights are renormalised.
 */
import type { Architecture } from "../architecture.js";
import type { ConfigObject, ModelConfig } from "../config.js";
import type { ResidualFactors } from "../decoder.js";
import { readActivation, readHeads, readLayerKinds, type HasTensor } from "../decoder-config.js";
import { describeGatedDecoder } from "../gated-decoder.js";
import { lightningAttentionBranch } from "../lightning-attention.js";
import { readNumberedMixture, type ShapeOf } from "../moe-config.js";
import { mixtureEdit } from "../family-edit.js";
import type { Family } from "../family.js";

/** 2^(-8 i / heads), slower from layer to layer. */
function slopesOf(heads: number, layer: number, layers: number): number[] {
  const factor = 1 - layer / (layers - 1 + 1e-5) + 1e-5;
  return Array.from({ length: heads }, (_, head) => 2 ** ((-8 * (head + 1)) / heads) * factor);
}

function readFactors(values: ConfigObject, branch: string): ResidualFactors {
  return { kept: values.number(`${branch}_alpha_factor`), added: values.number(`${branch}_beta_factor`) };
}

function describe(config: ModelConfig, hasTensor: HasTensor, shapeOf: ShapeOf): Architecture {
  const { values } = config;
  const hiddenSize = values.count("hidden_size");
  const layers = values.count("num_hidden_layers");
  const heads = readHeads(values, hiddenSize);
  const activation = readActivation(values, "hidden_act");
  const kindOf = readLayerKinds(values, ["full_attention", "linear_attention"], (layer) =>
    layer % 2 === 0 ? "full_attention" : "linear_attention",
  );
  const isLinear = (layer: number): boolean => kindOf(layer) === "linear_attention";
  const window = values.numberOrNull("sliding_window");
  return describeGatedDecoder("minimax", config, hasTensor, {
    norms: { onInput: "input_layernorm", onAttentionSum: "post_attention_layernorm" },
    residualFactorsOf: (layer) => ({
      attention: readFactors(values, isLinear(layer) ? "linear_attn" : "full_attn"),
      mlp: readFactors(values, "mlp"),
    }),
    heads,
    windowOf: (layer) => (isLinear(layer) ? undefined : window),
    attentionOf: (layer) =>
      isLinear(layer)
        ? lightningAttentionBranch({
            hiddenSize,
            heads: heads.heads,
            headDim: heads.headDim,
            activation,
            piece: values.count("block_size"),
            slopes: hasTensor(`model.layers.${layer}.self_attn.slope_rate`)
              ? "stored"
              : slopesOf(heads.heads, layer, layers),
          })
        : undefined,
    mlpOf: (layer) =>
      readNumberedMixture(values, `model.layers.${layer}`, shapeOf, {
        experts: values.count(values.keyAmong("num_local_experts", "num_experts")),
        chosen: values.count("num_experts_per_tok"),
        isRenormalized: true,
      }),
  });
}

export const MINIMAX: Family = {
  name: "minimax",
  modelTypes: ["minimax"],
  exercises: [
    "lightning attention, slopes stored or by rule",
    "norms on the residual stream itself",
    "residual sums with factors",
    "mixture of experts, one by one or stacked",
  ],
  edit: mixtureEdit(["num_local_experts", "num_experts"], {
    lists: { layer_types: ["full_attention", "linear_attention"] },
  }),
  describe,
};
