/**
 * Float64 twin of ALPS (arXiv:2406.07831) with separate B, D and the unscaled dual V, an explicit inverse for every ρ, and
 * conjugate gradients row by row. Weights [rows, columns].
 */
import { pruneCount } from "../../src/sparsity/target.js";
import { referencePrecondition } from "./admm.js";
import { referenceInverse } from "./cholesky.js";
import { referenceConjugateStep, type ReferenceConjugateState } from "./masked.js";
import { referenceMatmul } from "./products.js";
import { pruneSmallest } from "./selection.js";

export interface ReferenceAlpsProblem {
  readonly weight: ArrayLike<number>;
  /** Σxxᵀ */
  readonly gram: ArrayLike<number>;
  readonly rows: number;
  readonly columns: number;
  readonly damping: number;
  readonly rho: number;
  readonly iterations: number;
  readonly refinements: number;
  readonly target: { readonly sparsity: number } | { readonly keep: number; readonly group: number };
}

export interface ReferenceAlpsResult {
  readonly weight: Float64Array;
  readonly keep: Uint8Array;
  /** Iterations until the support had settled. */
  readonly iterations: number;
}

export function referenceAlps(problem: ReferenceAlpsProblem): ReferenceAlpsResult {
  const { rows, columns: n, target } = problem;
  const meanDiagonal = Array.from({ length: n }, (_, c) => problem.gram[c * (n + 1)]).reduce((x, y) => x + y, 0) / n;
  const { norms, scaled: a } = referencePrecondition(problem.gram, n, problem.damping * meanDiagonal);
  const dense = Float64Array.from(problem.weight, (value, i) => value * norms[i % n]);
  const shape = { m: rows, n, k: n };
  const y = referenceMatmul(dense, a, shape);
  const inverseFor = (rho: number): Float64Array =>
    referenceInverse(
      a.map((value, i) => value + (i % (n + 1) === 0 ? rho : 0)),
      n,
    );
  const support = (x: Float64Array): Uint8Array => largest(x, target);
  const masked = (x: Float64Array, keep: Uint8Array): Float64Array => x.map((value, i) => value * keep[i]);
  const kept = support(dense).filter((bit) => bit === 1).length;

  let b: Float64Array = dense;
  let seen = support(dense);
  let d = masked(dense, seen);
  let v: Float64Array = new Float64Array(rows * n);
  let rho = problem.rho;
  let inverse = inverseFor(rho);
  let started = false;
  let iteration = 0;
  while (iteration < problem.iterations) {
    b = referenceMatmul(
      y.map((value, i) => value - v[i] + rho * d[i]),
      inverse,
      shape,
    );
    const p = b.map((value, i) => value + v[i] / rho);
    const keep = support(p);
    d = masked(p, keep);
    v = v.map((value, i) => value + rho * (b[i] - d[i]));
    iteration += 1;
    if (iteration % 3 !== 0) continue;
    const moved = keep.reduce((sum, bit, i) => sum + Number(bit !== seen[i]), 0);
    seen = keep;
    const factor = moved > 0.1 * kept ? 1.3 : moved > 0.005 * kept ? 1.2 : moved >= 1 && started ? 1.1 : undefined;
    if (factor !== undefined) {
      started = true;
      rho = Math.min(1e6, rho * factor);
    } else if (started) break;
    else {
      rho /= 5;
      if (moved >= 1) {
        seen = support(dense);
        d = masked(dense, seen);
        v = new Float64Array(rows * n);
      }
    }
    if (iteration > 30 && moved < 3e-4 * kept) break;
    inverse = inverseFor(rho);
  }

  const keep = support(b);
  const solution = masked(b, keep);
  const product = referenceMatmul(solution, a, shape);
  const residual = masked(
    y.map((value, i) => value - product[i]),
    keep,
  );
  let state: ReferenceConjugateState = { solution, residual, direction: residual };
  for (let step = 0; step < problem.refinements; step++) {
    state = referenceConjugateStep(state, referenceMatmul(state.direction, a, shape), keep, rows);
  }
  return { weight: state.solution.map((value, i) => value / norms[i % n]), keep, iterations: iteration };
}

function largest(x: Float64Array, target: ReferenceAlpsProblem["target"]): Uint8Array {
  const scores = x.map(Math.abs);
  const keep = new Uint8Array(x.length).fill(1);
  const indices = Array.from(x, (_, i) => i);
  if ("sparsity" in target) pruneSmallest(scores, indices, pruneCount(x.length, target.sparsity), keep);
  else
    for (let first = 0; first < x.length; first += target.group)
      pruneSmallest(scores, indices.slice(first, first + target.group), target.group - target.keep, keep);
  return keep;
}
