// Keys of selections: the bits of |w|·scale. For non-negative floats the order of the bits is the order of the values.
// The sign bit is cleared a second time so that even a NaN cannot index outside a histogram.

export const DIGIT_BINS: i32 = 2048;
/** Bytes of one histogram. */
export const HISTOGRAM_BYTES: usize = 8192;

export function argument(args: usize, index: i32): usize {
  return <usize>load<u32>(args + ((<usize>index) << 2));
}

/** keys[c] = bits(|weights[c]|·scales[c]). */
export function rowKeys(weights: usize, scales: usize, columns: i32, keys: usize): void {
  const sign = i32x4.splat(0x7fffffff);
  const bytes: usize = (<usize>columns) << 2;
  const vectorBytes: usize = bytes & ~(<usize>15);
  let at: usize = 0;
  for (; at < vectorBytes; at += 16) {
    const score = f32x4.mul(v128.and(v128.load(weights + at), sign), v128.load(scales + at));
    v128.store(keys + at, v128.and(score, sign));
  }
  for (; at < bytes; at += 4) {
    const score = abs<f32>(load<f32>(weights + at)) * load<f32>(scales + at);
    store<u32>(keys + at, reinterpret<u32>(score) & 0x7fffffff);
  }
}

/** keys[i] = bits(|values[i]|·scale), in place. */
export function scaleKeys(values: usize, scale: f32, count: i32): void {
  const sign = i32x4.splat(0x7fffffff);
  const factor = f32x4.splat(scale);
  const bytes: usize = (<usize>count) << 2;
  const vectorBytes: usize = bytes & ~(<usize>15);
  let at: usize = 0;
  for (; at < vectorBytes; at += 16) {
    const score = f32x4.mul(v128.and(v128.load(values + at), sign), factor);
    v128.store(values + at, v128.and(score, sign));
  }
  for (; at < bytes; at += 4) {
    const score = abs<f32>(load<f32>(values + at)) * scale;
    store<u32>(values + at, reinterpret<u32>(score) & 0x7fffffff);
  }
}

/** Bits of 16 lanes a > b (signed; keys are below 2³¹), lane 0 lowest. */
export function greaterBits16(at: usize, threshold: v128): u32 {
  const low = i16x8.narrow_i32x4_s(i32x4.gt_s(v128.load(at), threshold), i32x4.gt_s(v128.load(at, 16), threshold));
  const high = i16x8.narrow_i32x4_s(i32x4.gt_s(v128.load(at, 32), threshold), i32x4.gt_s(v128.load(at, 48), threshold));
  return <u32>i8x16.bitmask(i8x16.narrow_i16x8_s(low, high));
}

export function equalBits16(at: usize, threshold: v128): u32 {
  const low = i16x8.narrow_i32x4_s(i32x4.eq(v128.load(at), threshold), i32x4.eq(v128.load(at, 16), threshold));
  const high = i16x8.narrow_i32x4_s(i32x4.eq(v128.load(at, 32), threshold), i32x4.eq(v128.load(at, 48), threshold));
  return <u32>i8x16.bitmask(i8x16.narrow_i16x8_s(low, high));
}

/** All ones in the bits of the last word that belong to columns. */
export function lastWordBits(columns: i32): u32 {
  return (columns & 31) == 0 ? 0xffffffff : ((<u32>1) << (columns & 31)) - 1;
}

export function clear(at: usize, bytes: usize): void {
  memory.fill(at, 0, bytes);
}

/** The first bin whose running total exceeds `rank`; the total below it is left in `countBelow`. */
export let countBelow: i32 = 0;
export function findBin(histogram: usize, bins: i32, rank: i32): i32 {
  let below: i32 = 0;
  let bin: i32 = 0;
  // Skip 16 bins at a time: most of a float's leading bits never occur.
  for (; bin < bins; bin += 16) {
    const at = histogram + ((<usize>bin) << 2);
    const sum = i32x4.add(i32x4.add(v128.load(at), v128.load(at, 16)), i32x4.add(v128.load(at, 32), v128.load(at, 48)));
    const total =
      i32x4.extract_lane(sum, 0) + i32x4.extract_lane(sum, 1) + i32x4.extract_lane(sum, 2) + i32x4.extract_lane(sum, 3);
    if (below + total > rank) break;
    below += total;
  }
  for (; bin < bins; bin++) {
    const count = load<i32>(histogram + ((<usize>bin) << 2));
    if (below + count > rank) break;
    below += count;
  }
  countBelow = below;
  return bin;
}
