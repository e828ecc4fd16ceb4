/**
 * Cohere (Command R): both branches read one layer norm without bias; neighbouring dimensions are rotated together. In
 * Cohere 2 (Command R7B, Command A) some layers have windows, and the others no positions.
 */
import type { ConfigObject } from "../config.js";
import { readLocalLayers, readWindows } from "../decoder-config.js";
import { type GatedVariations, gatedFamily, perHeadNorm, PRE_NORM } from "../gated-decoder.js";
import type { Norm } from "../pieces.js";

function common(values: ConfigObject): GatedVariations {
  return {
    norm: readNorm(values),
    norms: { ...PRE_NORM, beforeMlp: "input_layernorm" },
    residual: "parallel",
    isRotaryInterleaved: true,
    logitScale: values.number("logit_scale"),
  };
}

function readNorm(values: ConfigObject): Norm {
  return { kind: "layer", epsilon: values.number("layer_norm_eps") };
}

export const COHERE = gatedFamily(
  "cohere",
  ["parallel branches with one norm", "interleaved rotary", "layer norm of every query and key head", "scaled logits"],
  (values) => ({
    ...common(values),
    headNorm: values.boolean("use_qk_norm", false) ? perHeadNorm(readNorm(values), "own") : undefined,
  }),
);

export const COHERE2 = gatedFamily(
  "cohere2",
  ["parallel branches with one norm", "interleaved rotary", "layers without windows have no positions"],
  (values) => {
    const pattern = values.count(values.keyAmong("sliding_window_pattern", "_sliding_window_pattern"));
    const isLocal = readLocalLayers(values, (layer) => (layer + 1) % pattern !== 0);
    return {
      ...common(values),
      windowOf: readWindows(values, isLocal),
      rotaryOf: (layer) => (isLocal(layer) ? "default" : undefined),
    };
  },
);
