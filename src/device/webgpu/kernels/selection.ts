/**
 * Selections: host side. Nothing is read back: thresholds and ties are settled on the device, counts come from the caller.
 *
 * Over a whole matrix or panel the threshold is found by three histogram passes (11, 11 and 9 bits of the score's bit
 * pattern), each followed by a pick; then ties are counted per row, scanned, and the mask is written.
 */
import type { SelectionOperations } from "../../device.js";
import type { Binding, GpuMask, GpuMatrix, GpuView } from "../buffer.js";
import { bindMask, bindRows, bindView, subRows } from "../buffer.js";
import type { Dispatcher } from "../dispatch.js";
import { defineKernel } from "../kernel.js";
import { forRowSlabs, WORK_PER_ELEMENT } from "./row-slabs.js";

const GRID = "lib/linear_workgroup.wgsl";
const KEY = "lib/score_key.wgsl";
const SCAN = "lib/exclusive_scan.wgsl";
const MARKS = "lib/ordered_marks.wgsl";
const BITS = "lib/mask_bits.wgsl";

const ROW_THREADS = 64;
const CHUNK = 1024;
const LARGEST_HISTOGRAM_GRID = 512;
/** A workgroup clears and adds 2048 bins: fewer elements than this would not pay for it. */
const ELEMENTS_PER_HISTOGRAM = 4096;
const BINS_BYTES = 2048 * 4;
/** Lowest bit of each digit and the first bit above it, from the top; 31 bits in all, the sign being 0. */
const DIGITS = [
  { shift: 20, above: 31 },
  { shift: 9, above: 20 },
  { shift: 0, above: 9 },
] as const;

const ROW_SELECT = defineKernel({
  name: "row_select",
  files: [GRID, KEY, SCAN, MARKS, "row_select.wgsl"],
  bindings: ["read", "read", "read_write"],
  params: { rows: "u32", columns: "u32", words: "u32", prune_count: "u32", pitch: "u32", first_row: "u32" },
  constantSets: [{}],
});
const NM_SELECT = defineKernel({
  name: "nm_select",
  files: [GRID, KEY, "nm_select.wgsl"],
  bindings: ["read", "read", "read_write"],
  params: {
    rows: "u32",
    columns: "u32",
    words: "u32",
    pitch: "u32",
    first_row: "u32",
    group_size: "u32",
    prune_count: "u32",
    chunks: "u32",
  },
  constantSets: [{}],
});
const HISTOGRAM = defineKernel({
  name: "select_histogram",
  files: [GRID, KEY, "select_histogram.wgsl"],
  bindings: ["read", "read", "read", "read_write"],
  params: {
    rows: "u32",
    columns: "u32",
    offset: "u32",
    pitch: "u32",
    scale_offset: "u32",
    shift: "u32",
    above: "u32",
    chunks: "u32",
    total: "u32",
    workgroups: "u32",
  },
  constantSets: [{ SCALE_BY_ROW: 0 }, { SCALE_BY_ROW: 1 }],
});
const PICK = defineKernel({
  name: "select_pick",
  files: [SCAN, "select_pick.wgsl"],
  bindings: ["read_write", "read_write"],
  params: { shift: "u32", first: "u32", prune_count: "u32", everything: "u32", elements: "u32" },
  constantSets: [{}],
});
const MASK_COUNT = defineKernel({
  name: "mask_count",
  files: [GRID, "mask_count.wgsl"],
  bindings: ["read", "read_write"],
  params: { rows: "u32", columns: "u32", words: "u32" },
  constantSets: [{}],
});
const SELECT_SCAN = defineKernel({
  name: "select_scan",
  files: [SCAN, "select_scan.wgsl"],
  bindings: ["read", "read_write"],
  params: { rows: "u32" },
  constantSets: [{}],
});
const PANEL_TIES = defineKernel({
  name: "panel_ties",
  files: [GRID, KEY, "panel_ties.wgsl"],
  bindings: ["read", "read", "read", "read_write"],
  params: { rows: "u32", columns: "u32", offset: "u32", pitch: "u32", scale_offset: "u32", add: "u32" },
  constantSets: [{}],
});
const PANEL_MARK = defineKernel({
  name: "panel_mark",
  files: [GRID, KEY, BITS, "panel_mark.wgsl"],
  bindings: ["read", "read", "read", "read_write", "read_write"],
  params: {
    rows: "u32",
    columns: "u32",
    words: "u32",
    offset: "u32",
    pitch: "u32",
    scale_offset: "u32",
    mask_column: "u32",
  },
  constantSets: [{}],
});
const MATRIX_TIES = defineKernel({
  name: "matrix_ties",
  files: [GRID, KEY, "matrix_ties.wgsl"],
  bindings: ["read", "read", "read", "read_write"],
  params: { rows: "u32", columns: "u32", pitch: "u32", first_row: "u32" },
  constantSets: [{}],
});
const MATRIX_MARK = defineKernel({
  name: "matrix_mark",
  files: [GRID, KEY, MARKS, "matrix_mark.wgsl"],
  bindings: ["read", "read", "read", "read", "read_write"],
  params: { rows: "u32", columns: "u32", words: "u32", pitch: "u32", first_row: "u32" },
  constantSets: [{}],
});

export function selectionOperations(dispatcher: Dispatcher): SelectionOperations<GpuMatrix, GpuView, GpuMask> {
  return {
    selectRows: (weight, scale, pruneCount, mask) => encodeSelectRows(dispatcher, weight, scale, pruneCount, mask),
    selectMatrix: (weight, scale, pruneCount, mask) => encodeSelectMatrix(dispatcher, weight, scale, pruneCount, mask),
    selectGroups: (weight, scale, keep, group, mask) =>
      encodeSelectGroups(dispatcher, weight, scale, keep, group, mask),
    selectPanel: (panel, scale, pruneCount, mask, maskColumn) =>
      encodeSelectPanel(dispatcher, panel, scale, pruneCount, mask, maskColumn),
    selectRemaining: (panel, scale, pruneCount, mask, maskColumn) =>
      encodeSelectPanel(dispatcher, panel, scale, pruneCount, mask, maskColumn, true),
  };
}

/** In every row prune the `pruneCount` smallest |w|·scale. */
function encodeSelectRows(
  dispatcher: Dispatcher,
  weight: GpuMatrix,
  scale: GpuMatrix,
  pruneCount: number,
  mask: GpuMask,
): void {
  if (pruneCount >= weight.columns) return dispatcher.clear(mask.buffer);
  forRowSlabs(dispatcher, weight.rows, weight.pitch, (first, rows) => {
    dispatcher.dispatch(
      ROW_SELECT,
      [bindRows(weight, first, rows), bindRows(scale, 0, 1), bindMask(mask)],
      {
        rows,
        columns: weight.columns,
        words: mask.words,
        prune_count: pruneCount,
        pitch: weight.pitch,
        first_row: first,
      },
      rows,
      rows * weight.columns * WORK_PER_ELEMENT,
    );
  });
}

/** In every group of `group` columns keep the `keep` largest |w|·scale. */
function encodeSelectGroups(
  dispatcher: Dispatcher,
  weight: GpuMatrix,
  scale: GpuMatrix,
  keep: number,
  group: number,
  mask: GpuMask,
): void {
  const chunks = Math.ceil(weight.columns / 256);
  forRowSlabs(dispatcher, weight.rows, weight.pitch, (first, rows) => {
    dispatcher.dispatch(
      NM_SELECT,
      [bindRows(weight, first, rows), bindRows(scale, 0, 1), bindMask(mask)],
      {
        rows,
        columns: weight.columns,
        words: mask.words,
        pitch: weight.pitch,
        first_row: first,
        group_size: group,
        prune_count: group - keep,
        chunks,
      },
      rows * chunks,
      rows * weight.columns * WORK_PER_ELEMENT,
    );
  });
}

interface Selection {
  readonly state: Binding;
  readonly bins: Binding;
  /** Ties per row of the weight. */
  readonly counts: Binding;
}

function selectionScratch(dispatcher: Dispatcher, rows: number): Selection {
  return {
    state: dispatcher.scratch("select state", 16),
    // Zero when created and left zero by every pick.
    bins: dispatcher.scratch("select bins", BINS_BYTES),
    counts: dispatcher.scratch("select counts", rows * 4),
  };
}

interface HistogramPart {
  readonly source: Binding;
  readonly rows: number;
  readonly columns: number;
  readonly offset: number;
  readonly pitch: number;
  /** Of the part's first scale within the binding. */
  readonly scaleOffset: number;
}

/**
 * Leaves the threshold and the number of ties to prune in `selection.state`. With `countsPlaced`, zeros that
 * `mask_count` left in the state are taken off `pruneCount`.
 */
function encodeThreshold(
  dispatcher: Dispatcher,
  selection: Selection,
  parts: readonly HistogramPart[],
  scale: { readonly binding: Binding; readonly byRow: boolean },
  pruneCount: number,
  countsPlaced = false,
): void {
  const total = parts.reduce((sum, part) => sum + part.rows * part.columns, 0);
  const everything = !countsPlaced && pruneCount >= total;
  for (const digit of DIGITS) {
    for (const part of everything ? [] : parts) {
      const chunks = Math.ceil(part.columns / CHUNK);
      const elements = part.rows * part.columns;
      const workgroups = Math.min(
        LARGEST_HISTOGRAM_GRID,
        chunks * part.rows,
        Math.ceil(elements / ELEMENTS_PER_HISTOGRAM),
      );
      dispatcher.dispatch(
        HISTOGRAM,
        [part.source, scale.binding, selection.state, selection.bins],
        {
          rows: part.rows,
          columns: part.columns,
          offset: part.offset,
          pitch: part.pitch,
          scale_offset: part.scaleOffset,
          ...digit,
          chunks,
          total: chunks * part.rows,
          workgroups,
        },
        workgroups,
        elements * WORK_PER_ELEMENT,
        { SCALE_BY_ROW: scale.byRow ? 1 : 0 },
      );
    }
    dispatcher.dispatch(
      PICK,
      [selection.bins, selection.state],
      {
        shift: digit.shift,
        first: digit === DIGITS[0] ? 1 : 0,
        prune_count: pruneCount,
        everything: everything ? 1 : 0,
        elements: total,
      },
      1,
      2048 * WORK_PER_ELEMENT,
    );
    if (everything) return;
  }
}

/** Prune the `pruneCount` smallest |w|·scale of the whole matrix; ties in row-major order. */
function encodeSelectMatrix(
  dispatcher: Dispatcher,
  weight: GpuMatrix,
  scale: GpuMatrix,
  pruneCount: number,
  mask: GpuMask,
): void {
  if (pruneCount >= weight.rows * weight.columns) return dispatcher.clear(mask.buffer);
  const selection = selectionScratch(dispatcher, weight.rows);
  const { columns, pitch } = weight;
  const slabs: { first: number; rows: number }[] = [];
  forRowSlabs(dispatcher, weight.rows, pitch, (first, rows) => slabs.push({ first, rows }));
  const parts = slabs.map(({ first, rows }) => ({
    source: bindRows(weight, first, rows),
    rows,
    columns,
    offset: 0,
    pitch,
    scaleOffset: 0,
  }));
  const scaleRow = bindRows(scale, 0, 1);
  encodeThreshold(dispatcher, selection, parts, { binding: scaleRow, byRow: false }, pruneCount);
  for (const { first, rows } of slabs) {
    dispatcher.dispatch(
      MATRIX_TIES,
      [bindRows(weight, first, rows), scaleRow, selection.state, selection.counts],
      { rows, columns, pitch, first_row: first },
      rows,
      rows * columns * WORK_PER_ELEMENT,
    );
  }
  dispatcher.dispatch(SELECT_SCAN, [selection.state, selection.counts], { rows: weight.rows }, 1, weight.rows);
  for (const { first, rows } of slabs) {
    dispatcher.dispatch(
      MATRIX_MARK,
      [bindRows(weight, first, rows), scaleRow, selection.state, selection.counts, bindMask(mask)],
      { rows, columns, words: mask.words, pitch, first_row: first },
      rows,
      rows * columns * WORK_PER_ELEMENT,
    );
  }
}

/**
 * Prune `pruneCount` of a transposed panel over all weight rows; ties: lower row, then lower column. With `countsPlaced`,
 * the zeros of the mask's columns before `maskColumn` are part of `pruneCount`.
 */
function encodeSelectPanel(
  dispatcher: Dispatcher,
  panel: GpuView,
  scale: GpuView,
  pruneCount: number,
  mask: GpuMask,
  maskColumn: number,
  countsPlaced = false,
): void {
  const rows = panel.columns;
  const selection = selectionScratch(dispatcher, rows);
  const { pitch } = panel.matrix;
  const scaleRow = bindView(scale);
  const parts: { source: Binding; first: number; columns: number }[] = [];
  forRowSlabs(dispatcher, panel.rows, pitch, (first, columns) =>
    parts.push({ source: bindView(subRows(panel, first, columns)), first, columns }),
  );
  if (countsPlaced && maskColumn > 0) {
    dispatcher.dispatch(
      MASK_COUNT,
      [bindMask(mask), selection.state],
      { rows, columns: maskColumn, words: mask.words },
      Math.ceil(rows / ROW_THREADS),
      (rows * maskColumn * WORK_PER_ELEMENT) / 32,
    );
  }
  const offset = panel.firstColumn;
  encodeThreshold(
    dispatcher,
    selection,
    parts.map(({ source, first, columns }) => ({
      source,
      rows: columns,
      columns: rows,
      offset,
      pitch,
      scaleOffset: scale.firstColumn + first,
    })),
    { binding: scaleRow, byRow: true },
    pruneCount,
    countsPlaced,
  );
  const groups = Math.ceil(rows / ROW_THREADS);
  const placeOf = (first: number, columns: number) => ({
    rows,
    columns,
    offset,
    pitch,
    scale_offset: scale.firstColumn + first,
  });
  for (const { source, first, columns } of parts) {
    dispatcher.dispatch(
      PANEL_TIES,
      [source, scaleRow, selection.state, selection.counts],
      { ...placeOf(first, columns), add: first > 0 ? 1 : 0 },
      groups,
      rows * columns * WORK_PER_ELEMENT,
    );
  }
  dispatcher.dispatch(SELECT_SCAN, [selection.state, selection.counts], { rows }, 1, rows);
  for (const { source, first, columns } of parts) {
    dispatcher.dispatch(
      PANEL_MARK,
      [source, scaleRow, selection.state, selection.counts, bindMask(mask)],
      { ...placeOf(first, columns), words: mask.words, mask_column: maskColumn + first },
      groups,
      rows * columns * WORK_PER_ELEMENT,
    );
  }
}
