/** GLM-4 (0414): norms before and after each branch, interleaved rotary on half of each head, gate and up as one. */
import type { NormPlaces } from "../decoder.js";
import { readHeads } from "../decoder-config.js";
import { gatedFamily } from "../gated-decoder.js";
import { readRotaryTable } from "../rotary.js";

const NORMS: NormPlaces = {
  beforeAttention: "input_layernorm",
  afterAttention: "post_self_attn_layernorm",
  beforeMlp: "post_attention_layernorm",
  afterMlp: "post_mlp_layernorm",
};

export const GLM4 = gatedFamily(
  "glm4",
  [
    "norms before and after each branch",
    "partial interleaved rotary",
    "q/k/v bias",
    "fused gate_up, pruned as gate, up",
  ],
  (values) => {
    const heads = readHeads(values, values.count("hidden_size"));
    return {
      norms: NORMS,
      heads,
      hasInputBias: values.boolean("attention_bias"),
      hasOutputBias: false,
      hasMlpBias: false,
      isGateUpFused: true,
      isRotaryInterleaved: true,
      rotaryTables: new Map([["default", readRotaryTable(values, heads.headDim, { isPartial: true })]]),
    };
  },
);
