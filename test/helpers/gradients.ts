/** Gradient graphs against differences of the float64 interpreter. */
import assert from "node:assert/strict";
import { gradientName, gradientOf } from "../../src/graph/gradient.js";
import type { Graph } from "../../src/graph/graph.js";
import { lookUp } from "../../src/look-up.js";
import { interpret, type Tensor } from "../reference/graph-interpreter.js";

type Tensors = ReadonlyMap<string, Tensor>;

/** Small against everything that is fed, large against float64's roundings. */
const STEP = 1e-4;

export interface Derivative {
  readonly value: number;
  /** What the roundings of the forward may change of it. */
  readonly noise: number;
}

/** Numbers without a pattern that a gradient could share. */
export function scattered(index: number, salt = 0): number {
  const x = Math.sin((index + 1) * 12.9898 + salt * 78.233) * 43758.5453;
  return 2 * (x - Math.floor(x)) - 1;
}

/** What each f32 output's gradient is fed as, by the output's name. */
export function cotangentsOf(outputs: Tensors): Map<string, Tensor> {
  return new Map(
    [...outputs].map(([name, { shape, values }], salt) => {
      return [name, { shape, values: values.map((_, index) => Math.fround(scattered(index, salt + 5))) }];
    }),
  );
}

/** d/dt Σ ⟨cotangent, output⟩ at input + t · direction, by the central difference of fourth order. */
export function derivativeAlong(
  graph: Graph,
  feeds: Tensors,
  cotangents: Tensors,
  { name, direction, step = STEP }: { name: string; direction: Float64Array; step?: number },
): Derivative {
  let size = 0;
  const loss = (at: number): number => {
    const { shape, values } = lookUp(feeds, name);
    const moved = values.map((value, index) => value + at * step * (direction[index] as number));
    const outputs = interpret(graph, new Map([...feeds, [name, { shape, values: moved }]]));
    let total = 0;
    for (const [output, { values: weights }] of cotangents) {
      const found = lookUp(outputs, output).values;
      weights.forEach((weight, index) => {
        total += weight * (found[index] as number);
        size += Math.abs(weight * (found[index] as number));
      });
    }
    return total;
  };
  const value = (8 * (loss(1) - loss(-1)) - (loss(2) - loss(-2))) / (12 * step);
  return { value, noise: (size * 4e-15) / step };
}

export function norm(values: Float64Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value ** 2, 0));
}

/** Directions that say enough of a gradient: every entry by itself where there are few, else some of all entries. */
function directionsOf(count: number): Float64Array[] {
  if (count <= 40)
    return Array.from({ length: count }, (_, entry) =>
      new Float64Array(count).map((_, index) => Number(index === entry)),
    );
  return [1, 2, 3].map((salt) => new Float64Array(count).map((_, index) => scattered(index, salt)));
}

export interface GradientCheck {
  readonly of?: readonly string[];
  readonly through?: readonly string[];
  /** Relative to the gradient's size along the direction. */
  readonly tolerance: number;
  /** What roundings inside the graph may make of a gradient that vanishes; default 0. */
  readonly floor?: number;
}

/** Names of inputs or outputs that can have a gradient. */
export function floatsOf(named: Graph["inputs"]): string[] {
  return named.filter(({ value }) => value.dtype === "f32").map(({ name }) => name);
}

/** The gradient graph, run by the interpreter, is what differences of the forward say. @returns what it computes */
export function checkGradient(graph: Graph, feeds: Tensors, check: GradientCheck): Map<string, Tensor> {
  const { of = floatsOf(graph.inputs), through = floatsOf(graph.outputs), tolerance, floor = 0 } = check;
  const outputs = interpret(graph, feeds);
  const cotangents = cotangentsOf(new Map(through.map((name) => [name, lookUp(outputs, name)])));
  const all = new Map([...feeds, ...[...cotangents].map(([name, each]) => [gradientName(name), each] as const)]);
  const gradients = interpret(gradientOf(graph, { of, through }), all);
  for (const name of of) {
    const { values, shape } = lookUp(gradients, gradientName(name));
    assert.deepEqual(shape, lookUp(feeds, name).shape, name);
    for (const direction of directionsOf(values.length)) {
      const { value, noise } = derivativeAlong(graph, feeds, cotangents, { name, direction });
      const found = values.reduce((sum, each, index) => sum + each * (direction[index] as number), 0);
      const size = (norm(values) * norm(direction)) / Math.sqrt(values.length);
      const off = Math.abs(found - value);
      assert.ok(off <= tolerance * size + noise + floor, `${graph.name}, ${name}: ${found}, differences say ${value}`);
    }
  }
  return gradients;
}
