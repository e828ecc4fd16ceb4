/**
 * The `webgpu` device: every operation of `Device` as WGSL kernels on a GPU, through Dawn.
 *
 * Orientation, from the outside in
 * - adapter.ts finds an adapter and opens the device; nothing else imports the npm package `webgpu`.
 * - this file checks shapes, owns the results, and calls one `encode…` function per operation.
 * - kernels/*.ts hold the kernel specs and the host side of each operation: which kernels, which grid, how the work is
 *   cut so that bindings, buffers, the grid and the watchdog's patience suffice. Cuts never change a sum.
 * - dispatch.ts queues: one compute pass with many dispatches, a ring of parameters, submits of about 100 ms, errors kept
 *   for the next wait, readback. kernel.ts compiles. buffer.ts holds matrices (rows padded to 64 floats) and the ledger.
 * - shaders/*.wgsl are the kernels, one per file, each with its method, memory and accuracy in its header.
 *
 * Limits: a matrix is one buffer, so its largest size is the adapter's `maxBufferSize` (rows padded to 64 floats); beyond
 * the binding limit it is bound by row ranges. Except for masks, vectors and the panels of sweeps and row systems, which
 * are bound whole.
 * This file does not choose between devices and knows nothing of solvers.
 */
import { InternalError } from "../../errors.js";
import type {
  CholeskyFailure,
  CombineOptions,
  CombinePairOptions,
  ConjugateState,
  Device,
  GatherIndices,
  KeepMask,
  MatmulOptions,
  Matrix,
  MatrixView,
  ReversedCholesky,
  RowSystemOptions,
  SweepOptions,
} from "../device.js";
import { indicesFit, isCholeskyFailure, LARGEST_PANEL, LARGEST_ROW_SYSTEM, maskWordsPerRow } from "../device.js";
import type { GpuView } from "./buffer.js";
import { GpuMask, GpuMatrix, bindRows, ownMask, ownMatrix, requireShape, resolveView, rowPitch } from "./buffer.js";
import type { Dispatcher } from "./dispatch.js";
import { encodeCholesky, encodeTriangularInverse } from "./kernels/cholesky.js";
import {
  encodeApplyMask,
  encodeGather,
  encodeGetDiagonal,
  encodeMirrorLower,
  encodeScale,
  encodeScaleColumns,
  encodeScaleRows,
  encodeSetDiagonal,
  encodeSquareSums,
  encodeSubtract,
  encodeTranspose,
} from "./kernels/elementwise.js";
import {
  encodeCombine,
  encodeCombinePair,
  encodeConjugateStep,
  encodeMaskDifferences,
  encodeRowDots,
} from "./kernels/masked.js";
import { encodeGram, encodeProduct } from "./kernels/matmul.js";
import { encodeSweep } from "./kernels/obs-sweep.js";
import { encodeRowSystems } from "./kernels/row-systems.js";
import { encodeSelectGroups, encodeSelectMatrix, encodeSelectPanel, encodeSelectRows } from "./kernels/selection.js";

const LARGEST_GROUP = 64;
const STATUS_BYTES = 16;
/** Columns of a block of UᵀU: fewer waste less on zeros, more keep the product fast. */
const INVERSE_BLOCK = 512;

export class WebGpuDevice implements Device {
  readonly kind = "webgpu";
  readonly description: string;
  readonly #dispatcher: Dispatcher;

  constructor(dispatcher: Dispatcher, description: string) {
    this.#dispatcher = dispatcher;
    this.description = description;
  }

  liveBytes(): ReadonlyMap<string, number> {
    return this.#dispatcher.ledger.snapshot();
  }

  // --- data

  createMatrix(rows: number, columns: number, label: string): GpuMatrix {
    requireShape(isCount(rows) && isCount(columns), "createMatrix", `"${label}" has shape ${rows} × ${columns}`);
    const bytes = rows * rowPitch(columns) * 4;
    const buffer = this.#dispatcher.createBuffer(bytes, label, `matrix "${label}" of ${rows} × ${columns} f32`);
    return new GpuMatrix(this.#dispatcher, buffer, buffer.size, rows, columns, label);
  }

  createMask(rows: number, columns: number, label: string): GpuMask {
    requireShape(isCount(rows) && isCount(columns), "createMask", `"${label}" has shape ${rows} × ${columns}`);
    const bytes = rows * maskWordsPerRow(columns) * 4;
    const buffer = this.#dispatcher.createBuffer(bytes, label, `mask "${label}" of ${rows} × ${columns} bits`);
    return new GpuMask(this.#dispatcher, buffer, buffer.size, rows, columns, label);
  }

  uploadMatrix(values: Float32Array, rows: number, columns: number, label: string): GpuMatrix {
    requireShape(
      values.length === rows * columns,
      "uploadMatrix",
      `"${label}" of ${rows} × ${columns} got ${values.length} values`,
    );
    const matrix = this.createMatrix(rows, columns, label);
    const { pitch } = matrix;
    if (pitch === columns) {
      this.#dispatcher.upload(matrix.buffer, 0, values);
      return matrix;
    }
    const rowsAtOnce = Math.max(1, Math.min(rows, Math.floor(2 ** 20 / pitch)));
    const padded = new Float32Array(rowsAtOnce * pitch);
    for (let first = 0; first < rows; first += rowsAtOnce) {
      const count = Math.min(rowsAtOnce, rows - first);
      for (let row = 0; row < count; row += 1) {
        padded.set(values.subarray((first + row) * columns, (first + row + 1) * columns), row * pitch);
      }
      this.#dispatcher.upload(matrix.buffer, first * pitch * 4, padded.subarray(0, count * pitch));
    }
    return matrix;
  }

  uploadMask(words: Uint32Array, rows: number, columns: number, label: string): GpuMask {
    const expected = rows * maskWordsPerRow(columns);
    requireShape(
      words.length === expected,
      "uploadMask",
      `"${label}" of ${rows} × ${columns} got ${words.length} words, not ${expected}`,
    );
    const mask = this.createMask(rows, columns, label);
    this.#dispatcher.upload(mask.buffer, 0, words);
    return mask;
  }

  async download(view: MatrixView): Promise<Float32Array> {
    const { matrix, firstRow, rows, firstColumn, columns } = this.#view(view);
    const rowBytes = matrix.pitch * 4;
    const result = new Float32Array(rows * columns);
    await this.#dispatcher.read(matrix.buffer, firstRow * rowBytes, rows * rowBytes, rowBytes, (piece, offset) => {
      const first = offset / rowBytes;
      for (let row = 0; row < piece.byteLength / rowBytes; row += 1) {
        const source = new Float32Array(piece, row * rowBytes + firstColumn * 4, columns);
        result.set(source, (first + row) * columns);
      }
    });
    return result;
  }

  async downloadMask(mask: KeepMask): Promise<Uint32Array> {
    const own = ownMask(this.#dispatcher, mask);
    const words = new Uint32Array(own.rows * own.words);
    await this.#dispatcher.read(own.buffer, 0, words.byteLength, 4, (piece, offset) => {
      words.set(new Uint32Array(piece), offset / 4);
    });
    return words;
  }

  synchronize(): Promise<void> {
    return this.#dispatcher.synchronize();
  }

  copy(source: Matrix, target: Matrix): void {
    const [from, to] = [this.#own(source), this.#own(target)];
    const fits = from.rows === to.rows && from.columns === to.columns && from !== to;
    requireShape(fits, "copy", `source ${shapeOf(from)}, target ${shapeOf(to)}`);
    const bytes = to.rows * to.pitch * 4;
    if (bytes > 0) this.#dispatcher.copy(from.buffer, 0, to.buffer, 0, bytes);
  }

  // --- statistics

  accumulateGram(x: MatrixView, gram: Matrix): void {
    const input = this.#view(x);
    const target = this.#own(gram);
    const n = input.columns;
    requireShape(
      target.rows === n && target.columns === n,
      "accumulateGram",
      `x has ${n} columns, gram ${shapeOf(target)}`,
    );
    requireShape(input.matrix !== target, "accumulateGram", "x and gram are the same matrix");
    encodeGram(this.#dispatcher, input, target);
  }

  accumulateSquareSums(x: MatrixView, sums: Matrix): void {
    const input = this.#view(x);
    const target = this.#own(sums);
    requireShape(
      isVector(target, input.columns),
      "accumulateSquareSums",
      `x has ${input.columns} columns, sums ${shapeOf(target)}`,
    );
    encodeSquareSums(this.#dispatcher, input, target);
  }

  async downloadDiagonal(matrix: Matrix): Promise<Float32Array> {
    const own = this.#own(matrix);
    requireShape(own.rows === own.columns, "downloadDiagonal", `"${own.label}" is ${shapeOf(own)}`);
    const diagonal = this.#dispatcher.scratch("diagonal", own.rows * 4);
    encodeGetDiagonal(this.#dispatcher, own, diagonal);
    const result = new Float32Array(own.rows);
    await this.#dispatcher.read(diagonal.buffer, 0, result.byteLength, 4, (piece, offset) => {
      result.set(new Float32Array(piece), offset / 4);
    });
    return result;
  }

  setDiagonal(matrix: Matrix, values: Float32Array): void {
    const own = this.#own(matrix);
    const fits = own.rows === own.columns && values.length === own.rows;
    requireShape(fits, "setDiagonal", `"${own.label}" is ${shapeOf(own)}, ${values.length} values`);
    using diagonal = this.uploadMatrix(values, 1, values.length, "diagonal values");
    encodeSetDiagonal(this.#dispatcher, own, bindRows(diagonal, 0, 1));
  }

  // --- element-wise

  scale(matrix: Matrix, factor: number): void {
    encodeScale(this.#dispatcher, this.#own(matrix), factor);
  }

  scaleColumns(matrix: Matrix, factors: Matrix): void {
    const own = this.#own(matrix);
    const row = this.#own(factors);
    requireShape(isVector(row, own.columns), "scaleColumns", `matrix ${shapeOf(own)}, factors ${shapeOf(row)}`);
    requireShape(row !== own, "scaleColumns", "matrix and factors are the same matrix");
    encodeScaleColumns(this.#dispatcher, own, row);
  }

  scaleRows(matrix: Matrix, factors: Matrix): void {
    const own = this.#own(matrix);
    const scales = this.#own(factors);
    requireShape(isVector(scales, own.rows), "scaleRows", `matrix ${shapeOf(own)}, factors ${shapeOf(scales)}`);
    requireShape(scales !== own, "scaleRows", "matrix and factors are the same matrix");
    encodeScaleRows(this.#dispatcher, own, scales);
  }

  subtract(a: MatrixView, b: MatrixView, out: MatrixView): void {
    const [left, right, target] = [this.#view(a), this.#view(b), this.#view(out)];
    const same = [left, right].every((view) => view.rows === target.rows && view.columns === target.columns);
    requireShape(same, "subtract", `views of ${shapeOf(left)}, ${shapeOf(right)} and ${shapeOf(target)}`);
    encodeSubtract(this.#dispatcher, left, right, target);
  }

  transpose(a: MatrixView, out: MatrixView): void {
    const [source, target] = [this.#view(a), this.#view(out)];
    const fits = source.rows === target.columns && source.columns === target.rows;
    requireShape(fits, "transpose", `views of ${shapeOf(source)} and ${shapeOf(target)}`);
    requireShape(source.matrix !== target.matrix, "transpose", "source and target are the same matrix");
    encodeTranspose(this.#dispatcher, source, target);
  }

  gather(a: Matrix, out: Matrix, { rows, columns }: GatherIndices): void {
    const [source, target] = [this.#own(a), this.#own(out)];
    const fits = indicesFit(rows, target.rows, source.rows) && indicesFit(columns, target.columns, source.columns);
    requireShape(fits, "gather", `indices out of range, or matrices of ${shapeOf(source)} and ${shapeOf(target)}`);
    requireShape(source !== target, "gather", "source and target are the same matrix");
    const all = (count: number): Uint32Array => Uint32Array.from({ length: count }, (_, i) => i);
    encodeGather(this.#dispatcher, source, target, rows ?? all(target.rows), columns ?? all(target.columns));
  }

  mirrorLower(matrix: Matrix): void {
    const own = this.#own(matrix);
    requireShape(own.rows === own.columns, "mirrorLower", `"${own.label}" is ${shapeOf(own)}`);
    encodeMirrorLower(this.#dispatcher, own);
  }

  applyMask(matrix: Matrix, mask: KeepMask): void {
    const [own, keep] = [this.#own(matrix), this.#maskOf(mask, matrix, "applyMask")];
    encodeApplyMask(this.#dispatcher, own, keep);
  }

  combine({ a, b, out, mask, kept, pruned }: CombineOptions): void {
    const [left, right, target] = [this.#own(a), this.#own(b), this.#own(out)];
    const same = [left, right].every((matrix) => matrix.rows === target.rows && matrix.columns === target.columns);
    requireShape(same, "combine", `matrices of ${shapeOf(left)}, ${shapeOf(right)} and ${shapeOf(target)}`);
    requireShape(left !== right, "combine", "a and b are the same matrix");
    const keep = this.#maskOf(mask, out, "combine");
    encodeCombine(this.#dispatcher, { a: left, b: right, out: target, mask: keep, kept, pruned });
  }

  combinePair({ a, b, out, mask, toOut, toA }: CombinePairOptions): void {
    const [left, right, target] = [this.#own(a), this.#own(b), this.#own(out)];
    const same = [left, right].every((matrix) => matrix.rows === target.rows && matrix.columns === target.columns);
    requireShape(same, "combinePair", `matrices of ${shapeOf(left)}, ${shapeOf(right)} and ${shapeOf(target)}`);
    requireShape(new Set([left, right, target]).size === 3, "combinePair", "the matrices are not three different ones");
    const keep = this.#maskOf(mask, out, "combinePair");
    encodeCombinePair(this.#dispatcher, { a: left, b: right, out: target, mask: keep, toOut, toA });
  }

  async countDifferences(a: KeepMask, b: KeepMask): Promise<number> {
    const [left, right] = [ownMask(this.#dispatcher, a), ownMask(this.#dispatcher, b)];
    const same = left.rows === right.rows && left.columns === right.columns;
    requireShape(same, "countDifferences", `masks of ${shapeOf(left)} and ${shapeOf(right)}`);
    if (left === right) return 0;
    const total = this.#dispatcher.createBuffer(4, "mask differences", "mask differences");
    const words = new Uint32Array(1);
    try {
      encodeMaskDifferences(this.#dispatcher, left, right, { buffer: total, offset: 0, size: total.size });
      await this.#dispatcher.read(total, 0, 4, 4, (piece) => words.set(new Uint32Array(piece)));
    } finally {
      this.#dispatcher.release(total);
    }
    return words[0] ?? 0;
  }

  // --- selection

  selectRows(weight: Matrix, scale: Matrix, pruneCount: number, mask: KeepMask): void {
    const [own, factors, keep] = this.#selection(weight, scale, mask, "selectRows");
    requireShape(
      isCount(pruneCount) && pruneCount <= own.columns,
      "selectRows",
      `cannot prune ${pruneCount} of ${own.columns}`,
    );
    encodeSelectRows(this.#dispatcher, own, factors, pruneCount, keep);
  }

  selectMatrix(weight: Matrix, scale: Matrix, pruneCount: number, mask: KeepMask): void {
    const [own, factors, keep] = this.#selection(weight, scale, mask, "selectMatrix");
    const elements = own.rows * own.columns;
    requireShape(
      isCount(pruneCount) && pruneCount <= elements,
      "selectMatrix",
      `cannot prune ${pruneCount} of ${elements}`,
    );
    encodeSelectMatrix(this.#dispatcher, own, factors, pruneCount, keep);
  }

  selectGroups(weight: Matrix, scale: Matrix, keep: number, group: number, mask: KeepMask): void {
    const [own, factors, target] = this.#selection(weight, scale, mask, "selectGroups");
    requireGroup(keep, group, own.columns, "selectGroups");
    encodeSelectGroups(this.#dispatcher, own, factors, keep, group, target);
  }

  selectPanel(panel: MatrixView, scale: MatrixView, pruneCount: number, mask: KeepMask, maskColumn: number): void {
    const [source, factors, keep] = this.#panelSelection(panel, scale, mask, maskColumn, "selectPanel");
    const elements = source.rows * source.columns;
    requireShape(
      isCount(pruneCount) && pruneCount <= elements,
      "selectPanel",
      `cannot prune ${pruneCount} of ${elements}`,
    );
    encodeSelectPanel(this.#dispatcher, source, factors, pruneCount, keep, maskColumn);
  }

  selectRemaining(panel: MatrixView, scale: MatrixView, pruneCount: number, mask: KeepMask, maskColumn: number): void {
    const [source, factors, keep] = this.#panelSelection(panel, scale, mask, maskColumn, "selectRemaining");
    const elements = (maskColumn + source.rows) * source.columns;
    requireShape(
      isCount(pruneCount) && pruneCount <= elements,
      "selectRemaining",
      `cannot prune ${pruneCount} of ${elements}`,
    );
    encodeSelectPanel(this.#dispatcher, source, factors, pruneCount, keep, maskColumn, true);
  }

  // --- linear algebra

  matmul(options: MatmulOptions): void {
    const { transposeA = false, transposeB = false, alpha = 1, beta = 0 } = options;
    const [a, b, out] = [this.#view(options.a), this.#view(options.b), this.#view(options.out)];
    const [m, k] = transposeA ? [a.columns, a.rows] : [a.rows, a.columns];
    const [k2, n] = transposeB ? [b.columns, b.rows] : [b.rows, b.columns];
    requireShape(
      k === k2 && out.rows === m && out.columns === n,
      "matmul",
      `op(a) is ${m} × ${k}, op(b) ${k2} × ${n}, out ${shapeOf(out)}`,
    );
    encodeProduct(this.#dispatcher, { a, b, out, transposeA, transposeB, alpha, beta });
  }

  rowDots(a: Matrix, b: Matrix, dots: Matrix): void {
    const [left, right, target] = [this.#own(a), this.#own(b), this.#own(dots)];
    const fits = left.rows === right.rows && left.columns === right.columns && isVector(target, left.rows);
    requireShape(fits, "rowDots", `matrices of ${shapeOf(left)} and ${shapeOf(right)}, dots ${shapeOf(target)}`);
    encodeRowDots(this.#dispatcher, left, right, target);
  }

  conjugateStep({ solution, residual, direction, product, keepMask }: ConjugateState): void {
    const own = [solution, residual, direction, product].map((matrix) => this.#own(matrix));
    const [x, r, d, q] = own as [GpuMatrix, GpuMatrix, GpuMatrix, GpuMatrix];
    const same = own.every((matrix) => matrix.rows === x.rows && matrix.columns === x.columns);
    requireShape(same && new Set(own).size === 4, "conjugateStep", `four different matrices of ${shapeOf(x)}`);
    const mask = this.#maskOf(keepMask, x, "conjugateStep");
    encodeConjugateStep(this.#dispatcher, { solution: x, residual: r, direction: d, product: q, mask });
  }

  async choleskyReversed(h: Matrix, panelWidth: number): Promise<ReversedCholesky | CholeskyFailure> {
    const factor = this.#own(h);
    const n = factor.rows;
    const widthFits =
      Number.isInteger(panelWidth) && panelWidth >= 2 && panelWidth <= LARGEST_PANEL && panelWidth % 2 === 0;
    requireShape(
      widthFits,
      "choleskyReversed",
      `panel width ${panelWidth} is not an even number up to ${LARGEST_PANEL}`,
    );
    requireShape(n === factor.columns && n > 0, "choleskyReversed", `"${factor.label}" is ${shapeOf(factor)}`);
    const panelInverses = this.createMatrix(
      Math.ceil(n / panelWidth) * panelWidth,
      panelWidth,
      `${factor.label} inverses`,
    );
    const diagonal = this.createMatrix(1, n, `${factor.label} diagonal`);
    try {
      const failure = await this.#factor(factor, panelWidth, panelInverses, diagonal);
      if (failure === undefined) return { factor: h, panelInverses, panelWidth, diagonal };
      panelInverses[Symbol.dispose]();
      diagonal[Symbol.dispose]();
      return failure;
    } catch (error) {
      panelInverses[Symbol.dispose]();
      diagonal[Symbol.dispose]();
      throw error;
    }
  }

  async #factor(
    factor: GpuMatrix,
    panelWidth: number,
    panelInverses: GpuMatrix,
    diagonal: GpuMatrix,
  ): Promise<CholeskyFailure | undefined> {
    const status = this.#dispatcher.createBuffer(STATUS_BYTES, "cholesky status", "cholesky status");
    const words = new Uint32Array(STATUS_BYTES / 4);
    try {
      encodeCholesky(this.#dispatcher, factor, panelWidth, {
        panelInverses,
        diagonal,
        status: { buffer: status, offset: 0, size: STATUS_BYTES },
      });
      await this.#dispatcher.read(status, 0, STATUS_BYTES, 4, (piece) => words.set(new Uint32Array(piece)));
    } finally {
      this.#dispatcher.release(status);
    }
    const [failed = 0, column = 0] = words;
    if (failed === 0) return undefined;
    return { column, pivot: new Float32Array(words.buffer, 8, 1)[0] ?? Number.NaN };
  }

  triangularInverse(cholesky: ReversedCholesky, out: Matrix): void {
    const [factor, panelInverses, target] = [cholesky.factor, cholesky.panelInverses, out].map((matrix) =>
      this.#own(matrix),
    ) as [GpuMatrix, GpuMatrix, GpuMatrix];
    const n = factor.rows;
    requireShape(
      target.rows === n && target.columns === n,
      "triangularInverse",
      `out is ${shapeOf(target)}, the factor ${n} × ${n}`,
    );
    requireShape(target !== factor, "triangularInverse", "out is the factor itself");
    let width = cholesky.panelWidth;
    while (width * 2 < n) width *= 2;
    using scratch = this.createMatrix(Math.min(width, n), Math.min(width, n), "triangular inverse scratch");
    this.#dispatcher.clear(target.buffer);
    encodeTriangularInverse(this.#dispatcher, factor, panelInverses, cholesky.panelWidth, target, scratch);
  }

  async invertPositiveDefinite(h: Matrix): Promise<CholeskyFailure | undefined> {
    const n = this.#own(h).rows;
    const cholesky = await this.choleskyReversed(h, LARGEST_PANEL);
    if (isCholeskyFailure(cholesky)) return cholesky;
    using _inverses = cholesky.panelInverses;
    using _diagonal = cholesky.diagonal;
    using u = this.createMatrix(n, n, `${h.label}: triangular inverse`);
    this.triangularInverse(cholesky, u);
    // H⁻¹ = UᵀU, block by block of the lower triangle. U is upper triangular: rows below the end of a block of columns
    // are zero there, which saves half the work of a Gram matrix.
    for (let column = 0; column < n; column += INVERSE_BLOCK) {
      const columns = Math.min(INVERSE_BLOCK, n - column);
      const rows = column + columns;
      this.matmul({
        a: { matrix: u, rows, firstColumn: column },
        b: { matrix: u, rows, firstColumn: column, columns },
        out: { matrix: h, firstRow: column, firstColumn: column, columns },
        transposeA: true,
      });
    }
    this.mirrorLower(h);
    return undefined;
  }

  sweepPanel(options: SweepOptions): void {
    const { firstColumn, columns, maskColumn, choose } = options;
    const [panel, inverse] = [this.#view(options.panel), this.#view(options.inverse)];
    const mask = ownMask(this.#dispatcher, options.keepMask);
    const losses = this.#own(options.losses);
    const width = panel.rows;
    const rangeFits = isCount(firstColumn) && isCount(columns) && firstColumn + columns <= width;
    requireShape(rangeFits, "sweepPanel", `columns ${firstColumn}+${columns} of a panel of ${width}`);
    const shapesFit = inverse.rows >= width && inverse.columns >= width && mask.rows === panel.columns;
    requireShape(
      shapesFit && isVector(losses, panel.columns) && isCount(maskColumn) && maskColumn + width <= mask.columns,
      "sweepPanel",
      `panel ${shapeOf(panel)}, inverse ${shapeOf(inverse)}, mask ${shapeOf(mask)} from column ${maskColumn}, losses ${shapeOf(losses)}`,
    );
    if (choose !== undefined) requireGroup(choose.keep, choose.group, columns, "sweepPanel");
    if (columns === 0) return;
    encodeSweep(this.#dispatcher, { panel, inverse, firstColumn, columns, mask, maskColumn, choose, losses });
  }

  solveRowSystems(options: RowSystemOptions): void {
    const { maskColumn, choose } = options;
    const [panel, matrix, inverse, multipliers] = [
      options.panel,
      options.matrix,
      options.inverse,
      options.multipliers,
    ].map((view) => this.#view(view)) as [GpuView, GpuView, GpuView, GpuView];
    const mask = ownMask(this.#dispatcher, options.keepMask);
    const losses = this.#own(options.losses);
    const width = panel.rows;
    const squares = [matrix, inverse].every((view) => view.rows === width && view.columns === width);
    const fits = multipliers.rows === width && multipliers.columns === panel.columns && mask.rows === panel.columns;
    requireShape(
      squares && fits && width <= LARGEST_ROW_SYSTEM && isVector(losses, panel.columns),
      "solveRowSystems",
      `panel ${shapeOf(panel)}, matrix ${shapeOf(matrix)}, inverse ${shapeOf(inverse)}, multipliers ` +
        `${shapeOf(multipliers)}, mask ${shapeOf(mask)}, losses ${shapeOf(losses)}`,
    );
    requireShape(
      isCount(maskColumn) && maskColumn + width <= mask.columns,
      "solveRowSystems",
      `mask column ${maskColumn}`,
    );
    requireShape(
      multipliers.matrix !== panel.matrix && ![matrix.matrix, inverse.matrix].includes(multipliers.matrix),
      "solveRowSystems",
      "the multipliers lie in the matrix of an argument",
    );
    const scale = choose === undefined ? undefined : this.#view(choose.scale);
    if (choose !== undefined) requireGroup(choose.keep, choose.group, width, "solveRowSystems");
    requireShape(
      scale === undefined || (scale.rows === 1 && scale.columns === width),
      "solveRowSystems",
      `scale ${scale === undefined ? "" : shapeOf(scale)}`,
    );
    if (width === 0 || panel.columns === 0) return;
    const chosen = choose === undefined || scale === undefined ? undefined : { ...choose, scale };
    encodeRowSystems(this.#dispatcher, {
      panel,
      matrix,
      inverse,
      mask,
      maskColumn,
      choose: chosen,
      multipliers,
      losses,
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#dispatcher.close();
  }

  #own(matrix: Matrix): GpuMatrix {
    return ownMatrix(this.#dispatcher, matrix);
  }

  #view(view: MatrixView): GpuView {
    return resolveView(this.#dispatcher, view);
  }

  #maskOf(mask: KeepMask, matrix: Matrix, operation: string): GpuMask {
    const own = ownMask(this.#dispatcher, mask);
    const fits = own.rows === matrix.rows && own.columns === matrix.columns;
    requireShape(fits, operation, `matrix ${shapeOf(matrix)}, mask ${shapeOf(own)}`);
    return own;
  }

  #panelSelection(
    panel: MatrixView,
    scale: MatrixView,
    mask: KeepMask,
    maskColumn: number,
    operation: string,
  ): [GpuView, GpuView, GpuMask] {
    const [source, factors] = [this.#view(panel), this.#view(scale)];
    const keep = ownMask(this.#dispatcher, mask);
    const fits = factors.rows === 1 && factors.columns === source.rows && keep.rows === source.columns;
    requireShape(fits, operation, `panel ${shapeOf(source)}, scale ${shapeOf(factors)}, mask ${shapeOf(keep)}`);
    requireShape(
      isCount(maskColumn) && maskColumn + source.rows <= keep.columns,
      operation,
      `mask column ${maskColumn}`,
    );
    return [source, factors, keep];
  }

  #selection(weight: Matrix, scale: Matrix, mask: KeepMask, operation: string): [GpuMatrix, GpuMatrix, GpuMask] {
    const [own, factors] = [this.#own(weight), this.#own(scale)];
    requireShape(isVector(factors, own.columns), operation, `weight ${shapeOf(own)}, scale ${shapeOf(factors)}`);
    return [own, factors, this.#maskOf(mask, weight, operation)];
  }
}

function isCount(value: number): boolean {
  return Number.isInteger(value) && value >= 0;
}

function isVector(matrix: Matrix, length: number): boolean {
  return matrix.rows === 1 && matrix.columns === length;
}

function requireGroup(keep: number, group: number, columns: number, operation: string): void {
  const valid =
    isCount(keep) && Number.isInteger(group) && group >= 2 && group <= LARGEST_GROUP && keep >= 1 && keep <= group;
  if (!valid || columns % group !== 0) {
    throw new InternalError(
      "E_SHAPE",
      `webgpu device: ${operation}: ${keep} of every ${group} does not fit ${columns} columns.`,
    );
  }
}

function shapeOf(shape: { readonly rows: number; readonly columns: number }): string {
  return `${shape.rows} × ${shape.columns}`;
}
