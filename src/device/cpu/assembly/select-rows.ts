// Selections inside one row: the k smallest scores, and the smallest scores of each N:M group.
//
// k smallest: an exact radix selection on the 31 bits of the keys, as 11 + 8 + 8 + 4. The first digit (8 exponent and
// 3 mantissa bits) leaves a few percent of the row, which is compacted; the other digits work on that remainder.
// Then one pass marks keys above the threshold, with ties in column order.

import {
  argument,
  clear,
  countBelow,
  equalBits16,
  findBin,
  greaterBits16,
  lastWordBits,
  rowKeys,
  HISTOGRAM_BYTES,
} from "./keys";

/** Number of keys equal to the threshold that are pruned, and how many there are. */
let tiesPruned: i32 = 0;
let tiesTotal: i32 = 0;

function histogramOf(keys: usize, count: i32, shift: u32, mask: u32, histogram: usize): void {
  for (let i: i32 = 0; i < count; i++) {
    const digit = (load<u32>(keys + ((<usize>i) << 2)) >> shift) & mask;
    const at = histogram + ((<usize>digit) << 2);
    store<i32>(at, load<i32>(at) + 1);
  }
}

/** Copy keys whose bits from `shift` up, under `mask`, equal `digit`; `to` may be `from`. Returns their number. */
function compact(from: usize, count: i32, shift: u32, mask: u32, digit: u32, to: usize): i32 {
  let kept: i32 = 0;
  for (let i: i32 = 0; i < count; i++) {
    const key = load<u32>(from + ((<usize>i) << 2));
    store<u32>(to + ((<usize>kept) << 2), key);
    kept += <i32>(((key >> shift) & mask) == digit);
  }
  return kept;
}

/** As `compact` for the first digit, skipping groups of four keys without a match. */
function compactFirst(from: usize, count: i32, digit: u32, to: usize): i32 {
  const wanted = i32x4.splat(<i32>digit);
  let kept: i32 = 0;
  let i: i32 = 0;
  for (; i + 4 <= count; i += 4) {
    const at = from + ((<usize>i) << 2);
    if (!v128.any_true(i32x4.eq(i32x4.shr_u(v128.load(at), 20), wanted))) continue;
    kept += compact(at, 4, 20, 0x7ff, digit, to + ((<usize>kept) << 2));
  }
  return kept + compact(from + ((<usize>i) << 2), count - i, 20, 0x7ff, digit, to + ((<usize>kept) << 2));
}

/** The key of 0-based rank `rank` among `keys`; sets tiesPruned and tiesTotal. `candidates` holds `count` keys. */
function selectKey(keys: usize, count: i32, rank: i32, histogram: usize, candidates: usize): u32 {
  clear(histogram, HISTOGRAM_BYTES);
  histogramOf(keys, count, 20, 0x7ff, histogram);
  let digit = findBin(histogram, 2048, rank);
  rank -= countBelow;
  let remaining = compactFirst(keys, count, digit, candidates);
  for (let shift: i32 = 12; shift > -8; shift -= 8) {
    if (remaining == 1) break;
    const low = <u32>max<i32>(shift, 0);
    const mask: u32 = shift < 0 ? 15 : 255;
    clear(histogram, 1024);
    histogramOf(candidates, remaining, low, mask, histogram);
    digit = findBin(histogram, 256, rank);
    rank -= countBelow;
    remaining = compact(candidates, remaining, low, mask, digit, candidates);
  }
  tiesPruned = rank + 1;
  tiesTotal = remaining;
  return load<u32>(candidates);
}

/** args: weights, scales, words, columns, pruneCount. Items are rows. scratch: histogram, keys, candidates. */
export function selectRows(first: i32, end: i32, args: usize, scratch: usize): void {
  const columns = <i32>argument(args, 3);
  const pruneCount = <i32>argument(args, 4);
  const wordsPerRow = (columns + 31) >> 5;
  const keyBytes: usize = (<usize>wordsPerRow) << 7; // whole words of keys
  const keys = scratch + HISTOGRAM_BYTES;
  clear(keys, keyBytes);
  for (let row = first; row < end; row++) {
    rowKeys(argument(args, 0) + ((<usize>row * columns) << 2), argument(args, 1), columns, keys);
    const threshold = selectKey(keys, columns, pruneCount - 1, scratch, keys + keyBytes);
    markRow(keys, columns, threshold, argument(args, 2) + ((<usize>row * wordsPerRow) << 2));
  }
}

function markRow(keys: usize, columns: i32, threshold: u32, words: usize): void {
  const wordsPerRow = (columns + 31) >> 5;
  const limit = i32x4.splat(<i32>threshold);
  const ordered = tiesPruned < tiesTotal;
  let seen: i32 = 0;
  for (let word: i32 = 0; word < wordsPerRow; word++) {
    const at = keys + ((<usize>word) << 7);
    let kept = greaterBits16(at, limit) | (greaterBits16(at + 64, limit) << 16);
    if (ordered) {
      let equal = equalBits16(at, limit) | (equalBits16(at + 64, limit) << 16);
      while (equal != 0) {
        const bit = equal & (0 - equal);
        if (seen >= tiesPruned) kept |= bit;
        seen++;
        equal ^= bit;
      }
    }
    if (word == wordsPerRow - 1) kept &= lastWordBits(columns);
    store<u32>(words + ((<usize>word) << 2), kept);
  }
}

/** args: weights, scales, words, columns, keep, group. Items are rows. scratch: keys. */
export function selectGroups(first: i32, end: i32, args: usize, scratch: usize): void {
  const columns = <i32>argument(args, 3);
  const group = <i32>argument(args, 5);
  const pruned = group - <i32>argument(args, 4);
  const wordsPerRow = (columns + 31) >> 5;
  for (let row = first; row < end; row++) {
    rowKeys(argument(args, 0) + ((<usize>row * columns) << 2), argument(args, 1), columns, scratch);
    const words = argument(args, 2) + ((<usize>row * wordsPerRow) << 2);
    clear(words, (<usize>wordsPerRow) << 2);
    if (group == 4) markGroupsOf4(scratch, columns, pruned, words);
    else markGroups(scratch, columns, group, pruned, words);
  }
}

function markGroups(keys: usize, columns: i32, group: i32, pruned: i32, words: usize): void {
  for (let start: i32 = 0; start < columns; start += group) {
    for (let i: i32 = start; i < start + group; i++) {
      const key = load<u32>(keys + ((<usize>i) << 2));
      let rank: i32 = 0; // members pruned before i: smaller, or equal with a lower index
      for (let j: i32 = start; j < i; j++) rank += <i32>(load<u32>(keys + ((<usize>j) << 2)) <= key);
      for (let j: i32 = i + 1; j < start + group; j++) rank += <i32>(load<u32>(keys + ((<usize>j) << 2)) < key);
      const at = words + ((<usize>(i >> 5)) << 2);
      store<u32>(at, load<u32>(at) | ((<u32>(rank >= pruned)) << (i & 31)));
    }
  }
}

/** Four keys in one vector, compared with their three rotations; equal keys rank by lane. */
function markGroupsOf4(keys: usize, columns: i32, pruned: i32, words: usize): void {
  const last = i32x4.splat(pruned - 1);
  // Lane i of rotation d holds key (i + d) & 3; it precedes i, so a tie counts, where (i + d) & 3 < i.
  const wrap1 = i32x4(0, 0, 0, -1);
  const wrap2 = i32x4(0, 0, -1, -1);
  const wrap3 = i32x4(0, -1, -1, -1);
  for (let start: i32 = 0; start < columns; start += 4) {
    const key = v128.load(keys + ((<usize>start) << 2));
    const r1 = v128.shuffle<i32>(key, key, 1, 2, 3, 0);
    const r2 = v128.shuffle<i32>(key, key, 2, 3, 0, 1);
    const r3 = v128.shuffle<i32>(key, key, 3, 0, 1, 2);
    let rank = i32x4.splat(0);
    rank = i32x4.sub(rank, v128.or(i32x4.lt_s(r1, key), v128.and(i32x4.eq(r1, key), wrap1)));
    rank = i32x4.sub(rank, v128.or(i32x4.lt_s(r2, key), v128.and(i32x4.eq(r2, key), wrap2)));
    rank = i32x4.sub(rank, v128.or(i32x4.lt_s(r3, key), v128.and(i32x4.eq(r3, key), wrap3)));
    const kept = <u32>i32x4.bitmask(i32x4.gt_s(rank, last));
    const at = words + ((<usize>(start >> 5)) << 2);
    store<u32>(at, load<u32>(at) | (kept << (start & 31)));
  }
}
