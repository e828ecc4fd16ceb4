/** GPT-2: weights stored [in, out], q, k, v stacked in one of them, learned positions. */
import { readActivation, requireBoolean, widthOfHead } from "../decoder-config.js";
import { plainFamily } from "../plain-decoder.js";

export const GPT2 = plainFamily(
  "gpt2",
  ["weights stored [in, out]", "fused q, k, v, pruned one by one", "learned positions"],
  (values) => {
    requireBoolean(values, "add_cross_attention", false);
    const hiddenSize = values.countAmong("n_embd", "hidden_size");
    const heads = values.countAmong("n_head", "num_attention_heads");
    const maxPositions = values.countAmong("n_positions", "max_position_embeddings", "n_ctx");
    const headDim = widthOfHead(hiddenSize, heads);
    const scale = values.boolean("scale_attn_weights", true) ? headDim ** -0.5 : 1;
    const isScaledByLayer = values.boolean("scale_attn_by_inverse_layer_idx", false);
    return {
      names: {
        embedding: "wte",
        layers: "h",
        queryKeyValue: "attn.c_attn",
        attentionOutput: "attn.c_proj",
        up: "mlp.c_fc",
        down: "mlp.c_proj",
        finalNorm: "ln_f",
        head: "lm_head",
      },
      hiddenSize,
      layers: values.countAmong("n_layer", "num_hidden_layers"),
      heads: { heads, keyValueHeads: heads, headDim },
      width: values.count("n_inner", 4 * hiddenSize),
      maxPositions,
      norm: { kind: "layer", epsilon: values.number("layer_norm_epsilon", 1e-5), hasBias: true },
      norms: { beforeAttention: "ln_1", beforeMlp: "ln_2" },
      residual: "sequential",
      activation: readActivation(values, "activation_function", "gelu_new"),
      inputAxis: 0,
      scaleOf: (layer) => (isScaledByLayer ? scale / (layer + 1) : scale),
      embedding: { positions: { path: "wpe", count: maxPositions, offset: 0 } },
      isTiedByDefault: true,
    };
  },
  { layers: ["n_layer", "num_hidden_layers"], width: ["n_inner"] },
);
