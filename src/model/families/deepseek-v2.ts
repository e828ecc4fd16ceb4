/**
 * DeepSeek-V2: latent attention, dense layers first, then mixtures of experts with experts that all tokens share.
 * With yarn the scores are also scaled as in the code released with the model (arXiv:2405.04434).
 */
import type { Architecture } from "../architecture.js";
import type { ConfigObject, ModelConfig } from "../config.js";
import { requireBoolean, type HasTensor } from "../decoder-config.js";
import { describeGatedDecoder, type GatedVariations } from "../gated-decoder.js";
import { latentAttentionBranch } from "../latent-attention.js";
import {
  readLayersAfterDense,
  readMixture,
  readSharedExperts,
  requireGroups,
  type RouterParts,
  type ShapeOf,
} from "../moe-config.js";
import { readRotaryTable } from "../rotary.js";
import { DECODER_EDIT } from "../family-edit.js";
import type { Family } from "../family.js";

function readRouter(values: ConfigObject): RouterParts {
  requireBoolean(values, "norm_topk_prob", false);
  if (values.string("scoring_func", "softmax") !== "softmax") throw values.refuse("scoring_func", '"softmax"');
  const experts = values.count("n_routed_experts");
  const router = { experts, isRenormalized: false, scale: values.number("routed_scaling_factor", 1) };
  switch (values.string("topk_method", "greedy")) {
    case "greedy":
      values.ignore("n_group", "topk_group");
      return router;
    case "group_limited_greedy": {
      const limit = { groups: values.count("n_group"), kept: values.count("topk_group") };
      requireGroups(experts, values.count("num_experts_per_tok"), limit);
      return { ...router, limit };
    }
    default:
      throw values.refuse("topk_method", '"greedy" or "group_limited_greedy"');
  }
}

/** Beyond the trained context scores grow with (0.1 · mscale_all_dim · ln factor + 1)². */
function readScoreFactor(values: ConfigObject): number {
  const scaling = values.object("rope_parameters") ?? values.object("rope_scaling");
  const factor = scaling?.number("factor", 1) ?? 1;
  const mscale = scaling?.number("mscale_all_dim", 0) ?? 0;
  return factor <= 1 ? 1 : (0.1 * mscale * Math.log(factor) + 1) ** 2;
}

/**
 * What both generations share: latent attention, and positions in a part of each head.
 * @param queryRankDefault where the config lacks the key; null in it means that queries have no latent vector
 */
export function readLatentAttention(values: ConfigObject): GatedVariations {
  const heads = values.count("num_attention_heads");
  const plainDim = values.count("qk_nope_head_dim");
  const rotaryDim = values.count("qk_rope_head_dim");
  const queryRank = values.numberOrNull("q_lora_rank");
  values.ignore("head_dim", "num_key_value_heads"); // those of the latent form, whatever a library writes there
  const attention = latentAttentionBranch({
    hiddenSize: values.count("hidden_size"),
    heads,
    plainDim,
    rotaryDim,
    valueDim: values.count("v_head_dim"),
    keyValueRank: values.count("kv_lora_rank"),
    ...(queryRank === undefined ? {} : { queryRank: values.count("q_lora_rank", queryRank) }),
    scale: (plainDim + rotaryDim) ** -0.5 * readScoreFactor(values),
    hasBias: values.boolean("attention_bias", false),
    rotary: "default",
    isInterleaved: values.boolean("rope_interleave", true),
  });
  return {
    heads: { heads, keyValueHeads: heads, headDim: plainDim + rotaryDim },
    rotaryTables: new Map([["default", readRotaryTable(values, rotaryDim)]]),
    attentionOf: () => attention,
  };
}

function describe(config: ModelConfig, hasTensor: HasTensor, shapeOf: ShapeOf): Architecture {
  const { values } = config;
  const isAfterDense = readLayersAfterDense(values);
  return describeGatedDecoder("deepseek_v2", config, hasTensor, {
    ...readLatentAttention(values),
    hasMlpBias: values.boolean("mlp_bias", false),
    mlpOf: (layer, dense) =>
      values.has("n_routed_experts") && isAfterDense(layer)
        ? readMixture(values, `model.layers.${layer}`, shapeOf, {
            router: readRouter(values),
            ...readSharedExperts(values),
          })
        : dense(),
  });
}

export const DEEPSEEK_V2: Family = {
  name: "deepseek_v2",
  modelTypes: ["deepseek_v2"],
  exercises: [
    "latent attention, with and without latent queries",
    "interleaved rotary positions in a part of each head",
    "mixture of experts, optionally limited to groups of experts, with a scaling factor",
    "shared experts",
    "dense layers first",
  ],
  edit: {
    ...DECODER_EDIT,
    experts: ["n_routed_experts", "num_experts", "num_local_experts"],
    mixtures: "first_k_dense_replace",
  },
  describe,
};
