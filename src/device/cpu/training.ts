/**
 * Steps of training on the CPU device, one pass over memory each: chunks of rows are staged for WebAssembly kernels and
 * worked on by the pool's threads. Sums are taken in f64, row by row.
 */
import { adamConstants } from "../adam.js";
import { maskWordsPerRow, type DualStepSums, type TrainingOperations } from "../device.js";
import { defineKernel, type KernelName, type KernelPool } from "./kernel-pool.js";
import { sumOfProducts } from "./masked.js";
import type { CpuMask, CpuMatrix } from "./matrix.js";
import type { WorkQueue } from "./queue.js";

const ADAM_ROWS = defineKernel("adamRows");
const SCORE_ROWS = defineKernel("scoreRows");
const DUAL_ROWS = defineKernel("dualRows");

export function trainingOperations(queue: WorkQueue, pool: KernelPool): TrainingOperations<CpuMatrix, CpuMask> {
  return {
    adamStep(options) {
      const { values: x, gradient, first, second, mask } = options;
      const scalars = adamConstants(options);
      const pull = scalars.strength === 0 ? undefined : options.pull;
      const step: RowPass = {
        kernel: ADAM_ROWS,
        rows: x.rows,
        columns: x.columns,
        updated: [x.values, first.values, second.values],
        read: [gradient.values, pull?.split.values, pull?.dual.values],
        words: mask === undefined ? "none" : mask.values,
        scalars: [
          scalars.gradientScale,
          scalars.strength,
          scalars.keepFirst,
          scalars.addFirst,
          scalars.keepSecond,
          scalars.addSecond,
          scalars.stepSize,
          scalars.rootScale,
          scalars.epsilon,
        ],
      };
      queue.enqueue(() => runOverRows(pool, step));
    },
    sumOfSquares: ({ values, rows, columns }) => queue.resultOf(() => sumOfSquares(values, rows, columns)),
    projectionScores({ values: x, dual, second, out }) {
      const { rows, columns } = x;
      const read = [x.values, dual?.values, second?.values];
      const pass: RowPass = { kernel: SCORE_ROWS, rows, columns, written: out.values, updated: [], read };
      queue.enqueue(() => runOverRows(pool, pass));
    },
    dualStep({ values: x, split, dual, mask }) {
      const { rows, columns } = x;
      const updated = [split.values, dual.values];
      const pass = { kernel: DUAL_ROWS, rows, columns, updated, read: [x.values], words: mask.values };
      return queue.resultOf(() => dualStep(pool, pass));
    },
  };
}

/** A kernel over the rows of matrices of one shape. Its arguments are in the order of these members. */
interface RowPass {
  readonly kernel: KernelName;
  readonly rows: number;
  readonly columns: number;
  /** Not staged, only copied out. */
  readonly written?: Float32Array;
  /** Copied in and out. */
  readonly updated: readonly Float32Array[];
  /** Copied in; absent ones have address 0. */
  readonly read: readonly (Float32Array | undefined)[];
  /** Words of a mask; "none" where the kernel takes one and there is none. */
  readonly words?: Uint32Array | "none";
  /** f32 */
  readonly scalars?: readonly number[];
  /** f64 that the kernel writes for every row, given after each chunk in the order of rows. */
  readonly sums?: { readonly perRow: number; readonly take: (sums: Float64Array) => void };
}

/**
 * Staged of all matrices at a time. Larger than the second-level cache on purpose: with 128 KiB steps took 1.2 to 1.6 times
 * as long on two busy cores, since waking threads costs as much as so little work.
 */
const CHUNK_BYTES = 1 << 21;

function runOverRows(pool: KernelPool, pass: RowPass): void {
  const { rows, columns, written, updated, read, words, scalars = [], sums } = pass;
  const staged = [written, ...updated, ...read].filter((values) => values !== undefined).length;
  const rowsPerChunk = Math.max(1, Math.min(rows, Math.floor(CHUNK_BYTES / (4 * staged * columns))));
  const wordsPerRow = maskWordsPerRow(columns);
  pool.reset(0);
  const place = (): number => pool.allocate(4 * rowsPerChunk * columns);
  const out = written === undefined ? [] : [{ values: written, address: place() }];
  const changing = updated.map((values) => ({ values, address: place() }));
  const reading = read.map((values) => ({ values, address: values === undefined ? 0 : place() }));
  const bits = words === undefined || words === "none" ? 0 : pool.allocate(4 * rowsPerChunk * wordsPerRow);
  const totals = sums === undefined ? 0 : pool.allocate(8 * rowsPerChunk * sums.perRow);
  const args = [
    ...[...out, ...changing, ...reading].map(({ address }) => address),
    ...(words === undefined ? [] : [bits]),
    columns,
    ...new Uint32Array(Float32Array.from(scalars).buffer),
    ...(sums === undefined ? [] : [totals]),
  ];
  for (let first = 0; first < rows; first += rowsPerChunk) {
    const count = Math.min(rowsPerChunk, rows - first);
    const [start, end] = [first * columns, (first + count) * columns];
    for (const { values, address } of [...changing, ...reading]) {
      if (values !== undefined) pool.floats(address, count * columns).set(values.subarray(start, end));
    }
    if (words instanceof Uint32Array) {
      const some = words.subarray(first * wordsPerRow, (first + count) * wordsPerRow);
      pool.words(bits, some.length).set(some);
    }
    pool.run({ kernel: pass.kernel, items: count, grain: Math.ceil(count / 4), args });
    for (const { values, address } of [...out, ...changing]) values.set(pool.floats(address, count * columns), start);
    if (sums !== undefined) sums.take(pool.doubles(totals, count * sums.perRow));
  }
}

function sumOfSquares(values: Float32Array, rows: number, columns: number): number {
  let sum = 0;
  for (let r = 0; r < rows; r++) sum += sumOfProducts(values, values, r * columns, columns);
  return sum;
}

function dualStep(pool: KernelPool, pass: RowPass): DualStepSums {
  const totals = [0, 0, 0, 0];
  const take = (sums: Float64Array): void => {
    for (let i = 0; i < sums.length; i++) totals[i & 3] += sums[i];
  };
  runOverRows(pool, { ...pass, sums: { perRow: 4, take } });
  const [primal, change, values, split] = totals;
  return { primal, change, values, split };
}
