/** The operator table: every operator a graph may have, by name. */
import { COMPOSITES } from "./composites.js";
import type { Operator } from "./operator.js";
import { PRIMITIVES } from "./primitives.js";

export const OPERATORS = { ...PRIMITIVES, ...COMPOSITES } as const;

export type OperatorName = keyof typeof OPERATORS;

export type AttributesOf<Name extends OperatorName> =
  (typeof OPERATORS)[Name] extends Operator<infer Attributes> ? Attributes : never;

export const OPERATOR_NAMES = Object.keys(OPERATORS) as readonly OperatorName[];

/** Whether an operator can be written in others. */
export function isComposite(name: OperatorName): boolean {
  return Object.hasOwn(COMPOSITES, name);
}
