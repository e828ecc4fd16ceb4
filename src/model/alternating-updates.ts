/**
 * Alternating updates (AltUp, Baykal et al. 2023, arXiv:2301.13310): hidden states are several streams, of which a block
 * computes one; what that says of the others is predicted before the block and corrected after it, by small matrices that a
 * router of each token mixes. As Gemma 3n has them, with an input of every block that is looked up for the token: per-layer
 * embeddings, which are carried beside the streams as a queue, so that every block reads the front of it.
 */
import { activate } from "../graph/composites.js";
import type { Dim } from "../graph/dimensions.js";
import type { Value } from "../graph/graph.js";
import { reshape } from "../graph/shorthand.js";
import { stateOf, type BlockContext, type StateSpec } from "./architecture.js";
import type { StreamsPlan, Surround } from "./decoder.js";
import {
  applyNorm,
  normShapes,
  project,
  projectionLinears,
  projectionShapes,
  scaleBy,
  splitLast,
  type Activation,
  type Norm,
  type PieceContext,
  type Projection,
  type Shapes,
} from "./pieces.js";

export interface AlternatingSpec {
  readonly hiddenSize: number;
  readonly streams: number;
  /** Which of them blocks compute. */
  readonly active: number;
  readonly norm: Norm;
  /** Of the gate of a block's own input. */
  readonly activation: Activation;
  /** Whether the computed stream is scaled, channel by channel, before it meets the block's own input. */
  readonly isOutputScaled: boolean;
}

export interface PerLayerSpec {
  readonly layers: number;
  /** Of one block's input. */
  readonly width: number;
  /** Of the table; tokens beyond have its first row. */
  readonly rows: number;
}

const PER_LAYER = "per-layer-inputs";

/** Below this a stream's mean square counts as this much. */
const LEAST_SQUARE = 1e-5;

function meanSquare({ graph }: PieceContext, stream: Value): Value {
  const squares = graph.apply("multiply", [stream, stream]);
  return graph.apply("reduceMean", [squares], { axes: [1], keepsAxes: true });
}

/** A stream scaled to the root mean square that another has, token by token. */
function asLargeAs(context: PieceContext, other: Value, stream: Value): Value {
  const { graph } = context;
  const [own, least] = [meanSquare(context, stream), graph.scalar(LEAST_SQUARE)];
  const counted = graph.apply("where", [graph.apply("lessOrEqual", [own, least]), least, own]);
  const root = (value: Value): Value => graph.apply("sqrt", [value]);
  const scaled = graph.apply("multiply", [stream, root(meanSquare(context, other))]);
  return graph.apply("divide", [scaled, root(counted)]);
}

function square(path: string, size: number): Projection {
  return { path, inFeatures: size, outFeatures: size, hasBias: false };
}

/**
 * @param shared what blocks leave for later ones, behind the inputs of single blocks
 */
export function alternatingStreams(
  { hiddenSize, streams, norm }: AlternatingSpec,
  { layers, width, rows }: PerLayerSpec,
  shared: StateSpec["carried"],
): StreamsPlan {
  const all = layers * width;
  const others = (name: string): Projection[] =>
    Array.from({ length: streams - 1 }, (_, index) => square(`model.${name}.${index}`, hiddenSize));
  const [entering, leaving] = [others("altup_projections"), others("altup_unembed_projections")];
  const perLayer: Projection = {
    path: "model.per_layer_model_projection",
    inFeatures: hiddenSize,
    outFeatures: all,
    hasBias: false,
  };
  const state = stateOf(streams * hiddenSize, [{ name: PER_LAYER, width: all }, ...shared]);
  const perLayerNorm = "model.per_layer_projection_norm";
  return {
    state,
    sideTables: [{ path: "model.embed_tokens_per_layer", rows, width: all }],
    enter: {
      tensors: [...[...entering, perLayer].flatMap(projectionShapes), ...normShapes(norm, perLayerNorm, width)],
      build(context, embedded, sides) {
        const { graph } = context;
        const [tokens] = embedded.shape as [Dim, Dim];
        const made = entering.map((each) => asLargeAs(context, embedded, project(context, each, embedded)));
        const projected = scaleBy(graph, project(context, perLayer, embedded), hiddenSize ** -0.5);
        const normed = applyNorm(context, norm, perLayerNorm, reshape(graph, projected, tokens, layers, width));
        const lookedUp = scaleBy(graph, reshape(graph, sides as Value, tokens, layers, width), Math.sqrt(width));
        const inputs = scaleBy(graph, graph.apply("add", [normed, lookedUp]), Math.SQRT1_2);
        const known = graph.apply("concat", [embedded, ...made, reshape(graph, inputs, tokens, all)], { axis: 1 });
        const after = state.width - streams * hiddenSize - all;
        return after === 0 ? known : graph.apply("pad", [known], { axis: 1, after });
      },
    },
    leave: {
      tensors: leaving.flatMap(projectionShapes),
      build(context, hidden) {
        const { graph } = context;
        const [first, ...rest] = splitLast(graph, hidden, Array<number>(streams).fill(hiddenSize)) as [
          Value,
          ...Value[],
        ];
        const sum = rest.reduce((total, stream, index) => {
          const made = project(context, leaving[index] as Projection, stream);
          return graph.apply("add", [total, asLargeAs(context, first, made)]);
        }, first);
        return scaleBy(graph, sum, 1 / streams);
      },
    },
  };
}

/** What predicts, corrects and adds a block's own input around its branches. */
export function alternatingUpdates(spec: AlternatingSpec, perLayer: PerLayerSpec): Surround {
  const { hiddenSize, streams, active, norm, activation, isOutputScaled } = spec;
  const gate: Projection = {
    path: "per_layer_input_gate",
    inFeatures: hiddenSize,
    outFeatures: perLayer.width,
    hasBias: false,
  };
  const back: Projection = {
    path: "per_layer_projection",
    inFeatures: perLayer.width,
    outFeatures: hiddenSize,
    hasBias: false,
  };
  const small = (name: string, inFeatures: number, outFeatures: number): Projection => ({
    path: `altup.${name}`,
    inFeatures,
    outFeatures,
    hasBias: false,
  });
  const router = small("modality_router", hiddenSize, streams);
  const prediction = small("prediction_coefs", streams, streams ** 2);
  const correction = small("correction_coefs", streams, streams);
  const scale = "altup.correct_output_scale";
  const tensors: Shapes = [
    ...[router, prediction, correction, gate, back].flatMap(projectionShapes),
    ...normShapes(norm, "altup.router_norm", hiddenSize),
    ...normShapes(norm, "post_per_layer_input_norm", hiddenSize),
    ...(isOutputScaled ? [[scale, [hiddenSize]] as const] : []),
  ];

  /** What the router says of a token: [rows, streams]. */
  const modalities = (context: BlockContext, stream: Value): Value => {
    const { graph } = context;
    const normed = scaleBy(graph, applyNorm(context, norm, "altup.router_norm", stream), 1 / hiddenSize);
    return graph.apply("tanh", [project(context, router, normed)]);
  };
  /** One of several streams [rows, streams, hiddenSize]. */
  const streamOf = ({ graph, rows }: BlockContext, all: Value, index: number): Value =>
    reshape(graph, graph.apply("slice", [all], { axis: 1, start: index, end: index + 1 }), rows, hiddenSize);

  const predict = (context: BlockContext): Value => {
    const { graph, rows } = context;
    const all = reshape(graph, context.hidden, rows, streams, hiddenSize);
    const mixing = project(context, prediction, modalities(context, streamOf(context, all, active)));
    const change = graph.apply("matmul", [reshape(graph, mixing, rows, streams, streams), all]);
    return graph.apply("add", [all, change]);
  };
  const correct = (context: BlockContext, predicted: Value, computed: Value): Value => {
    const { graph, rows } = context;
    const missed = graph.apply("subtract", [computed, streamOf(context, predicted, active)]);
    const shares = project(context, correction, modalities(context, computed));
    const factors = reshape(graph, graph.apply("add", [shares, graph.scalar(1)]), rows, streams, 1);
    const change = graph.apply("multiply", [reshape(graph, missed, rows, 1, hiddenSize), factors]);
    return graph.apply("add", [predicted, change]);
  };
  /** The block's own input, gated by the computed stream; the queue moves on. */
  const ownInput = (context: BlockContext, corrected: Value): Value => {
    const { graph, carried } = context;
    const queue = carried.get(PER_LAYER);
    const rest = (perLayer.layers - 1) * perLayer.width;
    const [own, later] = rest === 0 ? [queue] : splitLast(graph, queue, [perLayer.width, rest]);
    if (later !== undefined) carried.set(PER_LAYER, graph.apply("concat", [later, own], { axis: 1 }));
    const stream = streamOf(context, corrected, active);
    const scaled = isOutputScaled ? graph.apply("multiply", [stream, context.tensor(scale)]) : stream;
    context.tap("per-layer-gate", scaled);
    const gated = graph.apply("multiply", [activate(graph, activation, project(context, gate, scaled)), own]);
    context.tap("per-layer-projection", gated);
    return applyNorm(context, norm, "post_per_layer_input_norm", project(context, back, gated));
  };

  return {
    key: JSON.stringify([spec, perLayer]),
    tensors,
    groups: [
      { name: "per-layer-gate", stage: 0, inFeatures: hiddenSize, linears: projectionLinears(gate) },
      { name: "per-layer-projection", stage: 1, inFeatures: perLayer.width, linears: projectionLinears(back) },
    ],
    build(context, inner) {
      const { graph, rows } = context;
      const predicted = predict(context);
      const corrected = correct(context, predicted, inner(streamOf(context, predicted, active)));
      const added = reshape(graph, ownInput(context, corrected), rows, 1, hiddenSize);
      // The first stream goes without, whichever is computed.
      const parts = graph.applyAll("split", [corrected], { axis: 1, sizes: [1, streams - 1] }) as [Value, Value];
      const left = graph.apply("concat", [parts[0], graph.apply("add", [parts[1], added])], { axis: 1 });
      return reshape(graph, left, rows, streams * hiddenSize);
    },
  };
}
