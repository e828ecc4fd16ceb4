/**
 * Magnitude pruning: the smallest |w| of a whole weight matrix go (or of every row, or of every N:M group). Needs no calibration data.
 * As the baseline of locuslab/wanda `prune_magnitude`, but exact: that code also prunes the
 * weight at the threshold (`counting: "released"` does too, without its further ones among ties).
 */
import { z } from "zod";
import { COUNTINGS, pruneCount, releasedPruneCount } from "../sparsity/target.js";
import { chooseByWeight, chosenByWeightCost, GRANULARITIES, pruneByMask } from "./selection.js";
import type { LayerSolver } from "./solver.js";

const schema = z.strictObject({
  /** "released" prunes the one weight more per matrix that the released code does: to reproduce published numbers. */
  counting: z.enum(COUNTINGS).default("exact"),
  /** Whether weights compete over the whole matrix or in each output row alone. */
  granularity: z.enum(GRANULARITIES).default("matrix"),
});
export type MagnitudeOptions = z.infer<typeof schema>;

export const magnitude: LayerSolver<MagnitudeOptions> = {
  name: "magnitude",
  summary: "remove the weights of smallest magnitude in each matrix; needs no calibration data",
  needs: [],
  schema,
  cost: chosenByWeightCost,
  solve(problem, { counting, granularity }, { device }) {
    const count = counting === "exact" ? pruneCount : releasedPruneCount;
    return pruneByMask(problem, device, (keepMask) =>
      chooseByWeight(problem, keepMask, device, { granularity, count }),
    );
  },
};
