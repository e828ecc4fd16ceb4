/** Phi-3 and 3.5: q, k, v stored as one tensor, gate and up as another; longrope; a window on every layer. */
import { readHeads, readWindows } from "../decoder-config.js";
import { gatedFamily, readRmsNorm } from "../gated-decoder.js";
import { readRotaryTable } from "../rotary.js";

export const PHI3 = gatedFamily(
  "phi3",
  ["fused qkv and gate_up, pruned as q, k, v, gate, up", "partial rotary", "longrope rotary scaling", "sliding window"],
  (values) => {
    const heads = readHeads(values, values.count("hidden_size"));
    return {
      norm: readRmsNorm(values, 1e-5),
      heads,
      isFused: true,
      windowOf: readWindows(values, () => true),
      rotaryTables: new Map([["default", readRotaryTable(values, heads.headDim, { fraction: 1 })]]),
    };
  },
);
