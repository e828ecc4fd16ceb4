/** What solvers check about a layer's problem before they work on it. Nothing here knows a method. */
import type { KeepMask } from "../device/device.js";
import { ConfigError, InternalError, NumericalError } from "../errors.js";
import { formatPattern, type Pattern } from "../sparsity/pattern.js";
import type { GradientStatistic, LayerProblem, LayerSolver, LayerStatistics } from "./solver.js";

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

/** @throws ConfigError E_MISFIT when the options have no meaning for the pattern */
export function expectFit<Options>(
  solver: Pick<LayerSolver<Options>, "name"> & Partial<Pick<LayerSolver<Options>, "misfit">>,
  options: Options,
  pattern: Pattern,
): void {
  const problem = solver.misfit?.(options, pattern);
  if (problem === undefined) return;
  throw new ConfigError("E_MISFIT", `${solver.name}: ${problem}.`, {
    hint: `Leave the option out, or choose another --pattern; docs/methods/${solver.name}.md says what it does.`,
    details: { method: solver.name, options, pattern: formatPattern(pattern) },
  });
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
export function requireStatistic<Name extends "squareSums" | "gram" | "moments">(
  problem: LayerProblem,
  name: Name,
): NonNullable<LayerStatistics[Name]> {
  const value = problem.statistics[name];
  if (value === undefined)
    throw new InternalError("E_STATISTICS", `${problem.name}: the statistic "${name}" was not collected`);
  return value;
}

/** What the driver must have provided because the solver asked for it in `gradients`, [outFeatures, inFeatures]. */
export function requireGradients({ name, gradients }: LayerProblem, statistic: GradientStatistic): Float32Array {
  const values = gradients?.[statistic];
  if (values === undefined)
    throw new InternalError("E_STATISTICS", `${name}: the statistic "${statistic}" was not collected`);
  return values;
}

/** The mask of an earlier step, for solvers that declare `startsFromMask`: composeSteps sees to it. */
export function requireMask({ name, keepMask }: LayerProblem): KeepMask {
  if (keepMask === undefined) throw new InternalError("E_STEPS", `${name}: there is no mask to start from`);
  return keepMask;
}
