/**
 * Graph pieces that families are assembled from: norms, projections, activations, attention.
 * Shapes: hidden is [batch, tokens, hidden]; "flat" means [batch * tokens, features].
 */
import type { BlockContext, ChannelProducer, LinearSpec, OutputRange } from "./architecture.js";
import type { GraphBuilder, Value } from "../onnx/graph.js";

/** Where a piece writes its nodes and finds its tensors. */
export type PieceContext = Pick<BlockContext, "graph" | "tensor">;

/** Shapes by role. */
export type Shapes = readonly (readonly [role: string, shape: readonly number[]])[];

export function flatten(graph: GraphBuilder, value: Value, features: number): Value {
  return graph.node("Reshape", [value, graph.integers([-1, features])]);
}

/** Back to [batch, tokens, features], batch and tokens taken from `like`. */
export function unflatten(graph: GraphBuilder, value: Value, like: Value, features: number): Value {
  const sizes = graph.node("Shape", [like], { start: 0, end: 2 });
  return graph.node("Reshape", [value, graph.node("Concat", [sizes, graph.integers([features])], { axis: 0 })]);
}

/** value · factor */
export function scaleBy(graph: GraphBuilder, value: Value, factor: number): Value {
  return factor === 1 ? value : graph.node("Mul", [value, graph.floats([factor], [])]);
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
  const gain = norm.isGainFromOne === true ? graph.node("Add", [stored, graph.floats([1], [])]) : stored;
  return normalize(graph, norm, value, gain, norm.hasBias === true ? tensor(`${path}.bias`) : undefined);
}

/** The norm with its gain and bias at hand. */
export function normalize(graph: GraphBuilder, norm: Norm, value: Value, gain: Value, bias?: Value): Value {
  const operator = norm.kind === "rms" ? "RMSNormalization" : "LayerNormalization";
  return graph.node(operator, bias === undefined ? [value, gain] : [value, gain, bias], {
    axis: -1,
    epsilon: { float: norm.epsilon },
  });
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

/** All of a projection's outputs, [rows, outFeatures], from flat x. */
export function project({ graph, tensor }: PieceContext, projection: Projection, input: Value): Value {
  const { path, hasBias, inputAxis } = projection;
  const operands = [input, tensor(`${path}.weight`), ...(hasBias ? [tensor(`${path}.bias`)] : [])];
  return graph.node("Gemm", operands, { transB: inputAxis === 0 ? 0 : 1 });
}

/** y = x Wᵀ (+ bias) for a weight stored [out, in]; x flat. */
export function linear(graph: GraphBuilder, input: Value, weight: Value, bias?: Value): Value {
  return graph.node("Gemm", bias === undefined ? [input, weight] : [input, weight, bias], { transB: 1 });
}

export type Activation = "silu" | "gelu" | "gelu-tanh" | "relu";

export function activate(graph: GraphBuilder, activation: Activation, value: Value): Value {
  switch (activation) {
    case "silu":
      return silu(graph, value);
    case "gelu":
      return graph.node("Gelu", [value], { approximate: "none" });
    case "gelu-tanh":
      return graph.node("Gelu", [value], { approximate: "tanh" });
    case "relu":
      return graph.node("Relu", [value]);
    default:
      return activation satisfies never;
  }
}

/** x · sigmoid(x) */
export function silu(graph: GraphBuilder, value: Value): Value {
  return graph.node("QuickGelu", [value], { alpha: { float: 1 } }, "com.microsoft");
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

/** Causal attention over flat q, k, v; returns flat [batch * tokens, heads * headDim]. */
export function attention(
  context: BlockContext,
  shape: AttentionShape,
  flatQuery: Value,
  flatKey: Value,
  flatValue: Value,
): Value {
  const { graph, hidden } = context;
  const { heads, keyValueHeads, headDim } = shape;
  let query = unflatten(graph, flatQuery, hidden, heads * headDim);
  let key = unflatten(graph, flatKey, hidden, keyValueHeads * headDim);
  const value = unflatten(graph, flatValue, hidden, keyValueHeads * headDim);
  if (shape.rotary !== undefined) {
    const { cos, sin, positions } = context.rotary(shape.rotary);
    const { rotaryDimensions = headDim } = shape;
    const attributes = {
      interleaved: shape.isRotaryInterleaved === true ? 1 : 0,
      ...(rotaryDimensions === headDim ? {} : { rotary_embedding_dim: rotaryDimensions }),
    };
    const rotate = (states: Value, count: number): Value =>
      graph.node("RotaryEmbedding", [states, cos, sin, positions], { ...attributes, num_heads: count });
    query = rotate(query, heads);
    key = rotate(key, keyValueHeads);
  }
  const operands = shape.mask === undefined ? [query, key, value] : [query, key, value, context.mask(shape.mask)];
  const mixed = graph.node("Attention", operands, {
    q_num_heads: heads,
    kv_num_heads: keyValueHeads,
    is_causal: shape.mask === undefined ? 1 : 0, // masks are causal themselves
    scale: { float: shape.scale },
    ...(shape.softcap === undefined ? {} : { softcap: { float: shape.softcap } }),
  });
  return flatten(graph, mixed, heads * headDim);
}
