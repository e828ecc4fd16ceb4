/**
 * Attention as a branch of a block, described by data: how queries, keys and values are stored, normed and rotated.
 * The arithmetic itself is in pieces.ts.
 */
import { product } from "../graph/dimensions.js";
import type { Value } from "../graph/graph.js";
import type { BlockContext } from "./architecture.js";
import type { Branch } from "./branch.js";
import {
  applyNorm,
  attention,
  normalize,
  normShapes,
  project,
  projectionLinears,
  projectionShapes,
  reshape,
  splitLast,
  type AttentionShape,
  type Norm,
  type Projection,
  type ProjectionPart,
  type Shapes,
} from "./pieces.js";

/**
 * Three projections, or one whose outputs are [all q; all k; all v] ("stacked") or, per key/value head, its query
 * heads, its key and its value ("grouped": with as many key/value heads as heads that is q, k, v per head).
 */
export type QueryKeyValue =
  | { readonly layout: "separate"; readonly query: Projection; readonly key: Projection; readonly value: Projection }
  | { readonly layout: "stacked" | "grouped"; readonly fused: Projection };

/** A norm of queries and keys before they are rotated. */
export interface HeadNorm {
  readonly norm: Norm;
  /** Module paths. */
  readonly query: string;
  readonly key: string;
  /**
   * "all-heads": one norm over all heads together; "shared": per head, one gain for all; "own": per head, a gain for
   * each stored as [heads, headDim]; "listed": the same, stored one by one as <path>.<head>.
   */
  readonly gain: "all-heads" | "shared" | "own" | "listed";
}

export interface AttentionSpec extends AttentionShape {
  readonly input: QueryKeyValue;
  readonly headNorm?: HeadNorm;
  readonly output: Projection;
}

/** The logical matrices of a fused projection. */
export function queryKeyValueParts(
  layout: "stacked" | "grouped",
  { heads, keyValueHeads, headDim }: Pick<AttentionShape, "heads" | "keyValueHeads" | "headDim">,
): ProjectionPart[] {
  const queries = (heads / keyValueHeads) * headDim; // of one key/value head
  const groups = layout === "stacked" ? 1 : keyValueHeads;
  const counts =
    layout === "stacked" ? [heads, keyValueHeads, keyValueHeads].map((n) => n * headDim) : [queries, headDim, headDim];
  const stride = counts.reduce((sum, count) => sum + count, 0);
  let first = 0;
  return ["q", "k", "v"].map((name, part) => {
    const start = first;
    const count = counts[part] ?? 0;
    first += count;
    return { name, outputs: Array.from({ length: groups }, (_, group) => ({ first: group * stride + start, count })) };
  });
}

function inputProjections(input: QueryKeyValue): Projection[] {
  return input.layout === "separate" ? [input.query, input.key, input.value] : [input.fused];
}

function headNormShapes({ headNorm, heads, keyValueHeads, headDim }: AttentionSpec): Shapes {
  if (headNorm === undefined) return [];
  const sides = [
    [headNorm.query, heads],
    [headNorm.key, keyValueHeads],
  ] as const;
  return sides.flatMap(([path, count]): Shapes => {
    switch (headNorm.gain) {
      case "all-heads":
        return normShapes(headNorm.norm, path, count * headDim);
      case "shared":
        return normShapes(headNorm.norm, path, headDim);
      case "own":
        return [[`${path}.weight`, [count, headDim]]];
      case "listed":
        return Array.from({ length: count }, (_, head) => [`${path}.${head}.weight`, [headDim]] as const);
      default:
        return headNorm.gain satisfies never;
    }
  });
}

/** @param states [rows, count * headDim] */
function normHeads(
  context: BlockContext,
  { norm, gain }: HeadNorm,
  headDim: number,
  side: { readonly path: string; readonly count: number; readonly states: Value },
): Value {
  const { graph, tensor, rows } = context;
  const { path, count, states } = side;
  if (gain === "all-heads") return applyNorm(context, norm, path, states);
  const joined = (heads: Value): Value => reshape(graph, heads, rows, count * headDim);
  if (gain === "shared") {
    const heads = reshape(graph, states, product(rows, count), headDim);
    return joined(applyNorm(context, norm, path, heads));
  }
  const own = (): Value[] => Array.from({ length: count }, (_, head) => tensor(`${path}.${head}.weight`));
  const gains =
    gain === "own"
      ? tensor(`${path}.weight`)
      : reshape(graph, graph.apply("concat", own(), { axis: 0 }), count, headDim);
  const ones = graph.floats(new Float32Array(headDim).fill(1), [headDim]);
  const normed = normalize(graph, norm, reshape(graph, states, rows, count, headDim), ones);
  return joined(graph.apply("multiply", [normed, gains]));
}

/** q, k and v. */
function projectInput(context: BlockContext, spec: AttentionSpec, states: Value): readonly [Value, Value, Value] {
  const { graph, rows } = context;
  const { input, heads, keyValueHeads, headDim } = spec;
  if (input.layout === "separate")
    return [
      project(context, input.query, states),
      project(context, input.key, states),
      project(context, input.value, states),
    ];
  const fused = project(context, input.fused, states);
  if (input.layout === "stacked")
    return splitLast(graph, fused, [heads * headDim, keyValueHeads * headDim, keyValueHeads * headDim]);
  const perGroup = heads / keyValueHeads;
  const grouped = reshape(graph, fused, rows, keyValueHeads, perGroup + 2, headDim);
  const parts = graph.applyAll("split", [grouped], { axis: 2, sizes: [perGroup, 1, 1] });
  return parts.map((part, index) => reshape(graph, part, rows, (index === 0 ? heads : keyValueHeads) * headDim)) as [
    Value,
    Value,
    Value,
  ];
}

export function attentionBranch(spec: AttentionSpec): Branch {
  const projections = inputProjections(spec.input);
  const { headNorm, heads, keyValueHeads, headDim, output } = spec;
  return {
    key: JSON.stringify(spec),
    tensors: [...projections.flatMap(projectionShapes), ...headNormShapes(spec), ...projectionShapes(output)],
    reads: projections.flatMap(projectionLinears),
    groups: [{ name: "attention-output", stage: 1, inFeatures: output.inFeatures, linears: projectionLinears(output) }],
    build(context, input) {
      const [query, key, value] = projectInput(context, spec, input);
      const normed = (side: "query" | "key", count: number, states: Value): Value =>
        headNorm === undefined
          ? states
          : normHeads(context, headNorm, headDim, { path: headNorm[side], count, states });
      const mixed = attention(context, spec, normed("query", heads, query), normed("key", keyValueHeads, key), value);
      context.tap("attention-output", mixed);
      return project(context, output, mixed);
    },
  };
}
