/**
 * Selections of the CPU device: rows are staged in chunks, kernels find thresholds and write mask words.
 * Scores become integer keys (assembly/keys.ts); a threshold key plus a number of equal keys to prune is exact.
 */
import { maskWordsPerRow, type ResolvedView, type SelectionOperations } from "../device.js";
import { defineKernel, type KernelName, type KernelPool } from "./kernel-pool.js";
import {
  compactValues,
  rectangleOf,
  type BorrowedMask,
  type BorrowedMatrix,
  type CpuMask,
  type CpuMatrix,
  type Rectangle,
} from "./matrix.js";
import { countPruned, writePanelMask } from "./panel-mask.js";
import type { WorkQueue } from "./queue.js";

const SELECT_ROWS = defineKernel("selectRows");
const SELECT_GROUPS = defineKernel("selectGroups");
const BRACKET_ROWS = defineKernel("bracketRows");
const HISTOGRAM_ROWS = defineKernel("histogramRows");
const COUNT_TIES_ROWS = defineKernel("countTiesRows");
const MARK_ROWS = defineKernel("markRows");
const PANEL_KEYS = defineKernel("panelKeys");
const HISTOGRAM_KEYS = defineKernel("histogramKeys");
const COUNT_TIES_PANEL = defineKernel("countTiesPanel");
const MARK_PANEL = defineKernel("markPanel");
const MARK_PANEL_TIES = defineKernel("markPanelTies");

export function selectionOperations(
  queue: WorkQueue,
  pool: KernelPool,
): SelectionOperations<CpuMatrix, ResolvedView<CpuMatrix>, CpuMask> {
  return {
    selectRows(weight, { values: scale }, pruneCount, mask) {
      const [source, target] = [weight.borrow(), mask.borrow()];
      queue.enqueue(() => selectRows(pool, source, scale, pruneCount, target));
    },
    selectMatrix(weight, { values: scale }, pruneCount, mask) {
      const [source, target] = [weight.borrow(), mask.borrow()];
      queue.enqueue(() => selectMatrix(pool, source, scale, pruneCount, target));
    },
    selectGroups(weight, { values: scale }, keep, group, mask) {
      const [source, target] = [weight.borrow(), mask.borrow()];
      queue.enqueue(() => selectGroups(pool, source, scale, { keep, group }, target));
    },
    selectPanel(panel, scale, pruneCount, mask, maskColumn) {
      const [block, scales, target] = [rectangleOf(panel), rectangleOf(scale), mask.borrow()];
      queue.enqueue(() => selectPanel(pool, block, compactValues(scales), pruneCount, target, maskColumn));
    },
    selectRemaining(panel, scale, pruneCount, mask, maskColumn) {
      const [block, scales, target] = [rectangleOf(panel), rectangleOf(scale), mask.borrow()];
      const elements = block.rows * block.columns;
      queue.enqueue(() => {
        const left = Math.min(Math.max(pruneCount - countPruned(target, maskColumn), 0), elements);
        selectPanel(pool, block, compactValues(scales), left, target, maskColumn);
      });
    },
  };
}

/** Staged at a time: large enough to hide a dispatch, small enough for the second-level cache of two cores. */
const CHUNK_BYTES = 1 << 20;
const HISTOGRAM_BINS = 2048;
const HISTOGRAM_BYTES = 4 * HISTOGRAM_BINS;

const LARGEST_KEY = 0x7fffffff;

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

function selectRows(
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
    pool.run({ kernel: SELECT_ROWS, items: rows, grain: rowGrain(columns), args });
    copyWords(pool, staging, mask, firstRow, rows);
  });
}

function selectGroups(
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
    pool.run({ kernel: SELECT_GROUPS, items: rows, grain: rowGrain(columns), args });
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

function selectMatrix(
  pool: KernelPool,
  weight: BorrowedMatrix,
  scale: Float32Array,
  pruneCount: number,
  mask: BorrowedMask,
): void {
  if (pruneCount === 0) return keepAll(mask);
  const { rows, columns } = weight;
  const bracket = rows * columns >= SMALLEST_BRACKETED ? bracketThreshold(weight, scale, pruneCount) : undefined;
  if (bracket === undefined || !selectBracketed(pool, weight, scale, { pruneCount, bracket }, mask))
    selectByHistograms(pool, weight, scale, pruneCount, mask);
}

/** Keys [low, high] that very probably contain the one of rank pruneCount - 1. */
interface Bracket {
  readonly low: number;
  readonly high: number;
}

/** Smaller matrices go by histograms. */
const SMALLEST_BRACKETED = 1 << 17;
const SAMPLES = 1 << 14;
/** Standard deviations of the sample's rank to each side: one miss in two thousand, which costs a pass. */
const BRACKET_DEVIATIONS = 3.5;
const GOLDEN_RATIO = (Math.sqrt(5) - 1) / 2;

/** From a sample at quasi-random places, which do not run along rows or columns. */
function bracketThreshold({ values, columns }: BorrowedMatrix, scale: Float32Array, pruneCount: number): Bracket {
  const scores = new Float32Array(SAMPLES);
  for (let i = 0; i < SAMPLES; i++) {
    const at = Math.floor(((i * GOLDEN_RATIO) % 1) * values.length);
    scores[i] = Math.abs(values[at]) * scale[at % columns];
  }
  const keys = new Uint32Array(scores.buffer).sort();
  const share = pruneCount / values.length;
  const reach = BRACKET_DEVIATIONS * Math.sqrt(SAMPLES * share * (1 - share)) + BRACKET_DEVIATIONS;
  const [below, above] = [Math.floor(share * SAMPLES - reach), Math.ceil(share * SAMPLES + reach)];
  return { low: below < 0 ? 0 : keys[below], high: above < SAMPLES ? keys[above] : LARGEST_KEY };
}

/** One pass over the matrix; false, with the mask unspecified, where the bracket misses the threshold or holds too much. */
function selectBracketed(
  pool: KernelPool,
  weight: BorrowedMatrix,
  scale: Float32Array,
  { pruneCount, bracket }: { readonly pruneCount: number; readonly bracket: Bracket },
  mask: BorrowedMask,
): boolean {
  const { rows, columns } = weight;
  const staging = stage(pool, weight, scale);
  const lists = pool.allocate(8 * staging.rowsPerChunk * columns);
  const counts = pool.allocate(8 * staging.rowsPerChunk);
  const wordsPerRow = maskWordsPerRow(columns);
  const keys = new Int32Array(Math.floor((rows * columns) / 8)); // candidates in index order
  const words = new Int32Array(keys.length);
  const bits = new Uint8Array(keys.length);
  let candidates = 0;
  let below = 0;
  let fits = true;
  forRowChunks(pool, weight, staging, (firstRow, count) => {
    if (!fits) return;
    const args = [staging.weights, staging.scales, columns, bracket.low, bracket.high, staging.words, lists, counts];
    pool.run({ kernel: BRACKET_ROWS, items: count, grain: rowGrain(columns), args });
    copyWords(pool, staging, mask, firstRow, count);
    const found = pool.words(counts, 2 * count);
    for (let r = 0; r < count; r++) {
      below += found[2 * r];
      const listed = found[2 * r + 1];
      fits = candidates + listed <= keys.length;
      if (!fits) return;
      const pairs = pool.words(lists + 8 * r * columns, 2 * listed);
      const firstWord = (firstRow + r) * wordsPerRow;
      for (let i = 0; i < 2 * listed; i += 2, candidates++) {
        words[candidates] = firstWord + (pairs[i] >>> 5);
        bits[candidates] = pairs[i] & 31;
        keys[candidates] = pairs[i + 1];
      }
    }
  });
  const left = pruneCount - below; // to prune among the candidates
  if (!fits || left < 0 || left > candidates) return false;
  const found = keys.subarray(0, candidates);
  const threshold = candidateThreshold(found, bracket.low, left);
  let ties = threshold.tiesToPrune;
  for (let i = 0; i < candidates; i++) {
    const tied = found[i] === threshold.key && ties > 0;
    if (tied) ties--;
    mask.values[words[i]] |= Number(found[i] >= threshold.key && !tied) << bits[i];
  }
  return true;
}

/** The key of rank pruneCount - 1 and how many of its equals, in index order, are pruned; no key is below `low`. */
function candidateThreshold(
  keys: Int32Array,
  low: number,
  pruneCount: number,
): { readonly key: number; readonly tiesToPrune: number } {
  if (pruneCount === 0) return { key: low, tiesToPrune: 0 };
  let range = 1;
  for (const key of keys) range = Math.max(range, key - low + 1);
  const scale = HISTOGRAM_BINS / range;
  const bins = new Int32Array(HISTOGRAM_BINS + 1); // the last one for a rounding up
  for (const key of keys) bins[((key - low) * scale) | 0]++;
  let rank = pruneCount - 1;
  let bin = 0;
  while (rank >= bins[bin]) rank -= bins[bin++];
  const inBin = keys.filter((key) => (((key - low) * scale) | 0) === bin).sort();
  const key = inBin[rank];
  return { key, tiesToPrune: rank - inBin.indexOf(key) + 1 };
}

function selectByHistograms(
  pool: KernelPool,
  weight: BorrowedMatrix,
  scale: Float32Array,
  pruneCount: number,
  mask: BorrowedMask,
): void {
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
  const threshold = findThreshold(pool, pruneCount, (digit) => pass(HISTOGRAM_ROWS, () => digit));
  if (threshold.tiesToPrune < threshold.ties) {
    pass(COUNT_TIES_ROWS, (firstRow) => [threshold.key, ties + 4 * firstRow]);
    distributeTies(pool.words(ties, rows), threshold.tiesToPrune);
  } else {
    pool.words(ties, rows).fill(columns); // all of them
  }
  pass(
    MARK_ROWS,
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

function selectPanel(
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
    pool.run({ kernel: PANEL_KEYS, items: columns, grain: columnGrain, args: [address, scales, paddedRows] });
    const threshold = findThreshold(pool, pruneCount, (digit) =>
      pool.run({
        kernel: HISTOGRAM_KEYS,
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
  pool.run({ kernel: MARK_PANEL, items: blocks, grain, args: [...source, words] });
  if (threshold.tiesToPrune === threshold.ties) return;
  const ties = pool.allocate(4 * paddedRows);
  pool.run({ kernel: COUNT_TIES_PANEL, items: blocks, grain, args: [...source, ties] });
  distributeTies(pool.words(ties, rows), threshold.tiesToPrune); // lower row first, then lower column
  pool.run({ kernel: MARK_PANEL_TIES, items: blocks, grain, args: [...source, words, ties] });
}
