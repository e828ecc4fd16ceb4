/** Matrix products of the CPU device: views are packed where needed, ONNX Runtime multiplies, alpha and beta follow. */
import type { MatmulEngine } from "../../onnx/matmul.js";
import { addArray, subtractArrays } from "./elementwise.js";
import { compactValues, copyRectangle, subRectangle, wholeMatrix, type Rectangle } from "./matrix.js";

export interface ProductEngine {
  readonly engine: MatmulEngine;
  /** That `engine` was created with. */
  readonly threads: number;
}

export interface Product {
  readonly a: Rectangle;
  readonly b: Rectangle;
  readonly transposeA: boolean;
  readonly transposeB: boolean;
}

/**
 * ONNX Runtime's product (MLAS) deals columns to its threads where n > m, and sums the inner dimension in stretches of
 * 128 as long as a thread has more than 64 columns; with fewer it takes longer stretches, so that sums would depend on
 * the number of threads. Products with so few columns are padded with zero columns, so that each thread gets at least 65.
 * Measured on onnxruntime 1.30; test/device/cpu-threads.test.ts fails when this changes.
 */
const SUMMATION_STRETCH = 128;
const COLUMNS_PER_THREAD = 80; // columns are dealt in 16s and the last share may be short: 80 leaves more than 64

/** op(a)·op(b), fresh, compact [m, n]. The same bits for any number of threads. */
export async function multiply(
  { engine, threads }: ProductEngine,
  { a, b, transposeA, transposeB }: Product,
): Promise<Float32Array> {
  const m = transposeA ? a.columns : a.rows;
  const k = transposeA ? a.rows : a.columns;
  const n = transposeB ? b.rows : b.columns;
  if (m === 0 || n === 0 || k === 0) return new Float32Array(m * n);
  const columns = COLUMNS_PER_THREAD * threads;
  if (m === 1 || n <= m || k <= SUMMATION_STRETCH || n >= columns) {
    return engine.multiply(compactValues(a), compactValues(b), m, n, k, transposeA, transposeB);
  }
  const padded = wholeMatrix(new Float32Array(columns * k), transposeB ? columns : k, transposeB ? k : columns);
  copyRectangle(b, padded);
  const product = await engine.multiply(compactValues(a), padded.values, m, columns, k, transposeA, transposeB);
  return compactValues(subRectangle(wholeMatrix(product, m, columns), 0, m, 0, n));
}

/** out = alpha·product + beta·out; `out` is not read where beta is 0. */
export function writeProduct(product: Float32Array, out: Rectangle, alpha: number, beta: number): void {
  const { values, stride, columns } = out;
  for (let r = 0; r < out.rows; r++) {
    const to = values.subarray(out.offset + r * stride, out.offset + r * stride + columns);
    const from = product.subarray(r * columns, (r + 1) * columns);
    if (beta === 0 && alpha === 1) to.set(from);
    else if (beta === 0) for (let c = 0; c < columns; c++) to[c] = alpha * from[c];
    else if (alpha === -1 && beta === 1) subtractArrays(to, from, to);
    else if (alpha === 1 && beta === 1) addArray(from, to);
    else for (let c = 0; c < columns; c++) to[c] = alpha * from[c] + beta * to[c];
  }
}

/** Rows of the lower triangle multiplied at a time: fewer save more of the upper half, more keep the product fast. */
const TRIANGLE_ROWS = 512;

/**
 * Lower triangle of target += alpha·t·tᵀ, in blocks of rows; t [n, k] compact, target [n, n].
 * Entries right of the diagonal inside a block's last rows are written too: nobody reads the upper triangle.
 */
export async function addSymmetricProduct(
  engine: ProductEngine,
  t: Rectangle,
  target: Rectangle,
  alpha: 1 | -1,
): Promise<void> {
  for (let first = 0; first < t.rows; first += TRIANGLE_ROWS) {
    const rows = Math.min(TRIANGLE_ROWS, t.rows - first);
    const product = await multiply(engine, {
      a: subRectangle(t, first, rows, 0, t.columns),
      b: subRectangle(t, 0, first + rows, 0, t.columns),
      transposeA: false,
      transposeB: true,
    });
    writeProduct(product, subRectangle(target, first, rows, 0, first + rows), alpha, 1);
  }
}
