/**
 * A small typed builder for ONNX graphs. It names values, collects nodes and constants, and hands a finished
 * record to encode.ts. It knows operators only by name: what they mean is ONNX's business.
 */
import { InternalError } from "../errors.js";
import {
  encodeModel,
  type AttributeValue,
  type ConstantRecord,
  type ElementType,
  type NodeRecord,
  type ValueRecord,
} from "./encode.js";

/** A value flowing through the graph. */
export interface Value {
  readonly name: string;
}

export type Shape = readonly (number | string)[];

/** Attributes as plain numbers are integers; floats are written `{ float: x }`. */
export type Attributes = Readonly<Record<string, number | string | readonly number[] | { readonly float: number }>>;

export interface BuiltGraph {
  readonly model: Uint8Array;
  readonly inputNames: readonly string[];
  readonly outputNames: readonly string[];
}

export class GraphBuilder {
  readonly #name: string;
  readonly #nodes: NodeRecord[] = [];
  readonly #inputs: ValueRecord[] = [];
  readonly #outputs: ValueRecord[] = [];
  readonly #constants: ConstantRecord[] = [];
  readonly #names = new Set<string>();
  readonly #shared = new Map<string, Value>();

  constructor(name: string) {
    this.#name = name;
  }

  /** A tensor fed at every run. */
  input(name: string, shape: Shape, type: ElementType = "float32"): Value {
    this.#claim(name);
    this.#inputs.push({ name, type, shape });
    return { name };
  }

  /** Make a value an output of the graph under `name`. */
  output(value: Value, name: string, shape: Shape, type: ElementType = "float32"): void {
    this.#claim(name);
    this.#nodes.push({ name, operator: "Identity", domain: "", inputs: [value.name], outputs: [name], attributes: {} });
    this.#outputs.push({ name, type, shape });
  }

  /** A float constant. Keep them small: they are copied into the model's bytes. */
  floats(values: readonly number[] | Float32Array, shape: readonly number[]): Value {
    const data = Float32Array.from(values);
    return this.#constant("float32", shape, new Uint8Array(data.buffer));
  }

  /** A 64-bit integer constant, for shapes and axes. */
  integers(values: readonly number[], shape: readonly number[] = [values.length]): Value {
    const data = BigInt64Array.from(values, (value) => BigInt(value));
    return this.#constant("int64", shape, new Uint8Array(data.buffer));
  }

  /** One node with one output. */
  node(operator: string, inputs: readonly Value[], attributes: Attributes = {}, domain = ""): Value {
    const [output] = this.nodes(operator, inputs, 1, attributes, domain);
    if (output === undefined) throw new InternalError("E_GRAPH", `${operator}: node without output`);
    return output;
  }

  /** One node with several outputs. */
  nodes(
    operator: string,
    inputs: readonly Value[],
    outputCount: number,
    attributes: Attributes = {},
    domain = "",
  ): Value[] {
    const name = `${operator}_${this.#nodes.length}`;
    const outputs = Array.from({ length: outputCount }, (_, index) => `${name}_${index}`);
    outputs.forEach((output) => this.#claim(output));
    this.#nodes.push({
      name,
      operator,
      domain,
      inputs: inputs.map((input) => input.name),
      outputs,
      attributes: Object.fromEntries(Object.entries(attributes).map(([key, value]) => [key, toAttribute(value)])),
    });
    return outputs.map((output) => ({ name: output }));
  }

  /** The finished model: only what its outputs depend on, so one description of a block serves every truncation of it. */
  build(): BuiltGraph {
    const used = new Set(this.#outputs.map((output) => output.name));
    const nodes: NodeRecord[] = [];
    for (const node of this.#nodes.toReversed()) {
      if (!node.outputs.some((name) => used.has(name))) continue;
      node.inputs.forEach((name) => used.add(name));
      nodes.unshift(node);
    }
    const inputs = this.#inputs.filter((input) => used.has(input.name));
    const constants = this.#constants.filter((constant) => used.has(constant.name));
    const model = encodeModel({ name: this.#name, nodes, inputs, outputs: this.#outputs, constants });
    return {
      model,
      inputNames: inputs.map((input) => input.name),
      outputNames: this.#outputs.map((output) => output.name),
    };
  }

  #constant(type: ElementType, shape: readonly number[], bytes: Uint8Array): Value {
    const key = `${type}:${shape.join(",")}:${Buffer.from(bytes).toString("base64")}`;
    const known = this.#shared.get(key);
    if (known !== undefined) return known;
    const value = { name: `constant_${this.#constants.length}` };
    this.#claim(value.name);
    this.#constants.push({ name: value.name, type, shape, bytes });
    this.#shared.set(key, value);
    return value;
  }

  #claim(name: string): void {
    if (this.#names.has(name))
      throw new InternalError("E_GRAPH", `graph ${this.#name}: the name "${name}" is taken twice`);
    this.#names.add(name);
  }
}

function toAttribute(value: Attributes[string]): AttributeValue {
  if (typeof value === "number") return { int: value };
  if (typeof value === "string") return { string: value };
  if ("float" in value) return value;
  return { ints: value };
}
