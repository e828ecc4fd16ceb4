/** Additive attention masks as tables: causal, optionally within a window, optionally with ALiBi slopes per head. */
import type { AttentionMask } from "./architecture.js";

/** What a masked score becomes: finite, so that no softmax ever meets inf - inf. */
const MASKED = -3e38;

/** [tokens, tokens] without slopes, [1, heads, tokens, tokens] with them. */
export function maskShape<Size extends number | string>(
  slopes: readonly number[] | undefined,
  tokens: Size,
): (Size | number)[] {
  return slopes === undefined ? [tokens, tokens] : [1, slopes.length, tokens, tokens];
}

/** Row i (the query) of each table holds what is added to the scores of keys j. */
export function maskValues({ window = Infinity, slopes }: AttentionMask, tokens: number): Float32Array {
  const heads = slopes ?? [0];
  const values = new Float32Array(heads.length * tokens * tokens).fill(MASKED);
  heads.forEach((slope, head) => {
    for (let query = 0; query < tokens; query++) {
      for (let key = Math.max(0, query - window + 1); key <= query; key++) {
        values[(head * tokens + query) * tokens + key] = slope * (key - query);
      }
    }
  });
  return values;
}

/**
 * The row of a query at position `query` over keys 0 … keys - 1 that are kept beside it, its own not among them:
 * [1 or heads, keys].
 */
export function fillMaskRow({ window = Infinity, slopes }: AttentionMask, query: number, row: Float32Array): void {
  const heads = slopes ?? [0];
  const keys = row.length / heads.length;
  row.fill(MASKED);
  heads.forEach((slope, head) => {
    for (let key = Math.max(0, query - window + 1); key < query; key++) row[head * keys + key] = slope * (key - query);
  });
}
