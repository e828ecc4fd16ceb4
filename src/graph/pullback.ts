/** What the pullbacks of operators are, and what they have in common. */
import { isSameShape, type Shape } from "./dimensions.js";
import type { GraphBuilder, Value } from "./graph.js";
import { axesOf } from "./operator.js";
import type { AttributesOf, OperatorName } from "./operators.js";

/** A node whose outputs' gradients are known. */
export interface Backward<Attributes> {
  /** Where the gradient is written; the node's own values are of it. */
  readonly graph: GraphBuilder;
  readonly inputs: readonly Value[];
  readonly outputs: readonly Value[];
  readonly attributes: Attributes;
  /** By output; undefined where nothing that counts reads it. */
  readonly gradients: readonly (Value | undefined)[];
  /** By input: whether its gradient is asked for. */
  readonly isWanted: readonly boolean[];
}

/**
 * What is added to an input's gradient: a value of the input's shape, written only where it is wanted, or for operators
 * that add by themselves that value together with what there is already.
 */
export type Contribution = (() => Value) | { readonly onto: (sum: Value | undefined) => Value };

/** One entry per input, or none where the input has no part in it; undefined where only the decomposition can say. */
export type Pullback<Attributes> = (
  backward: Backward<Attributes>,
) => readonly (Contribution | undefined)[] | undefined;

export type AnyPullback = Pullback<object>;

/** By operator. */
export type Pullbacks = { readonly [Name in OperatorName]?: Pullback<AttributesOf<Name>> };

export interface SingleBackward<Attributes> extends Backward<Attributes> {
  /** The first input, the only output, and its gradient. */
  readonly x: Value;
  readonly y: Value;
  readonly gradient: Value;
}

/** Of an operator with one output. */
export function single<Attributes>(
  pull: (backward: SingleBackward<Attributes>) => readonly (Contribution | undefined)[] | undefined,
): Pullback<Attributes> {
  return (backward) => {
    const { inputs, outputs, gradients } = backward;
    const [x, y, gradient] = [inputs[0], outputs[0], gradients[0]] as readonly [Value, Value, Value];
    return pull({ ...backward, x, y, gradient });
  };
}

/** Of a function entry by entry. @param derivative of x and y */
export function elementwise(derivative: (graph: GraphBuilder, x: Value, y: Value) => Value): Pullback<object> {
  return single(({ graph, gradient, x, y }) => [() => multiply(graph, gradient, derivative(graph, x, y))]);
}

export const multiply = (graph: GraphBuilder, a: Value, b: Value): Value => graph.apply("multiply", [a, b]);
export const subtract = (graph: GraphBuilder, a: Value, b: Value): Value => graph.apply("subtract", [a, b]);

/** A number of the type that a value has. */
export function scalarOf(graph: GraphBuilder, { dtype }: Value, number: number): Value {
  const scalar = graph.scalar(number);
  return dtype === "f32" ? scalar : graph.apply("cast", [scalar], { to: dtype });
}

export function scaled(graph: GraphBuilder, value: Value, factor: number): Value {
  return factor === 1 ? value : multiply(graph, value, scalarOf(graph, value, factor));
}

export const negative = (graph: GraphBuilder, value: Value): Value => scaled(graph, value, -1);

export function reshape(graph: GraphBuilder, value: Value, shape: Shape): Value {
  return isSameShape(value.shape, shape) ? value : graph.apply("reshape", [value], { shape });
}

export function zerosOf(graph: GraphBuilder, { shape, dtype }: Pick<Value, "shape" | "dtype">): Value {
  const zeros = graph.apply("fill", [], { shape, value: 0 });
  return dtype === "f32" ? zeros : graph.apply("cast", [zeros], { to: dtype });
}

/** Summed over the axes along which a value of this shape was stretched. */
export function reduceTo(graph: GraphBuilder, gradient: Value, { shape }: Value): Value {
  const extra = gradient.shape.length - shape.length;
  const axes = gradient.shape.flatMap((dim, axis) =>
    axis < extra || (shape[axis - extra] === 1 && dim !== 1) ? [axis] : [],
  );
  const sum = axes.length === 0 ? gradient : graph.apply("reduceSum", [gradient], { axes, keepsAxes: true });
  return reshape(graph, sum, shape);
}

/** What is left of x when axes go, with those axes back, of size 1. */
export function withAxes(graph: GraphBuilder, value: Value, x: Value, axes: readonly number[]): Value {
  const reduced = axesOf(x, axes);
  return reshape(
    graph,
    value,
    x.shape.map((dim, axis) => (reduced.includes(axis) ? 1 : dim)),
  );
}
