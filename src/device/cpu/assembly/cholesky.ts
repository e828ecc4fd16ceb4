// The diagonal blocks of the reversed Cholesky, in f64: they are few, small and on the critical path of accuracy.

import { argument } from "./keys";

/**
 * One block A [width, width] (f32, row stride `width`, lower triangle read): A = LᵀL, from the last row up.
 * args: block (L written over it, f32), inverse V = (Lᵀ)⁻¹ (f32, upper triangular, row stride `width`, zeros below),
 * width, status (i32 failing column or -1, then its f64 pivot at +8). scratch: two f64 matrices. One item.
 */
export function choleskyBlock(_first: i32, _end: i32, args: usize, scratch: usize): void {
  const block = argument(args, 0);
  const inverse = argument(args, 1);
  const width = <i32>argument(args, 2);
  const status = argument(args, 3);
  const rowBytes = ((<usize>width + 1) & ~(<usize>1)) << 3; // even number of f64 per row
  for (let i: i32 = 0; i < width; i++) {
    for (let j: i32 = 0; j <= i; j++) {
      const value = load<f32>(block + ((<usize>(i * width + j)) << 2));
      store<f64>(scratch + <usize>i * rowBytes + ((<usize>j) << 3), <f64>value);
    }
  }
  store<i32>(status, factor(scratch, width, rowBytes, status + 8));
  if (load<i32>(status) >= 0) return;
  const v = scratch + <usize>width * rowBytes;
  invert(scratch, v, width, rowBytes);
  for (let i: i32 = 0; i < width; i++) {
    for (let j: i32 = 0; j < width; j++) {
      const at = (<usize>(i * width + j)) << 2;
      const from = <usize>i * rowBytes + ((<usize>j) << 3);
      if (j <= i) store<f32>(block + at, <f32>load<f64>(scratch + from));
      store<f32>(inverse + at, j >= i ? <f32>load<f64>(v + from) : 0);
    }
  }
}

/** L over A, both lower; returns the first column, from the last, whose pivot is not positive and finite, or -1. */
function factor(a: usize, width: i32, rowBytes: usize, pivotAt: usize): i32 {
  for (let j = width - 1; j >= 0; j--) {
    const row = a + <usize>j * rowBytes;
    const pivot = load<f64>(row + ((<usize>j) << 3));
    if (!(pivot > 0 && pivot < Infinity)) {
      store<f64>(pivotAt, pivot);
      return j;
    }
    const diagonal = sqrt<f64>(pivot);
    store<f64>(row + ((<usize>j) << 3), diagonal);
    for (let i: i32 = 0; i < j; i++) {
      const at = row + ((<usize>i) << 3);
      store<f64>(at, load<f64>(at) / diagonal);
    }
    for (let i: i32 = 0; i < j; i++) {
      // A[i, 0..i] -= L[j, i]·L[j, 0..i]; an odd last pair may touch A[i, i + 1], which nobody reads.
      const target = a + <usize>i * rowBytes;
      const f = f64x2.splat(load<f64>(row + ((<usize>i) << 3)));
      const bytes = (<usize>(i + 1)) << 3;
      for (let k: usize = 0; k < bytes; k += 16) {
        v128.store(target + k, f64x2.sub(v128.load(target + k), f64x2.mul(f, v128.load(row + k))));
      }
    }
  }
  return -1;
}

/** V = (Lᵀ)⁻¹ upper: V[i, j] = -(Σ_{i <= k < j} V[i, k]·L[j, k]) / L[j, j]; rows of V and of L are contiguous. */
function invert(l: usize, v: usize, width: i32, rowBytes: usize): void {
  for (let i: i32 = 0; i < width; i++) {
    const row = v + <usize>i * rowBytes;
    const even = (<usize>(i & ~1)) << 3; // start pairs at an even column, where V[i, i - 1] is put to 0
    store<f64>(row + even, 0);
    store<f64>(row + ((<usize>i) << 3), 1 / load<f64>(l + <usize>i * rowBytes + ((<usize>i) << 3)));
    for (let j = i + 1; j < width; j++) {
      const other = l + <usize>j * rowBytes;
      const at = row + ((<usize>j) << 3);
      store<f64>(at, 0);
      let sum = f64x2.splat(0);
      // The last pair may read V[i, j] = 0 times L[j, j], which adds nothing.
      for (let k = even; k < (<usize>j) << 3; k += 16) {
        sum = f64x2.add(sum, f64x2.mul(v128.load(row + k), v128.load(other + k)));
      }
      const total = f64x2.extract_lane(sum, 0) + f64x2.extract_lane(sum, 1);
      store<f64>(at, -total / load<f64>(other + ((<usize>j) << 3)));
    }
  }
}
