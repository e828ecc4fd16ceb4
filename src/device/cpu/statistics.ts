/** Gram accumulation and column norms of the CPU device. */
import type { ResolvedView, StatisticsOperations } from "../device.js";
import { transpose } from "./elementwise.js";
import { rectangleOf, subRectangle, wholeMatrix, wholeOf, type CpuMatrix, type Rectangle } from "./matrix.js";
import { addSymmetricProduct, type ProductEngine } from "./products.js";
import type { WorkQueue } from "./queue.js";

export function statisticsOperations(
  queue: WorkQueue,
  products: ProductEngine,
): StatisticsOperations<CpuMatrix, ResolvedView<CpuMatrix>> {
  return {
    accumulateGram(x, gram) {
      const [tokens, target] = [rectangleOf(x), wholeOf(gram)];
      queue.enqueue(() => accumulateGram(products, tokens, target));
    },
    accumulateSquareSums(x, sums) {
      const [tokens, { values }] = [rectangleOf(x), sums];
      queue.enqueue(() => accumulateSquareSums(tokens, values));
    },
  };
}

/**
 * Tokens of one product: rounding errors grow with the length of a chain of additions, so partial sums of at most so
 * many tokens are added to the running Gram matrix.
 */
const TOKENS_PER_PRODUCT = 2048;

/** Lower triangle of gram += xᵀx. */
async function accumulateGram(engine: ProductEngine, x: Rectangle, gram: Rectangle): Promise<void> {
  for (let first = 0; first < x.rows; first += TOKENS_PER_PRODUCT) {
    const tokens = Math.min(TOKENS_PER_PRODUCT, x.rows - first);
    // Transposed once, every block of the triangle is a contiguous range of rows.
    const t = wholeMatrix(new Float32Array(x.columns * tokens), x.columns, tokens);
    transpose(subRectangle(x, first, tokens, 0, x.columns), t);
    await addSymmetricProduct(engine, t, gram, 1);
  }
}

/** sums[c] += Σ over rows of x[r, c]², added up in f64. */
function accumulateSquareSums(x: Rectangle, sums: Float32Array): void {
  const totals = new Float64Array(x.columns);
  for (let r = 0; r < x.rows; r++) {
    const row = x.values.subarray(x.offset + r * x.stride, x.offset + r * x.stride + x.columns);
    for (let c = 0; c < row.length; c++) totals[c] += row[c] * row[c];
  }
  for (let c = 0; c < totals.length; c++) sums[c] += totals[c];
}
