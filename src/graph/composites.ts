/**
 * Operators that an executor may have as one kernel, and what each is made of where it has not. Rows are tokens:
 * activations are [rows, features], sequence after sequence, so that only what mixes tokens knows how long sequences are.
 */
import { attention, attentionByHead, attentionGradient, sinkAttention, sinkAttentionGradient } from "./attention.js";
import { cachedAttention } from "./cached-attention.js";
import { type Dim, product, type Shape } from "./dimensions.js";
import { applyGate, clampedGate, type Gate } from "./gates.js";
import type { GraphBuilder, Value, ValueType } from "./graph.js";
import { dimAt, inputAt, knownDim, type None, refuse, requireShape, requireType, type Operator } from "./operator.js";
import { convolution, deltaRule, fadingAttention, unitTriangularInverse } from "./recurrent.js";
import { convolutionStep, deltaRuleStep, fadingAttentionStep } from "./recurrent-steps.js";
import { reducedShape, reduction, type ReductionAttributes, sequencesOf } from "./primitives.js";

/** "relu2" is the square of relu. */
export type Activation = "silu" | "gelu" | "gelu-tanh" | "relu" | "relu2";

function sameAsInput(operator: string, inputs: readonly ValueType[]): readonly ValueType[] {
  requireType(operator, inputs.slice(0, 1), "f32");
  const { shape, dtype } = inputAt(operator, inputs, 0);
  return [{ shape, dtype }];
}

/** x · sigmoid(x) */
const silu: Operator<None> = {
  infer: (inputs) => sameAsInput("silu", inputs),
  decompose: (graph, inputs) => {
    const [x] = inputs as readonly [Value];
    return [graph.apply("multiply", [x, graph.apply("sigmoid", [x])])];
  },
};

/** x · Φ(x) by the error function, or the form with tanh that many models were trained with. */
const gelu: Operator<{ readonly form: "erf" | "tanh" }> = {
  infer: (inputs) => sameAsInput("gelu", inputs),
  decompose(graph, inputs, { form }) {
    const [x] = inputs as readonly [Value];
    const times = (value: Value, factor: number): Value => graph.apply("multiply", [value, graph.scalar(factor)]);
    const cube = (): Value => graph.apply("multiply", [graph.apply("multiply", [x, x]), x]);
    const inner =
      form === "erf"
        ? graph.apply("erf", [times(x, Math.SQRT1_2)])
        : graph.apply("tanh", [times(graph.apply("add", [x, times(cube(), 0.044715)]), Math.sqrt(2 / Math.PI))]);
    return [graph.apply("multiply", [times(x, 0.5), graph.apply("add", [inner, graph.scalar(1)])])];
  },
};

/** activation(gate) · up */
const gatedActivation: Operator<{ readonly activation: Activation }> = {
  infer(inputs) {
    requireShape("gatedActivation", inputs, 1, inputAt("gatedActivation", inputs, 0).shape);
    return sameAsInput("gatedActivation", inputs);
  },
  decompose(graph, inputs, { activation }) {
    const [gate, up] = inputs as readonly [Value, Value];
    return [graph.apply("multiply", [activate(graph, activation, gate), up])];
  },
};

export function activate(graph: GraphBuilder, activation: Activation, value: Value): Value {
  switch (activation) {
    case "silu":
      return graph.apply("silu", [value]);
    case "gelu":
      return graph.apply("gelu", [value], { form: "erf" });
    case "gelu-tanh":
      return graph.apply("gelu", [value], { form: "tanh" });
    case "relu":
      return graph.apply("relu", [value]);
    case "relu2": {
      const above = graph.apply("relu", [value]);
      return graph.apply("multiply", [above, above]);
    }
    default:
      return activation satisfies never;
  }
}

export interface NormAttributes {
  readonly epsilon: number;
}

function inferNorm(operator: string, inputs: readonly ValueType[]): readonly ValueType[] {
  const value = inputAt(operator, inputs, 0);
  requireType(operator, inputs, "f32");
  inputs.slice(1).forEach((_, index) => requireShape(operator, inputs, index + 1, [dimAt(value, -1)]));
  return sameAsInput(operator, inputs);
}

function overRoot(graph: GraphBuilder, value: Value, meanSquare: Value, epsilon: number): Value {
  return graph.apply("divide", [value, graph.apply("sqrt", [graph.apply("add", [meanSquare, graph.scalar(epsilon)])])]);
}

function meanOfLast(graph: GraphBuilder, value: Value): Value {
  return graph.apply("reduceMean", [value], { axes: [-1], keepsAxes: true });
}

/** x / √(mean(x²) + epsilon) · gain, over the last axis. */
const rmsNorm: Operator<NormAttributes> = {
  infer: (inputs) => inferNorm("rmsNorm", inputs),
  decompose(graph, inputs, { epsilon }) {
    const [x, gain] = inputs as readonly [Value, Value];
    const normed = overRoot(graph, x, meanOfLast(graph, graph.apply("multiply", [x, x])), epsilon);
    return [graph.apply("multiply", [normed, gain])];
  },
};

/** The same of x less its mean, then + bias where there is one. */
const layerNorm: Operator<NormAttributes> = {
  infer: (inputs) => inferNorm("layerNorm", inputs),
  decompose(graph, inputs, { epsilon }) {
    const [x, gain, bias] = inputs as readonly [Value, Value, Value?];
    const centred = graph.apply("subtract", [x, meanOfLast(graph, x)]);
    const meanSquare = meanOfLast(graph, graph.apply("multiply", [centred, centred]));
    const scaled = graph.apply("multiply", [overRoot(graph, centred, meanSquare, epsilon), gain]);
    return [bias === undefined ? scaled : graph.apply("add", [scaled, bias])];
  },
};

export interface RotaryAttributes {
  readonly heads: number;
  /** How many dimensions of each head are rotated, from its first. */
  readonly dimensions: number;
  /** Whether dimension 2i is rotated with 2i + 1, not i with i + dimensions / 2. */
  readonly isInterleaved?: boolean;
}

/**
 * Each pair (a, b) of a head's dimensions becomes (a cos - b sin, b cos + a sin).
 * Inputs: states [rows, heads * headDim]; cos and sin [positions, dimensions / 2]; the positions of the rows,
 * [sequences, tokens].
 */
const rotary: Operator<RotaryAttributes> = {
  infer(inputs, { heads, dimensions }) {
    const [states, cos, positions] = [0, 1, 3].map((index) => inputAt("rotary", inputs, index)) as [
      ValueType,
      ValueType,
      ValueType,
    ];
    const headDim = knownDim(states, 1) / heads;
    const isRotatable = Number.isInteger(headDim) && dimensions <= headDim && dimAt(cos, 1) === dimensions / 2;
    if (!isRotatable || product(...positions.shape) !== dimAt(states, 0) || positions.shape.length !== 2)
      throw refuse("rotary", inputs, `${heads} heads, ${dimensions} dimensions of each, a position per row`);
    requireShape("rotary", inputs, 2, cos.shape);
    return sameAsInput("rotary", inputs);
  },
  decompose(graph, inputs, { heads, dimensions, isInterleaved = false }) {
    const [states, cosTable, sinTable, positions] = inputs as readonly [Value, Value, Value, Value];
    const rows = dimAt(states, 0);
    const headDim = knownDim(states, 1) / heads;
    const half = dimensions / 2;
    const reshape = (value: Value, ...shape: Shape): Value => graph.apply("reshape", [value], { shape });
    const angles = (table: Value): Value => reshape(graph.apply("gather", [table, positions]), rows, 1, half);
    const [cos, sin] = [angles(cosTable), angles(sinTable)];
    const perHead = reshape(states, rows, heads, headDim);
    const [turning, still] = graph.applyAll("split", [perHead], {
      axis: 2,
      sizes: dimensions === headDim ? [dimensions] : [dimensions, headDim - dimensions],
    }) as [Value, Value?];
    const pairs = isInterleaved
      ? graph
          .applyAll("split", [reshape(turning, rows, heads, half, 2)], { axis: 3, sizes: [1, 1] })
          .map((part) => reshape(part, rows, heads, half))
      : graph.applyAll("split", [turning], { axis: 2, sizes: [half, half] });
    const [a, b] = pairs as readonly [Value, Value];
    const times = (x: Value, y: Value): Value => graph.apply("multiply", [x, y]);
    const turned = [
      graph.apply("subtract", [times(a, cos), times(b, sin)]),
      graph.apply("add", [times(b, cos), times(a, sin)]),
    ];
    const together = isInterleaved
      ? graph.apply(
          "concat",
          turned.map((part) => reshape(part, rows, heads, half, 1)),
          { axis: 3 },
        )
      : graph.apply("concat", turned, { axis: 2 });
    const rotated = reshape(together, rows, heads, dimensions);
    const whole = still === undefined ? rotated : graph.apply("concat", [rotated, still], { axis: 2 });
    return [reshape(whole, rows, heads * headDim)];
  },
};

export interface RouterAttributes {
  /** Experts per token. */
  readonly chosen: number;
  /** Whether a token's weights are scaled to sum to 1. */
  readonly isRenormalized: boolean;
  /** Weights are multiplied by this; default 1. */
  readonly scale?: number;
  /** What scores are of the logits; default "softmax": over all experts. */
  readonly scores?: "softmax" | "sigmoid";
  /** Choose only among the experts of this many groups: those with the best expert, or the best two by their sum. */
  readonly limit?: { readonly groups: number; readonly kept: number; readonly by?: "best" | "best-two" };
  /** Whether the input after the weight is a bias of the logits. */
  readonly hasBias?: boolean;
}

function inferRouter(operator: string, inputs: readonly ValueType[], chosen: number): readonly ValueType[] {
  const [x, weight] = [inputAt(operator, inputs, 0), inputAt(operator, inputs, 1)];
  requireShape(operator, inputs, 1, [dimAt(weight, 0), dimAt(x, 1)]);
  for (let index = 2; index < inputs.length; index++) requireShape(operator, inputs, index, [dimAt(weight, 0)]);
  const shape = [dimAt(x, 0), chosen];
  return [
    { shape, dtype: "i64" },
    { shape, dtype: "f32" },
  ];
}

/**
 * The best `chosen` of all experts by their scores, and these as weights.
 * Inputs: x [rows, hidden], weight [experts, hidden], where the logits have one their bias [experts], and optionally what
 * is added to the scores [experts] for the choice alone. Returns experts (i64) and weights, each [rows, chosen].
 */
const router: Operator<RouterAttributes> = {
  infer: (inputs, { chosen }) => inferRouter("router", inputs, chosen),
  decompose(graph, inputs, { chosen, isRenormalized, scale = 1, scores = "softmax", limit, hasBias = false }) {
    const correction = inputs[hasBias ? 3 : 2];
    const all = graph.apply(scores, [graph.apply("gemm", inputs.slice(0, hasBias ? 3 : 2), { transposeB: true })]);
    const corrected = correction === undefined ? all : graph.apply("add", [all, correction]);
    const eligible = limit === undefined ? corrected : limitToGroups(graph, corrected, limit);
    const [largest, experts] = graph.applyAll("topK", [eligible], { count: chosen }) as readonly [Value, Value];
    const best = correction === undefined ? largest : graph.apply("gatherAlong", [all, experts], { axis: 1 });
    const sum = (): Value => graph.apply("reduceSum", [best], { axes: [1], keepsAxes: true });
    const normed = isRenormalized ? graph.apply("divide", [best, sum()]) : best;
    return [experts, scale === 1 ? normed : graph.apply("multiply", [normed, graph.scalar(scale)])];
  },
};

/** What scores outside the best groups become: below all corrected ones, and finite. */
const LOWEST = -3e38;

/** Scores with those outside the best groups set to where none is chosen. */
function limitToGroups(
  graph: GraphBuilder,
  scores: Value,
  { groups, kept, by = "best" }: NonNullable<RouterAttributes["limit"]>,
): Value {
  const rows = dimAt(scores, 0);
  const experts = knownDim(scores, 1);
  const grouped = graph.apply("reshape", [scores], { shape: [rows, groups, experts / groups] });
  const ofGroups =
    by === "best"
      ? graph.apply("reduceMax", [grouped], { axes: [2] })
      : graph.apply("reduceSum", [graph.applyAll("topK", [grouped], { count: 2 })[0] as Value], { axes: [2] });
  const [, best] = graph.applyAll("topK", [ofGroups], { count: kept }) as readonly [Value, Value];
  const zeros = graph.apply("fill", [], { shape: [rows, groups], value: 0 });
  const ones = graph.apply("fill", [], { shape: [rows, kept], value: 1 });
  const mask = graph.apply("scatterAlong", [zeros, best, ones], { axis: 1 });
  const spread = graph.apply("reshape", [mask], { shape: [rows, groups, 1] });
  const isOutside = graph.apply("equal", [spread, graph.scalar(0)]);
  const limited = graph.apply("where", [isOutside, graph.scalar(LOWEST), grouped]);
  return graph.apply("reshape", [limited], { shape: [rows, experts] });
}

/**
 * Two experts, chosen one after the other: the best, and the best of the others. The weight of each is its softmax among
 * those whose logit is less than `margin` (relative to the larger of the logit's size and the best logit) below the best
 * that is left. Source: Phi-3.5-MoE as released (SparseMixer-2, arXiv:2409.12136).
 * Inputs and results as those of `router` with two experts.
 */
const sparseMixer: Operator<{ readonly margin: number }> = {
  infer: (inputs) => inferRouter("sparseMixer", inputs, 2),
  decompose(graph, inputs, { margin }) {
    const [x, weight] = inputs as readonly [Value, Value];
    const logits = graph.apply("gemm", [x, weight], { transposeB: true });
    const lowest = graph.scalar(LOWEST);
    const larger = (a: Value, b: Value): Value => graph.apply("where", [graph.apply("lessOrEqual", [a, b]), b, a]);
    const magnitude = graph.apply("relu", [logits]);
    const below = graph.apply("relu", [graph.apply("multiply", [logits, graph.scalar(-1)])]);
    const size = graph.apply("add", [magnitude, below]);
    /** The best of `left`, [rows, 1], and its share among those near it. */
    const choose = (left: Value): readonly [place: Value, share: Value] => {
      const [best, place] = graph.applyAll("topK", [left], { count: 1 }) as readonly [Value, Value];
      const distance = graph.apply("divide", [graph.apply("subtract", [best, logits]), larger(size, best)]);
      const isNear = graph.apply("lessOrEqual", [distance, graph.scalar(margin)]);
      const shares = graph.apply("softmax", [graph.apply("where", [isNear, left, lowest])]);
      return [place, graph.apply("gatherAlong", [shares, place], { axis: 1 })];
    };
    const [first, share] = choose(logits);
    const taken = graph.apply("fill", [], { shape: [dimAt(x, 0), 1], value: LOWEST });
    const [second, otherShare] = choose(graph.apply("scatterAlong", [logits, first, taken], { axis: 1 }));
    return [
      graph.apply("concat", [first, second], { axis: 1 }),
      graph.apply("concat", [share, otherShare], { axis: 1 }),
    ];
  },
};

/** One place inside the experts that a graph also returns. */
export interface ExpertTap {
  readonly expert: number;
  /** "input": the rows that its gate and up projections read; "activated": what its down projection reads. */
  readonly at: "input" | "activated";
}

export interface StackedLayout {
  readonly kind: "stacked";
  readonly inputAxis: 0 | 1;
  /** Whether outputs of gate and up take turns, not gate before up. */
  readonly isInterleaved?: boolean;
  /** Whether two more inputs hold the biases of both, [experts, out]. */
  readonly hasBias?: boolean;
}

export interface ExpertsAttributes {
  readonly experts: number;
  readonly activation: Gate;
  /**
   * "separate": inputs are gate, up and down of expert 0, of expert 1, …, each [out, in]; "stacked": two inputs hold
   * all experts, [experts, out, in] (inputAxis 1) or [experts, in, out] (inputAxis 0), gate and up in the first.
   */
  readonly layout: { readonly kind: "separate" } | StackedLayout;
  /** Whether the routing's weight is a factor on what an expert reads, not on what it returns. */
  readonly isInputScaled?: boolean;
  /** Whether the input after the weights of the routing is what the experts' outputs are added to; else zeros are. */
  readonly hasSum: boolean;
  /** Each is an output after the first. */
  readonly taps: readonly ExpertTap[];
  /** Taps see all rows instead of the routed ones; what the experts return stays the same. */
  readonly isRoutingBypassed?: boolean;
}

/**
 * All experts of a mixture, gated MLPs: each is run on the rows routed to it alone, in order, and what it returns is
 * added, times the routing's weight, to the rows it came from, expert after expert.
 * Inputs: x [rows, hidden]; experts and weights [rows, chosen], as the router returns them; the sum; the matrices; and
 * where taps bypass a routing whose weights scale inputs, the weights of all experts, [rows, experts].
 * Returns [rows, hidden] and the taps, whose rows only a run knows.
 */
const experts: Operator<ExpertsAttributes> = {
  infer(inputs, attributes, fresh) {
    const x = inputAt("experts", inputs, 0);
    const matrices = expertMatrices(inputs, attributes);
    const { layout } = attributes;
    const expected = layout.kind === "stacked" ? stackedInputs(layout) : 3 * attributes.experts;
    if (matrices.length !== expected) throw refuse("experts", inputs, `${expected} inputs of weights`);
    if (attributes.hasSum) requireShape("experts", inputs, 3, x.shape);
    const width = expertWidth(inputs, attributes);
    const rows = new Map<number, Dim>();
    const rowsOf = (expert: number): Dim => {
      const known = attributes.isRoutingBypassed === true ? dimAt(x, 0) : (rows.get(expert) ?? fresh("rows"));
      rows.set(expert, known);
      return known;
    };
    const taps = attributes.taps.map(({ expert, at }): ValueType => {
      if (expert >= attributes.experts) throw refuse("experts", inputs, `fewer taps than of expert ${expert}`);
      return { shape: [rowsOf(expert), at === "input" ? dimAt(x, 1) : width], dtype: "f32" };
    });
    return [{ shape: x.shape, dtype: "f32" }, ...taps];
  },
  decompose(graph, inputs, attributes) {
    const [x, chosen, weights] = inputs as readonly [Value, Value, Value];
    const { activation, layout, taps, isInputScaled = false } = attributes;
    const first = attributes.hasSum ? (inputs[3] as Value) : graph.apply("fill", [], { shape: x.shape, value: 0 });
    const all = Array.from({ length: attributes.experts }, (_, expert) => expert);
    const matricesOf = (expert: number): readonly Value[] => {
      const matrices = expertMatrices(inputs, attributes);
      return layout.kind === "separate" ? matrices.slice(3 * expert, 3 * expert + 3) : matrices;
    };
    if (taps.length === 0) {
      const add = (sum: Value, expert: number): Value => {
        const operands = [sum, x, chosen, weights, ...matricesOf(expert)];
        return graph.apply("expert", operands, {
          expert,
          activation,
          layout,
          ...(isInputScaled ? { isInputScaled } : {}),
        });
      };
      return [all.reduce(add, first)];
    }
    const allWeights = hasAllWeights(attributes) ? (inputs.at(-1) as Value) : undefined;
    const runs = all.map((expert) => {
      const own = { matrices: matricesOf(expert), attributes: { ...attributes, expert } };
      return runExpert(graph, { x, chosen, weights, ...own, ...(allWeights === undefined ? {} : { allWeights }) });
    });
    const sum = runs.reduce((total, run) => addExpert(graph, total, run), first);
    return [sum, ...taps.map(({ expert, at }) => (runs[expert] as ExpertRun)[at]())];
  },
};

export interface ExpertAttributes extends Pick<ExpertsAttributes, "activation" | "layout" | "isInputScaled"> {
  /** Which of all. */
  readonly expert: number;
}

/**
 * One of the experts: what it returns is added, times the routing's weight, to the rows of a sum that it is for.
 * Inputs: the sum and x [rows, hidden]; experts and weights [rows, chosen]; its own three matrices, or the stacks of all.
 */
const expert: Operator<ExpertAttributes> = {
  infer(inputs, { layout }) {
    const x = inputAt("expert", inputs, 1);
    requireShape("expert", inputs, 0, x.shape);
    const expected = layout.kind === "stacked" ? stackedInputs(layout) : 3;
    if (inputs.length !== 4 + expected) throw refuse("expert", inputs, `${expected} inputs of weights`);
    return [{ shape: x.shape, dtype: "f32" }];
  },
  decompose(graph, inputs, attributes) {
    const [sum, x, chosen, weights, ...matrices] = inputs as readonly [Value, Value, Value, Value, ...Value[]];
    return [addExpert(graph, sum, runExpert(graph, { x, chosen, weights, matrices, attributes }))];
  },
};

function addExpert(graph: GraphBuilder, sum: Value, { places, output }: ExpertRun): Value {
  return graph.apply("scatterAdd", [sum, places, output()], { areRowsDistinct: true });
}

/** The inputs that are weights. */
function expertMatrices<Type extends ValueType>(
  inputs: readonly Type[],
  attributes: ExpertsAttributes,
): readonly Type[] {
  return inputs.slice(attributes.hasSum ? 4 : 3, hasAllWeights(attributes) ? -1 : undefined);
}

function hasAllWeights({ isInputScaled, isRoutingBypassed, taps }: ExpertsAttributes): boolean {
  return isInputScaled === true && isRoutingBypassed === true && taps.length > 0;
}

/** Two stacks, and their biases. */
function stackedInputs({ hasBias }: StackedLayout): number {
  return hasBias === true ? 4 : 2;
}

/** Of the hidden layer of an expert. */
function expertWidth(inputs: readonly ValueType[], attributes: ExpertsAttributes): number {
  const [first] = expertMatrices(inputs, attributes);
  if (first === undefined) throw refuse("experts", inputs, "inputs of weights");
  const { layout } = attributes;
  if (layout.kind === "separate") return knownDim(first, 0);
  return knownDim(first, layout.inputAxis === 1 ? 1 : 2) / 2;
}

interface ExpertRun {
  /** The rows routed to it, ascending, [n]. */
  readonly places: Value;
  /** What it adds to them, [n, hidden]. */
  output(): Value;
  input(): Value;
  activated(): Value;
}

interface ExpertInputs {
  readonly x: Value;
  readonly chosen: Value;
  readonly weights: Value;
  /** Its own three, or the stacks of all. */
  readonly matrices: readonly Value[];
  readonly allWeights?: Value;
  readonly attributes: ExpertAttributes & Pick<ExpertsAttributes, "isRoutingBypassed">;
}

function runExpert(graph: GraphBuilder, run: ExpertInputs): ExpertRun {
  const { x, chosen, weights, attributes } = run;
  const multiplied = expertProducts(graph, run);
  const activatedOf = (rows: Value): Value => applyGate(graph, attributes.activation, ...multiplied.gateAndUp(rows));
  const isInputScaled = attributes.isInputScaled === true;
  const times = (rows: Value, factors: Value): Value => {
    const column = graph.apply("reshape", [factors], { shape: [dimAt(rows, 0), 1] });
    return graph.apply("multiply", [rows, column]);
  };
  const isChosen = graph.apply("equal", [chosen, graph.integers([attributes.expert], [])]);
  const found = graph.apply("nonZero", [isChosen]); // [2, n]: rows, and which of their choices
  const places = graph.apply("gather", [found, graph.integers([0], [])]); // a token chooses an expert once at most
  const points = graph.apply("transpose", [found], { order: [1, 0] });
  const weight = graph.apply("gatherPoints", [weights, points]);
  const unscaled = graph.apply("gather", [x, places], { areRowsDistinct: true });
  const rows = isInputScaled ? times(unscaled, weight) : unscaled;
  const activated = activatedOf(rows);
  const isBypassed = attributes.isRoutingBypassed === true;
  const all = (): Value => {
    if (run.allWeights === undefined) return x;
    const { expert } = attributes;
    return graph.apply("multiply", [
      x,
      graph.apply("slice", [run.allWeights], { axis: 1, start: expert, end: expert + 1 }),
    ]);
  };
  return {
    places,
    output: () => (isInputScaled ? multiplied.down(activated) : times(multiplied.down(activated), weight)),
    input: () => (isBypassed ? all() : rows),
    activated: () => (isBypassed ? activatedOf(all()) : activated),
  };
}

interface ExpertProducts {
  gateAndUp(rows: Value): readonly [gate: Value, up: Value];
  down(rows: Value): Value;
}

function expertProducts(graph: GraphBuilder, { attributes, matrices }: ExpertInputs): ExpertProducts {
  const { layout, expert } = attributes;
  if (layout.kind === "separate") {
    const by = (index: number) => (rows: Value) =>
      graph.apply("gemm", [rows, matrices[index] as Value], { transposeB: true });
    return { gateAndUp: (rows) => [by(0)(rows), by(1)(rows)], down: by(2) };
  }
  const transposeB = layout.inputAxis === 1;
  const [gateUp, down, gateUpBias, downBias] = matrices as readonly [Value, Value, Value?, Value?];
  const width = knownDim(gateUp, transposeB ? 1 : 2) / 2;
  const slab = (stack: Value): Value => graph.apply("gather", [stack, graph.integers([expert], [])]);
  const times = (rows: Value, matrix: Value, bias?: Value): Value =>
    graph.apply("gemm", bias === undefined ? [rows, matrix] : [rows, matrix, bias], { transposeB });
  const [both, bothBias] = [slab(gateUp), gateUpBias && slab(gateUpBias)];
  const half = (rows: Value, start: number): Value => {
    const cut = (value: Value, axis: number): Value =>
      graph.apply("slice", [value], { axis, start, end: start + width });
    return times(rows, cut(both, transposeB ? 0 : 1), bothBias && cut(bothBias, 0));
  };
  return {
    gateAndUp: (rows) =>
      layout.isInterleaved === true
        ? everySecond(graph, times(rows, both, bothBias))
        : [half(rows, 0), half(rows, width)],
    down: (rows) => times(rows, slab(down), downBias && slab(downBias)),
  };
}

/** The even and the odd columns of a matrix. */
function everySecond(graph: GraphBuilder, value: Value): readonly [even: Value, odd: Value] {
  const [rows, half] = [dimAt(value, 0), knownDim(value, 1) / 2];
  const pairs = graph.apply("reshape", [value], { shape: [rows, half, 2] });
  const parts = graph.applyAll("split", [pairs], { axis: 2, sizes: [1, 1] });
  return parts.map((part) => graph.apply("reshape", [part], { shape: [rows, half] })) as unknown as readonly [
    Value,
    Value,
  ];
}

/** log Σ exp(x) over axes. */
const logSumExp: Operator<ReductionAttributes> = {
  ...reduction("logSumExp"),
  decompose(graph, inputs, attributes) {
    const [x] = inputs as readonly [Value];
    const top = graph.apply("reduceMax", [x], { axes: attributes.axes, keepsAxes: true });
    const sum = graph.apply("reduceSum", [graph.apply("exp", [graph.apply("subtract", [x, top])])], attributes);
    const shape = reducedShape(x, attributes);
    return [graph.apply("add", [graph.apply("log", [sum]), graph.apply("reshape", [top], { shape })])];
  },
};

/** Σ x² over axes. */
const sumSquares: Operator<ReductionAttributes> = {
  ...reduction("sumSquares"),
  decompose: (graph, inputs, attributes) => {
    const [x] = inputs as readonly [Value];
    return [graph.apply("reduceSum", [graph.apply("multiply", [x, x])], attributes)];
  },
};

/** Rows [first, end) of the lower block triangle of a Gram matrix: columns [0, end). */
export interface GramPanel {
  readonly first: number;
  readonly end: number;
}

/** xᵀx of x [rows, n], its lower triangle panel by panel: outputs [end - first, end]. */
const gram: Operator<{ readonly panels: readonly GramPanel[] }> = {
  infer(inputs, { panels }) {
    const width = knownDim(inputAt("gram", inputs, 0), 1);
    if (panels.some(({ first, end }) => first < 0 || end <= first || end > width))
      throw refuse("gram", inputs, "panels within the matrix");
    return panels.map(({ first, end }) => ({ shape: [end - first, end], dtype: "f32" }));
  },
  decompose(graph, inputs, { panels }) {
    const [x] = inputs as readonly [Value];
    const width = knownDim(x, 1);
    const columns = (start: number, end: number): Value =>
      start === 0 && end === width ? x : graph.apply("slice", [x], { axis: 1, start, end });
    return panels.map(({ first, end }) =>
      graph.apply("gemm", [columns(first, end), columns(0, end)], { transposeA: true }),
    );
  },
};

/** Per column of x [rows, n]: Σ x, and Σ (x - mean of its sequence)². All rows are one sequence where no tokens are given. */
const moments: Operator<{ readonly tokens?: Dim }> = {
  dims: ["tokens"],
  infer(inputs, { tokens }) {
    const x = inputAt("moments", inputs, 0);
    if (tokens !== undefined) sequencesOf("moments", inputs, tokens);
    const type = { shape: [dimAt(x, 1)], dtype: "f32" } as const;
    return [type, type];
  },
  decompose(graph, inputs, attributes) {
    const [x] = inputs as readonly [Value];
    const { tokens = dimAt(x, 0) } = attributes;
    const sequenceCount = attributes.tokens === undefined ? 1 : sequencesOf("moments", inputs, tokens);
    const sequences = graph.apply("reshape", [x], { shape: [sequenceCount, tokens, dimAt(x, 1)] });
    const mean = graph.apply("reduceMean", [sequences], { axes: [1], keepsAxes: true });
    const deviations = graph.apply("subtract", [sequences, mean]);
    return [
      graph.apply("reduceSum", [sequences], { axes: [0, 1] }),
      graph.apply("sumSquares", [deviations], { axes: [0, 1] }),
    ];
  },
};

export const COMPOSITES = {
  silu,
  gelu,
  gatedActivation,
  clampedGate,
  rmsNorm,
  layerNorm,
  rotary,
  attention,
  attentionByHead,
  sinkAttention,
  sinkAttentionGradient,
  attentionGradient,
  cachedAttention,
  convolution,
  deltaRule,
  fadingAttention,
  unitTriangularInverse,
  convolutionStep,
  deltaRuleStep,
  fadingAttentionStep,
  router,
  sparseMixer,
  expert,
  experts,
  logSumExp,
  sumSquares,
  gram,
  moments,
} as const;
