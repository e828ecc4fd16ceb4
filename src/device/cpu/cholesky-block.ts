/** The smallest piece of a factorisation on the CPU device: one diagonal block, in f64, by a WebAssembly kernel. */
import type { CholeskyFailure } from "../device.js";
import { defineKernel, type KernelPool } from "./kernel-pool.js";
import { copyRectangle, subRectangle, wholeMatrix, type Rectangle } from "./matrix.js";

const CHOLESKY_BLOCK = defineKernel("choleskyBlock");

/** Factor one diagonal block in place and write its inverse; returns the failing column inside the block. */
export function factorBlock(pool: KernelPool, block: Rectangle, inverse: Rectangle): CholeskyFailure | undefined {
  const width = block.rows;
  pool.reset(2 * 8 * width * (width + 1));
  const staged = pool.allocate(4 * width * width);
  const inverted = pool.allocate(4 * width * width);
  const status = pool.allocate(16);
  const values = pool.floats(staged, width * width);
  copyRectangle(block, wholeMatrix(values, width, width));
  pool.run({ kernel: CHOLESKY_BLOCK, items: 1, grain: 1, args: [staged, inverted, width, status] });
  const column = pool.words(status, 1)[0];
  if (column >= 0) return { column, pivot: pool.doubles(status + 8, 1)[0] };
  copyRectangle(wholeMatrix(pool.floats(staged, width * width), width, width), block);
  copyRectangle(
    wholeMatrix(pool.floats(inverted, width * width), width, width),
    subRectangle(inverse, 0, width, 0, width),
  );
  return undefined;
}
