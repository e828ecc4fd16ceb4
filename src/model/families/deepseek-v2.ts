/**
 * DeepSeek-V2: latent attention, dense layers first, then mixtures of experts with experts that all tokens share.
 * With yarn the scores are also scaled as in the code released with the model (arXiv:2405.04434).
 */
import { CheckpointError } from "../../errors.js";
import type { Architecture } from "../architecture.js";
import type { ConfigObject, ModelConfig } from "../config.js";
import { requireBoolean, type HasTensor } from "../decoder-config.js";
import { describeGatedDecoder } from "../gated-decoder.js";
import { latentAttentionBranch } from "../latent-attention.js";
import { readMixture, type ShapeOf } from "../moe-config.js";
import { readRotaryTable } from "../rotary.js";
import type { RouterSpec } from "../moe.js";
import type { Family } from "../family.js";

/** Layers before `first_k_dense_replace` are dense, and of the others those that `moe_layer_freq` leaves out. */
function readExpertLayers(values: ConfigObject): (layer: number) => boolean {
  const first = values.number("first_k_dense_replace", 0);
  const step = values.count("moe_layer_freq", 1);
  return (layer) => values.has("n_routed_experts") && layer >= first && layer % step === 0;
}

function readRouter(values: ConfigObject): Omit<RouterSpec, "path" | "chosen"> {
  requireBoolean(values, "norm_topk_prob", false);
  if (values.string("scoring_func", "softmax") !== "softmax") throw values.refuse("scoring_func", '"softmax"');
  const experts = values.count("n_routed_experts");
  const router = { experts, isRenormalized: false, scale: values.number("routed_scaling_factor", 1) };
  switch (values.string("topk_method", "greedy")) {
    case "greedy":
      return router;
    case "group_limited_greedy": {
      const limit = { groups: values.count("n_group"), kept: values.count("topk_group") };
      if (experts % limit.groups === 0 && limit.kept <= limit.groups) return { ...router, limit };
      throw new CheckpointError(
        "E_CONFIG",
        `config.json: ${experts} experts cannot be chosen from ${limit.kept} of ${limit.groups} groups; expected "n_group" to divide "n_routed_experts" and to be at least "topk_group".`,
        { details: { experts, ...limit } },
      );
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

function describe(config: ModelConfig, hasTensor: HasTensor, shapeOf: ShapeOf): Architecture {
  const { values } = config;
  const hasExperts = readExpertLayers(values);
  const heads = values.count("num_attention_heads");
  const plainDim = values.count("qk_nope_head_dim");
  const rotaryDim = values.count("qk_rope_head_dim");
  const hasBias = values.boolean("attention_bias", false);
  const attention = latentAttentionBranch({
    hiddenSize: values.count("hidden_size"),
    heads,
    plainDim,
    rotaryDim,
    valueDim: values.count("v_head_dim"),
    keyValueRank: values.count("kv_lora_rank"),
    ...(values.has("q_lora_rank") ? { queryRank: values.count("q_lora_rank") } : {}),
    scale: (plainDim + rotaryDim) ** -0.5 * readScoreFactor(values),
    hasBias,
    rotary: "default",
  });
  return describeGatedDecoder("deepseek_v2", config, hasTensor, {
    heads: { heads, keyValueHeads: heads, headDim: plainDim + rotaryDim },
    rotaryTables: new Map([["default", readRotaryTable(values, rotaryDim)]]),
    attentionOf: () => attention,
    hasMlpBias: values.boolean("mlp_bias", false),
    mlpOf(layer, dense) {
      if (!hasExperts(layer)) return dense();
      const width = values.count("moe_intermediate_size") * values.count("n_shared_experts", 1);
      return readMixture(values, `model.layers.${layer}`, shapeOf, {
        router: readRouter(values),
        ...(values.has("n_shared_experts") ? { shared: { path: "mlp.shared_experts", width } } : {}),
      });
    },
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
  describe,
};
