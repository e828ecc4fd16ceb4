/** Granite: llama with multipliers on embeddings, scores, branches and logits. */
import { gatedFamily } from "../gated-decoder.js";

export const GRANITE = gatedFamily(
  "granite",
  ["multipliers of embeddings, scores and branches", "scaled logits"],
  (values) => ({
    embeddingScale: values.number("embedding_multiplier", 1),
    attentionScale: values.number("attention_multiplier", 1),
    residualMultiplier: values.number("residual_multiplier", 1),
    logitScale: 1 / values.number("logits_scaling", 1),
  }),
);
