/**
 * The operators of recurrent.ts for one further token of each of several sequences: a row is a sequence, and the state that
 * its tokens before left comes in and goes out changed. A sequence that begins has zeros.
 */
import type { Value, ValueType } from "./graph.js";
import { dimAt, inputAt, knownDim, type None, refuse, requireShape, requireType, type Operator } from "./operator.js";
import type { LinearAttentionAttributes } from "./recurrent.js";
import { reshape } from "./shorthand.js";

/**
 * A convolution's next output. Inputs: x [rows, channels], weight [channels, 1, K], the last K - 1 of what it was given
 * before [rows, K - 1, channels], oldest first, and where there is one a bias [channels].
 * Returns [rows, channels] and the last K - 1, x among them. K is at least 2.
 */
export const convolutionStep: Operator<None> = {
  infer(inputs) {
    requireType("convolutionStep", inputs, "f32");
    const [x, taps] = [inputAt("convolutionStep", inputs, 0), knownDim(inputAt("convolutionStep", inputs, 1), 2)];
    const [rows, channels] = [dimAt(x, 0), dimAt(x, 1)];
    if (taps < 2) throw refuse("convolutionStep", inputs, "a kernel over two tokens or more");
    requireShape("convolutionStep", inputs, 1, [channels, 1, taps]);
    requireShape("convolutionStep", inputs, 2, [rows, taps - 1, channels]);
    if (inputs.length > 3) requireShape("convolutionStep", inputs, 3, [channels]);
    return [x, inputAt("convolutionStep", inputs, 2)].map(({ shape, dtype }) => ({ shape, dtype }));
  },
  decompose(graph, inputs) {
    const [x, weight, before, bias] = inputs as readonly [Value, Value, Value, Value?];
    const [rows, channels, taps] = [dimAt(x, 0), knownDim(x, 1), knownDim(weight, 2)];
    const seen = graph.apply("concat", [before, reshape(graph, x, rows, 1, channels)], { axis: 1 });
    const byTap = graph.apply("transpose", [reshape(graph, weight, channels, taps)], { order: [1, 0] });
    const sum = graph.apply("reduceSum", [graph.apply("multiply", [seen, byTap])], { axes: [1] });
    const output = bias === undefined ? sum : graph.apply("add", [sum, bias]);
    return [output, graph.apply("slice", [seen], { axis: 1, start: 1, end: taps })];
  },
};

export type LinearAttentionStepAttributes = Pick<LinearAttentionAttributes, "heads" | "keyHeads">;

/** Sizes of one head's query and key, and of its value. */
function headSizes(
  operator: string,
  inputs: readonly ValueType[],
  { heads, keyHeads }: LinearAttentionStepAttributes,
): { readonly keyDim: number; readonly valueDim: number } {
  const keyDim = knownDim(inputAt(operator, inputs, 0), 1) / keyHeads;
  const valueDim = knownDim(inputAt(operator, inputs, 2), 1) / heads;
  if (!Number.isInteger(keyDim) || !Number.isInteger(valueDim) || heads % keyHeads !== 0)
    throw refuse(operator, inputs, `${heads} heads over ${keyHeads}`);
  return { keyDim, valueDim };
}

/** Inputs 0 to 2 are query, key and value, the last is the state. */
function inferStep(
  operator: string,
  inputs: readonly ValueType[],
  attributes: LinearAttentionStepAttributes,
): readonly ValueType[] {
  requireType(operator, inputs, "f32");
  const { keyDim, valueDim } = headSizes(operator, inputs, attributes);
  const query = inputAt(operator, inputs, 0);
  const rows = dimAt(query, 0);
  const output = [rows, attributes.heads * valueDim];
  const state = [rows, attributes.heads, keyDim, valueDim];
  requireShape(operator, inputs, 1, query.shape);
  requireShape(operator, inputs, 2, output);
  requireShape(operator, inputs, inputs.length - 1, state);
  return [output, state].map((shape) => ({ shape, dtype: "f32" }));
}

/**
 * `deltaRule`'s next output. Inputs: query and key [rows, keyHeads * d], value [rows, heads * e], g and β [rows, heads], the
 * state [rows, heads, d, e]. Returns [rows, heads * e] and the state.
 */
export const deltaRuleStep: Operator<LinearAttentionStepAttributes> = {
  infer(inputs, attributes) {
    const types = inferStep("deltaRuleStep", inputs, attributes);
    const rows = dimAt(inputAt("deltaRuleStep", inputs, 0), 0);
    for (const index of [3, 4]) requireShape("deltaRuleStep", inputs, index, [rows, attributes.heads]);
    return types;
  },
  decompose(graph, inputs, attributes) {
    const { heads, keyHeads } = attributes;
    const [query, key, value, gate, beta, state] = inputs as readonly [Value, Value, Value, Value, Value, Value];
    const { keyDim, valueDim } = headSizes("deltaRuleStep", inputs, attributes);
    const [rows, perKey] = [dimAt(query, 0), heads / keyHeads];
    const perHead = (of: Value): Value => reshape(graph, of, rows, keyHeads, perKey, 1, 1);
    const faded = graph.apply("multiply", [
      reshape(graph, state, rows, keyHeads, perKey, keyDim, valueDim),
      graph.apply("exp", [perHead(gate)]),
    ]);
    const known = graph.apply("matmul", [reshape(graph, key, rows, keyHeads, 1, 1, keyDim), faded]);
    const missing = graph.apply("subtract", [reshape(graph, value, rows, keyHeads, perKey, 1, valueDim), known]);
    const correction = graph.apply("multiply", [missing, perHead(beta)]);
    const column = reshape(graph, key, rows, keyHeads, 1, keyDim, 1);
    const next = graph.apply("add", [faded, graph.apply("multiply", [column, correction])]);
    const read = graph.apply("matmul", [reshape(graph, query, rows, keyHeads, 1, 1, keyDim), next]);
    return [reshape(graph, read, rows, heads * valueDim), reshape(graph, next, ...state.shape)];
  },
};

/**
 * `fadingAttention`'s next output, over S = Σ exp(-slope (t - s)) k_s v_sᵀ. Inputs: query and key [rows, keyHeads * d], value
 * [rows, heads * e], slopes [heads], the state S [rows, heads, d, e]. Returns [rows, heads * e] and the state.
 */
export const fadingAttentionStep: Operator<LinearAttentionStepAttributes> = {
  infer(inputs, attributes) {
    requireShape("fadingAttentionStep", inputs, 3, [attributes.heads]);
    return inferStep("fadingAttentionStep", inputs, attributes);
  },
  decompose(graph, inputs, attributes) {
    const { heads, keyHeads } = attributes;
    const [query, key, value, slopes, state] = inputs as readonly [Value, Value, Value, Value, Value];
    const { keyDim, valueDim } = headSizes("fadingAttentionStep", inputs, attributes);
    const [rows, perKey] = [dimAt(query, 0), heads / keyHeads];
    const left = graph.apply("exp", [graph.apply("multiply", [slopes, graph.scalar(-1)])]);
    const faded = graph.apply("multiply", [
      reshape(graph, state, rows, keyHeads, perKey, keyDim, valueDim),
      reshape(graph, left, 1, keyHeads, perKey, 1, 1),
    ]);
    const added = graph.apply("multiply", [
      reshape(graph, key, rows, keyHeads, 1, keyDim, 1),
      reshape(graph, value, rows, keyHeads, perKey, 1, valueDim),
    ]);
    const next = graph.apply("add", [faded, added]);
    const read = graph.apply("matmul", [reshape(graph, query, rows, keyHeads, 1, 1, keyDim), next]);
    return [reshape(graph, read, rows, heads * valueDim), reshape(graph, next, ...state.shape)];
  },
};
