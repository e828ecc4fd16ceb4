/**
 * The operations solvers are made of, on f32 matrices that live on a device.
 *
 * Two implementations: `cpu` (products through ONNX Runtime, the rest as WebAssembly SIMD in threads) and
 * `webgpu` (one WGSL kernel per operation, in shaders/). Each operation is tested on both against a plain
 * float64 twin (test/reference/) by one suite (test/device/).
 *
 * Conventions
 * - A matrix is dense, row-major f32. Operations borrow their arguments; only `create…` and `upload…` return
 *   something the caller owns and must dispose.
 * - Operations are queued in order. Only those that return a promise wait for the device; a failure of a queued
 *   operation surfaces at the next promise. Disposing a matrix that queued operations still use is safe: it is freed
 *   after them.
 * - A keep mask is one bit per weight, 1 = kept: row r, column c is bit (c & 31) of word r * wordsPerRow + (c >> 5),
 *   wordsPerRow = ceil(columns / 32); spare bits of the last word are 0.
 * - Selections prune exactly the asked number. Among equal scores the lower index (row-major) is pruned first, as a
 *   stable ascending sort would. Scores must be finite: `|weight| * scale`, one f32 multiplication, so that both
 *   devices agree to the bit.
 * - Results do not depend on the number of threads or on how work is split.
 */

export type DeviceKind = "cpu" | "webgpu";

export interface Matrix extends Disposable {
  readonly label: string;
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

/** One bit per weight, 1 = kept. */
export interface KeepMask extends Disposable {
  readonly label: string;
  readonly rows: number;
  readonly columns: number;
}

export interface MatmulOptions {
  readonly a: MatrixView;
  readonly b: MatrixView;
  readonly out: MatrixView;
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
  /** Default 1. */
  readonly alpha?: number;
  /** out = alpha·op(a)·op(b) + beta·out; default 0, and then `out` is not read. */
  readonly beta?: number;
}

/** H = LᵀL with L lower triangular (L = Rᵀ of the reversed Cholesky H = R·Rᵀ). */
export interface ReversedCholesky {
  /** Same matrix as the input: L in the lower triangle, the strict upper triangle unspecified. */
  readonly factor: Matrix;
  /**
   * [ceil(n / panelWidth) * panelWidth, panelWidth]: for each panel J the upper triangular inverse
   * V_J = (R_JJ)⁻¹ in its top left corner, zeros below the diagonal and beyond a ragged last panel. Owned by the caller.
   */
  readonly panelInverses: Matrix;
  readonly panelWidth: number;
  /** [1, n]: the diagonal of R (1 / diagonal of U). Owned by the caller. */
  readonly diagonal: Matrix;
}

export interface CholeskyFailure {
  /** Column at which the pivot was not positive. */
  readonly column: number;
  readonly pivot: number;
}

export interface SweepOptions {
  /** [panel columns, rows]: the panel transposed; replaced by the pruned panel Q in place. */
  readonly panel: MatrixView;
  /** [panelWidth, panelWidth] view of `panelInverses`: V of this panel. */
  readonly inverse: MatrixView;
  /** Sweep panel columns [firstColumn, firstColumn + columns); later columns of the panel receive the update. */
  readonly firstColumn: number;
  readonly columns: number;
  /** Mask of the whole weight and the weight column where the panel starts. Written for "n-of-m", read otherwise. */
  readonly keepMask: KeepMask;
  readonly maskColumn: number;
  /** Choose the mask during the sweep, from the weights as updated so far. `columns` must be a multiple of `group`. */
  readonly choose?: { readonly keep: number; readonly group: number };
  /** [1, rows]: ½ Σ e² is added per row (OBS loss under the damped H). */
  readonly losses: Matrix;
}

export interface RowSystemOptions {
  /** [width, rows]: a block of the weight's columns, transposed; width is at most LARGEST_ROW_SYSTEM. Read only. */
  readonly panel: MatrixView;
  /** [width, width]: K, symmetric positive definite, both triangles. */
  readonly matrix: MatrixView;
  /** [width, width]: K⁻¹, both triangles. A row uses it instead of K where it prunes more than half of the block. */
  readonly inverse: MatrixView;
  /** Mask of the whole weight and the weight column where the panel starts. Written for "n-of-m", read otherwise. */
  readonly keepMask: KeepMask;
  readonly maskColumn: number;
  /**
   * Choose the mask first: in every group of `group` columns keep the `keep` largest |w|·scale, scale view [1, width];
   * width is a multiple of `group`.
   */
  readonly choose?: { readonly keep: number; readonly group: number; readonly scale: MatrixView };
  /** [width, rows]: λ, transposed; written. */
  readonly multipliers: MatrixView;
  /** [1, rows]: ½ λ·w is added per row; at least 1e38 where a row's system is not positive definite. */
  readonly losses: Matrix;
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

export interface CombineOptions {
  readonly a: Matrix;
  readonly b: Matrix;
  /** Of the same shape; may be `a` or `b` itself. `a` and `b` are different matrices. */
  readonly out: Matrix;
  readonly mask: KeepMask;
  readonly kept: Coefficients;
  readonly pruned: Coefficients;
}

export interface CombinePairOptions {
  /** Read, then replaced by the second combination. */
  readonly a: Matrix;
  readonly b: Matrix;
  /** A third matrix of the same shape: receives the first combination. */
  readonly out: Matrix;
  readonly mask: KeepMask;
  readonly toOut: { readonly kept: Coefficients; readonly pruned: Coefficients };
  readonly toA: { readonly kept: Coefficients; readonly pruned: Coefficients };
}

/** The state of one conjugate gradient per row for x·A = y on the row's kept entries; all [rows, columns]. */
export interface ConjugateState {
  /** x, updated. */
  readonly solution: Matrix;
  /** (y - x·A), zero at pruned entries; updated. */
  readonly residual: Matrix;
  /** d, zero at pruned entries; at the start a copy of the residual; updated. */
  readonly direction: Matrix;
  /** d·A, computed by the caller before every step. */
  readonly product: Matrix;
  readonly keepMask: KeepMask;
}

export interface Device extends AsyncDisposable {
  readonly kind: DeviceKind;
  /** For people: adapter name and driver, or threads and instruction set. */
  readonly description: string;
  /** Bytes of live matrices and masks by label; empty when everything was disposed. */
  liveBytes(): ReadonlyMap<string, number>;

  // --- data
  /** Zero-filled. */
  createMatrix(rows: number, columns: number, label: string): Matrix;
  createMask(rows: number, columns: number, label: string): KeepMask;
  /** Copies `values` (rows * columns, row-major). */
  uploadMatrix(values: Float32Array, rows: number, columns: number, label: string): Matrix;
  uploadMask(words: Uint32Array, rows: number, columns: number, label: string): KeepMask;
  /** target = source, bit for bit; different matrices of one shape. */
  copy(source: Matrix, target: Matrix): void;
  /** Compact row-major copy of the view. */
  download(view: MatrixView): Promise<Float32Array>;
  downloadMask(mask: KeepMask): Promise<Uint32Array>;
  /** Wait for everything queued; throws what failed. */
  synchronize(): Promise<void>;

  // --- statistics
  /** gram += xᵀx, lower triangle (diagonal tiles may be written in full). x [tokens, n], gram [n, n]. */
  accumulateGram(x: MatrixView, gram: Matrix): void;
  /** sums[0, c] += Σ over rows of x[r, c]². x [tokens, n], sums [1, n]. */
  accumulateSquareSums(x: MatrixView, sums: Matrix): void;
  /** Main diagonal of a square matrix. */
  downloadDiagonal(matrix: Matrix): Promise<Float32Array>;
  /** Overwrite the main diagonal. */
  setDiagonal(matrix: Matrix, values: Float32Array): void;

  // --- element-wise
  /** matrix *= factor, in place. */
  scale(matrix: Matrix, factor: number): void;
  /** matrix[r, c] *= factors[0, c], in place; a product of ±0 is stored as +0. factors [1, columns]. */
  scaleColumns(matrix: Matrix, factors: Matrix): void;
  /** matrix[r, c] *= factors[0, r], in place; a product of ±0 is stored as +0. factors [1, rows]. */
  scaleRows(matrix: Matrix, factors: Matrix): void;
  /** out = a - b. Views of equal shape; `out` may be `a` or `b` itself (same matrix, same view). */
  subtract(a: MatrixView, b: MatrixView, out: MatrixView): void;
  /** out[c, r] = a[r, c]; different matrices. */
  transpose(a: MatrixView, out: MatrixView): void;
  /**
   * out[r, c] = a[rows[r], columns[c]]; different matrices. Indices may repeat; where they are absent the entries stay
   * in order.
   */
  gather(a: Matrix, out: Matrix, indices: GatherIndices): void;
  /** Copy the strict lower triangle of a square matrix over the upper one. */
  mirrorLower(matrix: Matrix): void;
  /** Pruned entries become +0, kept ones keep their bits. */
  applyMask(matrix: Matrix, mask: KeepMask): void;
  /** out = a·coefficient + b·coefficient, entry by entry; which pair of coefficients, the mask says. */
  combine(options: CombineOptions): void;
  /** Two combinations of the same matrices in one pass, both from their values before it; the second replaces `a`. */
  combinePair(options: CombinePairOptions): void;
  /** Number of weights that one of two masks of the same shape keeps and the other prunes. */
  countDifferences(a: KeepMask, b: KeepMask): Promise<number>;

  // --- selection; every mask word is written
  /** In every row prune the `pruneCount` smallest |w|·scale. scale [1, columns]. */
  selectRows(weight: Matrix, scale: Matrix, pruneCount: number, mask: KeepMask): void;
  /** Prune the `pruneCount` smallest |w|·scale of the whole matrix. */
  selectMatrix(weight: Matrix, scale: Matrix, pruneCount: number, mask: KeepMask): void;
  /** In every group of `group` consecutive columns keep the `keep` largest |w|·scale; columns is a multiple of `group`. */
  selectGroups(weight: Matrix, scale: Matrix, keep: number, group: number, mask: KeepMask): void;
  /**
   * Selection over all rows of a block of columns given transposed: panel [columns, rows] view, scale view [1, columns].
   * Prunes exactly `pruneCount` entries (ties: lower row first, then lower column) and writes mask columns
   * [maskColumn, maskColumn + columns) of every row, leaving other bits alone.
   */
  selectPanel(panel: MatrixView, scale: MatrixView, pruneCount: number, mask: KeepMask, maskColumn: number): void;
  /**
   * As `selectPanel`, but `pruneCount` counts the zeros of mask columns [0, maskColumn + panel columns): those before
   * maskColumn stay and are taken off. Where they are already more, nothing is pruned.
   */
  selectRemaining(panel: MatrixView, scale: MatrixView, pruneCount: number, mask: KeepMask, maskColumn: number): void;

  // --- linear algebra
  matmul(options: MatmulOptions): void;
  /** dots[0, r] = Σ_c a[r, c]·b[r, c]; a and b may be the same matrix. dots [1, rows]. */
  rowDots(a: Matrix, b: Matrix, dots: Matrix): void;
  /**
   * One step of conjugate gradients in every row: α = r·r / d·(dA), x += α·d, r = mask∘(r - α·dA), β = r·r / (its value
   * before), d = r + β·d. A row whose residual or curvature is not positive is left as it is.
   */
  conjugateStep(state: ConjugateState): void;
  /**
   * Reversed blocked Cholesky of the symmetric matrix whose LOWER triangle is given, in place.
   * `panelWidth` is even, at most 128. Resolves to the failure instead of throwing, so that the caller can name the layer.
   */
  choleskyReversed(h: Matrix, panelWidth: number): Promise<ReversedCholesky | CholeskyFailure>;
  /** out = (Lᵀ)⁻¹ = R⁻¹ = U, upper triangular [n, n] with zeros below, from a reversed Cholesky. */
  triangularInverse(cholesky: ReversedCholesky, out: Matrix): void;
  /**
   * Replace a symmetric positive definite matrix, given by its lower triangle, by its inverse, both triangles. Resolves
   * to the failure instead of throwing; the matrix is then unspecified.
   */
  invertPositiveDefinite(h: Matrix): Promise<CholeskyFailure | undefined>;
  /** The OBS sweep over columns of one panel; see `SweepOptions`. */
  sweepPanel(options: SweepOptions): void;
  /**
   * For every row w of a block with pruned columns q: the λ with λ·K[q, q] = w[q] and zeros outside q, so that w - λ·K is
   * zero on q. See `RowSystemOptions`.
   */
  solveRowSystems(options: RowSystemOptions): void;
}

/** The largest panel of the OBS sweep and of the factorisation's inverse blocks. */
export const LARGEST_PANEL = 128;

/** The widest block of `solveRowSystems`. */
export const LARGEST_ROW_SYSTEM = 512;

/** Whether `indices`, or where they are absent 0, 1, 2 …, select `count` of `available` rows or columns. */
export function indicesFit(indices: Uint32Array | undefined, count: number, available: number): boolean {
  if (indices === undefined) return count === available;
  return indices.length === count && indices.every((index) => index < available);
}

export function isCholeskyFailure(result: ReversedCholesky | CholeskyFailure): result is CholeskyFailure {
  return "pivot" in result;
}

/** Words of a keep mask's row. */
export function maskWordsPerRow(columns: number): number {
  return Math.ceil(columns / 32);
}
