/** Mixtral: llama's attention, and in every layer a mixture of experts whose chosen weights are renormalised. */
import type { Architecture } from "../architecture.js";
import type { ModelConfig } from "../config.js";
import { readActivation, readWindows, type HasTensor } from "../decoder-config.js";
import { describeGatedDecoder, readRmsNorm } from "../gated-decoder.js";
import type { ShapeOf } from "../moe-config.js";
import { findStackedExperts, mixtureBranch, type ExpertLayout } from "../moe.js";
import type { Family } from "../family.js";

/** w1 is the gate, w3 the up and w2 the down projection. */
const NUMBERED: ExpertLayout = { kind: "separate", gate: "w1", up: "w3", down: "w2" };

function describe(config: ModelConfig, hasTensor: HasTensor, shapeOf: ShapeOf): Architecture {
  const { values } = config;
  const hiddenSize = values.count("hidden_size");
  return describeGatedDecoder("mixtral", config, hasTensor, {
    norm: readRmsNorm(values, 1e-5),
    windowOf: readWindows(values, () => true),
    mlpOf(layer) {
      // Stacked experts come with the newer libraries' module name.
      const stacked = findStackedExperts(`model.layers.${layer}.mlp.experts`, hiddenSize, shapeOf);
      const path = stacked === undefined ? "block_sparse_moe" : "mlp";
      return mixtureBranch({
        hiddenSize,
        width: values.count("intermediate_size"),
        activation: readActivation(values, "hidden_act", "silu"),
        router: {
          path: `${path}.gate`,
          experts: values.count("num_local_experts"),
          chosen: values.count("num_experts_per_tok", 2),
          isRenormalized: true,
        },
        experts: { path: `${path}.experts`, layout: stacked ?? NUMBERED },
      });
    },
  });
}

export const MIXTRAL: Family = {
  name: "mixtral",
  modelTypes: ["mixtral"],
  exercises: ["mixture of experts, chosen weights renormalised", "experts stored one by one or stacked"],
  describe,
};
