/**
 * Steps of the CPU device that follow a mask entry by entry: masked linear combinations, conjugate gradients, mask
 * differences. The first two are staged for WebAssembly kernels, the rest are plain loops over typed arrays.
 */
import { maskWordsPerRow, type Coefficients, type MaskedOperations } from "../device.js";
import { defineKernel, type KernelPool } from "./kernel-pool.js";
import type { CpuMask, CpuMatrix } from "./matrix.js";
import { countBits } from "./panel-mask.js";
import type { WorkQueue } from "./queue.js";

const COMBINE_ROWS = defineKernel("combineRows");
const CONJUGATE_ROWS = defineKernel("conjugateRows");

export function maskedOperations(queue: WorkQueue, pool: KernelPool): MaskedOperations<CpuMatrix, CpuMask> {
  return {
    applyMask({ values, rows, columns }, { values: words }) {
      queue.enqueue(() => applyMask(values, rows, columns, words));
    },
    combine({ a, b, out, mask, kept, pruned }) {
      const combination = combinationOf(a, b, mask, [{ out: out.values, kept, pruned }]);
      queue.enqueue(() => combine(pool, combination));
    },
    combinePair({ a, b, out, mask, toOut, toA }) {
      const targets = [
        { out: out.values, ...toOut },
        { out: a.values, ...toA },
      ] as const;
      const combination = combinationOf(a, b, mask, targets);
      queue.enqueue(() => combine(pool, combination));
    },
    async countDifferences({ values: a }, { values: b }) {
      await queue.synchronize();
      return countDifferences(a, b);
    },
    rowDots({ values: a, rows, columns }, { values: b }, { values: dots }) {
      queue.enqueue(() => rowDots(a, b, rows, columns, dots));
    },
    conjugateStep({ solution, residual, direction, product, keepMask }) {
      const state = {
        solution: solution.values,
        residual: residual.values,
        direction: direction.values,
        product: product.values,
        words: keepMask.values,
        rows: solution.rows,
        columns: solution.columns,
      };
      queue.enqueue(() => conjugateStep(pool, state));
    },
  };
}

interface Combination {
  readonly a: Float32Array;
  readonly b: Float32Array;
  readonly words: Uint32Array;
  readonly rows: number;
  readonly columns: number;
  /** Both are computed from `a` and `b` as they were; targets may be `a` and `b` themselves. */
  readonly targets: readonly [CombinationTarget] | readonly [CombinationTarget, CombinationTarget];
}

interface CombinationTarget {
  readonly out: Float32Array;
  readonly kept: Coefficients;
  readonly pruned: Coefficients;
}

function combinationOf(a: CpuMatrix, b: CpuMatrix, mask: CpuMask, targets: Combination["targets"]): Combination {
  return { a: a.values, b: b.values, words: mask.values, rows: a.rows, columns: a.columns, targets };
}

/** Staged of each matrix at a time: small enough for the second-level cache. */
const CHUNK_BYTES = 1 << 18;

function chunkRows(rows: number, columns: number): number {
  return Math.max(1, Math.min(rows, Math.floor(CHUNK_BYTES / (4 * columns))));
}

/** Pruned entries become +0; bits of kept ones are not touched (no float passes through an operation). */
function applyMask(values: Float32Array, rows: number, columns: number, words: Uint32Array): void {
  const bits = new Int32Array(values.buffer, values.byteOffset, values.length);
  const wordsPerRow = maskWordsPerRow(columns);
  for (let r = 0; r < rows; r++) {
    for (let w = 0; w < wordsPerRow; w++) {
      const word = words[r * wordsPerRow + w];
      const start = r * columns + 32 * w;
      const count = Math.min(32, columns - 32 * w);
      for (let i = 0; i < count; i++) bits[start + i] &= -((word >>> i) & 1);
    }
  }
}

/** out = a·coefficient + b·coefficient, for one or two targets. */
function combine(pool: KernelPool, { a, b, words, rows, columns, targets }: Combination): void {
  const wordsPerRow = maskWordsPerRow(columns);
  const rowsPerChunk = chunkRows(rows, columns);
  pool.reset(0);
  const [stagedA, stagedB] = [pool.allocate(4 * rowsPerChunk * columns), pool.allocate(4 * rowsPerChunk * columns)];
  const stagedWords = pool.allocate(4 * rowsPerChunk * wordsPerRow);
  const [one, two = one] = targets;
  const coefficients = Float32Array.of(
    ...[one.kept[0], one.pruned[0], one.kept[1], one.pruned[1]],
    ...[two.kept[0], two.pruned[0], two.kept[1], two.pruned[1]],
  );
  const args = [stagedA, stagedB, stagedWords, columns, ...new Int32Array(coefficients.buffer), targets.length - 1];
  for (let first = 0; first < rows; first += rowsPerChunk) {
    const count = Math.min(rowsPerChunk, rows - first);
    const [start, end] = [first * columns, (first + count) * columns];
    const [x, y] = [pool.floats(stagedA, count * columns), pool.floats(stagedB, count * columns)];
    x.set(a.subarray(start, end));
    y.set(b.subarray(start, end));
    pool
      .words(stagedWords, count * wordsPerRow)
      .set(words.subarray(first * wordsPerRow, (first + count) * wordsPerRow));
    // On this thread: copying takes longer than computing, and only this thread sees the matrices.
    pool.run({ kernel: COMBINE_ROWS, items: count, grain: count, args });
    one.out.set(x, start);
    if (targets.length === 2) two.out.set(y, start);
  }
}

/** dots[r] = Σ_c a[r, c]·b[r, c], summed in double precision. */
function rowDots(a: Float32Array, b: Float32Array, rows: number, columns: number, dots: Float32Array): void {
  for (let r = 0; r < rows; r++) dots[r] = sumOfProducts(a, b, r * columns, columns);
}

/** Σ a[i]·b[i] over [start, start + count), in four sums side by side: a single one would wait for every addition. */
export function sumOfProducts(a: Float32Array, b: Float32Array, start: number, count: number): number {
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  let i = start;
  const end = start + count;
  for (; i + 4 <= end; i += 4) {
    s0 += a[i] * b[i];
    s1 += a[i + 1] * b[i + 1];
    s2 += a[i + 2] * b[i + 2];
    s3 += a[i + 3] * b[i + 3];
  }
  for (; i < end; i++) s0 += a[i] * b[i];
  return s0 + s1 + (s2 + s3);
}

interface ConjugateArrays {
  readonly solution: Float32Array;
  readonly residual: Float32Array;
  readonly direction: Float32Array;
  readonly product: Float32Array;
  readonly words: Uint32Array;
  readonly rows: number;
  readonly columns: number;
}

/** One step of conjugate gradients in every row; see `Device.conjugateStep`. */
function conjugateStep(pool: KernelPool, state: ConjugateArrays): void {
  const { solution, residual, direction, product, words, rows, columns } = state;
  const wordsPerRow = maskWordsPerRow(columns);
  const rowsPerChunk = chunkRows(rows, columns);
  pool.reset(0);
  const matrices = [solution, residual, direction, product].map((values) => ({
    values,
    address: pool.allocate(4 * rowsPerChunk * columns),
  }));
  const stagedWords = pool.allocate(4 * rowsPerChunk * wordsPerRow);
  const args = [...matrices.map(({ address }) => address), stagedWords, columns];
  for (let first = 0; first < rows; first += rowsPerChunk) {
    const count = Math.min(rowsPerChunk, rows - first);
    const [start, end] = [first * columns, (first + count) * columns];
    for (const { values, address } of matrices) pool.floats(address, count * columns).set(values.subarray(start, end));
    pool
      .words(stagedWords, count * wordsPerRow)
      .set(words.subarray(first * wordsPerRow, (first + count) * wordsPerRow));
    pool.run({ kernel: CONJUGATE_ROWS, items: count, grain: Math.ceil(count / 4), args });
    for (const { values, address } of matrices.slice(0, 3)) values.set(pool.floats(address, count * columns), start);
  }
}

/** Bits in which two masks differ. */
function countDifferences(a: Uint32Array, b: Uint32Array): number {
  let total = 0;
  for (let i = 0; i < a.length; i++) total += countBits(a[i] ^ b[i]);
  return total;
}
