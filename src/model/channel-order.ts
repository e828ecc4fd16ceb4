/**
 * Changing the places of a group's input channels in a block's weights: columns of the linears that read them, and rows
 * and biases of what makes them. The block computes the same function, up to the order of its sums.
 */
import { lookUp } from "../look-up.js";
import type { BlockSpec, ChannelProducer, InputGroup } from "./architecture.js";
import { putMatrix, takeMatrix } from "./logical-matrix.js";

/** The values of one of a block's tensors, changed in place. */
type Weights = ReadonlyMap<string, Float32Array>;

/**
 * Put channel `order[i]` of a group's input in place i, in all linears of the group and in its producers.
 * @param order a permutation of the group's channels, [inFeatures]
 * @returns the roles of the tensors that changed
 */
export function reorderChannels(block: BlockSpec, weights: Weights, group: InputGroup, order: Int32Array): Set<string> {
  for (const linear of group.linears) {
    const { shape } = lookUp(block.tensors, linear.role);
    const stored = lookUp(weights, linear.role);
    const matrix = takeMatrix(stored, shape, linear);
    reorderColumns(matrix, order);
    putMatrix(matrix, stored, shape, linear);
  }
  const producers = group.producers ?? [];
  for (const producer of producers) {
    const shape = matrixShape(block, producer);
    const stored = lookUp(weights, producer.role);
    const matrix = takeMatrix(stored, shape, producer);
    reorderRows(matrix, order);
    putMatrix(matrix, stored, shape, producer);
  }
  return new Set([...group.linears, ...producers].map(({ role }) => role));
}

/** A bias is a matrix with one input. */
function matrixShape(block: BlockSpec, { role, kind }: ChannelProducer): readonly number[] {
  const { shape } = lookUp(block.tensors, role);
  return kind === "bias" ? [...shape, 1] : shape;
}

/** Row i becomes what row `order[i]` was, in place. */
export function reorderRows(matrix: Float32Array, order: Int32Array): void {
  const width = matrix.length / order.length;
  const isPlaced = new Uint8Array(order.length);
  for (let start = 0; start < order.length; start++) {
    if (isPlaced[start] !== 0 || order[start] === start) continue;
    const first = matrix.slice(start * width, (start + 1) * width);
    let row = start;
    for (; order[row] !== start; row = order[row]) {
      matrix.copyWithin(row * width, order[row] * width, (order[row] + 1) * width);
      isPlaced[row] = 1;
    }
    matrix.set(first, row * width);
    isPlaced[row] = 1;
  }
}

/** Column i becomes what column `order[i]` was, in place. */
export function reorderColumns(matrix: Float32Array, order: Int32Array): void {
  const columns = order.length;
  const before = new Float32Array(columns);
  for (let start = 0; start < matrix.length; start += columns) {
    before.set(matrix.subarray(start, start + columns));
    for (let i = 0; i < columns; i++) matrix[start + i] = before[order[i]];
  }
}
