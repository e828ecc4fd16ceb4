/** ERNIE 4.5, dense: llama with neighbouring dimensions rotated together and one switch for all biases. */
import { gatedFamily, type GatedVariations } from "../gated-decoder.js";
import type { ConfigObject } from "../config.js";

/** What the dense and the sparse models share. */
export function readErnie(values: ConfigObject): GatedVariations {
  const hasBias = values.boolean("use_bias", false);
  return {
    hasInputBias: hasBias,
    hasOutputBias: hasBias,
    hasMlpBias: hasBias,
    isRotaryInterleaved: true,
  };
}

export const ERNIE4_5 = gatedFamily(
  "ernie4_5",
  ["interleaved rotary", "biases everywhere or nowhere", "explicit head_dim", "tied by default"],
  readErnie,
);
