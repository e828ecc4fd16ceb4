/** Apertus: llama with normed heads and a plain MLP whose activation, xIELU, is trained layer by layer. */
import type { Architecture } from "../architecture.js";
import type { ModelConfig } from "../config.js";
import { readHeads, type HasTensor } from "../decoder-config.js";
import { describeGatedDecoder, perHeadNorm, readRmsNorm } from "../gated-decoder.js";
import { readPlainMlp } from "../mlp.js";
import { readRotaryTable } from "../rotary.js";
import { DECODER_EDIT } from "../family-edit.js";
import type { Family } from "../family.js";

/** What the library has where a config has no scaling. */
const SCALING = {
  rope_type: "llama3",
  rope_theta: 12e6,
  factor: 8,
  original_max_position_embeddings: 8192,
  low_freq_factor: 1,
  high_freq_factor: 4,
};

function describe(config: ModelConfig, hasTensor: HasTensor): Architecture {
  const { values } = config;
  if (values.string("hidden_act", "xielu") !== "xielu") throw values.refuse("hidden_act", '"xielu"');
  const norm = readRmsNorm(values, 1e-5);
  const { headDim } = readHeads(values, values.count("hidden_size"));
  return describeGatedDecoder("apertus", config, hasTensor, {
    norm,
    norms: { beforeAttention: "attention_layernorm", beforeMlp: "feedforward_layernorm" },
    headNorm: perHeadNorm(norm),
    rotaryTables: new Map([["default", readRotaryTable(values, headDim, { theta: 12e6, scaling: SCALING })]]),
    mlpOf(layer) {
      const path = `model.layers.${layer}.mlp.act_fn`;
      const isStored = { beta: hasTensor(`${path}.beta`), eps: hasTensor(`${path}.eps`) };
      return readPlainMlp(values, { activation: { kind: "xielu", path: "mlp.act_fn", isStored }, hasBias: false });
    },
  });
}

export const APERTUS: Family = {
  name: "apertus",
  modelTypes: ["apertus"],
  exercises: ["xIELU without a gate", "q/k norm per head", "llama3 rotary scaling by default"],
  edit: DECODER_EDIT,
  describe,
};
