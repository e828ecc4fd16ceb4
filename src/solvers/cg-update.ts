/**
 * The optimal weights for a mask that is already chosen, by conjugate gradients: every row solves the least squares problem
 * of its kept weights, all rows share the products with the Gram matrix (ALPS, arXiv:2406.07831, last step; preconditioned
 * to unit diagonal, splitting.ts).
 *
 * It starts from the weights as the step before left them, so it can also finish what another update began.
 */
import { z } from "zod";
import { costOf, elementsOf, holding, inSequence, matrixBytes } from "./cost.js";
import { refine, refinementCost, scaledCost, scaledGram, scaledGramCost, solveScaled } from "./splitting.js";
import type { LayerSolver } from "./solver.js";

const schema = z.strictObject({
  /** Fraction of the mean diagonal of the Gram matrix added to its diagonal, unitless. */
  damping: z.number().positive().finite().default(0.01),
  /** Conjugate gradient steps. */
  steps: z.number().int().min(1).default(10),
});
export type CgUpdateOptions = z.infer<typeof schema>;

export const cgUpdate = {
  name: "cg-update",
  summary: "bring the weights that an earlier step kept to their optimum for its mask by conjugate gradients",
  needs: ["gram"],
  startsFromMask: true,
  schema,
  cost(size, { steps }) {
    const { inFeatures: C, outFeatures: R } = size;
    const prepared = costOf({ entries: C ** 2 + elementsOf(size) });
    const refining = holding(matrixBytes(C, C) + matrixBytes(R, C), refinementCost(size, steps));
    return scaledCost(size, inSequence(scaledGramCost(size), prepared, refining));
  },
  /**
   * `loss` is tr(D·G·Dᵀ) / sequences with D the change of the dense weight: the squared output error, undamped.
   *
   * @throws NumericalError E_NON_FINITE
   */
  solve(problem, { damping, steps }, { device }) {
    const scheme = { damping: { fraction: damping, when: "before" }, mask: "given" } as const;
    return solveScaled(problem, scheme, device, ({ scaling, dense, weight, keepMask }) => {
      device.applyMask(weight, keepMask);
      using gram = scaledGram(problem, scaling, 0, device);
      device.mirrorLower(gram);
      using residual = device.createMatrix(problem.outFeatures, problem.inFeatures, `${problem.name}: residual`);
      refine({ problem, gram, dense, solution: weight, residual, keepMask, steps }, device);
    });
  },
} satisfies LayerSolver<CgUpdateOptions>;
