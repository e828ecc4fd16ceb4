/** Float64 twins of the products and sums: straight loops over the formulas, no blocking. */

/** op(a)·op(b): a [m, k] (or [k, m] if transposeA), b [k, n] (or [n, k] if transposeB), all compact row-major. */
export function referenceMatmul(
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  shape: { readonly m: number; readonly n: number; readonly k: number },
  transposeA = false,
  transposeB = false,
): Float64Array {
  const { m, n, k } = shape;
  const out = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let l = 0; l < k; l++) {
      const left = transposeA ? a[l * m + i] : a[i * k + l];
      for (let j = 0; j < n; j++) out[i * n + j] += left * (transposeB ? b[j * k + l] : b[l * n + j]);
    }
  }
  return out;
}

/** xᵀx of x [tokens, n]: [n, n], both triangles. */
export function referenceGram(x: ArrayLike<number>, tokens: number, n: number): Float64Array {
  return referenceMatmul(x, x, { m: n, n, k: tokens }, true, false);
}

/** Σ over rows of x[r, c]²: [n]. */
export function referenceSquareSums(x: ArrayLike<number>, tokens: number, n: number): Float64Array {
  const sums = new Float64Array(n);
  for (let t = 0; t < tokens; t++) for (let c = 0; c < n; c++) sums[c] += x[t * n + c] * x[t * n + c];
  return sums;
}

/** a [rows, columns] transposed: [columns, rows]. */
export function referenceTranspose(a: ArrayLike<number>, rows: number, columns: number): Float64Array {
  const out = new Float64Array(rows * columns);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[c * rows + r] = a[r * columns + c];
  return out;
}
