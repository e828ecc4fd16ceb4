/** GPT-BigCode (SantaCoder, StarCoder): GPT-2 with weights stored [out, in] and one key/value head for all queries. */
import { readActivation, requireBoolean, widthOfHead } from "../decoder-config.js";
import { plainFamily } from "../plain-decoder.js";

export const GPT_BIGCODE = plainFamily(
  "gpt_bigcode",
  ["multi-query fused q, k, v, pruned one by one", "learned positions", "tied by default"],
  (values) => {
    requireBoolean(values, "add_cross_attention", false);
    const hiddenSize = values.countAmong("n_embd", "hidden_size");
    const heads = values.countAmong("n_head", "num_attention_heads");
    const isMultiQuery = values.boolean("multi_query");
    const maxPositions = values.countAmong("n_positions", "max_position_embeddings");
    const headDim = widthOfHead(hiddenSize, heads);
    const scale = values.boolean("scale_attn_weights") ? headDim ** -0.5 : 1;
    return {
      names: {
        embedding: "transformer.wte",
        layers: "transformer.h",
        queryKeyValue: "attn.c_attn",
        attentionOutput: "attn.c_proj",
        up: "mlp.c_fc",
        down: "mlp.c_proj",
        finalNorm: "transformer.ln_f",
        head: "lm_head",
      },
      hiddenSize,
      layers: values.countAmong("n_layer", "num_hidden_layers"),
      heads: { heads, keyValueHeads: isMultiQuery ? 1 : heads, headDim },
      width: values.count("n_inner", 4 * hiddenSize),
      maxPositions,
      norm: { kind: "layer", epsilon: values.number("layer_norm_epsilon"), hasBias: true },
      norms: { beforeAttention: "ln_1", beforeMlp: "ln_2" },
      residual: "sequential",
      activation: readActivation(values, "activation_function"),
      fusedLayout: isMultiQuery ? "stacked" : "grouped",
      scaleOf: () => scale,
      embedding: { positions: { path: "transformer.wpe", count: maxPositions, offset: 0 } },
    };
  },
  { layers: ["n_layer", "num_hidden_layers"], width: ["n_inner"] },
);
