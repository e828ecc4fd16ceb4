// The OBS sweep of one panel, vectorised over rows: a tile of 16 rows is copied to thread-local memory (8 KiB, so
// that the panel's stride cannot thrash the cache), eliminated 8 columns at a time, and copied back.
//
//   e = w_c / U_cc for pruned entries, w_c = 0;   w_j -= e·U_cj for every later column j of the panel
//
// Masks are transposed as in select-panel.ts.

import { argument } from "./keys";

const TILE_BYTES: usize = 64; // one column of a tile: 16 rows
const BLOCK: i32 = 8;

// Layout of a thread's scratch.
const ERRORS: usize = 128 * 64; // [8][16] after the tile [128][16]
const LANES: usize = ERRORS + 8 * 64; // [64][16] keep lanes of the current group
const SCORES: usize = LANES + 64 * 64; // [64][4]
const LOSSES: usize = SCORES + 64 * 16; // [16]

/**
 * args: panel, rows (multiple of 16), panelColumns, inverse, inverseStride, first, columns, words, keep, group
 * (0: the mask is given), losses. Items are tiles of 16 rows.
 */
export function sweepTiles(first: i32, end: i32, args: usize, scratch: usize): void {
  const stride = argument(args, 1) << 2;
  const panelColumns = <i32>argument(args, 2);
  const firstColumn = <i32>argument(args, 5);
  for (let tile = first; tile < end; tile++) {
    const rows = (<usize>tile) << 6;
    const panel = argument(args, 0) + rows;
    for (let c = firstColumn; c < panelColumns; c++) {
      copyColumn(panel + <usize>c * stride, scratch + <usize>c * TILE_BYTES);
    }
    memory.fill(scratch + LOSSES, 0, TILE_BYTES);
    sweepTile(args, rows, scratch);
    for (let c = firstColumn; c < panelColumns; c++) {
      copyColumn(scratch + <usize>c * TILE_BYTES, panel + <usize>c * stride);
    }
    const losses = argument(args, 10) + rows;
    for (let q: usize = 0; q < 64; q += 16) {
      v128.store(losses + q, f32x4.add(v128.load(losses + q), v128.load(scratch + LOSSES + q)));
    }
  }
}

function copyColumn(from: usize, to: usize): void {
  v128.store(to, v128.load(from));
  v128.store(to, v128.load(from, 16), 16);
  v128.store(to, v128.load(from, 32), 32);
  v128.store(to, v128.load(from, 48), 48);
}

function sweepTile(args: usize, rows: usize, tile: usize): void {
  const panelColumns = <i32>argument(args, 2);
  const inverse = argument(args, 3);
  const inverseStride = argument(args, 4) << 2;
  const firstColumn = <i32>argument(args, 5);
  const end = firstColumn + <i32>argument(args, 6);
  const group = <i32>argument(args, 9);
  let start = firstColumn;
  while (start < end) {
    // A group of N:M must be up to date when its mask is chosen, so no block reaches into a group it does not contain.
    let width = min<i32>(BLOCK, end - start);
    if (group > 0) {
      const inGroup = (start - firstColumn) % group;
      if (group > BLOCK) width = min<i32>(width, group - inGroup);
      else width = min<i32>(width, BLOCK - (BLOCK % group));
    }
    for (let i: i32 = 0; i < width; i++) {
      const column = start + i;
      const inGroup = group > 0 ? (column - firstColumn) % group : 0;
      if (group > 0 && inGroup == 0) chooseGroup(args, rows, tile, column);
      eliminate(args, rows, tile, column, i, start + width, inGroup);
    }
    if (width == BLOCK)
      updateLater8(inverse + <usize>start * inverseStride, inverseStride, tile, start + width, panelColumns);
    else updateLater(inverse + <usize>start * inverseStride, inverseStride, tile, width, start + width, panelColumns);
    start += width;
  }
}

/** Errors of one column, and the update of the columns left in its block. */
function eliminate(args: usize, rows: usize, tile: usize, column: i32, slot: i32, blockEnd: i32, inGroup: i32): void {
  const row = argument(args, 3) + <usize>column * (argument(args, 4) << 2);
  const reciprocal = f32x4.splat(<f32>1 / load<f32>(row + ((<usize>column) << 2)));
  const half = f32x4.splat(0.5);
  const words = argument(args, 7) + rows + <usize>(column >> 5) * (argument(args, 1) << 2);
  const chosen = argument(args, 9) > 0;
  const shift = 31 - (column & 31);
  for (let q: usize = 0; q < 64; q += 16) {
    const kept = chosen
      ? v128.load(tile + LANES + <usize>inGroup * TILE_BYTES + q)
      : i32x4.shr_s(i32x4.shl(v128.load(words + q), shift), 31);
    const at = tile + <usize>column * TILE_BYTES + q;
    const w = v128.load(at);
    const e = v128.andnot(f32x4.mul(w, reciprocal), kept);
    v128.store(at, v128.and(w, kept));
    v128.store(tile + ERRORS + <usize>slot * TILE_BYTES + q, e);
    const loss = tile + LOSSES + q;
    v128.store(loss, f32x4.add(v128.load(loss), f32x4.mul(half, f32x4.mul(e, e))));
    for (let j = column + 1; j < blockEnd; j++) {
      const later = tile + <usize>j * TILE_BYTES + q;
      const u = v128.load32_splat(row + ((<usize>j) << 2));
      v128.store(later, f32x4.sub(v128.load(later), f32x4.mul(e, u)));
    }
  }
}

/** Columns [from, end) receive the update of a full block of 8: the hot loop. `row` is the block's first row of U. */
function updateLater8(row: usize, stride: usize, tile: usize, from: i32, end: i32): void {
  const row2 = row + 2 * stride;
  const row4 = row + 4 * stride;
  const row6 = row + 6 * stride;
  for (let q: usize = 0; q < 64; q += 16) {
    const errors = tile + ERRORS + q;
    const e0 = v128.load(errors);
    const e1 = v128.load(errors, 64);
    const e2 = v128.load(errors, 128);
    const e3 = v128.load(errors, 192);
    const e4 = v128.load(errors, 256);
    const e5 = v128.load(errors, 320);
    const e6 = v128.load(errors, 384);
    const e7 = v128.load(errors, 448);
    let at = tile + <usize>from * TILE_BYTES + q;
    const stop = tile + <usize>end * TILE_BYTES;
    let u = (<usize>from) << 2;
    for (; at < stop; at += TILE_BYTES, u += 4) {
      // Two partial sums halve the chain of dependent additions.
      let even = f32x4.mul(e0, v128.load32_splat(row + u));
      let odd = f32x4.mul(e1, v128.load32_splat(row + stride + u));
      even = f32x4.add(even, f32x4.mul(e2, v128.load32_splat(row2 + u)));
      odd = f32x4.add(odd, f32x4.mul(e3, v128.load32_splat(row2 + stride + u)));
      even = f32x4.add(even, f32x4.mul(e4, v128.load32_splat(row4 + u)));
      odd = f32x4.add(odd, f32x4.mul(e5, v128.load32_splat(row4 + stride + u)));
      even = f32x4.add(even, f32x4.mul(e6, v128.load32_splat(row6 + u)));
      odd = f32x4.add(odd, f32x4.mul(e7, v128.load32_splat(row6 + stride + u)));
      v128.store(at, f32x4.sub(v128.load(at), f32x4.add(even, odd)));
    }
  }
}

/** The same for a narrower block. */
function updateLater(row: usize, stride: usize, tile: usize, width: i32, from: i32, end: i32): void {
  for (let j = from; j < end; j++) {
    for (let q: usize = 0; q < 64; q += 16) {
      const at = tile + <usize>j * TILE_BYTES + q;
      let w = v128.load(at);
      for (let i: i32 = 0; i < width; i++) {
        const e = v128.load(tile + ERRORS + <usize>i * TILE_BYTES + q);
        w = f32x4.sub(w, f32x4.mul(e, v128.load32_splat(row + <usize>i * stride + ((<usize>j) << 2))));
      }
      v128.store(at, w);
    }
  }
}

/** Choose the mask of the group that starts at `column`, from the weights as they are now; write lanes and bits. */
function chooseGroup(args: usize, rows: usize, tile: usize, column: i32): void {
  const group = <i32>argument(args, 9);
  const lastPruned = i32x4.splat(group - <i32>argument(args, 8) - 1);
  const inverse = argument(args, 3);
  const inverseStride = argument(args, 4) << 2;
  const wordStride = argument(args, 1) << 2;
  const sign = i32x4.splat(0x7fffffff);
  for (let q: usize = 0; q < 64; q += 16) {
    for (let i: i32 = 0; i < group; i++) {
      const c = <usize>(column + i);
      const reciprocal = f32x4.splat(<f32>1 / load<f32>(inverse + c * inverseStride + (c << 2)));
      const score = f32x4.mul(v128.and(v128.load(tile + c * TILE_BYTES + q), sign), reciprocal);
      v128.store(tile + SCORES + ((<usize>i) << 4), score);
    }
    for (let i: i32 = 0; i < group; i++) {
      const score = v128.load(tile + SCORES + ((<usize>i) << 4));
      let rank = i32x4.splat(0); // members pruned before i: smaller, or equal with a lower index
      for (let j: i32 = 0; j < i; j++)
        rank = i32x4.sub(rank, f32x4.le(v128.load(tile + SCORES + ((<usize>j) << 4)), score));
      for (let j = i + 1; j < group; j++)
        rank = i32x4.sub(rank, f32x4.lt(v128.load(tile + SCORES + ((<usize>j) << 4)), score));
      const kept = i32x4.gt_s(rank, lastPruned);
      v128.store(tile + LANES + <usize>i * TILE_BYTES + q, kept);
      const c = column + i;
      const bit = i32x4.splat(1 << (c & 31));
      const word = argument(args, 7) + rows + <usize>(c >> 5) * wordStride + q;
      v128.store(word, v128.bitselect(kept, v128.load(word), bit));
    }
  }
}
