/** Phi-1 to 2: both branches read one norm, rotary positions on part of a head, biases everywhere, the head included. */
import { readActivation, readHeads, requireBoolean } from "../decoder-config.js";
import { plainFamily } from "../plain-decoder.js";
import { readRotaryTable } from "../rotary.js";

export const PHI = plainFamily(
  "phi",
  ["parallel branches with one norm", "partial rotary", "biases everywhere, the head included"],
  (values) => {
    requireBoolean(values, "qk_layernorm", false);
    const hiddenSize = values.count("hidden_size");
    const heads = readHeads(values, hiddenSize);
    return {
      names: {
        embedding: "model.embed_tokens",
        layers: "model.layers",
        queryKeyValue: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        attentionOutput: "self_attn.dense",
        up: "mlp.fc1",
        down: "mlp.fc2",
        finalNorm: "model.final_layernorm",
        head: "lm_head",
      },
      hiddenSize,
      layers: values.count("num_hidden_layers"),
      heads,
      width: values.count("intermediate_size"),
      maxPositions: values.count("max_position_embeddings", 2048),
      norm: { kind: "layer", epsilon: values.number("layer_norm_eps", 1e-5), hasBias: true },
      norms: { beforeAttention: "input_layernorm", beforeMlp: "input_layernorm" },
      residual: "parallel",
      activation: readActivation(values, "hidden_act", "gelu_new"),
      rotary: readRotaryTable(values, heads.headDim, { fraction: 0.5 }),
      hasHeadBias: true,
      isTiedByDefault: false,
    };
  },
);
