/** Twin of the weight that reproduces the dense model best, in float64: V = W + W·E·(G + ridge·diag(G))⁻¹. */
import { referenceInverse } from "./cholesky.js";
import { referenceMatmul } from "./products.js";

/**
 * @param weight [rows, columns]
 * @param errors Σ (x̃ - x)xᵀ, [columns, columns]
 * @param gram Σ xxᵀ, [columns, columns]
 */
export function referenceRetargeted(
  weight: ArrayLike<number>,
  { errors, gram }: { readonly errors: ArrayLike<number>; readonly gram: ArrayLike<number> },
  rows: number,
  columns: number,
  ridge: number,
): Float64Array {
  const damped = Float64Array.from(gram, (value, i) => {
    if (i % (columns + 1) !== 0) return value;
    return value === 0 ? 1 : (1 + ridge) * value;
  });
  const inverse = referenceInverse(damped, columns);
  const shape = { m: rows, n: columns, k: columns };
  const corrections = referenceMatmul(referenceMatmul(weight, errors, shape), inverse, shape);
  return corrections.map((correction, i) => correction + weight[i]);
}
