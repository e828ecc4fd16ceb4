/** StarCoder2: layer norms, a plain MLP, biases everywhere, grouped-query attention within a window. */
import { readActivation, readHeads, readWindows } from "../decoder-config.js";
import { gatedFamily } from "../gated-decoder.js";
import { readPlainMlp } from "../mlp.js";

export const STARCODER2 = gatedFamily(
  "starcoder2",
  ["layer norm with a plain MLP", "biases everywhere", "sliding window on every layer", "tied by default"],
  (values) => {
    const hasBias = values.boolean("use_bias", true);
    return {
      norm: { kind: "layer", epsilon: values.number("norm_epsilon", 1e-5), hasBias: true },
      heads: readHeads(values, values.count("hidden_size"), undefined, 2),
      hasInputBias: hasBias,
      hasOutputBias: hasBias,
      windowOf: readWindows(values, () => true),
      isTiedByDefault: true,
      mlpOf: () =>
        readPlainMlp(values, {
          activation: readActivation(values, "hidden_act", "gelu_pytorch_tanh"),
          hasBias,
          names: { up: "c_fc", down: "c_proj" },
        }),
    };
  },
);
