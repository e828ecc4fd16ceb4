/** Nemotron: layer norms whose gain is stored less 1, squared ReLU without a gate, rotary on half of each head. */
import { readActivation, readHeads } from "../decoder-config.js";
import { gatedFamily } from "../gated-decoder.js";
import { readPlainMlp } from "../mlp.js";
import { readRotaryTable } from "../rotary.js";

export const NEMOTRON = gatedFamily(
  "nemotron",
  ["layer norm gains stored less 1", "squared ReLU without a gate", "partial rotary"],
  (values) => {
    const { headDim } = readHeads(values, values.count("hidden_size"));
    const fractionKeys = ["partial_rotary_factor", "rope_percent"] as const;
    return {
      norm: { kind: "layer", epsilon: values.number("norm_eps"), hasBias: true, isGainFromOne: true },
      rotaryTables: new Map([["default", readRotaryTable(values, headDim, { isPartial: true, fractionKeys })]]),
      mlpOf: () =>
        readPlainMlp(values, {
          activation: readActivation(values, "hidden_act"),
          hasBias: values.boolean("mlp_bias", false),
        }),
    };
  },
);
