/**
 * Float64 twin of SparseGPT by the three-step chain of IST-DASLab/sparsegpt 147d215: Cholesky of the damped Hessian,
 * its explicit inverse, and the upper Cholesky factor U of that, UᵀU = H⁻¹; then the block sweep with full right-looking
 * updates. Shares nothing with the solver under test but the formulas.
 */
import { pruneCount, pruneCountOfRange } from "../../src/sparsity/target.js";
import { referenceCholesky, referenceInverse } from "./cholesky.js";

export interface ReferenceSparseGptProblem {
  /** [rows, columns] */
  readonly weight: ArrayLike<number>;
  /** Σxxᵀ, [columns, columns] */
  readonly gram: ArrayLike<number>;
  readonly rows: number;
  readonly columns: number;
  readonly sequenceCount: number;
  readonly damping: number;
  readonly blockSize: number;
  readonly target:
    | { readonly kind: "unstructured"; readonly sparsity: number }
    | { readonly kind: "n-of-m"; readonly keep: number; readonly group: number }
    /** One byte per weight, 1 = kept. */
    | { readonly kind: "fixed"; readonly keep: Uint8Array };
  /** Prune what is at or below the element of index floor(n·s), one more than asked, as the released code does. */
  readonly officialThreshold?: boolean;
}

export interface ReferenceSparseGptResult {
  readonly weight: Float64Array;
  readonly keep: Uint8Array;
  /** ½ Σ e² */
  readonly loss: number;
  /** [columns, columns] upper triangular. */
  readonly u: Float64Array;
}

/** The damped Hessian 2/sequences·Σxxᵀ + λI after the dead-input rule; `dead` lists inputs with a zero diagonal. */
export function referenceHessian(problem: ReferenceSparseGptProblem): {
  readonly h: Float64Array;
  readonly dead: readonly number[];
} {
  const n = problem.columns;
  const h = Float64Array.from(problem.gram, (value) => (2 / problem.sequenceCount) * value);
  const dead: number[] = [];
  let trace = 0;
  for (let c = 0; c < n; c++) {
    if (h[c * n + c] === 0) {
      dead.push(c);
      h[c * n + c] = 1;
    }
    trace += h[c * n + c];
  }
  for (let c = 0; c < n; c++) h[c * n + c] += (problem.damping * trace) / n;
  return { h, dead };
}

export function referenceSparseGpt(problem: ReferenceSparseGptProblem): ReferenceSparseGptResult {
  const { rows, columns, blockSize, target } = problem;
  const { h, dead } = referenceHessian(problem);
  const w = Float64Array.from(problem.weight);
  for (let r = 0; r < rows; r++) for (const c of dead) w[r * columns + c] = 0;
  const lower = referenceCholesky(referenceInverse(h, columns), columns); // H⁻¹ = C·Cᵀ, U = Cᵀ
  const u = new Float64Array(columns * columns);
  for (let i = 0; i < columns; i++) for (let j = i; j < columns; j++) u[i * columns + j] = lower[j * columns + i];

  const keep = target.kind === "fixed" ? Uint8Array.from(target.keep) : new Uint8Array(rows * columns).fill(1);
  const score = (i: number): number => (w[i] / u[(i % columns) * (columns + 1)]) ** 2;
  let loss = 0;
  for (let start = 0; start < columns; start += blockSize) {
    const end = Math.min(start + blockSize, columns);
    if (target.kind === "unstructured") {
      const members = rectangle(rows, columns, start, end);
      const count =
        problem.officialThreshold === true
          ? Math.min(members.length, pruneCount(members.length, target.sparsity) + 1)
          : pruneCountOfRange(rows * start, rows * end, target.sparsity);
      prune(members, count, score, keep);
    }
    for (let c = start; c < end; c++) {
      if (target.kind === "n-of-m" && c % target.group === 0) {
        const width = Math.min(target.group, columns - c); // a short last group loses as many as it can
        for (let r = 0; r < rows; r++) {
          const members = Array.from({ length: width }, (_, i) => r * columns + c + i);
          prune(members, Math.min(width, target.group - target.keep), score, keep);
        }
      }
      for (let r = 0; r < rows; r++) {
        const i = r * columns + c;
        if (keep[i] === 1) continue;
        const e = w[i] / u[c * columns + c];
        loss += (e * e) / 2;
        w[i] = 0;
        for (let j = c + 1; j < columns; j++) w[r * columns + j] -= e * u[c * columns + j];
      }
    }
  }
  return { weight: w, keep, loss, u };
}

/** Indices of all rows and columns [start, end), row by row. */
function rectangle(rows: number, columns: number, start: number, end: number): number[] {
  const indices: number[] = [];
  for (let r = 0; r < rows; r++) for (let c = start; c < end; c++) indices.push(r * columns + c);
  return indices;
}

function prune(members: readonly number[], count: number, score: (i: number) => number, keep: Uint8Array): void {
  const order = members.map((index, position) => ({ index, position, score: score(index) }));
  order.sort((x, y) => x.score - y.score || x.position - y.position);
  for (const { index } of order.slice(0, count)) keep[index] = 0;
}
