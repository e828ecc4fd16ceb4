/** LFM2: most layers are short gated convolutions, the others attention with normed queries and keys. */
import type { Architecture } from "../architecture.js";
import { attentionBranch } from "../attention.js";
import type { Branch } from "../branch.js";
import type { ConfigObject, ModelConfig } from "../config.js";
import { describeDecoder } from "../decoder.js";
import { readHeads, readLayerKinds, type HasTensor, type HeadCounts } from "../decoder-config.js";
import { gatedMlp } from "../mlp.js";
import type { Norm, Projection } from "../pieces.js";
import { readRotaryTable } from "../rotary.js";
import { shortConvolutionBranch } from "../short-convolution.js";
import type { Family } from "../family.js";

/** Where the config says "adjust", two thirds of what it names, rounded up to a multiple. */
function readWidth(values: ConfigObject): number {
  const width = values.count(values.keyAmong("block_ff_dim", "intermediate_size"));
  if (!values.boolean("block_auto_adjust_ff_dim")) return width;
  const scaled = Math.trunc(values.number("block_ffn_dim_multiplier") * Math.trunc((2 * width) / 3));
  const multiple = values.count("block_multiple_of");
  return multiple * Math.ceil(scaled / multiple);
}

function projection(path: string, inFeatures: number, outFeatures: number): Projection {
  return { path, inFeatures, outFeatures, hasBias: false };
}

function attentionOf(hiddenSize: number, heads: HeadCounts, norm: Norm): Branch {
  const queries = heads.heads * heads.headDim;
  const keys = heads.keyValueHeads * heads.headDim;
  return attentionBranch({
    ...heads,
    scale: heads.headDim ** -0.5,
    rotary: "default",
    input: {
      layout: "separate",
      query: projection("self_attn.q_proj", hiddenSize, queries),
      key: projection("self_attn.k_proj", hiddenSize, keys),
      value: projection("self_attn.v_proj", hiddenSize, keys),
    },
    headNorm: { norm, query: "self_attn.q_layernorm", key: "self_attn.k_layernorm", gain: "shared" },
    output: projection("self_attn.out_proj", queries, hiddenSize),
  });
}

function describe({ values }: ModelConfig, hasTensor: HasTensor): Architecture {
  const hiddenSize = values.count("hidden_size");
  const layers = values.count("num_hidden_layers");
  const heads = readHeads(values, hiddenSize);
  const width = readWidth(values);
  const norm: Norm = { kind: "rms", epsilon: values.number("norm_eps") };
  const attending = values.numbers("full_attn_idxs");
  const kindOf = readLayerKinds(values, ["full_attention", "conv"], (layer) =>
    attending === undefined || attending.includes(layer) ? "full_attention" : "conv",
  );
  const attention = attentionOf(hiddenSize, heads, norm);
  const convolution = shortConvolutionBranch({
    hiddenSize,
    kernel: values.count("conv_L_cache"),
    hasBias: values.boolean("conv_bias", false),
  });
  const mlp = gatedMlp({
    activation: "silu",
    gate: projection("feed_forward.w1", hiddenSize, width),
    up: projection("feed_forward.w3", hiddenSize, width),
    down: projection("feed_forward.w2", width, hiddenSize),
  });
  const tie = values.keyAmong("tie_embedding", "tie_word_embeddings");
  return describeDecoder({
    family: "lfm2",
    hiddenSize,
    vocabularySize: values.count("vocab_size"),
    maxPositions: values.count("max_position_embeddings"),
    embedding: { path: "model.embed_tokens" },
    rotaryTables: new Map([
      ["default", readRotaryTable(values, heads.headDim, { thetaKeys: ["rope_theta", "theta"] })],
    ]),
    layersPath: "model.layers",
    layers,
    layer: (index) => ({
      norm,
      norms: { beforeAttention: "operator_norm", beforeMlp: "ffn_norm" },
      residual: "sequential",
      attention: kindOf(index) === "conv" ? convolution : attention,
      mlp,
    }),
    head: {
      norm: { path: "model.embedding_norm", norm },
      path: "lm_head",
      isTied: values.boolean(tie) || !hasTensor("lm_head.weight"),
    },
  });
}

export const LFM2: Family = {
  name: "lfm2",
  modelTypes: ["lfm2"],
  exercises: ["short gated convolutions", "norm of every query and key head", "tied by default"],
  edit: { layers: ["num_hidden_layers"], lists: { layer_types: ["full_attention", "conv"] } },
  describe,
};
