/**
 * The CPU device: matrix products through ONNX Runtime, selections and sweeps as WebAssembly SIMD in threads, the rest
 * as loops over typed arrays.
 *
 * ONNX Runtime's run is asynchronous in form, so operations are queued on one promise chain; each takes its arrays at
 * the time of the call and checks its shapes there. The first failure is kept, later work is skipped, and the next
 * promise throws it. This file holds the queue and the checks; the operations themselves are its neighbours.
 */
import { availableParallelism } from "node:os";
import { createMatmulEngine } from "../../onnx/matmul.js";
import {
  indicesFit,
  LARGEST_PANEL,
  LARGEST_ROW_SYSTEM,
  maskWordsPerRow,
  type CholeskyFailure,
  type CombineOptions,
  type CombinePairOptions,
  type ConjugateState,
  type Device,
  type GatherIndices,
  type KeepMask,
  type MatmulOptions,
  type Matrix,
  type MatrixView,
  type ReversedCholesky,
  type RowSystemOptions,
  type SweepOptions,
} from "../device.js";
import {
  applyMask,
  gather,
  mirrorLower,
  scaleArray,
  scaleColumns,
  scaleRows,
  subtract,
  transpose,
} from "./elementwise.js";
import { choleskyReversed, triangularInverse } from "./factorization.js";
import { invertPositiveDefinite } from "./inverse.js";
import { KernelPool } from "./kernel-pool.js";
import {
  compactValues,
  CpuMask,
  cpuMask,
  CpuMatrix,
  cpuMatrix,
  expectShapes,
  Ledger,
  resolveView,
  type Rectangle,
} from "./matrix.js";
import { combine, conjugateStep, countDifferences, rowDots } from "./masked.js";
import { countPruned } from "./panel-mask.js";
import { multiplyInto, type ProductEngine } from "./products.js";
import { solveRowSystems } from "./row-systems.js";
import { selectGroups, selectMatrix, selectPanel, selectRows } from "./selection.js";
import { accumulateGram, accumulateSquareSums } from "./statistics.js";
import { sweepPanel } from "./sweep.js";

export interface CpuDeviceOptions {
  /** Threads of every operation; default: all cores. Results do not depend on it. */
  readonly threads?: number;
}

/** @throws ResourceError when staging memory cannot be had */
export async function createCpuDevice(options: CpuDeviceOptions = {}): Promise<Device> {
  const threads = options.threads ?? availableParallelism();
  return new CpuDevice(await KernelPool.create(threads), { engine: await createMatmulEngine({ threads }), threads });
}

class CpuDevice implements Device {
  readonly kind = "cpu";
  readonly description: string;
  readonly #pool: KernelPool;
  readonly #engine: ProductEngine;
  readonly #ledger = new Ledger();
  #tail: Promise<void> = Promise.resolve();
  #failure: { readonly error: unknown } | undefined;

  constructor(pool: KernelPool, engine: ProductEngine) {
    this.#pool = pool;
    this.#engine = engine;
    this.description = `CPU, ${pool.threads} thread${pool.threads === 1 ? "" : "s"}, ONNX Runtime and WebAssembly SIMD`;
  }

  #enqueue(work: () => void | Promise<void>): void {
    this.#tail = this.#tail.then(async () => {
      if (this.#failure !== undefined) return;
      try {
        await work();
      } catch (error) {
        this.#failure = { error };
      }
    });
  }

  async synchronize(): Promise<void> {
    await this.#tail;
    const failure = this.#failure;
    this.#failure = undefined;
    if (failure !== undefined) throw failure.error;
  }

  liveBytes(): ReadonlyMap<string, number> {
    return this.#ledger.snapshot();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#tail;
    await this.#pool[Symbol.asyncDispose]();
    await this.#engine.engine[Symbol.asyncDispose]();
  }

  // --- data

  createMatrix(rows: number, columns: number, label: string): Matrix {
    return new CpuMatrix(rows, columns, label, this.#ledger);
  }

  createMask(rows: number, columns: number, label: string): KeepMask {
    return new CpuMask(new Uint32Array(rows * maskWordsPerRow(columns)), { rows, columns }, label, this.#ledger);
  }

  uploadMatrix(values: Float32Array, rows: number, columns: number, label: string): Matrix {
    expectShapes(values.length === rows * columns, "uploadMatrix", { label, rows, columns, values: values.length });
    const matrix = new CpuMatrix(rows, columns, label, this.#ledger);
    matrix.values.set(values);
    return matrix;
  }

  uploadMask(words: Uint32Array, rows: number, columns: number, label: string): KeepMask {
    const expected = rows * maskWordsPerRow(columns);
    expectShapes(words.length === expected, "uploadMask", { label, rows, columns, words: words.length });
    return new CpuMask(words.slice(), { rows, columns }, label, this.#ledger);
  }

  async download(view: MatrixView): Promise<Float32Array> {
    const rectangle = resolveView(view);
    await this.synchronize();
    return compactValues(rectangle).slice();
  }

  async downloadMask(mask: KeepMask): Promise<Uint32Array> {
    const { values } = cpuMask(mask);
    await this.synchronize();
    return values.slice();
  }

  copy(source: Matrix, target: Matrix): void {
    const { rows, columns } = target;
    expectShapes(source.rows === rows && source.columns === columns, "copy", {
      source: [source.rows, source.columns],
      target: [rows, columns],
    });
    const [from, to] = [cpuMatrix(source).values, cpuMatrix(target).values];
    this.#enqueue(() => to.set(from));
  }

  // --- statistics

  accumulateGram(x: MatrixView, gram: Matrix): void {
    const tokens = resolveView(x);
    const target = resolveView({ matrix: gram });
    const n = tokens.columns;
    expectShapes(gram.rows === n && gram.columns === n, "accumulateGram", { n, gram: [gram.rows, gram.columns] });
    this.#enqueue(() => accumulateGram(this.#engine, tokens, target));
  }

  accumulateSquareSums(x: MatrixView, sums: Matrix): void {
    const tokens = resolveView(x);
    const { values } = cpuMatrix(sums);
    expectShapes(values.length === tokens.columns, "accumulateSquareSums", { n: tokens.columns, sums: values.length });
    this.#enqueue(() => accumulateSquareSums(tokens, values));
  }

  async downloadDiagonal(matrix: Matrix): Promise<Float32Array> {
    const { values, rows, columns } = cpuMatrix(matrix);
    expectShapes(rows === columns, "downloadDiagonal", { rows, columns });
    await this.synchronize();
    return Float32Array.from({ length: rows }, (_, i) => values[i * columns + i]);
  }

  setDiagonal(matrix: Matrix, diagonal: Float32Array): void {
    const { values, rows, columns } = cpuMatrix(matrix);
    expectShapes(rows === columns && diagonal.length === rows, "setDiagonal", {
      rows,
      columns,
      values: diagonal.length,
    });
    const taken = diagonal.slice();
    this.#enqueue(() => taken.forEach((value, i) => (values[i * columns + i] = value)));
  }

  // --- element-wise

  scale(matrix: Matrix, factor: number): void {
    const { values } = cpuMatrix(matrix);
    const rounded = Math.fround(factor);
    this.#enqueue(() => scaleArray(values, rounded));
  }

  scaleColumns(matrix: Matrix, factors: Matrix): void {
    const { values, rows, columns } = cpuMatrix(matrix);
    const scales = cpuMatrix(factors).values;
    expectShapes(scales.length === columns, "scaleColumns", { columns, factors: scales.length });
    this.#enqueue(() => scaleColumns(values, rows, columns, scales));
  }

  scaleRows(matrix: Matrix, factors: Matrix): void {
    const { values, rows, columns } = cpuMatrix(matrix);
    const scales = cpuMatrix(factors).values;
    expectShapes(scales.length === rows, "scaleRows", { rows, factors: scales.length });
    this.#enqueue(() => scaleRows(values, rows, columns, scales));
  }

  subtract(a: MatrixView, b: MatrixView, out: MatrixView): void {
    const [x, y, z] = [resolveView(a), resolveView(b), resolveView(out)];
    const equal = [x, y].every((r) => r.rows === z.rows && r.columns === z.columns);
    expectShapes(equal, "subtract", { a: [x.rows, x.columns], b: [y.rows, y.columns], out: [z.rows, z.columns] });
    this.#enqueue(() => subtract(x, y, z));
  }

  transpose(a: MatrixView, out: MatrixView): void {
    const [x, z] = [resolveView(a), resolveView(out)];
    const fits = x.rows === z.columns && x.columns === z.rows && x.values !== z.values;
    expectShapes(fits, "transpose", { a: [x.rows, x.columns], out: [z.rows, z.columns] });
    this.#enqueue(() => transpose(x, z));
  }

  gather(a: Matrix, out: Matrix, { rows, columns }: GatherIndices): void {
    const [x, z] = [resolveView({ matrix: a }), resolveView({ matrix: out })];
    const fits = indicesFit(rows, z.rows, x.rows) && indicesFit(columns, z.columns, x.columns) && x.values !== z.values;
    expectShapes(fits, "gather", { a: [x.rows, x.columns], out: [z.rows, z.columns] });
    const [fromRows, fromColumns] = [rows?.slice(), columns?.slice()];
    this.#enqueue(() => gather(x, z, fromRows, fromColumns));
  }

  mirrorLower(matrix: Matrix): void {
    const { values, rows, columns } = cpuMatrix(matrix);
    expectShapes(rows === columns, "mirrorLower", { rows, columns });
    this.#enqueue(() => mirrorLower(values, rows));
  }

  applyMask(matrix: Matrix, mask: KeepMask): void {
    const { values, rows, columns } = cpuMatrix(matrix);
    const words = cpuMask(mask).values;
    expectShapes(mask.rows === rows && mask.columns === columns, "applyMask", {
      rows,
      columns,
      mask: [mask.rows, mask.columns],
    });
    this.#enqueue(() => applyMask(values, rows, columns, words));
  }

  combine({ a, b, out, mask, kept, pruned }: CombineOptions): void {
    const { rows, columns } = out;
    expectShapes(a !== b && [a, b, mask].every((x) => x.rows === rows && x.columns === columns), "combine", {
      a: [a.rows, a.columns],
      b: [b.rows, b.columns],
      out: [rows, columns],
      mask: [mask.rows, mask.columns],
    });
    const [x, y, z] = [cpuMatrix(a).values, cpuMatrix(b).values, cpuMatrix(out).values];
    const words = cpuMask(mask).values;
    const targets = [{ out: z, kept, pruned }] as const;
    this.#enqueue(() => combine(this.#pool, { a: x, b: y, words, rows, columns, targets }));
  }

  combinePair({ a, b, out, mask, toOut, toA }: CombinePairOptions): void {
    const { rows, columns } = out;
    const fits = [a, b, mask].every((x) => x.rows === rows && x.columns === columns) && new Set([a, b, out]).size === 3;
    expectShapes(fits, "combinePair", {
      a: [a.rows, a.columns],
      b: [b.rows, b.columns],
      out: [rows, columns],
      mask: [mask.rows, mask.columns],
    });
    const [x, y, z] = [cpuMatrix(a).values, cpuMatrix(b).values, cpuMatrix(out).values];
    const words = cpuMask(mask).values;
    const targets = [
      { out: z, ...toOut },
      { out: x, ...toA },
    ] as const;
    this.#enqueue(() => combine(this.#pool, { a: x, b: y, words, rows, columns, targets }));
  }

  async countDifferences(a: KeepMask, b: KeepMask): Promise<number> {
    const shapes = { a: [a.rows, a.columns], b: [b.rows, b.columns] };
    expectShapes(a.rows === b.rows && a.columns === b.columns, "countDifferences", shapes);
    const [x, y] = [cpuMask(a).values, cpuMask(b).values];
    await this.synchronize();
    return countDifferences(x, y);
  }

  // --- selection

  #selection(operation: string, weight: Matrix, scale: Matrix, mask: KeepMask) {
    const { rows, columns } = weight;
    const scales = cpuMatrix(scale).values;
    const fits = scales.length === columns && mask.rows === rows && mask.columns === columns;
    expectShapes(fits, operation, { rows, columns, scale: scales.length, mask: [mask.rows, mask.columns] });
    // Snapshots keep the arrays alive even where the caller disposes of the objects before the work runs.
    return { weight: cpuMatrix(weight).borrow(), scales, mask: cpuMask(mask).borrow() };
  }

  selectRows(weight: Matrix, scale: Matrix, pruneCount: number, mask: KeepMask): void {
    const taken = this.#selection("selectRows", weight, scale, mask);
    expectShapes(isCount(pruneCount, weight.columns), "selectRows", { pruneCount, columns: weight.columns });
    this.#enqueue(() => selectRows(this.#pool, taken.weight, taken.scales, pruneCount, taken.mask));
  }

  selectMatrix(weight: Matrix, scale: Matrix, pruneCount: number, mask: KeepMask): void {
    const taken = this.#selection("selectMatrix", weight, scale, mask);
    const elements = weight.rows * weight.columns;
    expectShapes(isCount(pruneCount, elements), "selectMatrix", { pruneCount, elements });
    this.#enqueue(() => selectMatrix(this.#pool, taken.weight, taken.scales, pruneCount, taken.mask));
  }

  selectGroups(weight: Matrix, scale: Matrix, keep: number, group: number, mask: KeepMask): void {
    const taken = this.#selection("selectGroups", weight, scale, mask);
    expectShapes(weight.columns % group === 0 && isCount(keep, group), "selectGroups", {
      keep,
      group,
      columns: weight.columns,
    });
    this.#enqueue(() => selectGroups(this.#pool, taken.weight, taken.scales, { keep, group }, taken.mask));
  }

  #panelSelection(
    operation: string,
    panel: MatrixView,
    scale: MatrixView,
    pruneCount: number,
    mask: KeepMask,
    maskColumn: number,
  ) {
    const block = resolveView(panel);
    const scales = resolveView(scale);
    const fits =
      scales.rows * scales.columns === block.rows &&
      scales.rows === 1 &&
      mask.rows === block.columns &&
      maskColumn + block.rows <= mask.columns;
    expectShapes(fits, operation, {
      panel: [block.rows, block.columns],
      scale: scales.columns,
      mask: [mask.rows, mask.columns],
      maskColumn,
      pruneCount,
    });
    return { block, scales, target: cpuMask(mask).borrow() };
  }

  selectPanel(panel: MatrixView, scale: MatrixView, pruneCount: number, mask: KeepMask, maskColumn: number): void {
    const { block, scales, target } = this.#panelSelection("selectPanel", panel, scale, pruneCount, mask, maskColumn);
    const elements = block.rows * block.columns;
    expectShapes(isCount(pruneCount, elements), "selectPanel", { pruneCount, elements });
    this.#enqueue(() => selectPanel(this.#pool, block, compactValues(scales), pruneCount, target, maskColumn));
  }

  selectRemaining(panel: MatrixView, scale: MatrixView, pruneCount: number, mask: KeepMask, maskColumn: number): void {
    const { block, scales, target } = this.#panelSelection(
      "selectRemaining",
      panel,
      scale,
      pruneCount,
      mask,
      maskColumn,
    );
    const elements = block.rows * block.columns;
    const largest = elements + mask.rows * maskColumn;
    expectShapes(isCount(pruneCount, largest), "selectRemaining", { pruneCount, largest });
    this.#enqueue(() => {
      const left = Math.min(Math.max(pruneCount - countPruned(target, maskColumn), 0), elements);
      selectPanel(this.#pool, block, compactValues(scales), left, target, maskColumn);
    });
  }

  // --- linear algebra

  matmul(options: MatmulOptions): void {
    const { transposeA = false, transposeB = false, alpha = 1, beta = 0 } = options;
    const [a, b, out] = [resolveView(options.a), resolveView(options.b), resolveView(options.out)];
    const [m, k] = transposeA ? [a.columns, a.rows] : [a.rows, a.columns];
    const [n, inner] = transposeB ? [b.rows, b.columns] : [b.columns, b.rows];
    expectShapes(k === inner && out.rows === m && out.columns === n, "matmul", {
      a: [m, k],
      b: [inner, n],
      out: [out.rows, out.columns],
    });
    this.#enqueue(() => multiplyInto(this.#engine, { a, b, transposeA, transposeB }, out, alpha, beta));
  }

  rowDots(a: Matrix, b: Matrix, dots: Matrix): void {
    const { rows, columns } = a;
    const fits = b.rows === rows && b.columns === columns && dots.rows === 1 && dots.columns === rows;
    expectShapes(fits, "rowDots", { a: [rows, columns], b: [b.rows, b.columns], dots: [dots.rows, dots.columns] });
    const [x, y, z] = [cpuMatrix(a).values, cpuMatrix(b).values, cpuMatrix(dots).values];
    this.#enqueue(() => rowDots(x, y, rows, columns, z));
  }

  conjugateStep({ solution, residual, direction, product, keepMask }: ConjugateState): void {
    const { rows, columns } = solution;
    const fits = [residual, direction, product, keepMask].every((x) => x.rows === rows && x.columns === columns);
    expectShapes(fits, "conjugateStep", { rows, columns });
    const state = {
      solution: cpuMatrix(solution).values,
      residual: cpuMatrix(residual).values,
      direction: cpuMatrix(direction).values,
      product: cpuMatrix(product).values,
      words: cpuMask(keepMask).values,
      rows,
      columns,
    };
    this.#enqueue(() => conjugateStep(this.#pool, state));
  }

  async choleskyReversed(h: Matrix, panelWidth: number): Promise<ReversedCholesky | CholeskyFailure> {
    const n = h.rows;
    const legal = panelWidth % 2 === 0 && panelWidth > 0 && panelWidth <= LARGEST_PANEL;
    expectShapes(h.columns === n && legal, "choleskyReversed", { h: [n, h.columns], panelWidth });
    const view = resolveView({ matrix: h });
    let result: Awaited<ReturnType<typeof choleskyReversed>> | undefined;
    this.#enqueue(async () => {
      result = await choleskyReversed(this.#engine, this.#pool, view, panelWidth);
    });
    await this.synchronize();
    if (result === undefined) throw new Error("the queue did not run the factorisation");
    if ("pivot" in result) return result;
    const panels = Math.ceil(n / panelWidth);
    return {
      factor: h,
      panelInverses: this.uploadMatrix(
        result.panelInverses,
        panels * panelWidth,
        panelWidth,
        `${h.label}: panel inverses`,
      ),
      panelWidth,
      diagonal: this.uploadMatrix(result.diagonal, 1, n, `${h.label}: diagonal`),
    };
  }

  triangularInverse(cholesky: ReversedCholesky, out: Matrix): void {
    const l = resolveView({ matrix: cholesky.factor });
    const target = resolveView({ matrix: out });
    const inverses = cpuMatrix(cholesky.panelInverses).values;
    expectShapes(target.rows === l.rows && target.columns === l.rows, "triangularInverse", {
      n: l.rows,
      out: [out.rows, out.columns],
    });
    this.#enqueue(() => triangularInverse(this.#engine, l, inverses, cholesky.panelWidth, target));
  }

  async invertPositiveDefinite(h: Matrix): Promise<CholeskyFailure | undefined> {
    const target = resolveView({ matrix: h });
    expectShapes(h.rows === h.columns, "invertPositiveDefinite", { h: [h.rows, h.columns] });
    let failure: CholeskyFailure | undefined;
    this.#enqueue(async () => {
      failure = await invertPositiveDefinite({ engine: this.#engine, pool: this.#pool }, target);
    });
    await this.synchronize();
    return failure;
  }

  sweepPanel(options: SweepOptions): void {
    const { firstColumn, columns, maskColumn, choose } = options;
    const panel = resolveView(options.panel);
    const inverse = resolveView(options.inverse);
    const mask = cpuMask(options.keepMask).borrow();
    const losses = cpuMatrix(options.losses).values;
    const fits =
      panel.rows <= LARGEST_PANEL &&
      inverse.rows >= panel.rows &&
      inverse.columns >= panel.rows &&
      firstColumn >= 0 &&
      firstColumn + columns <= panel.rows &&
      mask.rows === panel.columns &&
      maskColumn + panel.rows <= mask.columns &&
      losses.length === panel.columns &&
      (choose === undefined || columns % choose.group === 0);
    expectShapes(fits, "sweepPanel", {
      panel: [panel.rows, panel.columns],
      inverse: [inverse.rows, inverse.columns],
      firstColumn,
      columns,
      mask: [mask.rows, mask.columns],
      maskColumn,
      losses: losses.length,
      choose,
    });
    this.#enqueue(() =>
      sweepPanel(this.#pool, { panel, inverse, firstColumn, columns, mask, maskColumn, choose, losses }),
    );
  }

  solveRowSystems(options: RowSystemOptions): void {
    const { maskColumn, choose } = options;
    const [panel, matrix, inverse, multipliers] = [
      options.panel,
      options.matrix,
      options.inverse,
      options.multipliers,
    ].map((view) => resolveView(view)) as [Rectangle, Rectangle, Rectangle, Rectangle];
    const mask = cpuMask(options.keepMask).borrow();
    const losses = cpuMatrix(options.losses).values;
    const chosen = choose === undefined ? undefined : { ...choose, scale: resolveView(choose.scale) };
    const width = panel.rows;
    const fits =
      width <= LARGEST_ROW_SYSTEM &&
      [matrix, inverse].every((square) => square.rows === width && square.columns === width) &&
      multipliers.rows === width &&
      multipliers.columns === panel.columns &&
      mask.rows === panel.columns &&
      maskColumn + width <= mask.columns &&
      losses.length === panel.columns &&
      (chosen === undefined ||
        (width % chosen.group === 0 && chosen.scale.rows === 1 && chosen.scale.columns === width));
    expectShapes(fits, "solveRowSystems", {
      panel: [width, panel.columns],
      matrix: [matrix.rows, matrix.columns],
      inverse: [inverse.rows, inverse.columns],
      multipliers: [multipliers.rows, multipliers.columns],
      mask: [mask.rows, mask.columns],
      maskColumn,
      losses: losses.length,
      choose: choose && { keep: choose.keep, group: choose.group, scale: chosen?.scale.columns },
    });
    this.#enqueue(() =>
      solveRowSystems(this.#pool, { panel, matrix, inverse, mask, maskColumn, choose: chosen, multipliers, losses }),
    );
  }
}

function isCount(value: number, largest: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= largest;
}
