// One small symmetric positive definite system per weight row (contract: solveRowSystems in device.ts), in f64.
//
// With pruned columns q and kept columns p of a block, λ·K[q, q] = w[q]. Where p is the smaller set the same λ comes from
// A = K⁻¹: y = λ·K is known on q (w) and λ is zero on p, so y[p]·A[p, p] = -w[q]·A[q, p] and λ = y·A. The system is
// therefore never larger than half of the block.
//
// Factor: Cholesky by columns, each entry an inner product of two contiguous rows, four rows at a time. The right-hand
// side is one more row of the matrix, which makes the factorisation its forward substitution.

import { argument } from "./keys";

const LOSS_OF_FAILURE: f32 = 2e38;

// Layout of a thread's scratch, for blocks of `width` columns; entries of 8 bytes, so rows of f64 stay aligned to 16.
// order  pruned columns, then kept ones: u32, in 8 bytes for each column
// w      [width] f64
// t      [width] f64: w[q]·A[q, :], then λ on q
// m      f64: the system's rows and its right-hand side

/**
 * args: panel, rows (multiple of 16), width (even), columns, K (f64), A (f64), words, multipliers, losses, scales, keep,
 * group (0: the mask is given). Panel, multipliers [columns, rows]; K, A [columns, width]; words [.., rows]. Items: rows.
 */
export function solveRows(first: i32, end: i32, args: usize, scratch: usize): void {
  const columns = <i32>argument(args, 3);
  const stride = argument(args, 1) << 2;
  const rowBytes = argument(args, 2) << 3;
  const order = scratch;
  const w = order + rowBytes;
  const t = w + rowBytes;
  for (let row = first; row < end; row++) {
    const at = (<usize>row) << 2;
    for (let c: i32 = 0; c < columns; c++) {
      store<f64>(w + ((<usize>c) << 3), <f64>load<f32>(argument(args, 0) + <usize>c * stride + at));
    }
    if (argument(args, 11) > 0) chooseGroups(args, at, w);
    const pruned = listColumns(argument(args, 6) + at, stride, columns, order);
    const solved =
      2 * pruned <= columns
        ? solvePruned(argument(args, 4), rowBytes, pruned, order, w, t)
        : solveKept(argument(args, 5), rowBytes, pruned, columns, order, w, t);
    let sum: f64 = 0;
    for (let i: i32 = 0; i < columns; i++) {
      const c = columnOf(order, i);
      const lambda = solved && i < pruned ? load<f64>(t + (c << 3)) : 0;
      sum += lambda * load<f64>(w + (c << 3));
      store<f32>(argument(args, 7) + c * stride + at, <f32>lambda);
    }
    store<f32>(argument(args, 8) + at, solved ? <f32>(0.5 * sum) : LOSS_OF_FAILURE);
  }
}

/** Write the column numbers of pruned and then of kept columns; returns how many are pruned. */
function listColumns(words: usize, stride: usize, columns: i32, order: usize): i32 {
  let pruned: i32 = 0;
  for (let kept: u32 = 0; kept < 2; kept++) {
    for (let c: i32 = 0; c < columns; c++) {
      const word = load<u32>(words + <usize>(c >> 5) * stride);
      if (((word >> (c & 31)) & 1) != kept) continue;
      store<u32>(order, c);
      order += 4;
      pruned += 1 - <i32>kept;
    }
  }
  return pruned;
}

function columnOf(order: usize, i: i32): usize {
  return <usize>load<u32>(order + ((<usize>i) << 2));
}

/** t = λ from λ·K[q, q] = w[q]. */
function solvePruned(k: usize, rowBytes: usize, pruned: i32, order: usize, w: usize, t: usize): bool {
  const m = t + rowBytes;
  const bytes = systemRowBytes(pruned);
  gatherLower(k, rowBytes, order, pruned, m, bytes);
  const rhs = m + <usize>pruned * bytes;
  for (let i: i32 = 0; i < pruned; i++) {
    store<f64>(rhs + ((<usize>i) << 3), load<f64>(w + (columnOf(order, i) << 3)));
  }
  if (!factorAndSolve(m, bytes, pruned)) return false;
  for (let i: i32 = 0; i < pruned; i++) {
    store<f64>(t + (columnOf(order, i) << 3), load<f64>(rhs + ((<usize>i) << 3)));
  }
  return true;
}

/** t = λ = y·A with y = w on q and y[p]·A[p, p] = -w[q]·A[q, p]; correct on q. */
function solveKept(a: usize, rowBytes: usize, pruned: i32, columns: i32, order: usize, w: usize, t: usize): bool {
  const kept = columns - pruned;
  const m = t + rowBytes;
  const bytes = systemRowBytes(kept);
  const keptOrder = order + ((<usize>pruned) << 2);
  memory.fill(t, 0, rowBytes);
  for (let i: i32 = 0; i < pruned; i++) {
    const c = columnOf(order, i);
    addScaled(t, a + c * rowBytes, load<f64>(w + (c << 3)), rowBytes);
  }
  gatherLower(a, rowBytes, keptOrder, kept, m, bytes);
  const rhs = m + <usize>kept * bytes;
  for (let i: i32 = 0; i < kept; i++) {
    store<f64>(rhs + ((<usize>i) << 3), -load<f64>(t + (columnOf(keptOrder, i) << 3)));
  }
  if (!factorAndSolve(m, bytes, kept)) return false;
  for (let i: i32 = 0; i < kept; i++) {
    addScaled(t, a + columnOf(keptOrder, i) * rowBytes, load<f64>(rhs + ((<usize>i) << 3)), rowBytes);
  }
  return true;
}

/** An even number of f64. */
function systemRowBytes(n: i32): usize {
  return (<usize>((n + 1) & ~1)) << 3;
}

/** The lower triangle of matrix[order, order], row by row. */
function gatherLower(matrix: usize, rowBytes: usize, order: usize, n: i32, m: usize, bytes: usize): void {
  for (let i: i32 = 0; i < n; i++) {
    const from = matrix + columnOf(order, i) * rowBytes;
    const to = m + <usize>i * bytes;
    for (let j: i32 = 0; j <= i; j++) {
      store<f64>(to + ((<usize>j) << 3), load<f64>(from + (columnOf(order, j) << 3)));
    }
  }
}

/** x += factor·y, `bytes` of f64, a multiple of 16. */
function addScaled(x: usize, y: usize, factor: f64, bytes: usize): void {
  const f = f64x2.splat(factor);
  for (let at: usize = 0; at < bytes; at += 16) {
    v128.store(x + at, f64x2.add(v128.load(x + at), f64x2.mul(f, v128.load(y + at))));
  }
}

/** M = L·Lᵀ in place, M symmetric [n, n], lower triangle; row n, the right-hand side, becomes the solution. */
function factorAndSolve(m: usize, bytes: usize, n: i32): bool {
  for (let j: i32 = 0; j < n; j++) {
    const row = m + <usize>j * bytes;
    const diagonal = row + ((<usize>j) << 3);
    const pivot = load<f64>(diagonal) - dot(row, row, j);
    if (!(pivot > 0 && pivot < Infinity)) return false;
    const root = sqrt<f64>(pivot);
    store<f64>(diagonal, root);
    let i = j + 1;
    for (; i + 4 <= n + 1; i += 4) fourEntries(m + <usize>i * bytes, bytes, row, j, 1 / root);
    for (; i <= n; i++) {
      const other = m + <usize>i * bytes;
      const at = other + ((<usize>j) << 3);
      store<f64>(at, (load<f64>(at) - dot(other, row, j)) / root);
    }
  }
  const x = m + <usize>n * bytes;
  for (let j = n - 1; j >= 0; j--) {
    const row = m + <usize>j * bytes;
    const at = x + ((<usize>j) << 3);
    const value = load<f64>(at) / load<f64>(row + ((<usize>j) << 3));
    for (let k: i32 = 0; k < j; k++) {
      const to = x + ((<usize>k) << 3);
      store<f64>(to, load<f64>(to) - value * load<f64>(row + ((<usize>k) << 3)));
    }
    store<f64>(at, value);
  }
  return true;
}

/** Inner product of the first `count` entries of two rows. */
function dot(a: usize, b: usize, count: i32): f64 {
  const pairs = (<usize>(count & ~1)) << 3;
  let sum = f64x2.splat(0);
  for (let k: usize = 0; k < pairs; k += 16) sum = f64x2.add(sum, f64x2.mul(v128.load(a + k), v128.load(b + k)));
  const total = f64x2.extract_lane(sum, 0) + f64x2.extract_lane(sum, 1);
  return (count & 1) == 0 ? total : total + load<f64>(a + pairs) * load<f64>(b + pairs);
}

/** Entry j of four consecutive rows of L: they share the loads of row j. */
function fourEntries(rows: usize, bytes: usize, row: usize, j: i32, reciprocal: f64): void {
  const pairs = (<usize>(j & ~1)) << 3;
  const rows2 = rows + 2 * bytes;
  let s0 = f64x2.splat(0);
  let s1 = f64x2.splat(0);
  let s2 = f64x2.splat(0);
  let s3 = f64x2.splat(0);
  for (let k: usize = 0; k < pairs; k += 16) {
    const l = v128.load(row + k);
    s0 = f64x2.add(s0, f64x2.mul(v128.load(rows + k), l));
    s1 = f64x2.add(s1, f64x2.mul(v128.load(rows + bytes + k), l));
    s2 = f64x2.add(s2, f64x2.mul(v128.load(rows2 + k), l));
    s3 = f64x2.add(s3, f64x2.mul(v128.load(rows2 + bytes + k), l));
  }
  const last: f64 = (j & 1) == 0 ? 0 : load<f64>(row + pairs);
  finishEntry(rows, pairs, j, s0, last, reciprocal);
  finishEntry(rows + bytes, pairs, j, s1, last, reciprocal);
  finishEntry(rows2, pairs, j, s2, last, reciprocal);
  finishEntry(rows2 + bytes, pairs, j, s3, last, reciprocal);
}

function finishEntry(row: usize, pairs: usize, j: i32, sum: v128, last: f64, reciprocal: f64): void {
  let total = f64x2.extract_lane(sum, 0) + f64x2.extract_lane(sum, 1);
  if ((j & 1) == 1) total += load<f64>(row + pairs) * last;
  const at = row + ((<usize>j) << 3);
  store<f64>(at, (load<f64>(at) - total) * reciprocal);
}

/** N:M: write the mask words of one row; ties prune the lower column. `w` holds f32 values, so scores are as elsewhere. */
function chooseGroups(args: usize, at: usize, w: usize): void {
  const columns = <i32>argument(args, 3);
  const stride = argument(args, 1) << 2;
  const scales = argument(args, 9);
  const group = <i32>argument(args, 11);
  const pruned = group - <i32>argument(args, 10);
  const words = argument(args, 6) + at;
  for (let word: i32 = 0; 32 * word < columns; word++) store<u32>(words + <usize>word * stride, 0);
  for (let start: i32 = 0; start < columns; start += group) {
    for (let i = start; i < start + group; i++) {
      const score = scoreOf(w, scales, i);
      let rank: i32 = 0; // members pruned before i: smaller, or equal with a lower index
      for (let j = start; j < i; j++) rank += <i32>(scoreOf(w, scales, j) <= score);
      for (let j = i + 1; j < start + group; j++) rank += <i32>(scoreOf(w, scales, j) < score);
      const word = words + <usize>(i >> 5) * stride;
      store<u32>(word, load<u32>(word) | ((<u32>(rank >= pruned)) << (i & 31)));
    }
  }
}

function scoreOf(w: usize, scales: usize, c: i32): f32 {
  return abs<f32>(<f32>load<f64>(w + ((<usize>c) << 3))) * load<f32>(scales + ((<usize>c) << 2));
}
