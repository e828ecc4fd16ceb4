// Selection over all rows of a block of columns held transposed, [columns][rows]. Masks here are transposed too:
// word w of row r lies at [w][r], bit c & 31 of word c >> 5 for panel column c. `rows` is a multiple of 16: the host
// pads with keys that are never pruned.

import { argument, scaleKeys } from "./keys";
import { countDigits } from "./digits";

/** args: panel, scales, rows. Items are panel columns: values become keys in place. */
export function panelKeys(first: i32, end: i32, args: usize, _scratch: usize): void {
  const rows = <i32>argument(args, 2);
  for (let c = first; c < end; c++) {
    const scale = load<f32>(argument(args, 1) + ((<usize>c) << 2));
    scaleKeys(argument(args, 0) + ((<usize>c * rows) << 2), scale, rows);
  }
}

/** args: keys, rows, live rows, prefixShift, prefix, digitShift, digitMask. Items are panel columns. scratch: histogram. */
export function histogramKeys(first: i32, end: i32, args: usize, scratch: usize): void {
  const rows = argument(args, 1);
  for (let c = first; c < end; c++) {
    countDigits(argument(args, 0) + ((<usize>c * rows) << 2), <i32>argument(args, 2), args, 3, scratch);
  }
}

/** args: keys, rows, columns, threshold, counts. Items are blocks of 16 rows: counts[row] = keys equal to it. */
export function countTiesPanel(first: i32, end: i32, args: usize, _scratch: usize): void {
  const stride = argument(args, 1) << 2;
  const columns = <i32>argument(args, 2);
  const threshold = i32x4.splat(<i32>argument(args, 3));
  for (let at: usize = (<usize>first) << 6; at < (<usize>end) << 6; at += 16) {
    let ties = i32x4.splat(0);
    let key = argument(args, 0) + at;
    for (let c: i32 = 0; c < columns; c++, key += stride) ties = i32x4.sub(ties, i32x4.eq(v128.load(key), threshold));
    v128.store(argument(args, 4) + at, ties);
  }
}

/** args: keys, rows, columns, threshold, words. Items are blocks of 16 rows. Keeps keys above the threshold. */
export function markPanel(first: i32, end: i32, args: usize, _scratch: usize): void {
  const stride = argument(args, 1) << 2;
  const columns = <i32>argument(args, 2);
  const threshold = i32x4.splat(<i32>argument(args, 3));
  for (let at: usize = (<usize>first) << 6; at < (<usize>end) << 6; at += 16) {
    let key = argument(args, 0) + at;
    let word = argument(args, 4) + at;
    for (let start: i32 = 0; start < columns; start += 32, word += stride) {
      let kept = i32x4.splat(0);
      const width = min<i32>(32, columns - start);
      for (let bit: i32 = 0; bit < width; bit++, key += stride) {
        kept = v128.or(kept, v128.and(i32x4.gt_s(v128.load(key), threshold), i32x4.splat(1 << bit)));
      }
      v128.store(word, kept);
    }
  }
}

/**
 * args: keys, rows, columns, threshold, words, tiesToPrune (per row). Items are blocks of 16 rows.
 * After `markPanel`: keeps the keys equal to the threshold beyond the first tiesToPrune[row] of each row.
 */
export function markPanelTies(first: i32, end: i32, args: usize, _scratch: usize): void {
  const stride = argument(args, 1) << 2;
  const columns = <i32>argument(args, 2);
  const threshold = <u32>argument(args, 3);
  for (let at: usize = (<usize>first) << 6; at < (<usize>end) << 6; at += 4) {
    let ties = load<i32>(argument(args, 5) + at);
    let key = argument(args, 0) + at;
    for (let c: i32 = 0; c < columns; c++, key += stride) {
      if (load<u32>(key) != threshold) continue;
      ties--;
      if (ties >= 0) continue;
      const word = argument(args, 4) + at + <usize>(c >> 5) * stride;
      store<u32>(word, load<u32>(word) | ((<u32>1) << (c & 31)));
    }
  }
}
