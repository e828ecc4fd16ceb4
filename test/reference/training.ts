/** Twins of the steps of training, from their formulas. A mask here is one byte per weight, 1 = kept. */

export interface ReferenceAdam {
  readonly values: ArrayLike<number>;
  readonly gradient: ArrayLike<number>;
  readonly first: ArrayLike<number>;
  readonly second: ArrayLike<number>;
  readonly gradientScale: number;
  readonly rate: number;
  readonly decay: readonly [number, number];
  readonly epsilon: number;
  readonly step: number;
  readonly pull?: { readonly split: ArrayLike<number>; readonly dual: ArrayLike<number>; readonly strength: number };
  readonly keep?: Uint8Array;
}

export interface AdamResult<A = Float64Array> {
  readonly values: A;
  readonly first: A;
  readonly second: A;
}

/** g' of every entry. */
export function referenceSlope({ values, gradient, gradientScale, pull }: ReferenceAdam): Float64Array {
  return Float64Array.from(gradient, (g, i) => {
    const apart = pull === undefined ? 0 : values[i] - pull.split[i] + pull.dual[i];
    return gradientScale * g + (pull?.strength ?? 0) * apart;
  });
}

/** One Adam step as the paper writes it, with both corrections of bias, in float64. */
export function referenceAdamStep(adam: ReferenceAdam): AdamResult {
  const { rate, epsilon, step, keep } = adam;
  const [b1, b2] = adam.decay;
  const slope = referenceSlope(adam);
  const isKept = (i: number): boolean => keep === undefined || keep[i] === 1;
  const first = slope.map((g, i) => (isKept(i) ? b1 * adam.first[i] + (1 - b1) * g : 0));
  const second = slope.map((g, i) => (isKept(i) ? b2 * adam.second[i] + (1 - b2) * g ** 2 : 0));
  const values = slope.map((_, i) => {
    const mean = first[i] / (1 - b1 ** step);
    const square = second[i] / (1 - b2 ** step);
    return isKept(i) ? adam.values[i] - (rate * mean) / (Math.sqrt(square) + epsilon) : 0;
  });
  return { values, first, second };
}

/**
 * The same with every operation and every scalar rounded to f32, in the order the contract gives: what a device computes
 * that fuses nothing. (A float64 operation on f32 numbers, rounded to f32, is the f32 operation.)
 */
export function roundedAdamStep(adam: ReferenceAdam): AdamResult<Float32Array> {
  const f = Math.fround;
  const { rate, step, keep, pull } = adam;
  const [b1, b2] = adam.decay;
  const [keepFirst, addFirst, keepSecond, addSecond] = [f(b1), f(1 - b1), f(b2), f(1 - b2)];
  const stepSize = f(rate / (1 - b1 ** step));
  const rootScale = f(1 / Math.sqrt(1 - b2 ** step));
  const [values, first, second] = [adam.values, adam.first, adam.second].map((array) => Float32Array.from(array));
  for (let i = 0; i < values.length; i++) {
    if (keep !== undefined && keep[i] === 0) {
      values[i] = first[i] = second[i] = 0;
      continue;
    }
    let slope = f(f(adam.gradientScale) * adam.gradient[i]);
    if (pull !== undefined) {
      slope = f(slope + f(f(pull.strength) * f(f(values[i] - pull.split[i]) + pull.dual[i])));
    }
    first[i] = f(f(keepFirst * first[i]) + f(addFirst * slope));
    second[i] = f(f(keepSecond * second[i]) + f(addSecond * f(slope * slope)));
    const size = f(f(f(Math.sqrt(second[i])) * rootScale) + f(adam.epsilon));
    values[i] = f(values[i] - f(f(stepSize * first[i]) / size));
  }
  return { values, first, second };
}

export function referenceSumOfSquares(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i] ** 2;
  return sum;
}

/** √second·|values + dual| */
export function referenceScores(
  values: ArrayLike<number>,
  dual: ArrayLike<number> | undefined,
  second: ArrayLike<number> | undefined,
): Float64Array {
  return Float64Array.from(values, (x, i) => Math.sqrt(second?.[i] ?? 1) * Math.abs(x + (dual?.[i] ?? 0)));
}

/** The new z and u, and the four sums of squares. */
export function referenceDualStep(
  values: ArrayLike<number>,
  split: ArrayLike<number>,
  dual: ArrayLike<number>,
  keep: Uint8Array,
): { readonly split: Float64Array; readonly dual: Float64Array; readonly sums: Readonly<Record<string, number>> } {
  const projected = Float64Array.from(keep, (bit, i) => (bit === 1 ? values[i] + dual[i] : 0));
  const apart = projected.map((z, i) => values[i] - z);
  return {
    split: projected,
    dual: apart.map((distance, i) => dual[i] + distance),
    sums: {
      primal: referenceSumOfSquares(apart),
      change: referenceSumOfSquares(projected.map((z, i) => z - split[i])),
      values: referenceSumOfSquares(values),
      split: referenceSumOfSquares(split),
    },
  };
}
