/**
 * Attention as a branch of a block, described by data: how queries, keys and values are stored, normed and rotated.
 * The arithmetic itself is in pieces.ts.
 */
import { InternalError } from "../errors.js";
import { product } from "../graph/dimensions.js";
import type { Value } from "../graph/graph.js";
import { clamp } from "../graph/shorthand.js";
import type { BlockContext } from "./architecture.js";
import type { Branch } from "./branch.js";
import {
  applyNorm,
  attention,
  normalize,
  normShapes,
  partsInTurn,
  project,
  projectionLinears,
  projectionShapes,
  reshape,
  rotateHeads,
  splitLast,
  type AttentionShape,
  type Norm,
  type Projection,
  type ProjectionPart,
  type Shapes,
} from "./pieces.js";

/**
 * How q, k and v lie in one projection: [all q; all k; all v] ("stacked"); per key/value head its query heads, its key
 * and its value ("grouped": with as many key/value heads as heads that is q, k, v per head); or as "sharded" over four
 * devices: a quarter of the heads after the other, each [q; v; k].
 */
export type FusedLayout = "stacked" | "grouped" | "sharded";

/** Three projections, or one; only that of the queries where keys and values are those that an earlier block left. */
export type QueryKeyValue =
  | { readonly layout: "queries"; readonly query: Projection }
  | { readonly layout: "separate"; readonly query: Projection; readonly key: Projection; readonly value: Projection }
  | { readonly layout: FusedLayout; readonly fused: Projection };

/** A norm of queries and keys before they are rotated, or after. */
export interface HeadNorm {
  readonly norm: Norm;
  /** Module paths. */
  readonly query: string;
  readonly key: string;
  /**
   * "all-heads": one norm over all heads together; "shared": per head, one gain for all; "own": per head, a gain for
   * each stored as [heads, headDim]; "listed": the same, stored one by one as <path>.<head>; "none": per head, no gain.
   */
  readonly gain: "all-heads" | "shared" | "own" | "listed" | "none";
  readonly isAfterRotation?: boolean;
}

/** Queries grow with their position: by 1 + strength · log(1 + floor((position + offset) / step)). */
export interface QueryGrowth {
  readonly strength: number;
  readonly step: number;
  readonly offset: number;
}

export interface AttentionSpec extends AttentionShape {
  readonly input: QueryKeyValue;
  readonly headNorm?: HeadNorm;
  /** A norm of each head's values, without a gain. */
  readonly valueNorm?: Norm;
  /** What keys and values, normed and rotated, are called among what is carried to later blocks, for those that take them. */
  readonly shared?: { readonly key: string; readonly value: string };
  /** Queries, keys and values beyond this, after a norm and before rotation, are set to it; so are those below -clip. */
  readonly clip?: number;
  readonly queryGrowth?: QueryGrowth;
  /** Whether separate queries are twice as many, each head's followed by its gates: sigmoids on what attention returns. */
  readonly hasOutputGate?: boolean;
  /** Module path of a score per head that takes its share of every softmax, [heads]. */
  readonly sinks?: string;
  readonly output: Projection;
}

type Counts = Pick<AttentionShape, "heads" | "keyValueHeads" | "headDim">;

/** A fused projection's outputs: so many groups, each with so many heads of these kinds. */
function fusedOrder(
  layout: FusedLayout,
  { heads, keyValueHeads }: Counts,
): { readonly groups: number; readonly order: readonly (readonly ["q" | "k" | "v", number])[] } {
  const groups = { stacked: 1, grouped: keyValueHeads, sharded: SHARDS }[layout];
  const [q, k, v] = [
    ["q", heads / groups] as const,
    ["k", keyValueHeads / groups] as const,
    ["v", keyValueHeads / groups] as const,
  ];
  return { groups, order: layout === "sharded" ? [q, v, k] : [q, k, v] };
}

/** How many devices the released checkpoints of "sharded" projections were trained on. */
export const SHARDS = 4;

/** The logical matrices of a fused projection. */
export function queryKeyValueParts(layout: FusedLayout, counts: Counts): ProjectionPart[] {
  const { groups, order } = fusedOrder(layout, counts);
  const sizes = Object.fromEntries(order.map(([name, heads]) => [name, heads * counts.headDim]));
  const place = ({ name }: ProjectionPart): number => ["q", "k", "v"].indexOf(name);
  return partsInTurn(groups, sizes).toSorted((a, b) => place(a) - place(b));
}

/** The logical matrices of queries that each head's gates follow. */
export function gatedQueryParts({ heads, headDim }: Pick<AttentionShape, "heads" | "headDim">): ProjectionPart[] {
  return partsInTurn(heads, { q: headDim, gate: headDim });
}

function inputProjections(input: QueryKeyValue): Projection[] {
  if (input.layout === "queries") return [input.query];
  return input.layout === "separate" ? [input.query, input.key, input.value] : [input.fused];
}

function headNormShapes({ headNorm, heads, keyValueHeads, headDim, input }: AttentionSpec): Shapes {
  if (headNorm === undefined) return [];
  const sides = [
    [headNorm.query, heads] as const,
    ...(input.layout === "queries" ? [] : [[headNorm.key, keyValueHeads] as const]),
  ];
  return sides.flatMap(([path, count]): Shapes => {
    switch (headNorm.gain) {
      case "all-heads":
        return normShapes(headNorm.norm, path, count * headDim);
      case "shared":
        return normShapes(headNorm.norm, path, headDim);
      case "own":
        return [[`${path}.weight`, [count, headDim]]];
      case "none":
        return [];
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
  const normed = normWithoutGain(context, norm, states, count);
  if (gain === "none") return joined(normed);
  const own = (): Value[] => Array.from({ length: count }, (_, head) => tensor(`${path}.${head}.weight`));
  const gains =
    gain === "own"
      ? tensor(`${path}.weight`)
      : reshape(graph, graph.apply("concat", own(), { axis: 0 }), count, headDim);
  return joined(graph.apply("multiply", [normed, gains]));
}

/** @param states [rows, heads * headDim] */
function growQueries(context: BlockContext, { strength, step, offset }: QueryGrowth, states: Value): Value {
  const { graph, rows, positions } = context;
  const number = (of: Value, to: "f32" | "i64"): Value => graph.apply("cast", [of], { to });
  const place = number(graph.apply("add", [positions, graph.integers([offset], [])]), "f32");
  const steps = number(graph.apply("divide", [place, graph.scalar(step)]), "i64"); // whole ones
  const grown = graph.apply("log", [graph.apply("add", [number(steps, "f32"), graph.scalar(1)])]);
  const factor = graph.apply("add", [graph.apply("multiply", [grown, graph.scalar(strength)]), graph.scalar(1)]);
  return graph.apply("multiply", [states, reshape(graph, factor, rows, 1)]);
}

/** A norm without a gain of each head of [rows, count * headDim]: [rows, count, headDim]. */
function normWithoutGain({ graph, rows }: BlockContext, norm: Norm, states: Value, count: number): Value {
  const headDim = (states.shape[1] as number) / count;
  const ones = graph.floats(new Float32Array(headDim).fill(1), [headDim]);
  return normalize(graph, norm, reshape(graph, states, rows, count, headDim), ones);
}

/** q, k and v, and where there are any gates of what attention returns; taken keys and values as they were left. */
function projectInput(
  context: BlockContext,
  spec: AttentionSpec,
  states: Value,
): readonly [Value, Value, Value, Value?] {
  const { graph, rows } = context;
  const { input, heads, keyValueHeads, headDim } = spec;
  if (input.layout === "queries") {
    const { key, value } = requireShared(spec);
    return [project(context, input.query, states), context.carried.get(key), context.carried.get(value)];
  }
  if (input.layout === "separate") {
    const [query, key, value] = [input.query, input.key, input.value].map((projection) =>
      project(context, projection, states),
    ) as [Value, Value, Value];
    if (spec.hasOutputGate !== true) return [query, key, value];
    const pairs = splitLast(graph, reshape(graph, query, rows, heads, 2 * headDim), [headDim, headDim]);
    const [own, gate] = pairs.map((part) => reshape(graph, part, rows, heads * headDim)) as [Value, Value];
    return [own, key, value, gate];
  }
  const fused = project(context, input.fused, states);
  if (input.layout === "stacked")
    return splitLast(graph, fused, [heads * headDim, keyValueHeads * headDim, keyValueHeads * headDim]);
  const { groups, order } = fusedOrder(input.layout, spec);
  const sizes = order.map(([, count]) => count);
  const grouped = reshape(
    graph,
    fused,
    rows,
    groups,
    sizes.reduce((sum, size) => sum + size, 0),
    headDim,
  );
  const parts = graph.applyAll("split", [grouped], { axis: 2, sizes });
  return (["q", "k", "v"] as const).map((name) => {
    const place = order.findIndex(([part]) => part === name);
    return reshape(graph, parts[place] as Value, rows, (name === "q" ? heads : keyValueHeads) * headDim);
  }) as [Value, Value, Value];
}

function requireShared({ shared }: AttentionSpec): NonNullable<AttentionSpec["shared"]> {
  if (shared === undefined) throw new InternalError("E_FAMILY_PLAN", "attention without keys takes shared ones");
  return shared;
}

export function attentionBranch(spec: AttentionSpec): Branch {
  const projections = inputProjections(spec.input);
  const { headNorm, heads, keyValueHeads, headDim, clip, output, queryGrowth, sinks, shared, valueNorm } = spec;
  return {
    key: JSON.stringify(spec),
    tensors: [
      ...projections.flatMap(projectionShapes),
      ...headNormShapes(spec),
      ...(sinks === undefined ? [] : [[sinks, [heads]] as const]),
      ...projectionShapes(output),
    ],
    reads: projections.flatMap(projectionLinears),
    groups: [{ name: "attention-output", stage: 1, inFeatures: output.inFeatures, linears: projectionLinears(output) }],
    build(context, input) {
      const { graph } = context;
      const [query, key, value, gate] = projectInput(context, spec, input);
      const normed = (side: "query" | "key", states: Value, isAfterRotation: boolean): Value => {
        if (headNorm === undefined || isAfterRotation !== (headNorm.isAfterRotation ?? false)) return states;
        const count = side === "query" ? heads : keyValueHeads;
        return normHeads(context, headNorm, headDim, { path: headNorm[side], count, states });
      };
      const clipped = (states: Value): Value => (clip === undefined ? states : clamp(graph, states, clip));
      const finished = (side: "query" | "key", states: Value): Value => {
        const count = side === "query" ? heads : keyValueHeads;
        return normed(side, rotateHeads(context, spec, clipped(normed(side, states, false)), count), true);
      };
      const normedValue = (norm: Norm): Value =>
        reshape(graph, normWithoutGain(context, norm, value, keyValueHeads), context.rows, keyValueHeads * headDim);
      const ownValue = (): Value => clipped(valueNorm === undefined ? value : normedValue(valueNorm));
      const finalQuery = finished("query", query);
      const isTaken = spec.input.layout === "queries";
      const [finalKey, finalValue] = isTaken ? [key, value] : [finished("key", key), ownValue()];
      if (shared !== undefined && !isTaken) {
        context.carried.set(shared.key, finalKey);
        context.carried.set(shared.value, finalValue);
      }
      const grown = queryGrowth === undefined ? finalQuery : growQueries(context, queryGrowth, finalQuery);
      const sunk = sinks === undefined ? spec : { ...spec, sinkScores: context.tensor(sinks) };
      const attended = attention(context, sunk, grown, finalKey, finalValue);
      const mixed = gate === undefined ? attended : graph.apply("multiply", [attended, graph.apply("sigmoid", [gate])]);
      context.tap("attention-output", mixed);
      return project(context, output, mixed);
    },
  };
}
