/**
 * Every check of the contract in device.ts, once, in front of both backends: that operands belong to this device and are
 * alive, that views lie within their matrices, that shapes, counts and widths fit, and that what is written is not read
 * elsewhere in the same call. A backend trusts what it is given: its own matrices and masks, and views with nothing left
 * out.
 *
 * A call that breaks the contract is a defect of this program, so every refusal is an InternalError. It is thrown before
 * anything is queued (the operations that return a promise reject), in the same words on every device:
 * - E_SHAPE            shapes, counts or indices that do not fit, or one matrix where two are needed
 * - E_VIEW             a view that leaves its matrix or is not of whole rows and columns
 * - E_DISPOSED         a matrix or mask after its disposal
 * - E_FOREIGN_MATRIX, E_FOREIGN_MASK  one that another device made, or that is no matrix or mask at all
 */
import type { Home } from "../array.js";
import { InternalError } from "../errors.js";
import { LARGEST_GROUP } from "../sparsity/pattern.js";
import {
  isCholeskyFailure,
  LARGEST_PANEL,
  LARGEST_ROW_SYSTEM,
  maskWordsPerRow,
  type AdamOptions,
  type CholeskyFailure,
  type CombineOptions,
  type CombinePairOptions,
  type ConjugateState,
  type Device,
  type DeviceKind,
  type DeviceLife,
  type DualStepOptions,
  type DualStepSums,
  type GatherIndices,
  type KeepMask,
  type MatmulOptions,
  type Matrix,
  type MatrixView,
  type Operations,
  type ResolvedView,
  type ReversedCholesky,
  type RowSystemOptions,
  type ScoreOptions,
  type SweepOptions,
} from "./device.js";
import { usedAfterDisposal, type Description } from "./resident.js";

/** What stands behind the checks: the operations on M and K, its own matrices and masks. */
export interface Backend<M, K> extends Operations<M, ResolvedView<M>, K>, DeviceLife {}

/** What a backend's matrices and masks tell of themselves. */
interface Living extends Description {
  readonly isDisposed: boolean;
}

export class CheckedDevice<M extends Matrix & Living, K extends KeepMask & Living> implements Device {
  readonly kind: DeviceKind;
  readonly home: Home;
  readonly description: string;
  readonly #backend: Backend<M, K>;
  /** Everything this device handed out, as the backend knows it. */
  readonly #matrices = new WeakMap<object, M>();
  readonly #masks = new WeakMap<object, K>();

  constructor(backend: Backend<M, K>) {
    this.#backend = backend;
    this.kind = backend.kind;
    this.home = backend.home;
    this.description = backend.description;
  }

  liveBytes(): ReadonlyMap<string, number> {
    return this.#backend.liveBytes();
  }

  synchronize(): Promise<void> {
    return this.#backend.synchronize();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve(this.#backend[Symbol.asyncDispose]());
  }

  // --- data

  createMatrix(rows: number, columns: number, label: string): Matrix {
    requireSize("createMatrix", { label, rows, columns });
    return this.#handOut(this.#backend.createMatrix(rows, columns, label));
  }

  createMask(rows: number, columns: number, label: string): KeepMask {
    requireSize("createMask", { label, rows, columns });
    return this.#handOutMask(this.#backend.createMask(rows, columns, label));
  }

  uploadMatrix(values: Float32Array, rows: number, columns: number, label: string): Matrix {
    requireSize("uploadMatrix", { label, rows, columns });
    check(
      values.length === rows * columns,
      "uploadMatrix",
      `"${label}" of ${rows} × ${columns} got ${values.length} values`,
    );
    return this.#handOut(this.#backend.uploadMatrix(values, rows, columns, label));
  }

  uploadMask(words: Uint32Array, rows: number, columns: number, label: string): KeepMask {
    requireSize("uploadMask", { label, rows, columns });
    const expected = rows * maskWordsPerRow(columns);
    check(
      words.length === expected,
      "uploadMask",
      `"${label}" of ${rows} × ${columns} got ${words.length} words, not ${expected}`,
    );
    return this.#handOutMask(this.#backend.uploadMask(words, rows, columns, label));
  }

  copy(source: Matrix, target: Matrix): void {
    const [from, to] = [this.#matrix("copy", source), this.#matrix("copy", target)];
    check(isSameShape(from, to), "copy", `source ${shapeOf(from)}, target ${shapeOf(to)}`);
    check(from !== to, "copy", "source and target are the same matrix");
    this.#backend.copy(from, to);
  }

  async download(view: MatrixView): Promise<Float32Array> {
    return this.#backend.download(this.#view("download", view));
  }

  async downloadMask(mask: KeepMask): Promise<Uint32Array> {
    return this.#backend.downloadMask(this.#mask("downloadMask", mask));
  }

  // --- statistics

  accumulateGram(x: MatrixView, gram: Matrix): void {
    const [tokens, target] = [this.#view("accumulateGram", x), this.#matrix("accumulateGram", gram)];
    const n = tokens.columns;
    check(isOfShape(target, n, n), "accumulateGram", `x has ${n} columns, gram ${shapeOf(target)}`);
    check(tokens.matrix !== target, "accumulateGram", "x and gram are the same matrix");
    this.#backend.accumulateGram(tokens, target);
  }

  accumulateSquareSums(x: MatrixView, sums: Matrix): void {
    const [tokens, target] = [this.#view("accumulateSquareSums", x), this.#matrix("accumulateSquareSums", sums)];
    const n = tokens.columns;
    check(isOfShape(target, 1, n), "accumulateSquareSums", `x has ${n} columns, sums ${shapeOf(target)}`);
    check(tokens.matrix !== target, "accumulateSquareSums", "x and sums are the same matrix");
    this.#backend.accumulateSquareSums(tokens, target);
  }

  // --- element-wise

  async downloadDiagonal(matrix: Matrix): Promise<Float32Array> {
    const own = this.#square("downloadDiagonal", matrix);
    return this.#backend.downloadDiagonal(own);
  }

  setDiagonal(matrix: Matrix, values: Float32Array): void {
    const own = this.#square("setDiagonal", matrix);
    check(values.length === own.rows, "setDiagonal", `"${own.label}" of ${shapeOf(own)} got ${values.length} values`);
    this.#backend.setDiagonal(own, values);
  }

  scale(matrix: Matrix, factor: number): void {
    this.#backend.scale(this.#matrix("scale", matrix), factor);
  }

  scaleColumns(matrix: Matrix, factors: Matrix): void {
    const [own, row] = [this.#matrix("scaleColumns", matrix), this.#matrix("scaleColumns", factors)];
    check(isOfShape(row, 1, own.columns), "scaleColumns", `matrix ${shapeOf(own)}, factors ${shapeOf(row)}`);
    check(row !== own, "scaleColumns", "matrix and factors are the same matrix");
    this.#backend.scaleColumns(own, row);
  }

  scaleRows(matrix: Matrix, factors: Matrix): void {
    const [own, row] = [this.#matrix("scaleRows", matrix), this.#matrix("scaleRows", factors)];
    check(isOfShape(row, 1, own.rows), "scaleRows", `matrix ${shapeOf(own)}, factors ${shapeOf(row)}`);
    check(row !== own, "scaleRows", "matrix and factors are the same matrix");
    this.#backend.scaleRows(own, row);
  }

  subtract(a: MatrixView, b: MatrixView, out: MatrixView): void {
    const [left, right, target] = [this.#view("subtract", a), this.#view("subtract", b), this.#view("subtract", out)];
    check(
      isSameShape(left, target) && isSameShape(right, target),
      "subtract",
      `views of ${shapeOf(left)}, ${shapeOf(right)} and ${shapeOf(target)}`,
    );
    for (const view of [left, right]) {
      check(isSameOrApart(view, target), "subtract", `views of "${target.matrix.label}" overlap in part`);
    }
    this.#backend.subtract(left, right, target);
  }

  transpose(a: MatrixView, out: MatrixView): void {
    const [source, target] = [this.#view("transpose", a), this.#view("transpose", out)];
    check(
      source.rows === target.columns && source.columns === target.rows,
      "transpose",
      `views of ${shapeOf(source)} and ${shapeOf(target)}`,
    );
    check(source.matrix !== target.matrix, "transpose", "source and target are the same matrix");
    this.#backend.transpose(source, target);
  }

  gather(a: Matrix, out: Matrix, { rows, columns }: GatherIndices): void {
    const [source, target] = [this.#matrix("gather", a), this.#matrix("gather", out)];
    check(
      indicesFit(rows, target.rows, source.rows) && indicesFit(columns, target.columns, source.columns),
      "gather",
      `indices out of range, or matrices of ${shapeOf(source)} and ${shapeOf(target)}`,
    );
    check(source !== target, "gather", "source and target are the same matrix");
    this.#backend.gather(source, target, { ...(rows && { rows }), ...(columns && { columns }) });
  }

  mirrorLower(matrix: Matrix): void {
    this.#backend.mirrorLower(this.#square("mirrorLower", matrix));
  }

  addInto(a: Matrix, out: Matrix): void {
    const [own, target] = this.#alike("addInto", [a, out]) as [M, M];
    this.#backend.addInto(own, target);
  }

  // --- masked

  applyMask(matrix: Matrix, mask: KeepMask): void {
    const own = this.#matrix("applyMask", matrix);
    this.#backend.applyMask(own, this.#maskOf("applyMask", mask, own));
  }

  combine(options: CombineOptions): void {
    const [a, b, out] = this.#triple("combine", options);
    check(a !== b, "combine", "a and b are the same matrix");
    this.#backend.combine({ ...options, a, b, out, mask: this.#maskOf("combine", options.mask, out) });
  }

  combinePair(options: CombinePairOptions): void {
    const [a, b, out] = this.#triple("combinePair", options);
    check(areDistinct([a, b, out]), "combinePair", "the matrices are not three different ones");
    this.#backend.combinePair({ ...options, a, b, out, mask: this.#maskOf("combinePair", options.mask, out) });
  }

  async countDifferences(a: KeepMask, b: KeepMask): Promise<number> {
    const [left, right] = [this.#mask("countDifferences", a), this.#mask("countDifferences", b)];
    check(isSameShape(left, right), "countDifferences", `masks of ${shapeOf(left)} and ${shapeOf(right)}`);
    return this.#backend.countDifferences(left, right);
  }

  rowDots(a: Matrix, b: Matrix, dots: Matrix): void {
    const [left, right, target] = [a, b, dots].map((matrix) => this.#matrix("rowDots", matrix)) as [M, M, M];
    check(
      isSameShape(left, right) && isOfShape(target, 1, left.rows),
      "rowDots",
      `matrices of ${shapeOf(left)} and ${shapeOf(right)}, dots ${shapeOf(target)}`,
    );
    check(target !== left && target !== right, "rowDots", "dots is one of the matrices");
    this.#backend.rowDots(left, right, target);
  }

  conjugateStep(state: ConjugateState): void {
    const { solution: x, residual: r, direction: d, product: q } = state;
    const [solution, residual, direction, product] = this.#alike("conjugateStep", [x, r, d, q]) as [M, M, M, M];
    const keepMask = this.#maskOf("conjugateStep", state.keepMask, solution);
    this.#backend.conjugateStep({ solution, residual, direction, product, keepMask });
  }

  // --- selection

  selectRows(weight: Matrix, scale: Matrix, pruneCount: number, mask: KeepMask): void {
    const [own, factors, target] = this.#selection("selectRows", weight, scale, mask);
    requirePruned("selectRows", pruneCount, own.columns);
    this.#backend.selectRows(own, factors, pruneCount, target);
  }

  selectMatrix(weight: Matrix, scale: Matrix, pruneCount: number, mask: KeepMask): void {
    const [own, factors, target] = this.#selection("selectMatrix", weight, scale, mask);
    requirePruned("selectMatrix", pruneCount, own.rows * own.columns);
    this.#backend.selectMatrix(own, factors, pruneCount, target);
  }

  selectGroups(weight: Matrix, scale: Matrix, keep: number, group: number, mask: KeepMask): void {
    const [own, factors, target] = this.#selection("selectGroups", weight, scale, mask);
    requireGroup("selectGroups", { keep, group }, own.columns);
    this.#backend.selectGroups(own, factors, keep, group, target);
  }

  selectPanel(panel: MatrixView, scale: MatrixView, pruneCount: number, mask: KeepMask, maskColumn: number): void {
    const [source, factors, target] = this.#panelSelection("selectPanel", panel, scale, mask, maskColumn);
    requirePruned("selectPanel", pruneCount, source.rows * source.columns);
    this.#backend.selectPanel(source, factors, pruneCount, target, maskColumn);
  }

  selectRemaining(panel: MatrixView, scale: MatrixView, pruneCount: number, mask: KeepMask, maskColumn: number): void {
    const [source, factors, target] = this.#panelSelection("selectRemaining", panel, scale, mask, maskColumn);
    requirePruned("selectRemaining", pruneCount, (maskColumn + source.rows) * source.columns);
    this.#backend.selectRemaining(source, factors, pruneCount, target, maskColumn);
  }

  // --- linear algebra

  matmul(options: MatmulOptions): void {
    const { transposeA = false, transposeB = false } = options;
    const [a, b, out] = [options.a, options.b, options.out].map((view) => this.#view("matmul", view)) as [
      ResolvedView<M>,
      ResolvedView<M>,
      ResolvedView<M>,
    ];
    const [m, k] = transposeA ? [a.columns, a.rows] : [a.rows, a.columns];
    const [inner, n] = transposeB ? [b.columns, b.rows] : [b.rows, b.columns];
    check(
      k === inner && isOfShape(out, m, n),
      "matmul",
      `op(a) is ${m} × ${k}, op(b) ${inner} × ${n}, out ${shapeOf(out)}`,
    );
    this.#backend.matmul({ ...options, a, b, out });
  }

  async choleskyReversed(h: Matrix, panelWidth: number): Promise<ReversedCholesky | CholeskyFailure> {
    const own = this.#square("choleskyReversed", h);
    check(own.rows > 0, "choleskyReversed", `"${own.label}" is ${shapeOf(own)}`);
    requirePanelWidth("choleskyReversed", panelWidth);
    const result = await this.#backend.choleskyReversed(own, panelWidth);
    if (isCholeskyFailure(result)) return result;
    const { panelInverses, diagonal } = result;
    return {
      factor: h,
      panelInverses: this.#handOut(panelInverses),
      panelWidth,
      diagonal: this.#handOut(diagonal),
    };
  }

  triangularInverse(cholesky: ReversedCholesky, out: Matrix): void {
    const { panelWidth } = cholesky;
    const [factor, panelInverses, diagonal, target] = [
      cholesky.factor,
      cholesky.panelInverses,
      cholesky.diagonal,
      out,
    ].map((matrix) => this.#matrix("triangularInverse", matrix)) as [M, M, M, M];
    const n = factor.rows;
    requirePanelWidth("triangularInverse", panelWidth);
    check(
      isOfShape(factor, n, n) &&
        isOfShape(panelInverses, Math.ceil(n / panelWidth) * panelWidth, panelWidth) &&
        isOfShape(target, n, n),
      "triangularInverse",
      `factor ${shapeOf(factor)}, inverses ${shapeOf(panelInverses)} of panels of ${panelWidth}, out ${shapeOf(target)}`,
    );
    check(
      target !== factor && target !== panelInverses,
      "triangularInverse",
      "out is a matrix of the factorisation itself",
    );
    this.#backend.triangularInverse({ factor, panelInverses, panelWidth, diagonal }, target);
  }

  async invertPositiveDefinite(h: Matrix): Promise<CholeskyFailure | undefined> {
    const own = this.#square("invertPositiveDefinite", h);
    check(own.rows > 0, "invertPositiveDefinite", `"${own.label}" is ${shapeOf(own)}`);
    return this.#backend.invertPositiveDefinite(own);
  }

  sweepPanel(options: SweepOptions): void {
    const { firstColumn, columns, maskColumn, choose } = options;
    const [panel, inverse] = [this.#view("sweepPanel", options.panel), this.#view("sweepPanel", options.inverse)];
    const keepMask = this.#mask("sweepPanel", options.keepMask);
    const losses = this.#matrix("sweepPanel", options.losses);
    const width = panel.rows;
    check(width <= LARGEST_PANEL, "sweepPanel", `a panel of ${width} columns, of ${LARGEST_PANEL} at most`);
    check(
      isCount(firstColumn) && isCount(columns) && firstColumn + columns <= width,
      "sweepPanel",
      `columns ${firstColumn}+${columns} of a panel of ${width}`,
    );
    check(
      inverse.rows >= width &&
        inverse.columns >= width &&
        keepMask.rows === panel.columns &&
        isOfShape(losses, 1, panel.columns),
      "sweepPanel",
      `panel ${shapeOf(panel)}, inverse ${shapeOf(inverse)}, mask ${shapeOf(keepMask)}, losses ${shapeOf(losses)}`,
    );
    requireMaskColumns("sweepPanel", keepMask, maskColumn, width);
    if (choose !== undefined) requireGroup("sweepPanel", choose, columns);
    check(
      areDistinct([panel.matrix, inverse.matrix, losses]),
      "sweepPanel",
      "panel, inverse and losses are not three different matrices",
    );
    this.#backend.sweepPanel({ ...options, panel, inverse, keepMask, losses });
  }

  solveRowSystems(options: RowSystemOptions): void {
    const { maskColumn, choose } = options;
    const [panel, matrix, inverse, multipliers] = [
      options.panel,
      options.matrix,
      options.inverse,
      options.multipliers,
    ].map((view) => this.#view("solveRowSystems", view)) as [
      ResolvedView<M>,
      ResolvedView<M>,
      ResolvedView<M>,
      ResolvedView<M>,
    ];
    const keepMask = this.#mask("solveRowSystems", options.keepMask);
    const losses = this.#matrix("solveRowSystems", options.losses);
    const width = panel.rows;
    check(
      width <= LARGEST_ROW_SYSTEM,
      "solveRowSystems",
      `a block of ${width} columns, of ${LARGEST_ROW_SYSTEM} at most`,
    );
    check(
      [matrix, inverse].every((square) => isOfShape(square, width, width)) &&
        isSameShape(multipliers, panel) &&
        keepMask.rows === panel.columns &&
        isOfShape(losses, 1, panel.columns),
      "solveRowSystems",
      `panel ${shapeOf(panel)}, matrix ${shapeOf(matrix)}, inverse ${shapeOf(inverse)}, multipliers ` +
        `${shapeOf(multipliers)}, mask ${shapeOf(keepMask)}, losses ${shapeOf(losses)}`,
    );
    requireMaskColumns("solveRowSystems", keepMask, maskColumn, width);
    const scale = choose === undefined ? undefined : this.#view("solveRowSystems", choose.scale);
    const read = [panel, matrix, inverse, ...(scale === undefined ? [] : [scale])].map((view) => view.matrix);
    check(
      multipliers.matrix !== losses && !read.includes(multipliers.matrix) && !read.includes(losses),
      "solveRowSystems",
      "the multipliers or losses lie in the matrix of an argument",
    );
    const operands = { panel, matrix, inverse, keepMask, maskColumn, multipliers, losses };
    if (choose === undefined || scale === undefined) {
      this.#backend.solveRowSystems(operands);
      return;
    }
    requireGroup("solveRowSystems", choose, width);
    check(isOfShape(scale, 1, width), "solveRowSystems", `a block of ${width} columns, scale ${shapeOf(scale)}`);
    this.#backend.solveRowSystems({ ...operands, choose: { ...choose, scale } });
  }

  // --- training

  adamStep(options: AdamOptions): void {
    const { values: x, gradient: g, first: m, second: v, pull, mask } = options;
    const pulling = pull === undefined ? [] : [pull.split, pull.dual];
    const own = this.#alike("adamStep", [x, g, m, v, ...pulling]);
    const [values, gradient, first, second, split, dual] = own as [M, M, M, M, M, M];
    requireAdamScalars("adamStep", options);
    this.#backend.adamStep({
      values,
      gradient,
      first,
      second,
      gradientScale: options.gradientScale,
      rate: options.rate,
      decay: options.decay,
      epsilon: options.epsilon,
      step: options.step,
      ...(pull !== undefined && { pull: { split, dual, strength: pull.strength } }),
      ...(mask !== undefined && { mask: this.#maskOf("adamStep", mask, values) }),
    });
  }

  async sumOfSquares(matrix: Matrix): Promise<number> {
    return this.#backend.sumOfSquares(this.#matrix("sumOfSquares", matrix));
  }

  projectionScores({ values: x, dual: u, second: v, out }: ScoreOptions): void {
    const optional = [u, v].filter((matrix) => matrix !== undefined);
    const own = this.#alike("projectionScores", [x, out, ...optional]);
    const [values, target] = own as [M, M];
    const dual = u === undefined ? undefined : own[2];
    const second = v === undefined ? undefined : own[own.length - 1];
    this.#backend.projectionScores({ values, out: target, ...(dual && { dual }), ...(second && { second }) });
  }

  async dualStep({ values: x, split: z, dual: u, mask }: DualStepOptions): Promise<DualStepSums> {
    const [values, split, dual] = this.#alike("dualStep", [x, z, u]) as [M, M, M];
    return this.#backend.dualStep({ values, split, dual, mask: this.#maskOf("dualStep", mask, values) });
  }

  // --- operands

  #handOut(matrix: M): M {
    this.#matrices.set(matrix, matrix);
    return matrix;
  }

  #handOutMask(mask: K): K {
    this.#masks.set(mask, mask);
    return mask;
  }

  #matrix(operation: string, matrix: Matrix): M {
    return alive(this.#matrices.get(matrix) ?? foreign("E_FOREIGN_MATRIX", operation, `matrix "${matrix.label}"`));
  }

  #mask(operation: string, mask: KeepMask): K {
    return alive(this.#masks.get(mask) ?? foreign("E_FOREIGN_MASK", operation, `mask "${mask.label}"`));
  }

  #square(operation: string, matrix: Matrix): M {
    const own = this.#matrix(operation, matrix);
    check(own.rows === own.columns, operation, `"${own.label}" is ${shapeOf(own)}`);
    return own;
  }

  /** A mask of the matrix's shape. */
  #maskOf(operation: string, mask: KeepMask, matrix: M): K {
    const own = this.#mask(operation, mask);
    check(isSameShape(own, matrix), operation, `matrix ${shapeOf(matrix)}, mask ${shapeOf(own)}`);
    return own;
  }

  /** Fills the defaults in. */
  #view(operation: string, view: MatrixView): ResolvedView<M> {
    const matrix = this.#matrix(operation, view.matrix);
    const { firstRow = 0, firstColumn = 0 } = view;
    const { rows = matrix.rows - firstRow, columns = matrix.columns - firstColumn } = view;
    if (!isRange(firstRow, rows, matrix.rows) || !isRange(firstColumn, columns, matrix.columns)) {
      const message = `a view of rows ${firstRow}+${rows}, columns ${firstColumn}+${columns} leaves "${matrix.label}"`;
      throw new InternalError("E_VIEW", `device: ${operation}: ${message} of ${shapeOf(matrix)}.`);
    }
    return { matrix, firstRow, rows, firstColumn, columns };
  }

  /** Different matrices of one shape. */
  #alike(operation: string, matrices: readonly Matrix[]): readonly M[] {
    const own = matrices.map((matrix) => this.#matrix(operation, matrix));
    const fits = own.every((matrix) => isSameShape(matrix, own[0])) && areDistinct(own);
    check(fits, operation, `needs ${own.length} different matrices of ${shapeOf(own[0])}`);
    return own;
  }

  /** Three matrices of one shape. */
  #triple(operation: string, operands: { readonly a: Matrix; readonly b: Matrix; readonly out: Matrix }): [M, M, M] {
    const [a, b, out] = [operands.a, operands.b, operands.out].map((matrix) => this.#matrix(operation, matrix)) as [
      M,
      M,
      M,
    ];
    check(
      isSameShape(a, out) && isSameShape(b, out),
      operation,
      `matrices of ${shapeOf(a)}, ${shapeOf(b)} and ${shapeOf(out)}`,
    );
    return [a, b, out];
  }

  #selection(operation: string, weight: Matrix, scale: Matrix, mask: KeepMask): [M, M, K] {
    const [own, factors] = [this.#matrix(operation, weight), this.#matrix(operation, scale)];
    check(isOfShape(factors, 1, own.columns), operation, `weight ${shapeOf(own)}, scale ${shapeOf(factors)}`);
    return [own, factors, this.#maskOf(operation, mask, own)];
  }

  #panelSelection(
    operation: string,
    panel: MatrixView,
    scale: MatrixView,
    mask: KeepMask,
    maskColumn: number,
  ): [ResolvedView<M>, ResolvedView<M>, K] {
    const [source, factors] = [this.#view(operation, panel), this.#view(operation, scale)];
    const own = this.#mask(operation, mask);
    check(
      isOfShape(factors, 1, source.rows) && own.rows === source.columns,
      operation,
      `panel ${shapeOf(source)}, scale ${shapeOf(factors)}, mask ${shapeOf(own)}`,
    );
    requireMaskColumns(operation, own, maskColumn, source.rows);
    return [source, factors, own];
  }
}

interface Size {
  readonly rows: number;
  readonly columns: number;
}

function check(condition: boolean, operation: string, message: string): void {
  if (!condition) throw new InternalError("E_SHAPE", `device: ${operation}: ${message}.`);
}

function foreign(code: string, operation: string, what: string): never {
  throw new InternalError(code, `device: ${operation}: ${what} belongs to another device.`);
}

function alive<T extends Living>(object: T): T {
  if (object.isDisposed) throw usedAfterDisposal(object.label);
  return object;
}

function requireSize(operation: string, { label, rows, columns }: Description): void {
  check(isCount(rows) && isCount(columns), operation, `"${label}" cannot be ${rows} × ${columns}`);
}

function requirePruned(operation: string, pruneCount: number, elements: number): void {
  check(isCount(pruneCount) && pruneCount <= elements, operation, `cannot prune ${pruneCount} of ${elements}`);
}

function requireGroup(
  operation: string,
  { keep, group }: { readonly keep: number; readonly group: number },
  columns: number,
): void {
  const isGroup = isCount(group) && group >= 2 && group <= LARGEST_GROUP && columns % group === 0;
  const isKept = isCount(keep) && keep >= 1 && keep <= group;
  check(isGroup && isKept, operation, `${keep} of every ${group} does not fit ${columns} columns`);
}

function requirePanelWidth(operation: string, width: number): void {
  const fits = isCount(width) && width >= 2 && width <= LARGEST_PANEL && width % 2 === 0;
  check(fits, operation, `panel width ${width} is not an even number up to ${LARGEST_PANEL}`);
}

function requireMaskColumns(operation: string, mask: Size, first: number, columns: number): void {
  check(isRange(first, columns, mask.columns), operation, `mask columns ${first}+${columns} of ${mask.columns}`);
}

function requireAdamScalars(operation: string, options: AdamOptions): void {
  const { gradientScale, rate, decay, epsilon, step, pull } = options;
  const finite = [gradientScale, rate, pull?.strength ?? 0].every((scalar) => Number.isFinite(Math.fround(scalar)));
  check(finite, operation, "the gradient's scale, the rate or the strength is not a finite f32");
  check(
    decay.every((kept) => kept >= 0 && Math.fround(kept) < 1),
    operation,
    `decays of ${decay.join(" and ")} are not in [0, 1)`,
  );
  check(
    Math.fround(epsilon) > 0 && Number.isFinite(Math.fround(epsilon)),
    operation,
    `epsilon is ${epsilon}, which is no positive f32`,
  );
  check(isCount(step) && step >= 1, operation, `step ${step} is not counted from 1`);
}

function isCount(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0;
}

function isRange(first: number, count: number, available: number): boolean {
  return isCount(first) && isCount(count) && first + count <= available;
}

function isOfShape(size: Size, rows: number, columns: number): boolean {
  return size.rows === rows && size.columns === columns;
}

function isSameShape(a: Size, b: Size): boolean {
  return isOfShape(a, b.rows, b.columns);
}

function areDistinct(matrices: readonly object[]): boolean {
  return new Set(matrices).size === matrices.length;
}

/** Whether two views of one shape are the same rectangle, or have no entry in common. */
function isSameOrApart<M>(a: ResolvedView<M>, b: ResolvedView<M>): boolean {
  if (a.matrix !== b.matrix) return true;
  const [down, across] = [Math.abs(a.firstRow - b.firstRow), Math.abs(a.firstColumn - b.firstColumn)];
  return (down === 0 && across === 0) || down >= a.rows || across >= a.columns;
}

/** Whether `indices`, or where they are absent 0, 1, 2 …, select `count` of `available` rows or columns. */
function indicesFit(indices: Uint32Array | undefined, count: number, available: number): boolean {
  if (indices === undefined) return count === available;
  return indices.length === count && indices.every((index) => index < available);
}

function shapeOf({ rows, columns }: Size): string {
  return `${rows} × ${columns}`;
}
