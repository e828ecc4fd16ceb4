/** Sums over tokens: host side. Cut at fixed numbers of tokens, so that a sum does not depend on the adapter. */
import type { StatisticsOperations } from "../../device.js";
import type { GpuMatrix, GpuView } from "../buffer.js";
import { bindRows, bindView, subRows } from "../buffer.js";
import type { Dispatcher } from "../dispatch.js";
import { defineKernel } from "../kernel.js";
import { encodeGram } from "./products.js";
import { THREADS, WORK_PER_ELEMENT } from "./row-slabs.js";

const GRID = "lib/linear_workgroup.wgsl";
const SQUARE_SUM_CHUNK = 256;

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
export function statisticsOperations(dispatcher: Dispatcher): StatisticsOperations<GpuMatrix, GpuView> {
  return {
    accumulateGram: (x, gram) => encodeGram(dispatcher, x, gram),
    accumulateSquareSums: (x, sums) => encodeSquareSums(dispatcher, x, sums),
  };
}

/** sums[0, c] += Σ_r x[r, c]². */
function encodeSquareSums(dispatcher: Dispatcher, x: GpuView, sums: GpuMatrix): void {
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
