/** Apertus: llama with normed heads and a plain MLP whose activation, xIELU, is trained layer by layer. */
import type { Architecture } from "../architecture.js";
import type { ModelConfig } from "../config.js";
import type { HasTensor } from "../decoder-config.js";
import { describeGatedDecoder, perHeadNorm, readRmsNorm } from "../gated-decoder.js";
import { readPlainMlp } from "../mlp.js";
import { DECODER_EDIT } from "../family-edit.js";
import type { Family } from "../family.js";

function describe(config: ModelConfig, hasTensor: HasTensor): Architecture {
  const { values } = config;
  if (values.string("hidden_act") !== "xielu") throw values.refuse("hidden_act", '"xielu"');
  const norm = readRmsNorm(values);
  return describeGatedDecoder("apertus", config, hasTensor, {
    norm,
    norms: { beforeAttention: "attention_layernorm", beforeMlp: "feedforward_layernorm" },
    headNorm: perHeadNorm(norm),
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
