/** What several families' config.json files say about their mixtures of experts. */
import { CheckpointError } from "../errors.js";
import type { Branch } from "./branch.js";
import type { ConfigObject } from "./config.js";
import { readActivation } from "./decoder-config.js";
import { findStackedExperts, mixtureBranch, type ExpertLayout, type SharedExpertSpec } from "./moe.js";
import type { RouterSpec } from "./moe.js";

export type ShapeOf = (name: string) => readonly number[] | undefined;

/** The layers that are mixtures: every `decoder_sparse_step`-th one, except those of `mlp_only_layers`. */
export function readSparseLayers(values: ConfigObject): (layer: number) => boolean {
  const step = values.count("decoder_sparse_step", 1);
  const dense = new Set(values.numbers("mlp_only_layers") ?? []);
  return (layer) => !dense.has(layer) && (layer + 1) % step === 0;
}

/** Layers before `first_k_dense_replace` are dense, and of the others those that `moe_layer_freq` leaves out. */
export function readLayersAfterDense(values: ConfigObject): (layer: number) => boolean {
  const first = values.number("first_k_dense_replace", 0);
  const step = values.count("moe_layer_freq", 1);
  return (layer) => layer >= first && layer % step === 0;
}

/** What a mixture's router is, but for where it is and how many experts it chooses where those are the usual. */
export type RouterParts = Omit<RouterSpec, "path" | "chosen"> & Partial<Pick<RouterSpec, "path" | "chosen">>;

export interface MixtureParts {
  readonly router: RouterParts;
  /** Default: `moe_intermediate_size`. */
  readonly width?: number;
  readonly shared?: SharedExpertSpec;
}

/**
 * Experts of `moe_intermediate_size` as <block>.mlp.experts, one by one or stacked, chosen by <block>.mlp.gate.
 * @param block whole module path of the layer
 */
export function readMixture(values: ConfigObject, block: string, shapeOf: ShapeOf, parts: MixtureParts): Branch {
  const hiddenSize = values.count("hidden_size");
  const { router, shared } = parts;
  return mixtureBranch({
    hiddenSize,
    width: parts.width ?? values.count("moe_intermediate_size"),
    activation: readActivation(values, "hidden_act", "silu"),
    router: { path: "mlp.gate", ...router, chosen: router.chosen ?? values.count("num_experts_per_tok") },
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

/** w1 is the gate, w3 the up and w2 the down projection. */
const NUMBERED: ExpertLayout = { kind: "separate", gate: "w1", up: "w3", down: "w2" };

/**
 * Experts of `intermediate_size` as <block>.block_sparse_moe.experts, one by one, or stacked with the newer libraries'
 * module name: <block>.mlp.experts.
 * @param router its `experts`: default `num_local_experts`
 * @param correction name of the router's correction of scores beside its module, where it has one
 */
export function readNumberedMixture(
  values: ConfigObject,
  block: string,
  shapeOf: ShapeOf,
  router: Omit<RouterSpec, "path" | "experts" | "correction"> & { readonly experts?: number },
  correction?: string,
): Branch {
  const hiddenSize = values.count("hidden_size");
  const { experts = values.count("num_local_experts") } = router;
  const stacked = findStackedExperts(`${block}.mlp.experts`, hiddenSize, shapeOf);
  const path = stacked === undefined ? "block_sparse_moe" : "mlp";
  return mixtureBranch({
    hiddenSize,
    width: values.count("intermediate_size"),
    activation: readActivation(values, "hidden_act", "silu"),
    router: {
      ...router,
      path: `${path}.gate`,
      experts,
      ...(correction === undefined ? {} : { correction: { role: `${path}.${correction}`, shape: [experts] } }),
    },
    experts: { path: `${path}.experts`, layout: stacked ?? NUMBERED },
  });
}

/** The router as the Qwen families describe it. */
export function readQwenRouter(values: ConfigObject): RouterParts {
  return { experts: values.count("num_experts"), isRenormalized: values.boolean("norm_topk_prob", false) };
}

/** Dense layers first, then mixtures with DeepSeek-V3's router and experts that all tokens share. */
export function readCorrectedMixtures(
  values: ConfigObject,
  shapeOf: ShapeOf,
): (layer: number, dense: () => Branch) => Branch {
  const hasExperts = readLayersAfterDense(values);
  return (layer, dense) =>
    hasExperts(layer)
      ? readMixture(values, `model.layers.${layer}`, shapeOf, {
          router: readCorrectedRouter(values),
          ...readSharedExperts(values),
        })
      : dense();
}

/**
 * Sigmoid scores; a correction per expert that counts in the choice alone; groups by the sum of their two best
 * (DeepSeek-V3, arXiv:2412.19437, section 2.1.2).
 */
function readCorrectedRouter(values: ConfigObject): RouterParts {
  const experts = values.count("n_routed_experts");
  const chosen = values.count("num_experts_per_tok");
  const limit = { groups: values.count("n_group"), kept: values.count("topk_group") };
  requireGroups(experts, chosen, limit);
  return {
    experts,
    chosen,
    isRenormalized: values.boolean("norm_topk_prob", false),
    scale: values.number("routed_scaling_factor"),
    scores: "sigmoid",
    correction: { role: "mlp.gate.e_score_correction_bias", shape: [experts] },
    ...(limit.groups === 1 ? {} : { limit: { ...limit, by: "best-two" } }),
  };
}

/** @throws CheckpointError unless all that is chosen can be chosen from the groups that are kept */
export function requireGroups(
  experts: number,
  chosen: number,
  { groups, kept }: { readonly groups: number; readonly kept: number },
): void {
  if (experts % groups === 0 && kept <= groups && chosen <= (experts / groups) * kept) return;
  throw new CheckpointError(
    "E_CONFIG",
    `config.json: ${chosen} of ${experts} experts cannot be chosen from ${kept} of ${groups} groups; expected "n_group" to divide "n_routed_experts" and to be at least "topk_group", and as many experts in the groups that are kept as are chosen.`,
    { details: { experts, chosen, groups, kept } },
  );
}

/** `n_shared_experts` side by side, as one of that many times the width of an expert; none where the key is missing. */
export function readSharedExperts(values: ConfigObject): { readonly shared?: SharedExpertSpec } {
  if (!values.has("n_shared_experts")) return {};
  const width = values.count("moe_intermediate_size") * values.count("n_shared_experts");
  return { shared: { path: "mlp.shared_experts", width } };
}
