/**
 * Graphs in plain float64 loops, straight from what each operator is defined as: the twin of every executor. Composites
 * are computed from their formulas, never by decomposing them, so that a decomposition can be compared with them.
 *
 * Every value's shape is compared with the one that was inferred.
 */
import { bindShape, evaluate, type Bindings, type Dim } from "../../src/graph/dimensions.js";
import type { Graph, Node } from "../../src/graph/graph.js";
import type { AttentionAttributes } from "../../src/graph/attention.js";
import type { CachedAttentionAttributes } from "../../src/graph/cached-attention.js";
import type { Activation, NormAttributes } from "../../src/graph/composites.js";
import type { ClampedGateAttributes } from "../../src/graph/gates.js";
import type { AttributesOf, OperatorName } from "../../src/graph/operators.js";
import type { LinearAttentionStepAttributes } from "../../src/graph/recurrent-steps.js";
import type { ReductionAttributes } from "../../src/graph/primitives.js";

/** Any type of element as numbers; true is 1. */
export interface Tensor {
  readonly shape: readonly number[];
  readonly values: Float64Array;
}

export function tensor(shape: readonly number[], at: (index: number) => number): Tensor {
  return { shape, values: Float64Array.from({ length: sizeOf(shape) }, (_, index) => at(index)) };
}

/**
 * @param feeds by name of an input
 * @throws Error where a value has another shape than was inferred
 */
export function interpret(graph: Graph, feeds: ReadonlyMap<string, Tensor>): Map<string, Tensor> {
  const bindings: Bindings = new Map();
  const values = new Map<number, Tensor>();
  for (const { name, value } of graph.inputs) {
    const fed = feeds.get(name);
    if (fed === undefined) throw new Error(`"${name}" was not fed`);
    bindShape(name, value.shape, fed.shape, bindings);
    values.set(value.id, fed);
  }
  for (const { value, values: data } of graph.constants)
    values.set(value.id, { shape: value.shape as number[], values: Float64Array.from(data, Number) });
  for (const node of graph.nodes) {
    const inputs = node.inputs.map(({ id }) => values.get(id) as Tensor);
    const outputs = run(node, inputs, (dim) => sizeIn(dim, bindings));
    node.outputs.forEach((value, index) => {
      const made = outputs[index] as Tensor;
      if (made.values.length !== sizeOf(made.shape)) throw new Error(`${node.operator}: wrong number of elements`);
      bindShape(`${node.operator}, output ${index}`, value.shape, made.shape, bindings);
      values.set(value.id, made);
    });
  }
  return new Map(graph.outputs.map(({ name, value }) => [name, values.get(value.id) as Tensor]));
}

function sizeIn(dim: Dim, bindings: Bindings): number {
  const size = evaluate(dim, bindings);
  if (size === undefined) throw new Error(`nothing says what "${dim}" is`);
  return size;
}

type Sizes = (dim: Dim) => number;

type RuleOf<Attributes> = (inputs: readonly Tensor[], attributes: Attributes, size: Sizes) => readonly Tensor[];

type Rule<Name extends OperatorName> = RuleOf<AttributesOf<Name>>;

function run(node: Node, inputs: readonly Tensor[], size: Sizes): readonly Tensor[] {
  return (RULES[node.operator] as RuleOf<object>)(inputs, node.attributes, size);
}

function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, each) => product * each, 1);
}

/** Distances in memory between neighbours along each axis. */
function stridesOf(shape: readonly number[]): number[] {
  return shape.map((_, axis) => sizeOf(shape.slice(axis + 1)));
}

/** Where an entry is along each axis. */
function placeOf(index: number, shape: readonly number[]): number[] {
  return stridesOf(shape).map((stride, axis) => Math.floor(index / stride) % (shape[axis] as number));
}

function indexOf(place: readonly number[], shape: readonly number[]): number {
  let index = 0;
  for (let axis = 0; axis < shape.length; axis++) index = index * (shape[axis] as number) + (place[axis] as number);
  return index;
}

/** @param at is given one array for all places: it must not keep it */
function byPlace(shape: readonly number[], at: (place: readonly number[]) => number): Tensor {
  const values = new Float64Array(sizeOf(shape));
  const place = shape.map(() => 0);
  for (let index = 0; index < values.length; index++) {
    values[index] = at(place);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      const next = (place[axis] as number) + 1;
      place[axis] = next === shape[axis] ? 0 : next;
      if (next !== shape[axis]) break;
    }
  }
  return { shape, values };
}

/** The entry of a value that is stretched to a place of more or larger axes. */
function stretched({ shape, values }: Tensor, place: readonly number[]): number {
  const offset = place.length - shape.length;
  let index = 0;
  for (let axis = 0; axis < shape.length; axis++) {
    const size = shape[axis] as number;
    index = index * size + (size === 1 ? 0 : (place[offset + axis] as number));
  }
  return values[index] as number;
}

function commonShape(...tensors: readonly Tensor[]): number[] {
  const rank = Math.max(...tensors.map(({ shape }) => shape.length));
  return Array.from(
    { length: rank },
    (_, axis) => tensors.map(({ shape }) => shape.at(axis - rank) ?? 1).find((size) => size !== 1) ?? 1,
  );
}

function each(of: (...entries: number[]) => number): RuleOf<object> {
  return (inputs) => [
    byPlace(commonShape(...inputs), (place) => of(...inputs.map((input) => stretched(input, place)))),
  ];
}

/** Everything that lies along some axes, per place of the others. */
function reduce(of: (entries: readonly number[]) => number): RuleOf<ReductionAttributes> {
  return (inputs, { axes, keepsAxes = false }) => {
    const { shape, values } = inputs[0] as Tensor;
    const gone = axes.map((axis) => (axis < 0 ? axis + shape.length : axis));
    const kept = shape.map((size, axis) => (gone.includes(axis) ? 1 : size));
    const entries = Array.from({ length: sizeOf(kept) }, (): number[] => []);
    values.forEach((value, index) => {
      const place = placeOf(index, shape).map((at, axis) => (gone.includes(axis) ? 0 : at));
      entries[indexOf(place, kept)]?.push(value);
    });
    const left = keepsAxes ? kept : shape.filter((_, axis) => !gone.includes(axis));
    return [tensor(left, (index) => of(entries[index] as number[]))];
  };
}

const sum = (entries: readonly number[]): number => entries.reduce((total, entry) => total + entry, 0);
const mean = (entries: readonly number[]): number => sum(entries) / entries.length;
const largest = (entries: readonly number[]): number => entries.reduce((top, entry) => Math.max(top, entry), -Infinity);

function softmax(entries: readonly number[]): number[] {
  const top = largest(entries);
  const powers = entries.map((entry) => Math.exp(entry - top));
  const total = sum(powers);
  return powers.map((power) => power / total);
}

/** The last axis, row by row. */
function byRow(input: Tensor, of: (row: readonly number[]) => readonly number[], width?: number): Tensor {
  const last = input.shape.at(-1) as number;
  const rows = last === 0 ? 0 : input.values.length / last;
  const made = Array.from({ length: rows }, (_, row) => of([...input.values.subarray(row * last, (row + 1) * last)]));
  return { shape: [...input.shape.slice(0, -1), width ?? last], values: Float64Array.from(made.flat()) };
}

/** Abramowitz and Stegun 7.1.5 where it converges fast, the continued fraction beyond: errors below 1e-14. */
export function erf(x: number): number {
  if (Math.abs(x) > 6) return Math.sign(x);
  let [term, total] = [x, x];
  for (let n = 1; n < 200; n++) {
    term *= (-x * x) / n;
    total += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * total;
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

const ACTIVATIONS: Readonly<Record<Activation, (x: number) => number>> = {
  silu: (x) => x * sigmoid(x),
  gelu: (x) => (x / 2) * (1 + erf(x / Math.SQRT2)),
  "gelu-tanh": (x) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  relu: (x) => Math.max(0, x),
  relu2: (x) => Math.max(0, x) ** 2,
};

const gatedOf =
  (activation: Activation) =>
  (gate: number, up: number): number =>
    ACTIVATIONS[activation](gate) * up;

const clampedOf =
  ({ limit, alpha }: ClampedGateAttributes) =>
  (gate: number, up: number): number => {
    const g = Math.min(gate, limit);
    return g * sigmoid(alpha * g) * (Math.max(-limit, Math.min(limit, up)) + 1);
  };

/** Largest first, the first of equals first. */
function best(row: readonly number[], count: number): number[] {
  return row
    .map((_, index) => index)
    .sort((a, b) => (row[b] as number) - (row[a] as number) || a - b)
    .slice(0, count);
}

function multiply(a: Tensor, b: Tensor, transposeB = false): Tensor {
  const [m, k] = a.shape as [number, number];
  const n = (transposeB ? b.shape[0] : b.shape[1]) as number;
  const values = new Float64Array(m * n);
  for (let row = 0; row < m; row++) {
    for (let column = 0; column < n; column++) {
      let total = 0;
      for (let i = 0; i < k; i++)
        total += (a.values[row * k + i] as number) * (b.values[transposeB ? column * k + i : i * n + column] as number);
      values[row * n + column] = total;
    }
  }
  return { shape: [m, n], values };
}

function transposed({ shape: [rows = 0, columns = 0], values }: Tensor): Tensor {
  const turned = new Float64Array(rows * columns);
  for (let row = 0; row < columns; row++)
    for (let column = 0; column < rows; column++)
      turned[row * rows + column] = values[column * columns + row] as number;
  return { shape: [columns, rows], values: turned };
}

function rowsAt({ shape, values }: Tensor, rows: readonly number[]): Tensor {
  const width = sizeOf(shape.slice(1));
  const gathered = new Float64Array(rows.length * width);
  rows.forEach((row, place) => gathered.set(values.subarray(row * width, (row + 1) * width), place * width));
  return { shape: [rows.length, ...shape.slice(1)], values: gathered };
}

/** Columns, or with axis 0 rows, [start, end) of a matrix. */
function part(input: Tensor, axis: number, start: number, end: number): Tensor {
  const shape = input.shape.map((size, index) => (index === axis ? end - start : size));
  return byPlace(shape, (place) => {
    const from = place.map((at, index) => (index === axis ? at + start : at));
    return input.values[indexOf(from, input.shape)] as number;
  });
}

const norm: (isCentred: boolean) => RuleOf<NormAttributes> =
  (isCentred) =>
  ([x, gain, bias], { epsilon }) => [
    byRow(x as Tensor, (row) => {
      const centre = isCentred ? mean(row) : 0;
      const deviation = Math.sqrt(mean(row.map((entry) => (entry - centre) ** 2)) + epsilon);
      return row.map(
        (entry, i) => ((entry - centre) / deviation) * ((gain as Tensor).values[i] as number) + (bias?.values[i] ?? 0),
      );
    }),
  ];

const rotary: Rule<"rotary"> = (inputs, { heads, dimensions, isInterleaved = false }) => {
  const [states, cos, sin, positions] = inputs as [Tensor, Tensor, Tensor, Tensor];
  const headDim = (states.shape[1] as number) / heads;
  const half = dimensions / 2;
  const values = states.values.slice();
  for (let row = 0; row < (states.shape[0] as number); row++) {
    for (let head = 0; head < heads; head++) {
      for (let i = 0; i < half; i++) {
        const start = (row * heads + head) * headDim;
        const [p, q] = isInterleaved ? [start + 2 * i, start + 2 * i + 1] : [start + i, start + i + half];
        const angle = (positions.values[row] as number) * half + i;
        const [c, s] = [cos.values[angle] as number, sin.values[angle] as number];
        const [a, b] = [states.values[p] as number, states.values[q] as number];
        values[p] = a * c - b * s;
        values[q] = b * c + a * s;
      }
    }
  }
  return [{ shape: states.shape, values }];
};

const attention: RuleOf<AttentionAttributes> = ([query, key, value, mask], attributes, size) =>
  attend([query as Tensor, key as Tensor, value as Tensor, mask, undefined], attributes, size);

const sinkAttention: RuleOf<AttentionAttributes> = ([query, key, value, sinks, mask], attributes, size) =>
  attend([query as Tensor, key as Tensor, value as Tensor, mask, sinks], attributes, size);

function attend(
  [query, key, value, mask, sinks]: readonly [Tensor, Tensor, Tensor, Tensor | undefined, Tensor | undefined],
  attributes: AttentionAttributes,
  size: Sizes,
): readonly Tensor[] {
  const { heads, keyValueHeads, scale, isCausal, softcap } = attributes;
  const tokens = size(attributes.tokens);
  const rows = query.shape[0] as number;
  const d = (query.shape[1] as number) / heads;
  const e = (value.shape[1] as number) / keyValueHeads;
  const values = new Float64Array(rows * heads * e);
  for (let row = 0; row < rows; row++) {
    const first = row - (row % tokens);
    for (let head = 0; head < heads; head++) {
      const group = Math.floor(head / (heads / keyValueHeads));
      const scores = Array.from({ length: isCausal ? (row % tokens) + 1 : tokens }, (_, token) => {
        let dot = 0;
        for (let i = 0; i < d; i++)
          dot +=
            (query.values[(row * heads + head) * d + i] as number) *
            (key.values[((first + token) * keyValueHeads + group) * d + i] as number);
        const scaled = dot * scale;
        const capped = softcap === undefined ? scaled : softcap * Math.tanh(scaled / softcap);
        const table = mask?.shape.length === 2 ? 0 : head;
        return capped + (mask?.values[(table * tokens + (row % tokens)) * tokens + token] ?? 0);
      });
      sharesOf(scores, sinks?.values[head]).forEach((share, token) => {
        for (let i = 0; i < e; i++)
          values[(row * heads + head) * e + i] +=
            share * (value.values[((first + token) * keyValueHeads + group) * e + i] as number);
      });
    }
  }
  return [{ shape: [rows, heads * e], values }];
}

/** Shares of the scores alone, where a sink takes one as well. */
function sharesOf(scores: readonly number[], sink: number | undefined): number[] {
  return sink === undefined ? softmax(scores) : softmax([...scores, sink]).slice(0, -1);
}

const cachedAttention: RuleOf<CachedAttentionAttributes> = (inputs, { heads, keyValueHeads, scale, softcap }) => {
  const [query, key, value, keys, stored, mask, sinks] = inputs as [
    ...[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor],
    Tensor?,
  ];
  const [rows, , past, d] = keys.shape as [number, number, number, number];
  const e = (value.shape[1] as number) / keyValueHeads;
  const values = new Float64Array(rows * heads * e);
  const at = ({ values: all }: Tensor, place: number, width: number, i: number): number =>
    all[place * width + i] as number;
  for (let row = 0; row < rows; row++) {
    for (let head = 0; head < heads; head++) {
      const group = row * keyValueHeads + Math.floor(head / (heads / keyValueHeads));
      const scores = Array.from({ length: past + 1 }, (_, token) => {
        const products = Array.from({ length: d }, (_, i) => {
          const other = token < past ? at(keys, group * past + token, d, i) : at(key, group, d, i);
          return at(query, row * heads + head, d, i) * other;
        });
        const scaled = sum(products) * scale;
        const capped = softcap === undefined ? scaled : softcap * Math.tanh(scaled / softcap);
        const table = mask.shape[1] === 1 ? row : row * heads + head;
        return token < past ? capped + at(mask, table, past, token) : capped;
      });
      sharesOf(scores, sinks?.values[head]).forEach((share, token) => {
        for (let i = 0; i < e; i++) {
          const other = token < past ? at(stored, group * past + token, e, i) : at(value, group, e, i);
          values[(row * heads + head) * e + i] += share * other;
        }
      });
    }
  }
  return [{ shape: [rows, heads * e], values }];
};

/** By the derivative of each share with respect to each score, without what attention returned. */
const attentionGradient: RuleOf<AttentionAttributes> = (inputs, attributes, size) =>
  gradientsOf(inputs, inputs[5], undefined, attributes, size);

const sinkAttentionGradient: RuleOf<AttentionAttributes> = (inputs, attributes, size) =>
  gradientsOf(inputs, inputs[6], inputs[5], attributes, size);

function gradientsOf(
  inputs: readonly Tensor[],
  mask: Tensor | undefined,
  sinks: Tensor | undefined,
  attributes: AttentionAttributes,
  size: Sizes,
): readonly Tensor[] {
  const [query, key, value, , gradient] = inputs as [Tensor, Tensor, Tensor, Tensor, Tensor];
  const ofSinks = new Float64Array(attributes.heads);
  const { heads, keyValueHeads, scale, isCausal, softcap } = attributes;
  const tokens = size(attributes.tokens);
  const d = (query.shape[1] as number) / heads;
  const e = (value.shape[1] as number) / keyValueHeads;
  const [ofQuery, ofKey, ofValue] = [query, key, value].map(({ values }) => new Float64Array(values.length)) as [
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  for (let row = 0; row < (query.shape[0] as number); row++) {
    const first = row - (row % tokens);
    for (let head = 0; head < heads; head++) {
      const group = Math.floor(head / (heads / keyValueHeads));
      const keyAt = (token: number, i: number): number => ((first + token) * keyValueHeads + group) * d + i;
      const valueAt = (token: number, i: number): number => ((first + token) * keyValueHeads + group) * e + i;
      const queryAt = (i: number): number => (row * heads + head) * d + i;
      const count = isCausal ? (row % tokens) + 1 : tokens;
      const each = <Item>(of: (token: number) => Item): Item[] =>
        Array.from({ length: count }, (_, token) => of(token));
      const over = (length: number, of: (i: number) => number): number => sum(Array.from({ length }, (_, i) => of(i)));
      const scaled = each(
        (token) =>
          scale * over(d, (i) => (query.values[queryAt(i)] as number) * (key.values[keyAt(token, i)] as number)),
      );
      const table = mask?.shape.length === 2 ? 0 : head;
      const scores = scaled.map(
        (score, token) =>
          (softcap === undefined ? score : softcap * Math.tanh(score / softcap)) +
          (mask?.values[(table * tokens + (row % tokens)) * tokens + token] ?? 0),
      );
      const shares = sharesOf(scores, sinks?.values[head]);
      const given = (i: number): number => gradient.values[(row * heads + head) * e + i] as number;
      const ofShares = each((token) => over(e, (i) => given(i) * (value.values[valueAt(token, i)] as number)));
      const ofSink = sum(shares) - 1; // less its share
      ofSinks[head] += sum(ofShares.map((each, token) => each * (shares[token] as number) * ofSink));
      each((token) => {
        const share = shares[token] as number;
        const ofCapped = sum(
          ofShares.map((each, other) => each * (shares[other] as number) * (Number(other === token) - share)),
        );
        const slope = softcap === undefined ? 1 : 1 - Math.tanh((scaled[token] as number) / softcap) ** 2;
        for (let i = 0; i < d; i++) {
          ofQuery[queryAt(i)] += ofCapped * slope * scale * (key.values[keyAt(token, i)] as number);
          ofKey[keyAt(token, i)] += ofCapped * slope * scale * (query.values[queryAt(i)] as number);
        }
        for (let i = 0; i < e; i++) ofValue[valueAt(token, i)] += share * given(i);
      });
    }
  }
  return [
    { shape: query.shape, values: ofQuery },
    { shape: key.shape, values: ofKey },
    { shape: value.shape, values: ofValue },
    ...(sinks === undefined ? [] : [{ shape: sinks.shape, values: ofSinks }]),
  ];
}

const convolution: Rule<"convolution"> = ([x, weight, bias], attributes, size) => {
  const [input, kernel] = [x as Tensor, weight as Tensor];
  const tokens = size(attributes.tokens);
  const taps = kernel.shape[2] as number;
  return [
    byPlace(input.shape, ([row = 0, channel = 0]) => {
      let total = bias?.values[channel] ?? 0;
      for (let before = 0; before < taps && before <= row % tokens; before++)
        total +=
          (kernel.values[channel * taps + taps - 1 - before] as number) *
          (input.values[(row - before) * (input.shape[1] as number) + channel] as number);
      return total;
    }),
  ];
};

type StateStep = (state: Float64Array[], k: Float64Array, v: Float64Array, row: number, head: number) => void;

/**
 * A head's tokens one by one; its state [d, e] is changed by `step`, then read by the query. Also what the state is after
 * each sequence, [sequences, heads, d, e].
 * @param before what it is before each
 */
function recur(
  [query, key, value]: readonly Tensor[],
  { heads, keyHeads }: LinearAttentionStepAttributes,
  tokens: number,
  step: StateStep,
  before?: Tensor,
): readonly [Tensor, Tensor] {
  const [q, k, v] = [query as Tensor, key as Tensor, value as Tensor];
  const [rows, d, e] = [q.shape[0] as number, (q.shape[1] as number) / keyHeads, (v.shape[1] as number) / heads];
  const values = new Float64Array(rows * heads * e);
  const after = Float64Array.from(before?.values ?? new Float64Array((rows / tokens) * heads * d * e));
  for (let head = 0; head < heads; head++) {
    const group = Math.floor(head / (heads / keyHeads));
    for (let row = 0; row < rows; row++) {
      const start = (Math.floor(row / tokens) * heads + head) * d * e;
      const state = Array.from({ length: d }, (_, i) => after.subarray(start + i * e, start + (i + 1) * e));
      const at = ({ values: all }: Tensor, place: number, width: number): Float64Array =>
        all.subarray(place * width, (place + 1) * width);
      step(state, at(k, row * keyHeads + group, d), at(v, row * heads + head, e), row, head);
      const read = at(q, row * keyHeads + group, d);
      for (let j = 0; j < e; j++)
        values[(row * heads + head) * e + j] = sum(state.map((line, i) => (line[j] as number) * (read[i] as number)));
    }
  }
  return [
    { shape: [rows, heads * e], values },
    { shape: [rows / tokens, heads, d, e], values: after },
  ];
}

function deltaStep(inputs: readonly Tensor[], heads: number): StateStep {
  const [gates, betas] = [inputs[3] as Tensor, inputs[4] as Tensor];
  return (state, k, v, row, head) => {
    const left = Math.exp(gates.values[row * heads + head] as number);
    const beta = betas.values[row * heads + head] as number;
    for (const line of state) line.forEach((entry, j) => (line[j] = entry * left));
    const known = v.map((_, j) => sum(state.map((line, i) => (line[j] as number) * (k[i] as number))));
    state.forEach((line, i) =>
      line.forEach((_, j) => {
        line[j] += (k[i] as number) * beta * ((v[j] as number) - (known[j] as number));
      }),
    );
  };
}

function fadingStep(slopes: Tensor): StateStep {
  return (state, k, v, _row, head) => {
    const left = Math.exp(-(slopes.values[head] as number));
    state.forEach((line, i) =>
      line.forEach((entry, j) => (line[j] = entry * left + (k[i] as number) * (v[j] as number))),
    );
  };
}

const deltaRule: Rule<"deltaRule"> = (inputs, attributes, size) => {
  const [output] = recur(inputs, attributes, size(attributes.tokens), deltaStep(inputs, attributes.heads));
  return [output];
};

const fadingAttention: Rule<"fadingAttention"> = (inputs, attributes, size) => {
  const [output] = recur(inputs, attributes, size(attributes.tokens), fadingStep(inputs[3] as Tensor));
  return [output];
};

const deltaRuleStep: Rule<"deltaRuleStep"> = (inputs, attributes) =>
  recur(inputs, attributes, 1, deltaStep(inputs, attributes.heads), inputs[5]);

const fadingAttentionStep: Rule<"fadingAttentionStep"> = (inputs, attributes) =>
  recur(inputs, attributes, 1, fadingStep(inputs[3] as Tensor), inputs[4]);

const convolutionStep: Rule<"convolutionStep"> = ([x, weight, before, bias]) => {
  const [input, kernel, past] = [x as Tensor, weight as Tensor, before as Tensor];
  const [channels, taps] = [input.shape[1] as number, kernel.shape[2] as number];
  const at = (row: number, token: number, channel: number): number =>
    (token === taps - 1
      ? input.values[row * channels + channel]
      : past.values[(row * (taps - 1) + token) * channels + channel]) as number;
  return [
    byPlace(input.shape, ([row = 0, channel = 0]) => {
      let total = bias?.values[channel] ?? 0;
      for (let token = 0; token < taps; token++)
        total += (kernel.values[channel * taps + token] as number) * at(row, token, channel);
      return total;
    }),
    byPlace(past.shape, ([row = 0, token = 0, channel = 0]) => at(row, token + 1, channel)),
  ];
};

/** By forward substitution. */
const unitTriangularInverse: Rule<"unitTriangularInverse"> = ([x]) => {
  const { shape, values } = x as Tensor;
  const size = shape.at(-1) as number;
  const inverse = new Float64Array(values.length);
  for (let first = 0; first < values.length; first += size * size)
    for (let row = 0; row < size; row++)
      for (let column = 0; column <= row; column++) {
        let entry = row === column ? 1 : 0;
        for (let k = column; k < row; k++)
          entry -= (values[first + row * size + k] as number) * (inverse[first + k * size + column] as number);
        inverse[first + row * size + column] = entry;
      }
  return [{ shape, values: inverse }];
};

const router: Rule<"router"> = (
  inputs,
  { chosen, isRenormalized, scale = 1, scores = "softmax", limit, hasBias = false },
) => {
  const [x, weight] = inputs as [Tensor, Tensor];
  const [bias, correction] = hasBias ? [inputs[2], inputs[3]] : [undefined, inputs[2]];
  const chosenOf = (unbiased: readonly number[]): { readonly places: number[]; readonly shares: number[] } => {
    const logits = unbiased.map((logit, expert) => logit + (bias?.values[expert] ?? 0));
    const weights = scores === "softmax" ? softmax(logits) : logits.map(sigmoid);
    const corrected = weights.map((each, expert) => each + (correction?.values[expert] ?? 0));
    const perGroup = limit === undefined ? 0 : corrected.length / limit.groups;
    const groups = Array.from({ length: limit?.groups ?? 0 }, (_, group) => {
      const [first = 0, second = 0] = corrected
        .slice(group * perGroup, (group + 1) * perGroup)
        .toSorted((a, b) => b - a);
      return limit?.by === "best-two" ? first + second : first;
    });
    const kept = limit === undefined ? [] : best(groups, limit.kept);
    const eligible = corrected.map((score, expert) =>
      limit === undefined || kept.includes(Math.floor(expert / perGroup)) ? score : -Infinity,
    );
    const places = best(eligible, chosen);
    const shares = places.map((place) => weights[place] as number);
    const total = isRenormalized ? sum(shares) : 1;
    return { places, shares: shares.map((share) => (share / total) * scale) };
  };
  const logits = multiply(x, weight, true);
  return [byRow(logits, (row) => chosenOf(row).places, chosen), byRow(logits, (row) => chosenOf(row).shares, chosen)];
};

const sparseMixer: Rule<"sparseMixer"> = (inputs, { margin }) => {
  const [x, weight] = inputs as [Tensor, Tensor];
  const chosenOf = (logits: readonly number[]): { readonly places: number[]; readonly shares: number[] } => {
    const places: number[] = [];
    const shares = [0, 1].map(() => {
      const left = logits.map((logit, expert) => (places.includes(expert) ? -Infinity : logit));
      const place = best(left, 1)[0] as number;
      const top = logits[place] as number;
      const near = left.map((logit) => ((top - logit) / Math.max(Math.abs(logit), top) > margin ? -Infinity : logit));
      places.push(place);
      return softmax(near)[place] as number;
    });
    return { places, shares };
  };
  const logits = multiply(x, weight, true);
  return [byRow(logits, (row) => chosenOf(row).places, 2), byRow(logits, (row) => chosenOf(row).shares, 2)];
};

const experts: Rule<"experts"> = (inputs, attributes) => {
  const { layout, hasSum, taps, activation, isRoutingBypassed = false, isInputScaled = false } = attributes;
  const [x, chosen, weights] = inputs as [Tensor, Tensor, Tensor];
  const matrices = inputs.slice(hasSum ? 4 : 3);
  const rows = x.shape[0] as number;
  const perToken = chosen.shape[1] as number;
  const slab = (stack: Tensor, expert: number): Tensor => {
    const size = sizeOf(stack.shape.slice(1));
    const matrix = { shape: stack.shape.slice(1), values: stack.values.slice(expert * size, (expert + 1) * size) };
    return layout.kind === "stacked" && layout.inputAxis === 0 ? transposed(matrix) : matrix;
  };
  const matricesOf = (expert: number): [gate: Tensor, up: Tensor, down: Tensor] => {
    if (layout.kind === "separate") return matrices.slice(3 * expert, 3 * expert + 3) as [Tensor, Tensor, Tensor];
    const [gateUp, down] = matrices.slice(0, 2).map((stack) => slab(stack, expert)) as [Tensor, Tensor];
    const width = (gateUp.shape[0] as number) / 2;
    if (layout.isInterleaved === true) {
      const every = (first: number): Tensor =>
        rowsAt(
          gateUp,
          Array.from({ length: width }, (_, i) => 2 * i + first),
        );
      return [every(0), every(1), down];
    }
    return [part(gateUp, 0, 0, width), part(gateUp, 0, width, 2 * width), down];
  };
  /** A row of one of the stacks of biases, or zeros: of gate and up in the order of the matrices, or of down. */
  const biasOf = (expert: number, which: "gate" | "up" | "down"): ((i: number) => number) => {
    const stack = matrices[which === "down" ? 3 : 2];
    if (layout.kind === "separate" || layout.hasBias !== true || stack === undefined) return () => 0;
    const width = stack.shape[1] as number;
    const at = (i: number): number => stack.values[expert * width + i] as number;
    if (which === "down") return at;
    const second = which === "gate" ? 0 : 1;
    return (i) => at(layout.isInterleaved === true ? 2 * i + second : i + (second * width) / 2);
  };
  const biased = (x: Tensor, bias: (i: number) => number): Tensor => byRow(x, (row) => row.map((v, i) => v + bias(i)));
  const activatedOf = (input: Tensor, expert: number): Tensor => {
    const [gate, up] = matricesOf(expert);
    const left = biased(multiply(input, gate, true), biasOf(expert, "gate"));
    const right = biased(multiply(input, up, true), biasOf(expert, "up"));
    const gated = typeof activation === "string" ? gatedOf(activation) : clampedOf(activation);
    return { shape: left.shape, values: left.values.map((entry, i) => gated(entry, right.values[i] as number)) };
  };
  const shareOf = (row: number, expert: number): number => {
    const at = chosen.values.subarray(row * perToken, (row + 1) * perToken).indexOf(expert);
    return weights.values[row * perToken + at] as number;
  };
  /** What an expert reads of these rows. */
  const readBy = (expert: number, routed: readonly number[]): Tensor => {
    const read = rowsAt(x, routed);
    let place = 0;
    return isInputScaled
      ? byRow(read, (row) => {
          const share = shareOf(routed[place++] as number, expert);
          return row.map((entry) => entry * share);
        })
      : read;
  };
  const routedTo = (expert: number): number[] =>
    Array.from({ length: rows }, (_, row) => row).filter((row) =>
      chosen.values.subarray(row * perToken, (row + 1) * perToken).includes(expert),
    );
  const values = hasSum ? (inputs[3] as Tensor).values.slice() : new Float64Array(x.values.length);
  for (let expert = 0; expert < attributes.experts; expert++) {
    const routed = routedTo(expert);
    const product = multiply(activatedOf(readBy(expert, routed), expert), matricesOf(expert)[2], true);
    const output = biased(product, biasOf(expert, "down"));
    const width = x.shape[1] as number;
    routed.forEach((row, place) => {
      const share = isInputScaled ? 1 : shareOf(row, expert);
      for (let i = 0; i < width; i++) values[row * width + i] += share * (output.values[place * width + i] as number);
    });
  }
  const everyRow = (expert: number): Tensor => {
    if (!isInputScaled) return x;
    const all = inputs.at(-1) as Tensor;
    return byPlace(x.shape, ([row = 0, column = 0]) => {
      const share = all.values[row * attributes.experts + expert] as number;
      return share * (x.values[row * (x.shape[1] as number) + column] as number);
    });
  };
  const tapped = taps.map(({ expert, at }) => {
    const input = isRoutingBypassed ? everyRow(expert) : readBy(expert, routedTo(expert));
    return at === "input" ? input : activatedOf(input, expert);
  });
  return [{ shape: x.shape, values }, ...tapped];
};

/** All experts, of which the others get no rows. */
const expert: Rule<"expert"> = (inputs, { expert: own, ...attributes }, size) => {
  const [total, x, chosen, weights, ...matrices] = inputs as [Tensor, Tensor, Tensor, Tensor, ...Tensor[]];
  const isStacked = attributes.layout.kind === "stacked";
  const chosenHere = {
    shape: chosen.shape,
    values: chosen.values.map((each) => (each === own ? (isStacked ? own : 0) : -1)),
  };
  const count = isStacked ? own + 1 : 1;
  return experts(
    [x, chosenHere, weights, total, ...matrices],
    { ...attributes, experts: count, hasSum: true, taps: [] },
    size,
  );
};

const RULES: { readonly [Name in OperatorName]: Rule<Name> } = {
  add: each((a = 0, b = 0) => a + b),
  subtract: each((a = 0, b = 0) => a - b),
  multiply: each((a = 0, b = 0) => a * b),
  divide: each((a = 0, b = 0) => a / b),
  equal: each((a, b) => Number(a === b)),
  lessOrEqual: each((a = 0, b = 0) => Number(a <= b)),
  where: each((condition, a = 0, b = 0) => (condition === 1 ? a : b)),
  exp: each((x = 0) => Math.exp(x)),
  log: each((x = 0) => Math.log(x)),
  sqrt: each((x = 0) => Math.sqrt(x)),
  tanh: each((x = 0) => Math.tanh(x)),
  erf: each((x = 0) => erf(x)),
  sigmoid: each((x = 0) => sigmoid(x)),
  relu: each((x = 0) => ACTIVATIONS.relu(x)),
  silu: each((x = 0) => ACTIVATIONS.silu(x)),
  gelu: (inputs, { form }) =>
    each((x = 0) => ACTIVATIONS[form === "erf" ? "gelu" : "gelu-tanh"](x))(inputs, {}, Number),
  gatedActivation: (inputs, { activation }) =>
    each((gate = 0, up = 0) => gatedOf(activation)(gate, up))(inputs, {}, Number),
  clampedGate: (inputs, attributes) => each((gate = 0, up = 0) => clampedOf(attributes)(gate, up))(inputs, {}, Number),
  softmax: ([x]) => [byRow(x as Tensor, softmax)],
  reduceSum: reduce(sum),
  reduceMean: reduce(mean),
  reduceMax: reduce(largest),
  sumSquares: reduce((entries) => sum(entries.map((entry) => entry ** 2))),
  logSumExp: reduce((entries) => {
    const top = largest(entries);
    return top + Math.log(sum(entries.map((entry) => Math.exp(entry - top))));
  }),
  argMax: (inputs, { axis }) =>
    reduce((entries) => entries.indexOf(largest(entries)))(inputs, { axes: [axis] }, Number),
  topK: ([x], { count }) => [
    byRow(x as Tensor, (row) => best(row, count).map((place) => row[place] as number), count),
    byRow(x as Tensor, (row) => best(row, count), count),
  ],
  gemm([a, b, c], { transposeA = false, transposeB = false, alpha = 1 }) {
    const product = multiply(transposeA ? transposed(a as Tensor) : (a as Tensor), b as Tensor, transposeB);
    if (c === undefined && alpha === 1) return [product];
    return [
      byPlace(
        product.shape,
        (place) => alpha * stretched(product, place) + (c === undefined ? 0 : stretched(c, place)),
      ),
    ];
  },
  matmul(inputs) {
    const [a, b] = inputs as [Tensor, Tensor];
    const front = commonShape(
      { shape: a.shape.slice(0, -2), values: new Float64Array() },
      { shape: b.shape.slice(0, -2), values: new Float64Array() },
    );
    const [m, k, n] = [a.shape.at(-2), a.shape.at(-1), b.shape.at(-1)] as [number, number, number];
    const matrixAt = ({ shape, values }: Tensor, place: readonly number[], size: readonly number[]): Tensor => {
      const starts = tensor(shape.slice(0, -2), (index) => index * sizeOf(size));
      const start = stretched(starts, place);
      return { shape: size, values: values.subarray(start, start + sizeOf(size)) };
    };
    const products = Array.from({ length: sizeOf(front) }, (_, index) => {
      const place = placeOf(index, front);
      return multiply(matrixAt(a, place, [m, k]), matrixAt(b, place, [k, n])).values;
    });
    const values = new Float64Array(sizeOf(front) * m * n);
    products.forEach((each, index) => values.set(each, index * m * n));
    return [{ shape: [...front, m, n], values }];
  },
  cast: ([x], { to }) => [
    to === "i64" ? { ...(x as Tensor), values: (x as Tensor).values.map(Math.trunc) } : (x as Tensor),
  ],
  nonZero([x]) {
    const { shape, values } = x as Tensor;
    const places = [...values].flatMap((value, index) => (value === 0 ? [] : [placeOf(index, shape)]));
    return [byPlace([shape.length, places.length], ([axis = 0, n = 0]) => places[n]?.[axis] as number)];
  },
  iota: (_, { length }, size) => [tensor([size(length)], (index) => index)],
  fill: (_, { shape, value }, size) => [tensor(shape.map(size), () => value)],
  size: ([x], { axis }) => [tensor([1], () => (x as Tensor).shape[axis] as number)],
  reshape: ([x], { shape }, size) => [{ shape: shape.map(size), values: (x as Tensor).values }],
  transpose([x], { order }) {
    const input = x as Tensor;
    return [
      byPlace(
        order.map((axis) => input.shape[axis] as number),
        (place) => {
          const from = [...place];
          order.forEach((axis, index) => (from[axis] = place[index] as number));
          return input.values[indexOf(from, input.shape)] as number;
        },
      ),
    ];
  },
  expand: ([x], { shape }, size) => [byPlace(shape.map(size), (place) => stretched(x as Tensor, place))],
  slice: ([x], { axis, start, end }) => [part(x as Tensor, axis, start, end)],
  split([x], { axis, sizes }) {
    let start = 0;
    return sizes.map((count) => part(x as Tensor, axis, start, (start += count)));
  },
  concat(inputs, { axis }) {
    const total = sum(inputs.map(({ shape }) => shape[axis] as number));
    const shape = (inputs[0] as Tensor).shape.map((size, index) => (index === axis ? total : size));
    return [
      byPlace(shape, (place) => {
        let at = place[axis] as number;
        const input = inputs.find((each) => {
          if (at < (each.shape[axis] as number)) return true;
          at -= each.shape[axis] as number;
          return false;
        }) as Tensor;
        const from = place.map((where, index) => (index === axis ? at : where));
        return input.values[indexOf(from, input.shape)] as number;
      }),
    ];
  },
  pad([x], { axis, after }) {
    const { shape, values } = x as Tensor;
    const padded = shape.map((size, index) => (index === axis ? size + after : size));
    return [
      byPlace(padded, (place) =>
        (place[axis] as number) < (shape[axis] as number) ? (values[indexOf(place, shape)] as number) : 0,
      ),
    ];
  },
  shift([x], { axis, by }) {
    const { shape, values } = x as Tensor;
    return [
      byPlace(shape, (place) => {
        const from = place.map((at, index) => (index === axis ? at - by : at));
        const isInside = (from[axis] as number) >= 0 && (from[axis] as number) < (shape[axis] as number);
        return isInside ? (values[indexOf(from, shape)] as number) : 0;
      }),
    ];
  },
  cut([x], { size }) {
    const { shape, values } = x as Tensor;
    const pieces = Math.ceil((shape[0] as number) / size);
    const filled = new Float64Array(pieces * size * sizeOf(shape.slice(1)));
    filled.set(values);
    return [{ shape: [pieces, size, ...shape.slice(1)], values: filled }];
  },
  join([x], { length }, size) {
    const { shape, values } = x as Tensor;
    const joined = [size(length), ...shape.slice(2)];
    return [{ shape: joined, values: values.slice(0, sizeOf(joined)) }];
  },
  scan([factor, added], { isReversed = false }) {
    const [factors, { shape, values }] = [factor as Tensor, added as Tensor];
    const [pieces, rows] = [shape[0], shape.at(-2)] as [number, number];
    const isMatrix = factors.shape.at(-1) === rows;
    const entered = new Float64Array(values.length);
    const order = Array.from({ length: pieces }, (_, step) => (isReversed ? pieces - 1 - step : step));
    order.slice(1).forEach((piece, step) => {
      const before = order[step] as number;
      const stateAt = (place: readonly number[]): number =>
        entered[indexOf([before, ...place.slice(1)], shape)] as number;
      for (let index = 0; index < values.length / pieces; index++) {
        const place = [before, ...placeOf(index, shape.slice(1))];
        const [outer, row, column] = [place.slice(0, -2), place.at(-2) as number, place.at(-1) as number];
        const kept = isMatrix
          ? sum(
              Array.from(
                { length: rows },
                (_, k) => stretched(factors, [...outer, row, k]) * stateAt([...outer, k, column]),
              ),
            )
          : stretched(factors, [...outer, 0, 0]) * stateAt(place);
        entered[indexOf([piece, ...place.slice(1)], shape)] = kept + (values[indexOf(place, shape)] as number);
      }
    });
    return [{ shape, values: entered }];
  },
  gather([table, indices]) {
    const [from, at] = [table as Tensor, indices as Tensor];
    const { values } = rowsAt(from, [...at.values]);
    return [{ shape: [...at.shape, ...from.shape.slice(1)], values }];
  },
  gatherAlong([x, indices], { axis }) {
    const [input, at] = [x as Tensor, indices as Tensor];
    return [
      byPlace(at.shape, (place) => {
        const from = place.map((where, index) => (index === axis ? stretched(at, place) : where));
        return input.values[indexOf(from, input.shape)] as number;
      }),
    ];
  },
  gatherPoints([x, points]) {
    const [input, at] = [x as Tensor, points as Tensor];
    const rank = input.shape.length;
    return [
      tensor([at.shape[0] as number], (row) => {
        const place = [...at.values.subarray(row * rank, (row + 1) * rank)];
        return input.values[indexOf(place, input.shape)] as number;
      }),
    ];
  },
  scatterAlong([x, indices, updates], { axis, adds = false }) {
    const [input, at] = [x as Tensor, indices as Tensor];
    const values = input.values.slice();
    at.values.forEach((where, index) => {
      const place = placeOf(index, at.shape);
      const to = place.map((each, other) => (other === axis ? where : each));
      const update = stretched(updates as Tensor, place);
      values[indexOf(to, input.shape)] = adds ? (values[indexOf(to, input.shape)] as number) + update : update;
    });
    return [{ shape: input.shape, values }];
  },
  scatterAdd([x, indices, updates]) {
    const [input, at, added] = [x as Tensor, indices as Tensor, updates as Tensor];
    const width = sizeOf(input.shape.slice(1));
    const values = input.values.slice();
    at.values.forEach((row, place) => {
      for (let i = 0; i < width; i++) values[row * width + i] += added.values[place * width + i] as number;
    });
    return [{ shape: input.shape, values }];
  },
  rmsNorm: norm(false),
  layerNorm: norm(true),
  rotary,
  attention,
  attentionByHead: attention,
  sinkAttention,
  attentionGradient,
  sinkAttentionGradient,
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
  gram([x], { panels }) {
    const input = x as Tensor;
    const columns = (start: number, end: number): Tensor => part(input, 1, start, end);
    return panels.map(({ first, end }) => multiply(transposed(columns(first, end)), columns(0, end)));
  },
  moments([x], { tokens }, size) {
    const { shape, values } = x as Tensor;
    const [rows, width] = shape as [number, number];
    const length = tokens === undefined ? rows : size(tokens);
    const [sums, squaredDeviations] = [new Float64Array(width), new Float64Array(width)];
    for (let column = 0; column < width; column++) {
      for (let first = 0; first < rows; first += length) {
        const entries = Array.from({ length }, (_, row) => values[(first + row) * width + column] as number);
        sums[column] += sum(entries);
        squaredDeviations[column] += sum(entries.map((entry) => (entry - mean(entries)) ** 2));
      }
    }
    return [sums, squaredDeviations].map((each) => ({ shape: [width], values: each }));
  },
};
