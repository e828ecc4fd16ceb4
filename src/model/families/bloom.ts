/** BLOOM: no positions but slopes on the scores (ALiBi), a norm on the embeddings, q, k, v fused per head. */
import { requireBoolean, widthOfHead } from "../decoder-config.js";
import { plainFamily } from "../plain-decoder.js";

/**
 * 2^(-most · i / n) for a power of two n of heads; for other counts those of the next smaller power, then every second
 * one of twice that power. Source: Press et al. 2021, arXiv:2108.12409, and their released code, where `most` is 8.
 */
export function alibiSlopes(heads: number, most = 8): number[] {
  const power = 2 ** Math.floor(Math.log2(heads));
  const slope = (count: number, i: number): number => 2 ** ((-most * i) / count);
  return Array.from({ length: heads }, (_, i) =>
    i < power ? slope(power, i + 1) : slope(2 * power, 2 * (i - power) + 1),
  );
}

export const BLOOM = plainFamily(
  "bloom",
  ["ALiBi instead of positions", "norm on the embeddings", "q, k, v fused per head, pruned one by one"],
  (values) => {
    requireBoolean(values, "apply_residual_connection_post_layernorm", false);
    const hiddenSize = values.countAmong("hidden_size", "n_embed");
    const heads = values.countAmong("n_head", "num_attention_heads");
    const norm = { kind: "layer", epsilon: values.number("layer_norm_epsilon", 1e-5), hasBias: true } as const;
    return {
      names: {
        embedding: "word_embeddings",
        layers: "h",
        queryKeyValue: "self_attention.query_key_value",
        attentionOutput: "self_attention.dense",
        up: "mlp.dense_h_to_4h",
        down: "mlp.dense_4h_to_h",
        finalNorm: "ln_f",
        head: "lm_head",
      },
      hiddenSize,
      layers: values.countAmong("n_layer", "num_hidden_layers"),
      heads: { heads, keyValueHeads: heads, headDim: widthOfHead(hiddenSize, heads) },
      width: 4 * hiddenSize,
      maxPositions: values.count("seq_length", 2048), // what it was trained on; the slopes know no limit
      norm,
      norms: { beforeAttention: "input_layernorm", beforeMlp: "post_attention_layernorm" },
      residual: "sequential",
      activation: "gelu-tanh",
      fusedLayout: "grouped",
      slopes: alibiSlopes(heads),
      embedding: { norm: { path: "word_embeddings_layernorm", norm } },
      isTiedByDefault: true,
    };
  },
  { layers: ["n_layer", "num_hidden_layers"] },
);
