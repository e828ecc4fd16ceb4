/** Twin of Wanda (locuslab/wanda 8e8fc87): score |w|·sqrt(squareSums / sequences), per row or per N:M group. */
import { pruneCount } from "../../src/sparsity/target.js";
import { referenceScores, referenceSelectGroups, referenceSelectRows } from "./selection.js";

/** Input norms rounded to f32, as both the code of record and the solver store them. */
export function referenceInputNorms(squareSums: ArrayLike<number>, sequenceCount: number): Float32Array {
  return Float32Array.from({ length: squareSums.length }, (_, c) => Math.sqrt(squareSums[c] / sequenceCount));
}

/** One byte per weight, 1 = kept. */
export function referenceWanda(
  weight: ArrayLike<number>,
  norms: Float32Array,
  rows: number,
  columns: number,
  target: { readonly sparsity: number } | { readonly keep: number; readonly group: number },
): Uint8Array {
  const scores = referenceScores(weight, norms, rows, columns);
  if ("group" in target) return referenceSelectGroups(scores, rows, columns, target.keep, target.group);
  return referenceSelectRows(scores, rows, columns, pruneCount(columns, target.sparsity));
}
