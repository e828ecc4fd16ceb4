/**
 * Composites that go back faster, or in less memory, than what they are made of would: in the fewest passes over their
 * arrays, from their inputs alone, so that nothing they computed on the way is kept.
 */
import type { AttentionAttributes } from "./attention.js";
import { activate, type Activation } from "./composites.js";
import type { GraphBuilder, Value } from "./graph.js";
import { quotient, type Dim } from "./dimensions.js";
import { dimAt, knownDim } from "./operator.js";
import type { OperatorName } from "./operators.js";
import { isBelowDiagonal, type ConvolutionAttributes } from "./recurrent.js";
import {
  multiply,
  negative,
  reduceTo,
  reshape,
  scaled,
  single,
  subtract,
  withAxes,
  type Contribution,
  type Pullback,
  type Pullbacks,
} from "./pullback.js";
import { turned } from "./shorthand.js";

const add = (graph: GraphBuilder, a: Value, b: Value): Value => graph.apply("add", [a, b]);

/**
 * Slopes of activations at x, written so that each result can take the place of one that is not read any more: a pass
 * over memory that is there already takes a fraction of one over new memory.
 */
const SLOPES: Readonly<Record<Exclude<Activation, "relu" | "relu2">, (graph: GraphBuilder, x: Value) => Value>> = {
  /** σ + y (1 - σ) = 1 - (1 - y) (1 - σ) for y = x σ(x). */
  silu(graph, x) {
    const less = (value: Value): Value => subtract(graph, graph.scalar(1), value);
    const open = graph.apply("sigmoid", [x]);
    const closed = less(multiply(graph, x, open));
    return less(multiply(graph, closed, less(open)));
  },
  /** Φ(x) + x φ(x), Φ and φ those of the normal distribution. */
  gelu(graph, x) {
    const erf = graph.apply("erf", [scaled(graph, x, Math.SQRT1_2)]);
    const below = scaled(graph, add(graph, erf, graph.scalar(1)), 0.5);
    const density = graph.apply("exp", [scaled(graph, multiply(graph, x, x), -0.5)]);
    return add(graph, below, scaled(graph, multiply(graph, density, x), 1 / Math.sqrt(2 * Math.PI)));
  },
  /** (1 + t) (1 + (1 - t) x u') / 2 for t = tanh(x u), u = c (1 + a x²) and u' = c (1 + 3 a x²) = 3 u - 2 c. */
  "gelu-tanh"(graph, x) {
    const [a, c, one] = [0.044715, Math.sqrt(2 / Math.PI), graph.scalar(1)];
    const u = add(graph, scaled(graph, multiply(graph, x, x), c * a), graph.scalar(c));
    const t = graph.apply("tanh", [multiply(graph, x, u)]);
    const inner = multiply(graph, add(graph, scaled(graph, u, 3), graph.scalar(-2 * c)), x);
    const curved = add(graph, multiply(graph, subtract(graph, one, t), inner), one);
    return scaled(graph, multiply(graph, add(graph, t, one), curved), 0.5);
  },
};

interface NormBackward {
  readonly graph: GraphBuilder;
  readonly x: Value;
  /** x, less its mean where the norm takes that off. */
  readonly centred: Value;
  readonly gain: Value;
  readonly gradient: Value;
  readonly epsilon: number;
}

/**
 * With r = 1 / √(mean(c²) + ε) of the centred c, and h = gradient · gain: the gradient of c is r h - c r³ mean(h c), and
 * that of the gain Σ gradient · c r over rows.
 */
function normContributions({ graph, x, centred, gain, gradient, epsilon }: NormBackward): {
  readonly ofCentred: () => Value;
  readonly ofGain: Contribution;
} {
  const width = knownDim(x, -1);
  const meanOf = (sum: Value): Value => scaled(graph, sum, 1 / width);
  const squares = graph.apply("sumSquares", [centred], { axes: [-1], keepsAxes: true });
  const root = graph.apply("sqrt", [add(graph, meanOf(squares), graph.scalar(epsilon))]);
  const products = multiply(graph, gradient, centred);
  return {
    ofCentred() {
      const along = graph.apply("reduceSum", [multiply(graph, products, gain)], { axes: [-1], keepsAxes: true });
      const cube = multiply(graph, multiply(graph, root, root), root);
      const share = graph.apply("divide", [meanOf(along), cube]);
      const outer = graph.apply("divide", [multiply(graph, gradient, gain), root]);
      return subtract(graph, outer, multiply(graph, centred, share));
    },
    ofGain: () => reduceTo(graph, graph.apply("divide", [products, root]), gain),
  };
}

const attentionPullback: Pullback<AttentionAttributes> = single(
  ({ graph, gradient, inputs, y, attributes, isWanted }) => {
    const [query, key, value, mask] = inputs as readonly [Value, Value, Value, Value?];
    if (isWanted[3] === true) return undefined;
    const operands = [query, key, value, y, gradient, ...(mask === undefined ? [] : [mask])];
    return graph.applyAll("attentionGradient", operands, attributes).map((of) => () => of);
  },
);

const sinkAttentionPullback: Pullback<AttentionAttributes> = single(
  ({ graph, gradient, inputs, y, attributes, isWanted }) => {
    const [query, key, value, sinks, mask] = inputs as readonly [Value, Value, Value, Value, Value?];
    if (isWanted[4] === true) return undefined;
    const operands = [query, key, value, y, gradient, sinks, ...(mask === undefined ? [] : [mask])];
    return graph.applyAll("sinkAttentionGradient", operands, attributes).map((of) => () => of);
  },
);

/** Tap by tap, each moving x or the gradient again rather than keep what was moved. */
const convolutionPullback: Pullback<ConvolutionAttributes> = single(
  ({ graph, gradient, inputs, attributes: { tokens } }) => {
    const [x, weight, bias] = inputs as readonly [Value, Value, Value?];
    const [channels, taps] = [knownDim(x, 1), knownDim(weight, 2)];
    const sequences = (value: Value): Value =>
      reshape(graph, value, [quotient(dimAt(x, 0), tokens) as Dim, tokens, channels]);
    const moved = (value: Value, by: number): Value =>
      by === 0 ? value : graph.apply("shift", [value], { axis: 1, by });
    const each = <Item>(of: (tap: number, before: number) => Item): Item[] =>
      Array.from({ length: taps }, (_, tap) => of(tap, taps - 1 - tap));
    const [states, gradients] = [sequences(x), sequences(gradient)];
    const byTap = graph.apply("transpose", [reshape(graph, weight, [channels, taps])], { order: [1, 0] });
    return [
      () => {
        const parts = each((tap, before) => () => {
          const own = graph.apply("slice", [byTap], { axis: 0, start: tap, end: tap + 1 });
          return multiply(graph, moved(gradients, -before), own);
        });
        const [first, ...others] = parts as [() => Value, ...(() => Value)[]];
        return reshape(
          graph,
          others.reduce((sum, part) => add(graph, sum, part()), first()),
          x.shape,
        );
      },
      () => {
        const sums = each((_, before) =>
          graph.apply("reduceSum", [multiply(graph, gradients, moved(states, before))], { axes: [0, 1] }),
        ).map((sum) => reshape(graph, sum, [1, channels]));
        const together = graph.apply("transpose", [graph.apply("concat", sums, { axis: 0 })], { order: [1, 0] });
        return reshape(graph, together, weight.shape);
      },
      bias && (() => reduceTo(graph, gradient, bias)),
    ];
  },
);

/** Operators that are run again on the way back rather than keep what they returned: a pass over as large an input. */
export const RUN_AGAIN: ReadonlySet<OperatorName> = new Set(["rmsNorm", "layerNorm"]);

/** What stands for a composite in a forward that is gone back through: the same in less memory. */
export const LEAN_FORMS = { attention: "attentionByHead" } as const satisfies {
  readonly [Name in OperatorName]?: OperatorName;
};

export const COMPOSITE_PULLBACKS = {
  silu: single(({ graph, gradient, x }) => [() => multiply(graph, gradient, SLOPES.silu(graph, x))]),
  gelu: single(({ graph, gradient, x, attributes: { form } }) => [
    () => multiply(graph, gradient, SLOPES[form === "erf" ? "gelu" : "gelu-tanh"](graph, x)),
  ]),
  rmsNorm: single(({ graph, gradient, inputs, x, attributes: { epsilon } }) => {
    const gain = inputs[1] as Value;
    const { ofCentred, ofGain } = normContributions({ graph, x, centred: x, gain, gradient, epsilon });
    return [ofCentred, ofGain];
  }),
  layerNorm: single(({ graph, gradient, inputs, x, attributes: { epsilon } }) => {
    const [, gain, bias] = inputs as readonly [Value, Value, Value?];
    const mean = (value: Value): Value => graph.apply("reduceMean", [value], { axes: [-1], keepsAxes: true });
    const centred = subtract(graph, x, mean(x));
    const { ofCentred, ofGain } = normContributions({ graph, x, centred, gain, gradient, epsilon });
    const ofX = (): Value => {
      const value = ofCentred();
      return subtract(graph, value, mean(value));
    };
    return [ofX, ofGain, bias && (() => reduceTo(graph, gradient, bias))];
  }),
  gatedActivation: single(({ graph, gradient, inputs, attributes: { activation } }) => {
    const [gate, up] = inputs as readonly [Value, Value];
    if (activation === "relu" || activation === "relu2") return undefined;
    const ofActivated = multiply(graph, gradient, up);
    const ofUp = multiply(graph, gradient, activate(graph, activation, gate));
    const ofGate = multiply(graph, ofActivated, SLOPES[activation](graph, gate));
    return [() => ofGate, () => ofUp];
  }),
  /** Turned back by the same angles. */
  rotary: single(({ graph, gradient, inputs, attributes, isWanted }) => {
    const [, cos, sin, positions] = inputs as readonly [Value, Value, Value, Value];
    if (isWanted[1] === true || isWanted[2] === true) return undefined;
    return [() => graph.apply("rotary", [gradient, cos, negative(graph, sin), positions], attributes)];
  }),
  attention: attentionPullback,
  sinkAttention: sinkAttentionPullback,
  convolution: convolutionPullback,
  attentionByHead: attentionPullback,
  /** -Yᵀ G Yᵀ below the diagonal, from the inverse alone. */
  unitTriangularInverse: single(({ graph, gradient, y }) => [
    () => {
      const back = turned(graph, y);
      const whole = graph.apply("matmul", [graph.apply("matmul", [back, gradient]), back]);
      return graph.apply("where", [isBelowDiagonal(graph, knownDim(y, -1)), negative(graph, whole), graph.scalar(0)]);
    },
  ]),
  /** The softmax of x. */
  logSumExp: single(({ graph, gradient, x, y, attributes: { axes } }) => [
    () => {
      const shares = graph.apply("exp", [subtract(graph, x, withAxes(graph, y, x, axes))]);
      return multiply(graph, shares, withAxes(graph, gradient, x, axes));
    },
  ]),
  sumSquares: single(({ graph, gradient, x, attributes: { axes } }) => [
    () => multiply(graph, x, withAxes(graph, scaled(graph, gradient, 2), x, axes)),
  ]),
} satisfies Pullbacks;
