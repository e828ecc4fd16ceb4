/**
 * Graph pieces that families are assembled from: norms, linears, attention with rotary positions, gated MLP.
 * Shapes: hidden is [batch, tokens, hidden]; "flat" means [batch * tokens, features].
 */
import type { BlockContext } from "./architecture.js";
import type { GraphBuilder, Value } from "../onnx/graph.js";

export function flatten(graph: GraphBuilder, value: Value, features: number): Value {
  return graph.node("Reshape", [value, graph.integers([-1, features])]);
}

/** Back to [batch, tokens, features], batch and tokens taken from `like`. */
export function unflatten(graph: GraphBuilder, value: Value, like: Value, features: number): Value {
  const sizes = graph.node("Shape", [like], { start: 0, end: 2 });
  return graph.node("Reshape", [value, graph.node("Concat", [sizes, graph.integers([features])], { axis: 0 })]);
}

/** x / sqrt(mean(x²) + epsilon) · gain over the last axis. */
export function rmsNorm(graph: GraphBuilder, value: Value, gain: Value, epsilon: number): Value {
  return graph.node("RMSNormalization", [value, gain], { axis: -1, epsilon: { float: epsilon } });
}

/** y = x Wᵀ (+ bias) for a weight stored [out, in]; x flat. */
export function linear(graph: GraphBuilder, input: Value, weight: Value, bias?: Value): Value {
  return graph.node("Gemm", bias === undefined ? [input, weight] : [input, weight, bias], { transB: 1 });
}

export interface AttentionShape {
  readonly heads: number;
  readonly keyValueHeads: number;
  readonly headDim: number;
  /** Factor on q·k, usually headDim^-½. */
  readonly scale: number;
  /** Which of the architecture's rotary tables, or undefined for none. */
  readonly rotary: string | undefined;
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
    query = graph.node("RotaryEmbedding", [query, cos, sin, positions], { num_heads: heads });
    key = graph.node("RotaryEmbedding", [key, cos, sin, positions], { num_heads: keyValueHeads });
  }
  const mixed = graph.node("Attention", [query, key, value], {
    q_num_heads: heads,
    kv_num_heads: keyValueHeads,
    is_causal: 1,
    scale: { float: shape.scale },
  });
  return flatten(graph, mixed, heads * headDim);
}

/** x · sigmoid(x) */
export function silu(graph: GraphBuilder, value: Value): Value {
  return graph.node("QuickGelu", [value], { alpha: { float: 1 } }, "com.microsoft");
}
