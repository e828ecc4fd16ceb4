/** Element-wise operations, diagonals, square sums, transposition: host side. Everything is cut by rows to fit bindings. */
import { maskWordsPerRow } from "../../device.js";
import type { Binding, GpuMask, GpuMatrix, GpuView } from "../buffer.js";
import { bindMask, bindRows, bindView, subColumns, subRows } from "../buffer.js";
import type { Dispatcher } from "../dispatch.js";
import { defineKernel } from "../kernel.js";
import { detach } from "./copy-view.js";

const GRID = "lib/linear_workgroup.wgsl";
export const THREADS = 64;
const SQUARE_SUM_CHUNK = 256;
const TRANSPOSE_TILE = 32;
/** Rows that `mirrorLower` copies at a time. */
const MIRROR_ROWS = 512;
/** Work of moving one element in and out, in the unit of the work budget. */
export const WORK_PER_ELEMENT = 32;
/** Threads per dispatch: indexes are u32, and a folded grid stays small. */
const LARGEST_DISPATCH = 2 ** 30;

const SQUARE_SUMS_PARTIAL = defineKernel({
  name: "square_sums_partial",
  files: [GRID, "square_sums_partial.wgsl"],
  bindings: ["read", "read_write"],
  params: { rows: "u32", columns: "u32", offset: "u32", pitch: "u32", column_groups: "u32" },
  constantSets: [{}],
});
const SQUARE_SUMS_REDUCE = defineKernel({
  name: "square_sums_reduce",
  files: [GRID, "square_sums_reduce.wgsl"],
  bindings: ["read", "read_write"],
  params: { chunks: "u32", columns: "u32" },
  constantSets: [{}],
});
const GET_DIAGONAL = defineKernel({
  name: "get_diagonal",
  files: [GRID, "get_diagonal.wgsl"],
  bindings: ["read", "read_write"],
  params: { first_row: "u32", rows: "u32", pitch: "u32" },
  constantSets: [{}],
});
const SET_DIAGONAL = defineKernel({
  name: "set_diagonal",
  files: [GRID, "set_diagonal.wgsl"],
  bindings: ["read", "read_write"],
  params: { first_row: "u32", rows: "u32", pitch: "u32" },
  constantSets: [{}],
});
const SCALE = defineKernel({
  name: "scale",
  files: [GRID, "scale.wgsl"],
  bindings: ["read_write"],
  params: { count: "u32", factor: "f32" },
  constantSets: [{}],
});
const SCALE_COLUMNS = defineKernel({
  name: "scale_columns",
  files: [GRID, "scale_columns.wgsl"],
  bindings: ["read", "read_write"],
  params: { vectors: "u32", row_pitch: "u32", count: "u32" },
  constantSets: [{}],
});
const SCALE_ROWS = defineKernel({
  name: "scale_rows",
  files: [GRID, "scale_rows.wgsl"],
  bindings: ["read", "read_write"],
  params: { vectors: "u32", row_pitch: "u32", count: "u32", first_row: "u32" },
  constantSets: [{}],
});
const MIRROR_DIAGONAL = defineKernel({
  name: "mirror_diagonal",
  files: [GRID, "mirror_diagonal.wgsl"],
  bindings: ["read_write"],
  params: { first_row: "u32", size: "u32", pitch: "u32" },
  constantSets: [{}],
});
const SUBTRACT = defineKernel({
  name: "subtract",
  files: [GRID, "subtract.wgsl"],
  bindings: ["read", "read", "read_write"],
  params: {
    columns: "u32",
    count: "u32",
    a_offset: "u32",
    a_pitch: "u32",
    b_offset: "u32",
    b_pitch: "u32",
    out_offset: "u32",
    out_pitch: "u32",
  },
  constantSets: [{}],
});
const SUBTRACT_IN_PLACE = defineKernel({
  name: "subtract_in_place",
  files: [GRID, "subtract_in_place.wgsl"],
  bindings: ["read", "read_write"],
  params: {
    columns: "u32",
    count: "u32",
    x_offset: "u32",
    x_pitch: "u32",
    out_offset: "u32",
    out_pitch: "u32",
    reversed: "u32",
  },
  constantSets: [{}],
});
const TRANSPOSE = defineKernel({
  name: "transpose",
  files: [GRID, "transpose.wgsl"],
  bindings: ["read", "read_write"],
  params: {
    rows: "u32",
    columns: "u32",
    a_offset: "u32",
    a_pitch: "u32",
    out_offset: "u32",
    out_pitch: "u32",
    tile_columns: "u32",
  },
  constantSets: [{}],
});
const GATHER = defineKernel({
  name: "gather",
  files: [GRID, "gather.wgsl"],
  bindings: ["read", "read", "read", "read_write"],
  params: {
    columns: "u32",
    count: "u32",
    first_row: "u32",
    a_first: "u32",
    a_rows: "u32",
    a_pitch: "u32",
    out_pitch: "u32",
  },
  constantSets: [{}],
});
const MASK_APPLY = defineKernel({
  name: "mask_apply",
  files: [GRID, "mask_apply.wgsl"],
  bindings: ["read", "read_write"],
  params: { vectors: "u32", row_pitch: "u32", count: "u32", first_row: "u32", words: "u32" },
  constantSets: [{}],
});

/** Calls `slab` for row ranges that fit a binding and the work budget. */
export function forRowSlabs(
  dispatcher: Dispatcher,
  rows: number,
  pitch: number,
  slab: (firstRow: number, rows: number) => void,
): void {
  const height = Math.max(
    1,
    Math.min(
      dispatcher.rowsPerBinding(pitch),
      Math.floor(LARGEST_DISPATCH / pitch),
      Math.floor(dispatcher.workBudget / (pitch * WORK_PER_ELEMENT)),
    ),
  );
  for (let first = 0; first < rows; first += height) slab(first, Math.min(height, rows - first));
}

/** sums[0, c] += Σ_r x[r, c]². */
export function encodeSquareSums(dispatcher: Dispatcher, x: GpuView, sums: GpuMatrix): void {
  const { columns } = x;
  // Fixed slabs of whole chunks: the cut must not depend on the measured rate.
  const slab =
    Math.max(1, Math.floor(Math.min(2 ** 14, dispatcher.rowsPerBinding(x.matrix.pitch)) / SQUARE_SUM_CHUNK)) *
    SQUARE_SUM_CHUNK;
  for (let first = 0; first < x.rows; first += slab) {
    const part = subRows(x, first, Math.min(slab, x.rows - first));
    const chunks = Math.ceil(part.rows / SQUARE_SUM_CHUNK);
    const partials = dispatcher.scratch("square sums", chunks * columns * 4);
    const groups = Math.ceil(columns / THREADS);
    dispatcher.dispatch(
      SQUARE_SUMS_PARTIAL,
      [bindView(part), partials],
      { rows: part.rows, columns, offset: x.firstColumn, pitch: x.matrix.pitch, column_groups: groups },
      groups * chunks,
      part.rows * columns * WORK_PER_ELEMENT,
    );
    dispatcher.dispatch(
      SQUARE_SUMS_REDUCE,
      [partials, bindRows(sums, 0, 1)],
      { chunks, columns },
      groups,
      chunks * columns * WORK_PER_ELEMENT,
    );
  }
}

export function encodeGetDiagonal(dispatcher: Dispatcher, matrix: GpuMatrix, diagonal: Binding): void {
  forRowSlabs(dispatcher, matrix.rows, matrix.pitch, (first, rows) => {
    dispatcher.dispatch(
      GET_DIAGONAL,
      [bindRows(matrix, first, rows), diagonal],
      { first_row: first, rows, pitch: matrix.pitch },
      Math.ceil(rows / THREADS),
      rows * WORK_PER_ELEMENT,
    );
  });
}

export function encodeSetDiagonal(dispatcher: Dispatcher, matrix: GpuMatrix, diagonal: Binding): void {
  forRowSlabs(dispatcher, matrix.rows, matrix.pitch, (first, rows) => {
    dispatcher.dispatch(
      SET_DIAGONAL,
      [diagonal, bindRows(matrix, first, rows)],
      { first_row: first, rows, pitch: matrix.pitch },
      Math.ceil(rows / THREADS),
      rows * WORK_PER_ELEMENT,
    );
  });
}

export function encodeScale(dispatcher: Dispatcher, matrix: GpuMatrix, factor: number): void {
  forRowSlabs(dispatcher, matrix.rows, matrix.pitch, (first, rows) => {
    const count = (rows * matrix.pitch) / 4;
    dispatcher.dispatch(
      SCALE,
      [bindRows(matrix, first, rows)],
      { count, factor },
      Math.ceil(count / THREADS),
      count * 4 * WORK_PER_ELEMENT,
    );
  });
}

export function encodeScaleColumns(dispatcher: Dispatcher, matrix: GpuMatrix, factors: GpuMatrix): void {
  const vectors = Math.ceil(matrix.columns / 4);
  forRowSlabs(dispatcher, matrix.rows, matrix.pitch, (first, rows) => {
    const count = rows * vectors;
    dispatcher.dispatch(
      SCALE_COLUMNS,
      [bindRows(factors, 0, 1), bindRows(matrix, first, rows)],
      { vectors, row_pitch: matrix.pitch / 4, count },
      Math.ceil(count / THREADS),
      count * 4 * WORK_PER_ELEMENT,
    );
  });
}

export function encodeScaleRows(dispatcher: Dispatcher, matrix: GpuMatrix, factors: GpuMatrix): void {
  const vectors = Math.ceil(matrix.columns / 4);
  forRowSlabs(dispatcher, matrix.rows, matrix.pitch, (first, rows) => {
    const count = rows * vectors;
    dispatcher.dispatch(
      SCALE_ROWS,
      [bindRows(factors, 0, 1), bindRows(matrix, first, rows)],
      { vectors, row_pitch: matrix.pitch / 4, count, first_row: first },
      Math.ceil(count / THREADS),
      count * 4 * WORK_PER_ELEMENT,
    );
  });
}

/** out = a - b; `out` may be the same view as `a` or as `b`; other overlaps go through a copy. */
export function encodeSubtract(dispatcher: Dispatcher, a: GpuView, b: GpuView, out: GpuView): void {
  const isOut = (view: GpuView): boolean =>
    view.matrix === out.matrix && view.firstRow === out.firstRow && view.firstColumn === out.firstColumn;
  if (isOut(a)) return subtractInPlace(dispatcher, b, out, false);
  if (isOut(b)) return subtractInPlace(dispatcher, a, out, true);
  const left = apart(dispatcher, a, out);
  const right = apart(dispatcher, b, out);
  using _leftCopy = left === a ? undefined : left.matrix;
  using _rightCopy = right === b ? undefined : right.matrix;
  const pitch = Math.max(left.matrix.pitch, right.matrix.pitch, out.matrix.pitch);
  forRowSlabs(dispatcher, out.rows, pitch, (first, rows) => {
    const count = rows * out.columns;
    dispatcher.dispatch(
      SUBTRACT,
      [left, right, out].map((view) => bindView(subRows(view, first, rows))),
      {
        columns: out.columns,
        count,
        a_offset: left.firstColumn,
        a_pitch: left.matrix.pitch,
        b_offset: right.firstColumn,
        b_pitch: right.matrix.pitch,
        out_offset: out.firstColumn,
        out_pitch: out.matrix.pitch,
      },
      Math.ceil(count / THREADS),
      count * WORK_PER_ELEMENT,
    );
  });
}

/** The view itself, or a copy of it that the caller disposes where it lies in the output's matrix. */
function apart(dispatcher: Dispatcher, view: GpuView, out: GpuView): GpuView {
  return view.matrix === out.matrix ? detach(dispatcher, view) : view;
}

function subtractInPlace(dispatcher: Dispatcher, x: GpuView, out: GpuView, reversed: boolean): void {
  const other = apart(dispatcher, x, out);
  using _copy = other === x ? undefined : other.matrix;
  forRowSlabs(dispatcher, out.rows, Math.max(other.matrix.pitch, out.matrix.pitch), (first, rows) => {
    const count = rows * out.columns;
    dispatcher.dispatch(
      SUBTRACT_IN_PLACE,
      [bindView(subRows(other, first, rows)), bindView(subRows(out, first, rows))],
      {
        columns: out.columns,
        count,
        x_offset: other.firstColumn,
        x_pitch: other.matrix.pitch,
        out_offset: out.firstColumn,
        out_pitch: out.matrix.pitch,
        reversed: reversed ? 1 : 0,
      },
      Math.ceil(count / THREADS),
      count * WORK_PER_ELEMENT,
    );
  });
}

/** out[c, r] = a[r, c]; different matrices. */
export function encodeTranspose(dispatcher: Dispatcher, a: GpuView, out: GpuView): void {
  forRowSlabs(dispatcher, a.rows, a.matrix.pitch, (firstRow, rows) => {
    forRowSlabs(dispatcher, out.rows, out.matrix.pitch, (firstColumn, columns) => {
      const part = subColumns(subRows(a, firstRow, rows), firstColumn, columns);
      const target = subColumns(subRows(out, firstColumn, columns), firstRow, rows);
      const tileColumns = Math.ceil(columns / TRANSPOSE_TILE);
      dispatcher.dispatch(
        TRANSPOSE,
        [bindView(part), bindView(target)],
        {
          rows,
          columns,
          a_offset: part.firstColumn,
          a_pitch: part.matrix.pitch,
          out_offset: target.firstColumn,
          out_pitch: target.matrix.pitch,
          tile_columns: tileColumns,
        },
        Math.ceil(rows / TRANSPOSE_TILE) * tileColumns,
        rows * columns * WORK_PER_ELEMENT,
      );
    });
  });
}

/**
 * out[r, c] = a[rows[r], columns[c]]. Where both are cut to fit bindings, every part of `a` is offered to every part of
 * `out` that takes rows from it.
 */
export function encodeGather(
  dispatcher: Dispatcher,
  a: GpuMatrix,
  out: GpuMatrix,
  rows: Uint32Array,
  columns: Uint32Array,
): void {
  const [rowIndices, columnIndices] = [rows, columns].map((indices) => {
    const buffer = dispatcher.createBuffer(indices.byteLength, "indices", `${indices.length} indices`);
    dispatcher.upload(buffer, 0, indices);
    return { buffer, offset: 0, size: buffer.size };
  }) as [Binding, Binding];
  forRowSlabs(dispatcher, out.rows, out.pitch, (first, count) => {
    forRowSlabs(dispatcher, a.rows, a.pitch, (aFirst, aRows) => {
      if (!rows.subarray(first, first + count).some((row) => row >= aFirst && row < aFirst + aRows)) return;
      dispatcher.dispatch(
        GATHER,
        [bindRows(a, aFirst, aRows), rowIndices, columnIndices, bindRows(out, first, count)],
        {
          columns: out.columns,
          count: count * out.columns,
          first_row: first,
          a_first: aFirst,
          a_rows: aRows,
          a_pitch: a.pitch,
          out_pitch: out.pitch,
        },
        Math.ceil((count * out.columns) / THREADS),
        count * out.columns * WORK_PER_ELEMENT,
      );
    });
  });
  for (const { buffer } of [rowIndices, columnIndices]) dispatcher.release(buffer);
}

/** matrix[r, c] = matrix[c, r] for r < c, in strips of rows: what is left of the diagonal blocks through a copy. */
export function encodeMirrorLower(dispatcher: Dispatcher, matrix: GpuMatrix): void {
  const strip = Math.min(MIRROR_ROWS, dispatcher.rowsPerBinding(matrix.pitch));
  for (let first = 0; first < matrix.rows; first += strip) {
    const rows = Math.min(strip, matrix.rows - first);
    if (first > 0) {
      const source = detach(dispatcher, { matrix, firstRow: first, rows, firstColumn: 0, columns: first });
      using _copy = source.matrix;
      encodeTranspose(dispatcher, source, { matrix, firstRow: 0, rows: first, firstColumn: first, columns: rows });
    }
    dispatcher.dispatch(
      MIRROR_DIAGONAL,
      [bindRows(matrix, first, rows)],
      { first_row: first, size: rows, pitch: matrix.pitch },
      Math.ceil((rows * rows) / THREADS),
      rows * rows * WORK_PER_ELEMENT,
    );
  }
}

export function encodeApplyMask(dispatcher: Dispatcher, matrix: GpuMatrix, mask: GpuMask): void {
  const vectors = Math.ceil(matrix.columns / 4);
  forRowSlabs(dispatcher, matrix.rows, matrix.pitch, (first, rows) => {
    const count = rows * vectors;
    dispatcher.dispatch(
      MASK_APPLY,
      [bindMask(mask), bindRows(matrix, first, rows)],
      { vectors, row_pitch: matrix.pitch / 4, count, first_row: first, words: maskWordsPerRow(matrix.columns) },
      Math.ceil(count / THREADS),
      count * 4 * WORK_PER_ELEMENT,
    );
  });
}
