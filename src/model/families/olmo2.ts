/** OLMo 2: no norm in front of the branches but one behind each; queries and keys are normed over all heads at once. */
import { gatedFamily, perHeadNorm, POST_NORM, readRmsNorm } from "../gated-decoder.js";

export const OLMO2 = gatedFamily(
  "olmo2",
  ["norms on what the branches return", "RMS norm over all query heads and over all key heads"],
  (values) => {
    const norm = readRmsNorm(values, 1e-5);
    return {
      norm,
      norms: POST_NORM,
      headNorm: perHeadNorm(norm, "all-heads"),
    };
  },
);
