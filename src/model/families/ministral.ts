/**
 * Ministral 8B and the Ministral 3 models: mistral with windows on the layers that the config names; in Ministral 3
 * queries grow with their position beyond the context the model was trained with first.
 */
import { readWindows } from "../decoder-config.js";
import { gatedFamily } from "../gated-decoder.js";

export const MINISTRAL = gatedFamily(
  "ministral",
  ["sliding window on some layers", "grouped-query attention"],
  (values) => ({
    windowOf: readWindows(values, () => true),
  }),
);

/** Tokens of the context that a model was trained with first, where its scaling does not say. */
const TRAINED = 16384;

export const MINISTRAL3 = gatedFamily(
  "ministral3",
  ["yarn by default", "queries that grow with their position", "explicit head_dim"],
  (values) => {
    const parameters = values.object("rope_parameters") ?? values.object("rope_scaling");
    const strength = parameters?.number("llama_4_scaling_beta", 0) ?? 0;
    const growth = {
      strength,
      step: parameters?.number("original_max_position_embeddings", TRAINED) ?? TRAINED,
      offset: 0,
    };
    return {
      hasInputBias: false,
      hasOutputBias: false,
      hasMlpBias: false,
      windowOf: readWindows(values, () => true),
      queryGrowthOf: () => (strength === 0 ? undefined : growth),
    };
  },
);
