/**
 * Granite MoE: granite's multipliers, all experts of a layer in two stacked tensors, and in the shared form an expert
 * beside them that all tokens use.
 */
import type { Architecture } from "../architecture.js";
import type { ConfigObject, ModelConfig } from "../config.js";
import { readActivation, type HasTensor } from "../decoder-config.js";
import { describeGatedDecoder } from "../gated-decoder.js";
import { mixtureBranch, type SharedExpertSpec } from "../moe.js";
import { mixtureEdit } from "../family-edit.js";
import type { Family } from "../family.js";
import { readMultipliers } from "./granite.js";

const NAMES = { gateUp: "input_linear.weight", down: "output_linear.weight" };

function readShared(values: ConfigObject): SharedExpertSpec | undefined {
  const width = values.number("shared_intermediate_size");
  const fused = { gateUp: "input_linear", down: "output_linear" };
  return width === 0 ? undefined : { path: "shared_mlp", width: values.count("shared_intermediate_size"), fused };
}

function granite(name: string, exercises: readonly string[], sharedOf: typeof readShared): Family {
  const describe = (config: ModelConfig, hasTensor: HasTensor): Architecture => {
    const { values } = config;
    const shared = sharedOf(values);
    const mixture = mixtureBranch({
      hiddenSize: values.count("hidden_size"),
      width: values.count("intermediate_size"),
      activation: readActivation(values, "hidden_act"),
      router: {
        path: "block_sparse_moe.router.layer",
        experts: values.count("num_local_experts"),
        chosen: values.count("num_experts_per_tok"),
        isRenormalized: true, // a softmax over the chosen alone
      },
      experts: { path: "block_sparse_moe", layout: { kind: "stacked", inputAxis: 1, names: NAMES } },
      ...(shared === undefined ? {} : { shared }),
    });
    return describeGatedDecoder(name, config, hasTensor, { ...readMultipliers(values), mlpOf: () => mixture });
  };
  return { name, modelTypes: [name], exercises, edit: mixtureEdit(["num_local_experts"]), describe };
}

export const GRANITEMOE = granite(
  "granitemoe",
  ["mixture of experts stored stacked, pruned one by one", "multipliers of embeddings, scores and branches"],
  () => undefined,
);

export const GRANITEMOESHARED = granite(
  "granitemoeshared",
  ["mixture of experts stored stacked, pruned one by one", "shared expert with fused gate and up"],
  readShared,
);
