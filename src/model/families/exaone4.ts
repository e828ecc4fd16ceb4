/** EXAONE 4: norms behind the branches, normed heads; where some layers have windows the others have no positions. */
import { readWindows } from "../decoder-config.js";
import { gatedFamily, perHeadNorm, POST_NORM, readRmsNorm } from "../gated-decoder.js";

export const EXAONE4 = gatedFamily(
  "exaone4",
  ["norms on what the branches return", "q/k norm per head", "layers without windows have no positions"],
  (values) => {
    const norm = readRmsNorm(values);
    values.ignore("sliding_window_pattern"); // of layer_types' own making where those are there
    const hasWindows = values.raw("sliding_window") !== null;
    const isLocal = (layer: number): boolean => {
      const pattern = values.count("sliding_window_pattern"); // may be null or letters where layer_types say it
      return (layer + 1) % pattern !== 0;
    };
    const windowOf = readWindows(values, isLocal);
    return {
      norm,
      norms: POST_NORM,
      hasInputBias: false,
      hasOutputBias: false,
      hasMlpBias: false,
      headNorm: perHeadNorm(norm),
      windowOf,
      rotaryOf: (layer) => (!hasWindows || windowOf(layer) !== undefined ? "default" : undefined),
    };
  },
);
