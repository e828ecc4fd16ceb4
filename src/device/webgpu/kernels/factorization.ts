/**
 * The reversed blocked Cholesky H = LᵀL in place, and U = (Lᵀ)⁻¹ from it: host side.
 *
 * Blocks of half a panel (at most 64 rows) go from the last to the first. Their updates stay within a strip of about 512
 * rows; after each strip the rows above are updated at once by the Gram kernel with alpha = -1, which is where nearly all
 * operations are (k = 512 keeps it bound by arithmetic, k = 64 would be bound by memory).
 * Source rows and target rows are disjoint ranges of one buffer, so nothing is copied.
 */
import {
  isCholeskyFailure,
  LARGEST_PANEL,
  type CholeskyFailure,
  type FactorizationOperations,
  type ReversedCholesky,
} from "../../device.js";
import type { Binding, GpuMatrix } from "../buffer.js";
import { bindRows, subColumns, subRows, wholeView } from "../buffer.js";
import { createMatrix } from "../data.js";
import type { Dispatcher } from "../dispatch.js";
import { defineKernel } from "../kernel.js";
import { encodeMirrorLower } from "./elementwise.js";
import { encodeGramRows, encodeProduct } from "./products.js";

const GRID = "lib/linear_workgroup.wgsl";
const STRIP_ROWS = 512;
const THREADS = 64;
const STATUS_BYTES = 16;
/** Columns of a block of UᵀU: fewer waste less on zeros, more keep the product fast. */
const INVERSE_BLOCK = 512;

const CHOL_DIAG = defineKernel({
  name: "chol_diag",
  files: ["chol_diag.wgsl"],
  bindings: ["read_write", "read_write", "read_write", "read_write"],
  params: { start: "u32", size: "u32", h_pitch: "u32", inverse_offset: "u32", inverse_pitch: "u32" },
  constantSets: [{}],
});
const CHOL_PANEL = defineKernel({
  name: "chol_panel",
  files: [GRID, "chol_panel.wgsl"],
  bindings: ["read", "read_write"],
  params: { size: "u32", columns: "u32", h_pitch: "u32", inverse_offset: "u32", inverse_pitch: "u32" },
  constantSets: [{}],
});
const MERGE_INVERSES = defineKernel({
  name: "merge_inverses",
  files: [GRID, "merge_inverses.wgsl"],
  bindings: ["read", "read_write"],
  params: { panels: "u32", first_panel: "u32", half_width: "u32", n: "u32", h_pitch: "u32", inverse_pitch: "u32" },
  constantSets: [{}],
});

export function factorizationOperations(dispatcher: Dispatcher): FactorizationOperations<GpuMatrix> {
  return {
    choleskyReversed: (h, panelWidth) => choleskyReversed(dispatcher, h, panelWidth),
    triangularInverse: (cholesky, out) => triangularInverse(dispatcher, cholesky, out),
    invertPositiveDefinite: (h) => invertPositiveDefinite(dispatcher, h),
  };
}

async function choleskyReversed(
  dispatcher: Dispatcher,
  h: GpuMatrix,
  panelWidth: number,
): Promise<ReversedCholesky<GpuMatrix> | CholeskyFailure> {
  const { label, rows: n } = h;
  const rows = Math.ceil(n / panelWidth) * panelWidth;
  const panelInverses = createMatrix(dispatcher, { label: `${label}: panel inverses`, rows, columns: panelWidth });
  const diagonal = createMatrix(dispatcher, { label: `${label}: diagonal`, rows: 1, columns: n });
  const dispose = (): void => [panelInverses, diagonal].forEach((matrix) => matrix[Symbol.dispose]());
  try {
    const failure = await factor(dispatcher, h, panelWidth, { panelInverses, diagonal });
    if (failure === undefined) return { factor: h, panelInverses, panelWidth, diagonal };
    dispose();
    return failure;
  } catch (error) {
    dispose();
    throw error;
  }
}

async function factor(
  dispatcher: Dispatcher,
  h: GpuMatrix,
  panelWidth: number,
  targets: Omit<FactorTargets, "status">,
): Promise<CholeskyFailure | undefined> {
  const status = dispatcher.createBuffer(STATUS_BYTES, "cholesky status", "cholesky status");
  const words = new Uint32Array(STATUS_BYTES / 4);
  try {
    const binding = { buffer: status, offset: 0, size: STATUS_BYTES };
    encodeCholesky(dispatcher, h, panelWidth, { ...targets, status: binding });
    await dispatcher.read(status, 0, STATUS_BYTES, 4, (piece) => words.set(new Uint32Array(piece)));
  } finally {
    dispatcher.release(status);
  }
  const [failed, column] = words;
  if (failed === 0) return undefined;
  return { column, pivot: new Float32Array(words.buffer, 8, 1)[0] };
}

function triangularInverse(dispatcher: Dispatcher, cholesky: ReversedCholesky<GpuMatrix>, out: GpuMatrix): void {
  const { factor, panelInverses, panelWidth } = cholesky;
  const n = factor.rows;
  let width = panelWidth;
  while (width * 2 < n) width *= 2;
  const side = Math.min(width, n);
  using scratch = createMatrix(dispatcher, { label: "triangular inverse scratch", rows: side, columns: side });
  dispatcher.clear(out.buffer);
  encodeTriangularInverse(dispatcher, factor, panelInverses, panelWidth, out, scratch);
}

async function invertPositiveDefinite(dispatcher: Dispatcher, h: GpuMatrix): Promise<CholeskyFailure | undefined> {
  const { label, rows: n } = h;
  const cholesky = await choleskyReversed(dispatcher, h, LARGEST_PANEL);
  if (isCholeskyFailure(cholesky)) return cholesky;
  using _inverses = cholesky.panelInverses;
  using _diagonal = cholesky.diagonal;
  using u = createMatrix(dispatcher, { label: `${label}: triangular inverse`, rows: n, columns: n });
  triangularInverse(dispatcher, cholesky, u);
  // H⁻¹ = UᵀU, block by block of the lower triangle. U is upper triangular: rows below the end of a block of columns
  // are zero there, which saves half the work of a Gram matrix.
  for (let column = 0; column < n; column += INVERSE_BLOCK) {
    const columns = Math.min(INVERSE_BLOCK, n - column);
    const rows = subRows(wholeView(u), 0, column + columns);
    encodeProduct(dispatcher, {
      a: subColumns(rows, column, n - column),
      b: subColumns(rows, column, columns),
      out: subColumns(subRows(wholeView(h), column, n - column), column, columns),
      transposeA: true,
      transposeB: false,
      alpha: 1,
      beta: 0,
    });
  }
  encodeMirrorLower(dispatcher, h);
  return undefined;
}

interface FactorTargets {
  /** [ceil(n / panelWidth)·panelWidth, panelWidth], zero before. */
  readonly panelInverses: GpuMatrix;
  /** [1, n]. */
  readonly diagonal: GpuMatrix;
  /** Three u32 {failed, column, pivot bits}, zero before. */
  readonly status: Binding;
}

/** Factors the lower triangle of `h` in place. */
function encodeCholesky(dispatcher: Dispatcher, h: GpuMatrix, panelWidth: number, targets: FactorTargets): void {
  const n = h.rows;
  const block = panelWidth / 2;
  // A multiple of four blocks, so that strips begin at a multiple of 4 columns whatever the block is.
  const strip = block * 4 * Math.max(1, Math.round(STRIP_ROWS / (block * 4)));
  for (let stripStart = Math.floor((n - 1) / strip) * strip; stripStart >= 0; stripStart -= strip) {
    const stripEnd = Math.min(stripStart + strip, n);
    const lastBlock = stripStart + Math.floor((stripEnd - 1 - stripStart) / block) * block;
    for (let start = lastBlock; start >= stripStart; start -= block) {
      const size = Math.min(block, stripEnd - start);
      encodeBlock(dispatcher, h, start, size, panelWidth, targets);
      if (start > stripStart) {
        const x = subColumns(subRows(wholeView(h), start, size), 0, start);
        encodeGramRows(dispatcher, { x, gram: h, firstRow: stripStart, endRow: start, alpha: -1 });
      }
    }
    if (stripStart > 0) {
      const x = subColumns(subRows(wholeView(h), stripStart, stripEnd - stripStart), 0, stripStart);
      encodeGramRows(dispatcher, { x, gram: h, firstRow: 0, endRow: stripStart, alpha: -1 });
    }
  }
  encodeMerge(dispatcher, h, panelWidth, targets.panelInverses);
}

/** One diagonal block and the rows of the factor to its left. */
function encodeBlock(
  dispatcher: Dispatcher,
  h: GpuMatrix,
  start: number,
  size: number,
  panelWidth: number,
  targets: FactorTargets,
): void {
  const { panelInverses } = targets;
  const place = {
    size,
    h_pitch: h.pitch,
    // The block's own corner of its panel's inverse.
    inverse_offset: start * panelInverses.pitch + (start % panelWidth),
    inverse_pitch: panelInverses.pitch,
  };
  const inverses = bindRows(panelInverses, 0, panelInverses.rows);
  const rows = bindRows(h, start, size);
  dispatcher.dispatch(
    CHOL_DIAG,
    [rows, inverses, bindRows(targets.diagonal, 0, 1), targets.status],
    { start, ...place },
    1,
    // Serial: an idle GPU is charged as if it worked, about 100 µs.
    size ** 3 * 64,
  );
  if (start === 0) return;
  dispatcher.dispatch(
    CHOL_PANEL,
    [inverses, rows],
    { columns: start, ...place },
    Math.ceil(start / THREADS),
    2 * size * size * start,
  );
}

function encodeMerge(dispatcher: Dispatcher, h: GpuMatrix, panelWidth: number, panelInverses: GpuMatrix): void {
  const panels = Math.ceil(h.rows / panelWidth);
  const perDispatch = Math.max(1, Math.floor(dispatcher.rowsPerBinding(h.pitch) / panelWidth));
  for (let first = 0; first < panels; first += perDispatch) {
    const count = Math.min(perDispatch, panels - first);
    const firstRow = first * panelWidth;
    const rows = Math.min(count * panelWidth, h.rows - firstRow);
    dispatcher.dispatch(
      MERGE_INVERSES,
      [bindRows(h, firstRow, rows), bindRows(panelInverses, 0, panelInverses.rows)],
      {
        panels: count,
        first_panel: first,
        half_width: panelWidth / 2,
        n: h.rows,
        h_pitch: h.pitch,
        inverse_pitch: panelInverses.pitch,
      },
      count,
      count * panelWidth ** 3,
    );
  }
}

/**
 * out = U = R⁻¹ by recursive doubling: for neighbouring blocks U12 = -(U11·R12)·U22 with R12 = L21ᵀ. `out` must be zero
 * above its diagonal blocks' rows already (the caller clears it). n³/3 useful operations, here twice that, since the
 * zeros of U11 and U22 are multiplied as well.
 */
function encodeTriangularInverse(
  dispatcher: Dispatcher,
  factor: GpuMatrix,
  panelInverses: GpuMatrix,
  panelWidth: number,
  out: GpuMatrix,
  scratch: GpuMatrix,
): void {
  const n = factor.rows;
  for (let start = 0; start < n; start += panelWidth) {
    const size = Math.min(panelWidth, n - start);
    for (let row = 0; row < size; row++) {
      const from = (start + row) * panelInverses.pitch * 4;
      dispatcher.copy(panelInverses.buffer, from, out.buffer, ((start + row) * out.pitch + start) * 4, size * 4);
    }
  }
  for (let width = panelWidth; width < n; width *= 2) {
    for (let start = 0; start + width < n; start += 2 * width) {
      const second = start + width;
      const size = Math.min(width, n - second);
      const rows = (first: number, count: number): ReturnType<typeof subRows> => subRows(wholeView(out), first, count);
      const product = subColumns(subRows(wholeView(scratch), 0, width), 0, size);
      encodeProduct(dispatcher, {
        a: subColumns(rows(start, width), start, width),
        b: subColumns(subRows(wholeView(factor), second, size), start, width),
        out: product,
        transposeA: false,
        transposeB: true,
        alpha: 1,
        beta: 0,
      });
      encodeProduct(dispatcher, {
        a: product,
        b: subColumns(rows(second, size), second, size),
        out: subColumns(rows(start, width), second, size),
        transposeA: false,
        transposeB: false,
        alpha: -1,
        beta: 0,
      });
    }
  }
}
