/** GPT-NeoX and Pythia: q, k, v of each head side by side in one tensor, partial rotary, branches usually parallel. */
import { readActivation, readHeads } from "../decoder-config.js";
import { plainFamily } from "../plain-decoder.js";
import { readRotaryTable } from "../rotary.js";

export const GPT_NEOX = plainFamily(
  "gpt_neox",
  ["q, k, v fused per head, pruned one by one", "partial rotary", "parallel branches with two norms, or sequential"],
  (values) => {
    const hiddenSize = values.count("hidden_size");
    const heads = readHeads(values, hiddenSize);
    return {
      names: {
        embedding: "gpt_neox.embed_in",
        layers: "gpt_neox.layers",
        queryKeyValue: "attention.query_key_value",
        attentionOutput: "attention.dense",
        up: "mlp.dense_h_to_4h",
        down: "mlp.dense_4h_to_h",
        finalNorm: "gpt_neox.final_layer_norm",
        head: "embed_out",
      },
      hiddenSize,
      layers: values.count("num_hidden_layers"),
      heads,
      width: values.count("intermediate_size"),
      maxPositions: values.count("max_position_embeddings", 2048),
      norm: { kind: "layer", epsilon: values.number("layer_norm_eps", 1e-5), hasBias: true },
      norms: { beforeAttention: "input_layernorm", beforeMlp: "post_attention_layernorm" },
      residual: values.boolean("use_parallel_residual", true) ? "parallel" : "sequential",
      activation: readActivation(values, "hidden_act", "gelu"),
      fusedLayout: "grouped",
      hasAttentionBias: values.boolean("attention_bias", true),
      rotary: readRotaryTable(values, heads.headDim, {
        thetaKeys: ["rope_theta", "rotary_emb_base"],
        fraction: 0.25,
        fractionKeys: ["partial_rotary_factor", "rotary_pct"],
      }),
      isTiedByDefault: false,
    };
  },
);
