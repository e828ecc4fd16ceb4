/** What several solvers check about a layer's problem before they start. Nothing here knows a method. */
import { ConfigError, InternalError, NumericalError } from "../errors.js";
import type { LayerProblem, LayerStatistics } from "./solver.js";

/** @throws ConfigError E_PATTERN_WIDTH when the input width is not a multiple of the pattern's group */
export function expectGroupsFit({ name, inFeatures, pattern }: LayerProblem): void {
  if (pattern.kind !== "n-of-m" || inFeatures % pattern.group === 0) return;
  throw new ConfigError(
    "E_PATTERN_WIDTH",
    `${name}: ${inFeatures} inputs are not a multiple of the group of ${pattern.keep}:${pattern.group}.`,
    {
      hint: `Use a group that divides ${inFeatures}, or leave this layer dense with --ignore ${name}.`,
      details: { layer: name, inFeatures, keep: pattern.keep, group: pattern.group },
    },
  );
}

/** @throws NumericalError E_NON_FINITE when a statistic holds NaN or infinity */
export function expectFiniteStatistics(name: string, values: Float32Array): void {
  const input = values.findIndex((value) => !Number.isFinite(value));
  if (input < 0) return;
  throw new NumericalError(
    "E_NON_FINITE",
    `${name}: the inputs of channel ${input} are not finite (Σ x² is ${values[input]}).`,
    {
      hint: "The forward pass overflowed: check the checkpoint for non-finite weights, or try other calibration text.",
      details: { layer: name, input, value: values[input] },
    },
  );
}

/** A statistic that the driver must have provided because the solver asked for it in `needs`. */
export function requireStatistic<Name extends "squareSums" | "gram">(
  problem: LayerProblem,
  name: Name,
): NonNullable<LayerStatistics[Name]> {
  const value = problem.statistics[name];
  if (value === undefined)
    throw new InternalError("E_STATISTICS", `${problem.name}: the statistic "${name}" was not collected`);
  return value;
}

/**
 * Run `work`; if it fails, dispose of `weight` and of everything passed through `owned`. On success they belong to
 * whoever receives the result.
 */
export async function disposeOnFailure<Result>(
  weight: Disposable,
  work: (owned: <Resource extends Disposable>(resource: Resource) => Resource) => Promise<Result>,
): Promise<Result> {
  const resources: Disposable[] = [weight];
  try {
    return await work((resource) => {
      resources.push(resource);
      return resource;
    });
  } catch (error) {
    for (const resource of resources) resource[Symbol.dispose]();
    throw error;
  }
}
