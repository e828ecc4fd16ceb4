/** StarCoder2: layer norms, a plain MLP, biases everywhere, grouped-query attention within a window. */
import { readActivation, readWindows } from "../decoder-config.js";
import { gatedFamily } from "../gated-decoder.js";
import { readPlainMlp } from "../mlp.js";

export const STARCODER2 = gatedFamily(
  "starcoder2",
  ["layer norm with a plain MLP", "biases everywhere", "sliding window on every layer", "tied by default"],
  (values) => {
    const hasBias = values.boolean("use_bias");
    return {
      norm: { kind: "layer", epsilon: values.number("norm_epsilon"), hasBias: true },
      hasInputBias: hasBias,
      hasOutputBias: hasBias,
      windowOf: readWindows(values, () => true),
      mlpOf: () =>
        readPlainMlp(values, {
          activation: readActivation(values, "hidden_act"),
          hasBias,
          names: { up: "c_fc", down: "c_proj" },
        }),
    };
  },
);
