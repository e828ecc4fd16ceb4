/**
 * GBLM-Pruner (Das, Ma, Shen 2023, arXiv:2311.04902): Wanda's score with a share of gradients.
 *
 *     S_ij = |w_ij| · (‖x_j‖ + α · A_ij),   ‖x_j‖ = sqrt(Σ x_j² / sequences),   A = Σ_n |G_n| ("l1") or sqrt(Σ_n G_n²) ("l2")
 *
 * with G_n the gradient of calibration sequence n by itself in the dense model, and ‖x_j‖ of the inputs as they are when the
 * layer is solved. The least worthy of every output row go, or of every N:M group, ties pruned from the lower input. The
 * released code has α as a factor of its stored gradients.
 */
import { z } from "zod";
import { costOf, elementsOf, inSequence } from "./cost.js";
import { expectFiniteStatistics, requireGradients, requireStatistic } from "./problem.js";
import { chooseByScores, chosenByScoresCost, pruneByMask } from "./selection.js";
import type { GradientStatistic, LayerSolver } from "./solver.js";

const schema = z.strictObject({
  /** How the sequences' gradients come together. */
  norm: z.enum(["l1", "l2"]).default("l1"),
  /** Factor on them; 0 is Wanda. */
  alpha: z.number().min(0).finite().default(100),
});
export type GblmOptions = z.infer<typeof schema>;

const STATISTIC: Readonly<Record<GblmOptions["norm"], GradientStatistic>> = {
  l1: "gradient-magnitudes",
  l2: "gradient-squares",
};

export const gblm: LayerSolver<GblmOptions> = {
  name: "gblm",
  summary: "remove the weights of smallest |w|·(‖input‖ + 100·‖gradient‖) in each output row; no weight update",
  needs: ["column-norms"],
  gradients: ({ norm }) => [STATISTIC[norm]],
  schema,
  /** The weight is downloaded and its scores are taken. */
  cost: (size) => inSequence(costOf({ entries: elementsOf(size) }), chosenByScoresCost(size, 1)),
  solve(problem, { norm, alpha }, { device }) {
    return pruneByMask(problem, device, async (keepMask) => {
      const { name, weight, inFeatures, statistics } = problem;
      const squareSums = requireStatistic(problem, "squareSums");
      expectFiniteStatistics(name, squareSums);
      const norms = squareSums.map((sum) => Math.sqrt(sum / statistics.sequenceCount));
      const gradients = requireGradients(problem, STATISTIC[norm]);
      const scores = (await device.download({ matrix: weight })).map((value, i) => {
        const gradient = norm === "l2" ? Math.sqrt(gradients[i]) : gradients[i];
        return Math.abs(value) * (norms[i % inFeatures] + alpha * gradient);
      });
      chooseByScores(problem, scores, "row", keepMask, device);
    });
  },
};
