/** Cutting an operation by rows, so that every dispatch fits bindings, the grid and the work budget. */
import { maskWordsPerRow } from "../../device.js";
import type { GpuMatrix } from "../buffer.js";
import type { Dispatcher } from "../dispatch.js";

/** Threads of a workgroup of the kernels that give each thread one element or vec4. */
export const THREADS = 64;
/** Work of moving one element in and out, in the unit of the work budget. */
export const WORK_PER_ELEMENT = 32;
/** Threads per dispatch: indexes are u32, and a folded grid stays small. */
const LARGEST_DISPATCH = 2 ** 30;

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

/** Parameters of the kernels that take one vec4 of a masked slab per thread, see shaders/lib/masked_vectors.wgsl. */
export const MASKED_SLAB = {
  vectors: "u32",
  row_pitch: "u32",
  count: "u32",
  first_row: "u32",
  words: "u32",
} as const;

/** What they are for some rows of a matrix. */
export function maskedSlab(
  { columns, pitch }: Pick<GpuMatrix, "columns" | "pitch">,
  firstRow: number,
  rows: number,
): Readonly<Record<keyof typeof MASKED_SLAB, number>> {
  const vectors = Math.ceil(columns / 4);
  return {
    vectors,
    row_pitch: pitch / 4,
    count: rows * vectors,
    first_row: firstRow,
    words: maskWordsPerRow(columns),
  };
}
