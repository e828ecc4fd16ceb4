/**
 * The score of Wanda++ (Yang et al. 2025, arXiv:2503.04992): Wanda's with a share of regional gradients.
 *
 *     S_ij = |w_ij| · (α · G_ij + ‖x_j‖),   G_ij = sqrt(mean_n (∂L_n/∂w_ij)²),   ‖x_j‖ = sqrt(Σ x_j² / sequences)
 *
 * with L_n = ‖block(X_n)‖₂, the norm of what the block, as it is before it is pruned, makes of calibration sequence n. The
 * least worthy of every output row go, or of every N:M group, ties pruned from the lower input. The rounds of training the
 * block and pruning it again by the same G and ‖x‖ are training/regional-optimisation.ts's business.
 */
import { z } from "zod";
import { costOf, elementsOf, inSequence } from "./cost.js";
import { expectFiniteStatistics, requireGradients, requireStatistic } from "./problem.js";
import { chooseByScores, chosenByScoresCost, pruneByMask } from "./selection.js";
import type { LayerSolver } from "./solver.js";

const schema = z.strictObject({
  /** Factor on the gradients; 0 is Wanda. */
  alpha: z.number().min(0).finite().default(100),
  /** Of regional optimisation; 0 takes the score alone. */
  rounds: z.number().int().min(0).default(5),
  /** Sequences of a round, one to a step. */
  samples: z.number().int().min(1).default(32),
  /** Rate of RMSprop. Default: 3e-7 · 4096 / hidden size. */
  lr: z.number().positive().max(1).optional(),
});
export type WandaPlusPlusOptions = z.infer<typeof schema>;

export const wandaPlusPlus: LayerSolver<WandaPlusPlusOptions> = {
  name: "wanda++",
  summary:
    "remove the weights of smallest |w|·(100·‖gradient of the block's output norm‖ + ‖input‖) in each output row, train the block and do it again",
  needs: ["column-norms"],
  gradients: () => ["regional-gradients"],
  solvesAgain: ({ rounds }) => rounds > 0,
  schema,
  /** The weight is downloaded and its scores are taken. */
  cost: (size) => inSequence(costOf({ entries: elementsOf(size) }), chosenByScoresCost(size, 1)),
  solve(problem, { alpha }, { device }) {
    return pruneByMask(problem, device, async (keepMask) => {
      const { name, weight, inFeatures, statistics } = problem;
      const squareSums = requireStatistic(problem, "squareSums");
      expectFiniteStatistics(name, squareSums);
      const norms = squareSums.map((sum) => Math.sqrt(sum / statistics.sequenceCount));
      const gradients = requireGradients(problem, "regional-gradients");
      const scores = (await device.download({ matrix: weight })).map(
        (value, i) => Math.abs(value) * (alpha * gradients[i] + norms[i % inFeatures]),
      );
      chooseByScores(problem, scores, "row", keepMask, device);
    });
  },
};
