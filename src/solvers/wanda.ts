/**
 * Wanda (Sun, Liu, Bair, Kolter 2023, arXiv:2306.11695): a weight is worth |w|·‖x‖₂ of its input channel; the least
 * worthy of every output row go (or of every N:M group). Kept weights do not change.
 *
 * ‖x_c‖ = sqrt(Σ over tokens of x_c² / number of sequences), as locuslab/wanda `layerwrapper.py` computes it. The
 * comparison is per row, floor(inFeatures · sparsity) weights each, ties pruned from the lower input.
 */
import { z } from "zod";
import { pruneCount } from "../sparsity/target.js";
import { disposeOnFailure, expectFiniteStatistics, expectGroupsFit, requireStatistic } from "./layer.js";
import type { LayerSolver } from "./solver.js";

const schema = z.strictObject({});
export type WandaOptions = z.infer<typeof schema>;

export const wanda: LayerSolver<WandaOptions> = {
  name: "wanda",
  summary: "remove the weights of smallest |w|·‖input‖ in each output row; fast, no weight update",
  needs: ["column-norms"],
  schema,
  solve(problem, _options, { device }) {
    return disposeOnFailure(problem.weight, async (owned) => {
      expectGroupsFit(problem);
      const { weight, inFeatures, outFeatures, pattern, statistics } = problem;
      const squareSums = requireStatistic(problem, "squareSums");
      expectFiniteStatistics(problem.name, squareSums);
      const inputNorms = squareSums.map((sum) => Math.sqrt(sum / statistics.sequenceCount));
      using norms = device.uploadMatrix(inputNorms, 1, inFeatures, `${problem.name}: input norms`);
      const keepMask = owned(device.createMask(outFeatures, inFeatures, `${problem.name}: keep mask`));
      if (pattern.kind === "n-of-m") device.selectGroups(weight, norms, pattern.keep, pattern.group, keepMask);
      else device.selectRows(weight, norms, pruneCount(inFeatures, problem.sparsity), keepMask);
      device.applyMask(weight, keepMask);
      await device.synchronize();
      return { weight, keepMask, loss: undefined };
    });
  },
};
