// Histograms of the digits of keys, for selections over a whole matrix or panel.

import { argument } from "./keys";

/** The four arguments from index `from`: prefixShift, prefix, digitShift, digitMask. */
export function countDigits(keys: usize, count: i32, args: usize, from: i32, histogram: usize): void {
  const prefixShift = <u32>argument(args, from);
  const prefix = <u32>argument(args, from + 1);
  const wanted = i32x4.splat(<i32>prefix);
  let i: i32 = 0;
  if (prefixShift < 31) {
    // After the first digit few keys match: look at four at a time.
    for (; i + 4 <= count; i += 4) {
      const at = keys + ((<usize>i) << 2);
      if (!v128.any_true(i32x4.eq(i32x4.shr_u(v128.load(at), <i32>prefixShift), wanted))) continue;
      for (let lane: usize = 0; lane < 16; lane += 4) countDigit(load<u32>(at + lane), args, from, histogram);
    }
  }
  for (; i < count; i++) countDigit(load<u32>(keys + ((<usize>i) << 2)), args, from, histogram);
}

function countDigit(key: u32, args: usize, from: i32, histogram: usize): void {
  if (key >> (<u32>argument(args, from)) != <u32>argument(args, from + 1)) return;
  const digit = (key >> (<u32>argument(args, from + 2))) & (<u32>argument(args, from + 3));
  const at = histogram + ((<usize>digit) << 2);
  store<i32>(at, load<i32>(at) + 1);
}
