/** Arcee (AFM): llama with a plain MLP of squared ReLU. */
import { readActivation } from "../decoder-config.js";
import { gatedFamily, readRmsNorm } from "../gated-decoder.js";
import { readPlainMlp } from "../mlp.js";

export const ARCEE = gatedFamily("arcee", ["squared ReLU without a gate", "grouped-query attention"], (values) => ({
  norm: readRmsNorm(values),
  mlpOf: () =>
    readPlainMlp(values, {
      activation: readActivation(values, "hidden_act"),
      hasBias: values.boolean("mlp_bias", false),
    }),
}));
