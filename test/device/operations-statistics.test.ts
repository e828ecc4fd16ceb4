/** Gram accumulation and column norms, on every device, against float64 sums. */
import { test } from "node:test";
import { describeOnDevices } from "../helpers/devices.js";
import { assertSameBits, assertWithin, F32_ROUNDOFF } from "../helpers/compare.js";
import { correlatedTokens, normals } from "../reference/random.js";
import { referenceGram, referenceSquareSums } from "../reference/products.js";

const SHAPES = [
  [1, 1],
  [1, 67],
  [17, 64],
  [48, 130],
  [53, 63],
  [64, 65],
  [130, 31],
  [33, 260],
  [300, 129],
] as const; // [tokens, n]

await describeOnDevices((device) => {
  test("accumulateGram adds xᵀx to the lower triangle of what was there", async () => {
    for (const [tokens, n] of SHAPES) {
      const x = correlatedTokens(tokens, n, n);
      const start = normals(n * n, 2);
      using batch = device().uploadMatrix(x, tokens, n, "x");
      using gram = device().uploadMatrix(start, n, n, "gram");
      device().accumulateGram({ matrix: batch }, gram);
      const actual = await device().download({ matrix: gram });
      const expected = referenceGram(x, tokens, n).map((value, i) => value + start[i]);
      // Inner products of length `tokens` plus one addition: (tokens + 1)·u·(Σ|x||x| + |start|).
      const magnitude = referenceGram(x.map(Math.abs), tokens, n);
      const lower = (i: number): boolean => i % n <= Math.floor(i / n);
      const bound = (i: number): number =>
        lower(i) ? (tokens + 2) * F32_ROUNDOFF * (magnitude[i] + Math.abs(start[i])) : Infinity;
      assertWithin(actual, expected, bound, `gram of [${tokens}, ${n}]`);
    }
  });

  test("accumulateGram over row ranges equals one call over all rows within rounding", async () => {
    const [tokens, n] = [157, 66];
    const x = correlatedTokens(tokens, n, 3);
    using batch = device().uploadMatrix(x, tokens, n, "x");
    using gram = device().createMatrix(n, n, "gram");
    device().accumulateGram({ matrix: batch, firstRow: 0, rows: 50 }, gram);
    device().accumulateGram({ matrix: batch, firstRow: 50, rows: 107 }, gram);
    const magnitude = referenceGram(x.map(Math.abs), tokens, n);
    const bound = (i: number): number =>
      i % n <= Math.floor(i / n) ? (tokens + 2) * F32_ROUNDOFF * magnitude[i] : Infinity;
    assertWithin(await device().download({ matrix: gram }), referenceGram(x, tokens, n), bound, "split gram");
  });

  test("accumulateGram of more than 2048 tokens keeps rounding at the level of short chains", async () => {
    const [tokens, n] = [5000, 9];
    const x = correlatedTokens(tokens, n, 4).map((value) => value + 3); // an offset: all products of one sign
    using batch = device().uploadMatrix(x, tokens, n, "x");
    using gram = device().createMatrix(n, n, "gram");
    device().accumulateGram({ matrix: batch }, gram);
    const magnitude = referenceGram(x.map(Math.abs), tokens, n);
    // Chains of at most 2048 tokens, then one addition per chain.
    const bound = (i: number): number =>
      i % n <= Math.floor(i / n) ? (2048 + 4) * F32_ROUNDOFF * magnitude[i] : Infinity;
    assertWithin(await device().download({ matrix: gram }), referenceGram(x, tokens, n), bound, "long gram");
  });

  test("accumulateSquareSums adds the column sums of squares to what was there", async () => {
    for (const [tokens, n] of SHAPES) {
      const x = correlatedTokens(tokens, n, n + 1);
      const start = normals(n, 5).map(Math.abs);
      using batch = device().uploadMatrix(x, tokens, n, "x");
      using sums = device().uploadMatrix(start, 1, n, "sums");
      device().accumulateSquareSums({ matrix: batch }, sums);
      device().accumulateSquareSums({ matrix: batch }, sums);
      const expected = referenceSquareSums(x, tokens, n).map((value, c) => 2 * value + start[c]);
      // All terms positive: chain length times u, relative.
      const bound = (c: number): number => (tokens + 3) * F32_ROUNDOFF * expected[c];
      assertWithin(await device().download({ matrix: sums }), expected, bound, `sums of [${tokens}, ${n}]`);
    }
  });

  test("statistics of the same tokens are the same bytes twice", async () => {
    const [tokens, n] = [200, 131];
    const x = correlatedTokens(tokens, n, 6);
    using batch = device().uploadMatrix(x, tokens, n, "x");
    const run = async (): Promise<readonly Float32Array[]> => {
      using gram = device().createMatrix(n, n, "gram");
      using sums = device().createMatrix(1, n, "sums");
      device().accumulateGram({ matrix: batch }, gram);
      device().accumulateSquareSums({ matrix: batch }, sums);
      return [await device().download({ matrix: gram }), await device().download({ matrix: sums })];
    };
    const first = await run();
    const second = await run();
    const lower = (values: Float32Array): Float32Array =>
      values.map((value, i) => (i % n <= Math.floor(i / n) ? value : 0));
    assertSameBits(lower(second[0]), lower(first[0]), "gram");
    assertSameBits(second[1], first[1], "sums");
  });
});
