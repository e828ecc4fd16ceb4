/**
 * Twins of the selections: a stable sort of the scores, lowest pruned first. The score |w|·scale is one f32
 * multiplication (Math.fround of the exact product), as on the devices, so masks compare exactly.
 * A mask here is one byte per weight, 1 = kept.
 */

/** |w|·scale[c], rounded to f32. [rows, columns] */
export function referenceScores(
  w: ArrayLike<number>,
  scale: ArrayLike<number>,
  rows: number,
  columns: number,
): Float64Array {
  const scores = new Float64Array(rows * columns);
  for (let i = 0; i < scores.length; i++) scores[i] = Math.fround(Math.abs(w[i]) * scale[i % columns]);
  return scores;
}

/** Mark the `pruneCount` smallest scores among `indices` (given in the order in which ties are pruned) as 0. */
export function pruneSmallest(
  scores: ArrayLike<number>,
  indices: readonly number[],
  pruneCount: number,
  keep: Uint8Array,
): void {
  const order = indices.map((index, position) => ({ index, position }));
  order.sort((x, y) => scores[x.index] - scores[y.index] || x.position - y.position);
  for (const { index } of order.slice(0, pruneCount)) keep[index] = 0;
}

const range = (first: number, count: number): number[] => Array.from({ length: count }, (_, i) => first + i);

export function referenceSelectRows(
  scores: ArrayLike<number>,
  rows: number,
  columns: number,
  pruneCount: number,
): Uint8Array {
  const keep = new Uint8Array(rows * columns).fill(1);
  for (let r = 0; r < rows; r++) pruneSmallest(scores, range(r * columns, columns), pruneCount, keep);
  return keep;
}

export function referenceSelectMatrix(
  scores: ArrayLike<number>,
  rows: number,
  columns: number,
  pruneCount: number,
): Uint8Array {
  const keep = new Uint8Array(rows * columns).fill(1);
  pruneSmallest(scores, range(0, rows * columns), pruneCount, keep);
  return keep;
}

/** Keep the `keepCount` largest of every `group` consecutive columns. */
export function referenceSelectGroups(
  scores: ArrayLike<number>,
  rows: number,
  columns: number,
  keepCount: number,
  group: number,
): Uint8Array {
  const keep = new Uint8Array(rows * columns).fill(1);
  for (let first = 0; first < rows * columns; first += group) {
    pruneSmallest(scores, range(first, group), group - keepCount, keep);
  }
  return keep;
}

/** Keep mask as the device stores it: row r, column c is bit (c & 31) of word r * ceil(columns / 32) + (c >> 5). */
export function packMask(keep: ArrayLike<number>, rows: number, columns: number): Uint32Array {
  const wordsPerRow = Math.ceil(columns / 32);
  const words = new Uint32Array(rows * wordsPerRow);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      if (keep[r * columns + c] === 1) words[r * wordsPerRow + (c >> 5)] |= 1 << (c & 31);
    }
  }
  return words;
}

/** One byte per weight, 1 = kept. */
export function unpackMask(words: Uint32Array, rows: number, columns: number): Uint8Array {
  const wordsPerRow = Math.ceil(columns / 32);
  const keep = new Uint8Array(rows * columns);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) keep[r * columns + c] = (words[r * wordsPerRow + (c >> 5)] >>> (c & 31)) & 1;
  }
  return keep;
}
