/**
 * Variable splitting: a tensor x that is to become sparse has a sparse twin z and a scaled dual u. While an optimiser draws
 * x towards z - u, z is now and then the projection of x + u and u takes up what is left; at the end x itself is projected.
 */
import type { Device, KeepMask, Matrix } from "../device/device.js";
import type { Pattern } from "../sparsity/pattern.js";
import type { Parameter } from "./parameters.js";
import { projectionMask, type ProjectedLinear } from "./projection.js";

export const SCHEDULES = ["constant", "linear", "cosine", "exponential"] as const;

/** How strongly x is drawn, from the first of some steps to the last. */
export interface PenaltyCourse {
  readonly schedule: (typeof SCHEDULES)[number];
  /** The penalty; the last one of a schedule. */
  readonly lambda: number;
  /** Where a schedule begins. */
  readonly initialLambda: number;
  readonly steps: number;
}

/** The penalty at this step, counted from 0. */
export function lambdaAt({ schedule, lambda, initialLambda, steps }: PenaltyCourse, step: number): number {
  const share = step / steps;
  switch (schedule) {
    case "constant":
      return lambda;
    case "linear":
      return initialLambda + (lambda - initialLambda) * share;
    case "cosine":
      return initialLambda + (lambda - initialLambda) * 0.5 * (1 - Math.cos(Math.PI * share));
    case "exponential": {
      const first = Math.max(initialLambda, 1e-12);
      return first * (lambda / first) ** share;
    }
    default:
      return schedule satisfies never;
  }
}

/** Scores of a projection: |x + u|, or √v·|x + u| with Adam's second moment v. */
export const PROJECTIONS = ["identity", "fisher"] as const;
export type Projection = (typeof PROJECTIONS)[number];

/** A parameter with its twin, and where its linears lie. */
export interface Split {
  readonly device: Device;
  readonly parameter: Parameter;
  readonly split: Matrix;
  readonly dual: Matrix;
  readonly linears: readonly ProjectedLinear[];
  readonly pattern: Pattern;
}

export interface Splitting {
  readonly device: Device;
  readonly pattern: Pattern;
  /** The pruned linears of a parameter that has a sparse twin. */
  readonly linearsOf: (parameter: string) => readonly ProjectedLinear[];
}

export async function forEachSplit(
  { device, pattern, linearsOf }: Splitting,
  parameters: Iterable<Parameter>,
  work: (split: Split) => Promise<void>,
): Promise<void> {
  for (const parameter of parameters)
    if (parameter.twin !== undefined)
      await work({ device, parameter, ...parameter.twin, pattern, linears: linearsOf(parameter.name) });
}

/** z = the projection of x by magnitude; u is 0. */
export async function startSplitting({ device, parameter, split, linears, pattern }: Split): Promise<void> {
  const { values, shape } = parameter;
  const mask = await projectionMask(device, values.matrix, shape, linears, pattern);
  device.copy(values.matrix, split);
  device.applyMask(split, mask);
  parameter.replaceMask(mask);
  await device.synchronize();
}

/**
 * z ← the projection of x + u, u ← u + x - z.
 * @param dualRate how much of x - z goes to u, in [0, 1]: 0 leaves u as it is
 */
export async function project(each: Split, projection: Projection, dualRate = 1): Promise<SplittingSums> {
  const { device, parameter, split, dual } = each;
  const values = parameter.values.matrix;
  const mask = await maskOf(each, projection, dual);
  const flips = parameter.mask === undefined ? 0 : await device.countDifferences(parameter.mask, mask);
  parameter.replaceMask(mask);
  const sums = await device.dualStep({ values, split, dual, mask });
  if (dualRate !== 1) {
    addMultiple(each, values, dual, dualRate - 1);
    addMultiple(each, split, dual, 1 - dualRate);
  }
  return { ...sums, flips, entries: values.rows * values.columns };
}

/** target ← target + factor · source */
export function addMultiple({ device, parameter }: Split, source: Matrix, target: Matrix, factor: number): void {
  const { mask } = parameter;
  if (mask === undefined) return;
  device.combine({ a: target, b: source, out: target, mask, kept: [1, factor], pruned: [1, factor] });
}

/** Project x itself. */
export async function settle(each: Split, projection: Projection): Promise<void> {
  const { device, parameter } = each;
  const mask = await maskOf(each, projection);
  device.applyMask(parameter.values.matrix, mask);
  parameter.replaceMask(mask);
  await device.synchronize();
}

/** Of the projection of x, or of x + u. The gradient, which the step has used up, makes room for the scores. */
function maskOf(
  { device, parameter, linears, pattern }: Split,
  projection: Projection,
  dual?: Matrix,
): Promise<KeepMask> {
  const { values, second, shape, gradient } = parameter;
  const out = gradient.matrix;
  device.projectionScores({
    ...{ values: values.matrix, out },
    ...(dual && { dual }),
    ...(projection === "fisher" && { second }),
  });
  return projectionMask(device, out, shape, linears, pattern);
}

/** Over some parameters: squares of x - z, of z's change, of x and of z, and what changed in the masks. */
export type SplittingSums = Record<"primal" | "change" | "values" | "split" | "flips" | "entries", number>;
