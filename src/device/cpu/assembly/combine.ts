// Masked linear combinations: coefficients are chosen by the mask's bit, without a branch.

import { argument } from "./keys";

/**
 * args: a, b (both [rows, columns], overwritten), words, columns, then kept and pruned coefficients (f32) of a and of b
 * for what is written over a, the same for what is written over b, and 1 if that is wanted. Items are rows.
 */
export function combineRows(first: i32, end: i32, args: usize, _scratch: usize): void {
  const columns = <i32>argument(args, 3);
  const wordsPerRow = (columns + 31) >> 5;
  const both = argument(args, 12) != 0;
  const lanes = i32x4(1, 2, 4, 8);
  const zero = i32x4.splat(0);
  const coefficients = args + 16;
  const keptAA = v128.load32_splat(coefficients);
  const prunedAA = v128.load32_splat(coefficients, 4);
  const keptBA = v128.load32_splat(coefficients, 8);
  const prunedBA = v128.load32_splat(coefficients, 12);
  const keptAB = v128.load32_splat(coefficients, 16);
  const prunedAB = v128.load32_splat(coefficients, 20);
  const keptBB = v128.load32_splat(coefficients, 24);
  const prunedBB = v128.load32_splat(coefficients, 28);
  for (let row = first; row < end; row++) {
    let a = argument(args, 0) + ((<usize>row * columns) << 2);
    let b = argument(args, 1) + ((<usize>row * columns) << 2);
    const words = argument(args, 2) + ((<usize>row * wordsPerRow) << 2);
    let c: i32 = 0;
    for (; c + 4 <= columns; c += 4, a += 16, b += 16) {
      const bits = i32x4.splat(<i32>(load<u32>(words + ((<usize>(c >> 5)) << 2)) >> (c & 31)));
      const kept = i32x4.ne(v128.and(bits, lanes), zero);
      const x = v128.load(a);
      const y = v128.load(b);
      v128.store(
        a,
        f32x4.add(
          f32x4.mul(v128.bitselect(keptAA, prunedAA, kept), x),
          f32x4.mul(v128.bitselect(keptBA, prunedBA, kept), y),
        ),
      );
      if (both) {
        v128.store(
          b,
          f32x4.add(
            f32x4.mul(v128.bitselect(keptAB, prunedAB, kept), x),
            f32x4.mul(v128.bitselect(keptBB, prunedBB, kept), y),
          ),
        );
      }
    }
    for (; c < columns; c++, a += 4, b += 4) {
      const bit = (load<u32>(words + ((<usize>(c >> 5)) << 2)) >> (c & 31)) & 1;
      const from = coefficients + (bit != 0 ? 0 : 4);
      const x = load<f32>(a);
      const y = load<f32>(b);
      store<f32>(a, load<f32>(from) * x + load<f32>(from, 8) * y);
      if (both) store<f32>(b, load<f32>(from, 16) * x + load<f32>(from, 24) * y);
    }
  }
}
