/**
 * The machinery of optimal brain surgery (OBS) on a layer, shared by the solvers that sweep over columns: the damped
 * Hessian, its factorisation, and the left-looking walk over panels. Which weights go is the solver's business.
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
 * so no inverse beyond the diagonal blocks is ever needed. Scaling H changes nothing, so it is normalised to unit mean
 * diagonal.
 */
import { z } from "zod";
import {
  isCholeskyFailure,
  LARGEST_PANEL,
  type CholeskyFailure,
  type Device,
  type KeepMask,
  type MatrixView,
  type ReversedCholesky,
} from "../device/device.js";
import { NumericalError } from "../errors.js";
import type { Pattern } from "../sparsity/pattern.js";
import { costOf, elementsOf, matrixBytes, type LayerSize, type SolveCost } from "./cost.js";
import { copyMatrix } from "./matrices.js";
import { expectFiniteStatistics, requireStatistic } from "./problem.js";
import type { LayerProblem } from "./solver.js";

export interface Hessian {
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
export async function prepareHessian(problem: LayerProblem, device: Device): Promise<Hessian> {
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

/** What `withFactor` costs: a copy of the Gram matrix, scaled and factored with the first damping. */
export function factorCost({ inFeatures: C }: LayerSize): SolveCost {
  const inverses = matrixBytes(C, LARGEST_PANEL);
  return costOf({ products: C ** 3 / 3, entries: 2 * C ** 2, bytes: matrixBytes(C, C) + inverses });
}

/** What `walkPanels` costs, without the selection; what of `factorCost` is held meanwhile is not counted again. */
export function walkCost(size: LayerSize): SolveCost {
  const { inFeatures: C, outFeatures: R, pattern } = size;
  const elements = elementsOf(size);
  const width = Math.min(C, panelWidthOf(pattern));
  return costOf({
    products: elements * Math.max(0, C - width) + 2 * elements * width * (1 - width / C),
    kernels: elements * width,
    entries: 4 * elements,
    bytes: matrixBytes(C, R) + 2 * matrixBytes(width, R),
  });
}

const damping = z.number().positive().finite();

/** Options of every method that factors H. */
export const DAMPING = {
  /** Fraction of the mean diagonal of H added to the diagonal, unitless. */
  damping: damping.default(0.01),
  /** Dampings to try in turn where `damping` leaves H not positive definite; without it that is an error. */
  dampingLadder: z.array(damping).readonly().optional(),
};

export interface DampingOptions {
  readonly damping: number;
  readonly dampingLadder?: readonly number[] | undefined;
}

/**
 * Factor H, let `work` prune with the factor, and give its memory back.
 *
 * @param work returns its loss under the normalised H
 * @returns the loss under H in the paper code's scale, and the first damping that left H positive definite
 * @throws NumericalError E_NOT_POSITIVE_DEFINITE
 */
export async function withFactor(
  problem: LayerProblem,
  hessian: Hessian,
  options: DampingOptions,
  device: Device,
  work: (cholesky: ReversedCholesky, damping: number) => Promise<number>,
): Promise<{ readonly loss: number; readonly damping: number }> {
  const ladder = [options.damping, ...(options.dampingLadder ?? [])];
  const { cholesky, damping } = await factorize(problem, hessian, ladder, device);
  using _factor = cholesky.factor;
  using _inverses = cholesky.panelInverses;
  using _diagonal = cholesky.diagonal;
  const loss = await work(cholesky, damping);
  return { loss: loss * hessian.meanDiagonal, damping };
}

/** Factor H with the first damping of the ladder that leaves it positive definite. */
async function factorize(
  problem: LayerProblem,
  hessian: Hessian,
  ladder: readonly number[],
  device: Device,
): Promise<{ readonly cholesky: ReversedCholesky; readonly damping: number }> {
  const gram = requireStatistic(problem, "gram");
  const panelWidth = panelWidthOf(problem.pattern);
  let failure: CholeskyFailure | undefined;
  for (const damping of ladder) {
    const h = copyMatrix(device, gram, `${problem.name}: Hessian`);
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

/** One panel of the walk, ready to be swept. */
export interface Panel {
  /** What the device's sweep needs besides the columns to sweep. */
  readonly sweep: {
    readonly panel: MatrixView;
    readonly inverse: MatrixView;
    readonly keepMask: KeepMask;
    readonly maskColumn: number;
    readonly losses: MatrixView["matrix"];
  };
  /** First column of the weight, and number of columns. */
  readonly start: number;
  readonly width: number;
}

/**
 * Walk over all panels: bring each up to date, let `sweep` prune it, put it back. Leaves Q in `problem.weight` and
 * returns ½ Σ e² under the normalised H.
 */
export async function walkPanels(
  problem: LayerProblem,
  cholesky: ReversedCholesky,
  keepMask: KeepMask,
  device: Device,
  sweep: (panel: Panel) => void,
): Promise<number> {
  const { name, inFeatures: C, outFeatures: R, weight } = problem;
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
    sweep({ sweep: { panel: current, inverse: V, keepMask, maskColumn: start, losses }, start, width });
    device.subtract(current, original, original);
    device.transpose(current, { matrix: weight, firstColumn: start, columns: width });
  }
  const sums = await device.download({ matrix: losses });
  return sums.reduce((total, value) => total + value, 0);
}

/** Weights of inputs that were never seen become 0, as the paper's code does. */
export function dropDeadInputs(problem: LayerProblem, hessian: Hessian, device: Device): void {
  if (hessian.liveInputs === undefined) return;
  using factors = device.uploadMatrix(hessian.liveInputs, 1, problem.inFeatures, `${problem.name}: live inputs`);
  device.scaleColumns(problem.weight, factors);
}
