/**
 * The operations solvers are made of, on f32 matrices that live on a device.
 *
 * Two backends: `cpu` (products through ONNX Runtime, the rest as WebAssembly SIMD in threads) and `webgpu` (one WGSL
 * kernel per operation, in shaders/). Each operation is tested on both against a plain float64 twin (test/reference/) by
 * one suite (test/device/). What a call may be given is checked once, in front of both (checked-device.ts); a backend
 * trusts its operands.
 *
 * Conventions
 * - A matrix is dense, row-major f32. Operations borrow their arguments; only `create…` and `upload…` return
 *   something the caller owns and must dispose.
 * - Operations are queued in order. Only those that return a promise wait for the device; a failure of a queued
 *   operation surfaces at the next promise. A matrix that the device had no memory for fails when it is made or with the
 *   operations that use it. Disposing a matrix that queued operations still use is safe: it is freed
 *   after them.
 * - A keep mask is one bit per weight, 1 = kept: row r, column c is bit (c & 31) of word r * wordsPerRow + (c >> 5),
 *   wordsPerRow = ceil(columns / 32); spare bits of the last word are 0.
 * - Selections prune exactly the asked number. Among equal scores the lower index (row-major) is pruned first, as a
 *   stable ascending sort would. Scores must be finite: `|weight| * scale`, one f32 multiplication, so that both
 *   devices agree to the bit.
 * - Results do not depend on the number of threads or on how work is split.
 * - What is written lies in another matrix than what is read, unless the operation says otherwise.
 *
 * The operations are grouped by theme; a backend has one file per theme. They are written over the types of their
 * operands: a matrix M, a view V and a mask K, which are `Matrix`, `MatrixView` and `KeepMask` to callers, and to a
 * backend its own matrices and masks with views in which nothing is left out.
 */
import type { Home, NdArray } from "../array.js";

export type DeviceKind = "cpu" | "webgpu";

/** An array of rank 2. One that lives on the host is a `HostArray`: its values are current after `synchronize`. */
export interface Matrix extends NdArray {
  /** [rows, columns] */
  readonly shape: readonly [rows: number, columns: number];
  readonly dtype: "f32";
  readonly rows: number;
  readonly columns: number;
}

/** A rectangle of a matrix; the default is all of it. */
export interface MatrixView {
  readonly matrix: Matrix;
  readonly firstRow?: number;
  readonly rows?: number;
  readonly firstColumn?: number;
  readonly columns?: number;
}

/** A view with nothing left out. */
export interface ResolvedView<M> {
  readonly matrix: M;
  readonly firstRow: number;
  readonly rows: number;
  readonly firstColumn: number;
  readonly columns: number;
}

/** One bit per weight, 1 = kept. */
export interface KeepMask extends Disposable {
  readonly label: string;
  readonly rows: number;
  readonly columns: number;
}

export interface MatmulOptions<V = MatrixView> {
  readonly a: V;
  readonly b: V;
  /** May overlap the factors. */
  readonly out: V;
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
  /** Default 1. */
  readonly alpha?: number;
  /** out = alpha·op(a)·op(b) + beta·out; default 0, and then `out` is not read. */
  readonly beta?: number;
}

/** H = LᵀL with L lower triangular (L = Rᵀ of the reversed Cholesky H = R·Rᵀ). */
export interface ReversedCholesky<M = Matrix> {
  /** Same matrix as the input: L in the lower triangle, the strict upper triangle unspecified. */
  readonly factor: M;
  /**
   * [ceil(n / panelWidth) * panelWidth, panelWidth]: for each panel J the upper triangular inverse
   * V_J = (R_JJ)⁻¹ in its top left corner, zeros below the diagonal and beyond a ragged last panel. Owned by the caller.
   */
  readonly panelInverses: M;
  readonly panelWidth: number;
  /** [1, n]: the diagonal of R (1 / diagonal of U). Owned by the caller. */
  readonly diagonal: M;
}

export interface CholeskyFailure {
  /** Column at which the pivot was not positive. */
  readonly column: number;
  readonly pivot: number;
}

export interface SweepOptions<M = Matrix, V = MatrixView, K = KeepMask> {
  /** [panel columns, rows]: the panel transposed; replaced by the pruned panel Q in place. */
  readonly panel: V;
  /** [panelWidth, panelWidth] view of `panelInverses`: V of this panel. */
  readonly inverse: V;
  /** Sweep panel columns [firstColumn, firstColumn + columns); later columns of the panel receive the update. */
  readonly firstColumn: number;
  readonly columns: number;
  /** Mask of the whole weight and the weight column where the panel starts. Written for "n-of-m", read otherwise. */
  readonly keepMask: K;
  readonly maskColumn: number;
  /** Choose the mask during the sweep, from the weights as updated so far. `columns` must be a multiple of `group`. */
  readonly choose?: { readonly keep: number; readonly group: number };
  /** [1, rows]: ½ Σ e² is added per row (OBS loss under the damped H). */
  readonly losses: M;
}

export interface RowSystemOptions<M = Matrix, V = MatrixView, K = KeepMask> {
  /** [width, rows]: a block of the weight's columns, transposed; width is at most LARGEST_ROW_SYSTEM. Read only. */
  readonly panel: V;
  /** [width, width]: K, symmetric positive definite, both triangles. */
  readonly matrix: V;
  /** [width, width]: K⁻¹, both triangles. A row uses it instead of K where it prunes more than half of the block. */
  readonly inverse: V;
  /** Mask of the whole weight and the weight column where the panel starts. Written for "n-of-m", read otherwise. */
  readonly keepMask: K;
  readonly maskColumn: number;
  /**
   * Choose the mask first: in every group of `group` columns keep the `keep` largest |w|·scale, scale view [1, width];
   * width is a multiple of `group`.
   */
  readonly choose?: { readonly keep: number; readonly group: number; readonly scale: V };
  /** [width, rows]: λ, transposed; written. */
  readonly multipliers: V;
  /** [1, rows]: ½ λ·w is added per row; at least 1e38 where a row's system is not positive definite. */
  readonly losses: M;
}

/** Copied at the call. */
export interface GatherIndices {
  /** Source row of every row of the result. */
  readonly rows?: Uint32Array;
  /** Source column of every column of the result. */
  readonly columns?: Uint32Array;
}

/** Coefficients of the two terms of `combine`. */
export type Coefficients = readonly [a: number, b: number];

export interface CombineOptions<M = Matrix, K = KeepMask> {
  readonly a: M;
  readonly b: M;
  /** Of the same shape; may be `a` or `b` itself. `a` and `b` are different matrices. */
  readonly out: M;
  readonly mask: K;
  readonly kept: Coefficients;
  readonly pruned: Coefficients;
}

export interface CombinePairOptions<M = Matrix, K = KeepMask> {
  /** Read, then replaced by the second combination. */
  readonly a: M;
  readonly b: M;
  /** A third matrix of the same shape: receives the first combination. */
  readonly out: M;
  readonly mask: K;
  readonly toOut: { readonly kept: Coefficients; readonly pruned: Coefficients };
  readonly toA: { readonly kept: Coefficients; readonly pruned: Coefficients };
}

/** The state of one conjugate gradient per row for x·A = y on the row's kept entries; all [rows, columns]. */
export interface ConjugateState<M = Matrix, K = KeepMask> {
  /** x, updated. */
  readonly solution: M;
  /** (y - x·A), zero at pruned entries; updated. */
  readonly residual: M;
  /** d, zero at pruned entries; at the start a copy of the residual; updated. */
  readonly direction: M;
  /** d·A, computed by the caller before every step. */
  readonly product: M;
  readonly keepMask: K;
}

/** One step of Adam on one tensor; all matrices of one shape, a vector is [1, n]. */
export interface AdamOptions<M = Matrix, K = KeepMask> {
  /** x, updated. */
  readonly values: M;
  /** g, read. */
  readonly gradient: M;
  /** m, the mean of gradients, updated; zero before the first step. */
  readonly first: M;
  /** v, the mean of squared gradients, updated; zero before the first step. */
  readonly second: M;
  /** Factor on g, for clipping. */
  readonly gradientScale: number;
  readonly rate: number;
  /** b1 and b2, in [0, 1). */
  readonly decay: readonly [first: number, second: number];
  readonly epsilon: number;
  /** s, from 1: how many steps m and v have seen with this one. */
  readonly step: number;
  /** Adds strength·(x - split + dual) to the scaled gradient. With a strength of 0 the bits are those without a pull. */
  readonly pull?: { readonly split: M; readonly dual: M; readonly strength: number };
  /** Pruned entries of x, m and v become +0, whatever g is there. */
  readonly mask?: K;
}

export interface ScoreOptions<M = Matrix> {
  /** x */
  readonly values: M;
  /** u; 0 where it is absent. */
  readonly dual?: M;
  /** v, not negative; 1 where it is absent. */
  readonly second?: M;
  readonly out: M;
}

export interface DualStepOptions<M = Matrix, K = KeepMask> {
  /** x, read. */
  readonly values: M;
  /** z, replaced. */
  readonly split: M;
  /** u, updated. */
  readonly dual: M;
  readonly mask: K;
}

/** Sums of squares over all entries, of what a dual step saw. */
export interface DualStepSums {
  /** Σ (x - z)², z as it is after the step. */
  readonly primal: number;
  /** Σ (z - z before)² */
  readonly change: number;
  /** Σ x² */
  readonly values: number;
  /** Σ (z before)² */
  readonly split: number;
}

/** Making matrices and masks, and moving numbers in and out. */
export interface DataOperations<M, V, K> {
  /** Zero-filled. */
  createMatrix(rows: number, columns: number, label: string): M;
  createMask(rows: number, columns: number, label: string): K;
  /** Copies `values` (rows * columns, row-major). */
  uploadMatrix(values: Float32Array, rows: number, columns: number, label: string): M;
  uploadMask(words: Uint32Array, rows: number, columns: number, label: string): K;
  /** target = source, bit for bit; different matrices of one shape. */
  copy(source: M, target: M): void;
  /** Compact row-major copy of the view. */
  download(view: V): Promise<Float32Array>;
  downloadMask(mask: K): Promise<Uint32Array>;
}

/** Sums over tokens. */
export interface StatisticsOperations<M, V> {
  /** gram += xᵀx, lower triangle (diagonal tiles may be written in full). x [tokens, n], gram [n, n]. */
  accumulateGram(x: V, gram: M): void;
  /** sums[0, c] += Σ over rows of x[r, c]². x [tokens, n], sums [1, n]. */
  accumulateSquareSums(x: V, sums: M): void;
}

/** Every entry on its own, or in another place. */
export interface ElementwiseOperations<M, V> {
  /** Main diagonal of a square matrix. */
  downloadDiagonal(matrix: M): Promise<Float32Array>;
  /** Overwrite the main diagonal. */
  setDiagonal(matrix: M, values: Float32Array): void;
  /** matrix *= factor, in place. */
  scale(matrix: M, factor: number): void;
  /** matrix[r, c] *= factors[0, c], in place; a product of ±0 is stored as +0. factors [1, columns]. */
  scaleColumns(matrix: M, factors: M): void;
  /** matrix[r, c] *= factors[0, r], in place; a product of ±0 is stored as +0. factors [1, rows]. */
  scaleRows(matrix: M, factors: M): void;
  /** out = a - b. Views of equal shape; `out` is `a` or `b` itself (same matrix, same view) or overlaps neither. */
  subtract(a: V, b: V, out: V): void;
  /** out[c, r] = a[r, c]; different matrices. */
  transpose(a: V, out: V): void;
  /**
   * out[r, c] = a[rows[r], columns[c]]; different matrices. Indices may repeat; where they are absent the entries stay
   * in order.
   */
  gather(a: M, out: M, indices: GatherIndices): void;
  /** Copy the strict lower triangle of a square matrix over the upper one. */
  mirrorLower(matrix: M): void;
  /** out += a; different matrices of one shape. */
  addInto(a: M, out: M): void;
}

/** Steps that follow a mask entry by entry, and sums of rows. */
export interface MaskedOperations<M, K> {
  /** Pruned entries become +0, kept ones keep their bits. */
  applyMask(matrix: M, mask: K): void;
  /** out = a·coefficient + b·coefficient, entry by entry; which pair of coefficients, the mask says. */
  combine(options: CombineOptions<M, K>): void;
  /** Two combinations of the same matrices in one pass, both from their values before it; the second replaces `a`. */
  combinePair(options: CombinePairOptions<M, K>): void;
  /** Number of weights that one of two masks of the same shape keeps and the other prunes. */
  countDifferences(a: K, b: K): Promise<number>;
  /** dots[0, r] = Σ_c a[r, c]·b[r, c]; a and b may be the same matrix. dots [1, rows]. */
  rowDots(a: M, b: M, dots: M): void;
  /**
   * One step of conjugate gradients in every row: α = r·r / d·(dA), x += α·d, r = mask∘(r - α·dA), β = r·r / (its value
   * before), d = r + β·d. A row whose residual or curvature is not positive is left as it is.
   */
  conjugateStep(state: ConjugateState<M, K>): void;
}

/** Which weights to prune. Every mask word is written. */
export interface SelectionOperations<M, V, K> {
  /** In every row prune the `pruneCount` smallest |w|·scale. scale [1, columns]. */
  selectRows(weight: M, scale: M, pruneCount: number, mask: K): void;
  /** Prune the `pruneCount` smallest |w|·scale of the whole matrix. */
  selectMatrix(weight: M, scale: M, pruneCount: number, mask: K): void;
  /** In every group of `group` consecutive columns keep the `keep` largest |w|·scale; columns is a multiple of `group`. */
  selectGroups(weight: M, scale: M, keep: number, group: number, mask: K): void;
  /**
   * Selection over all rows of a block of columns given transposed: panel [columns, rows] view, scale view [1, columns].
   * Prunes exactly `pruneCount` entries (ties: lower row first, then lower column) and writes mask columns
   * [maskColumn, maskColumn + columns) of every row, leaving other bits alone.
   */
  selectPanel(panel: V, scale: V, pruneCount: number, mask: K, maskColumn: number): void;
  /**
   * As `selectPanel`, but `pruneCount` counts the zeros of mask columns [0, maskColumn + panel columns): those before
   * maskColumn stay and are taken off. Where they are already more, nothing is pruned.
   */
  selectRemaining(panel: V, scale: V, pruneCount: number, mask: K, maskColumn: number): void;
}

/** Products of matrices. */
export interface ProductOperations<V> {
  matmul(options: MatmulOptions<V>): void;
}

/** Factors and inverses of symmetric positive definite matrices. */
export interface FactorizationOperations<M> {
  /**
   * Reversed blocked Cholesky of the symmetric matrix whose LOWER triangle is given, in place.
   * `panelWidth` is even, at most 128. Resolves to the failure instead of throwing, so that the caller can name the layer.
   */
  choleskyReversed(h: M, panelWidth: number): Promise<ReversedCholesky<M> | CholeskyFailure>;
  /** out = (Lᵀ)⁻¹ = R⁻¹ = U, upper triangular [n, n] with zeros below, from a reversed Cholesky. */
  triangularInverse(cholesky: ReversedCholesky<M>, out: M): void;
  /**
   * Replace a symmetric positive definite matrix, given by its lower triangle, by its inverse, both triangles. Resolves
   * to the failure instead of throwing; the matrix is then unspecified.
   */
  invertPositiveDefinite(h: M): Promise<CholeskyFailure | undefined>;
}

/** Updating the weights that are left, one after another. */
export interface SweepOperations<M, V, K> {
  /** The OBS sweep over columns of one panel; see `SweepOptions`. */
  sweepPanel(options: SweepOptions<M, V, K>): void;
}

/** Updating the weights that are left, all at once. */
export interface RowSystemOperations<M, V, K> {
  /**
   * For every row w of a block with pruned columns q: the λ with λ·K[q, q] = w[q] and zeros outside q, so that w - λ·K is
   * zero on q. See `RowSystemOptions`.
   */
  solveRowSystems(options: RowSystemOptions<M, V, K>): void;
}

/**
 * What training goes by, entry by entry. All matrices of a call have one shape and are different ones.
 *
 * Agreement: the CPU device rounds after every operation and fuses none. WGSL may fuse a product and a sum, gives √ and ÷
 * within 3 units in the last place instead of ½ and may take subnormal numbers for 0. So the devices agree to the bit in
 * `|x|`, `|x + u|` and z = x + u, and elsewhere within a few units of the largest term.
 */
export interface TrainingOperations<M, K> {
  /**
   * g' = gradientScale·g + strength·((x - split) + dual); m = b1·m + (1 - b1)·g'; v = b2·v + (1 - b2)·g'²;
   * x -= rate / (1 - b1^s) · m / (√v / √(1 - b2^s) + epsilon). Scalars are rounded to f32 once (adam.ts).
   */
  adamStep(options: AdamOptions<M, K>): void;
  /**
   * Σ entries²: rows are summed in a fixed order, then added up in f64 in their order. On WebGPU a row is summed in f32,
   * where squares below 1e-38 are lost and sums beyond 3e38 infinite.
   */
  sumOfSquares(matrix: M): Promise<number>;
  /** out = √second·|values + dual|; which of the two are absent is left out. Not negative: never -0. */
  projectionScores(options: ScoreOptions<M>): void;
  /** z = mask∘(x + u), +0 where it is pruned; u += x - z, with the new z. Sums as in `sumOfSquares`. */
  dualStep(options: DualStepOptions<M, K>): Promise<DualStepSums>;
}

export interface Operations<M, V, K>
  extends
    DataOperations<M, V, K>,
    StatisticsOperations<M, V>,
    ElementwiseOperations<M, V>,
    MaskedOperations<M, K>,
    SelectionOperations<M, V, K>,
    ProductOperations<V>,
    FactorizationOperations<M>,
    SweepOperations<M, V, K>,
    RowSystemOperations<M, V, K>,
    TrainingOperations<M, K> {}

/** What a device is, what it holds and when it is done. */
export interface DeviceLife extends AsyncDisposable {
  readonly kind: DeviceKind;
  /** Where its matrices are. */
  readonly home: Home;
  /** For people: adapter name and driver, or threads and instruction set. */
  readonly description: string;
  /** Bytes of live matrices and masks by label; empty when everything was disposed. */
  liveBytes(): ReadonlyMap<string, number>;
  /** Wait for everything queued; throws what failed. */
  synchronize(): Promise<void>;
}

export interface Device extends Operations<Matrix, MatrixView, KeepMask>, DeviceLife {}

/** The largest panel of the OBS sweep and of the factorisation's inverse blocks. */
export const LARGEST_PANEL = 128;

/** The widest block of `solveRowSystems`. */
export const LARGEST_ROW_SYSTEM = 512;

export function isCholeskyFailure<M>(result: ReversedCholesky<M> | CholeskyFailure): result is CholeskyFailure {
  return "pivot" in result;
}

/** Words of a keep mask's row. */
export function maskWordsPerRow(columns: number): number {
  return Math.ceil(columns / 32);
}
