/** Element-wise operations, diagonals, transposition: host side. Everything is cut by rows to fit bindings. */
import type { ElementwiseOperations } from "../../device.js";
import type { Binding, GpuMatrix, GpuView } from "../buffer.js";
import { bindRows, bindView, subColumns, subRows } from "../buffer.js";
import { uploadMatrix } from "../data.js";
import type { Dispatcher } from "../dispatch.js";
import { defineKernel } from "../kernel.js";
import { detach } from "./copy-view.js";
import { forRowSlabs, THREADS, WORK_PER_ELEMENT } from "./row-slabs.js";

const GRID = "lib/linear_workgroup.wgsl";
const TRANSPOSE_TILE = 32;
/** Rows that `mirrorLower` copies at a time. */
const MIRROR_ROWS = 512;

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
const ADD_INTO = defineKernel({
  name: "add_into",
  files: [GRID, "add_into.wgsl"],
  bindings: ["read", "read_write"],
  params: { count: "u32" },
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
export function elementwiseOperations(dispatcher: Dispatcher): ElementwiseOperations<GpuMatrix, GpuView> {
  return {
    async downloadDiagonal(matrix) {
      const diagonal = dispatcher.scratch("diagonal", matrix.rows * 4);
      encodeGetDiagonal(dispatcher, matrix, diagonal);
      const result = new Float32Array(matrix.rows);
      await dispatcher.read(diagonal.buffer, 0, result.byteLength, 4, (piece, offset) => {
        result.set(new Float32Array(piece), offset / 4);
      });
      return result;
    },
    setDiagonal(matrix, values) {
      const size = { label: "diagonal values", rows: 1, columns: values.length };
      using diagonal = uploadMatrix(dispatcher, size, values);
      encodeSetDiagonal(dispatcher, matrix, bindRows(diagonal, 0, 1));
    },
    scale: (matrix, factor) => encodeScale(dispatcher, matrix, factor),
    scaleColumns: (matrix, factors) => encodeScaleColumns(dispatcher, matrix, factors),
    scaleRows: (matrix, factors) => encodeScaleRows(dispatcher, matrix, factors),
    subtract: (a, b, out) => encodeSubtract(dispatcher, a, b, out),
    transpose: (a, out) => encodeTranspose(dispatcher, a, out),
    gather(a, out, { rows, columns }) {
      const all = (count: number): Uint32Array => Uint32Array.from({ length: count }, (_, i) => i);
      encodeGather(dispatcher, a, out, rows ?? all(out.rows), columns ?? all(out.columns));
    },
    mirrorLower: (matrix) => encodeMirrorLower(dispatcher, matrix),
    addInto: (a, out) => encodeAddInto(dispatcher, a, out),
  };
}

function encodeGetDiagonal(dispatcher: Dispatcher, matrix: GpuMatrix, diagonal: Binding): void {
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

function encodeSetDiagonal(dispatcher: Dispatcher, matrix: GpuMatrix, diagonal: Binding): void {
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

function encodeScale(dispatcher: Dispatcher, matrix: GpuMatrix, factor: number): void {
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

function encodeScaleColumns(dispatcher: Dispatcher, matrix: GpuMatrix, factors: GpuMatrix): void {
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

function encodeScaleRows(dispatcher: Dispatcher, matrix: GpuMatrix, factors: GpuMatrix): void {
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
function encodeSubtract(dispatcher: Dispatcher, a: GpuView, b: GpuView, out: GpuView): void {
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
function encodeTranspose(dispatcher: Dispatcher, a: GpuView, out: GpuView): void {
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
function encodeGather(
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

/** out += a */
function encodeAddInto(dispatcher: Dispatcher, a: GpuMatrix, out: GpuMatrix): void {
  forRowSlabs(dispatcher, out.rows, out.pitch, (first, rows) => {
    const count = (rows * out.pitch) / 4;
    dispatcher.dispatch(
      ADD_INTO,
      [bindRows(a, first, rows), bindRows(out, first, rows)],
      { count },
      Math.ceil(count / THREADS),
      count * 4 * WORK_PER_ELEMENT,
    );
  });
}
