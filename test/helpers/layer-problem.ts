/** Building a `LayerProblem` on a device from plain arrays, and measuring what a solver did with it. */
import type { Device, Matrix } from "../../src/device/device.js";
import { inSequence } from "../../src/solvers/cost.js";
import { REPRODUCE_MODEL } from "../../src/solvers/reproduce-model.js";
import type { LayerProblem, LayerSolver } from "../../src/solvers/solver.js";
import { UNSTRUCTURED, type Pattern } from "../../src/sparsity/pattern.js";
import { referenceGram } from "../reference/products.js";

export interface PlainLayer {
  readonly name?: string;
  /** [rows, columns] */
  readonly weight: ArrayLike<number>;
  /** Σxxᵀ, [columns, columns]. */
  readonly gram: ArrayLike<number>;
  readonly rows: number;
  readonly columns: number;
  readonly sequenceCount: number;
}

/** The gram matrix stays the caller's; the weight goes to the solver. */
export function uploadProblem(
  device: Device,
  layer: PlainLayer,
  target: { readonly sparsity?: number; readonly pattern?: Pattern },
): { readonly problem: LayerProblem; readonly gram: Matrix } {
  const { rows, columns } = layer;
  const lower = Float32Array.from(layer.gram, (value, i) => (i % columns <= Math.floor(i / columns) ? value : 0));
  const gram = device.uploadMatrix(lower, columns, columns, "gram");
  const squareSums = Float32Array.from({ length: columns }, (_, c) => layer.gram[c * (columns + 1)]);
  const problem: LayerProblem = {
    name: layer.name ?? "test.layer",
    inFeatures: columns,
    outFeatures: rows,
    weight: device.uploadMatrix(Float32Array.from(layer.weight), rows, columns, "weight"),
    statistics: { squareSums, gram, tokenCount: layer.sequenceCount, sequenceCount: layer.sequenceCount },
    pattern: target.pattern ?? UNSTRUCTURED,
    sparsity: target.sparsity ?? 0.5,
  };
  return { problem, gram };
}

/** tr(D·G·Dᵀ) / tr(W·G·Wᵀ) with D = W - Ŵ, in float64. */
export function relativeError(
  dense: ArrayLike<number>,
  pruned: ArrayLike<number>,
  gram: ArrayLike<number>,
  rows: number,
  columns: number,
): number {
  const change = Float64Array.from(dense, (value, i) => value - pruned[i]);
  return quadratic(change, gram, rows, columns) / quadratic(dense, gram, rows, columns);
}

/** tr(A·G·Aᵀ), A [rows, columns]. */
export function quadratic(a: ArrayLike<number>, gram: ArrayLike<number>, rows: number, columns: number): number {
  let total = 0;
  for (let r = 0; r < rows; r++) {
    for (let i = 0; i < columns; i++) {
      let sum = 0;
      for (let j = 0; j < columns; j++) sum += gram[i * columns + j] * a[r * columns + j];
      total += sum * a[r * columns + i];
    }
  }
  return total;
}

/** Σxxᵀ of tokens [tokens, columns]. */
export const gramOfTokens = referenceGram;

/** A method whose problems are given the target that reproduces the model, as a run with --reproduce model does. */
export function reproducing(solver: LayerSolver<undefined>): LayerSolver<undefined> {
  return {
    ...solver,
    needs: [...new Set([...solver.needs, ...REPRODUCE_MODEL.needs])],
    cost: (size, options) => inSequence(REPRODUCE_MODEL.cost(size), solver.cost(size, options)),
    async solve(problem, options, context) {
      await REPRODUCE_MODEL.retarget(problem, context.device);
      return solver.solve(problem, options, context);
    },
  };
}
