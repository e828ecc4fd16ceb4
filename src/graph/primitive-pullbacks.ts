/** What each primitive does to a gradient on its way back. */
import { InternalError } from "../errors.js";
import { product, type Dim } from "./dimensions.js";
import type { GraphBuilder, Value } from "./graph.js";
import { axesOf, dimAt, knownDim } from "./operator.js";
import {
  elementwise,
  multiply,
  negative,
  reduceTo,
  reshape,
  scalarOf,
  scaled,
  single,
  subtract,
  withAxes,
  zerosOf,
  type Contribution,
  type Pullback,
  type Pullbacks,
} from "./pullback.js";
import { turned } from "./shorthand.js";

const NOTHING: Pullback<object> = () => [];

/** a · b with either's last two axes swapped. */
function productOf(graph: GraphBuilder, a: Value, b: Value, swaps: "a" | "b"): Value {
  return graph.apply("matmul", swaps === "a" ? [turned(graph, a), b] : [a, turned(graph, b)]);
}

/** Zeros of a shape with a value at [start, start + its size) of an axis. */
function placed(graph: GraphBuilder, value: Value, { shape }: Value, axis: number, start: number): Value {
  const end = start + knownDim(value, axis);
  const between = (from: number, to: number): Value[] =>
    from === to
      ? []
      : [zerosOf(graph, { ...value, shape: shape.map((dim, index) => (index === axis ? to - from : dim)) })];
  const parts = [...between(0, start), value, ...between(end, shape[axis] as number)];
  return parts.length === 1 ? value : graph.apply("concat", parts, { axis });
}

/** value / the number of x's entries along axes, which may be known only to a run. */
function meanOver(graph: GraphBuilder, value: Value, x: Value, axes: readonly number[]): Value {
  let [mean, known] = [value, 1];
  for (const axis of axesOf(x, axes)) {
    const dim = dimAt(x, axis);
    if (typeof dim === "number") known *= dim;
    else mean = graph.apply("divide", [mean, graph.apply("size", [x], { axis })]);
  }
  return scaled(graph, mean, 1 / known);
}

/** Places in row-major order, [n], of points [n, rank]. */
function flatPlaces(graph: GraphBuilder, points: Value, x: Value): Value {
  const count: Dim = dimAt(points, 0);
  let flat: Value | undefined;
  let stride: Value | undefined;
  for (let axis = x.shape.length - 1; axis >= 0; axis--) {
    const column = graph.apply("slice", [points], { axis: 1, start: axis, end: axis + 1 });
    const place = reshape(graph, column, [count]);
    const offset = stride === undefined ? place : multiply(graph, place, stride);
    flat = flat === undefined ? offset : graph.apply("add", [flat, offset]);
    const size = sizeAt(graph, x, axis);
    stride = stride === undefined ? size : multiply(graph, stride, size);
  }
  if (flat === undefined) throw new InternalError("E_GRADIENT", "no gradient flows to a single entry by its place");
  return flat;
}

/** The size of an axis as an integer, [1]. */
function sizeAt(graph: GraphBuilder, x: Value, axis: number): Value {
  const dim = dimAt(x, axis);
  if (typeof dim === "number") return graph.integers([dim]);
  return graph.apply("cast", [graph.apply("size", [x], { axis })], { to: "i64" });
}

export const PRIMITIVE_PULLBACKS = {
  // What makes integers, conditions and sizes depends on no float entry by entry.
  equal: NOTHING,
  lessOrEqual: NOTHING,
  argMax: NOTHING,
  nonZero: NOTHING,
  iota: NOTHING,
  fill: NOTHING,
  size: NOTHING,

  add: single(({ graph, gradient, inputs }) => inputs.map((input) => () => reduceTo(graph, gradient, input))),
  subtract: single(({ graph, gradient, inputs }) => {
    const [a, b] = inputs as readonly [Value, Value];
    return [() => reduceTo(graph, gradient, a), () => negative(graph, reduceTo(graph, gradient, b))];
  }),
  multiply: single(({ graph, gradient, inputs }) => {
    const [a, b] = inputs as readonly [Value, Value];
    return [
      () => reduceTo(graph, multiply(graph, gradient, b), a),
      () => reduceTo(graph, multiply(graph, gradient, a), b),
    ];
  }),
  divide: single(({ graph, gradient, inputs, y }) => {
    const [a, b] = inputs as readonly [Value, Value];
    const quotient = graph.apply("divide", [gradient, b]);
    return [
      () => reduceTo(graph, quotient, a),
      () => negative(graph, reduceTo(graph, multiply(graph, quotient, y), b)),
    ];
  }),
  exp: elementwise((_graph, _x, y) => y),
  log: single(({ graph, gradient, x }) => [() => graph.apply("divide", [gradient, x])]),
  sqrt: single(({ graph, gradient, y }) => [() => graph.apply("divide", [scaled(graph, gradient, 0.5), y])]),
  tanh: elementwise((graph, _x, y) => subtract(graph, graph.scalar(1), multiply(graph, y, y))),
  erf: elementwise((graph, x) => {
    const power = graph.apply("exp", [negative(graph, multiply(graph, x, x))]);
    return scaled(graph, power, 2 / Math.sqrt(Math.PI));
  }),
  sigmoid: elementwise((graph, _x, y) => multiply(graph, y, subtract(graph, graph.scalar(1), y))),
  relu: single(({ graph, gradient, x }) => [
    () => {
      const nothing = graph.scalar(0);
      return graph.apply("where", [graph.apply("lessOrEqual", [x, nothing]), nothing, gradient]);
    },
  ]),
  softmax: single(({ graph, gradient, y }) => [
    () => {
      const weighted = multiply(graph, gradient, y);
      const sum = graph.apply("reduceSum", [weighted], { axes: [-1], keepsAxes: true });
      return subtract(graph, weighted, multiply(graph, y, sum));
    },
  ]),
  reduceSum: single(({ graph, gradient, x, attributes: { axes } }) => [
    () => graph.apply("expand", [withAxes(graph, gradient, x, axes)], { shape: x.shape }),
  ]),
  reduceMean: single(({ graph, gradient, x, attributes: { axes } }) => [
    () => {
      const mean = meanOver(graph, withAxes(graph, gradient, x, axes), x, axes);
      return graph.apply("expand", [mean], { shape: x.shape });
    },
  ]),
  /** Equal ones share it. */
  reduceMax: single(({ graph, gradient, x, y, attributes: { axes } }) => [
    () => {
      const isLargest = graph.apply("equal", [x, withAxes(graph, y, x, axes)]);
      const shares = graph.apply("cast", [isLargest], { to: x.dtype });
      const count = graph.apply("reduceSum", [shares], { axes, keepsAxes: true });
      return multiply(graph, shares, graph.apply("divide", [withAxes(graph, gradient, x, axes), count]));
    },
  ]),
  topK: ({ graph, inputs, outputs, gradients }) => {
    const [x, places, gradient] = [inputs[0], outputs[1], gradients[0]] as readonly [Value, Value, Value | undefined];
    if (gradient === undefined) return [];
    const axis = x.shape.length - 1;
    return [
      { onto: (sum = zerosOf(graph, x)) => graph.apply("scatterAlong", [sum, places, gradient], { axis, adds: true }) },
    ];
  },
  gemm: single(({ graph, gradient, inputs, attributes: { transposeA = false, transposeB = false, alpha = 1 } }) => {
    const [a, b, c] = inputs as readonly [Value, Value, Value?];
    const times = (left: Value, right: Value, swaps: readonly [boolean, boolean]): Contribution => ({
      onto: (sum) =>
        graph.apply("gemm", sum === undefined ? [left, right] : [left, right, sum], {
          ...(swaps[0] ? { transposeA: true } : {}),
          ...(swaps[1] ? { transposeB: true } : {}),
          ...(alpha === 1 ? {} : { alpha }),
        }),
    });
    return [
      transposeA ? times(b, gradient, [transposeB, true]) : times(gradient, b, [false, !transposeB]),
      transposeB ? times(gradient, a, [true, transposeA]) : times(a, gradient, [!transposeA, false]),
      c && (() => reduceTo(graph, gradient, c)),
    ];
  }),
  matmul: single(({ graph, gradient, inputs }) => {
    const [a, b] = inputs as readonly [Value, Value];
    return [
      () => reduceTo(graph, productOf(graph, gradient, b, "b"), a),
      () => reduceTo(graph, productOf(graph, a, gradient, "a"), b),
    ];
  }),
  cast: single(({ graph, gradient, x, y }) =>
    y.dtype === "f32" || y.dtype === "f64" ? [() => graph.apply("cast", [gradient], { to: x.dtype })] : [],
  ),
  where: single(({ graph, gradient, inputs }) => {
    const [condition, a, b] = inputs as readonly [Value, Value, Value];
    const chosen = (isFirst: boolean): Value => {
      const nothing = scalarOf(graph, gradient, 0);
      return graph.apply("where", [condition, isFirst ? gradient : nothing, isFirst ? nothing : gradient]);
    };
    return [undefined, () => reduceTo(graph, chosen(true), a), () => reduceTo(graph, chosen(false), b)];
  }),
  reshape: single(({ graph, gradient, x }) => [() => reshape(graph, gradient, x.shape)]),
  transpose: single(({ graph, gradient, attributes: { order } }) => [
    () => graph.apply("transpose", [gradient], { order: order.map((_, axis) => order.indexOf(axis)) }),
  ]),
  expand: single(({ graph, gradient, x }) => [() => reduceTo(graph, gradient, x)]),
  slice: single(({ graph, gradient, x, attributes: { axis, start } }) => [
    () => placed(graph, gradient, x, axis, start),
  ]),
  split: ({ graph, outputs, gradients, attributes: { axis } }) => [
    () => {
      const parts = outputs.map((output, index) => gradients[index] ?? zerosOf(graph, output));
      return graph.apply("concat", parts, { axis });
    },
  ],
  concat: single(({ graph, gradient, inputs, attributes: { axis } }) => {
    let first = 0;
    return inputs.map((input) => {
      const start = first;
      const end = (first += knownDim(input, axis));
      return () => graph.apply("slice", [gradient], { axis, start, end });
    });
  }),
  pad: single(({ graph, gradient, x, attributes: { axis } }) => [
    () => graph.apply("slice", [gradient], { axis, start: 0, end: knownDim(x, axis) }),
  ]),
  shift: single(({ graph, gradient, attributes: { axis, by } }) => [
    () => graph.apply("shift", [gradient], { axis, by: -by }),
  ]),
  cut: single(({ graph, gradient, x }) => [() => graph.apply("join", [gradient], { length: dimAt(x, 0) })]),
  join: single(({ graph, gradient, x }) => [
    () => graph.apply("cut", [gradient], { size: knownDim(x, 1), count: dimAt(x, 0) }),
  ]),
  /** What reaches a piece's result is what the states after it ask for: the same scan from the other end. */
  scan: single(({ graph, gradient, inputs, y, attributes: { isReversed = false } }) => {
    const [factor, added] = inputs as readonly [Value, Value];
    const reached = graph.apply("scan", [turned(graph, factor), gradient], { isReversed: !isReversed });
    const pairs = (): Value =>
      dimAt(factor, -1) === dimAt(added, -2) ? productOf(graph, reached, y, "b") : multiply(graph, reached, y);
    return [() => reduceTo(graph, pairs(), factor), () => reached];
  }),
  gather: single(({ graph, gradient, inputs, attributes }) => {
    const [table, indices] = inputs as readonly [Value, Value];
    const areRowsDistinct = attributes.areRowsDistinct === true || product(...indices.shape) === 1;
    return [
      {
        onto: (sum = zerosOf(graph, table)) =>
          graph.apply("scatterAdd", [sum, indices, gradient], areRowsDistinct ? { areRowsDistinct } : {}),
      },
    ];
  }),
  gatherAlong: single(({ graph, gradient, inputs, attributes: { axis } }) => {
    const [x, indices] = inputs as readonly [Value, Value];
    return [
      {
        onto: (sum = zerosOf(graph, x)) => graph.apply("scatterAlong", [sum, indices, gradient], { axis, adds: true }),
      },
    ];
  }),
  gatherPoints: single(({ graph, gradient, inputs }) => {
    const [x, points] = inputs as readonly [Value, Value];
    const whole = { shape: [product(...x.shape)], dtype: x.dtype };
    return [
      {
        onto: (sum) => {
          const row = sum === undefined ? zerosOf(graph, whole) : reshape(graph, sum, whole.shape);
          const added = graph.apply("scatterAdd", [row, flatPlaces(graph, points, x), gradient]);
          return reshape(graph, added, x.shape);
        },
      },
    ];
  }),
  scatterAlong: single(({ graph, gradient, inputs, attributes }) => {
    const [, indices, updates] = inputs as readonly [Value, Value, Value];
    const { axis, adds = false } = attributes;
    const nothing = (): Value => zerosOf(graph, { shape: indices.shape, dtype: gradient.dtype });
    return [
      () => (adds ? gradient : graph.apply("scatterAlong", [gradient, indices, nothing()], { axis })),
      undefined,
      () => reduceTo(graph, graph.apply("gatherAlong", [gradient, indices], { axis }), updates),
    ];
  }),
  scatterAdd: single(({ graph, gradient, inputs, attributes }) => [
    () => gradient,
    undefined,
    () => graph.apply("gather", [gradient, inputs[1] as Value], attributes),
  ]),
} satisfies Pullbacks;
