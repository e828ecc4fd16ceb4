/** The steps on matrices that solvers share, bit for bit. */
import { test } from "node:test";
import { describeOnDevices } from "../helpers/devices.js";
import { assertSameBits } from "../helpers/compare.js";
import { normals } from "../reference/random.js";
import { permuteSymmetric } from "../../src/solvers/matrices.js";

await describeOnDevices((device) => {
  test("a permuted symmetric matrix is made of its lower triangle alone, which stays as it is", async () => {
    const n = 67;
    const values = normals(n * n, 1); // the strict upper triangle holds other numbers
    const order = Uint32Array.from({ length: n }, (_, place) => (place * 29 + 5) % n);
    using matrix = device().uploadMatrix(values, n, n, "symmetric matrix");
    using permuted = permuteSymmetric(device(), matrix, order, "permuted");
    const expected = Float32Array.from({ length: n * n }, (_, i) => {
      const [row, column] = [order[Math.floor(i / n)], order[i % n]];
      return values[Math.max(row, column) * n + Math.min(row, column)];
    });
    assertSameBits(await device().download({ matrix: permuted }), expected, "permuted");
    assertSameBits(await device().download({ matrix }), values, "the matrix itself");
  });
});
