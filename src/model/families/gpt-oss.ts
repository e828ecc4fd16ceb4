/**
 * gpt-oss (arXiv:2508.10925): a score per head that every softmax also pays attention to, windows on every second layer,
 * and mixtures whose experts have biases and a clamped gate, stored with gate and up outputs in turn.
 */
import type { Architecture } from "../architecture.js";
import type { ModelConfig } from "../config.js";
import { readHeads, readWindows, type HasTensor } from "../decoder-config.js";
import { describeGatedDecoder, readRmsNorm } from "../gated-decoder.js";
import { mixtureBranch } from "../moe.js";
import { readRotaryTable } from "../rotary.js";
import { mixtureEdit } from "../family-edit.js";
import type { Family } from "../family.js";

/** The class's own scaling, for configs without any. */
const YARN = {
  rope_type: "yarn",
  factor: 32,
  beta_fast: 32,
  beta_slow: 1,
  truncate: false,
  original_max_position_embeddings: 4096,
};

function describe(config: ModelConfig, hasTensor: HasTensor): Architecture {
  const { values } = config;
  const hiddenSize = values.count("hidden_size");
  const heads = readHeads(values, hiddenSize, 64);
  const hasBias = values.boolean("attention_bias", true);
  // Packed as they were released, inputs come last; the library writes them first.
  const inputAxisOf = (layer: number): 0 | 1 =>
    hasTensor(`model.layers.${layer}.mlp.experts.gate_up_proj_blocks`) ? 1 : 0;
  return describeGatedDecoder("gpt_oss", config, hasTensor, {
    norm: readRmsNorm(values, 1e-5),
    heads,
    hasInputBias: hasBias,
    hasOutputBias: hasBias,
    rotaryTables: new Map([["default", readRotaryTable(values, heads.headDim, { theta: 150000, scaling: YARN })]]),
    windowOf: readWindows(values, (layer) => layer % 2 === 0, 128),
    sinks: "self_attn.sinks",
    mlpOf: (layer) =>
      mixtureBranch({
        hiddenSize,
        width: values.count("intermediate_size"),
        activation: { alpha: values.number("swiglu_alpha", 1.702), limit: values.number("swiglu_limit", 7) },
        router: {
          path: "mlp.router",
          experts: values.countAmong("num_local_experts", "num_experts"),
          chosen: values.count("num_experts_per_tok", 4),
          isRenormalized: true, // a softmax over the chosen logits is a share of the one over all
          hasBias: true,
        },
        experts: {
          path: "mlp.experts",
          layout: { kind: "stacked", inputAxis: inputAxisOf(layer), isInterleaved: true, hasBias: true },
        },
      }),
  });
}

export const GPT_OSS: Family = {
  name: "gpt_oss",
  modelTypes: ["gpt_oss"],
  exercises: [
    "attention sinks",
    "alternating windows",
    "yarn",
    "experts with biases and a clamped gate, gate and up outputs in turn",
    "router with a bias",
  ],
  edit: mixtureEdit(["num_local_experts", "num_experts"]),
  describe,
};
