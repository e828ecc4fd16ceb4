/**
 * Falcon: one fused tensor whose rows are, per key/value head, its query heads, its key and its value. The 7B form has
 * one key/value head and one norm for both branches; the new decoder has several and a norm for each branch.
 */
import type { ConfigObject } from "../config.js";
import type { NormPlaces } from "../decoder.js";
import { readActivation, requireBoolean, widthOfHead, type HeadCounts } from "../decoder-config.js";
import { plainFamily } from "../plain-decoder.js";
import { readRotaryTable } from "../rotary.js";

/** `num_kv_heads` counts in the new decoder only: older files carry it with other meanings. */
function readCounts(values: ConfigObject, hiddenSize: number, isNew: boolean): HeadCounts {
  const heads = values.countAmong("num_attention_heads", "n_head");
  const isMultiQuery = values.boolean("multi_query", true);
  const keyValueHeads = isNew
    ? values.count(values.keyAmong("num_kv_heads", "n_head_kv"), heads)
    : isMultiQuery
      ? 1
      : heads;
  if (heads % keyValueHeads !== 0) throw values.refuse("num_kv_heads", `a divisor of the ${heads} attention heads`);
  return { heads, keyValueHeads, headDim: widthOfHead(hiddenSize, heads) };
}

function readNorms(values: ConfigObject, isNew: boolean, isParallel: boolean): NormPlaces {
  if (!isParallel) return { beforeAttention: "input_layernorm", beforeMlp: "post_attention_layernorm" };
  const isOnePerBranch = values.count("num_ln_in_parallel_attn", isNew ? 2 : 1) === 2;
  return isOnePerBranch
    ? { beforeAttention: "ln_attn", beforeMlp: "ln_mlp" }
    : { beforeAttention: "input_layernorm", beforeMlp: "input_layernorm" };
}

export const FALCON = plainFamily(
  "falcon",
  ["multi-query and grouped fused q, k, v, pruned one by one", "parallel branches with one or two norms"],
  (values) => {
    requireBoolean(values, "alibi", false); // releases disagree on how its slopes enter
    const hiddenSize = values.count("hidden_size");
    const isNew = values.boolean("new_decoder_architecture", false);
    const isParallel = isNew || values.boolean("parallel_attn", true);
    const hasBias = values.boolean("bias", false);
    const heads = readCounts(values, hiddenSize, isNew);
    return {
      names: {
        embedding: "transformer.word_embeddings",
        layers: "transformer.h",
        queryKeyValue: "self_attention.query_key_value",
        attentionOutput: "self_attention.dense",
        up: "mlp.dense_h_to_4h",
        down: "mlp.dense_4h_to_h",
        finalNorm: "transformer.ln_f",
        head: "lm_head",
      },
      hiddenSize,
      layers: values.countAmong("num_hidden_layers", "n_layer"),
      heads,
      width: values.count("ffn_hidden_size", 4 * hiddenSize),
      maxPositions: values.count("max_position_embeddings", 2048),
      norm: { kind: "layer", epsilon: values.number("layer_norm_epsilon", 1e-5), hasBias: true },
      norms: readNorms(values, isNew, isParallel),
      residual: isParallel ? "parallel" : "sequential",
      activation: readActivation(values, "activation", "gelu"),
      fusedLayout: "grouped",
      hasAttentionBias: hasBias,
      hasMlpBias: hasBias,
      rotary: readRotaryTable(values, heads.headDim),
      isTiedByDefault: true,
    };
  },
  { layers: ["num_hidden_layers", "n_layer"], width: ["ffn_hidden_size"] },
);
