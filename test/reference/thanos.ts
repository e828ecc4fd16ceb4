/**
 * Float64 twin of Thanos, straight from the formulas: before every block the trailing part of the damped Hessian is
 * inverted explicitly, and every row solves its system with plain Gaussian elimination.
 */
import { pruneCount } from "../../src/sparsity/target.js";
import { referenceInverse } from "./cholesky.js";
import { solveLinear } from "./row-systems.js";
import { pruneSmallest } from "./selection.js";
import { referenceHessian, type ReferenceSparseGptProblem } from "./sparsegpt.js";

export interface ReferenceThanosResult {
  readonly weight: Float64Array;
  readonly keep: Uint8Array;
  /** ½ Σ λ·w */
  readonly loss: number;
}

export function referenceThanos(problem: ReferenceSparseGptProblem): ReferenceThanosResult {
  const { rows, columns, gram, target } = problem;
  const { h, dead } = referenceHessian(problem);
  const w = Float64Array.from(problem.weight);
  for (let r = 0; r < rows; r++) for (const c of dead) w[r * columns + c] = 0;
  const keep = target.kind === "fixed" ? Uint8Array.from(target.keep) : new Uint8Array(rows * columns).fill(1);
  const score = (i: number): number => Math.abs(w[i]) * Math.sqrt(gram[(i % columns) * (columns + 1)]);
  let placed = 0;
  let loss = 0;
  for (let start = 0; start < columns; start += problem.blockSize) {
    const end = Math.min(start + problem.blockSize, columns);
    const scores = w.map((_, i) => score(i));
    if (target.kind === "unstructured") {
      const remaining = [...w.keys()].filter((i) => i % columns >= start);
      for (const i of remaining) keep[i] = 1;
      pruneSmallest(scores, remaining, pruneCount(rows * columns, target.sparsity) - placed, keep);
      placed += remaining.filter((i) => i % columns < end && keep[i] === 0).length;
    } else if (target.kind === "n-of-m") {
      for (let r = 0; r < rows; r++) {
        for (let first = start; first < end; first += target.group) {
          const members = Array.from({ length: target.group }, (_, i) => r * columns + first + i);
          pruneSmallest(scores, members, target.group - target.keep, keep);
        }
      }
    }
    const size = columns - start;
    const inverse = referenceInverse(
      Float64Array.from(
        { length: size * size },
        (_, i) => h[(start + Math.floor(i / size)) * columns + start + (i % size)],
      ),
      size,
    );
    for (let r = 0; r < rows; r++) {
      const q: number[] = [];
      for (let c = start; c < end; c++) if (keep[r * columns + c] === 0) q.push(c - start);
      const matrix = q.map((i) => q.map((j) => inverse[i * size + j]));
      const removed = q.map((i) => w[r * columns + start + i]);
      const lambda = solveLinear(matrix, removed);
      lambda.forEach((value, k) => {
        loss += (value * removed[k]) / 2;
        for (let j = 0; j < size; j++) w[r * columns + start + j] -= value * inverse[q[k] * size + j];
      });
      for (const i of q) w[r * columns + start + i] = 0;
    }
  }
  return { weight: w, keep, loss };
}
