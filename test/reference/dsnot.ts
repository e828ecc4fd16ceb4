/**
 * Twin of DSnoT (zyxxmu/DSnoT 4c029df) with full sorts, in double precision on f32 metrics. A row stops where the released
 * code would leave its lists. Masks are one byte per weight, 1 = kept.
 */
export interface ReferenceDsnotProblem {
  /** Dense, [rows, columns]. */
  readonly weight: ArrayLike<number>;
  readonly keep: Uint8Array;
  readonly rows: number;
  readonly columns: number;
  /** Σx² over all tokens / sequences. */
  readonly scalerRow: ArrayLike<number>;
  /** Σx over all tokens / sequences. */
  readonly sumRow: ArrayLike<number>;
  readonly variance: ArrayLike<number>;
  readonly cycles: number;
  readonly threshold: number;
  readonly sameSign: boolean;
  /** Width of N:M groups; absent: unstructured. */
  readonly group?: number;
}

export interface ReferenceDsnotResult {
  readonly keep: Uint8Array;
  /** Per row: whether it stopped because a list had no further entry. The released code goes on there, out of its lists. */
  readonly exhausted: readonly boolean[];
}

export function referenceDsnot(problem: ReferenceDsnotProblem): ReferenceDsnotResult {
  const { rows, columns } = problem;
  const keep = Uint8Array.from(problem.keep);
  const exhausted = Array.from({ length: rows }, (_, r) =>
    refineRow(problem, keep.subarray(r * columns, (r + 1) * columns), (c) => problem.weight[r * columns + c]),
  );
  return { keep, exhausted };
}

/** Refines the row in place and says whether a list was exhausted. */
function refineRow(problem: ReferenceDsnotProblem, keep: Uint8Array, w: (c: number) => number): boolean {
  const { columns, scalerRow, sumRow, variance, cycles, threshold, group } = problem;
  const all = Array.from({ length: columns }, (_, c) => c);
  const contribution = all.map((c) => Math.fround(w(c) * sumRow[c]));
  const score = all.map((c) => Math.fround(Math.abs(w(c)) * Math.sqrt(scalerRow[c])));
  const growth = (c: number): number => contribution[c] / variance[c];
  const pruned = all.filter((c) => keep[c] === 0);
  const kept = all.filter((c) => keep[c] === 1).sort((a, b) => score[a] - score[b] || a - b);
  const mayGrow = pruned.filter((c) => variance[c] > 0 && contribution[c] !== 0).sort((a, b) => growth(a) - growth(b));
  const positive = mayGrow.filter((c) => contribution[c] > 0).reverse();
  const negative = mayGrow.filter((c) => contribution[c] < 0);
  const keptPositive = kept.filter((c) => contribution[c] > 0);
  const keptNegative = kept.filter((c) => contribution[c] < 0);
  const first = pruned.reduce((sum, c) => sum + contribution[c], 0);
  const mustKeepSign = problem.sameSign || group !== undefined;
  const taken = new Set<number>();
  let error = first;
  for (let cycle = 0; cycle < cycles && Math.abs(error) > threshold; cycle++) {
    const grown = (error > 0 ? positive : negative).shift();
    if (grown === undefined) return true;
    let victim: number | undefined;
    if (group === undefined) victim = (error > 0 ? keptNegative : keptPositive).shift();
    else {
      victim = kept.find((c) => Math.floor(c / group) === Math.floor(grown / group) && !taken.has(c));
      if (victim === undefined) continue;
      taken.add(victim);
    }
    if (victim === undefined) return true;
    const next = error + contribution[victim] - contribution[grown];
    if (mustKeepSign && Math.sign(next) !== Math.sign(first)) return false;
    keep[victim] = 0;
    keep[grown] = 1;
    error = next;
  }
  return false;
}
