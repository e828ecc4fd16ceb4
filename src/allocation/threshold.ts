/**
 * One threshold over the scores of a whole model, found without holding them: a histogram over the leading bits of all
 * scores, then, around the bin where the threshold lies, one over the other bits for each linear. Exact. Pure.
 *
 * Scores are non-negative float32, whose bits sort as their values do; a sign bit is ignored, so that weights
 * themselves stand for |w|.
 */
import { binOfRank } from "./scores.js";

/** Bits that the second histogram resolves: a leading bin then holds some 10⁻⁵ of the weights. */
const LOW_BITS = 9;
const LOW_BINS = 2 ** LOW_BITS;

/** Room for the first pass over all linears. */
export function createLeadingBins(): Float64Array {
  return new Float64Array(2 ** (31 - LOW_BITS));
}

/** First pass: count a linear's scores into the leading bins. */
export function countLeading(bins: Float64Array, scores: Float32Array): void {
  const bits = new Uint32Array(scores.buffer, scores.byteOffset, scores.length);
  for (const pattern of bits) bins[(pattern & 0x7fffffff) >>> LOW_BITS]++;
}

/** The leading bin in which the threshold lies that `target` of all scores are below. */
export function leadingBin(bins: Float64Array, target: number): number {
  const total = bins.reduce((sum, count) => sum + count, 0);
  return binOfRank(bins, target * total)[0];
}

/** What the second pass learns of a linear. */
export interface BinCounts {
  readonly elements: number;
  /** Scores in earlier bins. */
  readonly below: number;
  /** Scores in the bin, by the bits that follow. */
  readonly within: Uint32Array;
}

/** Second pass: how a linear's scores lie about a leading bin. */
export function countAround(scores: Float32Array, bin: number): BinCounts {
  const bits = new Uint32Array(scores.buffer, scores.byteOffset, scores.length);
  const within = new Uint32Array(LOW_BINS);
  let below = 0;
  for (const pattern of bits) {
    const leading = (pattern & 0x7fffffff) >>> LOW_BITS;
    if (leading < bin) below++;
    else if (leading === bin) within[pattern & (LOW_BINS - 1)]++;
  }
  return { elements: scores.length, below, within };
}

/**
 * The share of each linear's scores that lie below the threshold; of scores that equal it, each linear loses the same
 * share, so that the weighted mean is the target to rounding.
 */
export function thresholdSparsities(linears: readonly BinCounts[], target: number): number[] {
  const within = new Float64Array(LOW_BINS);
  let [total, below] = [0, 0];
  for (const linear of linears) {
    total += linear.elements;
    below += linear.below;
    linear.within.forEach((count, bin) => (within[bin] += count));
  }
  const rank = target * total - below;
  const [bin, before] = binOfRank(within, rank);
  const tieShare = within[bin] === 0 ? 0 : (rank - before) / within[bin];
  return linears.map((linear) => {
    const smaller = linear.within.subarray(0, bin).reduce((sum, count) => sum + count, linear.below);
    return linear.elements === 0 ? target : (smaller + tieShare * linear.within[bin]) / linear.elements;
  });
}
