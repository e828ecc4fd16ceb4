/** Attention, and what its gradient is made of. */
import { quotient, type Dim, type Shape } from "./dimensions.js";
import type { GraphBuilder, Value, ValueType } from "./graph.js";
import { dimAt, inputAt, knownDim, refuse, requireShape, requireType, type Operator } from "./operator.js";
import { sequencesOf } from "./primitives.js";
import { turned } from "./shorthand.js";

export interface AttentionAttributes {
  readonly heads: number;
  /** Each serves heads / keyValueHeads heads in turn. */
  readonly keyValueHeads: number;
  /** Of a sequence: rows attend to rows of their own sequence. */
  readonly tokens: Dim;
  /** Factor on q·k. */
  readonly scale: number;
  /** Whether a row sees itself and earlier ones only. */
  readonly isCausal: boolean;
  /** Scaled scores become cap · tanh(score / cap) before anything is added to them. */
  readonly softcap?: number;
}

/** The type of what attention returns. */
function inferAttention(
  operator: string,
  inputs: readonly ValueType[],
  { heads, keyValueHeads, tokens }: AttentionAttributes,
): ValueType {
  const [query, key, value] = [0, 1, 2].map((index) => inputAt(operator, inputs, index)) as [
    ValueType,
    ValueType,
    ValueType,
  ];
  requireType(operator, inputs, "f32");
  sequencesOf(operator, inputs, tokens);
  const headDim = knownDim(query, 1) / heads;
  const valueDim = knownDim(value, 1) / keyValueHeads;
  if (!Number.isInteger(headDim) || !Number.isInteger(valueDim) || heads % keyValueHeads !== 0)
    throw refuse(operator, inputs, `${heads} heads over ${keyValueHeads}`);
  requireShape(operator, inputs, 1, [dimAt(query, 0), keyValueHeads * headDim]);
  requireShape(operator, inputs, 2, [dimAt(key, 0), keyValueHeads * valueDim]);
  return { shape: [dimAt(query, 0), heads * valueDim], dtype: "f32" };
}

function requireMask(
  operator: string,
  inputs: readonly ValueType[],
  index: number,
  { heads, tokens }: AttentionAttributes,
): void {
  const isShared = inputs[index]?.shape.length === 2;
  requireShape(operator, inputs, index, isShared ? [tokens, tokens] : [1, heads, tokens, tokens]);
}

/** What a score becomes that does not count. */
const UNSEEN = -3e38;

/**
 * softmax(q kᵀ · scale + mask) v per head.
 * Inputs: query [rows, heads * d], key [rows, keyValueHeads * d], value [rows, keyValueHeads * e], and where there is
 * one an additive mask, [tokens, tokens] or [1, heads, tokens, tokens]. Returns [rows, heads * e].
 */
export const attention: Operator<AttentionAttributes> = {
  dims: ["tokens"],
  infer(inputs, attributes) {
    if (inputs.length > 3) requireMask("attention", inputs, 3, attributes);
    return [inferAttention("attention", inputs, attributes)];
  },
  decompose(graph, inputs, attributes) {
    const { heads, keyValueHeads, tokens, scale, isCausal, softcap } = attributes;
    const [query, key, value, mask] = inputs as readonly [Value, Value, Value, Value?];
    const sequences = sequencesOf("attention", inputs, tokens);
    const groups = keyValueHeads;
    const perGroup = heads / groups;
    const headDim = knownDim(query, 1) / heads;
    const valueDim = knownDim(value, 1) / groups;
    const reshape = (states: Value, ...shape: Shape): Value => graph.apply("reshape", [states], { shape });
    const perHead = (states: Value, count: number, width: number, order: readonly number[]): Value =>
      graph.apply("transpose", [reshape(states, sequences, tokens, groups, count, width)], { order });
    const q = perHead(query, perGroup, headDim, [0, 2, 3, 1, 4]); // [sequences, groups, perGroup, tokens, headDim]
    const k = perHead(key, 1, headDim, [0, 2, 3, 4, 1]);
    const v = perHead(value, 1, valueDim, [0, 2, 3, 1, 4]);
    const scaled = graph.apply("multiply", [graph.apply("matmul", [q, k]), graph.scalar(scale)]);
    const capped = softcap === undefined ? scaled : cap(graph, scaled, softcap);
    const seen = isCausal ? hideLater(graph, capped, tokens) : capped;
    const masked = mask === undefined ? seen : graph.apply("add", [seen, spreadMask(mask)]);
    const mixed = graph.apply("matmul", [graph.apply("softmax", [masked]), v]);
    const backInOrder = graph.apply("transpose", [mixed], { order: [0, 3, 1, 2, 4] });
    return [reshape(backInOrder, dimAt(query, 0), heads * valueDim)];

    function spreadMask(table: Value): Value {
      return table.shape.length === 2 ? table : reshape(table, 1, groups, perGroup, tokens, tokens);
    }
  },
};

/**
 * The same, head by head: no more than one head's [sequences, tokens, tokens] of scores need be there at a time, where
 * an executor's own attention may hold those of all heads.
 */
export const attentionByHead: Operator<AttentionAttributes> = {
  ...attention,
  decompose(graph, inputs, attributes) {
    const [query, key, value, mask] = inputs as readonly [Value, Value, Value, Value?];
    const { heads, keyValueHeads, tokens } = attributes;
    const cut = headsOf(graph, dimAt(query, 0), tokens);
    const queries = cut(scaledBy(graph, query, attributes.scale), heads);
    const [keys, values] = [cut(key, keyValueHeads), cut(value, keyValueHeads)];
    const tables = scoreTables(graph, mask, attributes);
    const mixed = queries.map((scaledQuery, head) => {
      const group = Math.floor(head / (heads / keyValueHeads));
      const { shares } = headShares(graph, scaledQuery, keys[group] as Value, tables(head), attributes.softcap);
      return graph.apply("matmul", [shares, values[group] as Value]);
    });
    const shape = [dimAt(query, 0), heads * (knownDim(value, 1) / keyValueHeads)];
    return [graph.apply("reshape", [graph.apply("concat", mixed, { axis: 2 })], { shape })];
  },
};

/**
 * Attention whose softmax has one more score per head, a sink's, that takes its share and has no value (gpt-oss): each
 * head's output is attention's times sigmoid(logSumExp(scores) - sink).
 * Inputs: query, key and value; sinks [heads]; and the mask, as attention's.
 */
export const sinkAttention: Operator<AttentionAttributes> = {
  dims: ["tokens"],
  infer(inputs, attributes) {
    requireShape("sinkAttention", inputs, 3, [attributes.heads]);
    if (inputs.length > 4) requireMask("sinkAttention", inputs, 4, attributes);
    return [inferAttention("sinkAttention", inputs, attributes)];
  },
  decompose(graph, inputs, attributes) {
    const [query, key, value, sinks, mask] = inputs as readonly [Value, Value, Value, Value, Value?];
    const { heads, keyValueHeads, tokens, softcap } = attributes;
    const cut = headsOf(graph, dimAt(query, 0), tokens);
    const queries = cut(scaledBy(graph, query, attributes.scale), heads);
    const [keys, values] = [cut(key, keyValueHeads), cut(value, keyValueHeads)];
    const tables = scoreTables(graph, mask, attributes);
    const mixed = queries.map((scaledQuery, head) => {
      const group = Math.floor(head / (heads / keyValueHeads));
      const sink = graph.apply("slice", [sinks], { axis: 0, start: head, end: head + 1 });
      const { shares, left } = headShares(graph, scaledQuery, keys[group] as Value, tables(head), softcap, sink);
      return graph.apply("multiply", [graph.apply("matmul", [shares, values[group] as Value]), left as Value]);
    });
    const shape = [dimAt(query, 0), heads * (knownDim(value, 1) / keyValueHeads)];
    return [graph.apply("reshape", [graph.apply("concat", mixed, { axis: 2 })], { shape })];
  },
};

/** Cuts states [rows, features] into [sequences, tokens, features / count] for each of `count` heads. */
function headsOf(graph: GraphBuilder, rows: Dim, tokens: Dim): (states: Value, count: number) => readonly Value[] {
  const sequences = quotient(rows, tokens) as Dim;
  return (states, count) => {
    const width = knownDim(states, 1);
    const whole = graph.apply("reshape", [states], { shape: [sequences, tokens, width] });
    return graph.applyAll("split", [whole], { axis: 2, sizes: new Array<number>(count).fill(width / count) });
  };
}

function scaledBy(graph: GraphBuilder, states: Value, factor: number): Value {
  return graph.apply("multiply", [states, graph.scalar(factor)]);
}

/** What is added to the scores of a head: [tokens, tokens], or nothing. */
function scoreTables(
  graph: GraphBuilder,
  mask: Value | undefined,
  { tokens, isCausal }: AttentionAttributes,
): (head: number) => Value | undefined {
  const later = isCausal ? hideLater(graph, graph.scalar(0), tokens) : undefined;
  return (head) => {
    if (mask === undefined) return later;
    const own = maskOf(graph, mask, head, tokens);
    return later === undefined ? own : graph.apply("add", [own, later]);
  };
}

/**
 * A head's softmax, and the scores that it is of but for the table: both [sequences, tokens, tokens]; and what a sink
 * leaves of each row's softmax, [sequences, tokens, 1].
 */
function headShares(
  graph: GraphBuilder,
  scaledQuery: Value,
  key: Value,
  table: Value | undefined,
  softcap: number | undefined,
  sink?: Value,
): { readonly shares: Value; readonly scores: Value; readonly left: Value | undefined } {
  const products = graph.apply("matmul", [scaledQuery, turned(graph, key)]);
  const scores = softcap === undefined ? products : cap(graph, products, softcap);
  const all = table === undefined ? scores : graph.apply("add", [scores, table]);
  const sum = (): Value => graph.apply("logSumExp", [all], { axes: [-1], keepsAxes: true });
  return {
    shares: graph.apply("softmax", [all]),
    scores,
    left: sink && graph.apply("sigmoid", [graph.apply("subtract", [sum(), sink])]),
  };
}

/**
 * Gradients of attention with respect to query, key and value, head by head: scores are computed again, and no more than
 * one head's [sequences, tokens, tokens] of them need be there at a time.
 * Inputs: query, key and value; what attention returned; the gradient with respect to that; and the mask, as attention's.
 *
 * With P the softmax, the gradient of a score is P · (gradient valueᵀ - Σ gradient · output), the sum over the head's
 * dimensions (Dao et al. 2022, arXiv:2205.14135, section B.2). That difference is one product here, of [gradient, -Σ]
 * and [value, 1]: a pass over scores takes as long as a product does.
 */
export const attentionGradient: Operator<AttentionAttributes> = {
  dims: ["tokens"],
  infer(inputs, attributes) {
    const { shape } = inferAttention("attentionGradient", inputs, attributes);
    for (const index of [3, 4]) requireShape("attentionGradient", inputs, index, shape);
    if (inputs.length > 5) requireMask("attentionGradient", inputs, 5, attributes);
    return inputs.slice(0, 3).map((input) => ({ shape: input.shape, dtype: "f32" }));
  },
  decompose: (graph, inputs, attributes) => gradientsByHead(graph, inputs, attributes),
};

/** With respect to query, key and value, and where there are any sinks. @param inputs as attentionGradient's */
function gradientsByHead(
  graph: GraphBuilder,
  inputs: readonly Value[],
  attributes: AttentionAttributes,
  sinks?: Value,
): readonly Value[] {
  const { heads, keyValueHeads, tokens } = attributes;
  const [query, key, value] = inputs as readonly [Value, Value, Value];
  const sequences = sequencesOf("attentionGradient", inputs, tokens);
  const [keyDim, valueDim] = [knownDim(query, 1) / heads, knownDim(value, 1) / keyValueHeads];
  const sizes = [keyDim, keyDim, valueDim, ...(sinks === undefined ? [] : [1])];
  // A head's gradients are put together, so that an executor is done with its scores before it begins the next one's.
  const parts = headOperands(graph, inputs, attributes, sinks).map((operands) =>
    headGradients(graph, operands, attributes),
  );
  const together = graph.apply("reshape", [graph.apply("concat", parts, { axis: 2 })], {
    shape: [sequences, tokens, keyValueHeads, heads / keyValueHeads, sizes.reduce((sum, size) => sum + size)],
  });
  const [ofQuery, ofKey, ofValue, ofSinks] = graph.applyAll("split", [together], { axis: 4, sizes }) as readonly [
    Value,
    Value,
    Value,
    Value?,
  ];
  const summed = (part: Value): Value =>
    heads === keyValueHeads ? part : graph.apply("reduceSum", [part], { axes: [3] });
  const ofSink = (rows: Value): Value => {
    const sums = graph.apply("reduceSum", [rows], { axes: [0, 1] });
    return graph.apply("reshape", [sums], { shape: [heads] });
  };
  return [
    graph.apply("reshape", [ofQuery], { shape: query.shape }),
    graph.apply("reshape", [summed(ofKey)], { shape: key.shape }),
    graph.apply("reshape", [summed(ofValue)], { shape: value.shape }),
    ...(ofSinks === undefined ? [] : [ofSink(ofSinks)]),
  ];
}

/**
 * The same for attention with sinks. Inputs: query, key and value; what sinkAttention returned; the gradient with respect
 * to that; the sinks; and the mask. Returns gradients with respect to query, key, value and sinks.
 *
 * A sink has a share of every row and no value: its gradient is that of any score, - share · Σ gradient · output.
 */
export const sinkAttentionGradient: Operator<AttentionAttributes> = {
  dims: ["tokens"],
  infer(inputs, attributes) {
    const { shape } = inferAttention("sinkAttentionGradient", inputs, attributes);
    for (const index of [3, 4]) requireShape("sinkAttentionGradient", inputs, index, shape);
    requireShape("sinkAttentionGradient", inputs, 5, [attributes.heads]);
    if (inputs.length > 6) requireMask("sinkAttentionGradient", inputs, 6, attributes);
    return [0, 1, 2, 5].map((index) => {
      return { shape: inputAt("sinkAttentionGradient", inputs, index).shape, dtype: "f32" };
    });
  },
  decompose(graph, inputs, attributes) {
    const [sinks, mask] = inputs.slice(5) as [Value, Value?];
    const others = [...inputs.slice(0, 5), ...(mask === undefined ? [] : [mask])];
    return gradientsByHead(graph, others, attributes, sinks);
  },
};

/** Of one head: [sequences, tokens, its dimensions], queries and keys also times the scale. */
interface HeadOperands {
  readonly scaledQuery: Value;
  readonly key: Value;
  readonly scaledKey: Value;
  readonly value: Value;
  readonly gradient: Value;
  /** -Σ gradient · output, [sequences, tokens, 1] */
  readonly loss: Value;
  /** What is added to its scores, [tokens, tokens]. */
  readonly table: Value | undefined;
  /** [1] */
  readonly sink: Value | undefined;
}

function headOperands(
  graph: GraphBuilder,
  inputs: readonly Value[],
  attributes: AttentionAttributes,
  sinks: Value | undefined,
): HeadOperands[] {
  const [query, key, value, output, gradient, mask] = inputs as readonly [Value, Value, Value, Value, Value, Value?];
  const { heads, keyValueHeads, tokens, scale } = attributes;
  const rows = dimAt(query, 0);
  const cut = headsOf(graph, rows, tokens);
  const products = graph.apply("reshape", [graph.apply("multiply", [gradient, output])], {
    shape: [rows, heads, knownDim(output, 1) / heads],
  });
  const losses = cut(scaledBy(graph, graph.apply("reduceSum", [products], { axes: [2] }), -1), heads);
  const [queries, gradients] = [cut(scaledBy(graph, query, scale), heads), cut(gradient, heads)];
  const [keys, scaledKeys] = [cut(key, keyValueHeads), cut(scaledBy(graph, key, scale), keyValueHeads)];
  const values = cut(value, keyValueHeads);
  const tables = scoreTables(graph, mask, attributes);
  return queries.map((scaledQuery, head) => {
    const group = Math.floor(head / (heads / keyValueHeads));
    return {
      scaledQuery,
      key: keys[group] as Value,
      scaledKey: scaledKeys[group] as Value,
      value: values[group] as Value,
      gradient: gradients[head] as Value,
      loss: losses[head] as Value,
      table: tables(head),
      sink: sinks && graph.apply("slice", [sinks], { axis: 0, start: head, end: head + 1 }),
    };
  });
}

/** One head's table of a mask. */
function maskOf(graph: GraphBuilder, mask: Value, head: number, tokens: Dim): Value {
  if (mask.shape.length === 2) return mask;
  const tables = graph.apply("reshape", [mask], { shape: [dimAt(mask, 1), tokens, tokens] });
  return graph.apply("gather", [tables, graph.integers([head], [])]);
}

/**
 * Gradients with respect to a head's query, key and value, side by side: [sequences, tokens, their dimensions]; and each
 * row's part of that of its sink.
 */
function headGradients(graph: GraphBuilder, operands: HeadOperands, { softcap }: AttentionAttributes): Value {
  const { scaledQuery, key, scaledKey, value, gradient, loss, table, sink } = operands;
  const times = (a: Value, b: Value): Value => graph.apply("multiply", [a, b]);
  const product = (a: Value, b: Value): Value => graph.apply("matmul", [a, b]);
  const [sequences, tokens] = value.shape as readonly [Dim, Dim];

  const made = headShares(graph, scaledQuery, key, table, softcap, sink);
  const { scores, left } = made;
  const shares = left === undefined ? made.shares : times(made.shares, left);
  const ones = graph.apply("fill", [], { shape: [sequences, tokens, 1], value: 1 });
  const difference = product(
    graph.apply("concat", [gradient, loss], { axis: 2 }),
    turned(graph, graph.apply("concat", [value, ones], { axis: 2 })),
  );
  const ofCapped = times(shares, difference);
  const ofScores = softcap === undefined ? ofCapped : times(ofCapped, capSlope(graph, scores, softcap));
  return graph.apply(
    "concat",
    [
      product(ofScores, scaledKey),
      product(turned(graph, ofScores), scaledQuery),
      product(turned(graph, shares), gradient),
      ...(left === undefined ? [] : [times(graph.apply("subtract", [graph.scalar(1), left]), loss)]),
    ],
    { axis: 2 },
  );
}

/** cap · tanh(value / cap) */
export function cap(graph: GraphBuilder, value: Value, limit: number): Value {
  const divisor = graph.scalar(limit);
  return graph.apply("multiply", [graph.apply("tanh", [graph.apply("divide", [value, divisor])]), divisor]);
}

/** The slope of `cap` where it returns these values: 1 - (value / cap)² */
function capSlope(graph: GraphBuilder, capped: Value, limit: number): Value {
  const share = graph.apply("divide", [capped, graph.scalar(limit)]);
  return graph.apply("subtract", [graph.scalar(1), graph.apply("multiply", [share, share])]);
}

/** @param scores what stretches to [..., tokens of queries, tokens of keys] */
function hideLater(graph: GraphBuilder, scores: Value, tokens: Dim): Value {
  const keys = graph.apply("iota", [], { length: tokens });
  const queries = graph.apply("reshape", [keys], { shape: [tokens, 1] });
  return graph.apply("where", [graph.apply("lessOrEqual", [keys, queries]), scores, graph.scalar(UNSEEN)]);
}
