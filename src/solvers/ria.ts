/**
 * RIA, relative importance and activations (Zhang et al. 2024, "Plug-and-Play", ICLR): a weight counts relative to its
 * input's and its output's other weights, so that no channel is pruned away.
 *
 *     S_ij = (|w_ij| / Σ_i |w_ij| + |w_ij| / Σ_j |w_ij|) · ‖x_j‖^a,   ‖x_j‖ = sqrt(Σ x_j² / sequences)
 *
 * The least worthy of the whole matrix go (the code's default; `granularity: "row"` as Wanda), or of every N:M group. Its
 * code prunes one weight more than asked (threshold with <=). The paper's channel permutation for N:M is an option of a run
 * with any method, see src/sparsity/permutation.ts.
 */
import { z } from "zod";
import { costOf, elementsOf, inSequence } from "./cost.js";
import { expectFiniteStatistics, requireStatistic } from "./problem.js";
import { chooseByScores, chosenByScoresCost, GRANULARITIES, pruneByMask } from "./selection.js";
import type { LayerSolver } from "./solver.js";

const schema = z.strictObject({
  /** Exponent a of the input norms. */
  power: z.number().min(0).finite().default(0.5),
  granularity: z.enum(GRANULARITIES).default("matrix"),
});
export type RiaOptions = z.infer<typeof schema>;

export const ria = {
  name: "ria",
  summary:
    "remove the weights of smallest importance relative to their row and column, times ‖input‖^½; no weight update",
  needs: ["column-norms"],
  schema,
  /** The weight is downloaded, its sums are taken and its scores. */
  cost: (size) => inSequence(costOf({ entries: elementsOf(size) }), chosenByScoresCost(size, 3)),
  solve(problem, { power, granularity }, { device }) {
    return pruneByMask(problem, device, async (keepMask) => {
      const { name, weight, inFeatures, outFeatures, statistics } = problem;
      const squareSums = requireStatistic(problem, "squareSums");
      expectFiniteStatistics(name, squareSums);
      const factors = Float64Array.from(squareSums, (sum) => Math.sqrt(sum / statistics.sequenceCount) ** power);
      const scores = relativeImportance(await device.download({ matrix: weight }), outFeatures, inFeatures, factors);
      chooseByScores(problem, scores, granularity, keepMask, device);
    });
  },
} satisfies LayerSolver<RiaOptions>;

/** S [rows, columns]; a row or column of zeros has importance 0. */
function relativeImportance(w: Float32Array, rows: number, columns: number, factors: Float64Array): Float32Array {
  const rowSums = new Float64Array(rows);
  const columnSums = new Float64Array(columns);
  for (let r = 0, i = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++, i++) {
      const magnitude = Math.abs(w[i]);
      rowSums[r] += magnitude;
      columnSums[c] += magnitude;
    }
  }
  const inverse = (sum: number): number => (sum === 0 ? 0 : 1 / sum);
  const [perRow, perColumn] = [rowSums.map(inverse), columnSums.map(inverse)];
  const scores = new Float32Array(rows * columns);
  for (let r = 0, i = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++, i++) scores[i] = Math.abs(w[i]) * (perRow[r] + perColumn[c]) * factors[c];
  }
  return scores;
}
