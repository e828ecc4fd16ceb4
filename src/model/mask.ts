/** Additive attention masks as tables: causal, optionally within a window or chunk, optionally with ALiBi slopes per head. */
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

/** The first key that a query sees. */
function firstKey({ window = Infinity, chunk = Infinity }: AttentionMask, query: number): number {
  return Math.max(0, query - window + 1, chunk === Infinity ? 0 : query - (query % chunk));
}

/** Row i (the query) of each table holds what is added to the scores of keys j. */
export function maskValues(mask: AttentionMask, tokens: number): Float32Array {
  const heads = mask.slopes ?? [0];
  const values = new Float32Array(heads.length * tokens * tokens).fill(MASKED);
  heads.forEach((slope, head) => {
    for (let query = 0; query < tokens; query++) {
      for (let key = firstKey(mask, query); key <= query; key++) {
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
export function fillMaskRow(mask: AttentionMask, query: number, row: Float32Array): void {
  const heads = mask.slopes ?? [0];
  const keys = row.length / heads.length;
  row.fill(MASKED);
  heads.forEach((slope, head) => {
    for (let key = firstKey(mask, query); key < query; key++) row[head * keys + key] = slope * (key - query);
  });
}
