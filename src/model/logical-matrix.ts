/**
 * Taking one linear's matrix [out, in] out of the tensor that stores it, and putting it back: stored tensors may be
 * transposed (Conv1D), stack experts, or fuse several linears along their outputs.
 */
import type { LinearSpec } from "./architecture.js";

/** What of a linear says where its matrix lies. */
type Place = Pick<LinearSpec, "inFeatures" | "outFeatures" | "inputAxis" | "slab" | "outputs">;

/** A run of outputs in the stored tensor and in the linear's own matrix. */
interface Piece {
  /** Offset of the first output's first value in the stored tensor. */
  readonly offset: number;
  /** Steps between a stored output's inputs, and between outputs. */
  readonly inputStep: number;
  readonly outputStep: number;
  readonly firstRow: number;
  readonly rows: number;
}

function piecesOf(linear: Place, shape: readonly number[]): Piece[] {
  const [rows, columns] = shape.slice(-2);
  const base = (linear.slab ?? 0) * rows * columns;
  const isTransposed = linear.inputAxis === 0;
  let firstRow = 0;
  return (linear.outputs ?? [{ first: 0, count: linear.outFeatures }]).map(({ first, count, step = 1 }) => {
    const piece = isTransposed
      ? { offset: base + first, inputStep: columns, outputStep: step, firstRow, rows: count }
      : { offset: base + first * columns, inputStep: 1, outputStep: step * columns, firstRow, rows: count };
    firstRow += count;
    return piece;
  });
}

/** Whether a linear is exactly its stored tensor, so that nothing needs copying. */
export function isWholeTensor({ inputAxis, slab, outputs }: Place): boolean {
  return inputAxis === 1 && slab === undefined && outputs === undefined;
}

/** [outFeatures, inFeatures], a copy unless the linear is the whole tensor. */
export function takeMatrix(stored: Float32Array, shape: readonly number[], linear: Place): Float32Array {
  if (isWholeTensor(linear)) return stored;
  const { inFeatures, outFeatures } = linear;
  const matrix = new Float32Array(outFeatures * inFeatures);
  for (const { offset, inputStep, outputStep, firstRow, rows } of piecesOf(linear, shape)) {
    if (inputStep === 1 && outputStep === inFeatures) {
      matrix.set(stored.subarray(offset, offset + rows * inFeatures), firstRow * inFeatures);
      continue;
    }
    for (let row = 0; row < rows; row++) {
      const from = offset + row * outputStep;
      const to = (firstRow + row) * inFeatures;
      for (let input = 0; input < inFeatures; input++) matrix[to + input] = stored[from + input * inputStep];
    }
  }
  return matrix;
}

/** The inverse of `takeMatrix`: overwrite the linear's values in the stored tensor. */
export function putMatrix(matrix: Float32Array, stored: Float32Array, shape: readonly number[], linear: Place): void {
  const { inFeatures } = linear;
  for (const { offset, inputStep, outputStep, firstRow, rows } of piecesOf(linear, shape)) {
    if (inputStep === 1 && outputStep === inFeatures) {
      stored.set(matrix.subarray(firstRow * inFeatures, (firstRow + rows) * inFeatures), offset);
      continue;
    }
    for (let row = 0; row < rows; row++) {
      const from = (firstRow + row) * inFeatures;
      const to = offset + row * outputStep;
      for (let input = 0; input < inFeatures; input++) stored[to + input * inputStep] = matrix[from + input];
    }
  }
}

/** How many of a linear's weights are zero in the stored tensor. */
export function countZeros(stored: Float32Array, shape: readonly number[], linear: Place): number {
  const matrix = takeMatrix(stored, shape, linear);
  const bits = new Int32Array(matrix.buffer, matrix.byteOffset, matrix.length);
  let kept = 0;
  // Without a branch, which half-sparse data would mispredict half the time: m | -m is negative unless m is 0.
  for (let i = 0; i < bits.length; i++) {
    const magnitude = bits[i] & 0x7fffffff;
    kept += (magnitude | -magnitude) >>> 31;
  }
  return matrix.length - kept;
}
