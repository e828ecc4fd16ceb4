/**
 * SNIP (Lee, Ajanthan, Torr 2019, arXiv:1810.02340) for a model that is trained: a weight is worth how much the loss is moved
 * by a gate on it, |w · ∂L/∂w|. With G_i the gradient of calibration sequence i by itself, `accumulate` says how they come together:
 *
 *     "magnitudes"  |w| · Σ |G_i|          near a minimum gradients of sequences cancel, their magnitudes do not
 *     "sum"         |w · Σ G_i|            the original, of all sequences as one batch
 *     "squares"     |w| · sqrt(Σ G_i²)     the square root of OBD's with the diagonal of the empirical Fisher matrix
 *
 * The least worthy of each matrix go (or of every row, or of every N:M group), ties pruned from the lower input. The paper
 * prunes the network as a whole, before training, from one batch.
 */
import { z } from "zod";
import { costOf, elementsOf, inSequence } from "./cost.js";
import { requireGradients } from "./problem.js";
import { chooseByScores, chosenByScoresCost, GRANULARITIES, pruneByMask } from "./selection.js";
import type { GradientStatistic, LayerSolver } from "./solver.js";

const schema = z.strictObject({
  accumulate: z.enum(["magnitudes", "sum", "squares"]).default("magnitudes"),
  granularity: z.enum(GRANULARITIES).default("matrix"),
});
export type SnipOptions = z.infer<typeof schema>;

const STATISTIC: Readonly<Record<SnipOptions["accumulate"], GradientStatistic>> = {
  magnitudes: "gradient-magnitudes",
  sum: "gradient-sums",
  squares: "gradient-squares",
};

export const snip: LayerSolver<SnipOptions> = {
  name: "snip",
  summary: "remove the weights whose removal moves the loss least, by its gradients: |w|·Σ|gradient|; no weight update",
  needs: [],
  gradients: ({ accumulate }) => [STATISTIC[accumulate]],
  schema,
  /** The weight is downloaded and its scores are taken. */
  cost: (size) => inSequence(costOf({ entries: elementsOf(size) }), chosenByScoresCost(size, 1)),
  solve(problem, { accumulate, granularity }, { device }) {
    return pruneByMask(problem, device, async (keepMask) => {
      const gradients = requireGradients(problem, STATISTIC[accumulate]);
      const scores = (await device.download({ matrix: problem.weight })).map((weight, i) => {
        const gradient = gradients[i];
        return Math.abs(weight * (accumulate === "squares" ? Math.sqrt(gradient) : gradient));
      });
      chooseByScores(problem, scores, granularity, keepMask, device);
    });
  },
};
