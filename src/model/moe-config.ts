/** What several families' config.json files say about their mixtures of experts. */
import type { Branch } from "./branch.js";
import type { ConfigObject } from "./config.js";
import { readActivation } from "./decoder-config.js";
import { findStackedExperts, mixtureBranch, type SharedExpertSpec } from "./moe.js";
import type { RouterSpec } from "./moe.js";

export type ShapeOf = (name: string) => readonly number[] | undefined;

/** The layers that are mixtures: every `decoder_sparse_step`-th one, except those of `mlp_only_layers`. */
export function readSparseLayers(values: ConfigObject): (layer: number) => boolean {
  const step = values.count("decoder_sparse_step", 1);
  const dense = new Set(values.numbers("mlp_only_layers") ?? []);
  return (layer) => !dense.has(layer) && (layer + 1) % step === 0;
}

/**
 * Experts of `moe_intermediate_size` as <block>.mlp.experts, one by one or stacked, chosen by <block>.mlp.gate.
 * @param block whole module path of the layer
 */
export function readMixture(
  values: ConfigObject,
  block: string,
  shapeOf: ShapeOf,
  parts: { readonly router: Omit<RouterSpec, "path" | "chosen">; readonly shared?: SharedExpertSpec },
): Branch {
  const hiddenSize = values.count("hidden_size");
  const { router, shared } = parts;
  return mixtureBranch({
    hiddenSize,
    width: values.count("moe_intermediate_size"),
    activation: readActivation(values, "hidden_act", "silu"),
    router: { ...router, path: "mlp.gate", chosen: values.count("num_experts_per_tok") },
    experts: {
      path: "mlp.experts",
      layout: findStackedExperts(`${block}.mlp.experts`, hiddenSize, shapeOf) ?? {
        kind: "separate",
        gate: "gate_proj",
        up: "up_proj",
        down: "down_proj",
      },
    },
    ...(shared === undefined ? {} : { shared }),
  });
}

/** The router as the Qwen families describe it. */
export function readQwenRouter(values: ConfigObject): Omit<RouterSpec, "path" | "chosen"> {
  return { experts: values.count("num_experts"), isRenormalized: values.boolean("norm_topk_prob", false) };
}
