/** Masked combinations, row sums, conjugate gradient steps, mask differences, row scaling, mirroring: on every device. */
import { test } from "node:test";
import assert from "node:assert/strict";
import { describeOnDevices } from "../helpers/devices.js";
import { assertSameBits, assertWithin, F32_ROUNDOFF } from "../helpers/compare.js";
import { gramOfTokens } from "../helpers/layer-problem.js";
import { correlatedTokens, createRandom, normals } from "../reference/random.js";
import { referenceMatmul } from "../reference/products.js";
import {
  referenceCombine,
  referenceConjugateStep,
  referenceRowDots,
  type ReferenceConjugateState,
} from "../reference/masked.js";
import { packMask } from "../reference/selection.js";

const SHAPES = [
  [1, 1],
  [3, 31],
  [2, 33],
  [65, 127],
  [64, 256],
  [5, 1031],
] as const;

function randomMask(count: number, seed: number): Uint8Array {
  const random = createRandom(seed);
  return Uint8Array.from({ length: count }, () => Number(random() < 0.6));
}

await describeOnDevices((device) => {
  test("combine with coefficients of 0 and ±1 rounds once, into a third matrix and into either argument", async () => {
    const kept = [1, -1] as const;
    const pruned = [-1, -1] as const;
    for (const [rows, columns] of SHAPES) {
      const [x, y] = [normals(rows * columns, 1), normals(rows * columns, 2)];
      const keep = randomMask(rows * columns, 3);
      const expected = Float32Array.from(referenceCombine(x, y, keep, kept, pruned));
      using mask = device().uploadMask(packMask(keep, rows, columns), rows, columns, "mask");
      for (const into of ["third", "a", "b"] as const) {
        using a = device().uploadMatrix(x, rows, columns, "a");
        using b = device().uploadMatrix(y, rows, columns, "b");
        using third = device().createMatrix(rows, columns, "third");
        const out = { third, a, b }[into];
        device().combine({ a, b, out, mask, kept, pruned });
        assertSameBits(await device().download({ matrix: out }), expected, `[${rows}, ${columns}] into ${into}`);
        if (into !== "a") assertSameBits(await device().download({ matrix: a }), x, "a is left alone");
      }
    }
  });

  test("combine takes its four coefficients where they belong", async () => {
    const [rows, columns] = [37, 70];
    const [x, y] = [normals(rows * columns, 4), normals(rows * columns, 5)];
    const keep = randomMask(rows * columns, 6);
    const [kept, pruned] = [
      [0.25, 3],
      [-0.7, 1.1],
    ] as const;
    using mask = device().uploadMask(packMask(keep, rows, columns), rows, columns, "mask");
    using a = device().uploadMatrix(x, rows, columns, "a");
    using b = device().uploadMatrix(y, rows, columns, "b");
    device().combine({ a, b, out: b, mask, kept, pruned });
    const expected = referenceCombine(x, y, keep, kept, pruned);
    // Coefficients, two products and a sum are rounded: at most four roundings of terms up to 3|x|, 3|y|.
    const bound = (i: number): number => 4 * F32_ROUNDOFF * 3 * (Math.abs(x[i]) + Math.abs(y[i]));
    assertWithin(await device().download({ matrix: b }), expected, bound, "combine");
  });

  test("combinePair gives the two combinations of the values before it", async () => {
    for (const [rows, columns] of SHAPES) {
      const [x, y] = [normals(rows * columns, 12), normals(rows * columns, 13)];
      const keep = randomMask(rows * columns, 14);
      using mask = device().uploadMask(packMask(keep, rows, columns), rows, columns, "mask");
      using a = device().uploadMatrix(x, rows, columns, "a");
      using b = device().uploadMatrix(y, rows, columns, "b");
      using out = device().uploadMatrix(new Float32Array(rows * columns).fill(NaN), rows, columns, "out");
      const toOut = { kept: [1, -1], pruned: [-1, -1] } as const;
      const toA = { kept: [0.25, 3], pruned: [-0.7, 1.1] } as const;
      device().combinePair({ a, b, out, mask, toOut, toA });
      const what = `[${rows}, ${columns}]`;
      const first = Float32Array.from(referenceCombine(x, y, keep, toOut.kept, toOut.pruned));
      assertSameBits(await device().download({ matrix: out }), first, `${what}: out`);
      const second = referenceCombine(x, y, keep, toA.kept, toA.pruned);
      const bound = (i: number): number => 4 * F32_ROUNDOFF * 3 * (Math.abs(x[i]) + Math.abs(y[i]));
      assertWithin(await device().download({ matrix: a }), second, bound, `${what}: a`);
      assertSameBits(await device().download({ matrix: b }), y, `${what}: b is left alone`);
    }
  });

  test("copy takes over every bit", async () => {
    for (const [rows, columns] of SHAPES) {
      const values = normals(rows * columns, 15);
      values[0] = -0;
      using source = device().uploadMatrix(values, rows, columns, "source");
      using target = device().uploadMatrix(normals(rows * columns, 16), rows, columns, "target");
      device().copy(source, target);
      device().scale(source, 2);
      assertSameBits(await device().download({ matrix: target }), values, `[${rows}, ${columns}]`);
    }
  });

  test("rowDots sums every row, also of a matrix with itself", async () => {
    for (const [rows, columns] of SHAPES) {
      const [x, y] = [normals(rows * columns, 7), normals(rows * columns, 8)];
      using a = device().uploadMatrix(x, rows, columns, "a");
      using b = device().uploadMatrix(y, rows, columns, "b");
      using dots = device().createMatrix(1, rows, "dots");
      for (const [other, values] of [
        [b, y],
        [a, x],
      ] as const) {
        device().rowDots(a, other, dots);
        const magnitudes = referenceRowDots(x.map(Math.abs), values.map(Math.abs), rows);
        // One rounding per product and per addition of the longest chain, columns / 256 + 8.
        const bound = (r: number): number => (columns / 256 + 10) * F32_ROUNDOFF * magnitudes[r];
        assertWithin(await device().download({ matrix: dots }), referenceRowDots(x, values, rows), bound, "dots");
      }
    }
  });

  test("conjugate gradient steps follow the textbook and reach the solution on the kept entries", async () => {
    const [rows, columns, steps] = [19, 45, 12];
    const gram = gramOfTokens(correlatedTokens(400, columns, 9), 400, columns);
    for (let c = 0; c < columns; c++) gram[c * (columns + 1)] += 400; // condition below 10
    const keep = randomMask(rows * columns, 10);
    keep.fill(0, 0, columns); // a row without kept entries stays at rest
    const target = normals(rows * columns, 11);
    const residual = Float64Array.from(
      referenceMatmul(target, gram, { m: rows, n: columns, k: columns }),
      (value, i) => keep[i] * Math.fround(value),
    );
    let twin: ReferenceConjugateState = {
      solution: new Float64Array(rows * columns),
      residual,
      direction: residual.slice(),
    };
    using a = device().uploadMatrix(Float32Array.from(gram), columns, columns, "A");
    using mask = device().uploadMask(packMask(keep, rows, columns), rows, columns, "mask");
    using x = device().createMatrix(rows, columns, "x");
    using r = device().uploadMatrix(Float32Array.from(residual), rows, columns, "r");
    using d = device().uploadMatrix(Float32Array.from(residual), rows, columns, "d");
    using q = device().createMatrix(rows, columns, "q");
    for (let step = 0; step < steps; step++) {
      device().matmul({ a: { matrix: d }, b: { matrix: a }, out: { matrix: q } });
      device().conjugateStep({ solution: x, residual: r, direction: d, product: q, keepMask: mask });
      const product = referenceMatmul(twin.direction, gram, { m: rows, n: columns, k: columns });
      twin = referenceConjugateStep(twin, product, keep, rows);
      if (step > 1) continue;
      const scale = Math.max(...twin.solution.map(Math.abs));
      // Two steps of f32 sums over 45 terms.
      assertWithin(await device().download({ matrix: x }), twin.solution, () => 1e-5 * scale, `step ${step}`);
    }
    const left = twin.residual.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    assert.ok(left < 1e-4 * Math.max(...residual.map(Math.abs)), `the twin has converged: ${left}`);
    const solution = await device().download({ matrix: x });
    const scale = Math.max(...twin.solution.map(Math.abs));
    assertWithin(solution, twin.solution, () => 1e-4 * scale, "solution");
    solution.forEach((value, i) => keep[i] === 1 || assert.equal(value, 0, `entry ${i} is pruned`));
  });

  test("countDifferences counts the weights on which two masks disagree", async () => {
    for (const [rows, columns] of [...SHAPES, [300, 300] as const]) {
      const [one, two] = [randomMask(rows * columns, 12), randomMask(rows * columns, 13)];
      using a = device().uploadMask(packMask(one, rows, columns), rows, columns, "a");
      using b = device().uploadMask(packMask(two, rows, columns), rows, columns, "b");
      const expected = one.reduce((sum, bit, i) => sum + Number(bit !== two[i]), 0);
      assert.equal(await device().countDifferences(a, b), expected);
      assert.equal(await device().countDifferences(a, a), 0);
    }
  });

  test("scaleRows multiplies by the row's factor and stores zeros as +0", async () => {
    for (const [rows, columns] of SHAPES) {
      const values = normals(rows * columns, 14);
      const factors = normals(rows, 15);
      factors[rows >> 1] = 0;
      using matrix = device().uploadMatrix(values, rows, columns, "scaled");
      using scales = device().uploadMatrix(factors, 1, rows, "factors");
      device().scaleRows(matrix, scales);
      const expected = values.map((value, i) => value * factors[Math.floor(i / columns)] + 0);
      assertSameBits(await device().download({ matrix }), expected, "scaleRows");
    }
  });

  test("mirrorLower copies every entry below the diagonal above it", async () => {
    for (const n of [1, 2, 31, 64, 129, 515, 1030]) {
      const values = normals(n * n, n);
      using matrix = device().uploadMatrix(values, n, n, "square");
      device().mirrorLower(matrix);
      const expected = values.slice();
      for (let r = 0; r < n; r++) for (let c = r + 1; c < n; c++) expected[r * n + c] = values[c * n + r];
      assertSameBits(await device().download({ matrix }), expected, `n = ${n}`);
    }
  });
});
