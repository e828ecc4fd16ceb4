/** Numbers that describe a unit by the scores of its weights: outliers, median, LAMP. Pure. */

/** One linear's weights, [outFeatures, inFeatures], and the norms of its input channels. */
export interface ScoredMatrix {
  readonly values: Float32Array;
  readonly norms: Float64Array;
}

/** 100 · share of the scores |w|·‖x‖ of some matrices above M times their mean. */
export function outlierPercent(matrices: readonly ScoredMatrix[], M: number): number {
  let sum = 0;
  let count = 0;
  for (const { values, norms } of matrices) {
    for (let i = 0, channel = 0; i < values.length; i++) {
      sum += Math.abs(values[i]) * norms[channel];
      if (++channel === norms.length) channel = 0;
    }
    count += values.length;
  }
  const threshold = (M * sum) / count;
  let outliers = 0;
  for (const { values, norms } of matrices) {
    for (let i = 0, channel = 0; i < values.length; i++) {
      if (Math.abs(values[i]) * norms[channel] > threshold) outliers++;
      if (++channel === norms.length) channel = 0;
    }
  }
  return count === 0 ? 0 : (100 * outliers) / count;
}

/** The median score |w|·‖x‖ of some matrices, exact to float32: two passes over a histogram of the scores' bits. */
export function medianScore(matrices: readonly ScoredMatrix[]): number {
  const count = matrices.reduce((sum, { values }) => sum + values.length, 0);
  const rank = Math.floor((count - 1) / 2); // of an even number the lower one, as torch.median takes
  const single = new Float32Array(1);
  const bits = new Uint32Array(single.buffer);
  const histogram = (isCounted: (pattern: number) => boolean, binOf: (pattern: number) => number): Uint32Array => {
    const bins = new Uint32Array(2 ** 16);
    for (const { values, norms } of matrices) {
      for (let i = 0, channel = 0; i < values.length; i++) {
        single[0] = Math.abs(values[i]) * norms[channel];
        if (isCounted(bits[0])) bins[binOf(bits[0])]++;
        if (++channel === norms.length) channel = 0;
      }
    }
    return bins;
  };
  const [high, before] = binOfRank(
    histogram(
      () => true,
      (pattern) => pattern >>> 16,
    ),
    rank,
  );
  const low = histogram(
    (pattern) => pattern >>> 16 === high,
    (pattern) => pattern & 0xffff,
  );
  bits[0] = high * 2 ** 16 + binOfRank(low, rank - before)[0];
  return single[0];
}

/** The bin that holds the element of a rank, and how many lie in earlier bins. */
export function binOfRank(bins: Uint32Array | Float64Array, rank: number): [bin: number, before: number] {
  let before = 0;
  for (let bin = 0; bin < bins.length; bin++) {
    if (before + bins[bin] > rank) return [bin, before];
    before += bins[bin];
  }
  return [bins.length - 1, before];
}

/** |w|·‖x‖ of every weight, in float32. */
export function wandaScores({ values, norms }: ScoredMatrix): Float32Array {
  const scores = new Float32Array(values.length);
  for (let i = 0, channel = 0; i < values.length; i++) {
    scores[i] = Math.abs(values[i]) * norms[channel];
    if (++channel === norms.length) channel = 0;
  }
  return scores;
}

/**
 * LAMP (Lee et al. 2021, arXiv:2010.07611): w² over the sum of the v² of its matrix that are not smaller. The largest
 * weight scores 1 where it is the only one, so that one threshold over all matrices empties none of them.
 * Sums in f64; weights that tie have one score.
 * @returns the matrix's scores in ascending order, float32
 */
export function lampScores(values: Float32Array): Float32Array {
  const magnitudes = sortedMagnitudes(values);
  const scores = new Float32Array(magnitudes.length);
  let suffix = 0;
  for (let end = magnitudes.length; end > 0;) {
    const magnitude = magnitudes[end - 1];
    let first = end - 1;
    while (first > 0 && magnitudes[first - 1] === magnitude) first--;
    const square = magnitude * magnitude;
    suffix += (end - first) * square;
    scores.fill(square === 0 ? 0 : square / suffix, first, end);
    end = first;
  }
  return scores;
}

/** |w| in ascending order: the bits of non-negative floats sort as their values do. */
function sortedMagnitudes(values: Float32Array): Float32Array {
  let from = new Uint32Array(values.length);
  from.set(new Uint32Array(values.buffer, values.byteOffset, values.length));
  let to = new Uint32Array(values.length);
  for (let i = 0; i < from.length; i++) from[i] &= 0x7fffffff;
  for (const shift of [0, 11, 22]) {
    const starts = new Uint32Array(2 ** 11 + 1);
    for (const bits of from) starts[((bits >>> shift) & 0x7ff) + 1]++;
    for (let bin = 1; bin < starts.length; bin++) starts[bin] += starts[bin - 1];
    for (const bits of from) to[starts[(bits >>> shift) & 0x7ff]++] = bits;
    [from, to] = [to, from];
  }
  return new Float32Array(from.buffer);
}
