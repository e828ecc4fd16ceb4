/**
 * The text part of Gemma 3n: several streams with alternating updates, an input of every block that is looked up for the
 * token, a low-rank map beside attention (Laurel, arXiv:2411.07501), gates of which only the largest pass in the first
 * layers, and last layers that attend to the keys and values of the last one before them with the same window.
 */
import type { Value } from "../../graph/graph.js";
import type { Architecture, StateSpec } from "../architecture.js";
import { alternatingStreams, alternatingUpdates, type AlternatingSpec } from "../alternating-updates.js";
import type { Branch } from "../branch.js";
import type { ConfigObject, ModelConfig } from "../config.js";
import {
  readActivation,
  readHeads,
  readLayerKinds,
  readWindows,
  type HasTensor,
  type HeadCounts,
} from "../decoder-config.js";
import { describeGatedDecoder, perHeadNorm, readRmsNorm, type SharedKeys } from "../gated-decoder.js";
import { gatedMlp } from "../mlp.js";
import {
  applyNorm,
  normShapes,
  project,
  projectionLinears,
  projectionShapes,
  type Norm,
  type Projection,
} from "../pieces.js";
import type { Family } from "../family.js";
import { readTwoBases } from "./gemma.js";

type LayerKind = "full_attention" | "sliding_attention";

function projection(path: string, inFeatures: number, outFeatures: number): Projection {
  return { path, inFeatures, outFeatures, hasBias: false };
}

/** A value of every layer, from a list of as many or one number for all. */
function readPerLayer(
  values: ConfigObject,
  key: string,
  fallback: (layer: number) => number,
): (layer: number) => number {
  if (typeof values.raw(key) === "number") return () => values.number(key);
  const layers = values.count("num_hidden_layers");
  const list = values.numbers(key);
  if (list === undefined) return fallback;
  if (list.length !== layers) throw values.refuse(key, `${layers} numbers, one of every layer`);
  return (layer) => list[layer] as number;
}

function readWidths(values: ConfigObject): (layer: number) => number {
  const widthOf = readPerLayer(values, "intermediate_size", () => 16384);
  return (layer) => {
    const width = widthOf(layer);
    if (!Number.isSafeInteger(width) || width < 1) throw values.refuse("intermediate_size", "positive whole numbers");
    return width;
  };
}

/** Which share of a layer's gates is to be 0: of the first ten of a deep model nearly all where the config is silent. */
function readGateSparsities(values: ConfigObject): (layer: number) => number {
  const layers = values.count("num_hidden_layers");
  const shareOf = readPerLayer(values, "activation_sparsity_pattern", (layer) =>
    layers > 10 && layer < 10 ? 0.95 : 0,
  );
  return (layer) => {
    const share = shareOf(layer);
    if (share < 0 || share >= 1) throw values.refuse("activation_sparsity_pattern", "shares from 0 to less than 1");
    return share;
  };
}

function readAlternating(values: ConfigObject, norm: Norm): AlternatingSpec {
  values.ignore("altup_coef_clip"); // of the library's training alone
  const streams = values.count("altup_num_inputs", 4);
  if (streams < 2) throw values.refuse("altup_num_inputs", "2 or more");
  const active = values.number("altup_active_idx", 0);
  if (!Number.isSafeInteger(active) || active < 0 || active >= streams)
    throw values.refuse("altup_active_idx", `one of ${streams} streams`);
  return {
    hiddenSize: values.count("hidden_size"),
    streams,
    active,
    norm,
    activation: readActivation(values, "hidden_activation", "gelu_pytorch_tanh"),
    isOutputScaled: values.boolean("altup_correct_scale", true),
  };
}

interface Sharing {
  /** The first layer that takes its keys and values. */
  readonly first: number;
  readonly sharedOf: (layer: number) => SharedKeys | undefined;
  readonly carried: StateSpec["carried"];
}

function readSharing(values: ConfigObject, kindOf: (layer: number) => LayerKind, heads: HeadCounts): Sharing {
  const key = "num_kv_shared_layers";
  const layers = values.count("num_hidden_layers");
  const shared = values.number(key, 15);
  if (!Number.isSafeInteger(shared) || shared < 0 || shared >= layers)
    throw values.refuse(key, `a whole number from 0 to ${layers - 1}`);
  const first = layers - shared;
  const kinds = [...new Set(Array.from({ length: shared }, (_, index) => kindOf(first + index)))];
  const givers = new Map(
    kinds.map((kind) => [
      kind,
      Array.from({ length: first }, (_, layer) => layer).findLast((each) => kindOf(each) === kind),
    ]),
  );
  for (const [kind, giver] of givers)
    if (giver === undefined) throw values.refuse(key, `so many that a layer of "${kind}" keeps its own keys`);
  const namesOf = (kind: LayerKind): SharedKeys["names"] => ({ key: `keys.${kind}`, value: `values.${kind}` });
  const width = heads.keyValueHeads * heads.headDim;
  return {
    first,
    carried: kinds.flatMap((kind) => Object.values(namesOf(kind)).map((name) => ({ name, width }))),
    sharedOf(layer) {
      const kind = kindOf(layer);
      const isTaken = layer >= first;
      return isTaken || givers.get(kind) === layer ? { names: namesOf(kind), isTaken } : undefined;
    },
  };
}

/** norm(attention(x)) + x + norm(right(left(x))) */
function withLaurel(attention: Branch, norm: Norm, hiddenSize: number, rank: number): Branch {
  const left = projection("laurel.linear_left", hiddenSize, rank);
  const right = projection("laurel.linear_right", rank, hiddenSize);
  const [ofAttention, ofLaurel] = ["post_attention_layernorm", "laurel.post_laurel_norm"];
  const group = { name: "laurel-middle", stage: 1, inFeatures: rank, linears: projectionLinears(right) };
  return {
    key: JSON.stringify([attention.key, norm, rank]),
    tensors: [
      ...attention.tensors,
      ...[left, right].flatMap(projectionShapes),
      ...[ofAttention, ofLaurel].flatMap((path) => normShapes(norm, path, hiddenSize)),
    ],
    reads: [...attention.reads, ...projectionLinears(left)],
    groups: [...attention.groups, group],
    build(context, input) {
      const add = (a: Value, b: Value): Value => context.graph.apply("add", [a, b]);
      const attended = applyNorm(context, norm, ofAttention, attention.build(context, input));
      const middle = project(context, left, input);
      context.tap(group.name, middle);
      return add(add(attended, input), applyNorm(context, norm, ofLaurel, project(context, right, middle)));
    },
  };
}

function describe(config: ModelConfig, hasTensor: HasTensor): Architecture {
  const { values } = config;
  const hiddenSize = values.count("hidden_size");
  const layers = values.count("num_hidden_layers");
  const heads = readHeads(values, hiddenSize, 256);
  const norm = readRmsNorm(values);
  const kindOf = readLayerKinds(values, ["full_attention", "sliding_attention"], (layer) =>
    (layer + 1) % 5 === 0 ? "full_attention" : "sliding_attention",
  );
  const isLocal = (layer: number): boolean => kindOf(layer) === "sliding_attention";
  const alternating = readAlternating(values, norm);
  const perLayer = {
    layers,
    width: values.count("hidden_size_per_layer_input", 256),
    rows: values.count("vocab_size_per_layer_input", 262144),
  };
  const sharing = readSharing(values, kindOf, heads);
  const around = alternatingUpdates(alternating, perLayer);
  const rank = values.count("laurel_rank", 64);
  const [widthOf, sparsityOf] = [readWidths(values), readGateSparsities(values)];
  const { activation } = alternating;
  return describeGatedDecoder("gemma3n_text", config, hasTensor, {
    norm,
    norms: {
      beforeAttention: "input_layernorm",
      beforeMlp: "pre_feedforward_layernorm",
      afterMlp: "post_feedforward_layernorm",
    },
    residualFactorsOf: () => ({
      attention: { kept: Math.SQRT1_2, added: Math.SQRT1_2 },
      mlp: { kept: 1, added: 1 },
    }),
    heads,
    attentionScale: 1,
    headNorm: perHeadNorm(norm),
    valueNorm: norm,
    sharedOf: sharing.sharedOf,
    ...readTwoBases(values, heads.headDim, isLocal),
    windowOf: readWindows(values, isLocal, 512),
    embeddingScale: Math.sqrt(hiddenSize),
    logitSoftcap: values.numberOrNull("final_logit_softcapping", 30),
    isTiedByDefault: true,
    attentionOf: (_, usual) => withLaurel(usual(), norm, hiddenSize, rank),
    mlpOf: (layer) =>
      gatedMlp({
        activation,
        gateSparsity: sparsityOf(layer),
        gate: projection("mlp.gate_proj", hiddenSize, widthOf(layer)),
        up: projection("mlp.up_proj", hiddenSize, widthOf(layer)),
        down: projection("mlp.down_proj", widthOf(layer), hiddenSize),
      }),
    aroundOf: () => around,
    streams: alternatingStreams(alternating, perLayer, sharing.carried),
    // Files of older libraries have them of layers, too, that take others' keys and values.
    idleTensors: Array.from({ length: layers - sharing.first }, (_, index) => sharing.first + index).flatMap((layer) =>
      ["k_proj", "v_proj", "k_norm"].map((name) => `model.layers.${layer}.self_attn.${name}.weight`),
    ),
  });
}

export const GEMMA3N_TEXT: Family = {
  name: "gemma3n_text",
  modelTypes: ["gemma3n_text"],
  exercises: [
    "several streams of hidden states with alternating updates",
    "inputs of every block looked up for the token",
    "keys and values of an earlier block",
    "low-rank map beside attention",
    "gates above a quantile only",
    "two rotary bases",
    "norms of queries, keys and values",
  ],
  describe,
};
