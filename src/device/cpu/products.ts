/** Matrix products of the CPU device: views are packed where needed, ONNX Runtime multiplies, alpha and beta follow. */
import type { MatmulEngine, ProductTarget } from "../../onnx/matmul.js";
import type { ProductOperations, ResolvedView } from "../device.js";
import { addArray } from "../../array.js";
import { subtractArrays } from "./elementwise.js";
import {
  compactValues,
  copyRectangle,
  rectangleOf,
  SPARE_ROWS,
  subRectangle,
  wholeMatrix,
  type CpuMatrix,
  type Rectangle,
} from "./matrix.js";
import type { WorkQueue } from "./queue.js";

export function productOperations(
  queue: WorkQueue,
  products: ProductEngine,
): ProductOperations<ResolvedView<CpuMatrix>> {
  return {
    matmul({ transposeA = false, transposeB = false, alpha = 1, beta = 0, ...options }) {
      const [a, b, out] = [rectangleOf(options.a), rectangleOf(options.b), rectangleOf(options.out)];
      queue.enqueue(() => multiplyInto(products, { a, b, transposeA, transposeB }, out, alpha, beta));
    },
  };
}

export interface ProductEngine {
  readonly engine: MatmulEngine;
  /** That `engine` was created with. */
  readonly threads: number;
  readonly spacing: Spacing;
  /** Rows of a first factor with zeros between them, from one product to the next. */
  spacedRows?: { readonly width: number; readonly values: Float32Array };
}

/** Which first factors are spaced, and how many rows at a time; see below. */
export interface Spacing {
  /** Those whose width is a multiple of it. */
  readonly crowdedWidth: number;
  /** Enough for a fast product, and the copy stays small. */
  readonly rowsAtOnce: number;
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

/** Whether a product must be padded so that its bits do not depend on the number of threads. */
function needsPadding(m: number, n: number, k: number, threads: number): boolean {
  return m > 1 && n > m && k > SUMMATION_STRETCH && n < COLUMNS_PER_THREAD * threads;
}

/**
 * MLAS reads a dozen rows of the first factor at a time. Rows that lie a multiple of 4 KiB apart compete for the same few
 * lines of the first-level cache: widths of 1024, 2048, 4096 …, the usual ones of language models. So rows are handed over
 * with SPARE_ROWS zeros between them, and the second factor with as many zero rows behind it, which changes no bit and
 * saves more than the copy costs: 6 % on a quiet machine, up to a quarter on a busy one (bench/RESULTS.md).
 */
export const DEFAULT_SPACING: Spacing = { crowdedWidth: 1024, rowsAtOnce: 1024 };
const FEWEST_ROWS = 128;

function isCrowded({ a, b, transposeA, transposeB }: Product, { threads, spacing }: ProductEngine): boolean {
  const { rows, columns } = a;
  if (transposeA || transposeB || b.isWhole !== true || columns % spacing.crowdedWidth !== 0) return false;
  return rows >= FEWEST_ROWS && b.columns >= COLUMNS_PER_THREAD * threads;
}

/** a·b, fresh or added to `into`, for a crowded first factor. */
async function multiplySpaced(products: ProductEngine, { a, b }: Product, into?: ProductTarget): Promise<Float32Array> {
  const [m, n, width] = [a.rows, b.columns, a.columns + SPARE_ROWS];
  const { rowsAtOnce } = products.spacing;
  const { values: out, sign, add } = into ?? { values: new Float32Array(m * n), sign: 1, add: false };
  if (products.spacedRows?.width !== width)
    products.spacedRows = { width, values: new Float32Array(rowsAtOnce * width) };
  const spaced = wholeMatrix(products.spacedRows.values, rowsAtOnce, width);
  const factor = new Float32Array(b.values.buffer, b.values.byteOffset, width * n);
  for (let first = 0; first < m; first += rowsAtOnce) {
    const rows = Math.min(rowsAtOnce, m - first);
    copyRectangle(subRectangle(a, first, rows, 0, a.columns), spaced);
    const target = { values: out.subarray(first * n, (first + rows) * n), sign, add };
    await products.engine.multiply(spaced.values, factor, rows, n, width, false, false, target);
  }
  return out;
}

/** op(a)·op(b), fresh or added to `into`, compact [m, n]. The same bits for any number of threads. */
async function multiply(products: ProductEngine, product: Product, into?: ProductTarget): Promise<Float32Array> {
  const { engine, threads } = products;
  const { a, b, transposeA, transposeB } = product;
  const [m, n, k] = shapeOf(product);
  if (m === 0 || n === 0 || k === 0) return new Float32Array(m * n);
  if (isCrowded(product, products)) return multiplySpaced(products, product, into);
  if (!needsPadding(m, n, k, threads))
    return engine.multiply(compactValues(a), compactValues(b), m, n, k, transposeA, transposeB, into);
  const columns = COLUMNS_PER_THREAD * threads;
  const padded = wholeMatrix(new Float32Array(columns * k), transposeB ? columns : k, transposeB ? k : columns);
  copyRectangle(b, padded);
  const wide = wholeMatrix(new Float32Array(m * columns), m, columns);
  const target = { values: wide.values, sign: into?.sign ?? 1, add: into?.add ?? false };
  if (into?.add === true) copyRectangle(wholeMatrix(into.values, m, n), wide);
  await engine.multiply(compactValues(a), padded.values, m, columns, k, transposeA, transposeB, target);
  const out = into?.values ?? new Float32Array(m * n);
  copyRectangle(subRectangle(wide, 0, m, 0, n), wholeMatrix(out, m, n));
  return out;
}

function shapeOf({ a, b, transposeA, transposeB }: Product): readonly [m: number, n: number, k: number] {
  const [m, k] = transposeA ? [a.columns, a.rows] : [a.rows, a.columns];
  return [m, transposeB ? b.rows : b.columns, k];
}

/**
 * out = alpha·op(a)·op(b) + beta·out; `out` is not read where beta is 0, and may overlap the factors. ONNX Runtime
 * writes straight into `out` where that is contiguous and the factors are ±1 and 0 or 1.
 */
export async function multiplyInto(
  engine: ProductEngine,
  product: Product,
  out: Rectangle,
  alpha: number,
  beta: number,
): Promise<void> {
  const { a, b } = product;
  const [m, n, k] = shapeOf(product);
  const direct =
    (out.columns === out.stride || out.rows === 1) &&
    (alpha === 1 || alpha === -1) &&
    (beta === 0 || beta === 1) &&
    out.values.buffer !== a.values.buffer &&
    out.values.buffer !== b.values.buffer &&
    m * n * k > 0;
  if (direct) await multiply(engine, product, { values: compactValues(out), sign: alpha, add: beta === 1 });
  else writeProduct(await multiply(engine, product), out, alpha, beta);
}

/** out = alpha·product + beta·out; `out` is not read where beta is 0. */
function writeProduct(product: Float32Array, out: Rectangle, alpha: number, beta: number): void {
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
    const product = {
      a: subRectangle(t, first, rows, 0, t.columns),
      b: subRectangle(t, 0, first + rows, 0, t.columns),
      transposeA: false,
      transposeB: true,
    };
    await multiplyInto(engine, product, subRectangle(target, first, rows, 0, first + rows), alpha, 1);
  }
}
