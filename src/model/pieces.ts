/**
 * Graph pieces that families are assembled from: norms, projections, activations, attention. Everything is
 * [rows, features], a row per token, sequence after sequence.
 */
import type { BlockContext, ChannelProducer, LinearSpec, OutputRange } from "./architecture.js";
import type { GraphBuilder, Value } from "../graph/graph.js";

export type { Activation } from "../graph/composites.js";
export { reshape } from "../graph/shorthand.js";

/** Where a piece writes its nodes and finds its tensors. */
export type PieceContext = Pick<BlockContext, "graph" | "tensor">;

/** Shapes by role. */
export type Shapes = readonly (readonly [role: string, shape: readonly number[]])[];

/** Cut the last axis in pieces. */
export function splitLast<const Sizes extends readonly number[]>(
  graph: GraphBuilder,
  value: Value,
  sizes: Sizes,
): { readonly [Index in keyof Sizes]: Value } {
  const parts = graph.applyAll("split", [value], { axis: value.shape.length - 1, sizes });
  return parts as { readonly [Index in keyof Sizes]: Value };
}

/** value · factor */
export function scaleBy(graph: GraphBuilder, value: Value, factor: number): Value {
  return factor === 1 ? value : graph.apply("multiply", [value, graph.scalar(factor)]);
}

/** log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)) */
export function softplus(graph: GraphBuilder, x: Value): Value {
  const above = graph.apply("relu", [x]);
  const distance = graph.apply("subtract", [x, graph.apply("multiply", [above, graph.scalar(2)])]);
  const rest = graph.apply("log", [graph.apply("add", [graph.apply("exp", [distance]), graph.scalar(1)])]);
  return graph.apply("add", [above, rest]);
}

/** A normalisation over the last axis. */
export interface Norm {
  /** "rms": x / sqrt(mean(x²) + epsilon); "layer" subtracts the mean first. */
  readonly kind: "rms" | "layer";
  readonly epsilon: number;
  /** Whether what is stored is the gain less 1. */
  readonly isGainFromOne?: boolean;
  readonly hasBias?: boolean;
}

export function normShapes(norm: Norm, path: string, width: number): Shapes {
  const gain = [`${path}.weight`, [width]] as const;
  return norm.hasBias === true ? [gain, [`${path}.bias`, [width]]] : [gain];
}

/** @param value any shape whose last axis is the norm's width */
export function applyNorm(context: PieceContext, norm: Norm, path: string, value: Value): Value {
  const { graph, tensor } = context;
  const stored = tensor(`${path}.weight`);
  const gain = norm.isGainFromOne === true ? graph.apply("add", [stored, graph.scalar(1)]) : stored;
  return normalize(graph, norm, value, gain, norm.hasBias === true ? tensor(`${path}.bias`) : undefined);
}

/** The norm with its gain and bias at hand. */
export function normalize(graph: GraphBuilder, norm: Norm, value: Value, gain: Value, bias?: Value): Value {
  const operator = norm.kind === "rms" ? "rmsNorm" : "layerNorm";
  return graph.apply(operator, bias === undefined ? [value, gain] : [value, gain, bias], { epsilon: norm.epsilon });
}

/** One stored weight matrix: a linear, or several fused along their outputs. */
export interface Projection {
  /** Module path within the block. */
  readonly path: string;
  readonly inFeatures: number;
  readonly outFeatures: number;
  readonly hasBias: boolean;
  /** 0 for Conv1D's [in, out]; default 1: [out, in]. */
  readonly inputAxis?: 0 | 1;
  /** The logical matrices of a fused one. */
  readonly parts?: readonly ProjectionPart[];
}

export interface ProjectionPart {
  readonly name: string;
  readonly outputs: readonly OutputRange[];
}

/** Parts whose outputs alternate: `counts` of each in turn, `groups` times. */
export function partsInTurn(groups: number, counts: Readonly<Record<string, number>>): ProjectionPart[] {
  const stride = Object.values(counts).reduce((sum, count) => sum + count, 0);
  let first = 0;
  return Object.entries(counts).map(([name, count]) => {
    const start = first;
    first += count;
    const outputs = Array.from({ length: groups }, (_, group) => ({ first: group * stride + start, count }));
    return { name, outputs };
  });
}

/** Gate and up as the outputs of one projection. */
export function gateUpParts(width: number): ProjectionPart[] {
  return partsInTurn(1, { gate: width, up: width });
}

export function projectionShapes({ path, inFeatures, outFeatures, hasBias, inputAxis }: Projection): Shapes {
  const weight = [`${path}.weight`, inputAxis === 0 ? [inFeatures, outFeatures] : [outFeatures, inFeatures]] as const;
  return hasBias ? [weight, [`${path}.bias`, [outFeatures]]] : [weight];
}

/** What is pruned of it; names are relative to the block. */
export function projectionLinears({ path, inFeatures, outFeatures, inputAxis, parts }: Projection): LinearSpec[] {
  const whole = { role: `${path}.weight`, inFeatures, inputAxis: inputAxis ?? 1 };
  if (parts === undefined) return [{ ...whole, name: path, outFeatures }];
  return parts.map(({ name, outputs }) => ({
    ...whole,
    name: `${path}.${name}`,
    outFeatures: outputs.reduce((sum, { count }) => sum + count, 0),
    outputs,
  }));
}

/** The outputs of a projection, or a range of them, as what makes the channels of another's input. */
export function projectionProducers(projection: Projection, range?: OutputRange): ChannelProducer[] {
  const { path, inFeatures, outFeatures, hasBias, inputAxis = 1 } = projection;
  const outputs = range === undefined ? {} : { outputs: [range] };
  const made = { outFeatures: range?.count ?? outFeatures, ...outputs };
  const weight: ChannelProducer = { kind: "weight", role: `${path}.weight`, inFeatures, inputAxis, ...made };
  return hasBias ? [weight, { kind: "bias", role: `${path}.bias`, inFeatures: 1, inputAxis: 1, ...made }] : [weight];
}

/** All of a projection's outputs, [rows, outFeatures]. */
export function project({ graph, tensor }: PieceContext, projection: Projection, input: Value): Value {
  const { path, hasBias, inputAxis } = projection;
  const operands = [input, tensor(`${path}.weight`), ...(hasBias ? [tensor(`${path}.bias`)] : [])];
  return graph.apply("gemm", operands, { transposeB: inputAxis !== 0 });
}

/** y = x Wᵀ for a weight stored [out, in]. */
export function linear(graph: GraphBuilder, input: Value, weight: Value): Value {
  return graph.apply("gemm", [input, weight], { transposeB: true });
}

export interface AttentionShape {
  readonly heads: number;
  readonly keyValueHeads: number;
  readonly headDim: number;
  /** Factor on q·k, usually headDim^-½. */
  readonly scale: number;
  /** Scaled scores become cap · tanh(score / cap). */
  readonly softcap?: number;
  /** Which of the architecture's rotary tables, or undefined for none. */
  readonly rotary: string | undefined;
  /** Whether dimension 2i is rotated with 2i + 1, not i with i + half. */
  readonly isRotaryInterleaved?: boolean;
  /** How many dimensions of a head are rotated; default all. */
  readonly rotaryDimensions?: number;
  /** Which of the architecture's masks; default the causal one. */
  readonly mask?: string;
}

/** Queries or keys turned by their positions. @param states [rows, heads * headDim] */
export function rotate(
  context: BlockContext,
  states: Value,
  table: string,
  how: { readonly heads: number; readonly dimensions: number; readonly isInterleaved?: boolean },
): Value {
  const { cos, sin, positions } = context.rotary(table);
  return context.graph.apply("rotary", [states, cos, sin, positions], how);
}

/**
 * Queries or keys of attention, turned by their positions where there are any.
 * @param states [rows, count * headDim]
 */
export function rotateHeads(context: BlockContext, shape: AttentionShape, states: Value, count: number): Value {
  const { headDim, rotary, rotaryDimensions: dimensions = headDim } = shape;
  const isInterleaved = shape.isRotaryInterleaved === true;
  return rotary === undefined ? states : rotate(context, states, rotary, { heads: count, dimensions, isInterleaved });
}

/** Causal attention of [rows, heads * headDim] queries; returns [rows, heads * headDim]. */
export function attention(
  context: BlockContext,
  shape: AttentionShape & { readonly sinkScores?: Value },
  query: Value,
  key: Value,
  value: Value,
): Value {
  const { heads, keyValueHeads, scale, mask, softcap } = shape;
  return context.attend(query, key, value, {
    heads,
    keyValueHeads,
    scale,
    mask,
    ...(softcap === undefined ? {} : { softcap }),
    ...(shape.sinkScores === undefined ? {} : { sinks: shape.sinkScores }),
  });
}
