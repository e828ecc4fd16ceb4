/**
 * SparseGPT (Frantar & Alistarh 2023, arXiv:2301.00774): prune columns from left to right and let the columns further
 * right make up for each removed weight.
 *
 * Legend (paper's symbols; shapes)
 *   W [R, C]   weight, R = outFeatures, C = inFeatures         H [C, C]  (2/sequences)·Σxxᵀ + λI, the damped Hessian
 *   R [C, C]   upper triangular, H = R·Rᵀ                       U = R⁻¹, the upper Cholesky factor of H⁻¹ in the paper
 *   L = Rᵀ     what the device stores                            V_J = (R_JJ)⁻¹, the diagonal block J of U
 *
 * A removed weight of column c costs e²/2 with e = w_c / U_cc, and every later column j receives w_j -= e·U_cj.
 * Inside a panel of up to 128 columns the sweep does exactly that with V_J. Between panels the update is left-looking:
 * X = W₀ - Q over finished columns satisfies X = E·U, hence E = X·R, hence for the next panel J
 *
 *     W_J = W₀_J + (X[:, <J]·R[<J, J])·V_J
 *
 * so no inverse beyond the diagonal blocks is ever needed. Masks are chosen per block of `blockSize` columns over all
 * rows from the weights as updated so far, score |w|·R_cc, with counts that add up to the exact total; N:M masks are
 * chosen when a group's first column is reached. Scaling H changes nothing, so it is normalised to unit mean diagonal.
 *
 * Matches IST-DASLab/sparsegpt 147d215 except that its threshold prunes one weight more per block than asked; with
 * `counting: "released"` that one goes too.
 */
import { z } from "zod";
import {
  isCholeskyFailure,
  LARGEST_PANEL,
  type CholeskyFailure,
  type Device,
  type KeepMask,
  type Matrix,
  type MatrixView,
  type ReversedCholesky,
} from "../device/device.js";
import { NumericalError } from "../errors.js";
import type { Pattern } from "../sparsity/pattern.js";
import { COUNTINGS, pruneCountOfRange, releasedPruneCount } from "../sparsity/target.js";
import { disposeOnFailure, expectFiniteStatistics, expectGroupsFit, requireStatistic } from "./layer.js";
import type { LayerProblem, LayerSolution, LayerSolver } from "./solver.js";

const damping = z.number().positive().finite();
const schema = z.strictObject({
  /** Fraction of the mean diagonal of H added to the diagonal, unitless. */
  damping: damping.default(0.01),
  /** Columns over which an unstructured mask is chosen at once: a power of two up to the panel's 128. */
  blockSize: z
    .number()
    .int()
    .min(1)
    .max(LARGEST_PANEL)
    .refine((value) => LARGEST_PANEL % value === 0, `must divide ${LARGEST_PANEL}: 1, 2, 4, 8, 16, 32, 64 or 128`)
    .default(LARGEST_PANEL),
  /** "released" prunes the one weight more per block that the paper's code does: to reproduce published numbers. */
  counting: z.enum(COUNTINGS).default("exact"),
  /** Dampings to try in turn where `damping` leaves H not positive definite; without it that is an error. */
  dampingLadder: z.array(damping).readonly().optional(),
});
export type SparseGptOptions = z.infer<typeof schema>;

/** `damping` is the one that made H positive definite: the first of `damping`, `dampingLadder`. */
export interface SparseGptSolution extends LayerSolution {
  readonly damping: number;
}

export const sparsegpt = {
  name: "sparsegpt",
  summary: "remove weights column by column and correct the remaining ones by second-order updates",
  needs: ["gram"],
  schema,
  /**
   * `loss` is ½ tr(D·H·Dᵀ) with D the change of the weight: the paper code's per-layer error.
   *
   * @throws NumericalError E_NOT_POSITIVE_DEFINITE, E_NON_FINITE
   * @throws ConfigError E_PATTERN_WIDTH when inFeatures is not a multiple of the pattern's group
   */
  solve(problem, options, { device }): Promise<SparseGptSolution> {
    return disposeOnFailure(problem.weight, async (owned) => {
      expectGroupsFit(problem);
      const hessian = await prepareHessian(problem, device);
      if (hessian.liveInputs !== undefined) {
        using factors = device.uploadMatrix(hessian.liveInputs, 1, problem.inFeatures, `${problem.name}: live inputs`);
        device.scaleColumns(problem.weight, factors);
      }
      const { cholesky, damping } = await factorize(problem, hessian, options, device);
      using _factor = cholesky.factor;
      using _inverses = cholesky.panelInverses;
      using _diagonal = cholesky.diagonal;
      const keepMask = owned(device.createMask(problem.outFeatures, problem.inFeatures, `${problem.name}: keep mask`));
      const loss = await sweepPanels(problem, cholesky, options, keepMask, device);
      return { weight: problem.weight, keepMask, loss: loss * hessian.meanDiagonal, damping };
    });
  },
} satisfies LayerSolver<SparseGptOptions>;

interface Hessian {
  /** Diagonal of H before damping, divided by its mean. */
  readonly diagonal: Float64Array;
  /** Mean diagonal of H in the paper code's scale, 2/sequences. */
  readonly meanDiagonal: number;
  /** Factor from the Gram matrix to the normalised H. */
  readonly scale: number;
  /** 0 for inputs that were zero in every token, else 1; undefined where all were seen. */
  readonly liveInputs: Float32Array | undefined;
}

/** Dead inputs (zero diagonal) get a diagonal of 1 in the paper code's scale, before the mean is taken. */
async function prepareHessian(problem: LayerProblem, device: Device): Promise<Hessian> {
  const sums = await device.downloadDiagonal(requireStatistic(problem, "gram"));
  expectFiniteStatistics(problem.name, sums);
  const hessianScale = 2 / problem.statistics.sequenceCount;
  const diagonal = Float64Array.from(sums, (sum) => (sum === 0 ? 1 : sum * hessianScale));
  const meanDiagonal = diagonal.reduce((total, value) => total + value, 0) / diagonal.length;
  return {
    diagonal: diagonal.map((value) => value / meanDiagonal),
    meanDiagonal,
    scale: hessianScale / meanDiagonal,
    liveInputs: sums.includes(0) ? sums.map((sum) => (sum === 0 ? 0 : 1)) : undefined,
  };
}

/** Factor H with the first damping that leaves it positive definite. */
async function factorize(
  problem: LayerProblem,
  hessian: Hessian,
  options: SparseGptOptions,
  device: Device,
): Promise<{ readonly cholesky: ReversedCholesky; readonly damping: number }> {
  const gram = requireStatistic(problem, "gram");
  const n = problem.inFeatures;
  const panelWidth = panelWidthOf(problem.pattern);
  let failure: CholeskyFailure | undefined;
  const ladder = [options.damping, ...(options.dampingLadder ?? [])];
  for (const damping of ladder) {
    const h = device.createMatrix(n, n, `${problem.name}: Hessian`);
    device.subtract({ matrix: gram }, { matrix: h }, { matrix: h }); // a copy: h is zero
    device.scale(h, hessian.scale);
    device.setDiagonal(
      h,
      Float32Array.from(hessian.diagonal, (value) => value + damping),
    );
    const result = await device.choleskyReversed(h, panelWidth).catch((error: unknown) => {
      h[Symbol.dispose]();
      throw error;
    });
    if (!isCholeskyFailure(result)) return { cholesky: result, damping };
    h[Symbol.dispose]();
    failure = result;
  }
  throw notPositiveDefinite(problem.name, failure, ladder);
}

function notPositiveDefinite(
  layer: string,
  failure: CholeskyFailure | undefined,
  ladder: readonly number[],
): NumericalError {
  const tried = ladder.length === 1 ? `damping ${ladder[0]}` : `dampings ${ladder.join(", ")}`;
  return new NumericalError(
    "E_NOT_POSITIVE_DEFINITE",
    `${layer}: damped Gram matrix is not positive definite (pivot ${failure?.column} is ${failure?.pivot}, ${tried}).`,
    {
      hint: `Raise --damping (for example to ${Math.max(...ladder) * 10}) or use more calibration sequences.`,
      details: { layer, column: failure?.column, pivot: failure?.pivot, dampings: ladder },
    },
  );
}

/** Panels hold whole N:M groups and an even number of columns, at most 128. */
function panelWidthOf(pattern: Pattern): number {
  if (pattern.kind === "unstructured") return LARGEST_PANEL;
  return 2 * Math.floor(LARGEST_PANEL / 2 / pattern.group) * pattern.group;
}

/** The left-looking sweep over all panels; returns ½ Σ e² and leaves Q in `problem.weight`. */
async function sweepPanels(
  problem: LayerProblem,
  cholesky: ReversedCholesky,
  { blockSize, counting }: SparseGptOptions,
  keepMask: KeepMask,
  device: Device,
): Promise<number> {
  const { name, inFeatures: C, outFeatures: R, weight, pattern } = problem;
  const { factor: L, panelInverses, panelWidth } = cholesky;
  using transposed = device.createMatrix(C, R, `${name}: transposed weight`); // W₀ᵀ, panel by panel replaced by (Q - W₀)ᵀ
  using panel = device.createMatrix(panelWidth, R, `${name}: panel`);
  using products = device.createMatrix(panelWidth, R, `${name}: panel products`);
  using losses = device.createMatrix(1, R, `${name}: losses`);
  device.transpose({ matrix: weight }, { matrix: transposed });

  for (let start = 0; start < C; start += panelWidth) {
    const width = Math.min(panelWidth, C - start);
    const original = { matrix: transposed, firstRow: start, rows: width };
    const current = { matrix: panel, rows: width };
    const V = { matrix: panelInverses, firstRow: start, rows: width, columns: width };
    // Wᵀ_J = W₀ᵀ_J - Vᵀ·L[J, <J]·(Q - W₀)ᵀ[<J]; the first panel subtracts the zeros `panel` was created with.
    if (start > 0) {
      const below = { matrix: L, firstRow: start, rows: width, columns: start };
      const S = { matrix: products, rows: width };
      device.matmul({ a: below, b: { matrix: transposed, rows: start }, out: S });
      device.matmul({ a: V, b: S, out: current, transposeA: true });
    }
    device.subtract(original, current, current);
    sweepPanel({
      device,
      panel: current,
      inverse: V,
      diagonal: cholesky.diagonal,
      keepMask,
      losses,
      start,
      width,
      blockSize,
      pattern,
      pruneCount: (from, to) =>
        counting === "exact"
          ? pruneCountOfRange(R * from, R * to, problem.sparsity)
          : releasedPruneCount(R * (to - from), problem.sparsity),
    });
    device.subtract(current, original, original);
    device.transpose(current, { matrix: weight, firstColumn: start, columns: width });
  }
  const sums = await device.download({ matrix: losses });
  return sums.reduce((total, value) => total + value, 0);
}

interface PanelTask {
  readonly device: Device;
  readonly panel: MatrixView;
  readonly inverse: MatrixView;
  readonly diagonal: Matrix;
  readonly keepMask: KeepMask;
  readonly losses: Matrix;
  readonly start: number;
  readonly width: number;
  readonly blockSize: number;
  readonly pattern: Pattern;
  /** Weights to prune in columns [from, to) of the whole weight. */
  readonly pruneCount: (from: number, to: number) => number;
}

/** Choose masks and sweep: N:M inside the sweep, unstructured block by block. */
function sweepPanel(task: PanelTask): void {
  const { device, panel, inverse, keepMask, losses, start, width, pattern } = task;
  const common = { panel, inverse, keepMask, maskColumn: start, losses };
  if (pattern.kind === "n-of-m") {
    const choose = { keep: pattern.keep, group: pattern.group };
    device.sweepPanel({ ...common, firstColumn: 0, columns: width, choose });
    return;
  }
  for (let first = 0; first < width; first += task.blockSize) {
    const columns = Math.min(task.blockSize, width - first);
    const column = start + first;
    device.selectPanel(
      { matrix: panel.matrix, firstRow: first, rows: columns },
      { matrix: task.diagonal, firstColumn: column, columns },
      task.pruneCount(column, column + columns),
      keepMask,
      column,
    );
    device.sweepPanel({ ...common, firstColumn: first, columns });
  }
}
