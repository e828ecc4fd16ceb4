/**
 * OPT: learned positions that start at row 2, ReLU. The 350M form norms sums instead of inputs, has no final norm, and
 * embeddings narrower than its hidden states.
 */
import type { NormPlaces } from "../decoder.js";
import { readActivation, readHeads, requireBoolean } from "../decoder-config.js";
import { plainFamily } from "../plain-decoder.js";

/** Rows in front of that of position 0; the table has as many more. */
const POSITION_OFFSET = 2;

const PRE_NORM: NormPlaces = { beforeAttention: "self_attn_layer_norm", beforeMlp: "final_layer_norm" };
const POST_NORM: NormPlaces = { onAttentionSum: "self_attn_layer_norm", onMlpSum: "final_layer_norm" };

export const OPT = plainFamily(
  "opt",
  ["learned positions", "ReLU", "norms before or after the branches", "embeddings narrower than hidden states"],
  (values) => {
    requireBoolean(values, "layer_norm_elementwise_affine", true);
    const hiddenSize = values.count("hidden_size");
    const isPreNorm = values.boolean("do_layer_norm_before", true);
    const maxPositions = values.count("max_position_embeddings", 2048);
    const embeddingWidth = values.count("word_embed_proj_dim", hiddenSize);
    const hasBias = values.boolean("enable_bias", true);
    const [wide, narrow] = [hiddenSize, embeddingWidth];
    const isProjected = wide !== narrow;
    const path = (name: string): string => `model.decoder.${name}`;
    return {
      names: {
        embedding: path("embed_tokens"),
        layers: path("layers"),
        queryKeyValue: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        attentionOutput: "self_attn.out_proj",
        up: "fc1",
        down: "fc2",
        ...(isPreNorm && !values.boolean("_remove_final_layer_norm", false)
          ? { finalNorm: path("final_layer_norm") }
          : {}),
        head: "lm_head",
      },
      hiddenSize,
      layers: values.count("num_hidden_layers"),
      heads: readHeads(values, hiddenSize),
      width: values.count("ffn_dim"),
      maxPositions,
      norm: { kind: "layer", epsilon: 1e-5, hasBias: true }, // no key for it in OPT's config
      norms: isPreNorm ? PRE_NORM : POST_NORM,
      residual: "sequential",
      activation: readActivation(values, "activation_function", "relu"),
      hasAttentionBias: hasBias,
      hasMlpBias: hasBias,
      embedding: {
        positions: { path: path("embed_positions"), count: maxPositions + POSITION_OFFSET, offset: POSITION_OFFSET },
        ...(isProjected
          ? { projection: { path: path("project_in"), inFeatures: narrow, outFeatures: wide, hasBias: false } }
          : {}),
      },
      embeddingWidth,
      ...(isProjected
        ? { headProjection: { path: path("project_out"), inFeatures: wide, outFeatures: narrow, hasBias: false } }
        : {}),
      isTiedByDefault: true,
    };
  },
  { layers: ["num_hidden_layers"], width: ["ffn_dim"] },
);
