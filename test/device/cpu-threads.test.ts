/** The CPU device with different numbers of threads: the same bytes, and workers that do not outlive their device. */
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import assert from "node:assert/strict";
import { promisify } from "node:util";
import { assertSameBits, assertWithin, F32_ROUNDOFF } from "../helpers/compare.js";
import { gramOfTokens } from "../helpers/layer-problem.js";
import { referenceMatmul } from "../reference/products.js";
import { correlatedTokens, normals, positives, quantized } from "../reference/random.js";
import { createCpuDevice } from "../../src/device/cpu/cpu-device.js";
import { defineKernel, KERNEL_NAMES } from "../../src/device/cpu/kernel-pool.js";
import { isCholeskyFailure, type Device } from "../../src/device/device.js";
import { InternalError, ResourceError } from "../../src/errors.js";

const THREADS = [1, 2, 3, 5] as const;

/** Run `work` on a device of each size and compare every array it returns with the single-threaded ones. */
async function assertSameForAllThreads(
  work: (device: Device) => Promise<readonly (Float32Array | Uint32Array)[]>,
): Promise<void> {
  let expected: readonly (Float32Array | Uint32Array)[] | undefined;
  for (const threads of THREADS) {
    await using device = await createCpuDevice({ threads, startsThreads: true });
    const actual = await work(device);
    expected ??= actual;
    actual.forEach((values, i) => {
      const first = expected?.[i];
      assert.ok(first !== undefined);
      const bytes = (array: Float32Array | Uint32Array): Float32Array =>
        new Float32Array(array.buffer, array.byteOffset, array.length);
      assertSameBits(bytes(values), bytes(first), `result ${i} with ${threads} threads`);
    });
    assert.equal(device.liveBytes().size, 0);
  }
}

test("products do not depend on the number of threads, also with few columns and a long inner dimension", async () => {
  const shapes = [
    [50, 100, 1500],
    [1, 100, 1500],
    [16, 130, 2000],
    [63, 65, 700],
    [3, 17, 2000],
    [2, 300, 500],
    [128, 200, 300],
    [300, 2, 1000],
    [128, 700, 640],
  ];
  await assertSameForAllThreads(async (device) => {
    const results: Float32Array[] = [];
    for (const [m, n, k] of shapes) {
      for (const [transposeA, transposeB] of [
        [false, false],
        [false, true],
        [true, false],
        [true, true],
      ]) {
        using a = device.uploadMatrix(normals(m * k, m), transposeA ? k : m, transposeA ? m : k, "a");
        using b = device.uploadMatrix(normals(k * n, n), transposeB ? n : k, transposeB ? k : n, "b");
        using out = device.createMatrix(m, n, "out");
        for (const beta of [0, 1]) {
          device.matmul({ a: { matrix: a }, b: { matrix: b }, out: { matrix: out }, transposeA, transposeB, beta });
          results.push(await device.download({ matrix: out }));
        }
      }
    }
    return results;
  });
});

test("a first factor with spaced rows, in several stretches, gives the bits of the product as it is", async () => {
  const never = { crowdedWidth: 2 ** 30, rowsAtOnce: 1 };
  // 300 rows are two stretches of 128 and one of 44; 128 is one stretch of ONNX Runtime's sums, 320 two and a half.
  for (const [m, n, k] of [
    [300, 250, 128],
    [256, 240, 320],
  ]) {
    const [x, y, start] = [normals(m * k, m), normals(k * n, n), normals(m * n, 3)];
    const products: Float32Array[][] = [];
    for (const spacing of [never, { crowdedWidth: 64, rowsAtOnce: 128 }]) {
      await using device = await createCpuDevice({ threads: 3, spacing, startsThreads: true });
      using a = device.uploadMatrix(x, m, k, "a");
      using b = device.uploadMatrix(y, k, n, "b");
      const results: Float32Array[] = [];
      // Written over `out`, added to it, and gone through a fresh array.
      for (const [alpha, beta] of [
        [1, 0],
        [-1, 1],
        [0.5, 2],
      ]) {
        using out = device.uploadMatrix(start, m, n, "out");
        device.matmul({ a: { matrix: a }, b: { matrix: b }, out: { matrix: out }, alpha, beta });
        results.push(await device.download({ matrix: out }));
      }
      products.push(results);
    }
    const [plain, spaced] = products;
    spaced.forEach((values, i) => assertSameBits(values, plain[i], `[${m}, ${k}]·[${k}, ${n}], result ${i}`));
    const magnitude = referenceMatmul(x.map(Math.abs), y.map(Math.abs), { m, n, k });
    const bound = (i: number): number => (k + 1) * F32_ROUNDOFF * magnitude[i];
    assertWithin(spaced[0], referenceMatmul(x, y, { m, n, k }), bound, `[${m}, ${k}]·[${k}, ${n}] in float64`);
  }
});

test("selections do not depend on the number of threads", async () => {
  const [rows, columns] = [1500, 700];
  const weight = quantized(rows * columns, 1, 1 / 8); // ties everywhere
  await assertSameForAllThreads(async (device) => {
    using w = device.uploadMatrix(weight, rows, columns, "weight");
    using scale = device.uploadMatrix(
      positives(columns, 2).map((value) => Math.round(value * 4)),
      1,
      columns,
      "scale",
    );
    using panelScale = device.uploadMatrix(
      positives(128, 3).map((value) => Math.round(value * 4)),
      1,
      128,
      "panel scale",
    );
    using mask = device.createMask(rows, columns, "mask");
    using panel = device.createMatrix(128, rows, "panel");
    const results: Uint32Array[] = [];
    device.selectRows(w, scale, 333, mask);
    results.push(await device.downloadMask(mask));
    device.selectMatrix(w, scale, 600_001, mask);
    results.push(await device.downloadMask(mask));
    device.selectGroups(w, scale, 2, 4, mask);
    results.push(await device.downloadMask(mask));
    device.transpose({ matrix: w, firstColumn: 100, columns: 128 }, { matrix: panel });
    device.selectPanel({ matrix: panel }, { matrix: panelScale }, 100_003, mask, 100);
    results.push(await device.downloadMask(mask));
    return results;
  });
});

test("statistics, factorisation and sweep do not depend on the number of threads", async () => {
  const [tokens, n, rows] = [700, 300, 1000];
  const x = correlatedTokens(tokens, n, 4);
  const weight = normals(128 * rows, 5);
  const wide = 700; // several blocks of the inverse
  const dampedGram = Float32Array.from(gramOfTokens(correlatedTokens(800, wide, 6), 800, wide));
  for (let i = 0; i < wide; i++) dampedGram[i * (wide + 1)] *= 1.1;
  await assertSameForAllThreads(async (device) => {
    using batch = device.uploadMatrix(x, tokens, n, "x");
    using h = device.createMatrix(n, n, "h");
    using sums = device.createMatrix(1, n, "sums");
    using panel = device.uploadMatrix(weight, 128, rows, "panel");
    using losses = device.createMatrix(1, rows, "losses");
    using mask = device.createMask(rows, 128, "mask");
    using inverse = device.createMatrix(n, n, "u");
    device.accumulateGram({ matrix: batch }, h);
    device.accumulateSquareSums({ matrix: batch }, sums);
    const diagonal = await device.downloadDiagonal(h);
    device.setDiagonal(
      h,
      diagonal.map((value) => value * 1.01),
    );
    const cholesky = await device.choleskyReversed(h, 128);
    assert.ok(!isCholeskyFailure(cholesky));
    using inverses = cholesky.panelInverses;
    using _diagonal = cholesky.diagonal;
    device.triangularInverse(cholesky, inverse);
    device.sweepPanel({
      panel: { matrix: panel },
      inverse: { matrix: inverses, rows: 128 },
      firstColumn: 0,
      columns: 128,
      keepMask: mask,
      maskColumn: 0,
      choose: { keep: 2, group: 4 },
      losses,
    });
    const l = await device.download({ matrix: h });
    using gram = device.uploadMatrix(dampedGram, wide, wide, "gram");
    assert.equal(await device.invertPositiveDefinite(gram), undefined);
    return [
      await device.download({ matrix: gram }),
      await device.download({ matrix: sums }),
      l.map((value, i) => (i % n <= Math.floor(i / n) ? value : 0)),
      await device.download({ matrix: inverse }),
      await device.download({ matrix: panel }),
      await device.download({ matrix: losses }),
      await device.downloadMask(mask),
    ];
  });
});

test("steps of training do not depend on the number of threads", async () => {
  const [rows, columns] = [400, 333];
  const upload = (device: Device, seed: number) =>
    device.uploadMatrix(normals(rows * columns, seed), rows, columns, `seed ${seed}`);
  const words = Uint32Array.from({ length: rows * Math.ceil(columns / 32) }, (_, i) => Math.imul(i, 0x9e3779b1));
  await assertSameForAllThreads(async (device) => {
    using x = upload(device, 31);
    using g = upload(device, 32);
    using z = upload(device, 33);
    using u = upload(device, 34);
    using m = device.createMatrix(rows, columns, "m");
    using v = device.createMatrix(rows, columns, "v");
    using mask = device.uploadMask(words, rows, columns, "mask");
    const scalars = { gradientScale: 0.5, rate: 0.1, decay: [0.9, 0.95] as const, epsilon: 1e-8, step: 1 };
    const pull = { split: z, dual: u, strength: 0.5 };
    device.adamStep({ values: x, gradient: g, first: m, second: v, ...scalars, pull, mask });
    device.projectionScores({ values: x, dual: u, second: v, out: g });
    const sums = await device.dualStep({ values: x, split: z, dual: u, mask });
    const all = Float64Array.of(...Object.values(sums), await device.sumOfSquares(x));
    const results = await Promise.all([x, m, v, g, z, u].map((matrix) => device.download({ matrix })));
    return [...results, new Float32Array(all.buffer)];
  });
});

test("thousands of small dispatches finish with more threads than cores", async () => {
  await using device = await createCpuDevice({ threads: 5, startsThreads: true });
  const weight = normals(64 * 512, 6);
  using w = device.uploadMatrix(weight, 64, 512, "weight");
  using scale = device.uploadMatrix(new Float32Array(512).fill(1), 1, 512, "scale");
  using mask = device.createMask(64, 512, "mask");
  for (let i = 0; i < 3000; i++) device.selectRows(w, scale, i % 512, mask);
  const words = await device.downloadMask(mask);
  let kept = 0;
  for (const word of words) for (let bits = word; bits !== 0; bits &= bits - 1) kept += 1;
  assert.equal(kept, 64 * (512 - (2999 % 512)));
});

test("an operation on a disposed matrix is refused at the call, and work queued before the disposal still runs", async () => {
  await using device = await createCpuDevice({ threads: 1 });
  const a = device.uploadMatrix(Float32Array.of(1, 2), 1, 2, "a");
  using b = device.createMatrix(2, 1, "b");
  device.transpose({ matrix: a }, { matrix: b });
  a[Symbol.dispose]();
  assert.throws(() => device.scale(a, 2), InternalError);
  assert.deepEqual([...(await device.download({ matrix: b }))], [1, 2]);
});

test("a matrix that memory cannot hold is a ResourceError that names it, and the device works on", async () => {
  await using device = await createCpuDevice({ threads: 1 });
  assert.throws(
    () => device.createMatrix(2 ** 24, 2 ** 24, "huge"),
    (error: Error) => error instanceof ResourceError && /"huge" of 16777216 × 16777216/.test(error.message),
  );
  assert.equal(device.liveBytes().size, 0);
  using one = device.uploadMatrix(Float32Array.of(3), 1, 1, "one");
  device.scale(one, 2);
  assert.deepEqual([...(await device.download({ matrix: one }))], [6]);
});

test("shapes that do not fit are refused before anything is queued", async () => {
  await using device = await createCpuDevice({ threads: 1 });
  using a = device.createMatrix(3, 4, "a");
  using b = device.createMatrix(3, 4, "b");
  using mask = device.createMask(3, 5, "mask");
  using scale = device.createMatrix(1, 4, "scale");
  assert.throws(
    () => device.matmul({ a: { matrix: a }, b: { matrix: b }, out: { matrix: b } }),
    /matmul: op\(a\) is 3 × 4, op\(b\) 3 × 4/,
  );
  assert.throws(() => device.selectRows(a, scale, 1, mask), /selectRows/);
  assert.throws(() => device.transpose({ matrix: a }, { matrix: b }), /transpose/);
  assert.throws(() => device.subtract({ matrix: a, rows: 4 }, { matrix: b }, { matrix: b }), /leaves "a"/);
  await assert.rejects(device.choleskyReversed(a, 128), /choleskyReversed/);
});

test("every kernel of kernels.wasm is an operation's, and one that it lacks is refused when a device is made", async () => {
  const wasm = await readFile(new URL("../../src/device/cpu/kernels.wasm", import.meta.url));
  const kernels = WebAssembly.Module.exports(await WebAssembly.compile(wasm)).filter(({ kind }) => kind === "function");
  assert.deepEqual(kernels.map(({ name }) => name).sort(), [...KERNEL_NAMES].sort());
  const missing = defineKernel("noSuchKernel");
  try {
    await assert.rejects(createCpuDevice({ threads: 2, startsThreads: true }), /noSuchKernel: not in kernels\.wasm/);
  } finally {
    KERNEL_NAMES.delete(missing);
  }
});

test("a process with an undisposed device ends by itself", async () => {
  const url = new URL("../../src/device/cpu/cpu-device.js", import.meta.url).href;
  const script = `import { createCpuDevice } from ${JSON.stringify(url)}; await createCpuDevice({ threads: 4, startsThreads: true }); console.log("created");`;
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", script], {
    timeout: 30_000,
  });
  assert.equal(stdout.trim(), "created");
});
