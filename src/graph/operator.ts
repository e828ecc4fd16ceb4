/** What the operator table says of each operator, and what its rules of shape have in common. */
import { InternalError } from "../errors.js";
import { type Dim, isSameShape, type Shape } from "./dimensions.js";
import type { DataType, GraphBuilder, Value, ValueType } from "./graph.js";

/** A name for a size that only a run knows, unlike all others of the graph. */
export type Fresh = (name: string) => string;

export interface Operator<Attributes extends object> {
  /**
   * Shapes and types of the outputs.
   * @throws InternalError E_SHAPE where the inputs do not fit
   */
  infer(inputs: readonly ValueType[], attributes: Attributes, fresh: Fresh): readonly ValueType[];
  /** The same in simpler operators; absent: the operator is primitive. */
  decompose?(graph: GraphBuilder, inputs: readonly Value[], attributes: Attributes): readonly Value[];
  /** Attributes that are sizes, or lists of them. */
  readonly dims?: readonly (keyof Attributes & string)[];
}

/** Any entry of the table, where which one it is does not matter. */
export interface AnyOperator {
  infer(inputs: readonly ValueType[], attributes: object, fresh: Fresh): readonly ValueType[];
  decompose?(graph: GraphBuilder, inputs: readonly Value[], attributes: object): readonly Value[];
  readonly dims?: readonly string[];
}

/** Of an operator without attributes. */
export type None = Record<never, never>;

export function refuse(operator: string, inputs: readonly ValueType[], expected: string): InternalError {
  const shapes = inputs.map(({ shape, dtype }) => `${dtype} [${shape.join(", ")}]`).join(", ");
  return new InternalError("E_SHAPE", `operator "${operator}" of ${shapes}: expected ${expected}`);
}

/** Input `index`, which must be there. */
export function inputAt(operator: string, inputs: readonly ValueType[], index: number): ValueType {
  const input = inputs[index];
  if (input === undefined) throw refuse(operator, inputs, `an input ${index}`);
  return input;
}

export function dimAt({ shape }: ValueType, axis: number): Dim {
  const dim = shape.at(axis);
  if (dim === undefined) throw new InternalError("E_SHAPE", `[${shape.join(", ")}] has no axis ${axis}`);
  return dim;
}

/** A size that must be a number. */
export function knownDim(value: ValueType, axis: number): number {
  const dim = dimAt(value, axis);
  if (typeof dim === "number") return dim;
  throw new InternalError("E_SHAPE", `axis ${axis} of [${value.shape.join(", ")}]: expected a known size`);
}

export function requireType(operator: string, inputs: readonly ValueType[], dtype: DataType): void {
  if (inputs.some((input) => input.dtype !== dtype)) throw refuse(operator, inputs, `elements of type ${dtype}`);
}

export function requireShape(operator: string, inputs: readonly ValueType[], index: number, shape: Shape): void {
  const found = inputAt(operator, inputs, index).shape;
  if (!isSameShape(found, shape)) throw refuse(operator, inputs, `input ${index} to be [${shape.join(", ")}]`);
}

/** The shape that two shapes stretch to: axes are matched from the last, and 1 meets any size. */
export function broadcast(operator: string, a: ValueType, b: ValueType): Shape {
  const rank = Math.max(a.shape.length, b.shape.length);
  return Array.from({ length: rank }, (_, i) => {
    const [left, right] = [a.shape.at(i - rank) ?? 1, b.shape.at(i - rank) ?? 1];
    if (left === right || right === 1) return left;
    if (left === 1) return right;
    throw refuse(operator, [a, b], "shapes that stretch to each other");
  });
}

/** `axes` counted from 0, whatever way they are given. */
export function axesOf({ shape }: ValueType, axes: readonly number[]): number[] {
  return axes.map((axis) => (axis < 0 ? axis + shape.length : axis));
}

export function withDim(shape: Shape, axis: number, dim: Dim): Shape {
  return shape.map((known, index) => (index === axis ? dim : known));
}
