/**
 * Attention of one further token per sequence: its own key and value come from the run, those of the tokens before it
 * from a cache that is read where it lies.
 */
import { cap, type AttentionAttributes } from "./attention.js";
import type { Shape } from "./dimensions.js";
import type { Value, ValueType } from "./graph.js";
import { dimAt, inputAt, knownDim, refuse, requireShape, requireType, type Operator } from "./operator.js";

export type CachedAttentionAttributes = Pick<AttentionAttributes, "heads" | "keyValueHeads" | "scale" | "softcap">;

/** Sizes of one head's query and key, and of its value. */
function headSizes(
  inputs: readonly ValueType[],
  { heads, keyValueHeads }: CachedAttentionAttributes,
): { readonly keyDim: number; readonly valueDim: number } {
  const keyDim = knownDim(inputAt("cachedAttention", inputs, 0), 1) / heads;
  const valueDim = knownDim(inputAt("cachedAttention", inputs, 2), 1) / keyValueHeads;
  if (!Number.isInteger(keyDim) || !Number.isInteger(valueDim) || heads % keyValueHeads !== 0)
    throw refuse("cachedAttention", inputs, `${heads} heads over ${keyValueHeads}`);
  return { keyDim, valueDim };
}

/**
 * softmax([q keysᵀ · scale + mask, q kᵀ · scale]) [values; v] per head and sequence. A row is a sequence.
 * Inputs: query [rows, heads * d], key [rows, keyValueHeads * d], value [rows, keyValueHeads * e]; the cache, keys
 * [rows, keyValueHeads, past, d] and values [rows, keyValueHeads, past, e]; and what is added to the scores of the cached
 * keys, [rows, 1, past] or [rows, heads, past]; and where there are any sinks, as sinkAttention's. Returns
 * [rows, heads * e].
 *
 * The two parts of the softmax are made apart and share the largest score and the sum, so that the cache is never
 * copied into something longer by one.
 */
export const cachedAttention: Operator<CachedAttentionAttributes> = {
  infer(inputs, attributes) {
    const { heads, keyValueHeads } = attributes;
    requireType("cachedAttention", inputs, "f32");
    const { keyDim, valueDim } = headSizes(inputs, attributes);
    const rows = dimAt(inputAt("cachedAttention", inputs, 0), 0);
    const past = dimAt(inputAt("cachedAttention", inputs, 3), 2);
    const isShared = inputs[5]?.shape[1] === 1;
    requireShape("cachedAttention", inputs, 1, [rows, keyValueHeads * keyDim]);
    requireShape("cachedAttention", inputs, 2, [rows, keyValueHeads * valueDim]);
    requireShape("cachedAttention", inputs, 3, [rows, keyValueHeads, past, keyDim]);
    requireShape("cachedAttention", inputs, 4, [rows, keyValueHeads, past, valueDim]);
    requireShape("cachedAttention", inputs, 5, [rows, isShared ? 1 : heads, past]);
    if (inputs.length > 6) requireShape("cachedAttention", inputs, 6, [heads]);
    return [{ shape: [rows, heads * valueDim], dtype: "f32" }];
  },
  decompose(graph, inputs, attributes) {
    const { heads, keyValueHeads: groups, scale, softcap } = attributes;
    const [query, key, value, keys, values, mask, sinks] = inputs as readonly [
      ...[Value, Value, Value, Value, Value, Value],
      Value?,
    ];
    const { keyDim, valueDim } = headSizes(inputs, attributes);
    const perGroup = heads / groups;
    const rows = dimAt(query, 0);
    const past = dimAt(keys, 2);
    const reshape = (states: Value, ...shape: Shape): Value => graph.apply("reshape", [states], { shape });
    const last = (operator: "reduceMax" | "reduceSum", of: Value): Value =>
      graph.apply(operator, [of], { axes: [3], keepsAxes: true });

    const scaled = graph.apply("multiply", [query, graph.scalar(scale)]);
    const q = reshape(scaled, rows, groups, perGroup, keyDim);
    const scoresOf = (turnedKeys: Value): Value => {
      const products = graph.apply("matmul", [q, turnedKeys]); // [rows, groups, perGroup, keys]
      return softcap === undefined ? products : cap(graph, products, softcap);
    };
    const cached = scoresOf(graph.apply("transpose", [keys], { order: [0, 1, 3, 2] }));
    const table = mask.shape[1] === 1 ? reshape(mask, rows, 1, 1, past) : reshape(mask, rows, groups, perGroup, past);
    const before = graph.apply("add", [cached, table]);
    const own = scoresOf(reshape(key, rows, groups, keyDim, 1));
    const sink =
      sinks && graph.apply("expand", [reshape(sinks, 1, groups, perGroup, 1)], { shape: [rows, groups, perGroup, 1] });
    const tops = [last("reduceMax", before), own, ...(sink === undefined ? [] : [sink])];
    const top = last("reduceMax", graph.apply("concat", tops, { axis: 3 }));
    const shareOf = (scores: Value): Value => graph.apply("exp", [graph.apply("subtract", [scores, top])]);
    const [beforeShare, ownShare] = [shareOf(before), shareOf(own)];
    const withOwn = graph.apply("add", [last("reduceSum", beforeShare), ownShare]);
    const sum = sink === undefined ? withOwn : graph.apply("add", [withOwn, shareOf(sink)]);
    const mixed = graph.apply("add", [
      graph.apply("matmul", [beforeShare, values]),
      graph.apply("multiply", [ownShare, reshape(value, rows, groups, 1, valueDim)]),
    ]);
    return [reshape(graph.apply("divide", [mixed, sum]), rows, heads * valueDim)];
  },
};
