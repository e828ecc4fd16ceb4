/**
 * Wanda (Sun, Liu, Bair, Kolter 2023, arXiv:2306.11695): a weight is worth |w|·‖x‖₂ of its input channel; the least
 * worthy of every output row go (or of every N:M group). Kept weights do not change.
 *
 * ‖x_c‖ = sqrt(Σ over tokens of x_c² / number of sequences), as locuslab/wanda `layerwrapper.py` computes it. The
 * comparison is per row, floor(inFeatures · sparsity) weights each, ties pruned from the lower input.
 *
 * `variant: "alpha"` lets rows lose different numbers of weights: each as many of its least as make up the share α of the
 * sum of its scores, with one α for the matrix such that the asked number goes. The released code finds α by bisection to
 * 0.001 of the sparsity; here a weight's own α (the share of its row's sum up to and including it) is its score, and an
 * exact selection over the matrix takes the place of the search.
 */
import { z } from "zod";
import { formatPattern } from "../sparsity/pattern.js";
import { costOf, elementsOf, inSequence } from "./cost.js";
import { expectFiniteStatistics, expectFit, requireStatistic } from "./problem.js";
import { chooseByScores, chooseByWeight, chosenByScoresCost, chosenByWeightCost, pruneByMask } from "./selection.js";
import type { LayerSolver } from "./solver.js";

const schema = z.strictObject({
  /** "alpha" lets the number of zeros differ between rows; unstructured only. */
  variant: z.enum(["rows", "alpha"]).default("rows"),
});
export type WandaOptions = z.infer<typeof schema>;

export const wanda: LayerSolver<WandaOptions> = {
  name: "wanda",
  summary: "remove the weights of smallest |w|·‖input‖ in each output row; fast, no weight update",
  needs: ["column-norms"],
  schema,
  misfit: ({ variant }, pattern) =>
    variant === "alpha" && pattern.kind === "n-of-m"
      ? `the variant "alpha" has no meaning for ${formatPattern(pattern)}, where every group loses the same number`
      : undefined,
  /** "alpha" sorts every row on the host. */
  cost: (size, { variant }) =>
    variant === "rows"
      ? chosenByWeightCost(size)
      : inSequence(costOf({ entries: elementsOf(size) }), chosenByScoresCost(size, 2 + 2 * Math.log2(size.inFeatures))),
  solve(problem, { variant }, { device }) {
    return pruneByMask(problem, device, async (keepMask) => {
      expectFit(wanda, { variant }, problem.pattern);
      const { weight, statistics } = problem;
      const squareSums = requireStatistic(problem, "squareSums");
      expectFiniteStatistics(problem.name, squareSums);
      const inputNorms = squareSums.map((sum) => Math.sqrt(sum / statistics.sequenceCount));
      if (variant === "alpha") {
        const scores = sharesOfRows(await device.download({ matrix: weight }), inputNorms);
        chooseByScores(problem, scores, "matrix", keepMask, device);
      } else chooseByWeight(problem, keepMask, device, { scale: inputNorms, granularity: "row" });
    });
  },
};

/** For every weight the share of its row's scores that lie up to and including it, in ascending order. */
function sharesOfRows(weights: Float32Array, norms: Float32Array): Float32Array {
  const columns = norms.length;
  const shares = new Float32Array(weights.length);
  const order = new Uint32Array(columns);
  for (let start = 0; start < weights.length; start += columns) {
    const scores = Float32Array.from(norms, (norm, c) => Math.abs(weights[start + c]) * norm);
    const total = scores.reduce((sum, score) => sum + score, 0);
    for (let c = 0; c < columns; c++) order[c] = c;
    order.sort((x, y) => scores[x] - scores[y] || x - y);
    let running = 0;
    for (const c of order) {
      running += scores[c];
      shares[start + c] = total === 0 ? 0 : running / total;
    }
  }
  return shares;
}
