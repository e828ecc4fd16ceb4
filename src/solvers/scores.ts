/** Pruning by a matrix of scores that the host computed, for methods whose score is not |w| times a factor per column. */
import type { Device, KeepMask } from "../device/device.js";
import { pruneCount } from "../sparsity/target.js";
import type { LayerProblem } from "./solver.js";

/** Where the weights compete that are to go: over the whole matrix, or in each output row alone. */
export const GRANULARITIES = ["matrix", "row"] as const;
export type Granularity = (typeof GRANULARITIES)[number];

/**
 * Prune the weights of smallest |score|, exactly as many as the problem asks, and write the mask.
 *
 * @param scores [outFeatures, inFeatures], finite
 */
export function pruneByScores(
  problem: LayerProblem,
  scores: Float32Array,
  granularity: Granularity,
  keepMask: KeepMask,
  device: Device,
): void {
  const { name, weight, inFeatures, outFeatures, pattern, sparsity } = problem;
  using uploaded = device.uploadMatrix(scores, outFeatures, inFeatures, `${name}: scores`);
  using ones = device.uploadMatrix(new Float32Array(inFeatures).fill(1), 1, inFeatures, `${name}: ones`);
  if (pattern.kind === "n-of-m") device.selectGroups(uploaded, ones, pattern.keep, pattern.group, keepMask);
  else if (granularity === "row") device.selectRows(uploaded, ones, pruneCount(inFeatures, sparsity), keepMask);
  else device.selectMatrix(uploaded, ones, pruneCount(outFeatures * inFeatures, sparsity), keepMask);
  device.applyMask(weight, keepMask);
}
