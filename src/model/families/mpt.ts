/** MPT: slopes on the scores instead of positions, no bias anywhere, q, k and v in one tensor. */
import { requireBoolean, widthOfHead } from "../decoder-config.js";
import { ConfigObject } from "../config.js";
import { plainFamily } from "../plain-decoder.js";
import { alibiSlopes } from "./bloom.js";

export const MPT = plainFamily(
  "mpt",
  [
    "ALiBi instead of positions",
    "layer norm without a bias",
    "fused q, k, v, pruned one by one",
    "clipping of q, k, v",
  ],
  (values) => {
    const attention = values.object("attn_config") ?? new ConfigObject({}, "config.json: attn_config");
    requireBoolean(attention, "alibi", true);
    requireBoolean(attention, "qk_ln", false);
    requireBoolean(attention, "prefix_lm", false);
    if (attention.string("attn_type", "multihead_attention") !== "multihead_attention")
      throw attention.refuse("attn_type", '"multihead_attention"');
    if (values.has("logit_scale")) throw values.refuse("logit_scale", "nothing");
    values.ignore("expansion_ratio", "learned_pos_emb", "no_bias", "norm_type", "embedding_fraction", "init_device");
    const hiddenSize = values.countAmong("d_model", "hidden_size");
    const heads = values.countAmong("n_heads", "num_attention_heads");
    const headDim = widthOfHead(hiddenSize, heads);
    const scale = attention.numberOrNull("softmax_scale") ?? headDim ** -0.5;
    return {
      names: {
        embedding: "transformer.wte",
        layers: "transformer.blocks",
        queryKeyValue: "attn.Wqkv",
        attentionOutput: "attn.out_proj",
        up: "ffn.up_proj",
        down: "ffn.down_proj",
        finalNorm: "transformer.norm_f",
        head: "lm_head",
      },
      hiddenSize,
      layers: values.countAmong("n_layers", "num_hidden_layers"),
      heads: { heads, keyValueHeads: heads, headDim },
      width: 4 * hiddenSize, // whatever `expansion_ratio` says: the library does not read it
      maxPositions: values.count("max_seq_len"),
      norm: { kind: "layer", epsilon: values.number("layer_norm_epsilon") },
      norms: { beforeAttention: "norm_1", beforeMlp: "norm_2" },
      residual: "sequential",
      activation: "gelu",
      hasAttentionBias: false,
      hasMlpBias: false,
      scaleOf: () => scale,
      clip: attention.numberOrNull("clip_qkv"),
      slopes: alibiSlopes(heads, attention.number("alibi_bias_max", 8)),
    };
  },
  { layers: ["n_layers", "num_hidden_layers"] },
);
