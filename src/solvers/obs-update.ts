/**
 * The OBS update for a mask that is already chosen: SparseGPT's sweep without its selection (arXiv:2301.00774). Columns
 * go from left to right, each pruned weight is made up for by the columns further right (obs.ts).
 *
 * It starts from the dense weight, whatever the step before made of it, so the result depends on the mask alone. It is
 * not the optimum for that mask (columns to the left are never revisited): admm-update comes closer and costs more.
 */
import { z } from "zod";
import { costOf, elementsOf, holding, inSequence } from "./cost.js";
import { disposeOnFailure } from "./matrices.js";
import { DAMPING, dropDeadInputs, factorCost, prepareHessian, walkCost, walkPanels, withFactor } from "./obs.js";
import { requireMask } from "./problem.js";
import type { LayerSolver } from "./solver.js";

const schema = z.strictObject(DAMPING);
export type ObsUpdateOptions = z.infer<typeof schema>;

export const obsUpdate = {
  name: "obs-update",
  summary: "correct the weights that an earlier step kept by SparseGPT's sweep, with its mask as it is",
  needs: ["gram"],
  startsFromMask: true,
  schema,
  cost(size) {
    const copied = costOf({ entries: elementsOf(size) });
    const factor = factorCost(size);
    return inSequence(copied, factor, holding(factor.bytes, walkCost(size)));
  },
  /**
   * `loss` is ½ tr(D·H·Dᵀ) with D the change of the dense weight and H the damped Hessian.
   *
   * @throws NumericalError E_NOT_POSITIVE_DEFINITE, E_NON_FINITE
   */
  solve(problem, options, { device }) {
    return disposeOnFailure(problem.weight, async () => {
      const keepMask = requireMask(problem);
      if (problem.dense !== undefined) device.copy(problem.dense, problem.weight);
      const hessian = await prepareHessian(problem, device);
      dropDeadInputs(problem, hessian, device);
      const { loss } = await withFactor(problem, hessian, options, device, (cholesky) =>
        walkPanels(problem, cholesky, keepMask, device, ({ sweep, width }) =>
          device.sweepPanel({ ...sweep, firstColumn: 0, columns: width }),
        ),
      );
      return { weight: problem.weight, keepMask, loss };
    });
  },
} satisfies LayerSolver<ObsUpdateOptions>;
