/**
 * The inverse of a symmetric positive definite matrix on the CPU device, by the sweep operator over blocks.
 *
 * Sweeping block J of M replaces, with D = M_JJ⁻¹, B = M[:, J] and S = B·D,
 *
 *     M[I, K] ← M[I, K] - B[I]·S[K]ᵀ   (I, K ≠ J),   M[I, J] ← S[I],   M_JJ ← -D
 *
 * After all blocks M is -(inverse). Only the lower triangle is kept, as one compact panel per block of rows, so that ONNX
 * Runtime updates a panel in place by one product. As many operations as factoring, inverting the factor and squaring it,
 * in fewer and larger products. Blocks go from the last to the first: pivots are those of the reversed Cholesky.
 */
import type { CholeskyFailure } from "../device.js";
import { factorBlock } from "./cholesky-block.js";
import { mirrorLower, scaleArray, transpose } from "./elementwise.js";
import type { KernelPool } from "./kernel-pool.js";
import { copyRectangle, subRectangle, wholeMatrix, type Rectangle } from "./matrix.js";
import { multiplyInto, type ProductEngine } from "./products.js";

/** Widths of blocks: a block of one width is inverted by blocks of the next, the last by its factor in f64. */
const BLOCK_WIDTHS = [256, 128] as const;

interface Tools {
  readonly engine: ProductEngine;
  readonly pool: KernelPool;
}

/** Rows [start, start + values.rows) of the lower triangle, up to the end of the diagonal block. */
interface Panel {
  readonly start: number;
  readonly values: Rectangle;
}

/** Replace h [n, n], given by its lower triangle, by its inverse, both triangles. */
export function invertPositiveDefinite(tools: Tools, h: Rectangle): Promise<CholeskyFailure | undefined> {
  return invertBlocks(tools, h, 0);
}

async function invertBlocks(tools: Tools, h: Rectangle, level: number): Promise<CholeskyFailure | undefined> {
  const n = h.rows;
  const width = BLOCK_WIDTHS[level];
  if (width === undefined) return invertByFactor(tools, h);
  if (n <= width) return invertBlocks(tools, h, level + 1);
  const panels: Panel[] = [];
  for (let start = 0; start < n; start += width) {
    const rows = Math.min(width, n - start);
    const values = wholeMatrix(new Float32Array(rows * (start + rows)), rows, start + rows);
    copyRectangle(subRectangle(h, start, rows, 0, start + rows), values);
    panels.push({ start, values });
  }
  for (const panel of panels.toReversed()) {
    const failure = await sweep(tools, panels, panel, { n, level });
    if (failure !== undefined) return { column: panel.start + failure.column, pivot: failure.pivot };
  }
  for (const { start, values } of panels) {
    scaleArray(values.values, -1);
    copyRectangle(values, subRectangle(h, start, values.rows, 0, values.columns));
  }
  mirrorLower(h.values, n);
  return undefined;
}

/** Sweep the block of `pivot`. */
async function sweep(
  { engine, pool }: Tools,
  panels: readonly Panel[],
  pivot: Panel,
  { n, level }: { readonly n: number; readonly level: number },
): Promise<CholeskyFailure | undefined> {
  const { start } = pivot;
  const width = pivot.values.rows;
  const inverse = wholeMatrix(new Float32Array(width * width), width, width);
  copyRectangle(subRectangle(pivot.values, 0, width, start, width), inverse);
  const failure = await invertBlocks({ engine, pool }, inverse, level + 1);
  if (failure !== undefined) return failure;

  const before = wholeMatrix(new Float32Array(n * width), n, width); // B; its block J stays 0
  const swept = wholeMatrix(new Float32Array(n * width), n, width); // S
  transpose(subRectangle(pivot.values, 0, width, 0, start), subRectangle(before, 0, start, 0, width));
  const below = panels.filter((panel) => panel.start > start);
  const inPanel = ({ values }: Panel): Rectangle => subRectangle(values, 0, values.rows, start, width);
  const rowsOf = (of: Rectangle, { start: first, values }: Panel): Rectangle =>
    subRectangle(of, first, values.rows, 0, width);
  for (const panel of below) copyRectangle(inPanel(panel), rowsOf(before, panel));
  await multiplyInto(engine, { a: before, b: inverse, transposeA: false, transposeB: false }, swept, 1, 0);

  for (const panel of panels) {
    if (panel === pivot) continue;
    const all = subRectangle(swept, 0, panel.values.columns, 0, width);
    const product = { a: rowsOf(before, panel), b: all, transposeA: false, transposeB: true };
    await multiplyInto(engine, product, panel.values, -1, 1);
  }
  transpose(subRectangle(swept, 0, start, 0, width), subRectangle(pivot.values, 0, width, 0, start));
  for (const panel of below) copyRectangle(rowsOf(swept, panel), inPanel(panel));
  scaleArray(inverse.values, -1);
  copyRectangle(inverse, subRectangle(pivot.values, 0, width, start, width));
  return undefined;
}

/** H⁻¹ = VᵀV with V the inverse of the block's factor. */
async function invertByFactor({ engine, pool }: Tools, h: Rectangle): Promise<CholeskyFailure | undefined> {
  const v = wholeMatrix(new Float32Array(h.rows * h.rows), h.rows, h.rows);
  const failure = factorBlock(pool, h, v);
  if (failure !== undefined) return failure;
  await multiplyInto(engine, { a: v, b: v, transposeA: true, transposeB: false }, h, 1, 0);
  return undefined;
}
