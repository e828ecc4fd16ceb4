/**
 * Ministral 8B and the Ministral 3 models: mistral with windows on the layers that the config names; in Ministral 3
 * queries grow with their position beyond the context the model was trained with first.
 */
import { readHeads, readWindows, readWindowsUnlessNull } from "../decoder-config.js";
import { gatedFamily, readRmsNorm } from "../gated-decoder.js";
import { readRotaryTable } from "../rotary.js";

export const MINISTRAL = gatedFamily(
  "ministral",
  ["sliding window on some layers", "grouped-query attention"],
  (values) => ({
    heads: readHeads(values, values.count("hidden_size"), undefined, 8),
    windowOf: readWindowsUnlessNull(values, () => true, 4096),
  }),
);

/** What the library has where a config has no scaling. */
const SCALING = {
  rope_type: "yarn",
  rope_theta: 1e6,
  factor: 16,
  original_max_position_embeddings: 16384,
  beta_fast: 32,
  beta_slow: 1,
  mscale: 1,
  mscale_all_dim: 1,
  llama_4_scaling_beta: 0.1,
};

export const MINISTRAL3 = gatedFamily(
  "ministral3",
  ["yarn by default", "queries that grow with their position", "explicit head_dim"],
  (values) => {
    const heads = readHeads(values, values.count("hidden_size"), 128, 8);
    const table = readRotaryTable(values, heads.headDim, { theta: 1e6, scaling: SCALING });
    const parameters = values.object("rope_parameters") ?? values.object("rope_scaling");
    const strength =
      parameters === undefined ? SCALING.llama_4_scaling_beta : parameters.number("llama_4_scaling_beta", 0);
    const original = parameters?.number("original_max_position_embeddings", 0) ?? 0;
    const growth = { strength, step: original === 0 ? SCALING.original_max_position_embeddings : original, offset: 0 };
    return {
      norm: readRmsNorm(values, 1e-5),
      heads,
      hasInputBias: false,
      hasOutputBias: false,
      hasMlpBias: false,
      windowOf: readWindows(values, () => true),
      rotaryTables: new Map([["default", table]]),
      queryGrowthOf: () => (strength === 0 ? undefined : growth),
    };
  },
);
