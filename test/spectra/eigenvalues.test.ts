/** Eigenvalues: by Jacobi's method, of matrices whose spectrum is known, and at sizes about the band's width. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { BAND, SpectrumEngine } from "../../src/spectra/eigenvalues.js";
import { bandToTridiagonal, SymmetricBand, tridiagonalEigenvalues } from "../../src/spectra/tridiagonal.js";
import { NumericalError } from "../../src/errors.js";
import { jacobiEigenvalues, smallerGram } from "../reference/allocation.js";

const engine = new SpectrumEngine();
after(() => engine[Symbol.asyncDispose]());

/** Deterministic and without structure. */
function noise(count: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => Math.sin(i * i * 0.37 + 1.3 * i));
}

/** Differences as a share of the largest eigenvalue: what a backward stable method promises. */
function assertSpectrum(actual: Float64Array, expected: readonly number[], label: string): void {
  assert.equal(actual.length, expected.length, label);
  const scale = Math.max(...expected.map(Math.abs));
  const tolerance = 4 * actual.length * Number.EPSILON * scale;
  expected.forEach((value, i) =>
    assert.ok(Math.abs(actual[i] - value) <= tolerance, `${label}, ${i}: ${actual[i]}, expected ${value}`),
  );
}

test("squared singular values are the eigenvalues of the smaller Gram matrix", async () => {
  const shapes = [
    [1, 1],
    [1, 7],
    [7, 1],
    [2, 3],
    [BAND, BAND + 5],
    [BAND + 1, BAND + 1],
    [BAND + 2, 50],
    [2 * BAND, 70],
    [2 * BAND + 1, 65],
    [90, 40],
    [40, 90],
    [99, 131],
  ] as const;
  for (const [rows, columns] of shapes) {
    const values = noise(rows * columns);
    const before = Float32Array.from(values);
    const expected = jacobiEigenvalues(smallerGram(values, rows, columns), Math.min(rows, columns));
    const actual = await engine.squaredSingularValues(values, rows, columns);
    assertSpectrum(actual, expected, `${rows} by ${columns}`);
    assert.deepEqual(values, before, "the weight was changed");
  }
});

test("a weight that comes in several chunks has the spectrum of the whole", async () => {
  await using chunked = new SpectrumEngine({ chunkElements: 700 });
  for (const [rows, columns] of [
    [100, 40], // 17 rows at a time, the last ones fewer
    [40, 100],
    [51, 17], // the chunk as long as the matrix
    [131, 12],
  ] as const) {
    const values = noise(rows * columns);
    const expected = jacobiEigenvalues(smallerGram(values, rows, columns), Math.min(rows, columns));
    assertSpectrum(await chunked.squaredSingularValues(values, rows, columns), expected, `${rows} by ${columns}`);
  }
});

test("a path's Laplacian has the eigenvalues 4·sin²", async () => {
  for (const size of [3, BAND + 3, 150]) {
    const matrix = new Float64Array(size * size);
    for (let i = 0; i < size; i++) {
      matrix[i * size + i] = 2;
      if (i > 0) matrix[i * size + i - 1] = matrix[(i - 1) * size + i] = -1;
    }
    const expected = Array.from({ length: size }, (_, i) => 4 * Math.sin(((i + 1) * Math.PI) / (2 * (size + 1))) ** 2);
    assertSpectrum(await engine.symmetricEigenvalues(matrix, size), expected, String(size));
  }
});

test("multiple and zero eigenvalues come out as they are", async () => {
  const size = 80;
  const identity = Float64Array.from({ length: size * size }, (_, i) => (i % (size + 1) === 0 ? 3 : 0));
  assertSpectrum(
    await engine.symmetricEigenvalues(identity, size),
    Array.from({ length: size }, () => 3),
    "identity",
  );
  const rankOne = Float32Array.from({ length: size * size }, (_, i) => Math.floor(i / size) + 1); // rows k·(1 … 1)
  const squares = (size * (size + 1) * (2 * size + 1)) / 6;
  assertSpectrum(
    await engine.squaredSingularValues(rankOne, size, size),
    [...Array.from({ length: size - 1 }, () => 0), size * squares],
    "rank one",
  );
  assertSpectrum(
    await engine.squaredSingularValues(new Float32Array(60 * 50), 60, 50),
    Array.from({ length: 50 }, () => 0),
    "zero",
  );
});

test("small eigenvalues are not lost beside large ones", async () => {
  // Singular values 1, 1/2, 1/4, …: the squares reach 2⁻³⁸ of the largest, far below what f32 resolves.
  const size = 20;
  const values = Float32Array.from({ length: size * size }, (_, i) =>
    i % (size + 1) === 0 ? 2 ** -Math.floor(i / size) : 0,
  );
  const actual = await engine.squaredSingularValues(values, size, size);
  actual.forEach((value, i) => {
    const expected = 4 ** (i + 1 - size);
    assert.ok(Math.abs(value / expected - 1) < 1e-12, `${i}: ${value}`);
  });
});

test("a band becomes tridiagonal without changing its eigenvalues", () => {
  for (const [size, width] of [
    [2, 1],
    [5, 4],
    [30, 2],
    [30, 7],
  ] as const) {
    const band = new SymmetricBand(size, width);
    const full = new Float64Array(size * size);
    const values = noise(size * (width + 1));
    for (let j = 0; j < size; j++) {
      for (let i = j; i <= Math.min(size - 1, j + width); i++) {
        const value = values[j * (width + 1) + i - j];
        band.set(i, j, value);
        full[i * size + j] = full[j * size + i] = value;
      }
    }
    const { diagonal, offDiagonal } = bandToTridiagonal(band);
    const actual = tridiagonalEigenvalues(diagonal, offDiagonal);
    assertSpectrum(actual, jacobiEigenvalues(full, size), `${size}, ${width}`);
  }
});

test("a weight that is not finite is an error, not an endless loop", async () => {
  const values = noise(50 * 50);
  values[77] = NaN;
  await assert.rejects(engine.squaredSingularValues(values, 50, 50), NumericalError);
});
