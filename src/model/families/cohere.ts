/** Cohere (Command R): both branches read one layer norm without bias; neighbouring dimensions are rotated together. */
import { gatedFamily, perHeadNorm, PRE_NORM } from "../gated-decoder.js";
import type { Norm } from "../pieces.js";

export const COHERE = gatedFamily(
  "cohere",
  ["parallel branches with one norm", "interleaved rotary", "layer norm of every query and key head", "scaled logits"],
  (values) => {
    const norm: Norm = { kind: "layer", epsilon: values.number("layer_norm_eps", 1e-5) };
    return {
      norm,
      norms: { ...PRE_NORM, beforeMlp: "input_layernorm" },
      residual: "parallel",
      headNorm: values.boolean("use_qk_norm", false) ? perHeadNorm(norm, "own") : undefined,
      isRotaryInterleaved: true,
      logitScale: values.number("logit_scale", 0.0625),
      isTiedByDefault: true,
    };
  },
);
