/** StableLM 2: layer norms, partial rotary; the 12B form runs its branches side by side and norms every head. */
import { readHeads } from "../decoder-config.js";
import { gatedFamily, PRE_NORM } from "../gated-decoder.js";
import type { Norm } from "../pieces.js";
import { readRotaryTable } from "../rotary.js";

export const STABLELM = gatedFamily(
  "stablelm",
  ["layer norm with a gated MLP", "partial rotary", "parallel branches with one norm", "a norm of its own per head"],
  (values) => {
    const norm: Norm = { kind: "layer", epsilon: values.number("layer_norm_eps", 1e-5) };
    const heads = readHeads(values, values.count("hidden_size"));
    const isParallel = values.boolean("use_parallel_residual", false);
    const rotary = readRotaryTable(values, heads.headDim, { fraction: 0.25 });
    return {
      norm: { ...norm, hasBias: true },
      norms: isParallel ? { ...PRE_NORM, beforeMlp: "input_layernorm" } : PRE_NORM,
      residual: isParallel ? "parallel" : "sequential",
      heads,
      hasInputBias: values.boolean("use_qkv_bias", false),
      hasOutputBias: false,
      rotaryTables: new Map([["default", rotary]]),
      headNorm: values.boolean("qk_layernorm", false)
        ? {
            norm,
            query: "self_attn.q_layernorm.norms",
            key: "self_attn.k_layernorm.norms",
            gain: "listed",
          }
        : undefined,
    };
  },
);
