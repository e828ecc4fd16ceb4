/** Granite: llama with multipliers on embeddings, scores, branches and logits. */
import type { ConfigObject } from "../config.js";
import { gatedFamily, type GatedVariations } from "../gated-decoder.js";

export function readMultipliers(values: ConfigObject): GatedVariations {
  const factors = { kept: 1, added: values.number("residual_multiplier") };
  return {
    embeddingScale: values.number("embedding_multiplier"),
    attentionScale: values.number("attention_multiplier"),
    residualFactorsOf: () => ({ attention: factors, mlp: factors }),
    logitScale: 1 / values.number("logits_scaling"),
  };
}

export const GRANITE = gatedFamily(
  "granite",
  ["multipliers of embeddings, scores and branches", "scaled logits"],
  readMultipliers,
);
