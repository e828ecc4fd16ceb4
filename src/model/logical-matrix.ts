/**
 * Taking one linear's matrix [out, in] out of the tensor that stores it, and putting it back: stored tensors may be
 * transposed (Conv1D), stack experts, or fuse several linears along their outputs.
 */
import type { LinearSpec } from "./architecture.js";

/** Whether a linear is exactly its stored tensor, so that nothing needs copying. */
export function isWholeTensor({ inputAxis, slab, outputs }: LinearSpec): boolean {
  return inputAxis === 1 && slab === undefined && outputs === undefined;
}

/** Where each output lies: offset of its first value and the step between its inputs. */
function* outputPlaces(linear: LinearSpec, shape: readonly number[]): Generator<{ offset: number; step: number }> {
  const [rows, columns] = shape.slice(-2);
  const base = (linear.slab ?? 0) * rows * columns;
  const ranges = linear.outputs ?? [{ first: 0, count: linear.outFeatures }];
  for (const { first, count } of ranges) {
    for (let output = first; output < first + count; output++) {
      yield linear.inputAxis === 1
        ? { offset: base + output * columns, step: 1 }
        : { offset: base + output, step: columns };
    }
  }
}

/** [outFeatures, inFeatures], a copy unless the linear is the whole tensor. */
export function takeMatrix(stored: Float32Array, shape: readonly number[], linear: LinearSpec): Float32Array {
  if (isWholeTensor(linear)) return stored;
  const { inFeatures, outFeatures } = linear;
  const matrix = new Float32Array(outFeatures * inFeatures);
  let row = 0;
  for (const { offset, step } of outputPlaces(linear, shape)) {
    for (let input = 0; input < inFeatures; input++) matrix[row * inFeatures + input] = stored[offset + input * step];
    row++;
  }
  return matrix;
}

/** The inverse of `takeMatrix`: overwrite the linear's values in the stored tensor. */
export function putMatrix(
  matrix: Float32Array,
  stored: Float32Array,
  shape: readonly number[],
  linear: LinearSpec,
): void {
  if (isWholeTensor(linear)) {
    stored.set(matrix);
    return;
  }
  const { inFeatures } = linear;
  let row = 0;
  for (const { offset, step } of outputPlaces(linear, shape)) {
    for (let input = 0; input < inFeatures; input++) stored[offset + input * step] = matrix[row * inFeatures + input];
    row++;
  }
}

/** How many of a linear's weights are zero in the stored tensor. */
export function countZeros(stored: Float32Array, shape: readonly number[], linear: LinearSpec): number {
  let zeros = 0;
  for (const { offset, step } of outputPlaces(linear, shape)) {
    for (let input = 0; input < linear.inFeatures; input++) if (stored[offset + input * step] === 0) zeros++;
  }
  return zeros;
}
