/** Twin of magnitude pruning: smallest |w| of the whole matrix, or of each N:M group. */
import { pruneCount } from "../../src/sparsity/target.js";
import { referenceScores, referenceSelectGroups, referenceSelectMatrix } from "./selection.js";

/**
 * One byte per weight, 1 = kept.
 * `officialThreshold` prunes what is at or below the element of index floor(n·s), one more than asked.
 */
export function referenceMagnitude(
  weight: ArrayLike<number>,
  rows: number,
  columns: number,
  target:
    | { readonly sparsity: number; readonly officialThreshold?: boolean }
    | { readonly keep: number; readonly group: number },
): Uint8Array {
  const scores = referenceScores(weight, new Float32Array(columns).fill(1), rows, columns);
  if ("group" in target) return referenceSelectGroups(scores, rows, columns, target.keep, target.group);
  const extra = target.officialThreshold === true ? 1 : 0;
  return referenceSelectMatrix(scores, rows, columns, pruneCount(rows * columns, target.sparsity) + extra);
}
