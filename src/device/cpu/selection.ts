/**
 * Selections of the CPU device: rows are staged in chunks, kernels find thresholds and write mask words.
 * Scores become integer keys (assembly/keys.ts); a threshold key plus a number of equal keys to prune is exact.
 */
import { maskWordsPerRow } from "../device.js";
import type { KernelName, KernelPool } from "./kernel-pool.js";
import type { BorrowedMask, BorrowedMatrix, Rectangle } from "./matrix.js";
import { writePanelMask } from "./panel-mask.js";

/** Staged at a time: large enough to hide a dispatch, small enough for the second-level cache of two cores. */
const CHUNK_BYTES = 1 << 20;
const HISTOGRAM_BINS = 2048;
const HISTOGRAM_BYTES = 4 * HISTOGRAM_BINS;

/** The 31 bits of a key, from the top, in three digits. */
const DIGITS = [
  { shift: 20, bits: 11 },
  { shift: 9, bits: 11 },
  { shift: 0, bits: 9 },
] as const;

interface Staging {
  readonly weights: number;
  readonly scales: number;
  readonly words: number;
  readonly rowsPerChunk: number;
}

/** Call `work` for consecutive ranges of rows whose weights lie in the arena. */
function forRowChunks(
  pool: KernelPool,
  weight: BorrowedMatrix,
  staging: Staging,
  work: (firstRow: number, rows: number) => void,
): void {
  const { rows, columns, values } = weight;
  for (let firstRow = 0; firstRow < rows; firstRow += staging.rowsPerChunk) {
    const count = Math.min(staging.rowsPerChunk, rows - firstRow);
    const chunk = values.subarray(firstRow * columns, (firstRow + count) * columns);
    pool.floats(staging.weights, chunk.length).set(chunk);
    work(firstRow, count);
  }
}

function stage(pool: KernelPool, weight: BorrowedMatrix, scale: Float32Array): Staging {
  const wordsPerRow = maskWordsPerRow(weight.columns);
  // scratch: a histogram, then keys and candidates in whole mask words
  pool.reset(HISTOGRAM_BYTES + 2 * 128 * wordsPerRow);
  const rowsPerChunk = Math.max(1, Math.min(weight.rows, Math.floor(CHUNK_BYTES / (4 * weight.columns))));
  const scales = pool.allocate(4 * weight.columns);
  pool.floats(scales, weight.columns).set(scale);
  const weights = pool.allocate(4 * rowsPerChunk * weight.columns);
  return { scales, weights, words: pool.allocate(4 * rowsPerChunk * wordsPerRow), rowsPerChunk };
}

/** Rows of one grain: some 10 microseconds of work. */
function rowGrain(columns: number): number {
  return Math.max(1, Math.ceil(4096 / columns));
}

function copyWords(pool: KernelPool, staging: Staging, mask: BorrowedMask, firstRow: number, rows: number): void {
  const wordsPerRow = maskWordsPerRow(mask.columns);
  const from = new Uint32Array(pool.words(staging.words, rows * wordsPerRow).buffer, staging.words, rows * wordsPerRow);
  mask.values.set(from, firstRow * wordsPerRow);
}

/** All weights kept. */
function keepAll(mask: BorrowedMask): void {
  const wordsPerRow = maskWordsPerRow(mask.columns);
  mask.values.fill(0xffffffff);
  const spare = mask.columns & 31;
  if (spare === 0) return;
  for (let r = 1; r <= mask.rows; r++) mask.values[r * wordsPerRow - 1] = (1 << spare) - 1;
}

export function selectRows(
  pool: KernelPool,
  weight: BorrowedMatrix,
  scale: Float32Array,
  pruneCount: number,
  mask: BorrowedMask,
): void {
  if (pruneCount === 0) return keepAll(mask);
  const { columns } = weight;
  const staging = stage(pool, weight, scale);
  forRowChunks(pool, weight, staging, (firstRow, rows) => {
    const args = [staging.weights, staging.scales, staging.words, columns, pruneCount];
    pool.run({ kernel: "selectRows", items: rows, grain: rowGrain(columns), args });
    copyWords(pool, staging, mask, firstRow, rows);
  });
}

export function selectGroups(
  pool: KernelPool,
  weight: BorrowedMatrix,
  scale: Float32Array,
  pattern: { readonly keep: number; readonly group: number },
  mask: BorrowedMask,
): void {
  const { columns } = weight;
  const staging = stage(pool, weight, scale);
  forRowChunks(pool, weight, staging, (firstRow, rows) => {
    const args = [staging.weights, staging.scales, staging.words, columns, pattern.keep, pattern.group];
    pool.run({ kernel: "selectGroups", items: rows, grain: rowGrain(columns), args });
    copyWords(pool, staging, mask, firstRow, rows);
  });
}

/** The key of rank pruneCount - 1 and what to do with its equals. */
interface Threshold {
  readonly key: number;
  /** Keys equal to it. */
  readonly ties: number;
  /** How many of them, in index order, are pruned. */
  readonly tiesToPrune: number;
}

/**
 * Three histograms, each over the keys that agree with the digits found so far. `count` fills the threads' histograms
 * for one pass and is given prefixShift, prefix, digitShift, digitMask.
 */
function findThreshold(pool: KernelPool, pruneCount: number, count: (digit: readonly number[]) => void): Threshold {
  let rank = pruneCount - 1;
  let prefix = 0;
  let prefixShift = 31;
  let ties = 0;
  for (const { shift, bits } of DIGITS) {
    for (let t = 0; t < pool.threads; t++) pool.words(pool.scratchOf(t), HISTOGRAM_BINS).fill(0);
    count([prefixShift, prefix, shift, 2 ** bits - 1]);
    const total = pool.words(pool.scratchOf(0), HISTOGRAM_BINS);
    for (let t = 1; t < pool.threads; t++) {
      const part = pool.words(pool.scratchOf(t), HISTOGRAM_BINS);
      for (let bin = 0; bin < HISTOGRAM_BINS; bin++) total[bin] += part[bin];
    }
    let bin = 0;
    while (rank >= total[bin]) rank -= total[bin++];
    ties = total[bin];
    prefix = prefix * 2 ** bits + bin;
    prefixShift = shift;
  }
  return { key: prefix, ties, tiesToPrune: rank + 1 };
}

/** Ties of each row to prune, given the number of ties in each: the first `tiesToPrune` in row order. */
function distributeTies(counts: Int32Array, tiesToPrune: number): void {
  let left = tiesToPrune;
  for (let r = 0; r < counts.length; r++) {
    counts[r] = Math.min(counts[r], left);
    left -= counts[r];
  }
}

export function selectMatrix(
  pool: KernelPool,
  weight: BorrowedMatrix,
  scale: Float32Array,
  pruneCount: number,
  mask: BorrowedMask,
): void {
  if (pruneCount === 0) return keepAll(mask);
  const { rows, columns } = weight;
  const staging = stage(pool, weight, scale);
  const ties = pool.allocate(4 * rows);
  const source = [staging.weights, staging.scales, columns];
  const pass = (
    kernel: KernelName,
    args: (firstRow: number) => readonly number[],
    done?: (firstRow: number, rows: number) => void,
  ): void =>
    forRowChunks(pool, weight, staging, (firstRow, count) => {
      pool.run({ kernel, items: count, grain: rowGrain(columns), args: [...source, ...args(firstRow)] });
      done?.(firstRow, count);
    });
  const threshold = findThreshold(pool, pruneCount, (digit) => pass("histogramRows", () => digit));
  if (threshold.tiesToPrune < threshold.ties) {
    pass("countTiesRows", (firstRow) => [threshold.key, ties + 4 * firstRow]);
    distributeTies(pool.words(ties, rows), threshold.tiesToPrune);
  } else {
    pool.words(ties, rows).fill(columns); // all of them
  }
  pass(
    "markRows",
    (firstRow) => [threshold.key, ties + 4 * firstRow, staging.words],
    (firstRow, count) => copyWords(pool, staging, mask, firstRow, count),
  );
}

/** Copy a panel [columns, rows] into the arena with rows padded to a multiple of 16; the padding is not initialised. */
export function stagePanel(
  pool: KernelPool,
  panel: Rectangle,
): { readonly address: number; readonly paddedRows: number } {
  const paddedRows = Math.ceil(panel.columns / 16) * 16;
  const address = pool.allocate(4 * paddedRows * panel.rows);
  const target = pool.floats(address, paddedRows * panel.rows);
  for (let c = 0; c < panel.rows; c++) {
    const start = panel.offset + c * panel.stride;
    target.set(panel.values.subarray(start, start + panel.columns), c * paddedRows);
  }
  return { address, paddedRows };
}

export function selectPanel(
  pool: KernelPool,
  panel: Rectangle,
  scale: Float32Array,
  pruneCount: number,
  mask: BorrowedMask,
  maskColumn: number,
): void {
  const columns = panel.rows; // the panel lies transposed
  const rows = panel.columns;
  pool.reset(HISTOGRAM_BYTES);
  const { address, paddedRows } = stagePanel(pool, panel);
  const scales = pool.allocate(4 * columns);
  pool.floats(scales, columns).set(scale);
  const wordCount = maskWordsPerRow(columns) * paddedRows;
  const words = pool.allocate(4 * wordCount);
  const columnGrain = Math.max(1, Math.ceil(8192 / rows));
  if (pruneCount === 0) {
    pool.words(words, wordCount).fill(-1);
  } else {
    pool.run({ kernel: "panelKeys", items: columns, grain: columnGrain, args: [address, scales, paddedRows] });
    const threshold = findThreshold(pool, pruneCount, (digit) =>
      pool.run({
        kernel: "histogramKeys",
        items: columns,
        grain: columnGrain,
        args: [address, paddedRows, rows, ...digit],
      }),
    );
    markPanel(pool, { address, paddedRows, rows, columns, words }, threshold);
  }
  writePanelMask(mask, maskColumn, { first: 0, end: columns }, pool.words(words, wordCount), paddedRows);
}

interface StagedPanel {
  readonly address: number;
  readonly paddedRows: number;
  readonly rows: number;
  readonly columns: number;
  readonly words: number;
}

function markPanel(pool: KernelPool, staged: StagedPanel, threshold: Threshold): void {
  const { address, paddedRows, rows, columns, words } = staged;
  const blocks = paddedRows / 16;
  const grain = Math.max(1, Math.ceil(512 / columns));
  const source = [address, paddedRows, columns, threshold.key];
  pool.run({ kernel: "markPanel", items: blocks, grain, args: [...source, words] });
  if (threshold.tiesToPrune === threshold.ties) return;
  const ties = pool.allocate(4 * paddedRows);
  pool.run({ kernel: "countTiesPanel", items: blocks, grain, args: [...source, ties] });
  distributeTies(pool.words(ties, rows), threshold.tiesToPrune); // lower row first, then lower column
  pool.run({ kernel: "markPanelTies", items: blocks, grain, args: [...source, words, ties] });
}
