/**
 * Qwen3-Next and the text parts of Qwen3.5: three of four layers are gated delta nets, the others attention whose
 * outputs are gated; norm gains stored less 1; a quarter of each head is rotated.
 */
import type { Architecture } from "../architecture.js";
import type { Branch } from "../branch.js";
import type { ConfigObject, ModelConfig } from "../config.js";
import { readActivation, readHeads, readLayerKinds, type HasTensor } from "../decoder-config.js";
import { deltaNetBranch, type DeltaNetSpec } from "../delta-net.js";
import { describeGatedDecoder, perHeadNorm, readRmsNorm, type GatedVariations } from "../gated-decoder.js";
import { readMixture, readSparseLayers, type ShapeOf } from "../moe-config.js";
import type { Norm } from "../pieces.js";
import { readRotaryTable } from "../rotary.js";
import { DECODER_EDIT, type FamilyEdit } from "../family-edit.js";
import type { Family } from "../family.js";

function readDeltaNet(values: ConfigObject, layout: DeltaNetSpec["layout"]): DeltaNetSpec {
  const keyHeads = values.count("linear_num_key_heads");
  const valueHeads = values.count("linear_num_value_heads");
  if (valueHeads % keyHeads !== 0) throw values.refuse("linear_num_key_heads", `a divisor of ${valueHeads}`);
  return {
    hiddenSize: values.count("hidden_size"),
    keyHeads,
    valueHeads,
    keyDim: values.count("linear_key_head_dim"),
    valueDim: values.count("linear_value_head_dim"),
    kernel: values.count("linear_conv_kernel_dim"),
    activation: readActivation(values, "hidden_act"),
    norm: readRmsNorm(values),
    layout,
  };
}

/** What all of them have in common but the MLP. */
function readHybrid(values: ConfigObject, layout: DeltaNetSpec["layout"]): GatedVariations {
  const norm: Norm = { ...readRmsNorm(values), isGainFromOne: true };
  const heads = readHeads(values, values.count("hidden_size"));
  const interval = values.count("full_attention_interval");
  const kindOf = readLayerKinds(values, ["full_attention", "linear_attention"], (layer) =>
    (layer + 1) % interval === 0 ? "full_attention" : "linear_attention",
  );
  const deltaNet = deltaNetBranch(readDeltaNet(values, layout));
  return {
    norm,
    heads,
    headNorm: perHeadNorm(norm),
    hasOutputGate: true,
    rotaryTables: new Map([["default", readRotaryTable(values, heads.headDim, { isPartial: true })]]),
    attentionOf: (layer) => (kindOf(layer) === "linear_attention" ? deltaNet : undefined),
  };
}

function readExperts(values: ConfigObject, shapeOf: ShapeOf, layer: number, isRenormalized: boolean): Branch {
  const width = values.count("shared_expert_intermediate_size");
  return readMixture(values, `model.layers.${layer}`, shapeOf, {
    router: { experts: values.count("num_experts"), isRenormalized },
    shared: { path: "mlp.shared_expert", width, gate: "mlp.shared_expert_gate" },
  });
}

const HYBRID_EDIT: FamilyEdit = {
  ...DECODER_EDIT,
  lists: { layer_types: ["full_attention", "linear_attention"] },
};

const EXERCISES = [
  "gated delta net with a short convolution",
  "gated outputs of attention",
  "rotary positions in a part of each head",
  "norm gains stored less 1",
] as const;

function describeNext(config: ModelConfig, hasTensor: HasTensor, shapeOf: ShapeOf): Architecture {
  const { values } = config;
  const isSparse = readSparseLayers(values);
  const isRenormalized = values.boolean("norm_topk_prob");
  return describeGatedDecoder("qwen3_next", config, hasTensor, {
    ...readHybrid(values, "grouped"),
    mlpOf: (layer, dense) => (isSparse(layer) ? readExperts(values, shapeOf, layer, isRenormalized) : dense()),
  });
}

export const QWEN3_NEXT: Family = {
  name: "qwen3_next",
  modelTypes: ["qwen3_next"],
  exercises: [...EXERCISES, "projections fused per head", "mixture of experts with a shared one behind a gate"],
  edit: { ...HYBRID_EDIT, experts: ["num_experts", "num_local_experts"], mixtures: "mlp_only_layers" },
  describe: describeNext,
};

export const QWEN3_5_TEXT: Family = {
  name: "qwen3_5_text",
  modelTypes: ["qwen3_5_text"],
  exercises: EXERCISES,
  edit: HYBRID_EDIT,
  describe: (config, hasTensor) =>
    describeGatedDecoder("qwen3_5_text", config, hasTensor, readHybrid(config.values, "separate")),
};

export const QWEN3_5_MOE_TEXT: Family = {
  name: "qwen3_5_moe_text",
  modelTypes: ["qwen3_5_moe_text"],
  exercises: [...EXERCISES, "mixture of experts with a shared one behind a gate"],
  edit: { ...HYBRID_EDIT, experts: ["num_experts", "num_local_experts"] },
  describe: (config, hasTensor, shapeOf) =>
    describeGatedDecoder("qwen3_5_moe_text", config, hasTensor, {
      ...readHybrid(config.values, "separate"),
      mlpOf: (layer) => readExperts(config.values, shapeOf, layer, true),
    }),
};
