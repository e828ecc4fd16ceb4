/**
 * Methods in sequence, as one solver: the first step chooses a mask, the others refine it or update the weights for it
 * (`--method wanda --then admm-update`). A step never knows what came before it but the weight and the mask, and the
 * dense weight. This file knows no method.
 */
import { UsageError } from "../errors.js";
import { holding, inSequence, maskBytes, matrixBytes } from "./cost.js";
import { copyMatrix, disposeOnFailure } from "./matrices.js";
import type { LayerProblem, LayerSolution, LayerSolver, SolverContext } from "./solver.js";

export interface Step {
  readonly solver: LayerSolver<unknown>;
  /** As parsed by the solver's schema. */
  readonly options: unknown;
  /** Whether a linear of this name takes part; others keep what the steps before made of them. Absent: all do. */
  readonly appliesTo?: (name: string) => boolean;
}

/** The options of the steps are bound already. */
const NO_OPTIONS = { parse: () => undefined };

/**
 * One solver that runs the steps in order. `needs` and `gradients` are the unions of theirs, `loss` is that of the last step taken.
 *
 * @throws UsageError E_STEPS, naming every step that cannot be where it is
 */
export function composeSteps(steps: readonly Step[]): LayerSolver<undefined> {
  expectOrder(steps.map((step) => step.solver));
  const names = steps.map((step) => step.solver.name);
  return {
    name: names.join(" + "),
    summary: names.join(", then "),
    needs: [...new Set(steps.flatMap((step) => step.solver.needs))],
    gradients: () => [...new Set(steps.flatMap(({ solver, options }) => solver.gradients?.(options) ?? []))],
    schema: NO_OPTIONS,
    cost(size) {
      const costs = stepsFor(steps, size.name).map(({ solver, options }) => solver.cost(size, options));
      const dense = costs.length > 1 ? matrixBytes(size.outFeatures, size.inFeatures) + maskBytes(size) : 0;
      return holding(dense, inSequence(...costs));
    },
    solve: (problem, _options, context) => solveInOrder(steps, problem, context),
  };
}

function expectOrder(solvers: readonly LayerSolver<unknown>[]): void {
  const problems = solvers.flatMap(({ name, startsFromMask }, index) => {
    if (index === 0 && startsFromMask === true) return `${name} starts from a mask, so it cannot come first`;
    if (index > 0 && startsFromMask !== true)
      return `${name} chooses a mask itself and would discard what came before it, so it must come first`;
    return [];
  });
  if (solvers.length === 0) problems.push("there is none");
  if (problems.length === 0) return;
  const names = solvers.map((solver) => solver.name);
  throw new UsageError("E_STEPS", `steps ${names.join(", ") || "of the method"}: ${problems.join("; ")}.`, {
    hint: "Begin with one method that chooses a mask, for example: --method wanda --then admm-update.",
    details: { steps: names, problems },
  });
}

/** The steps that a linear takes part in. */
function stepsFor(steps: readonly Step[], name: string): Step[] {
  return steps.filter(({ appliesTo }) => appliesTo?.(name) ?? true);
}

async function solveInOrder(
  steps: readonly Step[],
  problem: LayerProblem,
  context: SolverContext,
): Promise<LayerSolution> {
  const { device } = context;
  const taken = stepsFor(steps, problem.name);
  if (taken.length === 1) return taken[0].solver.solve(problem, taken[0].options, context);
  return disposeOnFailure(problem.weight, async () => {
    using dense = copyMatrix(device, problem.dense ?? problem.weight, `${problem.name}: dense weight`);
    let solution: LayerSolution | undefined;
    for (const { solver, options } of taken) {
      const current: LayerProblem =
        solution === undefined ? problem : { ...problem, dense, weight: solution.weight, keepMask: solution.keepMask };
      const before: LayerSolution | undefined = solution;
      try {
        solution = await solver.solve(current, options, context);
      } catch (error) {
        before?.keepMask[Symbol.dispose]();
        throw error;
      }
      if (before !== undefined && before.keepMask !== solution.keepMask) before.keepMask[Symbol.dispose]();
    }
    if (solution === undefined) throw new Error("composeSteps checked that there is a step");
    return solution;
  });
}
