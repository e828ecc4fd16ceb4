/** Products, the reversed Cholesky, triangular and symmetric inverses, on every device, against identities in float64. */
import { test } from "node:test";
import assert from "node:assert/strict";
import { describeOnDevices } from "../helpers/devices.js";
import { assertSameBits, assertWithin, F32_ROUNDOFF } from "../helpers/compare.js";
import { correlatedTokens, normals } from "../reference/random.js";
import { referenceGram, referenceMatmul } from "../reference/products.js";
import { referenceCholeskyReversed, referenceUpperInverse } from "../reference/cholesky.js";
import { isCholeskyFailure, type Device, type ReversedCholesky } from "../../src/device/device.js";

const PRODUCTS = [
  { m: 1, n: 1, k: 1 },
  { m: 1, n: 130, k: 17 },
  { m: 63, n: 1, k: 64 },
  { m: 64, n: 65, k: 15 },
  { m: 65, n: 63, k: 52 },
  { m: 130, n: 67, k: 129 },
  { m: 128, n: 200, k: 300 },
  { m: 31, n: 260, k: 1 },
];

/** A symmetric positive definite matrix with unit mean diagonal plus damping, both triangles, rounded to f32. */
function dampedGram(n: number, seed: number, damping = 0.01): Float32Array {
  const tokens = 2 * n + 8;
  const gram = referenceGram(correlatedTokens(tokens, n, seed), tokens, n);
  let mean = 0;
  for (let i = 0; i < n; i++) mean += gram[i * n + i] / n;
  const h = Float32Array.from(gram, (value) => value / mean);
  for (let i = 0; i < n; i++) h[i * n + i] += damping;
  return h;
}

/** Factor H given its lower triangle; the upper one holds garbage that must not be read. */
async function factor(device: Device, h: Float32Array, n: number, panelWidth: number) {
  const lower = h.map((value, i) => (i % n <= Math.floor(i / n) ? value : 1e30));
  const matrix = device.uploadMatrix(lower, n, n, "h");
  const result = await device.choleskyReversed(matrix, panelWidth);
  return { matrix, result };
}

function disposeFactor(cholesky: ReversedCholesky): void {
  cholesky.factor[Symbol.dispose]();
  cholesky.panelInverses[Symbol.dispose]();
  cholesky.diagonal[Symbol.dispose]();
}

await describeOnDevices((device) => {
  test("matmul computes all four combinations of transposes with alpha and beta", async () => {
    for (const shape of PRODUCTS) {
      const { m, n, k } = shape;
      for (const [transposeA, transposeB] of [
        [false, false],
        [false, true],
        [true, false],
        [true, true],
      ]) {
        const a = normals(m * k, m + k);
        const b = normals(k * n, n + k);
        const start = normals(m * n, 3);
        using left = device().uploadMatrix(a, transposeA ? k : m, transposeA ? m : k, "a");
        using right = device().uploadMatrix(b, transposeB ? n : k, transposeB ? k : n, "b");
        using out = device().uploadMatrix(start, m, n, "out");
        device().matmul({
          a: { matrix: left },
          b: { matrix: right },
          out: { matrix: out },
          transposeA,
          transposeB,
          alpha: -0.5,
          beta: 2,
        });
        const product = referenceMatmul(a, b, shape, transposeA, transposeB);
        const magnitude = referenceMatmul(a.map(Math.abs), b.map(Math.abs), shape, transposeA, transposeB);
        const expected = product.map((value, i) => -0.5 * value + 2 * start[i]);
        // k products, k additions, and the addition of beta·out.
        const bound = (i: number): number => (k + 3) * F32_ROUNDOFF * (0.5 * magnitude[i] + 2 * Math.abs(start[i]));
        const what = `${m}x${n}x${k}${transposeA ? " Aᵀ" : ""}${transposeB ? " Bᵀ" : ""}`;
        assertWithin(await device().download({ matrix: out }), expected, bound, what);
      }
    }
  });

  test("matmul adds to and subtracts from whole rows of a matrix, also from one of its own factors", async () => {
    const { m, n, k } = { m: 40, n: 70, k: 40 };
    const [a, b, start] = [normals(m * k, 1), normals(k * n, 2), normals(60 * n, 3)];
    using left = device().uploadMatrix(a, m, k, "a");
    for (const [alpha, beta] of [
      [1, 0],
      [1, 1],
      [-1, 0],
      [-1, 1],
    ]) {
      for (const own of [false, true]) {
        using right = device().uploadMatrix(b, k, n, "b");
        using third = device().uploadMatrix(start, 60, n, "out");
        const before = own ? b : start.subarray(9 * n, (9 + m) * n);
        const out = own ? { matrix: right } : { matrix: third, firstRow: 9, rows: m };
        device().matmul({ a: { matrix: left }, b: { matrix: right }, out, alpha, beta });
        const magnitude = referenceMatmul(a.map(Math.abs), b.map(Math.abs), { m, n, k });
        const expected = referenceMatmul(a, b, { m, n, k }).map((value, i) => alpha * value + beta * before[i]);
        const bound = (i: number): number => (k + 3) * F32_ROUNDOFF * (magnitude[i] + Math.abs(before[i]));
        assertWithin(await device().download(out), expected, bound, `alpha ${alpha}, beta ${beta}, own ${own}`);
        if (own) continue;
        const above = await device().download({ matrix: third, rows: 9 });
        assertSameBits(above, start.subarray(0, 9 * n), "rows above are left alone");
      }
    }
  });

  test("matmul reads only its views, writes only its view and does not read `out` where beta is 0", async () => {
    const pick = (
      values: Float32Array,
      stride: number,
      r0: number,
      rows: number,
      c0: number,
      columns: number,
    ): Float32Array =>
      Float32Array.from(
        { length: rows * columns },
        (_, i) => values[(r0 + Math.floor(i / columns)) * stride + c0 + (i % columns)],
      );
    for (const [transposeA, transposeB] of [
      [false, false],
      [false, true],
      [true, false],
      [true, true],
    ]) {
      const { m, n, k } = { m: 33, n: 41, k: 29 };
      const aShape = transposeA ? [k, m] : [m, k];
      const bShape = transposeB ? [n, k] : [k, n];
      const a = normals(80 * 90, 5);
      const b = normals(70 * 60, 6);
      using left = device().uploadMatrix(a, 80, 90, "a");
      using right = device().uploadMatrix(b, 70, 60, "b");
      using out = device().uploadMatrix(new Float32Array(50 * 55).fill(NaN), 50, 55, "out");
      device().matmul({
        a: { matrix: left, firstRow: 7, rows: aShape[0], firstColumn: 11, columns: aShape[1] },
        b: { matrix: right, firstRow: 2, rows: bShape[0], firstColumn: 5, columns: bShape[1] },
        out: { matrix: out, firstRow: 9, rows: m, firstColumn: 13, columns: n },
        transposeA,
        transposeB,
      });
      const x = pick(a, 90, 7, aShape[0], 11, aShape[1]);
      const y = pick(b, 60, 2, bShape[0], 5, bShape[1]);
      const expected = referenceMatmul(x, y, { m, n, k }, transposeA, transposeB);
      const magnitude = referenceMatmul(x.map(Math.abs), y.map(Math.abs), { m, n, k }, transposeA, transposeB);
      const actual = await device().download({ matrix: out });
      const inner = pick(actual, 55, 9, m, 13, n);
      assertWithin(inner, expected, (i) => (k + 1) * F32_ROUNDOFF * magnitude[i], "inside");
      assert.equal(actual.filter(Number.isNaN).length, 50 * 55 - m * n, "entries outside the view are untouched");
    }
  });

  test("matmul of full row ranges of one matrix by another gives the same bytes twice", async () => {
    using a = device().uploadMatrix(normals(300 * 140, 7), 300, 140, "a");
    using b = device().uploadMatrix(normals(140 * 90, 8), 140, 90, "b");
    const run = async (): Promise<Float32Array> => {
      using out = device().createMatrix(128, 90, "out");
      device().matmul({ a: { matrix: a, firstRow: 128, rows: 128 }, b: { matrix: b }, out: { matrix: out } });
      return await device().download({ matrix: out });
    };
    assertSameBits(await run(), await run(), "second run");
  });

  test("choleskyReversed gives L with LᵀL = H, its diagonal, and the inverses of the diagonal blocks", async () => {
    const sizes = [
      [1, 128],
      [1, 8],
      [63, 128],
      [64, 128],
      [130, 128],
      [130, 8],
      [200, 120],
      [200, 126],
      [344, 128],
      [344, 126],
    ];
    for (const [n, panelWidth] of sizes) {
      const h = dampedGram(n, n);
      const { matrix, result } = await factor(device(), h, n, panelWidth);
      assert.ok(!isCholeskyFailure(result), `n ${n}: pivot ${JSON.stringify(result)}`);
      assert.equal(result.factor, matrix, "in place");
      assert.equal(result.panelWidth, panelWidth);
      const raw = await device().download({ matrix });
      const l = raw.map((value, i) => (i % n <= Math.floor(i / n) ? value : 0));
      // Backward error of a Cholesky of order n: (n + 1)·u·|Lᵀ||L| <= (n + 1)·u·sqrt(H_ii·H_jj); times 4 for the
      // panels computed by an explicit inverse of the diagonal block instead of a triangular solve.
      const bound = (i: number): number =>
        4 * (n + 1) * F32_ROUNDOFF * Math.sqrt(h[Math.floor(i / n) * (n + 1)] * h[(i % n) * (n + 1)]);
      const what = `n ${n}, panels of ${panelWidth}`;
      assertWithin(referenceMatmul(l, l, { m: n, n, k: n }, true, false), h, bound, `LᵀL, ${what}`);

      const diagonal = await device().download({ matrix: result.diagonal });
      assertSameBits(
        diagonal,
        Float32Array.from({ length: n }, (_, i) => l[i * n + i]),
        `diagonal, ${what}`,
      );

      const panels = Math.ceil(n / panelWidth);
      assert.deepEqual([result.panelInverses.rows, result.panelInverses.columns], [panels * panelWidth, panelWidth]);
      const inverses = await device().download({ matrix: result.panelInverses });
      for (let p = 0; p < panels; p++) {
        const start = p * panelWidth;
        const width = Math.min(panelWidth, n - start);
        const block = inverses.subarray(start * panelWidth, (start + panelWidth) * panelWidth);
        const inside = (i: number): boolean => i % panelWidth < width && Math.floor(i / panelWidth) <= i % panelWidth;
        block.forEach(
          (value, i) => inside(i) || assert.equal(value, 0, `zeros outside V, panel ${p}, entry ${i}, ${what}`),
        );
        const r = new Float64Array(width * width);
        const v = new Float64Array(width * width);
        for (let i = 0; i < width; i++) {
          for (let j = i; j < width; j++) {
            r[i * width + j] = l[(start + j) * n + start + i]; // R = Lᵀ
            v[i * width + j] = block[i * panelWidth + j];
          }
        }
        const shape = { m: width, n: width, k: width };
        const identity = Float64Array.from(r, (_, i) => Number(i % (width + 1) === 0));
        // Triangular inversion: |VR - I| <= c·width·u·|V||R|.
        const magnitude = referenceMatmul(v.map(Math.abs), r.map(Math.abs), shape);
        assertWithin(
          referenceMatmul(v, r, shape),
          identity,
          (i) => 4 * (width + 1) * F32_ROUNDOFF * magnitude[i],
          `V·R, ${what}`,
        );
      }
      disposeFactor(result);
    }
  });

  test("choleskyReversed agrees with the float64 factor within the matrix's condition", async () => {
    const n = 200;
    const h = dampedGram(n, 21);
    const expected = referenceCholeskyReversed(h, n);
    assert.ok(expected instanceof Float64Array);
    const { result } = await factor(device(), h, n, 128);
    assert.ok(!isCholeskyFailure(result));
    const l = await device().download({ matrix: result.factor });
    // Perturbation bound: ‖ΔL‖ <= cond(H)·‖ΔH‖/‖H‖·‖L‖; the spectrum of H lies in [0.01, 30], so cond <= 3000; rounding
    // in H is sqrt(n)·u in the mean square sense.
    let difference = 0;
    let norm = 0;
    for (let i = 0; i < n; i++) {
      for (let j = 0; j <= i; j++) {
        difference += (l[i * n + j] - expected[j * n + i]) ** 2;
        norm += expected[j * n + i] ** 2;
      }
    }
    assert.ok(
      Math.sqrt(difference / norm) < 3000 * Math.sqrt(n) * F32_ROUNDOFF,
      `relative error ${Math.sqrt(difference / norm)}`,
    );
    disposeFactor(result);
  });

  test("choleskyReversed names the column of the first pivot that is not positive", async () => {
    for (const [n, column] of [
      [5, 3],
      [64, 0],
      [64, 63],
      [200, 131],
      [200, 100],
      [300, 17],
    ]) {
      const h = new Float32Array(n * n);
      for (let i = 0; i < n; i++) h[i * n + i] = i === column ? -0.25 : 2;
      const { matrix, result } = await factor(device(), h, n, 128);
      assert.ok(isCholeskyFailure(result), `n ${n}`);
      assert.equal(result.column, column);
      assert.equal(result.pivot, -0.25);
      matrix[Symbol.dispose]();
    }
  });

  test("choleskyReversed treats a pivot that is not finite as a failure", async () => {
    const n = 70;
    const h = dampedGram(n, 3);
    h[40 * n + 40] = NaN;
    const { matrix, result } = await factor(device(), h, n, 128);
    assert.ok(isCholeskyFailure(result));
    assert.equal(result.column, 40);
    assert.ok(Number.isNaN(result.pivot) || !(result.pivot > 0));
    matrix[Symbol.dispose]();
  });

  test("the device works on after a failed factorisation", async () => {
    using a = device().uploadMatrix(Float32Array.of(-1), 1, 1, "negative");
    assert.ok(isCholeskyFailure(await device().choleskyReversed(a, 8)));
    using b = device().uploadMatrix(Float32Array.of(3), 1, 1, "b");
    device().scale(b, 2);
    assertSameBits(await device().download({ matrix: b }), Float32Array.of(6), "later work");
  });

  test("scaling H by 4 scales the factor by exactly 2", async () => {
    const n = 150;
    const h = dampedGram(n, 5);
    const factors: Float32Array[] = [];
    for (const multiple of [1, 4]) {
      const { result } = await factor(
        device(),
        h.map((value) => value * multiple),
        n,
        128,
      );
      assert.ok(!isCholeskyFailure(result));
      const l = await device().download({ matrix: result.factor });
      factors.push(l.map((value, i) => (i % n <= Math.floor(i / n) ? value : 0)));
      disposeFactor(result);
    }
    assertSameBits(
      factors[1],
      factors[0].map((value) => 2 * value),
      "powers of two pass through all roundings",
    );
  });

  test("triangularInverse gives U = R⁻¹ with zeros below the diagonal", async () => {
    for (const [n, panelWidth] of [
      [1, 128],
      [63, 128],
      [130, 128],
      [200, 120],
      [260, 8],
      [300, 126],
    ]) {
      const h = dampedGram(n, n + 1);
      const { result } = await factor(device(), h, n, panelWidth);
      assert.ok(!isCholeskyFailure(result));
      using out = device().uploadMatrix(new Float32Array(n * n).fill(99), n, n, "u");
      device().triangularInverse(result, out);
      const u = await device().download({ matrix: out });
      const l = await device().download({ matrix: result.factor });
      const r = Float64Array.from({ length: n * n }, (_, i) =>
        i % n >= Math.floor(i / n) ? l[(i % n) * n + Math.floor(i / n)] : 0,
      );
      const expected = referenceUpperInverse(r, n);
      u.forEach((value, i) => i % n >= Math.floor(i / n) || assert.equal(value, 0, `below the diagonal, entry ${i}`));
      // Componentwise: |U - R⁻¹| <= c·n·u·|R⁻¹||R||R⁻¹|, with c = 4 for the blocked products.
      const magnitude = (x: Float64Array): Float64Array => x.map(Math.abs);
      const shape = { m: n, n, k: n };
      const bounds = referenceMatmul(
        referenceMatmul(magnitude(expected), magnitude(r), shape),
        magnitude(expected),
        shape,
      );
      assertWithin(u, expected, (i) => 4 * (n + 1) * F32_ROUNDOFF * bounds[i], `n ${n}, panels of ${panelWidth}`);
      disposeFactor(result);
    }
  });

  test("invertPositiveDefinite gives both triangles of the inverse from the lower one", async () => {
    for (const n of [1, 2, 63, 128, 130, 257, 400, 530]) {
      const h = dampedGram(n, n + 2);
      const lower = h.map((value, i) => (i % n <= Math.floor(i / n) ? value : 1e30));
      using matrix = device().uploadMatrix(lower, n, n, "h");
      assert.equal(await device().invertPositiveDefinite(matrix), undefined);
      const actual = await device().download({ matrix });
      const r = referenceCholeskyReversed(h, n);
      assert.ok(r instanceof Float64Array);
      const u = referenceUpperInverse(r, n);
      const shape = { m: n, n, k: n };
      const expected = referenceMatmul(u, u, shape, true); // R⁻ᵀ·R⁻¹
      const magnitude = expected.map(Math.abs);
      const bounds = referenceMatmul(referenceMatmul(magnitude, h.map(Math.abs), shape), magnitude, shape);
      // Componentwise |K - H⁻¹| <= c·n·u·|K||H||K|, as for the triangular inverse.
      assertWithin(actual, expected, (i) => 4 * (n + 1) * F32_ROUNDOFF * bounds[i], `n ${n}`);
      const mirrored = actual.map((_, i) => actual[(i % n) * n + Math.floor(i / n)]);
      assertSameBits(actual, mirrored, `n ${n}: symmetric`);
    }
  });

  test("invertPositiveDefinite names the column of the first pivot that is not positive", async () => {
    for (const [n, column] of [
      [5, 3],
      [200, 131],
      [300, 17],
      [600, 0],
      [600, 300],
    ]) {
      const h = new Float32Array(n * n);
      for (let i = 0; i < n; i++) h[i * n + i] = i === column ? -0.25 : 2;
      using matrix = device().uploadMatrix(h, n, n, "h");
      assert.deepEqual(await device().invertPositiveDefinite(matrix), { column, pivot: -0.25 }, `n ${n}`);
    }
  });
});
