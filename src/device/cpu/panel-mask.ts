/**
 * Mask bits of a block of columns, between the mask's own layout (row-major words) and the transposed one of the
 * panel kernels: word w of row r at [w * rows + r], bit c & 31 of word c >> 5 for panel column c.
 */
import { maskWordsPerRow } from "../device.js";
import type { BorrowedMask } from "./matrix.js";

/** Panel words for columns [maskColumn, maskColumn + columns). `to` has `paddedRows` entries per word. */
export function readPanelMask(
  mask: BorrowedMask,
  maskColumn: number,
  columns: number,
  to: Int32Array,
  paddedRows: number,
): void {
  const wordsPerRow = maskWordsPerRow(mask.columns);
  const shift = maskColumn & 31;
  for (let word = 0; word * 32 < columns; word++) {
    const source = (maskColumn >> 5) + word;
    const target = to.subarray(word * paddedRows, word * paddedRows + mask.rows);
    for (let r = 0, at = source; r < mask.rows; r++, at += wordsPerRow) {
      const low = mask.values[at] >>> shift;
      // The next word exists only while the row goes on; bits beyond the panel are not looked at.
      const high = shift === 0 || source + 1 >= wordsPerRow ? 0 : mask.values[at + 1] << (32 - shift);
      target[r] = low | high;
    }
  }
}

/** Write panel columns [first, end) back to mask columns from maskColumn + first; other bits stay. */
export function writePanelMask(
  mask: BorrowedMask,
  maskColumn: number,
  range: { readonly first: number; readonly end: number },
  from: Int32Array,
  paddedRows: number,
): void {
  const wordsPerRow = maskWordsPerRow(mask.columns);
  const shift = maskColumn & 31;
  for (let word = range.first >> 5; word * 32 < range.end; word++) {
    const firstBit = Math.max(range.first - 32 * word, 0);
    const endBit = Math.min(range.end - 32 * word, 32);
    const written = bitsBelow(endBit) & ~bitsBelow(firstBit);
    const lowBits = written << shift;
    const highBits = shift === 0 ? 0 : written >>> (32 - shift);
    const source = from.subarray(word * paddedRows, word * paddedRows + mask.rows);
    for (let r = 0, at = (maskColumn >> 5) + word; r < mask.rows; r++, at += wordsPerRow) {
      mask.values[at] = (mask.values[at] & ~lowBits) | ((source[r] << shift) & lowBits);
      if (highBits !== 0)
        mask.values[at + 1] = (mask.values[at + 1] & ~highBits) | ((source[r] >>> (32 - shift)) & highBits);
    }
  }
}

/** Number of pruned weights in columns [0, columns). */
export function countPruned(mask: BorrowedMask, columns: number): number {
  const wordsPerRow = maskWordsPerRow(mask.columns);
  let kept = 0;
  for (let r = 0; r < mask.rows; r++) {
    const start = r * wordsPerRow;
    for (let word = 0; 32 * word < columns; word++) {
      kept += countBits(mask.values[start + word] & bitsBelow(columns - 32 * word));
    }
  }
  return mask.rows * columns - kept;
}

export function countBits(word: number): number {
  let x = word - ((word >>> 1) & 0x55555555);
  x = (x & 0x33333333) + ((x >>> 2) & 0x33333333);
  return Math.imul((x + (x >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

function bitsBelow(bit: number): number {
  return bit >= 32 ? -1 : (1 << bit) - 1;
}
