/** What every layer-wise method promises, on every device: exact zeros, agreement with its twin, clear errors. */
import { test } from "node:test";
import assert from "node:assert/strict";
import fc from "fast-check";
import { describeOnDevices } from "../helpers/devices.js";
import { assertSameBits, assertSameMask } from "../helpers/compare.js";
import { gramOfTokens, quadratic, uploadProblem, type PlainLayer } from "../helpers/layer-problem.js";
import { correlatedTokens, normals } from "../reference/random.js";
import { referenceMagnitude } from "../reference/magnitude.js";
import { referenceInputNorms, referenceWanda } from "../reference/wanda.js";
import { referenceHessian, referenceSparseGpt } from "../reference/sparsegpt.js";
import { unpackMask } from "../reference/selection.js";
import { ConfigError, NumericalError } from "../../src/errors.js";
import { parsePattern, UNSTRUCTURED, type Pattern } from "../../src/sparsity/pattern.js";
import { pruneCount } from "../../src/sparsity/target.js";
import { findSolver } from "../../src/solvers/registry.js";
import { sparsegpt } from "../../src/solvers/sparsegpt.js";
import type { Device } from "../../src/device/device.js";

function layer(rows: number, columns: number, seed: number, tokens = 3 * columns): PlainLayer {
  const weight = normals(rows * columns, seed);
  const gram = gramOfTokens(correlatedTokens(tokens, columns, seed + 1), tokens, columns);
  return { weight, gram, rows, columns, sequenceCount: 4 };
}

interface Solved {
  readonly weight: Float32Array;
  readonly keep: Uint8Array;
  readonly loss: number | undefined;
}

async function solve(
  device: Device,
  method: string,
  plain: PlainLayer,
  target: { readonly sparsity?: number; readonly pattern?: Pattern },
  options: Record<string, unknown> = {},
): Promise<Solved> {
  const solver = findSolver(method);
  const { problem, gram } = uploadProblem(device, plain, target);
  using _gram = gram;
  const solution = await solver.solve(problem, solver.schema.parse(options), { device });
  using weight = solution.weight;
  using mask = solution.keepMask;
  const keep = unpackMask(await device.downloadMask(mask), plain.rows, plain.columns);
  return { weight: await device.download({ matrix: weight }), keep, loss: solution.loss };
}

const zerosOf = (values: ArrayLike<number>): number => Array.from(values).filter((value) => value === 0).length;
const METHODS = ["magnitude", "wanda", "sparsegpt", "thanos", "admm", "alps"] as const;

/** Few iterations, where a test asks for counts, shapes and bytes that must be right after any number of them. */
const SHORT: Readonly<Partial<Record<(typeof METHODS)[number], Record<string, unknown>>>> = {
  admm: { iterations: 4, maskIterations: 3 },
  alps: { iterations: 7, refinements: 2 },
};

await describeOnDevices((device, name) => {
  /** Then what is wide is left to one method, and a pattern of each kind is enough: methods compose the same operations everywhere. */
  const isEmulated = name === "webgpu";
  /** All iterations on one device; on emulated shaders they would take minutes and show nothing more. */
  const optionsOf = (method: (typeof METHODS)[number]): Record<string, unknown> =>
    name === "cpu, 3 threads" ? {} : (SHORT[method] ?? {});

  test("every method makes exactly the asked number of zeros and stores them as +0", async () => {
    const wide = [
      [64, 300, 0.29],
      [20, 257, 0],
    ] as const;
    for (const method of METHODS) {
      for (const [rows, columns, sparsity] of [
        ...([
          [5, 7, 0.5],
          [33, 130, 0.7],
          [7, 128, 0.9],
          [1, 1, 0.99],
        ] as const),
        ...(isEmulated && method !== "sparsegpt" ? [] : wide),
      ]) {
        const { weight, keep } = await solve(
          device(),
          method,
          layer(rows, columns, columns),
          { sparsity },
          optionsOf(method),
        );
        const expected =
          method === "wanda" ? rows * pruneCount(columns, sparsity) : pruneCount(rows * columns, sparsity);
        assert.equal(zerosOf(keep), expected, `${method} [${rows}, ${columns}] at ${sparsity}`);
        weight.forEach((value, i) =>
          assert.equal(Object.is(value, 0), keep[i] === 0, `${method}, entry ${i} is ${value}`),
        );
      }
    }
  });

  test("every method keeps exactly n of every m", async () => {
    const others = [
      ["4:8", 264],
      ["5:6", 132],
      ["8:16", 272],
      ["16:32", 160],
    ] as const;
    for (const method of METHODS) {
      for (const [text, columns] of [
        ...([
          ["2:4", 132],
          ["1:3", 255],
          ["33:64", 192],
        ] as const),
        ...(isEmulated ? [] : others),
      ]) {
        const pattern = parsePattern(text);
        assert.ok(pattern.kind === "n-of-m");
        const { keep, weight } = await solve(
          device(),
          method,
          layer(18, columns, columns),
          { pattern },
          optionsOf(method),
        );
        for (let first = 0; first < keep.length; first += pattern.group) {
          const kept: number = keep.slice(first, first + pattern.group).filter((bit) => bit === 1).length;
          assert.equal(kept, pattern.keep, `${method} ${text}, group at ${first}`);
        }
        weight.forEach((value, i) => assert.equal(value === 0, keep[i] === 0));
      }
    }
  });

  test("magnitude and wanda equal their twins and leave kept weights alone to the bit", async () => {
    for (const [rows, columns] of [
      [31, 65],
      [64, 172],
    ]) {
      const plain = layer(rows, columns, rows);
      const norms = referenceInputNorms(
        Float32Array.from({ length: columns }, (_, c) => plain.gram[c * (columns + 1)]),
        4,
      );
      const expected = {
        magnitude: referenceMagnitude(plain.weight, rows, columns, { sparsity: 0.6 }),
        wanda: referenceWanda(plain.weight, norms, rows, columns, { sparsity: 0.6 }),
      };
      for (const method of ["magnitude", "wanda"] as const) {
        const { weight, keep } = await solve(device(), method, plain, { sparsity: 0.6 });
        assertSameMask(keep, expected[method], columns, method);
        assertSameBits(
          weight,
          Float32Array.from(plain.weight, (value, i) => (keep[i] === 1 ? value : 0)),
          method,
        );
      }
    }
  });

  test("sparsegpt agrees with the three-step float64 chain", async () => {
    const cases = [
      { rows: 32, columns: 64, target: { sparsity: 0.5 }, blockSize: 128 },
      { rows: 24, columns: 300, target: { sparsity: 0.7 }, blockSize: 128 },
      { rows: 16, columns: 200, target: { sparsity: 0.5 }, blockSize: 32 },
      { rows: 16, columns: 136, target: { sparsity: 0.5 }, blockSize: 1 },
      { rows: 24, columns: 260, target: { pattern: parsePattern("2:4") }, blockSize: 128 },
      { rows: 24, columns: 264, target: { pattern: parsePattern("2:3") }, blockSize: 128 },
      { rows: 12, columns: 192, target: { pattern: parsePattern("24:64") }, blockSize: 128 },
    ];
    for (const { rows, columns, target, blockSize } of cases) {
      const plain = layer(rows, columns, columns + 1);
      const pattern = target.pattern ?? UNSTRUCTURED;
      const twin = referenceSparseGpt({
        ...plain,
        damping: 0.01,
        blockSize,
        target: pattern.kind === "n-of-m" ? pattern : { kind: "unstructured", sparsity: target.sparsity ?? 0 },
      });
      const { weight, keep, loss } = await solve(device(), "sparsegpt", plain, target, { blockSize });
      const what = `[${rows}, ${columns}] ${JSON.stringify(target)}, blocks of ${blockSize}`;
      assertSameMask(keep, twin.keep, columns, what); // seeded data without near-ties
      // f32 against f64: unit roundoff times the condition of H (below 3000 with 1 % damping) on weights of size 1.
      weight.forEach((value, i) =>
        assert.ok(
          Math.abs(value - twin.weight[i]) < 2e-4,
          `${what}: weight ${i} is ${value}, expected ${twin.weight[i]}`,
        ),
      );
      assert.ok(Math.abs((loss ?? NaN) - twin.loss) < 2e-4 * twin.loss, `${what}: loss ${loss}, expected ${twin.loss}`);
    }
  });

  test("sparsegpt's loss is half the trace of D·H·Dᵀ and below that of zeroing the same weights", async () => {
    const plain = layer(40, 200, 5);
    const { weight, keep, loss } = await solve(device(), "sparsegpt", plain, { sparsity: 0.6 });
    const { h } = referenceHessian({ ...plain, damping: 0.01, blockSize: 128, target: { kind: "fixed", keep } });
    const change = Float64Array.from(plain.weight, (value, i) => value - weight[i]);
    const trace = quadratic(change, h, 40, 200) / 2;
    assert.ok(Math.abs((loss ?? NaN) - trace) < 2e-4 * trace, `loss ${loss}, trace ${trace}`); // f32, as above
    const zeroed = Float64Array.from(plain.weight, (value, i) => (keep[i] === 1 ? 0 : value));
    assert.ok(trace < quadratic(zeroed, h, 40, 200) / 2);
  });

  test("scaling the statistics by a power of four changes neither masks nor weights", async () => {
    for (const method of ["wanda", "sparsegpt", "thanos"]) {
      const plain = layer(20, 150, 7);
      const larger = { ...plain, gram: Float64Array.from(plain.gram, (value) => value * 1024) };
      const first = await solve(device(), method, plain, { sparsity: 0.5 });
      const second = await solve(device(), method, larger, { sparsity: 0.5 });
      assertSameBits(second.weight, first.weight, method);
    }
  });

  test("sparsegpt zeroes the columns of inputs that were never seen", async () => {
    const plain = layer(16, 140, 9);
    const dead = [0, 17, 130, 139];
    const gram = Float64Array.from(plain.gram, (value, i) =>
      dead.includes(i % 140) || dead.includes(Math.floor(i / 140)) ? 0 : value,
    );
    const { weight } = await solve(device(), "sparsegpt", { ...plain, gram }, { sparsity: 0.5 });
    const twin = referenceSparseGpt({
      ...plain,
      gram,
      damping: 0.01,
      blockSize: 128,
      target: { kind: "unstructured", sparsity: 0.5 },
    });
    for (let r = 0; r < 16; r++) for (const c of dead) assert.ok(Object.is(weight[r * 140 + c], 0));
    weight.forEach((value, i) => assert.ok(Math.abs(value - twin.weight[i]) < 2e-4));
  });

  test("a Gram matrix of fewer tokens than inputs is handled by the damping", async () => {
    const plain = layer(12, 160, 11, 40);
    const { weight, keep } = await solve(device(), "sparsegpt", plain, { sparsity: 0.5 });
    assert.equal(zerosOf(keep), 12 * 80);
    const twin = referenceSparseGpt({ ...plain, damping: 0.01, blockSize: 128, target: { kind: "fixed", keep } });
    const scale = Math.max(...weight.map(Math.abs));
    // Condition up to (largest eigenvalue + λ)/λ, some 1e4: 1e-3 of the largest weight, as for f32 in general.
    weight.forEach((value, i) => assert.ok(Math.abs(value - twin.weight[i]) < 1e-3 * scale));
  });

  test("a matrix that is not positive definite is an error that names layer, pivot, damping and remedy", async () => {
    const plain = layer(4, 6, 13);
    const gram = Float64Array.from(plain.gram);
    gram[4 * 6 + 1] = gram[1 * 6 + 4] = 100 * gram[0]; // |off-diagonal| above the diagonal: indefinite
    await assert.rejects(
      solve(device(), "sparsegpt", { ...plain, gram, name: "model.layers.3.mlp.down_proj" }, { sparsity: 0.5 }),
      (error) => {
        assert.ok(error instanceof NumericalError);
        assert.equal(error.code, "E_NOT_POSITIVE_DEFINITE");
        assert.match(error.message, /^model\.layers\.3\.mlp\.down_proj: .*pivot 1 is -.*damping 0\.01/);
        assert.match(error.hint ?? "", /damping/);
        return true;
      },
    );
  });

  test("a ladder of dampings is climbed only as far as needed and the used one is reported", async () => {
    const plain = layer(4, 6, 13);
    const gram = Float64Array.from(plain.gram);
    const mean = Array.from({ length: 6 }, (_, c) => gram[c * 7]).reduce((sum, value) => sum + value, 0) / 6;
    gram[4 * 6 + 1] = gram[1 * 6 + 4] = 3 * mean; // needs a damping above 1
    const { problem, gram: matrix } = uploadProblem(device(), { ...plain, gram }, { sparsity: 0.5 });
    using _matrix = matrix;
    const options = sparsegpt.schema.parse({ dampingLadder: [0.1, 10, 1000] });
    const solution = await sparsegpt.solve(problem, options, { device: device() });
    using _weight = solution.weight;
    using _mask = solution.keepMask;
    assert.equal(solution.damping, 10);
    await assert.rejects(
      solve(device(), "sparsegpt", { ...plain, gram }, { sparsity: 0.5 }, { dampingLadder: [0.1] }),
      /dampings 0\.01, 0\.1/,
    );
  });

  test("statistics that are not finite are refused with the layer and channel", async () => {
    for (const method of ["wanda", "sparsegpt", "thanos", "admm", "alps"]) {
      const plain = layer(4, 6, 15);
      const gram = Float64Array.from(plain.gram);
      gram[2 * 7] = Infinity;
      await assert.rejects(
        solve(device(), method, { ...plain, gram, name: "some.layer" }, { sparsity: 0.5 }),
        (error) => {
          assert.ok(error instanceof NumericalError);
          assert.equal(error.code, "E_NON_FINITE");
          assert.match(error.message, /^some\.layer: .*channel 2/);
          return true;
        },
      );
    }
  });

  test("a width that is not a multiple of the group is refused by every method", async () => {
    for (const method of METHODS) {
      await assert.rejects(solve(device(), method, layer(4, 10, 17), { pattern: parsePattern("2:4") }), (error) => {
        assert.ok(error instanceof ConfigError);
        assert.equal(error.code, "E_PATTERN_WIDTH");
        assert.match(error.message, /10 inputs/);
        return true;
      });
    }
  });

  test("two runs give the same bytes", async () => {
    for (const method of METHODS) {
      const plain = layer(70, 270, 19);
      const first = await solve(device(), method, plain, { sparsity: 0.7 }, optionsOf(method));
      const second = await solve(device(), method, plain, { sparsity: 0.7 }, optionsOf(method));
      assertSameBits(second.weight, first.weight, method);
      assert.deepEqual(second.keep, first.keep);
      assert.equal(second.loss, first.loss);
    }
  });

  test("any shape and sparsity gives the exact count", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...METHODS),
        fc.integer({ min: 1, max: 40 }),
        fc.integer({ min: 1, max: 150 }),
        fc.integer({ min: 0, max: 99 }),
        async (method, rows, columns, percent) => {
          const sparsity = percent / 100;
          const plain = layer(rows, columns, rows * columns, columns + 4);
          const { keep } = await solve(device(), method, plain, { sparsity }, optionsOf(method));
          const expected =
            method === "wanda" ? rows * pruneCount(columns, sparsity) : pruneCount(rows * columns, sparsity);
          assert.equal(zerosOf(keep), expected);
        },
      ),
      { numRuns: 20, seed: 9 },
    );
  });
});
