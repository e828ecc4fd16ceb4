/** The one place where a linear meets a method: its weight goes to the device, is solved there, and comes back. */
import { maskWordsPerRow, type Device } from "../device/device.js";
import type { LinearSpec } from "../model/architecture.js";
import { findSolver } from "../solvers/registry.js";
import { costOf } from "../solvers/cost.js";
import type { LayerProblem, LayerSolver, LayerStatistics, WeightGradients } from "../solvers/solver.js";
import { composeSteps } from "../solvers/steps.js";
import type { Pattern } from "../sparsity/pattern.js";

/** A method and its further steps, options bound. */
export type BoundSolver = LayerSolver<undefined>;

/** A method by name with its default options. */
export function boundSolver(name: string): BoundSolver {
  const solver = findSolver(name);
  return composeSteps([{ solver, options: solver.schema.parse({}) }]);
}

/** For runs whose training starts from the dense model: every weight stays. */
export const KEEP: BoundSolver = {
  ...{ name: "dense", summary: "every weight stays", needs: [], schema: { parse: () => undefined } },
  cost: () => costOf({}),
  solve({ weight }, _options, { device }) {
    const { rows, columns, label } = weight;
    const words = new Uint32Array(rows * maskWordsPerRow(columns)).fill(0xffffffff);
    const keepMask = device.uploadMask(words, rows, columns, `${label}: mask`);
    return Promise.resolve({ weight, keepMask, loss: undefined });
  },
};

/** What prunes linears that too few tokens reached for any method that looks at activations. */
export const MAGNITUDE: BoundSolver = boundSolver("magnitude");

/** For methods that look at weights only, and linears whose statistics are not used. */
export const NO_STATISTICS: LayerStatistics = { tokenCount: 0, sequenceCount: 0 };

export interface LinearProblem {
  readonly linear: Pick<LinearSpec, "name" | "inFeatures" | "outFeatures">;
  /** [outFeatures, inFeatures]; borrowed. */
  readonly weight: Float32Array;
  readonly statistics: LayerStatistics;
  /** Borrowed. */
  readonly gradients?: WeightGradients | undefined;
  readonly pattern: Pattern;
  readonly sparsity: number;
  /** Change the weight that is to be approximated, on the device, before the method sees it. */
  readonly retarget?: ((problem: LayerProblem) => Promise<void>) | undefined;
}

export interface SolvedWeight {
  /** [outFeatures, inFeatures], pruned entries +0. */
  readonly weight: Float32Array;
  /** The method's own objective; null where it has none. */
  readonly loss: number | null;
}

export async function solveLinear(device: Device, solver: BoundSolver, problem: LinearProblem): Promise<SolvedWeight> {
  const { linear, statistics, gradients, pattern, sparsity, retarget } = problem;
  const { name, inFeatures, outFeatures } = linear;
  const weight = device.uploadMatrix(problem.weight, outFeatures, inFeatures, name);
  const known = { statistics, ...(gradients === undefined ? {} : { gradients }) };
  const layer = { name, inFeatures, outFeatures, weight, ...known, pattern, sparsity };
  await retarget?.(layer);
  const solution = await solver.solve(layer, undefined, { device });
  using solved = solution.weight;
  using _mask = solution.keepMask;
  return { weight: await device.download({ matrix: solved }), loss: solution.loss ?? null };
}
