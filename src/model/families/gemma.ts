/**
 * Gemma, Gemma 2 and the text part of Gemma 3. Common to all: norm gains stored less 1, embeddings scaled by
 * sqrt(hidden) in front of the blocks but not in the tied head, tanh-GELU gates.
 */
import type { ConfigObject } from "../config.js";
import type { NormPlaces } from "../decoder.js";
import { readActivation, readHeads, readLocalLayers, readWindows } from "../decoder-config.js";
import { gatedFamily, perHeadNorm, readRmsNorm, type GatedVariations } from "../gated-decoder.js";
import type { Norm } from "../pieces.js";
import { readRotaryTable } from "../rotary.js";

const TANH_GELU = "gelu_pytorch_tanh";

/** Norms around both branches. */
const PRE_AND_POST_NORM: NormPlaces = {
  beforeAttention: "input_layernorm",
  afterAttention: "post_attention_layernorm",
  beforeMlp: "pre_feedforward_layernorm",
  afterMlp: "post_feedforward_layernorm",
};

function readNorm(values: ConfigObject): Norm {
  return { ...readRmsNorm(values), isGainFromOne: true };
}

function common(values: ConfigObject): GatedVariations {
  const hiddenSize = values.count("hidden_size");
  return {
    norm: readNorm(values),
    heads: readHeads(values, hiddenSize, 256),
    embeddingScale: Math.sqrt(hiddenSize),
    isTiedByDefault: true,
  };
}

/** Released files that only have `hidden_act` say "gelu" and were trained with the tanh form. */
function readFirstActivation(values: ConfigObject): GatedVariations["activation"] {
  const activation = readActivation(values, values.keyAmong("hidden_activation", "hidden_act"), TANH_GELU);
  return activation === "gelu" && !values.has("hidden_activation") ? "gelu-tanh" : activation;
}

function withPostNorms(values: ConfigObject): GatedVariations {
  return {
    ...common(values),
    norms: PRE_AND_POST_NORM,
    activation: readActivation(values, "hidden_activation", TANH_GELU),
    attentionScale: values.number("query_pre_attn_scalar", 256) ** -0.5,
  };
}

/** One rotary table for layers with a window, another for those without. */
export function readTwoBases(
  values: ConfigObject,
  headDim: number,
  isLocal: (layer: number) => boolean,
): Pick<GatedVariations, "rotaryOf" | "rotaryTables"> {
  const local = { thetaKeys: ["rope_local_base_freq"], layerKind: "sliding_attention", isUnscaled: true } as const;
  return {
    rotaryOf: (layer) => (isLocal(layer) ? "local" : "global"),
    rotaryTables: new Map([
      ["global", readRotaryTable(values, headDim, { theta: 1e6, layerKind: "full_attention" })],
      ["local", readRotaryTable(values, headDim, local)],
    ]),
  };
}

export const GEMMA = gatedFamily(
  "gemma",
  ["norm gains stored less 1", "scaled embeddings", "multi-query attention", "tanh-GELU gate"],
  (values) => ({ ...common(values), activation: readFirstActivation(values) }),
);

export const GEMMA2 = gatedFamily(
  "gemma2",
  ["norms before and after each branch", "softcaps on scores and logits", "alternating windows"],
  (values) => ({
    ...withPostNorms(values),
    attentionSoftcap: values.numberOrNull("attn_logit_softcapping", 50),
    logitSoftcap: values.numberOrNull("final_logit_softcapping", 30),
    windowOf: readWindows(values, (layer) => layer % 2 === 0, 4096),
  }),
);

export const GEMMA3_TEXT = gatedFamily(
  "gemma3_text",
  ["two rotary bases", "norms of queries and keys", "every sixth layer without a window"],
  (values) => {
    const pattern = values.number(values.keyAmong("sliding_window_pattern", "_sliding_window_pattern"), 6);
    const isLocal = readLocalLayers(values, (layer) => (layer + 1) % pattern !== 0);
    const variations = withPostNorms(values);
    const headDim = variations.heads?.headDim ?? 256;
    return {
      ...variations,
      headNorm: perHeadNorm(readNorm(values)),
      attentionSoftcap: values.numberOrNull("attn_logit_softcapping"),
      logitSoftcap: values.numberOrNull("final_logit_softcapping"),
      windowOf: readWindows(values, isLocal, 4096),
      ...readTwoBases(values, headDim, isLocal),
    };
  },
);
