/** Granite: llama with multipliers on embeddings, scores, branches and logits. */
import type { ConfigObject } from "../config.js";
import { gatedFamily, type GatedVariations } from "../gated-decoder.js";

export function readMultipliers(values: ConfigObject): GatedVariations {
  const factors = { kept: 1, added: values.number("residual_multiplier", 1) };
  return {
    embeddingScale: values.number("embedding_multiplier", 1),
    attentionScale: values.number("attention_multiplier", 1),
    residualFactorsOf: () => ({ attention: factors, mlp: factors }),
    logitScale: 1 / values.number("logits_scaling", 1),
  };
}

export const GRANITE = gatedFamily(
  "granite",
  ["multipliers of embeddings, scores and branches", "scaled logits"],
  readMultipliers,
);
