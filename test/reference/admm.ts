/**
 * Float64 twin of ADMM pruning in its textbook form (Boža 2024, Algorithm 1; fmfi-compbio/admm-pruning 8039208): separate
 * W, Z and U, an explicit inverse, weights [rows, columns]. `keep` fixes the mask. Shares nothing with the solvers but the
 * formulas and the counts.
 */
import { pruneCount } from "../../src/sparsity/target.js";
import { referenceInverse } from "./cholesky.js";
import { referenceMatmul } from "./products.js";
import { pruneSmallest } from "./selection.js";

export interface ReferenceAdmmProblem {
  /** [rows, columns] */
  readonly weight: ArrayLike<number>;
  /** Σxxᵀ, [columns, columns] */
  readonly gram: ArrayLike<number>;
  readonly rows: number;
  readonly columns: number;
  readonly damping: number;
  readonly rho: number;
  readonly iterations: number;
  readonly maskIterations: number;
  readonly target:
    | { readonly kind: "unstructured"; readonly sparsity: number; readonly schedule: "released" | "cubic" }
    | { readonly kind: "n-of-m"; readonly keep: number; readonly group: number }
    /** One byte per weight, 1 = kept. */
    | { readonly kind: "fixed"; readonly keep: Uint8Array };
}

export interface ReferenceAdmmResult {
  readonly weight: Float64Array;
  readonly keep: Uint8Array;
}

/** Column norms and the preconditioned Gram matrix, undamped. Norms as f32, as the code of record stores them. */
export function referencePrecondition(
  gram: ArrayLike<number>,
  n: number,
  added = 0,
): { readonly norms: Float64Array; readonly scaled: Float64Array } {
  const norms = Float64Array.from({ length: n }, (_, c) => Math.sqrt(gram[c * (n + 1)] + added) + 1e-8);
  const scaled = Float64Array.from(
    { length: n * n },
    (_, i) => (gram[i] + (i % (n + 1) === 0 ? added : 0)) / norms[i % n] / norms[Math.floor(i / n)],
  );
  return { norms, scaled };
}

const mean = (values: Float64Array): number => values.reduce((sum, value) => sum + value, 0) / values.length;
const everything = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

export function referenceAdmm(problem: ReferenceAdmmProblem): ReferenceAdmmResult {
  const { rows, columns: n, rho, target } = problem;
  const { norms, scaled } = referencePrecondition(problem.gram, n);
  const added = problem.damping * mean(Float64Array.from({ length: n }, (_, c) => scaled[c * (n + 1)]));
  const damped = scaled.map((value, i) => value + (i % (n + 1) === 0 ? added : 0));
  const dense = Float64Array.from(problem.weight, (value, i) => value * norms[i % n]);
  const shape = { m: rows, n, k: n };
  const b = referenceMatmul(dense, damped, shape);
  const inverse = referenceInverse(
    damped.map((value, i) => value + (i % (n + 1) === 0 ? rho : 0)),
    n,
  );
  let w: Float64Array = dense;
  let u: Float64Array = new Float64Array(rows * n);
  let keep = target.kind === "fixed" ? target.keep : new Uint8Array(rows * n);
  for (let t = 0; t < problem.iterations; t++) {
    const p = w.map((value, i) => value + u[i]);
    if (t < Math.max(1, problem.maskIterations)) keep = chooseMask(problem, t, p);
    const z = p.map((value, i) => (keep[i] === 1 ? value : 0));
    u = p.map((value, i) => value - z[i]);
    const right = b.map((value, i) => value + rho * (z[i] - u[i]));
    w = referenceMatmul(right, inverse, shape);
  }
  const weight = w.map((value, i) => (keep[i] === 1 ? (value + u[i]) / norms[i % n] : 0));
  return { weight, keep };
}

function chooseMask({ rows, columns, maskIterations, target }: ReferenceAdmmProblem, t: number, p: Float64Array) {
  if (target.kind === "fixed") return target.keep;
  const scores = p.map(Math.abs);
  const keep = new Uint8Array(rows * columns).fill(1);
  const cubic = maskIterations === 0 ? 1 : 1 - (1 - (t + 1) / maskIterations) ** 3;
  if (target.kind === "unstructured") {
    const share = target.schedule === "cubic" ? cubic : 1;
    pruneSmallest(scores, everything(p.length), pruneCount(p.length, share * target.sparsity), keep);
    return keep;
  }
  const groups = new Uint8Array(rows * columns).fill(1);
  for (let first = 0; first < p.length; first += target.group) {
    const members = everything(target.group).map((i) => first + i);
    pruneSmallest(scores, members, target.group - target.keep, groups);
  }
  const candidates = everything(p.length).filter((i) => groups[i] === 0);
  const count = pruneCount(p.length, (cubic * (target.group - target.keep)) / target.group);
  pruneSmallest(scores, candidates, count, keep);
  return keep;
}
