/**
 * The ADMM weight update for a mask that is already chosen (Boža 2024, arXiv:2401.02938: "ADMM1"): converges to the least
 * squares optimum of the kept weights under the damped Gram matrix. The iteration and its legend are in splitting.ts.
 *
 * It starts from the dense weight, whatever the step before made of it, so the result depends on the mask alone.
 */
import { z } from "zod";
import { holding, inSequence, inverseOf, matrixBytes, repeated } from "./cost.js";
import { invert } from "./matrices.js";
import { iterate, iterationCost, scaledCost, scaledGram, scaledGramCost, solveScaled } from "./splitting.js";
import type { LayerSolver } from "./solver.js";

const schema = z.strictObject({
  /** Fraction of the mean diagonal of the preconditioned Gram matrix added to its diagonal, unitless. */
  damping: z.number().positive().finite().default(0.1),
  iterations: z.number().int().min(1).default(20),
  /** Penalty ρ of the splitting, in units of the preconditioned diagonal (about 1). */
  rho: z.number().positive().finite().default(1),
});
export type AdmmUpdateOptions = z.infer<typeof schema>;

export const admmUpdate = {
  name: "admm-update",
  summary: "bring the weights that an earlier step kept to their optimum for its mask by alternating directions",
  needs: ["gram"],
  startsFromMask: true,
  schema,
  cost(size, { iterations }) {
    const { inFeatures: C, outFeatures: R } = size;
    const iterating = holding(matrixBytes(C, C) + matrixBytes(R, C), repeated(iterations, iterationCost(size)));
    return scaledCost(size, inSequence(scaledGramCost(size), inverseOf(size), iterating));
  },
  /**
   * `loss` is tr(D·G·Dᵀ) / sequences with D the change of the dense weight: the squared output error, undamped.
   *
   * @throws NumericalError E_NOT_POSITIVE_DEFINITE, E_NON_FINITE
   */
  solve(problem, { damping, iterations, rho }, { device }) {
    const { name, inFeatures, outFeatures } = problem;
    const scheme = { damping: { fraction: damping, when: "after" }, mask: "given" } as const;
    return solveScaled(problem, scheme, device, async ({ scaling, dense, weight, keepMask }) => {
      if (problem.dense !== undefined) device.copy(dense, weight);
      using inverse = scaledGram(problem, scaling, rho, device);
      await invert(problem, inverse, device);
      using scratch = device.createMatrix(outFeatures, inFeatures, `${name}: scratch`);
      const state = { dense, state: weight, scratch, mask: keepMask, inverse, rho };
      for (let t = 0; t < iterations; t++) iterate(state, device);
    });
  },
} satisfies LayerSolver<AdmmUpdateOptions>;
