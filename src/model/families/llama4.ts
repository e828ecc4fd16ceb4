/**
 * The text part of Llama 4: attention within chunks and, on every fourth layer, over everything without positions but
 * with queries that grow with theirs; mixtures of one expert chosen by a sigmoid, which scales what the expert reads,
 * and one that all tokens share.
 */
import type { Architecture } from "../architecture.js";
import type { HeadNorm } from "../attention.js";
import type { Branch } from "../branch.js";
import type { ConfigObject, ModelConfig } from "../config.js";
import { readActivation, readLayerKinds, type HasTensor } from "../decoder-config.js";
import { describeGatedDecoder, readRmsNorm } from "../gated-decoder.js";
import { gatedMlp } from "../mlp.js";
import { mixtureBranch } from "../moe.js";
import type { Projection } from "../pieces.js";
import type { Family } from "../family.js";

/** Which layers have positions: those flagged 1 in `no_rope_layers`, whatever the name says. */
function readRotaryLayers(values: ConfigObject, layers: number): (layer: number) => boolean {
  const interval = values.count("no_rope_layer_interval");
  const flags = values.numbers("no_rope_layers");
  if (flags === undefined || flags.length === 0) return (layer) => (layer + 1) % interval !== 0;
  if (flags.length < layers) throw values.refuse("no_rope_layers", `a list of ${layers}`);
  return (layer) => flags[layer] !== 0;
}

function readExpertLayers(values: ConfigObject): (layer: number) => boolean {
  const step = values.count("interleave_moe_layer_step");
  const listed = values.numbers("moe_layers");
  return (layer) => (listed === undefined ? (layer + 1) % step === 0 : listed.includes(layer));
}

function dense(values: ConfigObject, hiddenSize: number): Branch {
  const width = values.count("intermediate_size_mlp");
  const at = (name: string, inFeatures: number, outFeatures: number): Projection => ({
    path: `feed_forward.${name}`,
    inFeatures,
    outFeatures,
    hasBias: false,
  });
  return gatedMlp({
    activation: readActivation(values, "hidden_act"),
    gate: at("gate_proj", hiddenSize, width),
    up: at("up_proj", hiddenSize, width),
    down: at("down_proj", width, hiddenSize),
  });
}

function mixture(values: ConfigObject, hiddenSize: number): Branch {
  const width = values.count("intermediate_size");
  return mixtureBranch({
    hiddenSize,
    width,
    activation: readActivation(values, "hidden_act"),
    router: {
      path: "feed_forward.router",
      experts: values.count("num_local_experts"),
      chosen: values.count("num_experts_per_tok"),
      isRenormalized: false,
      scores: "sigmoid",
    },
    experts: { path: "feed_forward.experts", layout: { kind: "stacked", inputAxis: 0 } },
    isInputScaled: true,
    shared: { path: "feed_forward.shared_expert", width },
  });
}

function describe(config: ModelConfig, hasTensor: HasTensor): Architecture {
  const { values } = config;
  const hiddenSize = values.count("hidden_size");
  const layers = values.count("num_hidden_layers");
  const norm = readRmsNorm(values);
  const hasRotary = readRotaryLayers(values, layers);
  const kindOf = readLayerKinds(values, ["full_attention", "chunked_attention"], (layer) =>
    hasRotary(layer) ? "chunked_attention" : "full_attention",
  );
  const hasExperts = readExpertLayers(values);
  const chunk = values.numberOrNull("attention_chunk_size");
  const headNorm: HeadNorm = { norm, query: "", key: "", gain: "none", isAfterRotation: true };
  const growth = { strength: values.number("attn_scale"), step: values.count("floor_scale"), offset: 1 };
  const isGrowing = values.boolean("attn_temperature_tuning");
  const isNormed = values.boolean("use_qk_norm");
  return describeGatedDecoder("llama4_text", config, hasTensor, {
    norm,
    rotaryOf: (layer) => (hasRotary(layer) ? "default" : undefined),
    isRotaryInterleaved: true,
    chunkOf: (layer) => (kindOf(layer) === "chunked_attention" ? chunk : undefined),
    headNormOf: (layer) => (isNormed && hasRotary(layer) ? headNorm : undefined),
    queryGrowthOf: (layer) => (isGrowing && !hasRotary(layer) ? growth : undefined),
    mlpOf: (layer) => (hasExperts(layer) ? mixture(values, hiddenSize) : dense(values, hiddenSize)),
  });
}

export const LLAMA4_TEXT: Family = {
  name: "llama4_text",
  modelTypes: ["llama4_text"],
  exercises: [
    "attention within chunks",
    "layers without rotary positions, whose queries grow with their position",
    "norm of queries and keys without a gain",
    "one expert by sigmoid, which scales its input, and a shared one",
    "dense layers among sparse ones",
  ],
  edit: {
    layers: ["num_hidden_layers"],
    width: ["intermediate_size_mlp"],
    experts: ["num_local_experts", "num_experts"],
    lists: { layer_types: ["full_attention", "chunked_attention"], no_rope_layers: [1, 0] },
    mixtures: "moe_layers",
  },
  describe,
};
