/**
 * GPT-J and CodeGen: both branches read one norm; neighbouring dimensions of a part of each head are rotated together; the
 * head has a bias. CodeGen's q, k and v are one tensor, as four devices had it.
 */
import { readActivation, widthOfHead } from "../decoder-config.js";
import type { ConfigObject } from "../config.js";
import { SHARDS } from "../attention.js";
import { plainFamily, type PlainLayout, type PlainNames } from "../plain-decoder.js";
import { readRotaryTable } from "../rotary.js";

function read(values: ConfigObject, queryKeyValue: PlainNames["queryKeyValue"]): PlainLayout {
  const hiddenSize = values.countAmong("n_embd", "hidden_size");
  const heads = values.countAmong("n_head", "num_attention_heads");
  return {
    names: {
      embedding: "transformer.wte",
      layers: "transformer.h",
      queryKeyValue,
      attentionOutput: "attn.out_proj",
      up: "mlp.fc_in",
      down: "mlp.fc_out",
      finalNorm: "transformer.ln_f",
      head: "lm_head",
    },
    hiddenSize,
    layers: values.countAmong("n_layer", "num_hidden_layers"),
    heads: { heads, keyValueHeads: heads, headDim: widthOfHead(hiddenSize, heads) },
    width: values.count("n_inner", 4 * hiddenSize),
    maxPositions: values.count(values.keyAmong("n_positions", "max_position_embeddings")),
    norm: { kind: "layer", epsilon: values.number("layer_norm_epsilon"), hasBias: true },
    norms: { beforeAttention: "ln_1", beforeMlp: "ln_1" },
    residual: "parallel",
    activation: readActivation(values, "activation_function"),
    hasAttentionBias: false,
    rotary: readRotaryTable(values, values.count("rotary_dim")),
    isRotaryInterleaved: true,
    hasHeadBias: true,
  };
}

export const GPTJ = plainFamily(
  "gptj",
  ["parallel branches with one norm", "partial interleaved rotary", "head with a bias"],
  (values) => read(values, ["attn.q_proj", "attn.k_proj", "attn.v_proj"]),
  { layers: ["n_layer", "num_hidden_layers"], width: ["n_inner"] },
);

export const CODEGEN = plainFamily(
  "codegen",
  ["q, v, k fused in four parts, pruned one by one", "parallel branches with one norm", "partial interleaved rotary"],
  (values) => {
    const layout = read(values, "attn.qkv_proj");
    if (layout.heads.heads % SHARDS !== 0) throw values.refuse("n_head", `a multiple of ${SHARDS}`);
    return { ...layout, fusedLayout: "sharded" };
  },
  { layers: ["n_layer", "num_hidden_layers"], width: ["n_inner"] },
);
