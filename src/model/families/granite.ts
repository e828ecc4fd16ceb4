/** Granite: llama with multipliers on embeddings, scores, branches and logits. */
import type { ConfigObject } from "../config.js";
import { gatedFamily, type GatedVariations } from "../gated-decoder.js";

export function readMultipliers(values: ConfigObject): GatedVariations {
  return {
    embeddingScale: values.number("embedding_multiplier", 1),
    attentionScale: values.number("attention_multiplier", 1),
    residualMultiplier: values.number("residual_multiplier", 1),
    logitScale: 1 / values.number("logits_scaling", 1),
  };
}

export const GRANITE = gatedFamily(
  "granite",
  ["multipliers of embeddings, scores and branches", "scaled logits"],
  readMultipliers,
);
