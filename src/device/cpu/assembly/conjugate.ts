// Conjugate gradients of all rows of a matrix side by side: sums in f64, updates in f32.

import { argument } from "./keys";

/**
 * args: solution, residual, direction, product (all [rows, columns]), words, columns. Items are rows: one step in each, as
 * `Device.conjugateStep` says. A row whose residual or curvature is not positive is left as it is.
 */
export function conjugateRows(first: i32, end: i32, args: usize, _scratch: usize): void {
  const columns = <i32>argument(args, 5);
  const wordBytes = (<usize>((columns + 31) >> 5)) << 2;
  for (let row = first; row < end; row++) {
    const offset = (<usize>row * columns) << 2;
    const solution = argument(args, 0) + offset;
    const residual = argument(args, 1) + offset;
    const direction = argument(args, 2) + offset;
    const product = argument(args, 3) + offset;
    const square = dot(residual, residual, columns);
    const curvature = dot(direction, product, columns);
    if (!(square > 0 && curvature > 0)) continue;
    const words = argument(args, 4) + <usize>row * wordBytes;
    const alpha = <f32>(square / curvature);
    step(solution, residual, direction, product, words, alpha, columns);
    follow(direction, residual, <f32>(dot(residual, residual, columns) / square), columns);
  }
}

/** Σ a[i]·b[i] in f64, in four sums. */
function dot(a: usize, b: usize, columns: i32): f64 {
  let low = f64x2.splat(0);
  let high = f64x2.splat(0);
  let c: i32 = 0;
  for (; c + 4 <= columns; c += 4, a += 16, b += 16) {
    low = f64x2.add(low, f64x2.mul(promote(a), promote(b)));
    high = f64x2.add(high, f64x2.mul(promote(a + 8), promote(b + 8)));
  }
  low = f64x2.add(low, high);
  let sum = f64x2.extract_lane(low, 0) + f64x2.extract_lane(low, 1);
  for (; c < columns; c++, a += 4, b += 4) sum += <f64>load<f32>(a) * <f64>load<f32>(b);
  return sum;
}

function promote(at: usize): v128 {
  return f64x2.promote_low_f32x4(v128.load64_zero(at));
}

/** x += α·d, r = mask∘(r - α·q). */
function step(x: usize, r: usize, d: usize, q: usize, words: usize, alpha: f32, columns: i32): void {
  const factor = f32x4.splat(alpha);
  const lanes = i32x4(1, 2, 4, 8);
  const zero = i32x4.splat(0);
  let c: i32 = 0;
  for (; c + 4 <= columns; c += 4, x += 16, r += 16, d += 16, q += 16) {
    const bits = i32x4.splat(<i32>(load<u32>(words + ((<usize>(c >> 5)) << 2)) >> (c & 31)));
    const kept = i32x4.ne(v128.and(bits, lanes), zero);
    v128.store(x, f32x4.add(v128.load(x), f32x4.mul(factor, v128.load(d))));
    v128.store(r, v128.and(kept, f32x4.sub(v128.load(r), f32x4.mul(factor, v128.load(q)))));
  }
  for (; c < columns; c++, x += 4, r += 4, d += 4, q += 4) {
    const bit = (load<u32>(words + ((<usize>(c >> 5)) << 2)) >> (c & 31)) & 1;
    store<f32>(x, load<f32>(x) + alpha * load<f32>(d));
    store<f32>(r, bit != 0 ? load<f32>(r) - alpha * load<f32>(q) : 0);
  }
}

/** d = r + β·d. */
function follow(d: usize, r: usize, beta: f32, columns: i32): void {
  const factor = f32x4.splat(beta);
  let c: i32 = 0;
  for (; c + 4 <= columns; c += 4, d += 16, r += 16) {
    v128.store(d, f32x4.add(v128.load(r), f32x4.mul(factor, v128.load(d))));
  }
  for (; c < columns; c++, d += 4, r += 4) store<f32>(d, load<f32>(r) + beta * load<f32>(d));
}
