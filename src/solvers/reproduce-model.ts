/**
 * Any method, asked to reproduce the dense model's outputs instead of the dense weight's (asymmetric calibration: GPTAQ,
 * Li et al. 2025, arXiv:2504.02692; "global propagation" in Shin et al. 2024, arXiv:2406.15524).
 *
 * With x the inputs that a pruned model gives to a linear, x̃ the dense model's at the same place and W the dense weight,
 *
 *     minimise Σ ‖V·x - W·x̃‖² + ‖(V - W)·Λ^½‖² over V:    V = W + W·E·(G + Λ)⁻¹,   E = Σ (x̃ - x)xᵀ,   G = Σ xxᵀ
 *
 * is the best dense weight for the inputs at hand: it makes up for what pruning did to earlier layers as far as a linear
 * map can. The method then prunes V as it would W. Λ, a fraction of G's diagonal, pulls V to W where inputs hardly vary.
 */
import type { Device } from "../device/device.js";
import {
  costOf,
  inSequence,
  inverseOf,
  matrixBytes,
  productOf,
  repeated,
  type LayerSize,
  type SolveCost,
} from "./cost.js";
import { copyMatrix, disposeOnFailure, invert } from "./matrices.js";
import { requireStatistic } from "./problem.js";
import type { LayerProblem } from "./solver.js";

/** Λ relative to each input's own energy, as in ADMM's damping; from 0.01 to 0.1 nothing much changes (docs/decisions/0007). */
const RIDGE = 0.1;

/** What reproducing the model adds to any method: it is done to a linear's problem before the method sees it. */
export const REPRODUCE_MODEL = {
  needs: ["gram", "inherited-errors"],
  cost(size: LayerSize): SolveCost {
    const { inFeatures: C, outFeatures: R } = size;
    const copied = costOf({ entries: C ** 2, bytes: matrixBytes(C, C) + matrixBytes(R, C) });
    return inSequence(copied, inverseOf(size), repeated(2, productOf(size)));
  },
  /**
   * `problem.weight` becomes V; where the statistics say nothing of the dense model's inputs it stays W. Disposed of where
   * that fails.
   * @throws NumericalError E_NOT_POSITIVE_DEFINITE
   */
  async retarget(problem: LayerProblem, device: Device): Promise<void> {
    await disposeOnFailure(problem.weight, () => retarget(problem, device));
  },
} as const;

async function retarget(problem: LayerProblem, device: Device): Promise<void> {
  const { name, weight, inFeatures, outFeatures, statistics } = problem;
  const { errors } = statistics;
  if (errors === undefined) return;
  const gram = requireStatistic(problem, "gram");
  const diagonal = await device.downloadDiagonal(gram);
  using inverse = copyMatrix(device, gram, `${name}: inverse of the Gram matrix`);
  device.setDiagonal(
    inverse,
    diagonal.map((value) => (value === 0 ? 1 : (1 + RIDGE) * value)),
  );
  await invert(problem, inverse, device);
  using inherited = device.createMatrix(outFeatures, inFeatures, `${name}: inherited errors`);
  device.matmul({ a: { matrix: weight }, b: { matrix: errors }, out: { matrix: inherited } });
  device.matmul({ a: { matrix: inherited }, b: { matrix: inverse }, out: { matrix: weight }, beta: 1 });
}
