/** Every operator of the table on awkward shapes, for tests that run each in several ways. */
import { GraphBuilder, type DataType, type Graph, type Value } from "../../src/graph/graph.js";
import type { Shape } from "../../src/graph/dimensions.js";
import type { AttributesOf, OperatorName } from "../../src/graph/operators.js";
import { tensor, type Tensor } from "../reference/graph-interpreter.js";
import { rounded } from "./graphs.js";

interface Input {
  readonly shape: Shape;
  readonly sizes?: readonly number[];
  readonly dtype?: DataType;
  readonly at?: (index: number) => number;
}

export interface Case {
  readonly title: string;
  readonly operators: readonly OperatorName[];
  readonly graph: Graph;
  readonly feeds: ReadonlyMap<string, Tensor>;
}

export const wave = (index: number): number => 1.7 * Math.sin(index * 0.73 + 0.2) + 0.4 * Math.cos(index * 2.1);
const positive = (index: number): number => 0.2 + Math.abs(wave(index));

/** A graph of what `write` makes of inputs; each of its values is an output. */
export function custom(
  title: string,
  inputs: readonly Input[],
  write: (graph: GraphBuilder, values: Value[]) => readonly Value[],
): Case {
  const builder = new GraphBuilder(title);
  const values = inputs.map(({ shape, dtype = "f32" }, index) => builder.input(`x${index}`, shape, dtype));
  write(builder, values).forEach((value, index) => {
    builder.output(`y${index}`, value.dtype === "bool" ? builder.apply("cast", [value], { to: "f32" }) : value);
  });
  const feeds = inputs.map(({ shape, sizes = shape as readonly number[], at = wave }, index) => {
    return [`x${index}`, tensor(sizes, (entry) => at(entry + 13 * index))] as const;
  });
  const graph = builder.build();
  return { title, operators: graph.nodes.map(({ operator }) => operator), graph, feeds: rounded(new Map(feeds)) };
}

/** One node. */
function one<Name extends OperatorName>(
  operator: Name,
  inputs: readonly Input[],
  attributes: AttributesOf<Name>,
  note = "",
): Case {
  return custom(`${operator}${note === "" ? "" : `, ${note}`}`, inputs, (graph, values) =>
    graph.applyAll(operator as "iota", values, attributes as AttributesOf<"iota">),
  );
}

const flat = (...sizes: number[]): Input => ({ shape: sizes });
const whole = (below: number, ...sizes: number[]): Input => ({
  shape: sizes,
  dtype: "i64",
  at: (index) => (index * 7 + 3) % below,
});

/** Two sequences of five tokens. */
const rows = (width: number): Input => ({ shape: ["batch*tokens", width], sizes: [10, width] });
const positions: Input = { shape: ["batch", "tokens"], sizes: [2, 5], dtype: "i64", at: (index) => index % 5 };

const elementwise = (["exp", "tanh", "erf", "sigmoid", "relu", "silu", "softmax"] as const).flatMap((operator) => [
  one(operator, [{ shape: ["n", 7], sizes: [3, 7] }], {}),
  one(operator, [flat(1, 1)], {}, "one entry"),
]);

const arithmetic = (["add", "subtract", "multiply", "divide"] as const).flatMap((operator) => [
  one(operator, [flat(3, 1, 5), { ...flat(4, 1), at: positive }], {}, "stretched both ways"),
  one(
    operator,
    [
      { shape: ["n", 5], sizes: [0, 5] },
      { ...flat(5), at: positive },
    ],
    {},
    "of no rows",
  ),
]);

export const ATTENTION = { heads: 6, keyValueHeads: 2, tokens: "tokens", scale: 0.3, isCausal: true } as const;
const attentionInputs = [rows(6 * 4), rows(2 * 4), rows(2 * 3), positions];
/** The graph also has positions, which say what "tokens" is. */
function attentionCases(title: string, attributes: Partial<AttributesOf<"attention">>, mask?: Input): readonly Case[] {
  const inputs = mask === undefined ? attentionInputs : [...attentionInputs, mask];
  return (["attention", "attentionByHead"] as const).map((operator) =>
    custom(`${operator}, ${title}`, inputs, (graph, [query, key, value, , table]) => {
      const operands = [query, key, value, ...(table === undefined ? [] : [table])] as Value[];
      return [graph.apply(operator, operands, { ...ATTENTION, ...attributes })];
    }),
  );
}

/** A mask comes after the sinks. */
function sinkAttentionCase(title: string, attributes: Partial<AttributesOf<"attention">>, mask?: Input): Case {
  const inputs = [...attentionInputs, flat(6), ...(mask === undefined ? [] : [mask])];
  return custom(`sinkAttention, ${title}`, inputs, (graph, [query, key, value, , sinks, table]) => {
    const operands = [query, key, value, sinks, ...(table === undefined ? [] : [table])] as Value[];
    return [graph.apply("sinkAttention", operands, { ...ATTENTION, ...attributes })];
  });
}

/** The gradient of what attention with sinks returns of the same inputs. */
function sinkGradientCase(title: string, attributes: Partial<AttributesOf<"attention">>, mask?: Input): Case {
  const inputs = [...attentionInputs, rows(6 * 3), flat(6), ...(mask === undefined ? [] : [mask])];
  return custom(`sinkAttentionGradient, ${title}`, inputs, (graph, values) => {
    const [query, key, value, , gradient, ...more] = values as [Value, Value, Value, Value, Value, ...Value[]];
    const all = { ...ATTENTION, ...attributes };
    const output = graph.apply("sinkAttention", [query, key, value, ...more], all);
    return graph.applyAll("sinkAttentionGradient", [query, key, value, output, gradient, ...more], all);
  });
}

/** The gradient of what attention returns of the same inputs. */
function attentionGradientCase(title: string, attributes: Partial<AttributesOf<"attention">>, mask?: Input): Case {
  const inputs = [...attentionInputs, rows(6 * 3), ...(mask === undefined ? [] : [mask])];
  return custom(`attentionGradient, ${title}`, inputs, (graph, values) => {
    const [query, key, value, , gradient, table] = values as [Value, Value, Value, Value, Value, Value?];
    const all = { ...ATTENTION, ...attributes };
    const tables = table === undefined ? [] : [table];
    const output = graph.apply("attention", [query, key, value, ...tables], all);
    return graph.applyAll("attentionGradient", [query, key, value, output, gradient, ...tables], all);
  });
}

/** Six heads over two of keys, 4 and 3 numbers of a key and a value; the first row's last two cached tokens are hidden. */
function cachedAttentionCase(title: string, maskHeads: 1 | 6, softcap?: number, hasSinks = false): Case {
  const [count, past] = [3, 4];
  const cache = (width: number): Input => ({ shape: ["rows", 2, "past", width], sizes: [count, 2, past, width] });
  const states = (width: number): Input => ({ shape: ["rows", width], sizes: [count, width] });
  const table = (entry: number): number => {
    const index = entry - 65; // the sixth input
    return index < maskHeads * past && index % past > 1 ? -3e38 : wave(index);
  };
  const mask = { shape: ["rows", maskHeads, "past"], sizes: [count, maskHeads, past], at: table };
  const sinks = hasSinks ? [flat(6)] : [];
  const inputs = [states(6 * 4), states(2 * 4), states(2 * 3), cache(4), cache(3), mask, ...sinks];
  const attributes = { heads: 6, keyValueHeads: 2, scale: 0.4, ...(softcap === undefined ? {} : { softcap }) };
  return one("cachedAttention", inputs, attributes, title);
}

/** Two heads of keys for four of values; also positions, which say what "tokens" is. */
function linearAttentionCase(
  operator: "deltaRule" | "fadingAttention",
  title: string,
  piece: number,
  more: readonly Input[],
): Case {
  const inputs = [rows(2 * 4), rows(2 * 4), rows(4 * 3), positions, ...more];
  return custom(`${operator}, ${title}`, inputs, (graph, [query, key, value, , ...others]) => {
    const operands = [query, key, value, ...others] as Value[];
    return [graph.apply(operator, operands, { heads: 4, keyHeads: 2, tokens: "tokens", piece })];
  });
}

/** Negative: what fades. */
const gates: Input = { ...rows(4), at: (index) => -0.3 * positive(index) };
const shares: Input = { ...rows(4), at: (index) => 1 / (1 + Math.exp(wave(index))) };
/** One token of each of three sequences. */
const ofThree = (width: number, at = wave): Input => ({ shape: ["rows", width], sizes: [3, width], at });

/** The last input is the state. */
function linearAttentionStepCase(operator: "deltaRuleStep" | "fadingAttentionStep", more: readonly Input[]): Case {
  const state = { shape: ["rows", 4, 4, 3], sizes: [3, 4, 4, 3] };
  return one(operator, [ofThree(2 * 4), ofThree(2 * 4), ofThree(4 * 3), ...more, state], { heads: 4, keyHeads: 2 });
}
const convolutionStepInputs = [ofThree(2), flat(2, 1, 4), { shape: ["rows", 3, 2], sizes: [3, 3, 2] }];

const convolutionInputs = [rows(3), positions, flat(3, 1, 4)];

const causalAt =
  (tokens: number, slope: number) =>
  (index: number): number => {
    const [query, key] = [Math.floor(index / tokens) % tokens, index % tokens];
    return key > query ? -3e38 : slope * (key - query);
  };

function rotaryCase(title: string, attributes: AttributesOf<"rotary">, width: number): Case {
  const table = { shape: ["table", attributes.dimensions / 2], sizes: [8, attributes.dimensions / 2] };
  return one("rotary", [rows(width), table, table, positions], attributes, title);
}

function expertsCase(
  title: string,
  how: Partial<AttributesOf<"experts">> & { readonly chosenOf?: (index: number) => number },
): Case {
  const { chosenOf = (index: number) => (index * 5 + Math.floor(index / 2)) % 4, ...attributes } = how;
  const [count, hidden, width] = [4, 6, 5];
  const layout = attributes.layout ?? { kind: "separate" };
  const separate = Array.from({ length: count }, () => [flat(width, hidden), flat(width, hidden), flat(hidden, width)]);
  const stacked =
    layout.kind === "stacked" && layout.inputAxis === 1
      ? [flat(count, 2 * width, hidden), flat(count, hidden, width)]
      : [flat(count, hidden, 2 * width), flat(count, width, hidden)];
  const biases =
    layout.kind === "stacked" && layout.hasBias === true ? [flat(count, 2 * width), flat(count, hidden)] : [];
  const hasAllWeights = attributes.isInputScaled === true && attributes.isRoutingBypassed === true;
  const inputs: Input[] = [
    { shape: ["rows", hidden], sizes: [9, hidden] },
    { shape: ["rows", 2], sizes: [9, 2], dtype: "i64", at: (index) => chosenOf(index - 13) },
    { shape: ["rows", 2], sizes: [9, 2], at: positive },
    ...(attributes.hasSum === true ? [{ shape: ["rows", hidden], sizes: [9, hidden] }] : []),
    ...(layout.kind === "separate" ? separate.flat() : [...stacked, ...biases]),
    ...(hasAllWeights ? [{ shape: ["rows", count], sizes: [9, count], at: positive }] : []),
  ];
  const taps = [0, 2, 3].flatMap((expert) => (["input", "activated"] as const).map((at) => ({ expert, at })));
  return one(
    "experts",
    inputs,
    { experts: count, activation: "silu", layout, hasSum: false, taps, ...attributes },
    title,
  );
}

/** Expert 2 of 4. */
function expertCase(layout: AttributesOf<"expert">["layout"]): Case {
  const [hidden, width] = [6, 5];
  const matrices = {
    separate: [flat(width, hidden), flat(width, hidden), flat(hidden, width)],
    0: [flat(4, hidden, 2 * width), flat(4, width, hidden)],
    1: [flat(4, 2 * width, hidden), flat(4, hidden, width)],
  }[layout.kind === "separate" ? layout.kind : layout.inputAxis];
  const states: Input = { shape: ["rows", hidden], sizes: [9, hidden] };
  const inputs: Input[] = [
    states,
    states,
    {
      shape: ["rows", 2],
      sizes: [9, 2],
      dtype: "i64",
      at: (index) => ((index - 26) * 5 + Math.floor((index - 26) / 2)) % 4,
    },
    { shape: ["rows", 2], sizes: [9, 2], at: positive },
    ...matrices,
  ];
  return one("expert", inputs, { expert: 2, activation: "silu", layout }, JSON.stringify(layout));
}

const routerInputs = [{ shape: ["rows", 5], sizes: [7, 5] }, flat(12, 5)];

export const OPERATOR_CASES: readonly Case[] = [
  ...elementwise,
  ...arithmetic,
  one("add", [whole(9, 2, 3), whole(5)], {}, "integers"),
  one("log", [{ ...flat(3, 2), at: positive }], {}),
  one("sqrt", [{ ...flat(3, 2), at: positive }], {}),
  one("gelu", [flat(5, 3)], { form: "erf" }),
  one("gelu", [flat(5, 3)], { form: "tanh" }, "tanh"),
  ...(["silu", "gelu", "gelu-tanh", "relu", "relu2"] as const).map((activation) =>
    one("gatedActivation", [flat(3, 7), flat(3, 7)], { activation }, activation),
  ),
  one("clampedGate", [flat(3, 7), flat(3, 7)], { limit: 1.2, alpha: 1.7 }),
  one("equal", [whole(3, 4, 2), whole(3)], {}),
  one("lessOrEqual", [whole(5, 4), whole(5, 3, 1)], {}),
  custom("where", [whole(2, 4, 3), flat(3), flat(4, 1)], (graph, [a, b, c]) => [
    graph.apply("where", [graph.apply("equal", [a as Value, graph.integers([1], [])]), b as Value, c as Value]),
  ]),
  custom("nonZero and size", [whole(3, 4, 3)], (graph, [x]) => {
    const found = graph.apply("nonZero", [graph.apply("equal", [x as Value, graph.integers([2], [])])]);
    return [found, graph.apply("size", [found], { axis: 1 })];
  }),
  custom("nonZero of nothing", [whole(3, 4, 3)], (graph, [x]) => [
    graph.apply("nonZero", [graph.apply("equal", [x as Value, graph.integers([7], [])])]),
  ]),
  ...(["reduceSum", "reduceMax", "reduceMean", "sumSquares", "logSumExp"] as const).flatMap((operator) => [
    one(operator, [{ shape: ["n", 5, 3], sizes: [4, 5, 3] }], { axes: [0, 1] }, "two axes"),
    one(operator, [{ shape: ["n", 5], sizes: [4, 5] }], { axes: [-1], keepsAxes: true }, "kept"),
    one(operator, [flat(1, 9)], { axes: [1] }, "one row"),
  ]),
  one("argMax", [flat(4, 7)], { axis: 1 }),
  one("argMax", [{ ...flat(3, 6), at: (index) => index % 2 }], { axis: 1 }, "the first of equals"),
  one("topK", [flat(5, 7)], { count: 3 }),
  one("topK", [{ ...flat(3, 6), at: (index) => index % 2 }], { count: 4 }, "the first of equals"),
  ...[false, true].flatMap((transposeA) =>
    [false, true].map((transposeB) =>
      one(
        "gemm",
        [transposeA ? flat(7, 5) : flat(5, 7), transposeB ? flat(3, 7) : flat(7, 3)],
        { transposeA, transposeB, alpha: -1.5 },
        `${transposeA}, ${transposeB}`,
      ),
    ),
  ),
  one("gemm", [{ shape: ["n", 4], sizes: [1, 4] }, flat(4, 3), flat(3)], {}, "with a bias"),
  one("gemm", [flat(2, 4), flat(4, 3), flat(2, 3)], {}, "with an addend"),
  one("gemm", [{ shape: ["n", 4], sizes: [0, 4] }, flat(4, 3)], {}, "of no rows"),
  one(
    "gemm",
    [
      { shape: ["n", 4], sizes: [0, 4] },
      { shape: ["n", 3], sizes: [0, 3] },
    ],
    { transposeA: true },
    "over no rows",
  ),
  one("matmul", [flat(2, 3, 4, 5), flat(3, 5, 2)], {}, "stretched"),
  one("matmul", [flat(2, 1, 4, 5), flat(1, 3, 5, 1)], {}, "stretched both ways"),
  one("cast", [whole(5, 3)], { to: "f32" }),
  custom("iota", [{ shape: ["n", 2], sizes: [6, 2] }], (graph, [x]) => [
    graph.apply("iota", [], { length: "n" }),
    graph.apply("iota", [], { length: 3 }),
    graph.apply("reshape", [x as Value], { shape: [2, "n"] }),
  ]),
  custom("fill", [{ shape: ["n", 2], sizes: [6, 2] }], (graph, [x]) => [
    graph.apply("fill", [], { shape: ["2*n", 3], value: 0 }),
    graph.apply("fill", [], { shape: [2, "n"], value: 1.5 }),
    x as Value,
  ]),
  one("reshape", [{ shape: ["a", 6, "b"], sizes: [2, 6, 3] }], { shape: ["3*a*b", 2] }),
  custom(
    "reshape to several sizes of the run",
    [
      { shape: ["a*b", 6], sizes: [6, 6] },
      { shape: ["a", "b"], sizes: [3, 2] },
    ],
    (graph, [x]) => [
      graph.apply("reshape", [x as Value], { shape: ["a", "b", 2, 3] }),
      graph.apply("reshape", [x as Value], { shape: ["b", 6, "a"] }),
    ],
  ),
  one("reshape", [flat(0, 6)], { shape: [3, 0, 2] }, "of nothing"),
  one("transpose", [{ shape: [2, "n", 3], sizes: [2, 5, 3] }], { order: [2, 0, 1] }),
  one("expand", [{ shape: ["n", 1, 3], sizes: [4, 1, 3] }], { shape: ["n", 2, 3] }),
  one("slice", [flat(3, 9)], { axis: 1, start: 2, end: 7 }),
  one("slice", [{ shape: [5, "n"], sizes: [5, 2] }], { axis: 0, start: 0, end: 0 }, "nothing"),
  one("split", [{ shape: ["n", 9], sizes: [4, 9] }], { axis: 1, sizes: [2, 6, 1] }),
  one("concat", [flat(2, 3), flat(2, 1), flat(2, 4)], { axis: 1 }),
  one("pad", [{ shape: ["n", 3], sizes: [4, 3] }], { axis: 1, after: 2 }),
  one("gather", [flat(5, 3), whole(5, 2, 4)], {}),
  one("gather", [flat(5, 3, 2), whole(5)], {}, "by one index"),
  one("gatherAlong", [flat(4, 6), whole(6, 4, 2)], { axis: 1 }),
  one("gatherPoints", [flat(4, 6), whole(4, 3, 2)], {}),
  one("scatterAlong", [flat(4, 6), { ...whole(6, 4, 2), at: (index) => (index * 3 + 1) % 6 }, flat(4, 2)], { axis: 1 }),
  one("scatterAlong", [flat(4, 6), whole(6, 4, 9), flat(4, 9)], { axis: 1, adds: true }, "added, some to one entry"),
  one("scatterAdd", [flat(4, 6), { ...whole(4, 3), at: (index) => [2, 0, 3][(index - 13) % 3] ?? 0 }, flat(3, 6)], {}),
  one(
    "scatterAdd",
    [flat(4, 6), { ...whole(4, 3), at: (index) => [2, 0, 3][(index - 13) % 3] ?? 0 }, flat(3, 6)],
    { areRowsDistinct: true },
    "to rows of their own",
  ),
  one("scatterAdd", [flat(4, 3), whole(4, 9), flat(9, 3)], {}, "some to one row"),
  one("scatterAdd", [{ shape: ["r", 3], sizes: [4, 3] }, whole(4, 5, 2), flat(5, 2, 3)], {}, "by a matrix of rows"),
  one("scatterAdd", [flat(4, 2, 3), whole(4, 1), flat(1, 2, 3)], {}, "of matrices"),
  one("rmsNorm", [{ shape: ["n", 5, 7], sizes: [2, 5, 7] }, flat(7)], { epsilon: 1e-5 }),
  one("layerNorm", [flat(3, 7), flat(7)], { epsilon: 1e-3 }, "without a bias"),
  one("layerNorm", [flat(3, 7), flat(7), flat(7)], { epsilon: 1e-3 }),
  rotaryCase("whole heads", { heads: 3, dimensions: 4 }, 12),
  rotaryCase("interleaved", { heads: 3, dimensions: 4, isInterleaved: true }, 12),
  rotaryCase("part of a head", { heads: 2, dimensions: 4 }, 20),
  rotaryCase("part of a head, interleaved", { heads: 2, dimensions: 4, isInterleaved: true }, 20),
  ...attentionCases("causal", {}),
  ...attentionCases("both ways", { isCausal: false }),
  ...attentionCases("softcap", { softcap: 1.5 }),
  ...attentionCases(
    "a mask for all heads",
    { isCausal: false },
    { shape: ["tokens", "tokens"], sizes: [5, 5], at: (index) => causalAt(5, 0)(index - 52) },
  ),
  ...attentionCases(
    "a mask per head",
    { isCausal: false },
    { shape: [1, 6, "tokens", "tokens"], sizes: [1, 6, 5, 5], at: (index) => causalAt(5, 0.4)(index - 52) },
  ),
  ...attentionCases(
    "a mask and softcap",
    { isCausal: false, softcap: 20 },
    { shape: ["tokens", "tokens"], sizes: [5, 5], at: (index) => causalAt(5, 0)(index - 52) },
  ),
  attentionGradientCase("causal", {}),
  attentionGradientCase("both ways, a head to each", { isCausal: false, softcap: 1.5 }),
  attentionGradientCase(
    "a mask for all heads",
    { isCausal: false, softcap: 20 },
    { shape: ["tokens", "tokens"], sizes: [5, 5], at: (index) => causalAt(5, 0)(index - 65) },
  ),
  attentionGradientCase(
    "a mask per head besides the causal one",
    {},
    { shape: [1, 6, "tokens", "tokens"], sizes: [1, 6, 5, 5], at: wave },
  ),
  cachedAttentionCase("a mask for all heads", 1),
  cachedAttentionCase("a mask per head and softcap", 6, 1.5),
  one("shift", [{ shape: ["n", 3], sizes: [4, 3] }], { axis: 0, by: 2 }),
  one("shift", [{ shape: [2, "n", 3], sizes: [2, 4, 3] }], { axis: 1, by: -1 }, "back"),
  one("shift", [{ shape: ["n", 3], sizes: [2, 3] }], { axis: 0, by: 4 }, "beyond the end"),
  custom("cut and join", [{ shape: ["n", 3], sizes: [7, 3] }], (graph, [x]) => {
    const pieces = graph.apply("cut", [x as Value], { size: 4 });
    const squares = graph.apply("multiply", [pieces, pieces]);
    return [graph.apply("join", [squares], { length: "n" })];
  }),
  custom("cut of sizes known before", [flat(8, 2)], (graph, [x]) => [graph.apply("cut", [x as Value], { size: 4 })]),
  one(
    "scan",
    [
      { shape: ["n", 2, 1, 3, 3], sizes: [5, 2, 1, 3, 3] },
      { shape: ["n", 2, 4, 3, 2], sizes: [5, 2, 4, 3, 2] },
    ],
    {},
  ),
  one("scan", [flat(4, 2, 3, 3), flat(4, 2, 3, 2)], { isReversed: true }, "from the end"),
  one("scan", [flat(1, 2, 3, 3), { shape: ["n", 2, 3, 2], sizes: [4, 2, 3, 2] }], {}, "by one matrix for all pieces"),
  one("scan", [flat(1, 1, 3, 1, 1), flat(4, 2, 3, 2, 2)], { isReversed: true }, "by one number per head, from the end"),
  one("scan", [flat(4, 1, 1, 1), flat(4, 2, 2, 3)], {}, "by a number per piece"),
  one("scan", [flat(1, 2, 2, 2), flat(1, 2, 2, 3)], {}, "of one piece"),
  custom("convolution", convolutionInputs, (graph, [x, , weight]) => [
    graph.apply("convolution", [x as Value, weight as Value], { tokens: "tokens" }),
  ]),
  custom("convolution with a bias", [...convolutionInputs, flat(3)], (graph, [x, , weight, bias]) => [
    graph.apply("convolution", [x as Value, weight as Value, bias as Value], { tokens: "tokens" }),
  ]),
  linearAttentionCase("deltaRule", "in several pieces", 2, [gates, shares]),
  linearAttentionCase("deltaRule", "in one piece", 8, [gates, shares]),
  linearAttentionCase("fadingAttention", "in several pieces", 2, [{ ...flat(4), at: positive }]),
  linearAttentionCase("fadingAttention", "in one piece", 8, [{ ...flat(4), at: positive }]),
  one("unitTriangularInverse", [{ shape: ["n", 2, 8, 8], sizes: [2, 2, 8, 8] }], {}),
  one("unitTriangularInverse", [flat(5, 5)], {}, "of no power of two"),
  one("convolutionStep", convolutionStepInputs, {}),
  one("convolutionStep", [...convolutionStepInputs, flat(2)], {}, "with a bias"),
  linearAttentionStepCase("deltaRuleStep", [
    ofThree(4, (index) => -0.3 * positive(index)),
    ofThree(4, (index) => 1 / (1 + Math.exp(wave(index)))),
  ]),
  linearAttentionStepCase("fadingAttentionStep", [{ ...flat(4), at: positive }]),
  cachedAttentionCase("sinks", 1, undefined, true),
  sinkGradientCase("causal, softcap", { softcap: 1.5 }),
  sinkGradientCase(
    "a mask for all heads",
    { isCausal: false },
    { shape: ["tokens", "tokens"], sizes: [5, 5], at: (index) => causalAt(5, 0)(index - 78) },
  ),
  sinkAttentionCase("causal", {}),
  sinkAttentionCase(
    "a mask and softcap",
    { isCausal: false, softcap: 20 },
    { shape: ["tokens", "tokens"], sizes: [5, 5], at: (index) => causalAt(5, 0)(index - 65) },
  ),
  one("router", routerInputs, { chosen: 3, isRenormalized: true }),
  one(
    "router",
    routerInputs,
    { chosen: 3, isRenormalized: false, scale: 1.7, limit: { groups: 4, kept: 1 } },
    "limited to groups",
  ),
  one(
    "router",
    [...routerInputs, { ...flat(12), at: (index) => 0.3 * Math.cos(index * 2.3) }],
    { chosen: 3, isRenormalized: true, scores: "sigmoid" },
    "sigmoid with a correction",
  ),
  one(
    "router",
    [...routerInputs, { ...flat(12), at: (index) => Math.cos(index * 2.3) - 1 }], // many corrected scores below 0
    {
      chosen: 5,
      isRenormalized: false,
      scale: 2.5,
      scores: "sigmoid",
      limit: { groups: 4, kept: 2, by: "best-two" },
    },
    "the best two of each group, corrected",
  ),
  one("sparseMixer", routerInputs, { margin: 0.4 }),
  one(
    "router",
    [...routerInputs, flat(12)],
    { chosen: 2, isRenormalized: false, scores: "sigmoid", hasBias: true },
    "a bias",
  ),
  expertsCase("scaled inputs, stacked", { layout: { kind: "stacked", inputAxis: 0 }, isInputScaled: true }),
  expertsCase("scaled inputs, routing bypassed", { isInputScaled: true, isRoutingBypassed: true }),
  ...([0, 1] as const).flatMap((inputAxis) => [
    expertsCase(`biases, inputs along axis ${inputAxis}, in turn`, {
      layout: { kind: "stacked", inputAxis, isInterleaved: true, hasBias: true },
      activation: { limit: 1.2, alpha: 1.7 },
    }),
    expertsCase(`biases, inputs along axis ${inputAxis}`, {
      layout: { kind: "stacked", inputAxis, hasBias: true },
      taps: [],
    }),
  ]),
  expertsCase("one by one", {}),
  expertsCase("added to a sum", { hasSum: true, activation: "gelu-tanh" }),
  expertsCase("stacked, inputs last", { layout: { kind: "stacked", inputAxis: 1 } }),
  expertsCase("stacked, inputs first", { layout: { kind: "stacked", inputAxis: 0 }, hasSum: true }),
  expertsCase("routing bypassed", { isRoutingBypassed: true }),
  expertsCase("one without tokens", { chosenOf: (index) => index % 2 }),
  expertCase({ kind: "separate" }),
  expertCase({ kind: "stacked", inputAxis: 0 }),
  expertCase({ kind: "stacked", inputAxis: 1 }),
  expertsCase("without taps", { taps: [] }),
  expertsCase("without taps, stacked, inputs last", {
    taps: [],
    layout: { kind: "stacked", inputAxis: 1 },
    hasSum: true,
  }),
  expertsCase("without taps, stacked, inputs first", { taps: [], layout: { kind: "stacked", inputAxis: 0 } }),
  expertsCase("without taps, one without tokens", { taps: [], chosenOf: (index) => index % 2 }),
  one("gram", [{ shape: ["n", 10], sizes: [7, 10] }], {
    panels: [
      { first: 0, end: 4 },
      { first: 4, end: 9 },
      { first: 9, end: 10 },
    ],
  }),
  one("gram", [{ shape: ["n", 10], sizes: [0, 10] }], { panels: [{ first: 0, end: 10 }] }, "of no rows"),
  custom("moments", [rows(3), positions], (graph, [x]) =>
    graph.applyAll("moments", [x as Value], { tokens: "tokens" }),
  ),
  one("moments", [{ shape: ["n", 3], sizes: [7, 3] }], {}, "one sequence"),
];
