/**
 * From a fraction of zeros to counts. Counts are exact floors of the mathematical product, protected against the
 * rounding of its factors: 0.29 of 100 is 29 although 0.29 * 100 is 28.999999999999996 in binary.
 */

/** floor(elements * sparsity), where a product within rounding of an integer is that integer. */
export function pruneCount(elements: number, sparsity: number): number {
  const product = elements * sparsity;
  const nearest = Math.round(product);
  // The stored fraction and the product each carry a relative error of at most 2⁻⁵³.
  return Math.abs(product - nearest) <= product * Number.EPSILON ? nearest : Math.floor(product);
}

/**
 * Zeros of the elements [start, end) of a sequence such that every prefix has floor(prefix * sparsity): blocks chosen
 * one after another reach the exact count of the whole.
 */
export function pruneCountOfRange(start: number, end: number, sparsity: number): number {
  return pruneCount(end, sparsity) - pruneCount(start, sparsity);
}

/** How many weights of a comparison group go: exactly the asked number, or what the papers' released code removes. */
export const COUNTINGS = ["exact", "released"] as const;

/** The released code prunes all scores up to the one at index floor(n * sparsity): one more than asked. Ties aside. */
export function releasedPruneCount(elements: number, sparsity: number): number {
  return Math.min(elements, pruneCount(elements, sparsity) + 1);
}
