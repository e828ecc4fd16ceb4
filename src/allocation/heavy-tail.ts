/**
 * The exponent of the power law that the tail of a weight's spectrum follows, for AlphaPruning (Lu et al. 2024,
 * arXiv:2410.10912). A smaller exponent, a heavier tail: the layer learnt more and is pruned less. Pure.
 */

/** How the start of the tail is chosen; see alphapruning.ts. */
export interface TailOptions {
  readonly xmin: "peak" | "mid";
  readonly xlow: "released" | "intended";
}

const HISTOGRAM_BINS = 100;

/**
 * Hill's estimate α = 1 + k / Σ ln(λ_t / λ_i) over the k largest eigenvalues, from a start i that is the median, or the
 * one near the peak of the density whose power law has the smallest Kolmogorov-Smirnov distance.
 *
 * @param eigenvalues of the Gram matrix, ascending; those that are zero up to rounding are left out
 * @returns undefined where there is no tail to fit: fewer than two different eigenvalues
 */
export function tailExponent(eigenvalues: Float64Array, { xmin, xlow }: TailOptions): number | undefined {
  const largest = eigenvalues[eigenvalues.length - 1] ?? 0;
  const noise = largest * eigenvalues.length * Number.EPSILON;
  const values = eigenvalues.filter((value) => value > noise);
  const logs = values.map(Math.log);
  const count = values.length;
  if (count < 2 || logs[count - 1] - logs[0] < 1e-9) return undefined;
  const suffix = new Float64Array(count + 1); // Σ ln λ from an index on
  for (let i = count - 1; i >= 0; i--) suffix[i] = suffix[i + 1] + logs[i];
  const exponentFrom = (start: number): number => {
    const k = count - start;
    return 1 + k / (suffix[start] - k * logs[start]);
  };
  if (xmin === "mid") {
    const exponent = exponentFrom(Math.floor(count / 2));
    return Number.isFinite(exponent) && exponent > 1 ? exponent : undefined;
  }
  const peak = 10 ** peakOf(logs.map((log) => log / Math.LN10));
  // The released code compares eigenvalues with a logarithm: far below what is meant, and mostly negative.
  const lowest = xlow === "released" ? Math.log10(0.95 * peak) : 0.95 * peak;
  let best: number | undefined;
  let smallestDistance = Infinity;
  for (let start = 0; start < count - 1 && values[start] <= 1.5 * peak; start++) {
    if (values[start] < lowest) continue;
    const exponent = exponentFrom(start);
    if (!(exponent > 1 && exponent < Infinity)) continue;
    const distance = fitDistance(logs, start, exponent, smallestDistance);
    if (distance < smallestDistance) [best, smallestDistance] = [exponent, distance];
  }
  return best;
}

/** Left boundary of the fullest of equal bins between the smallest and the largest value; of equals the first. */
function peakOf(values: Float64Array): number {
  const low = values[0];
  const width = values[values.length - 1] - low;
  const bins = new Uint32Array(HISTOGRAM_BINS);
  for (const value of values) {
    bins[Math.min(HISTOGRAM_BINS - 1, Math.floor(((value - low) / width) * HISTOGRAM_BINS))]++;
  }
  const fullest = bins.reduce((best, count, bin) => (count > bins[best] ? bin : best), 0);
  return low + (fullest / HISTOGRAM_BINS) * width;
}

/** max |1 - (λ_t / λ_i)^(1 - α) - (t - i) / k|; gives up above `limit`, returning some larger value. */
function fitDistance(logs: Float64Array, start: number, exponent: number, limit: number): number {
  const k = logs.length - start;
  let distance = 0;
  for (let t = start; t < logs.length; t++) {
    const fitted = 1 - Math.exp((1 - exponent) * (logs[t] - logs[start]));
    distance = Math.max(distance, Math.abs(fitted - (t - start) / k));
    if (distance >= limit) return distance;
  }
  return distance;
}
