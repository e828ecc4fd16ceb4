/**
 * The scalars of an Adam step, computed in f64 and rounded to f32 once, so that both devices use the same ones.
 * Nothing here knows matrices.
 */
import type { AdamOptions } from "./device.js";

/** All of them f32 values. */
export interface AdamConstants {
  readonly gradientScale: number;
  /** 0 without a pull: z and u need not be read then. */
  readonly strength: number;
  /** b1 and 1 - b1. */
  readonly keepFirst: number;
  readonly addFirst: number;
  /** b2 and 1 - b2. */
  readonly keepSecond: number;
  readonly addSecond: number;
  /** rate / (1 - b1^step) */
  readonly stepSize: number;
  /** 1 / √(1 - b2^step) */
  readonly rootScale: number;
  readonly epsilon: number;
}

export function adamConstants<M, K>(options: AdamOptions<M, K>): AdamConstants {
  const { gradientScale, rate, epsilon, step, pull } = options;
  const [b1, b2] = options.decay;
  return {
    gradientScale: Math.fround(gradientScale),
    strength: Math.fround(pull?.strength ?? 0),
    keepFirst: Math.fround(b1),
    addFirst: Math.fround(1 - b1),
    keepSecond: Math.fround(b2),
    addSecond: Math.fround(1 - b2),
    stepSize: Math.fround(rate / (1 - b1 ** step)),
    rootScale: Math.fround(1 / Math.sqrt(1 - b2 ** step)),
    epsilon: Math.fround(epsilon),
  };
}
