/** OLMo 3: OLMo 2 with windows on three of four layers; a scaling of positions is meant for the others alone. */
import { readHeads, readLocalLayers, readWindows } from "../decoder-config.js";
import { gatedFamily, perHeadNorm, POST_NORM, readRmsNorm } from "../gated-decoder.js";
import { readRotaryTable } from "../rotary.js";

export const OLMO3 = gatedFamily(
  "olmo3",
  [
    "norms on what the branches return",
    "RMS norm over all query heads and over all key heads",
    "sliding window on some layers",
    "rotary scaling on layers without a window",
  ],
  (values) => {
    const norm = readRmsNorm(values);
    const { headDim } = readHeads(values, values.count("hidden_size"));
    const isLocal = readLocalLayers(values, (layer) => (layer + 1) % 4 !== 0);
    const windowOf = readWindows(values, isLocal);
    return {
      norm,
      norms: POST_NORM,
      hasMlpBias: false,
      headNorm: perHeadNorm(norm, "all-heads"),
      windowOf,
      rotaryOf: (layer) => (isLocal(layer) ? "local" : "global"),
      rotaryTables: new Map([
        ["global", readRotaryTable(values, headDim, { layerKind: "full_attention" })],
        ["local", readRotaryTable(values, headDim, { layerKind: "sliding_attention", isUnscaled: true })],
      ]),
    };
  },
);
