/** Seeded random data for tests: the same seed gives the same numbers on every machine. */

/** Uniform numbers in [0, 1) (mulberry32). */
export function createRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** `count` normal numbers rounded to f32 (Box-Muller). */
export function normals(count: number, seed: number): Float32Array {
  const random = createRandom(seed);
  return Float32Array.from({ length: count }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - random()));
    return radius * Math.cos(2 * Math.PI * random());
  });
}

/** `count` positive numbers in [0.5, 1.5), rounded to f32. */
export function positives(count: number, seed: number): Float32Array {
  const random = createRandom(seed);
  return Float32Array.from({ length: count }, () => 0.5 + random());
}

/** Normal numbers rounded to multiples of `step`, so that many of them are equal. */
export function quantized(count: number, seed: number, step: number): Float32Array {
  return normals(count, seed).map((value) => Math.round(value / step) * step);
}

/** Correlated tokens: x[t, c] = 0.6 · x[t, c-1] + noise, channel scales between 0.5 and 1.5. [tokens, n] */
export function correlatedTokens(tokens: number, n: number, seed: number): Float32Array {
  const noise = normals(tokens * n, seed);
  const scales = positives(n, seed + 1);
  const x = new Float32Array(tokens * n);
  for (let t = 0; t < tokens; t++) {
    let previous = 0;
    for (let c = 0; c < n; c++) {
      previous = 0.6 * previous + noise[t * n + c];
      x[t * n + c] = previous * scales[c];
    }
  }
  return x;
}
