/**
 * Our graphs as ONNX models: the one file that knows ONNX's operators by name. Operators without an entry in `RULES`
 * must have been decomposed before.
 *
 * ONNX's attention and rotary operators take [sequences, tokens, features] where our values are [rows, features], so
 * such values have two forms here, and one is made of the other only where somebody reads it. A reshape moves nothing.
 */
import { InternalError } from "../errors.js";
import { evaluate, isSameShape, product, quotient, symbolsOf, type Dim, type Shape } from "../graph/dimensions.js";
import type { DataType, Graph, Node, NodeOf, Value } from "../graph/graph.js";
import type { OperatorName } from "../graph/operators.js";
import type { ReductionAttributes } from "../graph/primitives.js";
import {
  ELEMENT_TYPES,
  encodeModel,
  type AttributeValue,
  type ConstantRecord,
  type ElementType,
  type GraphRecord,
  type NodeRecord,
  type ValueRecord,
} from "./protobuf.js";

export interface EncodedGraph {
  readonly model: Uint8Array;
  /** Names in the model by names in the graph. */
  readonly inputs: ReadonlyMap<string, string>;
  readonly outputs: ReadonlyMap<string, string>;
  /** As the graph's. */
  readonly isOrdered?: boolean;
}

const MICROSOFT = "com.microsoft";

const TYPES: Readonly<Record<DataType, ElementType>> = { f32: "float32", f64: "float64", i64: "int64", bool: "bool" };

/** Attributes as plain numbers are integers; floats are written `{ float: x }`. */
type Attributes = Readonly<
  Record<string, number | string | readonly number[] | { readonly float: number } | { readonly graph: GraphRecord }>
>;

type Rule<Name extends OperatorName> = (encoder: Encoder, node: NodeOf<Name>) => void;

/** An operator that ONNX has, with the same inputs in the same order. */
function plain<Name extends OperatorName>(
  operator: string,
  attributesOf: (attributes: NodeOf<Name>["attributes"]) => Attributes = () => ({}),
  domain = "",
): Rule<Name> {
  return (encoder, node) =>
    encoder.write(
      operator,
      node.inputs.map((value) => encoder.read(value)),
      node.outputs,
      attributesOf(node.attributes),
      { domain },
    );
}

/** A reduction, which takes its axes as an input. */
function reduce(operator: string) {
  return (encoder: Encoder, node: Pick<Node, "inputs" | "outputs"> & { readonly attributes: ReductionAttributes }) => {
    const { axes, keepsAxes = false } = node.attributes;
    const inputs = [encoder.read(node.inputs[0]), encoder.integers(axes)];
    encoder.write(operator, inputs, node.outputs, { keepdims: Number(keepsAxes) });
  };
}

const RULES: { readonly [Name in OperatorName]?: Rule<Name> } = {
  add: plain("Add"),
  subtract: plain("Sub"),
  multiply: plain("Mul"),
  divide: plain("Div"),
  equal: plain("Equal"),
  lessOrEqual: plain("LessOrEqual"),
  exp: plain("Exp"),
  log: plain("Log"),
  sqrt: plain("Sqrt"),
  tanh: plain("Tanh"),
  erf: plain("Erf"),
  sigmoid: plain("Sigmoid"),
  relu: plain("Relu"),
  silu: plain("QuickGelu", () => ({ alpha: { float: 1 } }), MICROSOFT),
  gelu: plain("Gelu", ({ form }) => ({ approximate: form === "erf" ? "none" : "tanh" })),
  softmax: plain("Softmax", () => ({ axis: -1 })),
  reduceSum: reduce("ReduceSum"),
  reduceMax: reduce("ReduceMax"),
  reduceMean: reduce("ReduceMean"),
  logSumExp: reduce("ReduceLogSumExp"),
  sumSquares: reduce("ReduceSumSquare"),
  argMax: plain("ArgMax", ({ axis }) => ({ axis, keepdims: 0 })),
  gemm: plain("Gemm", ({ transposeA, transposeB, alpha }) => ({
    ...(transposeA === true ? { transA: 1 } : {}),
    ...(transposeB === true ? { transB: 1 } : {}),
    ...(alpha === undefined ? {} : { alpha: { float: alpha } }),
  })),
  matmul: plain("MatMul"),
  cast: plain("Cast", ({ to }) => ({ to: ELEMENT_TYPES[TYPES[to]] })),
  where: plain("Where"),
  nonZero: plain("NonZero"),
  transpose: plain("Transpose", ({ order }) => ({ perm: order })),
  concat: plain("Concat", ({ axis }) => ({ axis })),
  gather: plain("Gather", () => ({ axis: 0 })),
  gatherAlong: plain("GatherElements", ({ axis }) => ({ axis })),
  gatherPoints: plain("GatherND"),
  scatterAlong: plain("ScatterElements", ({ axis, adds = false }) => ({ axis, ...(adds ? { reduction: "add" } : {}) })),
  rmsNorm: plain("RMSNormalization", ({ epsilon }) => ({ axis: -1, epsilon: { float: epsilon } })),
  layerNorm: plain("LayerNormalization", ({ epsilon }) => ({ axis: -1, epsilon: { float: epsilon } })),

  topK(encoder, { inputs, outputs, attributes: { count } }) {
    encoder.write("TopK", [encoder.read(inputs[0]), encoder.integers([count])], outputs);
  },
  iota(encoder, { outputs, attributes: { length } }) {
    const end = encoder.node("Reshape", [encoder.sizes([length]), encoder.integers([])]);
    encoder.write("Range", [encoder.integer(0), end, encoder.integer(1)], outputs);
  },
  fill(encoder, { outputs, attributes: { shape, value } }) {
    if (value === 0) encoder.write("ConstantOfShape", [encoder.sizes(shape)], outputs);
    else encoder.write("Expand", [encoder.float(value), encoder.sizes(shape)], outputs);
  },
  size(encoder, { inputs, outputs, attributes: { axis } }) {
    const sizes = encoder.node("Shape", [encoder.read(inputs[0])], { start: axis, end: axis + 1 });
    encoder.write("Cast", [sizes], outputs, { to: ELEMENT_TYPES.float32 });
  },
  reshape(encoder, { inputs, outputs, attributes: { shape } }) {
    const isEmpty = shape.includes(0);
    const sizes = isEmpty ? encoder.sizes(shape) : encoder.sizes(shape, { isFirstInferred: true });
    encoder.write("Reshape", [encoder.read(inputs[0]), sizes], outputs, isEmpty ? { allowzero: 1 } : {});
  },
  expand(encoder, { inputs, outputs, attributes: { shape } }) {
    const input = inputs[0] as Value;
    const before = shape.map((_, axis) => input.shape.at(axis - shape.length));
    const sizes = encoder.sizes(shape.map((dim, axis) => (dim === before[axis] ? 1 : dim)));
    encoder.write("Expand", [encoder.read(input), sizes], outputs);
  },
  slice(encoder, { inputs, outputs, attributes: { axis, start, end } }) {
    const range = [[start], [end], [axis]].map((entry) => encoder.integers(entry));
    encoder.write("Slice", [encoder.read(inputs[0]), ...range], outputs);
  },
  split(encoder, { inputs, outputs, attributes: { axis, sizes } }) {
    encoder.write("Split", [encoder.read(inputs[0]), encoder.integers(sizes)], outputs, { axis });
  },
  pad(encoder, { inputs, outputs, attributes: { axis, after } }) {
    const rank = inputs[0]?.shape.length ?? 0;
    const pads = Array.from({ length: 2 * rank }, (_, place) => (place === rank + axis ? after : 0));
    encoder.write("Pad", [encoder.read(inputs[0]), encoder.integers(pads)], outputs);
  },
  shift(encoder, { inputs, outputs, attributes: { axis, by } }) {
    const input = inputs[0] as Value;
    const moved = encoder.read(input);
    const length = encoder.node("Shape", [moved], { start: axis, end: axis + 1 });
    const count = encoder.node("Min", [length, encoder.integers([Math.abs(by)])]); // no more zeros than there is room for
    const around = [input.shape.slice(0, axis), input.shape.slice(axis + 1)].map((shape) => encoder.sizes(shape));
    const zeros = encoder.node("ConstantOfShape", [
      encoder.node("Concat", [around[0] as string, count, around[1] as string], { axis: 0 }),
    ]);
    const longer = encoder.node("Concat", by > 0 ? [zeros, moved] : [moved, zeros], { axis });
    const range = by > 0 ? [encoder.integers([0]), length] : [count, encoder.integers([Number.MAX_SAFE_INTEGER])];
    encoder.write("Slice", [longer, ...range, encoder.integers([axis])], outputs);
  },
  cut(encoder, { inputs, outputs, attributes: { size } }) {
    const [input, output] = [inputs[0] as Value, outputs[0] as Value];
    const zeros = (count: number): string => encoder.integers(new Array<number>(count).fill(0));
    const length = encoder.node("Shape", [encoder.read(input)], { start: 0, end: 1 });
    const missing = encoder.node("Mod", [encoder.node("Neg", [length]), encoder.integers([size])]);
    const rank = input.shape.length;
    const pads = encoder.node("Concat", [zeros(rank), missing, ...(rank > 1 ? [zeros(rank - 1)] : [])], { axis: 0 });
    const padded = encoder.node("Pad", [encoder.read(input), pads]);
    encoder.write("Reshape", [padded, encoder.sizes(output.shape, { isFirstInferred: true })], outputs);
  },
  join(encoder, { inputs, outputs, attributes: { length } }) {
    const input = inputs[0] as Value;
    const [pieces, size, ...rest] = input.shape as readonly [Dim, Dim, ...Dim[]];
    const sizes = encoder.sizes([product(pieces, size), ...rest], { isFirstInferred: true });
    const whole = encoder.node("Reshape", [encoder.read(input), sizes]);
    encoder.write("Slice", [whole, encoder.integers([0]), encoder.sizes([length]), encoder.integers([0])], outputs);
  },
  scan(encoder, { inputs, outputs, attributes: { isReversed = false } }) {
    const [factor, added] = inputs as [Value, Value];
    const zeros = encoder.node("ConstantOfShape", [encoder.sizes(added.shape.slice(1))]);
    const isForAll = factor.shape[0] === 1; // then it is handed on from piece to piece
    const own = isForAll
      ? encoder.node("Reshape", [encoder.read(factor), encoder.sizes(factor.shape.slice(1))])
      : encoder.read(factor);
    const scanned = isForAll ? 1 : 2;
    const direction = Number(isReversed);
    encoder.write(
      "Scan",
      [zeros, own, encoder.read(added)],
      outputs,
      {
        body: { graph: scanBody(factor, added) },
        num_scan_inputs: scanned,
        scan_input_directions: new Array<number>(scanned).fill(direction),
        scan_output_directions: [direction],
      },
      { skipped: 3 - scanned },
    );
  },
  scatterAdd(encoder, { inputs, outputs, attributes: { areRowsDistinct = false } }) {
    const [sum, rows, updates] = inputs as [Value, Value, Value];
    if (areRowsDistinct) {
      const points = encoder.node("Unsqueeze", [encoder.read(rows), encoder.integers([-1])]);
      const operands = [encoder.read(sum), points, encoder.read(updates)];
      encoder.write("ScatterND", operands, outputs, { reduction: "add" });
      return;
    }
    // ScatterND adds with all threads at once and loses updates to the same row; ScatterElements goes one by one.
    const rest = sum.shape.slice(1);
    const count = product(...rows.shape);
    const reshaped = (value: Value, shape: Shape): string =>
      isSameShape(value.shape, shape)
        ? encoder.read(value)
        : encoder.node("Reshape", [encoder.read(value), encoder.sizes(shape, { isFirstInferred: true })]);
    const spread = reshaped(updates, [count, ...rest]);
    const column = reshaped(rows, [count, ...rest.map(() => 1)]);
    const indices = encoder.node("Expand", [column, encoder.node("Shape", [spread])]);
    encoder.write("ScatterElements", [encoder.read(sum), indices, spread], outputs, { axis: 0, reduction: "add" });
  },
  rotary(encoder, { inputs, outputs, attributes: { heads, dimensions, isInterleaved = false } }) {
    const [states, cos, sin, positions] = inputs as [Value, Value, Value, Value];
    const tokens = positions.shape[1] as Dim;
    const isWhole = dimensions * heads === states.shape[1];
    encoder.writeSequences(
      "RotaryEmbedding",
      [encoder.readSequences(states, tokens), ...[cos, sin, positions].map((value) => encoder.read(value))],
      { value: outputs[0] as Value, tokens },
      {
        interleaved: Number(isInterleaved),
        ...(isWhole ? {} : { rotary_embedding_dim: dimensions }),
        num_heads: heads,
      },
    );
  },
  attention(encoder, { inputs, outputs, attributes }) {
    const { heads, keyValueHeads, tokens, scale, isCausal, softcap } = attributes;
    const operands = inputs.map((value, index) =>
      index < 3 ? encoder.readSequences(value, tokens) : encoder.read(value),
    );
    encoder.writeSequences(
      "Attention",
      operands,
      { value: outputs[0] as Value, tokens },
      {
        q_num_heads: heads,
        kv_num_heads: keyValueHeads,
        is_causal: Number(isCausal),
        scale: { float: scale },
        ...(softcap === undefined ? {} : { softcap: { float: softcap } }),
      },
    );
  },
};

/** Whether an operator can be written as ONNX nodes without decomposing it. */
export function canEncode(operator: OperatorName): boolean {
  return RULES[operator] !== undefined;
}

/** @throws InternalError E_OPERATOR where a node's operator cannot be encoded */
export function encodeGraph(graph: Graph): EncodedGraph {
  const encoder = new Encoder(graph);
  for (const node of graph.nodes) {
    encodeNode(encoder, node);
    if (graph.isOrdered === true && !MOVING.has(node.operator)) encoder.pin(node.outputs[0] as Value);
  }
  return encoder.finish();
}

/** Operators that only move data: products may take the place of some of them, and all can wait until they are needed. */
const MOVING: ReadonlySet<OperatorName> = new Set(["reshape", "transpose", "split", "slice", "expand", "fill", "iota"]);

function encodeNode(encoder: Encoder, node: Node): void {
  const rule = RULES[node.operator] as ((encoder: Encoder, node: Node) => void) | undefined;
  if (rule === undefined) throw new InternalError("E_OPERATOR", `the ONNX encoder has no operator "${node.operator}"`);
  rule(encoder, node);
}

class Encoder {
  readonly #graph: Graph;
  readonly #nodes: NodeRecord[] = [];
  readonly #constants: ConstantRecord[] = [];
  /** Shapes of what nodes make: where two are the same for every run, the runtime may use one's memory for the other. */
  readonly #values: ValueRecord[] = [];
  readonly #shared = new Map<string, string>();
  /** Names of values as they are, by id. */
  readonly #names = new Map<number, string>();
  /** Names of values as [sequences, tokens, features]. */
  readonly #sequences = new Map<number, { readonly name: string; readonly tokens: Dim }>();
  /** Where a size that only a run knows can be read. */
  readonly #sources = new Map<Dim, { readonly name: string; readonly axis: number }>();
  /** Results that nobody asks for, see `pin`. */
  readonly #pins: ValueRecord[] = [];
  /** Names that outputs of the graph are to have, by value; a value that is several outputs has its first one's. */
  readonly #wanted = new Map<number, string>();

  constructor(graph: Graph) {
    this.#graph = graph;
    for (const { name, value } of graph.inputs) this.#know(value, `in.${name}`);
    for (const { value, values } of graph.constants) {
      const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
      this.#know(value, this.#constant(TYPES[value.dtype], value.shape as readonly number[], bytes));
    }
    for (const { name, value } of graph.outputs)
      if (!this.#wanted.has(value.id)) this.#wanted.set(value.id, `out.${name}`);
  }

  /** The name of a value in its own shape. */
  read(value: Value | undefined): string {
    const known = value && this.#names.get(value.id);
    if (known !== undefined) return known;
    const sequences = value && this.#sequences.get(value.id);
    if (value === undefined || sequences === undefined)
      throw new InternalError("E_GRAPH", `graph ${this.#graph.name}: a node reads a value that nothing made`);
    this.write("Reshape", [sequences.name, this.integers([-1, value.shape[1] as number])], [value]);
    return this.read(value);
  }

  /** The name of a value [rows, features] as [sequences, tokens, features]. */
  readSequences(value: Value, tokens: Dim): string {
    const known = this.#sequences.get(value.id);
    if (known?.tokens === tokens) return known.name;
    const sizes = this.sizes(["sequences", tokens, value.shape[1] as Dim], { isFirstInferred: true });
    const name = this.node("Reshape", [this.read(value), sizes]);
    this.#knowSequences(value, tokens, name);
    return name;
  }

  /**
   * A node that makes values.
   * @param form `skipped`: how many results come before them that nobody reads
   */
  write(
    operator: string,
    inputs: readonly string[],
    outputs: readonly Value[],
    attributes: Attributes = {},
    { domain = "", skipped = 0 }: { readonly domain?: string; readonly skipped?: number } = {},
  ): void {
    const names = outputs.map(({ id }) => this.#wanted.get(id) ?? `value.${id}`);
    const unread = Array.from({ length: skipped }, (_, index) => `own.${this.#nodes.length}.${index}`);
    this.#push(operator, inputs, [...unread, ...names], attributes, domain);
    outputs.forEach((value, index) => {
      const name = names[index] as string;
      this.#know(value, name);
      if (!this.#wanted.has(value.id)) this.#values.push(recordOf(value, name));
    });
  }

  /** A node that makes a value [rows, features] as [sequences, tokens, features]. */
  writeSequences(
    operator: string,
    inputs: readonly string[],
    { value, tokens }: { readonly value: Value; readonly tokens: Dim },
    attributes: Attributes,
  ): void {
    this.#knowSequences(value, tokens, this.node(operator, inputs, attributes));
  }

  /** A node whose output is no value of the graph. */
  node(operator: string, inputs: readonly string[], attributes: Attributes = {}): string {
    const name = `own.${this.#nodes.length}`;
    this.#push(operator, inputs, [name], attributes, "");
    return name;
  }

  /**
   * Let a value be made before all that is pinned after it: its size becomes a result of the model, and results are made
   * in the order in which they were written, see `inOrderOfRun`.
   */
  pin(value: Value): void {
    const name = `pin.${this.#pins.length}`;
    this.#push("Shape", [this.#sequences.get(value.id)?.name ?? this.read(value)], [name], { start: 0, end: 1 }, "");
    this.#pins.push({ name, type: "int64", shape: [1] });
  }

  integers(values: readonly number[]): string {
    return this.#integers(values, [values.length]);
  }

  integer(value: number): string {
    return this.#integers([value], []);
  }

  float(value: number): string {
    return this.#constant("float32", [], new Uint8Array(Float32Array.of(value).buffer));
  }

  /**
   * Sizes as one vector of integers.
   * @param how with `isFirstInferred` the first size that only a run knows is left to the reader
   */
  sizes(shape: Shape, { isFirstInferred = false }: { readonly isFirstInferred?: boolean } = {}): string {
    const inferred = isFirstInferred ? shape.findIndex((dim) => typeof dim === "string") : -1;
    const pieces: (number[] | string)[] = [];
    shape.forEach((dim, axis) => {
      const known = axis === inferred ? -1 : dim;
      const last = pieces.at(-1);
      if (typeof known === "string") pieces.push(this.#size(known));
      else if (Array.isArray(last)) last.push(known);
      else pieces.push([known]);
    });
    const names = pieces.map((piece) => (typeof piece === "string" ? piece : this.integers(piece)));
    if (names.length === 0) return this.integers([]);
    if (names.length === 1) return names[0] as string;
    return this.#once(`sizes ${names.join(" ")}`, () => this.node("Concat", names, { axis: 0 }));
  }

  finish(): EncodedGraph {
    const inputs = this.#graph.inputs.map(({ name, value }) => recordOf(value, `in.${name}`));
    const outputs = this.#graph.outputs.map(({ name, value }) => {
      const [from, to] = [this.read(value), `out.${name}`];
      if (from !== to) this.#push("Identity", [from], [to], {}, "");
      return recordOf(value, to);
    });
    const names = (values: Graph["inputs"], prefix: string): Map<string, string> =>
      new Map(values.map(({ name }) => [name, `${prefix}.${name}`]));
    return {
      model: encodeModel({
        name: this.#graph.name,
        nodes: this.#graph.isOrdered === true ? inOrderOfRun(this.#nodes) : this.#nodes,
        inputs,
        outputs: [...outputs, ...this.#pins],
        values: this.#values,
        constants: this.#constants,
      }),
      inputs: names(this.#graph.inputs, "in"),
      outputs: names(this.#graph.outputs, "out"),
      ...(this.#graph.isOrdered === true ? { isOrdered: true } : {}),
    };
  }

  #know(value: Value, name: string): void {
    this.#names.set(value.id, name);
    value.shape.forEach((dim, axis) => {
      if (typeof dim === "string" && !this.#sources.has(dim)) this.#sources.set(dim, { name, axis });
    });
  }

  #knowSequences(value: Value, tokens: Dim, name: string): void {
    this.#sequences.set(value.id, { name, tokens });
    const [rows, features] = value.shape as readonly [Dim, Dim];
    const sequences = quotient(rows, tokens);
    if (sequences !== undefined) this.#values.push(recordOf({ ...value, shape: [sequences, tokens, features] }, name));
  }

  /** A size that only a run knows, [1]: read off a value that has it, or multiplied from its symbols. */
  #size(dim: string): string {
    return this.#once(`size ${dim}`, () => {
      const source = this.#sources.get(dim);
      if (source !== undefined) return this.node("Shape", [source.name], { start: source.axis, end: source.axis + 1 });
      const symbols = symbolsOf(dim);
      const factor = evaluate(dim, new Map(symbols.map((symbol) => [symbol, 1]))) ?? 1;
      if (symbols.length === 1 && factor === 1)
        throw new InternalError("E_GRAPH", `graph ${this.#graph.name}: nothing says what "${dim}" is`);
      const factors = [
        ...symbols.map((symbol) => this.#size(symbol)),
        ...(factor === 1 ? [] : [this.integers([factor])]),
      ];
      return factors.reduce((product, each) => this.node("Mul", [product, each]));
    });
  }

  #once(key: string, make: () => string): string {
    const known = this.#shared.get(key);
    if (known !== undefined) return known;
    const name = make();
    this.#shared.set(key, name);
    return name;
  }

  #integers(values: readonly number[], shape: readonly number[]): string {
    return this.#constant("int64", shape, new Uint8Array(BigInt64Array.from(values, BigInt).buffer));
  }

  #constant(type: ElementType, shape: readonly number[], bytes: Uint8Array): string {
    return this.#once(`${type} ${shape.join(",")} ${Buffer.from(bytes).toString("base64")}`, () => {
      const name = `constant.${this.#constants.length}`;
      this.#constants.push({ name, type, shape, bytes });
      return name;
    });
  }

  #push(
    operator: string,
    inputs: readonly string[],
    outputs: readonly string[],
    attributes: Attributes,
    domain: string,
  ): void {
    this.#nodes.push({
      name: `${operator}.${this.#nodes.length}`,
      operator,
      domain,
      inputs,
      outputs,
      attributes: Object.fromEntries(Object.entries(attributes).map(([key, value]) => [key, toAttribute(value)])),
    });
  }
}

/** One piece of a scan: what enters it, the piece's factor and what it adds; its state and factor, and what entered. */
function scanBody(factor: Value, added: Value): GraphRecord {
  const ofPiece = (value: Value): Value => ({ ...value, shape: value.shape.slice(1) });
  const [ownFactor, state] = [ofPiece(factor), ofPiece(added)];
  const isForAll = factor.shape[0] === 1;
  const isMatrix = factor.shape.at(-1) === added.shape.at(-2);
  const node = (operator: string, inputs: readonly string[], output: string): NodeRecord => {
    return { name: output, operator, domain: "", inputs, outputs: [output], attributes: {} };
  };
  return {
    name: "piece",
    inputs: [recordOf(state, "state"), recordOf(ownFactor, "factor"), recordOf(state, "added")],
    nodes: [
      node(isMatrix ? "MatMul" : "Mul", ["factor", "state"], "kept"),
      node("Add", ["kept", "added"], "next"),
      node("Identity", ["state"], "entered"),
      ...(isForAll ? [node("Identity", ["factor"], "same")] : []),
    ],
    outputs: [recordOf(state, "next"), ...(isForAll ? [recordOf(ownFactor, "same")] : []), recordOf(state, "entered")],
    values: [],
    constants: [],
  };
}

function recordOf({ shape, dtype }: Value, name: string): ValueRecord {
  return { name, type: TYPES[dtype], shape };
}

/**
 * Nodes whose results nobody in the graph reads come last, the first of them last of all: ONNX Runtime takes the last
 * one first, and before it what it depends on. So results are made in the order in which they were written, and what
 * one is made of is let go of before the next is begun.
 */
function inOrderOfRun(nodes: readonly NodeRecord[]): NodeRecord[] {
  const read = new Set(nodes.flatMap(({ inputs }) => inputs));
  const isRead = ({ outputs }: NodeRecord): boolean => outputs.some((name) => read.has(name));
  return [...nodes.filter(isRead), ...nodes.filter((node) => !isRead(node)).reverse()];
}

function toAttribute(value: Attributes[string]): AttributeValue {
  if (typeof value === "number") return { int: value };
  if (typeof value === "string") return { string: value };
  if ("float" in value || "graph" in value) return value;
  return { ints: value };
}
