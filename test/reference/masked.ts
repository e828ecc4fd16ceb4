/** Float64 twins of the steps that follow a mask entry by entry. A mask here is one byte per weight, 1 = kept. */

type Pair = readonly [number, number];

/** a·coefficient + b·coefficient, entry by entry. */
export function referenceCombine(
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  keep: Uint8Array,
  kept: Pair,
  pruned: Pair,
): Float64Array {
  return Float64Array.from(keep, (bit, i) => {
    const [onA, onB] = bit === 1 ? kept : pruned;
    return onA * a[i] + onB * b[i];
  });
}

/** Σ_c a[r, c]·b[r, c] for every row. */
export function referenceRowDots(a: ArrayLike<number>, b: ArrayLike<number>, rows: number): Float64Array {
  const columns = a.length / rows;
  const dots = new Float64Array(rows);
  for (let i = 0; i < a.length; i++) dots[Math.floor(i / columns)] += a[i] * b[i];
  return dots;
}

export interface ReferenceConjugateState {
  readonly solution: Float64Array;
  readonly residual: Float64Array;
  readonly direction: Float64Array;
}

/** One conjugate gradient step per row, from the textbook; `product` is direction·A. Returns the new state. */
export function referenceConjugateStep(
  state: ReferenceConjugateState,
  product: ArrayLike<number>,
  keep: Uint8Array,
  rows: number,
): ReferenceConjugateState {
  const columns = keep.length / rows;
  const square = referenceRowDots(state.residual, state.residual, rows);
  const curvature = referenceRowDots(state.direction, product, rows);
  const row = (i: number): number => Math.floor(i / columns);
  const moves = (i: number): boolean => square[row(i)] > 0 && curvature[row(i)] > 0;
  const alpha = (i: number): number => (moves(i) ? square[row(i)] / curvature[row(i)] : 0);
  const solution = state.solution.map((x, i) => x + alpha(i) * state.direction[i]);
  const residual = state.residual.map((r, i) => (moves(i) ? (r - alpha(i) * product[i]) * keep[i] : r));
  const next = referenceRowDots(residual, residual, rows);
  const direction = residual.map((r, i) =>
    moves(i) ? r + (next[row(i)] / square[row(i)]) * state.direction[i] : state.direction[i],
  );
  return { solution, residual, direction };
}
