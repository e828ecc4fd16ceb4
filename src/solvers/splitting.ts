/**
 * What the splitting methods (ADMM, ALPS) share: the preconditioned problem, one iteration on it, and the conjugate
 * gradients that finish a solution.
 *
 * Legend (shapes; R = outFeatures, C = inFeatures)
 *   G [C, C]   Σxxᵀ                                  ν [C]   column norms sqrt(G_cc), the preconditioner
 *   A [C, C]   diag(1/ν)·G·diag(1/ν), damped         W₀ [R, C]   dense weight times diag(ν): |W₀| is Wanda's score
 *   K = (A + ρI)⁻¹                                    M    keep mask
 *
 * Minimise tr((W - W₀)·A·(W - W₀)ᵀ) subject to W = Z, Z zero outside M, with scaled dual U:
 *
 *     W = (W₀·A + ρ(Z - U))·K,   Z = M∘(W + U),   U = (W + U) - Z
 *
 * One matrix carries Z and U: with P = W + U they are M∘P and (1-M)∘P, so Z - U = ±P (plus where kept). W₀·A·K is
 * W₀ - ρ·W₀·K. An iteration is therefore
 *
 *     P ← (1-M)∘P + W₀ + ρ·(±P - W₀)·K
 */
import type { Device, KeepMask, Matrix } from "../device/device.js";
import {
  costOf,
  elementsOf,
  holding,
  inSequence,
  matrixBytes,
  PASSES,
  productOf,
  repeated,
  type LayerSize,
  type SolveCost,
} from "./cost.js";
import { copyMatrix, disposeOnFailure, reconstructionCost, reconstructionLoss } from "./matrices.js";
import { expectFiniteStatistics, expectGroupsFit, requireMask, requireStatistic } from "./problem.js";
import type { LayerProblem, LayerSolution } from "./solver.js";

/** Added to every norm by the papers' code; inputs that were never seen have no other norm. */
const SMALLEST_NORM = 1e-8;

/**
 * Damping is a fraction of the mean diagonal that is added to the diagonal, of the preconditioned matrix ("after", each
 * channel relative to its own energy: Boža) or of G itself ("before": ALPS, SparseGPT).
 */
export interface Damping {
  readonly fraction: number;
  readonly when: "before" | "after";
}

/** The preconditioner, and the diagonal of A. */
export interface Scaling {
  /** ν */
  readonly norms: Float32Array;
  /** 1/ν. Inputs that were never seen have a tiny ν: their weights are pruned first, and keep their value if kept. */
  readonly reciprocals: Float32Array;
  /** Diagonal of A, damping included. */
  readonly diagonal: Float64Array;
}

/** What a method works on; all [R, C]. */
export interface ScaledProblem {
  readonly scaling: Scaling;
  /** The mask of the solution by the time the work is done: the method writes it, or it is the problem's. */
  readonly keepMask: KeepMask;
  /** W₀; kept. */
  readonly dense: Matrix;
  /** The problem's weight times diag(ν). The method leaves its solution here; what it prunes need not be zero. */
  readonly weight: Matrix;
}

/**
 * Scale the problem, let `work` solve it, scale back and measure: the frame of the four methods that split.
 *
 * @param scheme.mask "chosen" by the method, or "given" by an earlier step
 * @returns `loss` is tr(D·G·Dᵀ) / sequences with D the change of the dense weight: the squared output error, undamped
 * @throws NumericalError E_NOT_POSITIVE_DEFINITE, E_NON_FINITE
 * @throws ConfigError E_PATTERN_WIDTH when a mask is to be chosen and inFeatures is not a multiple of the pattern's group
 */
export function solveScaled(
  problem: LayerProblem,
  scheme: { readonly damping: Damping; readonly mask: "chosen" | "given" },
  device: Device,
  work: (scaled: ScaledProblem) => void | Promise<void>,
): Promise<LayerSolution> {
  const { name, weight, inFeatures, outFeatures } = problem;
  return disposeOnFailure(weight, (owned) => {
    if (scheme.mask === "given") return solveFor(problem, scheme.damping, requireMask(problem), device, work);
    expectGroupsFit(problem);
    const keepMask = owned(device.createMask(outFeatures, inFeatures, `${name}: keep mask`));
    return solveFor(problem, scheme.damping, keepMask, device, work);
  });
}

/** What `solveScaled` costs around the method's work: scaling there and back, and measuring. */
export function scaledCost(size: LayerSize, work: SolveCost): SolveCost {
  const { inFeatures: C, outFeatures: R } = size;
  const scaling = costOf({ entries: 5 * elementsOf(size) });
  const weight = matrixBytes(R, C);
  return holding(weight, inSequence(scaling, work, reconstructionCost(size)));
}

/** What `iterate` costs. */
export function iterationCost(size: LayerSize): SolveCost {
  return inSequence(productOf(size), costOf({ entries: PASSES.combinePair * elementsOf(size) }));
}

/** What `scaledGram` costs. */
export function scaledGramCost({ inFeatures: C }: LayerSize): SolveCost {
  return costOf({ entries: 3 * C ** 2, bytes: matrixBytes(C, C) });
}

/** What `refine` costs, beyond its arguments. */
export function refinementCost(size: LayerSize, steps: number): SolveCost {
  const elements = elementsOf(size);
  return inSequence(
    repeated(1 + steps, productOf(size)),
    costOf({
      entries: (3 + PASSES.conjugateStep * steps) * elements,
      bytes: 2 * matrixBytes(size.outFeatures, size.inFeatures),
    }),
  );
}

async function solveFor(
  problem: LayerProblem,
  damping: Damping,
  keepMask: KeepMask,
  device: Device,
  work: (scaled: ScaledProblem) => void | Promise<void>,
): Promise<LayerSolution> {
  const { name, weight, inFeatures } = problem;
  const scaling = await scaleProblem(problem, damping, device);
  using norms = device.uploadMatrix(scaling.norms, 1, inFeatures, `${name}: input norms`);
  using reciprocals = device.uploadMatrix(scaling.reciprocals, 1, inFeatures, `${name}: reciprocals`);
  device.scaleColumns(weight, norms);
  using dense = copyMatrix(device, problem.dense ?? weight, `${name}: scaled dense weight`);
  if (problem.dense !== undefined) device.scaleColumns(dense, norms);
  await work({ scaling, dense, weight, keepMask });
  device.applyMask(weight, keepMask);
  device.scaleColumns(weight, reciprocals);
  device.scaleColumns(dense, reciprocals);
  const gram = requireStatistic(problem, "gram");
  const { sequenceCount } = problem.statistics;
  const loss = await reconstructionLoss(device, { dense, pruned: weight, gram, sequenceCount });
  return { weight, keepMask, loss };
}

async function scaleProblem(problem: LayerProblem, damping: Damping, device: Device): Promise<Scaling> {
  const sums = await device.downloadDiagonal(requireStatistic(problem, "gram"));
  expectFiniteStatistics(problem.name, sums);
  const mean = (values: ArrayLike<number>): number =>
    Array.from(values).reduce((total, value) => total + value, 0) / values.length;
  const added = damping.when === "before" ? damping.fraction * mean(sums) : 0;
  const norms = sums.map((sum) => (sum === 0 ? SMALLEST_NORM : Math.sqrt(sum + added) + SMALLEST_NORM));
  const undamped = Float64Array.from(sums, (sum, c) => sum / norms[c] ** 2);
  const addedAfter = damping.fraction * mean(undamped);
  const diagonal =
    damping.when === "before"
      ? Float64Array.from(sums, (sum, c) => (sum === 0 ? 1 : (sum + added) / norms[c] ** 2))
      : undamped.map((value) => value + addedAfter);
  return { norms, reciprocals: norms.map((norm) => 1 / norm), diagonal };
}

/** A, lower triangle, with `added` on its diagonal; owned by the caller. */
export function scaledGram(problem: LayerProblem, scaling: Scaling, added: number, device: Device): Matrix {
  const matrix = copyMatrix(device, requireStatistic(problem, "gram"), `${problem.name}: scaled Gram matrix`);
  using factors = device.uploadMatrix(scaling.reciprocals, 1, problem.inFeatures, `${problem.name}: reciprocals`);
  device.scaleColumns(matrix, factors);
  device.scaleRows(matrix, factors);
  setPenalty(matrix, scaling, added, device);
  return matrix;
}

/** Make the diagonal of a matrix that is A elsewhere that of A + ρI. */
export function setPenalty(matrix: Matrix, scaling: Scaling, rho: number, device: Device): void {
  device.setDiagonal(
    matrix,
    Float32Array.from(scaling.diagonal, (value) => value + rho),
  );
}

/** What an iteration works on; all [R, C] but `inverse` [C, C]. */
export interface Splitting {
  /** W₀ */
  readonly dense: Matrix;
  /** P */
  readonly state: Matrix;
  /** Its content is lost. */
  readonly scratch: Matrix;
  readonly mask: KeepMask;
  /** K */
  readonly inverse: Matrix;
  readonly rho: number;
}

/**
 * P ← (1-M)∘P + W₀ + ρ·(±P - W₀)·K.
 *
 * @param how.shrink factor of U before the iteration, default 1
 * @param how.constant receives (1-M)∘P + W₀, from which B, the dense iterate, follows as (new P) - (this - W₀)
 */
export function iterate(
  { dense, state, scratch, mask, inverse, rho }: Splitting,
  device: Device,
  { shrink = 1, constant }: { readonly shrink?: number; readonly constant?: Matrix | undefined } = {},
): void {
  const toOut = { kept: [rho, -rho], pruned: [-rho * shrink, -rho] } as const;
  const toA = { kept: [0, 1], pruned: [shrink, 1] } as const;
  device.combinePair({ a: state, b: dense, out: scratch, mask, toOut, toA });
  if (constant !== undefined) device.copy(state, constant);
  device.matmul({ a: { matrix: scratch }, b: { matrix: inverse }, out: { matrix: state }, beta: 1 });
}

/** Conjugate gradients on a fixed support; all [R, C] but `gram`. */
export interface Refinement {
  readonly problem: LayerProblem;
  /** A, both triangles. */
  readonly gram: Matrix;
  readonly dense: Matrix;
  /** Zero at pruned entries; updated. */
  readonly solution: Matrix;
  /** Its content is lost. */
  readonly residual: Matrix;
  readonly keepMask: KeepMask;
  readonly steps: number;
}

/** Conjugate gradients for x·A = W₀·A on the kept entries of every row: the best weights for the mask. */
export function refine(
  { problem, gram, dense, solution, residual, keepMask, steps }: Refinement,
  device: Device,
): void {
  const { name, inFeatures, outFeatures } = problem;
  using product = device.createMatrix(outFeatures, inFeatures, `${name}: product`);
  device.subtract({ matrix: dense }, { matrix: solution }, { matrix: product });
  device.matmul({ a: { matrix: product }, b: { matrix: gram }, out: { matrix: residual } });
  device.applyMask(residual, keepMask);
  using direction = copyMatrix(device, residual, `${name}: direction`);
  for (let step = 0; step < steps; step++) {
    device.matmul({ a: { matrix: direction }, b: { matrix: gram }, out: { matrix: product } });
    device.conjugateStep({ solution, residual, direction, product, keepMask });
  }
}
