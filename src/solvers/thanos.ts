/**
 * Thanos (Ilin & Richtarik 2025, arXiv:2504.05346): blocks of columns are pruned from left to right as in SparseGPT, but
 * all weights that a row loses in a block go at once, and everything else of the row that is not finished makes up for
 * them together: the kept weights of the block, on both sides of a removed one, and all columns further right.
 *
 * With q the removed columns of a row w inside block J, and H' the trailing part of the damped Hessian (legend in obs.ts),
 *
 *     minimise ½ d·H'·dᵀ over d with d_q = -w_q:    λ·K[q, q] = w_q,    d = -λ·H'⁻¹[q, :],    cost ½ λ·w_q
 *
 * K is the block's part of H'⁻¹. Of H'⁻¹ = Uᵀ·U (from column J on) only the first rows are needed,
 * U_JJᵀ·U[J, J:], and K⁻¹ = R_JJ·R_JJᵀ. So a block costs one small system per row and one product that brings all later
 * columns up to date. A block as wide as the layer gives the least-squares optimum for its mask.
 *
 * Masks are Wanda's, from the weights as they are when a block is reached: |w|·sqrt(Σx²). Unstructured: the zeros that are
 * still to be placed are chosen among all columns from the block on, and those that fall into the block are its mask. So
 * rows and blocks lose different numbers and the total is exact. N:M: in each group of the block.
 *
 * Follows vectozavr/thanos except for its defects (docs/methods/thanos.md); removal of whole columns is not offered.
 */
import { z } from "zod";
import { LARGEST_ROW_SYSTEM, maskWordsPerRow, type Device, type KeepMask, type Matrix } from "../device/device.js";
import { NumericalError } from "../errors.js";
import { pruneCount } from "../sparsity/target.js";
import { costOf, elementsOf, holding, inSequence, maskBytes, matrixBytes, PASSES, type LayerSize } from "./cost.js";
import { disposeOnFailure } from "./matrices.js";
import { DAMPING, dropDeadInputs, factorCost, prepareHessian, withFactor } from "./obs.js";
import { expectGroupsFit, requireStatistic } from "./problem.js";
import type { LayerProblem, LayerSolution, LayerSolver } from "./solver.js";

const schema = z.strictObject({
  damping: DAMPING.damping,
  /** Columns pruned at once; N:M rounds down to whole groups, at least one. */
  blockSize: z.number().int().min(1).max(LARGEST_ROW_SYSTEM).default(128),
  dampingLadder: DAMPING.dampingLadder,
});
export type ThanosOptions = z.infer<typeof schema>;

/** Losses of rows from here on mean that a row's system was not positive definite. */
const LOSS_OF_FAILURE = 1e38;

/** `damping` is the one that made H positive definite: the first of `damping`, `dampingLadder`. */
export interface ThanosSolution extends LayerSolution {
  readonly damping: number;
}

export const thanos = {
  name: "thanos",
  summary: "remove weights block by block by Wanda's score and correct the rest of each row for all of them at once",
  needs: ["gram"],
  schema,
  cost(size, options) {
    const { inFeatures: C, outFeatures: R, pattern } = size;
    const B = blockWidth(size, options.blockSize);
    const blocks = C / B;
    const removed = B * size.sparsity;
    const system = Math.min(removed, B - removed); // a row solves for what it removes or for what it keeps
    const selected = pattern.kind === "n-of-m" ? 0 : (PASSES.panelSelection * elementsOf(size) * (blocks + 1)) / 2;
    const factor = factorCost(size);
    const walk = costOf({
      products: C ** 3 / 3 + B * C ** 2 * (1 + 1 / blocks) + 2 * B ** 2 * C + R * C ** 2 * (1 + 1 / blocks),
      kernels: blocks * R * (system ** 3 / 3 + 2 * B ** 2),
      entries: 3 * elementsOf(size) + selected,
      bytes:
        matrixBytes(C, C) +
        matrixBytes(C, R) +
        matrixBytes(B, C) +
        matrixBytes(B, R) +
        3 * matrixBytes(B, B) +
        maskBytes(size),
    });
    return inSequence(factor, holding(factor.bytes, walk));
  },
  /**
   * `loss` is ½ tr(D·H·Dᵀ) with D the change of the weight and H the damped Hessian, as sparsegpt's.
   *
   * @throws NumericalError E_NOT_POSITIVE_DEFINITE, E_NON_FINITE
   * @throws ConfigError E_PATTERN_WIDTH when inFeatures is not a multiple of the pattern's group
   */
  solve(problem, options, { device }): Promise<ThanosSolution> {
    return disposeOnFailure(problem.weight, async (owned) => {
      expectGroupsFit(problem);
      const { name, weight, inFeatures, outFeatures } = problem;
      const hessian = await prepareHessian(problem, device);
      dropDeadInputs(problem, hessian, device);
      const keepMask = owned(device.createMask(outFeatures, inFeatures, `${name}: keep mask`));
      const solved = await withFactor(problem, hessian, options, device, async (cholesky, damping) => {
        using inverse = device.createMatrix(inFeatures, inFeatures, `${name}: U`);
        device.triangularInverse(cholesky, inverse);
        const { factor } = cholesky;
        const loss = await walkBlocks(problem, { factor, inverse }, keepMask, options.blockSize, device);
        if (loss < LOSS_OF_FAILURE) return loss;
        throw notSolvable(name, damping);
      });
      device.applyMask(weight, keepMask);
      return { weight, keepMask, ...solved };
    });
  },
} satisfies LayerSolver<ThanosOptions>;

/** H could be factored and a part of its inverse could not: both are at the edge of what f32 resolves. */
function notSolvable(layer: string, damping: number): NumericalError {
  return new NumericalError(
    "E_NOT_POSITIVE_DEFINITE",
    `${layer}: the system of an output row is not positive definite in f32 (damping ${damping}).`,
    {
      hint: `Raise --damping (for example to ${damping * 10}) or use more calibration sequences.`,
      details: { layer, damping },
    },
  );
}

/** Columns of a block: whole groups, at least one. */
function blockWidth({ inFeatures, pattern }: LayerSize, blockSize: number): number {
  const group = pattern.kind === "n-of-m" ? pattern.group : 1;
  return Math.min(inFeatures, Math.max(1, Math.floor(blockSize / group)) * group);
}

/** Prune block after block; leaves the result in `problem.weight`, pruned entries near 0. Returns ½ Σ λ·w. */
async function walkBlocks(
  problem: LayerProblem,
  { factor: L, inverse: U }: { readonly factor: Matrix; readonly inverse: Matrix },
  keepMask: KeepMask,
  blockSize: number,
  device: Device,
): Promise<number> {
  const { name, inFeatures: C, outFeatures: R, weight, pattern, sparsity } = problem;
  const B = blockWidth(problem, blockSize);
  using scale = device.uploadMatrix(inputNorms(problem), 1, C, `${name}: input norms`);
  using lower = device.uploadMask(lowerTriangle(B), B, B, `${name}: lower triangle`);
  using transposed = device.createMatrix(C, R, `${name}: transposed weight`);
  using inverseRows = device.createMatrix(B, C, `${name}: rows of the inverse`);
  using zeros = device.createMatrix(B, B, `${name}: zeros`);
  using block = device.createMatrix(B, B, `${name}: block of L`);
  using blockInverse = device.createMatrix(B, B, `${name}: inverse of the block`);
  using multipliers = device.createMatrix(B, R, `${name}: multipliers`);
  using losses = device.createMatrix(1, R, `${name}: losses`);
  device.transpose({ matrix: weight }, { matrix: transposed });

  for (let start = 0; start < C; start += B) {
    const width = Math.min(B, C - start);
    const square = { rows: width, columns: width };
    const remaining = { matrix: transposed, firstRow: start, rows: C - start };
    if (pattern.kind === "unstructured") {
      const norms = { matrix: scale, firstColumn: start, columns: C - start };
      device.selectRemaining(remaining, norms, pruneCount(R * C, sparsity), keepMask, start);
    }
    // H'⁻¹[J, J:] = U_JJᵀ·U[J, J:]; its first columns are K.
    const rowsOfU = { matrix: U, firstRow: start, rows: width, firstColumn: start };
    const inverseOfRest = { matrix: inverseRows, rows: width, columns: C - start };
    device.matmul({ a: { ...rowsOfU, columns: width }, b: rowsOfU, out: inverseOfRest, transposeA: true });
    // K⁻¹ = L_JJᵀ·L_JJ, whose strict upper triangle is unspecified.
    const L_JJ = { matrix: L, firstRow: start, firstColumn: start, ...square };
    device.subtract(L_JJ, { matrix: zeros, ...square }, { matrix: block, ...square });
    device.applyMask(block, lower);
    const triangle = { matrix: block, ...square };
    const inverse = { matrix: blockInverse, ...square };
    device.matmul({ a: triangle, b: triangle, out: inverse, transposeA: true });
    const lambda = { matrix: multipliers, rows: width };
    device.solveRowSystems({
      panel: { matrix: transposed, firstRow: start, rows: width },
      matrix: { matrix: inverseRows, ...square },
      inverse,
      keepMask,
      maskColumn: start,
      ...(pattern.kind === "n-of-m" && {
        choose: {
          keep: pattern.keep,
          group: pattern.group,
          scale: { matrix: scale, firstColumn: start, columns: width },
        },
      }),
      multipliers: lambda,
      losses,
    });
    device.matmul({ a: inverseOfRest, b: lambda, out: remaining, transposeA: true, alpha: -1, beta: 1 });
  }
  device.transpose({ matrix: transposed }, { matrix: weight });
  const sums = await device.download({ matrix: losses });
  return sums.reduce((total, value) => total + value, 0);
}

function inputNorms(problem: LayerProblem): Float32Array {
  const squareSums = requireStatistic(problem, "squareSums");
  return squareSums.map((sum) => Math.sqrt(sum / problem.statistics.sequenceCount));
}

/** Mask words of a square matrix whose entries on and below the diagonal are kept. */
function lowerTriangle(n: number): Uint32Array {
  const wordsPerRow = maskWordsPerRow(n);
  const words = new Uint32Array(n * wordsPerRow);
  for (let r = 0; r < n; r++) {
    words.fill(0xffffffff, r * wordsPerRow, r * wordsPerRow + (r >> 5));
    words[r * wordsPerRow + (r >> 5)] = 2 ** ((r & 31) + 1) - 1;
  }
  return words;
}
