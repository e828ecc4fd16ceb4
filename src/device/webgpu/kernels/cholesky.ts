/**
 * The reversed blocked Cholesky H = LᵀL in place, and U = (Lᵀ)⁻¹ from it: host side.
 *
 * Blocks of half a panel (at most 64 rows) go from the last to the first. Their updates stay within a strip of about 512
 * rows; after each strip the rows above are updated at once by the Gram kernel with alpha = -1, which is where nearly all
 * operations are (k = 512 keeps it bound by arithmetic, k = 64 would be bound by memory).
 * Source rows and target rows are disjoint ranges of one buffer, so nothing is copied.
 */
import type { Binding, GpuMatrix } from "../buffer.js";
import { bindRows, subColumns, subRows, wholeView } from "../buffer.js";
import type { Dispatcher } from "../dispatch.js";
import { defineKernel } from "../kernel.js";
import { encodeGramRows, encodeProduct } from "./matmul.js";

const GRID = "lib/linear_workgroup.wgsl";
const STRIP_ROWS = 512;
const THREADS = 64;

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

export interface FactorTargets {
  /** [ceil(n / panelWidth)·panelWidth, panelWidth], zero before. */
  readonly panelInverses: GpuMatrix;
  /** [1, n]. */
  readonly diagonal: GpuMatrix;
  /** Three u32 {failed, column, pivot bits}, zero before. */
  readonly status: Binding;
}

/** Factors the lower triangle of `h` in place. */
export function encodeCholesky(dispatcher: Dispatcher, h: GpuMatrix, panelWidth: number, targets: FactorTargets): void {
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
export function encodeTriangularInverse(
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
    for (let row = 0; row < size; row += 1) {
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
