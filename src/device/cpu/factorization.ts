/**
 * Reversed blocked Cholesky H = LᵀL (L lower, in place) and the inverse of its transpose, on the CPU device.
 *
 * Panels of `panelWidth` rows go from the last to the first. The diagonal block is factored and inverted in f64; the
 * rest of its row is the product V·A by that inverse; panels of one strip are updated from each other when they are
 * reached, and everything above a strip by one product with a long inner dimension.
 */
import type { CholeskyFailure, FactorizationOperations } from "../device.js";
import type { Owner } from "../resident.js";
import { factorBlock } from "./cholesky-block.js";
import { transpose } from "./elementwise.js";
import { invertPositiveDefinite } from "./inverse.js";
import type { KernelPool } from "./kernel-pool.js";
import {
  copyRectangle,
  filledMatrix,
  subRectangle,
  wholeMatrix,
  wholeOf,
  type CpuMatrix,
  type Rectangle,
} from "./matrix.js";
import { addSymmetricProduct, multiplyInto, type ProductEngine } from "./products.js";
import type { WorkQueue } from "./queue.js";

export function factorizationOperations(
  queue: WorkQueue,
  products: ProductEngine,
  pool: KernelPool,
  owner: Owner<Float32Array>,
): FactorizationOperations<CpuMatrix> {
  return {
    async choleskyReversed(h, panelWidth) {
      const { label, rows: n } = h;
      const view = wholeOf(h);
      const result = await queue.resultOf(() => choleskyReversed(products, pool, view, panelWidth));
      if ("pivot" in result) return result;
      const rows = Math.ceil(n / panelWidth) * panelWidth;
      const inverses = { label: `${label}: panel inverses`, rows, columns: panelWidth };
      return {
        factor: h,
        panelInverses: filledMatrix(owner, inverses, result.panelInverses),
        panelWidth,
        diagonal: filledMatrix(owner, { label: `${label}: diagonal`, rows: 1, columns: n }, result.diagonal),
      };
    },
    triangularInverse({ factor, panelInverses: { values: inverses }, panelWidth }, out) {
      const [l, target] = [wholeOf(factor), wholeOf(out)];
      queue.enqueue(() => triangularInverse(products, l, inverses, panelWidth, target));
    },
    invertPositiveDefinite(h) {
      const target = wholeOf(h);
      return queue.resultOf(() => invertPositiveDefinite({ engine: products, pool }, target));
    },
  };
}

/** Rows of a strip: the inner dimension of the products that carry nearly all the work. */
const STRIP_ROWS = 512;

interface Factorization {
  /** [panels * panelWidth, panelWidth] */
  readonly panelInverses: Float32Array;
  /** [n] */
  readonly diagonal: Float32Array;
}

async function choleskyReversed(
  engine: ProductEngine,
  pool: KernelPool,
  h: Rectangle,
  panelWidth: number,
): Promise<Factorization | CholeskyFailure> {
  const n = h.rows;
  const panels = Math.ceil(n / panelWidth);
  const panelInverses = new Float32Array(panels * panelWidth * panelWidth);
  const diagonal = new Float32Array(n);
  const panelsPerStrip = Math.max(1, Math.floor(STRIP_ROWS / panelWidth));
  for (let strip = Math.ceil(panels / panelsPerStrip) - 1; strip >= 0; strip--) {
    const firstPanel = strip * panelsPerStrip;
    const stripStart = firstPanel * panelWidth;
    const stripEnd = Math.min(n, (firstPanel + panelsPerStrip) * panelWidth);
    for (let p = Math.min(panels, firstPanel + panelsPerStrip) - 1; p >= firstPanel; p--) {
      const start = p * panelWidth;
      const end = Math.min(n, start + panelWidth);
      await updatePanel(engine, h, start, end, stripEnd);
      const inverse = panelInverses.subarray(start * panelWidth, (start + panelWidth) * panelWidth);
      const failure = factorBlock(
        pool,
        subRectangle(h, start, end - start, start, end - start),
        wholeMatrix(inverse, panelWidth, panelWidth),
      );
      if (failure !== undefined) return { column: start + failure.column, pivot: failure.pivot };
      for (let c = start; c < end; c++) diagonal[c] = h.values[h.offset + c * h.stride + c];
      await solvePanel(engine, h, start, end, wholeMatrix(inverse, panelWidth, panelWidth));
    }
    await updateAbove(engine, h, stripStart, stripEnd);
  }
  return { panelInverses, diagonal };
}

/** A[J, 0:end] -= L[K, J]ᵀ·L[K, 0:end] with K the rows of the strip below panel J, which are final. */
async function updatePanel(
  engine: ProductEngine,
  h: Rectangle,
  start: number,
  end: number,
  stripEnd: number,
): Promise<void> {
  if (end === stripEnd) return;
  const product = {
    a: subRectangle(h, end, stripEnd - end, start, end - start),
    b: subRectangle(h, end, stripEnd - end, 0, end),
    transposeA: true,
    transposeB: false,
  };
  await multiplyInto(engine, product, subRectangle(h, start, end - start, 0, end), -1, 1);
}

/** L[J, 0:start] = V·A[J, 0:start]. */
async function solvePanel(
  engine: ProductEngine,
  h: Rectangle,
  start: number,
  end: number,
  inverse: Rectangle,
): Promise<void> {
  if (start === 0) return;
  const width = end - start;
  const rest = subRectangle(h, start, width, 0, start);
  const product = { a: subRectangle(inverse, 0, width, 0, width), b: rest, transposeA: false, transposeB: false };
  await multiplyInto(engine, product, rest, 1, 0);
}

/** Lower triangle of A[0:start, 0:start] -= L[S, 0:start]ᵀ·L[S, 0:start] for the strip S. */
async function updateAbove(engine: ProductEngine, h: Rectangle, start: number, end: number): Promise<void> {
  if (start === 0) return;
  const t = wholeMatrix(new Float32Array(start * (end - start)), start, end - start);
  transpose(subRectangle(h, start, end - start, 0, start), t);
  await addSymmetricProduct(engine, t, subRectangle(h, 0, start, 0, start), -1);
}

/**
 * out = U = R⁻¹ with R = Lᵀ, by block columns: U_JJ = V_J and U[0:j, J] = -U[0:j, 0:j]·(R[0:j, J]·V_J).
 */
async function triangularInverse(
  engine: ProductEngine,
  l: Rectangle,
  panelInverses: Float32Array,
  panelWidth: number,
  out: Rectangle,
): Promise<void> {
  const n = l.rows;
  for (let r = 0; r < n; r++) out.values.fill(0, out.offset + r * out.stride, out.offset + r * out.stride + n);
  for (let start = 0; start < n; start += panelWidth) {
    const width = Math.min(panelWidth, n - start);
    const all = wholeMatrix(panelInverses, panelInverses.length / panelWidth, panelWidth);
    const v = subRectangle(all, start, width, 0, width);
    copyRectangle(v, subRectangle(out, start, width, start, width));
    if (start === 0) continue;
    const above = wholeMatrix(new Float32Array(start * width), start, width);
    const rows = subRectangle(l, start, width, 0, start);
    await multiplyInto(engine, { a: rows, b: v, transposeA: true, transposeB: false }, above, 1, 0);
    const product = { a: subRectangle(out, 0, start, 0, start), b: above, transposeA: false, transposeB: false };
    await multiplyInto(engine, product, subRectangle(out, 0, start, start, width), -1, 0);
  }
}
