/** Steps that follow a mask entry by entry, and row sums: host side. Everything is cut by rows to fit bindings. */
import {
  type CombineOptions,
  type CombinePairOptions,
  type ConjugateState,
  type MaskedOperations,
} from "../../device.js";
import type { Binding, GpuMask, GpuMatrix } from "../buffer.js";
import { bindMask, bindRows } from "../buffer.js";
import type { Dispatcher } from "../dispatch.js";
import { defineKernel } from "../kernel.js";
import { forRowSlabs, MASKED_SLAB, maskedSlab, THREADS, WORK_PER_ELEMENT } from "./row-slabs.js";

const GRID = "lib/linear_workgroup.wgsl";
const MASKED = "lib/masked_vectors.wgsl";
const SUM = "lib/workgroup_sum.wgsl";
/** Workgroups of `mask_differences`: enough to fill a GPU; each thread takes every so manieth word. */
const LARGEST_DIFFERENCES_GRID = 256;

const MASK_APPLY = defineKernel({
  name: "mask_apply",
  files: [GRID, MASKED, "mask_apply.wgsl"],
  bindings: ["read", "read_write"],
  params: MASKED_SLAB,
  constantSets: [{}],
});

const COMBINE = defineKernel({
  name: "combine",
  files: [GRID, MASKED, "combine.wgsl"],
  bindings: ["read", "read", "read", "read_write"],
  params: {
    ...MASKED_SLAB,
    kept_a: "f32",
    kept_b: "f32",
    pruned_a: "f32",
    pruned_b: "f32",
  },
  constantSets: [{}],
});
const COMBINE_IN_PLACE = defineKernel({
  name: "combine_in_place",
  files: [GRID, MASKED, "combine_in_place.wgsl"],
  bindings: ["read", "read", "read_write"],
  params: {
    ...MASKED_SLAB,
    kept_out: "f32",
    kept_x: "f32",
    pruned_out: "f32",
    pruned_x: "f32",
  },
  constantSets: [{}],
});
const COMBINE_PAIR = defineKernel({
  name: "combine_pair",
  files: [GRID, MASKED, "combine_pair.wgsl"],
  bindings: ["read", "read", "read_write", "read_write"],
  params: {
    ...MASKED_SLAB,
    out_kept_a: "f32",
    out_kept_b: "f32",
    out_pruned_a: "f32",
    out_pruned_b: "f32",
    a_kept_a: "f32",
    a_kept_b: "f32",
    a_pruned_a: "f32",
    a_pruned_b: "f32",
  },
  constantSets: [{}],
});
const ROW_DOTS = defineKernel({
  name: "row_dots",
  files: [GRID, SUM, "row_dots.wgsl"],
  bindings: ["read", "read", "read_write"],
  params: { rows: "u32", columns: "u32", pitch: "u32", first_row: "u32" },
  constantSets: [{}],
});
const CONJUGATE_STEP = defineKernel({
  name: "conjugate_step",
  files: [GRID, SUM, "conjugate_step.wgsl"],
  bindings: ["read", "read", "read_write", "read_write", "read_write"],
  params: { rows: "u32", columns: "u32", pitch: "u32", first_row: "u32", words: "u32" },
  constantSets: [{}],
});
const MASK_DIFFERENCES = defineKernel({
  name: "mask_differences",
  files: [GRID, "mask_differences.wgsl"],
  bindings: ["read", "read", "read_write"],
  params: { count: "u32", threads: "u32" },
  constantSets: [{}],
});

export function maskedOperations(dispatcher: Dispatcher): MaskedOperations<GpuMatrix, GpuMask> {
  return {
    applyMask: (matrix, mask) => encodeApplyMask(dispatcher, matrix, mask),
    combine: (options) => encodeCombine(dispatcher, options),
    combinePair: (options) => encodeCombinePair(dispatcher, options),
    async countDifferences(a, b) {
      if (a === b) return 0;
      const total = dispatcher.createBuffer(4, "mask differences", "mask differences");
      const words = new Uint32Array(1);
      try {
        encodeMaskDifferences(dispatcher, a, b, { buffer: total, offset: 0, size: total.size });
        await dispatcher.read(total, 0, 4, 4, (piece) => words.set(new Uint32Array(piece)));
      } finally {
        dispatcher.release(total);
      }
      return words[0];
    },
    rowDots: (a, b, dots) => encodeRowDots(dispatcher, a, b, bindRows(dots, 0, 1)),
    conjugateStep: (state) => encodeConjugateStep(dispatcher, state),
  };
}

function encodeApplyMask(dispatcher: Dispatcher, matrix: GpuMatrix, mask: GpuMask): void {
  forRowSlabs(dispatcher, matrix.rows, matrix.pitch, (first, rows) => {
    const place = maskedSlab(matrix, first, rows);
    dispatcher.dispatch(
      MASK_APPLY,
      [bindMask(mask), bindRows(matrix, first, rows)],
      place,
      Math.ceil(place.count / THREADS),
      place.count * 4 * WORK_PER_ELEMENT,
    );
  });
}

/** out = a·coefficient + b·coefficient; `out` may be `a` or `b`. */
function encodeCombine(
  dispatcher: Dispatcher,
  { a, b, out, mask, kept, pruned }: CombineOptions<GpuMatrix, GpuMask>,
): void {
  if (b === out) {
    encodeCombine(dispatcher, { a: b, b: a, out, mask, kept: [kept[1], kept[0]], pruned: [pruned[1], pruned[0]] });
    return;
  }
  forRowSlabs(dispatcher, out.rows, out.pitch, (first, rows) => {
    const place = maskedSlab(out, first, rows);
    const groups = Math.ceil(place.count / THREADS);
    const work = place.count * 4 * WORK_PER_ELEMENT;
    const [bits, second, target] = [bindMask(mask), bindRows(b, first, rows), bindRows(out, first, rows)];
    if (a === out) {
      const coefficients = { kept_out: kept[0], kept_x: kept[1], pruned_out: pruned[0], pruned_x: pruned[1] };
      dispatcher.dispatch(COMBINE_IN_PLACE, [bits, second, target], { ...place, ...coefficients }, groups, work);
      return;
    }
    const coefficients = { kept_a: kept[0], kept_b: kept[1], pruned_a: pruned[0], pruned_b: pruned[1] };
    const bindings = [bits, bindRows(a, first, rows), second, target];
    dispatcher.dispatch(COMBINE, bindings, { ...place, ...coefficients }, groups, work);
  });
}

/** Two combinations of the same matrices; the second replaces `a`. */
function encodeCombinePair(
  dispatcher: Dispatcher,
  { a, b, out, mask, toOut, toA }: CombinePairOptions<GpuMatrix, GpuMask>,
): void {
  forRowSlabs(dispatcher, out.rows, out.pitch, (first, rows) => {
    const place = maskedSlab(out, first, rows);
    dispatcher.dispatch(
      COMBINE_PAIR,
      [bindMask(mask), bindRows(b, first, rows), bindRows(a, first, rows), bindRows(out, first, rows)],
      {
        ...place,
        out_kept_a: toOut.kept[0],
        out_kept_b: toOut.kept[1],
        out_pruned_a: toOut.pruned[0],
        out_pruned_b: toOut.pruned[1],
        a_kept_a: toA.kept[0],
        a_kept_b: toA.kept[1],
        a_pruned_a: toA.pruned[0],
        a_pruned_b: toA.pruned[1],
      },
      Math.ceil(place.count / THREADS),
      place.count * 8 * WORK_PER_ELEMENT,
    );
  });
}

/** dots[r] = Σ_c a[r, c]·b[r, c]. */
export function encodeRowDots(dispatcher: Dispatcher, a: GpuMatrix, b: GpuMatrix, dots: Binding): void {
  forRowSlabs(dispatcher, a.rows, a.pitch, (first, rows) => {
    dispatcher.dispatch(
      ROW_DOTS,
      [bindRows(a, first, rows), bindRows(b, first, rows), dots],
      { rows, columns: a.columns, pitch: a.pitch, first_row: first },
      rows,
      rows * a.columns * WORK_PER_ELEMENT,
    );
  });
}

/** One step of conjugate gradients in every row. */
function encodeConjugateStep(dispatcher: Dispatcher, state: ConjugateState<GpuMatrix, GpuMask>): void {
  const { solution, residual, direction, product, keepMask: mask } = state;
  const { columns, pitch } = solution;
  forRowSlabs(dispatcher, solution.rows, pitch, (first, rows) => {
    dispatcher.dispatch(
      CONJUGATE_STEP,
      [bindMask(mask), ...[product, solution, residual, direction].map((matrix) => bindRows(matrix, first, rows))],
      { rows, columns, pitch, first_row: first, words: mask.words },
      rows,
      3 * rows * columns * WORK_PER_ELEMENT,
    );
  });
}

/** Adds the number of differing bits to `total`. */
function encodeMaskDifferences(dispatcher: Dispatcher, a: GpuMask, b: GpuMask, total: Binding): void {
  const count = a.rows * a.words;
  const groups = Math.min(LARGEST_DIFFERENCES_GRID, Math.ceil(count / THREADS));
  dispatcher.dispatch(
    MASK_DIFFERENCES,
    [bindMask(a), bindMask(b), total],
    { count, threads: groups * THREADS },
    groups,
    count * WORK_PER_ELEMENT,
  );
}
