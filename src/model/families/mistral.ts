/** Mistral: llama with a sliding window on every layer. */
import { readWindows } from "../decoder-config.js";
import { gatedFamily } from "../gated-decoder.js";

export const MISTRAL = gatedFamily(
  "mistral",
  ["sliding window on every layer", "grouped-query attention"],
  (values) => ({
    windowOf: readWindows(values, () => true),
  }),
);
