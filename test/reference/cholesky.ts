/**
 * Float64 twins of the factorisations, column by column.
 * Reversed: H = R·Rᵀ with R upper triangular, worked from the last column to the first; L = Rᵀ, H = LᵀL.
 */

export interface ReferencePivotFailure {
  readonly column: number;
  readonly pivot: number;
}

/** R [n, n] upper triangular with H = R·Rᵀ, or the first pivot (from the last column down) that is not positive. */
export function referenceCholeskyReversed(h: ArrayLike<number>, n: number): Float64Array | ReferencePivotFailure {
  const a = Float64Array.from(h);
  const r = new Float64Array(n * n);
  for (let j = n - 1; j >= 0; j--) {
    const pivot = a[j * n + j];
    if (!(pivot > 0 && Number.isFinite(pivot))) return { column: j, pivot };
    const diagonal = Math.sqrt(pivot);
    for (let i = 0; i < j; i++) r[i * n + j] = a[j * n + i] / diagonal;
    r[j * n + j] = diagonal;
    for (let i = 0; i < j; i++) for (let k = 0; k <= i; k++) a[i * n + k] -= r[i * n + j] * r[k * n + j];
  }
  return r;
}

/** Ordinary lower Cholesky factor C of A = C·Cᵀ (lower triangle read). Throws where A is not positive definite. */
export function referenceCholesky(matrix: ArrayLike<number>, n: number): Float64Array {
  const c = new Float64Array(n * n);
  for (let j = 0; j < n; j++) {
    let pivot = matrix[j * n + j];
    for (let k = 0; k < j; k++) pivot -= c[j * n + k] ** 2;
    if (!(pivot > 0)) throw new Error(`pivot ${j} is ${pivot}`);
    c[j * n + j] = Math.sqrt(pivot);
    for (let i = j + 1; i < n; i++) {
      let sum = matrix[i * n + j];
      for (let k = 0; k < j; k++) sum -= c[i * n + k] * c[j * n + k];
      c[i * n + j] = sum / c[j * n + j];
    }
  }
  return c;
}

/** Inverse of an upper triangular matrix. */
export function referenceUpperInverse(r: ArrayLike<number>, n: number): Float64Array {
  const u = new Float64Array(n * n);
  for (let j = 0; j < n; j++) {
    u[j * n + j] = 1 / r[j * n + j];
    for (let i = j - 1; i >= 0; i--) {
      let sum = 0;
      for (let k = i + 1; k <= j; k++) sum += r[i * n + k] * u[k * n + j];
      u[i * n + j] = -sum / r[i * n + i];
    }
  }
  return u;
}

/** Inverse of a symmetric positive definite matrix through its Cholesky factor. */
export function referenceInverse(matrix: ArrayLike<number>, n: number): Float64Array {
  const c = referenceCholesky(matrix, n);
  const upper = new Float64Array(n * n); // Cᵀ
  for (let i = 0; i < n; i++) for (let j = 0; j <= i; j++) upper[j * n + i] = c[i * n + j];
  const s = referenceUpperInverse(upper, n); // C⁻ᵀ, so the inverse is s·sᵀ
  const inverse = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = 0;
      for (let k = i; k < n; k++) sum += s[i * n + k] * s[j * n + k];
      inverse[i * n + j] = sum;
      inverse[j * n + i] = sum;
    }
  }
  return inverse;
}
