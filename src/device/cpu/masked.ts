/**
 * Steps of the CPU device that follow a mask entry by entry: masked linear combinations, conjugate gradients, mask
 * differences. Memory-bound, so plain loops over typed arrays; coefficients are looked up by the mask's bit, because a
 * branch on random bits would be mispredicted half the time.
 */
import { maskWordsPerRow, type Coefficients } from "../device.js";
import { countBits } from "./panel-mask.js";

/** Coefficients by bit: [0] for pruned entries, [1] for kept ones. */
function byBit(pruned: number, kept: number): Float64Array {
  return Float64Array.of(pruned, kept);
}

export interface Combination {
  readonly a: Float32Array;
  readonly b: Float32Array;
  /** May be `a` or `b`. */
  readonly out: Float32Array;
  readonly words: Uint32Array;
  readonly rows: number;
  readonly columns: number;
  readonly kept: Coefficients;
  readonly pruned: Coefficients;
}

/** out = a·coefficient + b·coefficient. */
export function combine({ a, b, out, words, rows, columns, kept, pruned }: Combination): void {
  const fromA = byBit(pruned[0], kept[0]);
  const fromB = byBit(pruned[1], kept[1]);
  const wordsPerRow = maskWordsPerRow(columns);
  for (let r = 0; r < rows; r++) {
    for (let w = 0; w < wordsPerRow; w++) {
      const word = words[r * wordsPerRow + w];
      const start = r * columns + 32 * w;
      const count = Math.min(32, columns - 32 * w);
      let i = 0;
      // Four at a time, without a chain from shift to shift: nearly twice as fast.
      for (; i + 4 <= count; i += 4) {
        const bits = word >>> i;
        const at = start + i;
        out[at] = fromA[bits & 1] * a[at] + fromB[bits & 1] * b[at];
        out[at + 1] = fromA[(bits >>> 1) & 1] * a[at + 1] + fromB[(bits >>> 1) & 1] * b[at + 1];
        out[at + 2] = fromA[(bits >>> 2) & 1] * a[at + 2] + fromB[(bits >>> 2) & 1] * b[at + 2];
        out[at + 3] = fromA[(bits >>> 3) & 1] * a[at + 3] + fromB[(bits >>> 3) & 1] * b[at + 3];
      }
      for (; i < count; i++) {
        const bit = (word >>> i) & 1;
        out[start + i] = fromA[bit] * a[start + i] + fromB[bit] * b[start + i];
      }
    }
  }
}

/** dots[r] = Σ_c a[r, c]·b[r, c], summed in double precision. */
export function rowDots(a: Float32Array, b: Float32Array, rows: number, columns: number, dots: Float32Array): void {
  for (let r = 0; r < rows; r++) dots[r] = dot(a, b, r * columns, columns);
}

/** Four sums side by side: a single one would wait for every addition. */
function dot(a: Float32Array, b: Float32Array, start: number, count: number): number {
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  let i = start;
  const end = start + count;
  for (; i + 4 <= end; i += 4) {
    s0 += a[i] * b[i];
    s1 += a[i + 1] * b[i + 1];
    s2 += a[i + 2] * b[i + 2];
    s3 += a[i + 3] * b[i + 3];
  }
  for (; i < end; i++) s0 += a[i] * b[i];
  return s0 + s1 + (s2 + s3);
}

export interface ConjugateArrays {
  readonly solution: Float32Array;
  readonly residual: Float32Array;
  readonly direction: Float32Array;
  readonly product: Float32Array;
  readonly words: Uint32Array;
  readonly rows: number;
  readonly columns: number;
}

/** One step of conjugate gradients in every row; see `Device.conjugateStep`. */
export function conjugateStep(state: ConjugateArrays): void {
  const { solution, residual, direction, product, words, rows, columns } = state;
  const wordsPerRow = maskWordsPerRow(columns);
  for (let r = 0; r < rows; r++) {
    const start = r * columns;
    const square = dot(residual, residual, start, columns);
    const curvature = dot(direction, product, start, columns);
    if (!(square > 0 && curvature > 0)) continue;
    const alpha = square / curvature;
    for (let w = 0; w < wordsPerRow; w++) {
      let word = words[r * wordsPerRow + w];
      const end = Math.min(start + 32 * w + 32, start + columns);
      for (let i = start + 32 * w; i < end; i++, word >>>= 1) {
        solution[i] += alpha * direction[i];
        residual[i] = (residual[i] - alpha * product[i]) * (word & 1);
      }
    }
    const beta = dot(residual, residual, start, columns) / square;
    for (let i = start; i < start + columns; i++) direction[i] = residual[i] + beta * direction[i];
  }
}

/** Bits in which two masks differ. */
export function countDifferences(a: Uint32Array, b: Uint32Array): number {
  let total = 0;
  for (let i = 0; i < a.length; i++) total += countBits(a[i] ^ b[i]);
  return total;
}
