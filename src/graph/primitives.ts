/**
 * Operators that are not made of others: arithmetic entry by entry, products, sums along axes, and moving data. What a
 * composite (composites.ts) becomes where an executor lacks it, and what gradients are taken of.
 */
import { type Dim, isSameShape, product, quotient, type Shape } from "./dimensions.js";
import type { DataType, ValueType } from "./graph.js";
import {
  axesOf,
  broadcast,
  dimAt,
  inputAt,
  knownDim,
  type None,
  refuse,
  requireType,
  withDim,
  type Operator,
} from "./operator.js";

/** Of two values that stretch to each other. */
function elementwiseOfTwo(name: string): Operator<None> {
  return {
    infer(inputs) {
      const [a, b] = [inputAt(name, inputs, 0), inputAt(name, inputs, 1)];
      if (a.dtype !== b.dtype) throw refuse(name, inputs, "one type of elements");
      return [{ shape: broadcast(name, a, b), dtype: a.dtype }];
    },
  };
}

function comparison(name: string): Operator<None> {
  const { infer } = elementwiseOfTwo(name);
  return {
    infer: (inputs, attributes, fresh) => infer(inputs, attributes, fresh).map((type) => ({ ...type, dtype: "bool" })),
  };
}

function elementwise(name: string): Operator<None> {
  return {
    infer(inputs) {
      requireType(name, inputs, "f32");
      return [inputAt(name, inputs, 0)].map(({ shape, dtype }) => ({ shape, dtype }));
    },
  };
}

export interface ReductionAttributes {
  readonly axes: readonly number[];
  /** Whether the axes stay, with size 1. */
  readonly keepsAxes?: boolean;
}

/** The shape that is left when some axes are summed up. */
export function reducedShape(value: ValueType, { axes, keepsAxes = false }: ReductionAttributes): Shape {
  const reduced = axesOf(value, axes);
  reduced.forEach((axis) => dimAt(value, axis));
  if (keepsAxes) return value.shape.map((dim, axis) => (reduced.includes(axis) ? 1 : dim));
  return value.shape.filter((_, axis) => !reduced.includes(axis));
}

export function reduction(name: string): Operator<ReductionAttributes> {
  return {
    infer(inputs, attributes) {
      requireType(name, inputs, "f32");
      return [{ shape: reducedShape(inputAt(name, inputs, 0), attributes), dtype: "f32" }];
    },
  };
}

/** Also of f64, which gradients of stretched values sum up. */
const reduceSum: Operator<ReductionAttributes> = {
  infer(inputs, attributes) {
    const input = inputAt("reduceSum", inputs, 0);
    if (input.dtype !== "f64") requireType("reduceSum", inputs, "f32");
    return [{ shape: reducedShape(input, attributes), dtype: input.dtype }];
  },
};

export interface GemmAttributes {
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
  /** Factor on the product. */
  readonly alpha?: number;
}

/** alpha · op(a) · op(b) (+ c), of matrices; c stretches to the product. */
const gemm: Operator<GemmAttributes> = {
  infer(inputs, { transposeA = false, transposeB = false }) {
    const [a, b, c] = [inputAt("gemm", inputs, 0), inputAt("gemm", inputs, 1), inputs[2]];
    if (a.shape.length !== 2 || b.shape.length !== 2 || new Set(inputs.map(({ dtype }) => dtype)).size > 1)
      throw refuse("gemm", inputs, "matrices of one type");
    const [m, inner] = transposeA ? a.shape.toReversed() : a.shape;
    const [innerB, n] = transposeB ? b.shape.toReversed() : b.shape;
    if (inner !== innerB) throw refuse("gemm", inputs, `the same inner size, not ${inner} and ${innerB}`);
    const type = { shape: [m as Dim, n as Dim], dtype: a.dtype };
    if (c !== undefined && broadcast("gemm", type, c).some((dim, axis) => dim !== type.shape[axis]))
      throw refuse("gemm", inputs, "an addend that stretches to the product");
    return [type];
  },
};

/** a · b over the last two axes; those in front stretch to each other. */
const matmul: Operator<None> = {
  infer(inputs) {
    requireType("matmul", inputs, "f32");
    const [a, b] = [inputAt("matmul", inputs, 0), inputAt("matmul", inputs, 1)];
    if (a.shape.length < 2 || b.shape.length < 2 || dimAt(a, -1) !== dimAt(b, -2))
      throw refuse("matmul", inputs, "[…, m, k] and […, k, n]");
    const front = ({ shape }: ValueType): ValueType => ({ shape: shape.slice(0, -2), dtype: "f32" });
    return [{ shape: [...broadcast("matmul", front(a), front(b)), dimAt(a, -2), dimAt(b, -1)], dtype: "f32" }];
  },
};

/** Along the last axis. */
const softmax = elementwise("softmax");

/** The place of the largest entry along an axis, which goes; the first of equals. */
const argMax: Operator<{ readonly axis: number }> = {
  infer(inputs, { axis }) {
    return [{ shape: reducedShape(inputAt("argMax", inputs, 0), { axes: [axis] }), dtype: "i64" }];
  },
};

/** The largest entries along the last axis, largest first and the first of equals first; and their places. */
const topK: Operator<{ readonly count: number }> = {
  infer(inputs, { count }) {
    const input = inputAt("topK", inputs, 0);
    const shape = withDim(input.shape, input.shape.length - 1, count);
    return [
      { shape, dtype: input.dtype },
      { shape, dtype: "i64" },
    ];
  },
};

const cast: Operator<{ readonly to: DataType }> = {
  infer: (inputs, { to }) => [{ shape: inputAt("cast", inputs, 0).shape, dtype: to }],
};

/** a where the condition holds, else b. */
const where: Operator<None> = {
  infer(inputs) {
    const [condition, a, b] = [0, 1, 2].map((index) => inputAt("where", inputs, index)) as [
      ValueType,
      ValueType,
      ValueType,
    ];
    if (condition.dtype !== "bool" || a.dtype !== b.dtype)
      throw refuse("where", inputs, "a condition and two values of one type");
    const shape = broadcast("where", a, b);
    return [{ shape: broadcast("where", condition, { shape, dtype: a.dtype }), dtype: a.dtype }];
  },
};

/** The places of what holds, one per column, in order: [rank, n] with n known only in a run. */
const nonZero: Operator<None> = {
  infer(inputs, _, fresh) {
    requireType("nonZero", inputs, "bool");
    return [{ shape: [inputAt("nonZero", inputs, 0).shape.length, fresh("rows")], dtype: "i64" }];
  },
};

/** 0, 1, 2, … */
const iota: Operator<{ readonly length: Dim }> = {
  dims: ["length"],
  infer: (_, { length }) => [{ shape: [length], dtype: "i64" }],
};

/** One float everywhere. */
const fill: Operator<{ readonly shape: Shape; readonly value: number }> = {
  dims: ["shape"],
  infer: (_, { shape }) => [{ shape, dtype: "f32" }],
};

/** The size of an axis as a float, [1]. */
const size: Operator<{ readonly axis: number }> = {
  infer(inputs, { axis }) {
    dimAt(inputAt("size", inputs, 0), axis);
    return [{ shape: [1], dtype: "f32" }];
  },
};

/** The same entries in order under another shape. */
const reshape: Operator<{ readonly shape: Shape }> = {
  dims: ["shape"],
  infer(inputs, { shape }) {
    const input = inputAt("reshape", inputs, 0);
    if (product(...input.shape) !== product(...shape))
      throw refuse("reshape", inputs, `as many elements as [${shape.join(", ")}] has`);
    return [{ shape, dtype: input.dtype }];
  },
};

/** Axis i of the output is axis `order[i]` of the input. */
const transpose: Operator<{ readonly order: readonly number[] }> = {
  infer(inputs, { order }) {
    const input = inputAt("transpose", inputs, 0);
    if (order.length !== input.shape.length || new Set(order).size !== order.length)
      throw refuse("transpose", inputs, `an order of its axes, not [${order.join(", ")}]`);
    return [{ shape: order.map((axis) => dimAt(input, axis)), dtype: input.dtype }];
  },
};

/** Stretch axes of size 1. */
const expand: Operator<{ readonly shape: Shape }> = {
  dims: ["shape"],
  infer(inputs, { shape }) {
    const input = inputAt("expand", inputs, 0);
    const stretched = broadcast("expand", input, { shape, dtype: input.dtype });
    if (stretched.some((dim, axis) => dim !== shape[axis]))
      throw refuse("expand", inputs, `a shape that stretches to [${shape.join(", ")}]`);
    return [{ shape, dtype: input.dtype }];
  },
};

/** Entries [start, end) of an axis whose size is known. */
const slice: Operator<{ readonly axis: number; readonly start: number; readonly end: number }> = {
  infer(inputs, { axis, start, end }) {
    const input = inputAt("slice", inputs, 0);
    if (start < 0 || end < start || end > knownDim(input, axis))
      throw refuse("slice", inputs, `entries ${start} to ${end} of axis ${axis}`);
    return [{ shape: withDim(input.shape, axis, end - start), dtype: input.dtype }];
  },
};

/** An axis cut into pieces of these sizes, one output each. */
const split: Operator<{ readonly axis: number; readonly sizes: readonly number[] }> = {
  infer(inputs, { axis, sizes }) {
    const input = inputAt("split", inputs, 0);
    if (sizes.reduce((sum, each) => sum + each, 0) !== knownDim(input, axis))
      throw refuse("split", inputs, `axis ${axis} to be ${sizes.join(" + ")}`);
    return sizes.map((each) => ({ shape: withDim(input.shape, axis, each), dtype: input.dtype }));
  },
};

/** Values one after the other along an axis. */
const concat: Operator<{ readonly axis: number }> = {
  infer(inputs, { axis }) {
    const first = inputAt("concat", inputs, 0);
    const isAlike = (other: ValueType): boolean =>
      other.dtype === first.dtype &&
      other.shape.length === first.shape.length &&
      other.shape.every((dim, index) => index === axis || dim === first.shape[index]);
    if (!inputs.every(isAlike)) throw refuse("concat", inputs, `values that differ in axis ${axis} only`);
    const sum = inputs.reduce((total, input) => total + knownDim(input, axis), 0);
    return [{ shape: withDim(first.shape, axis, sum), dtype: first.dtype }];
  },
};

/** Zeros after the entries of an axis. */
const pad: Operator<{ readonly axis: number; readonly after: number }> = {
  infer(inputs, { axis, after }) {
    const input = inputAt("pad", inputs, 0);
    return [{ shape: withDim(input.shape, axis, knownDim(input, axis) + after), dtype: input.dtype }];
  },
};

export interface RowAttributes {
  /** Whether no row is named twice, so that what is added to rows may be added side by side. */
  readonly areRowsDistinct?: boolean;
}

export interface ScanAttributes {
  readonly isReversed?: boolean;
}

/** Entries moved along an axis, to higher places where `by` is positive; zeros come after them, others fall off the end. */
const shift: Operator<{ readonly axis: number; readonly by: number }> = {
  infer(inputs, { axis }) {
    requireType("shift", inputs, "f32");
    const input = inputAt("shift", inputs, 0);
    dimAt(input, axis);
    return [{ shape: input.shape, dtype: input.dtype }];
  },
};

/**
 * The first axis in pieces of one size, the last of them filled up with zeros: [pieces, size, …].
 * `count` says what their number is called where a value before was cut the same way.
 */
const cut: Operator<{ readonly size: number; readonly count?: Dim }> = {
  dims: ["count"],
  infer(inputs, { size, count }, fresh) {
    const input = inputAt("cut", inputs, 0);
    requireType("cut", inputs, "f32");
    const length = dimAt(input, 0);
    const pieces = typeof length === "number" ? Math.ceil(length / size) : (count ?? fresh("pieces"));
    return [{ shape: [pieces, size, ...input.shape.slice(1)], dtype: "f32" }];
  },
};

/** Pieces one after the other, as far as `length`: the inverse of `cut`. */
const join: Operator<{ readonly length: Dim }> = {
  dims: ["length"],
  infer(inputs, { length }) {
    requireType("join", inputs, "f32");
    return [{ shape: [length, ...inputAt("join", inputs, 0).shape.slice(2)], dtype: "f32" }];
  },
};

/**
 * The states that enter pieces one after the other, where piece n makes factor_n · S + added_n of the S that enters it
 * and zeros enter the first; with `isReversed` the last is the first.
 * Inputs: factor [pieces or 1, …, d, d], or [pieces or 1, …, 1, 1] for numbers, and added [pieces, …, d, e]; the factor
 * stretches to it. Returns [pieces, …, d, e].
 */
const scan: Operator<ScanAttributes> = {
  infer(inputs) {
    requireType("scan", inputs, "f32");
    const [factor, added] = [inputAt("scan", inputs, 0), inputAt("scan", inputs, 1)];
    const front = ({ shape }: ValueType): ValueType => ({ shape: shape.slice(0, -2), dtype: "f32" });
    const rows = dimAt(added, -2);
    const isFitting =
      factor.shape.length === added.shape.length &&
      dimAt(factor, -1) === dimAt(factor, -2) &&
      [rows, 1].includes(dimAt(factor, -1)) &&
      isSameShape(broadcast("scan", front(factor), front(added)), front(added).shape);
    if (!isFitting) throw refuse("scan", inputs, "factors [pieces or 1, …, d, d] of what is added, [pieces, …, d, e]");
    return [{ shape: added.shape, dtype: "f32" }];
  },
};

/** The slices of a table along its first axis that indices name. */
const gather: Operator<RowAttributes> = {
  infer(inputs) {
    const [table, indices] = [inputAt("gather", inputs, 0), inputAt("gather", inputs, 1)];
    requireType("gather", [indices], "i64");
    return [{ shape: [...indices.shape, ...table.shape.slice(1)], dtype: table.dtype }];
  },
};

/** Entry by entry along an axis: out[i][j] = in[i][indices[i][j]] for the last of two. */
const gatherAlong: Operator<{ readonly axis: number }> = {
  infer(inputs, { axis }) {
    const [input, indices] = [inputAt("gatherAlong", inputs, 0), inputAt("gatherAlong", inputs, 1)];
    const fits = indices.shape.every((dim, index) => index === axis || dim === input.shape[index]);
    if (indices.dtype !== "i64" || indices.shape.length !== input.shape.length || !fits)
      throw refuse("gatherAlong", inputs, `indices that differ from the input in axis ${axis} only`);
    return [{ shape: indices.shape, dtype: input.dtype }];
  },
};

/** The entries at points: points [n, rank], one point per row; returns [n]. */
const gatherPoints: Operator<None> = {
  infer(inputs) {
    const [input, points] = [inputAt("gatherPoints", inputs, 0), inputAt("gatherPoints", inputs, 1)];
    if (points.dtype !== "i64" || points.shape.length !== 2 || points.shape[1] !== input.shape.length)
      throw refuse("gatherPoints", inputs, `points [n, ${input.shape.length}]`);
    return [{ shape: [dimAt(points, 0)], dtype: input.dtype }];
  },
};

export interface ScatterAlongAttributes {
  readonly axis: number;
  /** Whether updates are added to the entries, those to one entry one after the other. */
  readonly adds?: boolean;
}

/** The input with updates in place of the entries that `gatherAlong` would read. */
const scatterAlong: Operator<ScatterAlongAttributes> = {
  infer(inputs, { axis }) {
    const [input, indices, updates] = [0, 1, 2].map((index) => inputAt("scatterAlong", inputs, index)) as [
      ValueType,
      ValueType,
      ValueType,
    ];
    const [gathered] = gatherAlong.infer([input, indices], { axis }, String);
    if (gathered === undefined || broadcast("scatterAlong", gathered, updates).length !== indices.shape.length)
      throw refuse("scatterAlong", inputs, "as many updates as indices");
    return [{ shape: input.shape, dtype: input.dtype }];
  },
};

/** The input with updates [n, …] added to the rows that indices [n] name, one after the other. */
const scatterAdd: Operator<RowAttributes> = {
  infer(inputs) {
    const [input, indices, updates] = [0, 1, 2].map((index) => inputAt("scatterAdd", inputs, index)) as [
      ValueType,
      ValueType,
      ValueType,
    ];
    const expected = [...indices.shape, ...input.shape.slice(1)];
    if (indices.dtype !== "i64" || updates.shape.some((dim, axis) => dim !== expected[axis]))
      throw refuse("scatterAdd", inputs, `updates [${expected.join(", ")}]`);
    return [{ shape: input.shape, dtype: input.dtype }];
  },
};

/** Sizes that a value of `rows` rows has as sequences: [rows / tokens, tokens]. */
export function sequencesOf(operator: string, inputs: readonly ValueType[], tokens: Dim): Dim {
  const sequences = quotient(dimAt(inputAt(operator, inputs, 0), 0), tokens);
  if (sequences === undefined) throw refuse(operator, inputs, `rows of whole sequences of ${tokens} tokens`);
  return sequences;
}

export const PRIMITIVES = {
  add: elementwiseOfTwo("add"),
  subtract: elementwiseOfTwo("subtract"),
  multiply: elementwiseOfTwo("multiply"),
  divide: elementwiseOfTwo("divide"),
  equal: comparison("equal"),
  lessOrEqual: comparison("lessOrEqual"),
  exp: elementwise("exp"),
  log: elementwise("log"),
  sqrt: elementwise("sqrt"),
  tanh: elementwise("tanh"),
  erf: elementwise("erf"),
  sigmoid: elementwise("sigmoid"),
  relu: elementwise("relu"),
  softmax,
  reduceSum,
  reduceMax: reduction("reduceMax"),
  reduceMean: reduction("reduceMean"),
  argMax,
  topK,
  gemm,
  matmul,
  cast,
  where,
  nonZero,
  iota,
  fill,
  size,
  reshape,
  transpose,
  expand,
  slice,
  split,
  concat,
  pad,
  shift,
  cut,
  join,
  scan,
  gather,
  gatherAlong,
  gatherPoints,
  scatterAlong,
  scatterAdd,
} as const;
