// Selection over a whole matrix. Where the host can bracket the threshold, one pass over the rows settles all keys outside
// the bracket and lists the rest. Otherwise three histograms (11 + 11 + 9 bits) find the threshold, which the host reads
// off; then ties are counted per row if not all of them are pruned, and the mask is written.

import { argument, equalBits16, greaterBits16, lastWordBits, rowKeys, HISTOGRAM_BYTES } from "./keys";
import { countDigits } from "./digits";

/**
 * args: weights, scales, columns, prefixShift, prefix, digitShift, digitMask. Items are rows.
 * Counts digits of keys whose bits above `prefixShift` equal `prefix`. scratch: histogram (accumulated), keys.
 */
export function histogramRows(first: i32, end: i32, args: usize, scratch: usize): void {
  const columns = <i32>argument(args, 2);
  const keys = scratch + HISTOGRAM_BYTES;
  for (let row = first; row < end; row++) {
    rowKeys(argument(args, 0) + ((<usize>row * columns) << 2), argument(args, 1), columns, keys);
    countDigits(keys, columns, args, 3, scratch);
  }
}

/** args: weights, scales, columns, threshold, counts. counts[row] = keys equal to the threshold. scratch: keys. */
export function countTiesRows(first: i32, end: i32, args: usize, scratch: usize): void {
  const columns = <i32>argument(args, 2);
  const threshold = <u32>argument(args, 3);
  for (let row = first; row < end; row++) {
    rowKeys(argument(args, 0) + ((<usize>row * columns) << 2), argument(args, 1), columns, scratch);
    let ties: i32 = 0;
    for (let c: i32 = 0; c < columns; c++) ties += <i32>(load<u32>(scratch + ((<usize>c) << 2)) == threshold);
    store<i32>(argument(args, 4) + ((<usize>row) << 2), ties);
  }
}

/**
 * args: weights, scales, columns, threshold, tiesToPrune (per row), words. Items are rows. Prunes keys below the
 * threshold and the first tiesToPrune[row] equal ones. scratch: keys, whole words of them.
 */
export function markRows(first: i32, end: i32, args: usize, scratch: usize): void {
  const columns = <i32>argument(args, 2);
  const limit = i32x4.splat(<i32>argument(args, 3));
  const wordsPerRow = (columns + 31) >> 5;
  memory.fill(scratch, 0, (<usize>wordsPerRow) << 7);
  for (let row = first; row < end; row++) {
    rowKeys(argument(args, 0) + ((<usize>row * columns) << 2), argument(args, 1), columns, scratch);
    let ties = load<i32>(argument(args, 4) + ((<usize>row) << 2));
    const words = argument(args, 5) + ((<usize>row * wordsPerRow) << 2);
    for (let word: i32 = 0; word < wordsPerRow; word++) {
      const at = scratch + ((<usize>word) << 7);
      let kept = greaterBits16(at, limit) | (greaterBits16(at + 64, limit) << 16);
      let equal = equalBits16(at, limit) | (equalBits16(at + 64, limit) << 16);
      while (equal != 0) {
        const bit = equal & (0 - equal);
        if (ties > 0) ties--;
        else kept |= bit;
        equal ^= bit;
      }
      if (word == wordsPerRow - 1) kept &= lastWordBits(columns);
      store<u32>(words + ((<usize>word) << 2), kept);
    }
  }
}

/**
 * args: weights, scales, columns, low, high, words, candidates, counts. Items are rows. Keeps keys above `high`; lists
 * those in [low, high] as pairs of column and key from candidates + 8·columns·row on; writes two counts per row: keys
 * below `low`, candidates. scratch: keys, whole words of them.
 */
export function bracketRows(first: i32, end: i32, args: usize, scratch: usize): void {
  const columns = <i32>argument(args, 2);
  const belowLow = i32x4.splat(<i32>argument(args, 3) - 1);
  const high = i32x4.splat(<i32>argument(args, 4));
  const wordsPerRow = (columns + 31) >> 5;
  memory.fill(scratch, 0, (<usize>wordsPerRow) << 7);
  for (let row = first; row < end; row++) {
    rowKeys(argument(args, 0) + ((<usize>row * columns) << 2), argument(args, 1), columns, scratch);
    const words = argument(args, 5) + ((<usize>row * wordsPerRow) << 2);
    const list = argument(args, 6) + ((<usize>row * columns) << 3);
    let place = list;
    let reached: i32 = 0;
    for (let word: i32 = 0; word < wordsPerRow; word++) {
      const at = scratch + ((<usize>word) << 7);
      const kept = greaterBits16(at, high) | (greaterBits16(at + 64, high) << 16);
      let candidates = greaterBits16(at, belowLow) | (greaterBits16(at + 64, belowLow) << 16);
      const live = word == wordsPerRow - 1 ? lastWordBits(columns) : 0xffffffff;
      candidates &= live;
      reached += <i32>popcnt<u32>(candidates);
      candidates &= ~kept;
      while (candidates != 0) {
        const bit = <i32>ctz<u32>(candidates);
        store<i32>(place, (word << 5) + bit);
        store<i32>(place, load<i32>(at + ((<usize>bit) << 2)), 4);
        place += 8;
        candidates &= candidates - 1;
      }
      store<u32>(words + ((<usize>word) << 2), kept & live);
    }
    const counts = argument(args, 7) + ((<usize>row) << 3);
    store<i32>(counts, columns - reached);
    store<i32>(counts, <i32>((place - list) >> 3), 4);
  }
}
