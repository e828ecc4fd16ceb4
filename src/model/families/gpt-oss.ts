/**
 * gpt-oss (arXiv:2508.10925): a score per head that every softmax also pays attention to, windows on every second layer,
 * and mixtures whose experts have biases and a clamped gate, stored with gate and up outputs in turn.
 */
import type { Architecture } from "../architecture.js";
import type { ModelConfig } from "../config.js";
import { readWindows, type HasTensor } from "../decoder-config.js";
import { describeGatedDecoder } from "../gated-decoder.js";
import { mixtureBranch } from "../moe.js";
import { mixtureEdit } from "../family-edit.js";
import type { Family } from "../family.js";

function describe(config: ModelConfig, hasTensor: HasTensor): Architecture {
  const { values } = config;
  const hiddenSize = values.count("hidden_size");
  const hasBias = values.boolean("attention_bias");
  return describeGatedDecoder("gpt_oss", config, hasTensor, {
    hasInputBias: hasBias,
    hasOutputBias: hasBias,
    windowOf: readWindows(values, (layer) => layer % 2 === 0),
    sinks: "self_attn.sinks",
    mlpOf: () =>
      mixtureBranch({
        hiddenSize,
        width: values.count("intermediate_size"),
        activation: { alpha: values.number("swiglu_alpha", 1.702), limit: values.number("swiglu_limit", 7) },
        router: {
          path: "mlp.router",
          experts: values.countAmong("num_local_experts", "num_experts"),
          chosen: values.count("num_experts_per_tok"),
          isRenormalized: true, // a softmax over the chosen logits is a share of the one over all
          hasBias: true,
        },
        experts: {
          path: "mlp.experts",
          layout: { kind: "stacked", inputAxis: 0, isInterleaved: true, hasBias: true },
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
