/** ERNIE 4.5, dense: llama with neighbouring dimensions rotated together and one switch for all biases. */
import { readHeads } from "../decoder-config.js";
import { gatedFamily, readRmsNorm, type GatedVariations } from "../gated-decoder.js";
import { readRotaryTable } from "../rotary.js";
import type { ConfigObject } from "../config.js";

/** What the dense and the sparse models share. @param headDimDefault of the library; hidden / heads where absent */
export function readErnie(values: ConfigObject, headDimDefault?: number): GatedVariations {
  const hasBias = values.boolean("use_bias", false);
  const heads = readHeads(values, values.count("hidden_size"), headDimDefault, headDimDefault === undefined ? 4 : 2);
  return {
    norm: readRmsNorm(values, 1e-5),
    heads,
    hasInputBias: hasBias,
    hasOutputBias: hasBias,
    hasMlpBias: hasBias,
    isRotaryInterleaved: true,
    rotaryTables: new Map([["default", readRotaryTable(values, heads.headDim, { theta: 500000 })]]),
    isTiedByDefault: true,
  };
}

export const ERNIE4_5 = gatedFamily(
  "ernie4_5",
  ["interleaved rotary", "biases everywhere or nowhere", "explicit head_dim", "tied by default"],
  (values) => readErnie(values, 128),
);
