// Steps of training, entry by entry: Adam, scores of projections, dual steps. Everything is rounded after every operation
// and nothing fused, so an entry's bits do not depend on whether it goes through the vectors or the rest of its row.
// Addresses of matrices that are absent are 0. All are [rows, columns]; items are rows.

import { argument } from "./keys";

const ALL: i32 = -1;

function addressOf(args: usize, index: i32, offset: usize): usize {
  const start = argument(args, index);
  return start == 0 ? 0 : start + offset;
}

/** All ones in the lanes of the columns [column, column + 4) that are kept; column is a multiple of 4. */
function keptLanes(words: usize, column: i32): v128 {
  const bits = i32x4.splat(<i32>(load<u32>(words + ((<usize>(column >> 5)) << 2)) >> (column & 31)));
  return i32x4.ne(v128.and(bits, i32x4(1, 2, 4, 8)), i32x4.splat(0));
}

function isKept(words: usize, column: i32): bool {
  return ((load<u32>(words + ((<usize>(column >> 5)) << 2)) >> (column & 31)) & 1) != 0;
}

/**
 * args: values, first, second (updated), gradient, split and dual (absent: no pull), words (absent: all kept), columns,
 * then as f32 gradientScale, strength, keepFirst, addFirst, keepSecond, addSecond, stepSize, rootScale, epsilon.
 */
export function adamRows(first: i32, end: i32, args: usize, _scratch: usize): void {
  const columns = <i32>argument(args, 7);
  const wordBytes = (<usize>((columns + 31) >> 5)) << 2;
  const scalars = args + 32;
  const gradientScale = v128.load32_splat(scalars);
  const strength = v128.load32_splat(scalars, 4);
  const keepFirst = v128.load32_splat(scalars, 8);
  const addFirst = v128.load32_splat(scalars, 12);
  const keepSecond = v128.load32_splat(scalars, 16);
  const addSecond = v128.load32_splat(scalars, 20);
  const stepSize = v128.load32_splat(scalars, 24);
  const rootScale = v128.load32_splat(scalars, 28);
  const epsilon = v128.load32_splat(scalars, 32);
  const pulls = argument(args, 4) != 0;
  const masked = argument(args, 6) != 0;
  for (let row = first; row < end; row++) {
    const offset = (<usize>row * columns) << 2;
    let x = argument(args, 0) + offset;
    let m = argument(args, 1) + offset;
    let v = argument(args, 2) + offset;
    let g = argument(args, 3) + offset;
    let z = addressOf(args, 4, offset);
    let u = addressOf(args, 5, offset);
    const words = argument(args, 6) + <usize>row * wordBytes;
    let c: i32 = 0;
    for (; c + 4 <= columns; c += 4, x += 16, m += 16, v += 16, g += 16, z += 16, u += 16) {
      const value = v128.load(x);
      let slope = f32x4.mul(gradientScale, v128.load(g));
      if (pulls) {
        const apart = f32x4.add(f32x4.sub(value, v128.load(z)), v128.load(u));
        slope = f32x4.add(slope, f32x4.mul(strength, apart));
      }
      const kept = masked ? keptLanes(words, c) : i32x4.splat(ALL);
      const mean = f32x4.add(f32x4.mul(keepFirst, v128.load(m)), f32x4.mul(addFirst, slope));
      const square = f32x4.add(f32x4.mul(keepSecond, v128.load(v)), f32x4.mul(addSecond, f32x4.mul(slope, slope)));
      const size = f32x4.add(f32x4.mul(f32x4.sqrt(square), rootScale), epsilon);
      const moved = f32x4.sub(value, f32x4.div(f32x4.mul(stepSize, mean), size));
      v128.store(x, v128.and(moved, kept));
      v128.store(m, v128.and(mean, kept));
      v128.store(v, v128.and(square, kept));
    }
    for (; c < columns; c++, x += 4, m += 4, v += 4, g += 4, z += 4, u += 4) {
      if (masked && !isKept(words, c)) {
        store<f32>(x, 0);
        store<f32>(m, 0);
        store<f32>(v, 0);
        continue;
      }
      const value = load<f32>(x);
      let slope: f32 = load<f32>(scalars) * load<f32>(g);
      if (pulls) slope += load<f32>(scalars, 4) * (value - load<f32>(z) + load<f32>(u));
      const mean: f32 = load<f32>(scalars, 8) * load<f32>(m) + load<f32>(scalars, 12) * slope;
      const square: f32 = load<f32>(scalars, 16) * load<f32>(v) + load<f32>(scalars, 20) * (slope * slope);
      const size: f32 = sqrt<f32>(square) * load<f32>(scalars, 28) + load<f32>(scalars, 32);
      store<f32>(x, value - (load<f32>(scalars, 24) * mean) / size);
      store<f32>(m, mean);
      store<f32>(v, square);
    }
  }
}

/** args: out (written), values, dual and second (absent: left out), columns. out = √second·|values + dual|. */
export function scoreRows(first: i32, end: i32, args: usize, _scratch: usize): void {
  const columns = <i32>argument(args, 4);
  const sums = argument(args, 2) != 0;
  const weighs = argument(args, 3) != 0;
  for (let row = first; row < end; row++) {
    const offset = (<usize>row * columns) << 2;
    let out = argument(args, 0) + offset;
    let x = argument(args, 1) + offset;
    let u = addressOf(args, 2, offset);
    let v = addressOf(args, 3, offset);
    let c: i32 = 0;
    for (; c + 4 <= columns; c += 4, out += 16, x += 16, u += 16, v += 16) {
      let score = v128.load(x);
      if (sums) score = f32x4.add(score, v128.load(u));
      score = f32x4.abs(score);
      if (weighs) score = f32x4.mul(f32x4.sqrt(v128.load(v)), score);
      v128.store(out, score);
    }
    for (; c < columns; c++, out += 4, x += 4, u += 4, v += 4) {
      let score = load<f32>(x);
      if (sums) score += load<f32>(u);
      score = abs<f32>(score);
      if (weighs) score *= sqrt<f32>(load<f32>(v));
      store<f32>(out, score);
    }
  }
}

/**
 * args: split, dual (updated), values, words, columns, sums. z = mask∘(x + u), u += x - z. For every row four f64 at `sums`:
 * Σ (x - z)², Σ (z - z before)², Σ x², Σ (z before)².
 */
export function dualRows(first: i32, end: i32, args: usize, _scratch: usize): void {
  const columns = <i32>argument(args, 4);
  const wordBytes = (<usize>((columns + 31) >> 5)) << 2;
  for (let row = first; row < end; row++) {
    const offset = (<usize>row * columns) << 2;
    let z = argument(args, 0) + offset;
    let u = argument(args, 1) + offset;
    let x = argument(args, 2) + offset;
    const words = argument(args, 3) + <usize>row * wordBytes;
    let primals = f64x2.splat(0);
    let changes = f64x2.splat(0);
    let values = f64x2.splat(0);
    let splits = f64x2.splat(0);
    let c: i32 = 0;
    for (; c + 4 <= columns; c += 4, z += 16, u += 16, x += 16) {
      const value = v128.load(x);
      const dual = v128.load(u);
      const before = v128.load(z);
      const split = v128.and(f32x4.add(value, dual), keptLanes(words, c));
      const apart = f32x4.sub(value, split);
      v128.store(u, f32x4.add(dual, apart));
      v128.store(z, split);
      primals = f64x2.add(primals, squares(apart));
      changes = f64x2.add(changes, squares(f32x4.sub(split, before)));
      values = f64x2.add(values, squares(value));
      splits = f64x2.add(splits, squares(before));
    }
    let primal = both(primals);
    let change = both(changes);
    let size = both(values);
    let old = both(splits);
    for (; c < columns; c++, z += 4, u += 4, x += 4) {
      const value = load<f32>(x);
      const dual = load<f32>(u);
      const before = load<f32>(z);
      const split: f32 = isKept(words, c) ? value + dual : 0;
      const apart: f32 = value - split;
      store<f32>(u, dual + apart);
      store<f32>(z, split);
      const moved: f32 = split - before;
      primal += <f64>apart * <f64>apart;
      change += <f64>moved * <f64>moved;
      size += <f64>value * <f64>value;
      old += <f64>before * <f64>before;
    }
    const at = argument(args, 5) + ((<usize>row) << 5);
    store<f64>(at, primal);
    store<f64>(at, change, 8);
    store<f64>(at, size, 16);
    store<f64>(at, old, 24);
  }
}

/** Squares of four f32 in f64, lanes 0 and 2 and lanes 1 and 3 added. */
function squares(x: v128): v128 {
  const low = f64x2.promote_low_f32x4(x);
  const high = f64x2.promote_low_f32x4(v128.shuffle<i32>(x, x, 2, 3, 2, 3));
  return f64x2.add(f64x2.mul(low, low), f64x2.mul(high, high));
}

function both(x: v128): f64 {
  return f64x2.extract_lane(x, 0) + f64x2.extract_lane(x, 1);
}
