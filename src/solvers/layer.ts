/** What several solvers check about a layer's problem, and small steps they share. Nothing here knows a method. */
import type { Device, KeepMask, Matrix } from "../device/device.js";
import { ConfigError, InternalError, NumericalError } from "../errors.js";
import { formatPattern, type Pattern } from "../sparsity/pattern.js";
import type { LayerProblem, LayerSolver, LayerStatistics } from "./solver.js";

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
  solver: Pick<LayerSolver<Options>, "name" | "misfit">,
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

/** The mask of an earlier step, for solvers that declare `startsFromMask`: composeSteps sees to it. */
export function requireMask({ name, keepMask }: LayerProblem): KeepMask {
  if (keepMask === undefined) throw new InternalError("E_STEPS", `${name}: there is no mask to start from`);
  return keepMask;
}

/** A copy on the device, owned by the caller. */
export function copyMatrix(device: Device, matrix: Matrix, label: string): Matrix {
  const copy = device.createMatrix(matrix.rows, matrix.columns, label);
  device.copy(matrix, copy);
  return copy;
}

/**
 * tr(D·G·Dᵀ) / sequences with D = dense - pruned: the squared error of the layer's outputs, summed over the tokens of a
 * sequence, mean over sequences. Costs one product and borrows one matrix of G's size and two of the weight's.
 *
 * @param gram Σxxᵀ, lower triangle, left as it is
 */
export async function reconstructionLoss(
  device: Device,
  layer: { readonly dense: Matrix; readonly pruned: Matrix; readonly gram: Matrix; readonly sequenceCount: number },
): Promise<number> {
  const { dense, pruned, gram } = layer;
  using full = copyMatrix(device, gram, "loss: Gram matrix");
  device.mirrorLower(full);
  using change = device.createMatrix(dense.rows, dense.columns, "loss: change of the weight");
  using product = device.createMatrix(dense.rows, dense.columns, "loss: product");
  using dots = device.createMatrix(1, dense.rows, "loss: rows");
  device.subtract({ matrix: dense }, { matrix: pruned }, { matrix: change });
  device.matmul({ a: { matrix: change }, b: { matrix: full }, out: { matrix: product } });
  device.rowDots(change, product, dots);
  const rows = await device.download({ matrix: dots });
  return rows.reduce((total, value) => total + value, 0) / layer.sequenceCount;
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
