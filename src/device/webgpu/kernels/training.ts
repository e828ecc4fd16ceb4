/** Steps of training: host side. Everything is cut by rows to fit bindings; sums are of whole rows, so cuts never change one. */
import { adamConstants } from "../../adam.js";
import {
  type AdamOptions,
  type DualStepOptions,
  type DualStepSums,
  type ScoreOptions,
  type TrainingOperations,
} from "../../device.js";
import type { Binding, GpuMask, GpuMatrix } from "../buffer.js";
import { bindMask, bindRows } from "../buffer.js";
import type { Dispatcher } from "../dispatch.js";
import { defineKernel } from "../kernel.js";
import { encodeRowDots } from "./masked.js";
import { forRowSlabs, MASKED_SLAB, maskedSlab, THREADS, WORK_PER_ELEMENT } from "./row-slabs.js";

const GRID = "lib/linear_workgroup.wgsl";
const MASKED = "lib/masked_vectors.wgsl";

const ADAM_STEP = defineKernel({
  name: "adam_step",
  files: [GRID, MASKED, "adam_step.wgsl"],
  bindings: ["read", "read", "read", "read", "read_write", "read_write", "read_write"],
  params: {
    ...MASKED_SLAB,
    gradient_scale: "f32",
    strength: "f32",
    keep_first: "f32",
    add_first: "f32",
    keep_second: "f32",
    add_second: "f32",
    step_size: "f32",
    root_scale: "f32",
    epsilon: "f32",
  },
  constantSets: [
    { PULL: 0, MASK: 0 },
    { PULL: 0, MASK: 1 },
    { PULL: 1, MASK: 0 },
    { PULL: 1, MASK: 1 },
  ],
});
const PROJECTION_SCORES = defineKernel({
  name: "projection_scores",
  files: [GRID, "projection_scores.wgsl"],
  bindings: ["read", "read", "read", "read_write"],
  params: { count: "u32" },
  constantSets: [
    { DUAL: 0, SECOND: 0 },
    { DUAL: 0, SECOND: 1 },
    { DUAL: 1, SECOND: 0 },
    { DUAL: 1, SECOND: 1 },
  ],
});
const DUAL_STEP = defineKernel({
  name: "dual_step",
  files: [GRID, "dual_step.wgsl"],
  bindings: ["read", "read", "read_write", "read_write", "read_write"],
  params: { rows: "u32", columns: "u32", row_pitch: "u32", first_row: "u32", words: "u32" },
  constantSets: [{}],
});

export function trainingOperations(dispatcher: Dispatcher): TrainingOperations<GpuMatrix, GpuMask> {
  return {
    adamStep: (options) => encodeAdamStep(dispatcher, options),
    async sumOfSquares(matrix) {
      const encode = (dots: Binding): void => encodeRowDots(dispatcher, matrix, matrix, dots);
      const [sum] = await totalsOfRows(dispatcher, matrix.rows, 1, encode);
      return sum;
    },
    projectionScores: (options) => encodeProjectionScores(dispatcher, options),
    async dualStep(options): Promise<DualStepSums> {
      const encode = (sums: Binding): void => encodeDualStep(dispatcher, options, sums);
      const [primal, change, values, split] = await totalsOfRows(dispatcher, options.values.rows, 4, encode);
      return { primal, change, values, split };
    },
  };
}

/** Adds up, in f64 and in their order, the `perRow` sums that `encode` leaves for every row. */
async function totalsOfRows(
  dispatcher: Dispatcher,
  rows: number,
  perRow: number,
  encode: (sums: Binding) => void,
): Promise<readonly number[]> {
  const rowBytes = 4 * perRow;
  // Not scratch memory: another call may be encoded before this one is read.
  const buffer = dispatcher.createBuffer(rows * rowBytes, "row sums", `sums of ${rows} rows`);
  const totals = Array.from({ length: perRow }, () => 0);
  try {
    encode({ buffer, offset: 0, size: buffer.size });
    await dispatcher.read(buffer, 0, rows * rowBytes, rowBytes, (piece) => {
      new Float32Array(piece).forEach((sum, i) => (totals[i % perRow] += sum));
    });
  } finally {
    dispatcher.release(buffer);
  }
  return totals;
}

function encodeAdamStep(dispatcher: Dispatcher, options: AdamOptions<GpuMatrix, GpuMask>): void {
  const { values, gradient, first, second, mask } = options;
  const scalars = adamConstants(options);
  const pull = scalars.strength === 0 ? undefined : options.pull;
  const constants = { PULL: Number(pull !== undefined), MASK: Number(mask !== undefined) };
  forRowSlabs(dispatcher, values.rows, values.pitch, (firstRow, rows) => {
    const place = maskedSlab(values, firstRow, rows);
    const slab = (matrix: GpuMatrix): Binding => bindRows(matrix, firstRow, rows);
    // What is not read still needs a binding: the gradient, which is read in any case, may be bound more than once.
    const [split, dual] = [pull?.split ?? gradient, pull?.dual ?? gradient];
    dispatcher.dispatch(
      ADAM_STEP,
      [
        mask === undefined ? slab(gradient) : bindMask(mask),
        ...[gradient, split, dual, values, first, second].map(slab),
      ],
      {
        ...place,
        gradient_scale: scalars.gradientScale,
        strength: scalars.strength,
        keep_first: scalars.keepFirst,
        add_first: scalars.addFirst,
        keep_second: scalars.keepSecond,
        add_second: scalars.addSecond,
        step_size: scalars.stepSize,
        root_scale: scalars.rootScale,
        epsilon: scalars.epsilon,
      },
      Math.ceil(place.count / THREADS),
      place.count * 16 * WORK_PER_ELEMENT,
      constants,
    );
  });
}

function encodeProjectionScores(dispatcher: Dispatcher, { values, dual, second, out }: ScoreOptions<GpuMatrix>): void {
  const constants = { DUAL: Number(dual !== undefined), SECOND: Number(second !== undefined) };
  forRowSlabs(dispatcher, values.rows, values.pitch, (firstRow, rows) => {
    const count = (rows * values.pitch) / 4;
    dispatcher.dispatch(
      PROJECTION_SCORES,
      [values, dual ?? values, second ?? values, out].map((matrix) => bindRows(matrix, firstRow, rows)),
      { count },
      Math.ceil(count / THREADS),
      count * 8 * WORK_PER_ELEMENT,
      constants,
    );
  });
}

function encodeDualStep(
  dispatcher: Dispatcher,
  { values, split, dual, mask }: DualStepOptions<GpuMatrix, GpuMask>,
  sums: Binding,
): void {
  const { columns, pitch } = values;
  forRowSlabs(dispatcher, values.rows, pitch, (firstRow, rows) => {
    dispatcher.dispatch(
      DUAL_STEP,
      [bindMask(mask), ...[values, split, dual].map((matrix) => bindRows(matrix, firstRow, rows)), sums],
      { rows, columns, row_pitch: pitch / 4, first_row: firstRow, words: mask.words },
      rows,
      3 * rows * columns * WORK_PER_ELEMENT,
    );
  });
}
