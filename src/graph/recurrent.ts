/**
 * Operators that carry a state from token to token. What each is in a loop over tokens is written here in pieces of so
 * many tokens: within a piece by products of matrices, from piece to piece by a scan, and a gradient flows through both.
 */
import { product as sizeProduct, type Dim } from "./dimensions.js";
import type { GraphBuilder, Value, ValueType } from "./graph.js";
import { dimAt, inputAt, knownDim, refuse, requireShape, requireType, type None, type Operator } from "./operator.js";
import { sequencesOf } from "./primitives.js";
import { reshape, turned } from "./shorthand.js";

/** Scores of later tokens, before the exponential. */
const NEVER = -3e38;

export interface ConvolutionAttributes {
  /** Of a sequence. */
  readonly tokens: Dim;
}

/**
 * Every channel by itself: y[t] = Σ weight[c, K - 1 - s] · x[t - s] over s from 0 to K - 1, with zeros before a sequence.
 * Inputs: x [rows, channels], weight [channels, 1, K], and where there is one a bias [channels].
 */
export const convolution: Operator<ConvolutionAttributes> = {
  dims: ["tokens"],
  infer(inputs, { tokens }) {
    requireType("convolution", inputs, "f32");
    sequencesOf("convolution", inputs, tokens);
    const x = inputAt("convolution", inputs, 0);
    const channels = dimAt(x, 1);
    requireShape("convolution", inputs, 1, [channels, 1, knownDim(inputAt("convolution", inputs, 1), 2)]);
    if (inputs.length > 2) requireShape("convolution", inputs, 2, [channels]);
    return [{ shape: x.shape, dtype: "f32" }];
  },
  decompose(graph, inputs, { tokens }) {
    const [x, weight, bias] = inputs as readonly [Value, Value, Value?];
    const [channels, taps] = [knownDim(x, 1), knownDim(weight, 2)];
    const sequences = reshape(graph, x, sequencesOf("convolution", inputs, tokens), tokens, channels);
    const byTap = graph.apply("transpose", [reshape(graph, weight, channels, taps)], { order: [1, 0] });
    const parts = Array.from({ length: taps }, (_, tap) => {
      const before = taps - 1 - tap;
      const moved = before === 0 ? sequences : graph.apply("shift", [sequences], { axis: 1, by: before });
      return times(graph, moved, graph.apply("slice", [byTap], { axis: 0, start: tap, end: tap + 1 }));
    });
    const sum = parts.reduce((total, part) => graph.apply("add", [total, part]));
    const biased = bias === undefined ? sum : graph.apply("add", [sum, bias]);
    return [reshape(graph, biased, ...x.shape)];
  },
};

/**
 * (1 + the strictly lower part of x)⁻¹ of matrices […, size, size]. With the inverses of the blocks of size b on the
 * diagonal in D, and between two neighbours the part L of x, that of the blocks of size 2 b is D - D L D: as stable as
 * forward substitution.
 */
export const unitTriangularInverse: Operator<None> = {
  infer(inputs) {
    requireType("unitTriangularInverse", inputs, "f32");
    const x = inputAt("unitTriangularInverse", inputs, 0);
    if (knownDim(x, -1) !== knownDim(x, -2)) throw refuse("unitTriangularInverse", inputs, "square matrices");
    return [{ shape: x.shape, dtype: "f32" }];
  },
  decompose(graph, inputs) {
    const x = inputs[0] as Value;
    const size = knownDim(x, -1);
    let inverse = identity(graph, size);
    for (let block = 1; block < size; block *= 2) {
      const pair = (index: number): number => Math.floor(index / (2 * block));
      const isSecond = (index: number): boolean => Math.floor(index / block) % 2 === 1;
      const codes = (of: (index: number) => number, shape: readonly number[]): Value =>
        graph.integers(
          Array.from({ length: size }, (_, index) => of(index)),
          shape,
        );
      const rows = codes((index) => (isSecond(index) ? pair(index) : -1), [size, 1]);
      const columns = codes((index) => (isSecond(index) ? -2 : pair(index)), [1, size]);
      const between = graph.apply("where", [graph.apply("equal", [rows, columns]), x, graph.scalar(0)]);
      const product =
        block === 1 ? between : graph.apply("matmul", [inverse, graph.apply("matmul", [between, inverse])]);
      inverse = graph.apply("subtract", [inverse, product]);
    }
    return [inverse];
  },
};

export interface LinearAttentionAttributes {
  /** Of values. */
  readonly heads: number;
  /** Of queries and keys: each serves heads / keyHeads heads in turn. */
  readonly keyHeads: number;
  /** Of a sequence. */
  readonly tokens: Dim;
  /** Tokens of a piece, a power of two; changes roundings alone. */
  readonly piece: number;
}

/** The type of what linear attention returns; inputs 0 to 2 are query, key and value. */
function inferLinearAttention(
  operator: string,
  inputs: readonly ValueType[],
  { heads, keyHeads, tokens, piece }: LinearAttentionAttributes,
): ValueType {
  requireType(operator, inputs, "f32");
  sequencesOf(operator, inputs, tokens);
  const [query, value] = [inputAt(operator, inputs, 0), inputAt(operator, inputs, 2)];
  const isWhole = Number.isInteger(knownDim(query, 1) / keyHeads) && Number.isInteger(knownDim(value, 1) / heads);
  if (!isWhole || heads % keyHeads !== 0 || !Number.isInteger(Math.log2(piece)))
    throw refuse(operator, inputs, `${heads} heads over ${keyHeads} in pieces of ${piece}`);
  requireShape(operator, inputs, 1, query.shape);
  requireShape(operator, inputs, 2, [dimAt(query, 0), knownDim(value, 1)]);
  return { shape: value.shape, dtype: "f32" };
}

/**
 * The gated delta rule (Yang et al. 2024, arXiv:2412.06464): per head a state S of [key, value] that each token first
 * lets fade, S ← exp(g) S, then corrects towards its value, S ← S + β k (v - kᵀ S)ᵀ, and reads, o = Sᵀ q.
 * Inputs: query and key [rows, keyHeads * d], value [rows, heads * e], g and β [rows, heads]. Returns [rows, heads * e].
 *
 * Within a piece the corrections are a triangular system of the piece's tokens, whose inverse is built from blocks of
 * doubling size; a piece takes a state S to A S + B.
 */
export const deltaRule: Operator<LinearAttentionAttributes> = {
  dims: ["tokens"],
  infer(inputs, attributes) {
    const type = inferLinearAttention("deltaRule", inputs, attributes);
    for (const index of [3, 4]) requireShape("deltaRule", inputs, index, [dimAt(type, 0), attributes.heads]);
    return [type];
  },
  decompose(graph, inputs, attributes) {
    const { piece } = attributes;
    const pieces = new Pieces(graph, inputs, attributes);
    const [query, key] = [pieces.ofKeys(inputs[0] as Value), pieces.ofKeys(inputs[1] as Value)];
    const value = pieces.ofValues(inputs[2] as Value);
    const [gate, beta] = [pieces.ofValues(inputs[3] as Value), pieces.ofValues(inputs[4] as Value)];
    const product = (a: Value, b: Value): Value => graph.apply("matmul", [a, b]);

    const before = lowerTriangle(graph, piece); // ones where the column's token is the row's or earlier
    const fading = product(before, gate); // log of what is left of the state at the piece's beginning, per token
    const faded = graph.apply("exp", [fading]);
    const between = sumsBetween(graph, gate, piece);
    const decay = earlier(graph, between);
    const corrections = times(graph, beta, times(graph, product(key, turned(graph, key)), decay));
    const inverse = graph.apply("unitTriangularInverse", [corrections]);
    const weighted = times(graph, beta, key);
    const values = product(inverse, times(graph, beta, value));
    const keys = product(inverse, times(graph, weighted, faded));

    const [end, rest] = [fading, between].map((sums) =>
      graph.apply("slice", [sums], { axis: 4, start: piece - 1, end: piece }),
    ) as [Value, Value];
    const toEnd = turned(graph, times(graph, key, graph.apply("exp", [turned(graph, rest)])));
    const kept = times(graph, graph.apply("exp", [end]), identity(graph, knownDim(key, 5)));
    const factor = graph.apply("subtract", [kept, product(toEnd, keys)]);
    const states = graph.apply("scan", [factor, product(toEnd, values)]);
    const corrected = graph.apply("subtract", [values, product(keys, states)]);
    const within = times(graph, product(query, turned(graph, key)), decay);
    return [pieces.back(graph.apply("add", [product(times(graph, query, faded), states), product(within, corrected)]))];
  },
};

/**
 * Attention without a softmax whose scores fade with distance (lightning attention, Qin et al. 2024, arXiv:2405.17381):
 * o_t = Σ exp(-slope (t - s)) (q_t · k_s) v_s over s ≤ t.
 * Inputs: query and key [rows, keyHeads * d], value [rows, heads * e], slopes [heads]. Returns [rows, heads * e].
 */
export const fadingAttention: Operator<LinearAttentionAttributes> = {
  dims: ["tokens"],
  infer(inputs, attributes) {
    requireShape("fadingAttention", inputs, 3, [attributes.heads]);
    return [inferLinearAttention("fadingAttention", inputs, attributes)];
  },
  decompose(graph, inputs, attributes) {
    const { piece, heads, keyHeads } = attributes;
    const pieces = new Pieces(graph, inputs, attributes);
    const [query, key] = [pieces.ofKeys(inputs[0] as Value), pieces.ofKeys(inputs[1] as Value)];
    const value = pieces.ofValues(inputs[2] as Value);
    const slopes = reshape(graph, inputs[3] as Value, 1, 1, keyHeads, heads / keyHeads, 1, 1);
    const product = (a: Value, b: Value): Value => graph.apply("matmul", [a, b]);
    const number = (offset: number, sign: 1 | -1): Value =>
      graph.floats(
        Array.from({ length: piece }, (_, token) => offset + sign * token),
        [piece, 1],
      );
    const fading = times(graph, slopes, graph.scalar(-1));
    const left = (steps: Value): Value => graph.apply("exp", [times(graph, fading, steps)]);

    const distances = graph.apply("cast", [graph.apply("subtract", places(graph, piece))], { to: "f32" });
    const decay = earlier(graph, times(graph, fading, distances));
    const within = times(graph, product(query, turned(graph, key)), decay);
    const added = product(turned(graph, times(graph, key, left(number(piece - 1, -1)))), value);
    const states = graph.apply("scan", [left(graph.scalar(piece)), added]);
    const across = product(times(graph, query, left(number(1, 1))), states);
    return [pieces.back(graph.apply("add", [across, product(within, value)]))];
  },
};

function times(graph: GraphBuilder, a: Value, b: Value): Value {
  return graph.apply("multiply", [a, b]);
}

/** Rows of sequences cut into pieces: [pieces, sequences, key heads, heads of each, tokens, width], and back. */
class Pieces {
  readonly #graph: GraphBuilder;
  readonly #attributes: LinearAttentionAttributes;
  readonly #sequences: Dim;
  /** How many there are; the first cut says it. */
  #count: Dim | undefined;

  constructor(graph: GraphBuilder, inputs: readonly Value[], attributes: LinearAttentionAttributes) {
    this.#graph = graph;
    this.#attributes = attributes;
    this.#sequences = sequencesOf("pieces", inputs, attributes.tokens);
  }

  ofKeys(value: Value): Value {
    return this.#cut(value, this.#attributes.keyHeads, 1);
  }

  ofValues(value: Value): Value {
    const { heads, keyHeads } = this.#attributes;
    return this.#cut(value, keyHeads, heads / keyHeads);
  }

  back(value: Value): Value {
    const graph = this.#graph;
    const { heads, tokens, piece } = this.#attributes;
    const width = knownDim(value, 5) * heads;
    const inOrder = graph.apply("transpose", [value], { order: [0, 4, 1, 2, 3, 5] });
    const pieces = reshape(graph, inOrder, dimAt(value, 0), piece, this.#sequences, width);
    const joined = graph.apply("join", [pieces], { length: tokens });
    const sequences = graph.apply("transpose", [joined], { order: [1, 0, 2] });
    return reshape(graph, sequences, sizeProduct(this.#sequences, tokens), width);
  }

  #cut(value: Value, groups: number, perGroup: number): Value {
    const graph = this.#graph;
    const { tokens, piece } = this.#attributes;
    const width = knownDim(value, 1);
    const sequences = reshape(graph, value, this.#sequences, tokens, width);
    const byToken = graph.apply("transpose", [sequences], { order: [1, 0, 2] });
    const count = this.#count === undefined ? {} : { count: this.#count };
    const pieces = graph.apply("cut", [byToken], { size: piece, ...count });
    this.#count ??= dimAt(pieces, 0);
    const perHead = reshape(
      graph,
      pieces,
      dimAt(pieces, 0),
      piece,
      this.#sequences,
      groups,
      perGroup,
      width / groups / perGroup,
    );
    return graph.apply("transpose", [perHead], { order: [0, 2, 3, 4, 1, 5] });
  }
}

/** i of every row, [size, 1], and of every column, [1, size]. */
function places(graph: GraphBuilder, size: number): readonly [rows: Value, columns: Value] {
  const indices = Array.from({ length: size }, (_, index) => index);
  return [graph.integers(indices, [size, 1]), graph.integers(indices, [1, size])];
}

function lowerTriangle(graph: GraphBuilder, size: number): Value {
  const [rows, columns] = places(graph, size);
  return graph.apply("where", [graph.apply("lessOrEqual", [columns, rows]), graph.scalar(1), graph.scalar(0)]);
}

/** Where the column's place is before the row's, [size, size]. */
export function isBelowDiagonal(graph: GraphBuilder, size: number): Value {
  const [rows, columns] = places(graph, size);
  return graph.apply("lessOrEqual", [graph.apply("add", [columns, graph.integers([1], [1, 1])]), rows]);
}

function identity(graph: GraphBuilder, size: number): Value {
  const [rows, columns] = places(graph, size);
  return graph.apply("where", [graph.apply("equal", [columns, rows]), graph.scalar(1), graph.scalar(0)]);
}

/** exp(x_ij) for j ≤ i, else 0. */
function earlier(graph: GraphBuilder, x: Value): Value {
  const [rows, columns] = places(graph, knownDim(x, -1));
  const isEarlier = graph.apply("lessOrEqual", [columns, rows]);
  return graph.apply("exp", [graph.apply("where", [isEarlier, x, graph.scalar(NEVER)])]);
}

/**
 * Σ g_s over j < s ≤ i, per pair of tokens: summed for each pair, for a difference of two long sums would lose what a
 * short one is.
 * @param gate g, [pieces, sequences, key heads, heads of each, tokens, 1]
 */
function sumsBetween(graph: GraphBuilder, gate: Value, piece: number): Value {
  const outer = gate.shape.slice(0, 4);
  const [rows, columns] = places(graph, piece);
  const summed = graph.integers(
    Array.from({ length: piece }, (_, token) => token),
    [piece, 1, 1],
  );
  const isIn = (place: Value): Value => {
    const isUpTo = graph.apply("lessOrEqual", [summed, place]);
    return graph.apply("where", [isUpTo, graph.scalar(1), graph.scalar(0)]);
  };
  const rowsOf = (value: Value, axis: 1 | 2): Value =>
    reshape(graph, value, 1, ...(axis === 1 ? [piece, 1] : [1, piece]));
  const upTo = isIn(rowsOf(rows, 1));
  const fromHere = graph.apply("subtract", [graph.scalar(1), isIn(rowsOf(columns, 2))]);
  const pairs = reshape(graph, times(graph, upTo, fromHere), piece, piece * piece);
  const sums = graph.apply("gemm", [reshape(graph, gate, sizeProduct(...outer), piece), pairs]);
  return reshape(graph, sums, ...outer, piece, piece);
}
