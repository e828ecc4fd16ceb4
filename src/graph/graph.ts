/**
 * A computation as plain data: values that know their shape, and nodes that say which operator makes which values from
 * which. Families and pieces write graphs, passes rewrite them, executors run them; what an operator means is in the
 * operator table (operators.ts).
 */
import { InternalError } from "../errors.js";
import type { Dim, Shape } from "./dimensions.js";
import { substitute, symbolsOf } from "./dimensions.js";
import { OPERATORS, type AttributesOf, type OperatorName } from "./operators.js";
import type { AnyOperator } from "./operator.js";

/** Type of an element. f64 is for the few products that f32 would lose; bool never enters or leaves a graph. */
export type DataType = "f32" | "f64" | "i64" | "bool";

export interface ValueType {
  readonly shape: Shape;
  readonly dtype: DataType;
}

/** What an input or a node makes; `id` is its own within the graph. */
export interface Value extends ValueType {
  readonly id: number;
}

export interface NodeOf<Name extends OperatorName> {
  readonly operator: Name;
  readonly inputs: readonly Value[];
  readonly outputs: readonly Value[];
  readonly attributes: AttributesOf<Name>;
}

export type Node = { [Name in OperatorName]: NodeOf<Name> }[OperatorName];

export interface NamedValue {
  readonly name: string;
  readonly value: Value;
}

export interface Constant {
  readonly value: Value;
  readonly values: Float32Array | BigInt64Array;
}

export interface Graph {
  readonly name: string;
  readonly inputs: readonly NamedValue[];
  readonly constants: readonly Constant[];
  /** In an order in which they can be computed. */
  readonly nodes: readonly Node[];
  readonly outputs: readonly NamedValue[];
  /**
   * Whether the order of the nodes was chosen so that little is held at once, and what is computed twice is not to be kept
   * in between: an executor should then run all of them, one after the other.
   */
  readonly isOrdered?: boolean;
}

export interface BuilderOptions {
  /** Nodes of other operators are decomposed as they are written. Default: every operator is kept. */
  readonly supports?: (operator: OperatorName) => boolean;
}

export class GraphBuilder {
  readonly #name: string;
  readonly #supports: (operator: OperatorName) => boolean;
  readonly #inputs: NamedValue[] = [];
  readonly #outputs: NamedValue[] = [];
  readonly #constants: Constant[] = [];
  readonly #nodes: Node[] = [];
  readonly #shared = new Map<string, Value>();
  #values = 0;
  #symbols = 0;

  constructor(name: string, { supports = () => true }: BuilderOptions = {}) {
    this.#name = name;
    this.#supports = supports;
  }

  /** A value fed at every run. */
  input(name: string, shape: Shape, dtype: DataType = "f32"): Value {
    this.#requireNew(this.#inputs, name);
    const value = this.#value({ shape, dtype });
    this.#inputs.push({ name, value });
    return value;
  }

  /** Make a value an output of the graph. */
  output(name: string, value: Value): void {
    this.#requireNew(this.#outputs, name);
    this.#outputs.push({ name, value });
  }

  /** A float constant. Keep them small: executors may copy them. */
  floats(values: readonly number[] | Float32Array, shape: readonly number[]): Value {
    return this.#constant("f32", shape, Float32Array.from(values));
  }

  /** One float, [], that meets any shape. */
  scalar(value: number): Value {
    return this.floats([value], []);
  }

  integers(values: readonly number[], shape: readonly number[] = [values.length]): Value {
    return this.#constant("i64", shape, BigInt64Array.from(values, BigInt));
  }

  /** The first output of a node; the only one of most operators. */
  apply<Name extends OperatorName>(
    operator: Name,
    inputs: readonly Value[],
    ...[attributes]: AttributeArguments<Name>
  ): Value {
    const [output] = this.#apply(operator, inputs, attributes ?? {});
    if (output === undefined) throw new InternalError("E_GRAPH", `${operator}: node without output`);
    return output;
  }

  /** All outputs of a node. */
  applyAll<Name extends OperatorName>(
    operator: Name,
    inputs: readonly Value[],
    ...[attributes]: AttributeArguments<Name>
  ): readonly Value[] {
    return this.#apply(operator, inputs, attributes ?? {});
  }

  /**
   * Write another graph's nodes again, and return what became of its values.
   * @param inputs this graph's values for the other one's inputs
   */
  inline(graph: Graph, inputs: readonly Value[]): ReadonlyMap<number, Value> {
    const values = new Map<number, Value>();
    graph.inputs.forEach(({ value }, index) => values.set(value.id, inputs[index] as Value));
    for (const { value, values: data } of graph.constants)
      values.set(value.id, this.#constant(value.dtype, value.shape as readonly number[], data));
    const renamed = new Map<string, Dim>(); // sizes that only a run knows get new names in a new graph
    for (const node of graph.nodes) {
      const attributes = replaceDims(node.operator, node.attributes, (dim) => substitute(dim, renamed));
      const from = node.inputs.map(({ id }) => values.get(id) as Value);
      const outputs = this.#apply(node.operator, from, attributes);
      node.outputs.forEach((before, index) => {
        const after = outputs[index] as Value;
        values.set(before.id, after);
        before.shape.forEach((dim, axis) => {
          if (isFresh(dim) && !renamed.has(dim)) renamed.set(dim, after.shape[axis] as Dim);
        });
      });
    }
    return values;
  }

  /** What a function writes to this graph: the values that it returns, and the nodes behind them in order. */
  record<Result>(write: () => Result): { readonly result: Result; readonly nodes: readonly Node[] } {
    const start = this.#nodes.length;
    const result = write();
    return { result, nodes: this.#nodes.slice(start) };
  }

  /** The finished graph: only what its outputs depend on, so one description of a block serves every truncation of it. */
  build(): Graph {
    const used = new Set(this.#outputs.map(({ value }) => value.id));
    const nodes: Node[] = [];
    for (const node of this.#nodes.toReversed()) {
      if (!node.outputs.some(({ id }) => used.has(id))) continue;
      node.inputs.forEach(({ id }) => used.add(id));
      nodes.push(node);
    }
    nodes.reverse();
    return {
      name: this.#name,
      inputs: this.#usedInputs(used, nodes),
      constants: this.#constants.filter(({ value }) => used.has(value.id)),
      nodes,
      outputs: this.#outputs,
    };
  }

  /** Those that are read, and those that alone say what a symbol in the graph stands for. */
  #usedInputs(used: ReadonlySet<number>, nodes: readonly Node[]): NamedValue[] {
    const needed = new Set(nodes.flatMap(dimsOf).flatMap(symbolsOf));
    const says = ({ value }: NamedValue, symbol: string): boolean => value.shape.includes(symbol);
    for (const { value } of this.#inputs)
      if (used.has(value.id)) value.shape.forEach((dim) => needed.delete(String(dim)));
    const sayers = new Set([...needed].map((symbol) => this.#inputs.find((input) => says(input, symbol))));
    return this.#inputs.filter((input) => used.has(input.value.id) || sayers.has(input));
  }

  #apply(operator: OperatorName, inputs: readonly Value[], attributes: object): readonly Value[] {
    const { infer, decompose } = OPERATORS[operator] as AnyOperator;
    if (!this.#supports(operator)) {
      if (decompose !== undefined) return decompose(this, inputs, attributes);
      throw new InternalError("E_OPERATOR", `graph ${this.#name}: the executor has no operator "${operator}"`);
    }
    const types = infer(inputs, attributes, (name) => `${name}#${++this.#symbols}`);
    const outputs = types.map((type) => this.#value(type));
    this.#nodes.push({ operator, inputs, outputs, attributes } as Node);
    return outputs;
  }

  #value(type: ValueType): Value {
    return { ...type, id: this.#values++ };
  }

  #constant(dtype: DataType, shape: readonly number[], values: Float32Array | BigInt64Array): Value {
    const bytes = Buffer.from(values.buffer, values.byteOffset, values.byteLength);
    const key = `${dtype}:${shape.join(",")}:${bytes.toString("base64")}`;
    const known = this.#shared.get(key);
    if (known !== undefined) return known;
    const value = this.#value({ shape, dtype });
    this.#constants.push({ value, values });
    this.#shared.set(key, value);
    return value;
  }

  #requireNew(taken: readonly NamedValue[], name: string): void {
    if (!taken.some((each) => each.name === name)) return;
    throw new InternalError("E_GRAPH", `graph ${this.#name}: the name "${name}" is taken twice`);
  }
}

/** Attributes may be left out where an operator can do without. */
type AttributeArguments<Name extends OperatorName> =
  Partial<AttributesOf<Name>> extends AttributesOf<Name>
    ? [attributes?: AttributesOf<Name>]
    : [attributes: AttributesOf<Name>];

/** Whether a size is one that a node of this graph makes, such as the rows of an expert. */
export function isFresh(dim: Dim): dim is string {
  return typeof dim === "string" && /^[^*]*#\d+$/.test(dim);
}

/** All sizes that a node knows of. */
function dimsOf({ operator, attributes, inputs, outputs }: Node): readonly Dim[] {
  const found: Dim[] = [...inputs, ...outputs].flatMap(({ shape }) => shape);
  replaceDims(operator, attributes, (dim) => {
    found.push(dim);
    return dim;
  });
  return found;
}

function replaceDims(operator: OperatorName, attributes: object, replace: (dim: Dim) => Dim): object {
  const { dims = [] } = OPERATORS[operator] as AnyOperator;
  const entries = dims.flatMap((key): [string, unknown][] => {
    const found = (attributes as Readonly<Record<string, Dim | Shape | undefined>>)[key];
    if (found === undefined) return [];
    return [[key, typeof found === "object" ? found.map(replace) : replace(found)]];
  });
  return { ...attributes, ...Object.fromEntries(entries) };
}
