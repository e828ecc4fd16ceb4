/** Float64 twin of solveRowSystems: gather, plain Gaussian elimination, scatter. */

/** x with matrix·x = y, by Gaussian elimination with row exchanges. */
export function solveLinear(matrix: readonly (readonly number[])[], y: readonly number[]): number[] {
  const n = y.length;
  const rows = matrix.map((row, i) => [...row, y[i]]);
  for (let j = 0; j < n; j++) {
    let pivot = j;
    for (let i = j + 1; i < n; i++) if (Math.abs(rows[i][j]) > Math.abs(rows[pivot][j])) pivot = i;
    [rows[j], rows[pivot]] = [rows[pivot], rows[j]];
    for (let i = j + 1; i < n; i++) {
      const factor = rows[i][j] / rows[j][j];
      for (let k = j; k <= n; k++) rows[i][k] -= factor * rows[j][k];
    }
  }
  const x = new Array<number>(n).fill(0);
  for (let j = n - 1; j >= 0; j--) {
    let sum = rows[j][n];
    for (let k = j + 1; k < n; k++) sum -= rows[j][k] * x[k];
    x[j] = sum / rows[j][j];
  }
  return x;
}

/**
 * λ [rows, width] with λ·K[q, q] = w[q] on the pruned columns q of each row, and ½ λ·w per row.
 * @param weight [rows, width]
 * @param keep one byte per weight, 1 = kept
 */
export function referenceRowSystems(
  weight: ArrayLike<number>,
  matrix: ArrayLike<number>,
  keep: Uint8Array,
  width: number,
): { readonly multipliers: Float64Array; readonly losses: Float64Array } {
  const multipliers = new Float64Array(keep.length);
  const losses = new Float64Array(keep.length / width);
  for (let r = 0; r < losses.length; r++) {
    const q = [...Array(width).keys()].filter((c) => keep[r * width + c] === 0);
    const removed = q.map((c) => weight[r * width + c]);
    solveLinear(
      q.map((i) => q.map((j) => matrix[i * width + j])),
      removed,
    ).forEach((value, k) => {
      multipliers[r * width + q[k]] = value;
      losses[r] += (value * removed[k]) / 2;
    });
  }
  return { multipliers, losses };
}
