/** ADMM, ALPS and the updates of a fixed mask: against float64 twins, published vectors and each other, on every device. */
import { test } from "node:test";
import assert from "node:assert/strict";
import { describeOnDevices } from "../helpers/devices.js";
import { gramOfTokens, relativeError, uploadProblem, type PlainLayer } from "../helpers/layer-problem.js";
import { correlatedTokens, createRandom, normals } from "../reference/random.js";
import { referenceAdmm } from "../reference/admm.js";
import { referenceAlps } from "../reference/alps.js";
import { referenceSparseGpt } from "../reference/sparsegpt.js";
import { packMask, unpackMask } from "../reference/selection.js";
import { parsePattern, type Pattern } from "../../src/sparsity/pattern.js";
import { findSolver } from "../../src/solvers/registry.js";
import type { Device } from "../../src/device/device.js";

function layer(rows: number, columns: number, seed: number, tokens = 3 * columns): PlainLayer {
  const weight = normals(rows * columns, seed);
  const gram = gramOfTokens(correlatedTokens(tokens, columns, seed + 1), tokens, columns);
  return { weight, gram, rows, columns, sequenceCount: 4 };
}

interface Task {
  readonly sparsity?: number;
  readonly pattern?: Pattern;
  readonly options?: Record<string, unknown>;
  /** One byte per weight, for solvers that start from a mask. */
  readonly keep?: Uint8Array;
  /** What the weight is by now; the layer's weight is the dense one. */
  readonly current?: ArrayLike<number>;
}

async function solve(device: Device, method: string, plain: PlainLayer, task: Task) {
  const solver = findSolver(method);
  const { rows, columns } = plain;
  const { problem, gram } = uploadProblem(device, { ...plain, weight: task.current ?? plain.weight }, task);
  using _gram = gram;
  using dense = device.uploadMatrix(Float32Array.from(plain.weight), rows, columns, "dense");
  const words = packMask(task.keep ?? new Uint8Array(rows * columns), rows, columns);
  using given = device.uploadMask(words, rows, columns, "given mask");
  const start = task.keep === undefined ? problem : { ...problem, dense, keepMask: given };
  const solution = await solver.solve(start, solver.schema.parse(task.options ?? {}), { device });
  using weight = solution.weight;
  using mask = solution.keepMask;
  const keep = unpackMask(await device.downloadMask(mask), rows, columns);
  const values = await device.download({ matrix: weight });
  values.forEach((value, i) => keep[i] === 1 || assert.ok(Object.is(value, 0), `${method}: entry ${i} is ${value}`));
  return { weight: values, keep, loss: solution.loss ?? NaN };
}

function randomKeep(count: number, seed: number): Uint8Array {
  const random = createRandom(seed);
  return Uint8Array.from({ length: count }, () => Number(random() < 0.5));
}

const masked = (weight: ArrayLike<number>, keep: Uint8Array): Float64Array =>
  Float64Array.from(weight, (value, i) => value * keep[i]);
const errorOf = (plain: PlainLayer, weight: ArrayLike<number>): number =>
  relativeError(plain.weight, weight, plain.gram, plain.rows, plain.columns);

function assertClose(actual: Float32Array, expected: Float64Array, relative: number, what: string): void {
  const scale = Math.max(...expected.map(Math.abs));
  actual.forEach((value, i) =>
    assert.ok(Math.abs(value - expected[i]) <= relative * scale, `${what}: ${i} is ${value}, twin ${expected[i]}`),
  );
}

/** Problem "V" of test/solvers/published-vectors.test.ts. */
const V: PlainLayer = {
  weight: Float64Array.from({ length: 24 }, (_, i) => Math.sin(1 + i)),
  gram: Float64Array.from({ length: 64 }, (_, i) => {
    const [r, c] = [Math.floor(i / 8), i % 8];
    return (1 + r / 4) * (1 + c / 4) * 0.6 ** Math.abs(r - c);
  }),
  rows: 3,
  columns: 8,
  sequenceCount: 2,
};
const text = (keep: Uint8Array): string => [0, 8, 16].map((first) => keep.slice(first, first + 8).join("")).join(" ");
const bytes = (mask: string): Uint8Array => Uint8Array.from(mask.replaceAll(" ", ""), Number);

/** f32 with a condition of at most columns / damping: 1e-4 of the largest weight. */
const CLOSE = 1e-4;

await describeOnDevices((device, name) => {
  test("admm gives the published masks, weights and errors of problem V under both schedules", async () => {
    for (const [schedule, mask, error, first] of [
      ["released", "01001011 00100110 10011011", 0.06124, [0, 1.113089, 0, 0, -1.386231, 0, 0.549462, 0.981457]],
      ["cubic", "01011011 00100100 10011011", 0.06051, [0, 1.340918, 0, -0.711229, -1.078598, 0, 0.558261, 0.98207]],
    ] as const) {
      const { weight, keep } = await solve(device(), "admm", V, { sparsity: 0.5, options: { schedule } });
      assert.equal(text(keep), mask);
      assert.ok(Math.abs(errorOf(V, weight) - error) < 2e-6, `${schedule}: ${errorOf(V, weight)}`); // six digits
      first.forEach((value, c) => assert.ok(Math.abs(weight[c] - value) < 1e-5, `${schedule} column ${c}`));
    }
  });

  test("admm agrees with the textbook loop in float64", async () => {
    const defaults = { damping: 0.1, rho: 1, iterations: 20, maskIterations: 15 };
    for (const { rows, columns, options, target, pattern, sparsity } of [
      { rows: 24, columns: 130, options: {}, target: { kind: "unstructured", sparsity: 0.6, schedule: "released" } },
      {
        rows: 33,
        columns: 64,
        options: { schedule: "cubic" },
        target: { kind: "unstructured", sparsity: 0.7, schedule: "cubic" },
      },
      {
        rows: 16,
        columns: 72,
        options: { maskIterations: 0, iterations: 7 },
        target: { kind: "unstructured", sparsity: 0.5, schedule: "released" },
      },
      { rows: 16, columns: 72, options: { rho: 0.5, damping: 0.03 }, target: { kind: "n-of-m", keep: 2, group: 4 } },
      { rows: 16, columns: 70, options: {}, target: { kind: "n-of-m", keep: 3, group: 5 } },
      { rows: 9, columns: 64, options: { maskIterations: 0 }, target: { kind: "n-of-m", keep: 8, group: 16 } },
    ].map((one) => ({
      ...one,
      pattern: one.target.group === undefined ? undefined : parsePattern(`${one.target.keep}:${one.target.group}`),
      sparsity: one.target.sparsity,
    }))) {
      const plain = layer(rows, columns, rows + columns);
      const what = `[${rows}, ${columns}] ${JSON.stringify(options)}`;
      const task = {
        options,
        ...(pattern === undefined ? {} : { pattern }),
        ...(sparsity === undefined ? {} : { sparsity }),
      };
      const { weight, keep, loss } = await solve(device(), "admm", plain, task);
      const twin = referenceAdmm({
        ...plain,
        ...defaults,
        ...options,
        target: target as Parameters<typeof referenceAdmm>[0]["target"],
      });
      assert.deepEqual(keep, twin.keep, what);
      assertClose(weight, twin.weight, CLOSE, what);
      const expected = relativeErrorTimesEnergy(plain, twin.weight) / plain.sequenceCount;
      assert.ok(Math.abs(loss - expected) <= 1e-4 * expected, `${what}: loss ${loss}, expected ${expected}`);
    }
  });

  test("alps agrees with its float64 twin", async () => {
    for (const [rows, columns, target] of [
      [24, 64, { sparsity: 0.7 }],
      [40, 48, { sparsity: 0.5 }],
      [16, 72, { keep: 2, group: 4 }],
      [12, 60, { keep: 1, group: 5 }],
    ] as const) {
      const plain = layer(rows, columns, rows);
      const task = "group" in target ? { pattern: parsePattern(`${target.keep}:${target.group}`) } : target;
      const { weight, keep } = await solve(device(), "alps", plain, task);
      const twin = referenceAlps({ ...plain, damping: 0.01, rho: 0.1, iterations: 300, refinements: 10, target });
      assert.ok(twin.iterations < 300, "the twin's support settles");
      const differing = keep.reduce((sum, bit, i) => sum + Number(bit !== twin.keep[i]), 0);
      // A path of a hundred projections: one near-tie may fall the other way in f32.
      assert.ok(differing <= 0.005 * keep.length, `[${rows}, ${columns}]: ${differing} of ${keep.length} differ`);
      const [error, expected] = [errorOf(plain, weight), errorOf(plain, twin.weight)];
      assert.ok(Math.abs(error - expected) <= 0.01 * expected, `error ${error}, twin ${expected}`);
      if (differing === 0) assertClose(weight, twin.weight, 10 * CLOSE, `[${rows}, ${columns}]`);
    }
  });

  test("obs-update is sparsegpt's sweep for the given mask, from the dense weight", async () => {
    const plain = layer(20, 300, 31);
    const keep = randomKeep(20 * 300, 32);
    const twin = referenceSparseGpt({ ...plain, damping: 0.01, blockSize: 128, target: { kind: "fixed", keep } });
    const solved = await solve(device(), "obs-update", plain, { keep, current: masked(plain.weight, keep) });
    assert.deepEqual(solved.keep, keep);
    assertClose(solved.weight, twin.weight, CLOSE, "obs-update");
    assert.ok(Math.abs(solved.loss - twin.loss) <= 1e-4 * twin.loss, `loss ${solved.loss}, twin ${twin.loss}`);
  });

  test("obs-update of Wanda's mask has the published loss of problem V", async () => {
    const keep = bytes("00011011 00110110 00011011");
    const { loss } = await solve(device(), "obs-update", V, { keep });
    assert.ok(Math.abs(loss - 3.58848) < 1e-4 * 3.58848, `${loss}`);
  });

  test("admm-update agrees with the textbook loop for the given mask, whatever the weight was before", async () => {
    const plain = layer(20, 90, 41);
    const keep = randomKeep(20 * 90, 42);
    const target = { kind: "fixed", keep } as const;
    const twin = referenceAdmm({ ...plain, damping: 0.1, rho: 1, iterations: 20, maskIterations: 15, target });
    for (const current of [masked(plain.weight, keep), masked(normals(20 * 90, 43), keep)]) {
      const solved = await solve(device(), "admm-update", plain, { keep, current });
      assert.deepEqual(solved.keep, keep);
      assertClose(solved.weight, twin.weight, CLOSE, "admm-update");
    }
  });

  test("cg-update of Wanda's mask gives the published least squares solution of problem V", async () => {
    const keep = bytes("00011011 00110110 00011011");
    const { weight } = await solve(device(), "cg-update", V, { keep, current: masked(V.weight, keep) });
    [0, 0, 0, -0.355777, -1.091644, 0, 0.546777, 0.988785].forEach((value, c) =>
      assert.ok(Math.abs(weight[c] - value) < 1e-5, `column ${c}: ${weight[c]}`),
    );
    assert.ok(Math.abs(errorOf(V, weight) - 0.128353) < 2e-6);
  });

  test("inputs that were never seen are pruned first and leave no trace in the others", async () => {
    const plain = layer(12, 64, 61);
    const dead = [3, 17, 40];
    const gram = Float64Array.from(plain.gram, (value, i) =>
      dead.includes(i % 64) || dead.includes(Math.floor(i / 64)) ? 0 : value,
    );
    for (const method of ["admm", "alps"]) {
      const { weight, keep } = await solve(device(), method, { ...plain, gram }, { sparsity: 0.5 });
      for (let r = 0; r < 12; r++) for (const c of dead) assert.equal(keep[64 * r + c], 0, `${method} ${r}, ${c}`);
      assert.ok(weight.every(Number.isFinite));
      assert.equal(keep.filter((bit) => bit === 0).length, 12 * 32);
    }
  });

  if (name === "webgpu") return; // what follows is true of the methods, whatever computes them, and takes long there

  test("the methods' output errors are ordered: alps ≤ admm ≤ sparsegpt ≤ wanda ≤ magnitude", async () => {
    const plain = layer(64, 128, 77);
    for (const task of [{ sparsity: 0.6 }, { sparsity: 0.7 }, { pattern: parsePattern("2:4") }]) {
      const errors: number[] = [];
      for (const method of ["alps", "admm", "sparsegpt", "wanda", "magnitude"])
        errors.push(errorOf(plain, (await solve(device(), method, plain, task)).weight));
      assert.deepEqual(
        errors,
        [...errors].sort((x, y) => x - y),
        JSON.stringify(task),
      );
    }
  });

  test("updates of the same mask reach the optimum from above: none, obs, admm or cg", async () => {
    const plain = layer(48, 128, 51);
    const { weight: start, keep } = await solve(device(), "wanda", plain, { sparsity: 0.6 });
    const after = async (method: string, options = {}): Promise<number> =>
      errorOf(plain, (await solve(device(), method, plain, { keep, current: start, options })).weight);
    const [obs, admm, cg] = [await after("obs-update"), await after("admm-update"), await after("cg-update")];
    const optimum = await after("cg-update", { steps: 200, damping: 1e-6 });
    assert.ok(optimum <= cg && optimum <= admm && admm < obs && cg < obs && obs < errorOf(plain, start));
  });
});

/** tr(D·G·Dᵀ) */
function relativeErrorTimesEnergy(plain: PlainLayer, weight: ArrayLike<number>): number {
  const zero = new Float64Array(plain.rows * plain.columns);
  const energy = (x: ArrayLike<number>): number => {
    let total = 0;
    for (let r = 0; r < plain.rows; r++)
      for (let i = 0; i < plain.columns; i++)
        for (let j = 0; j < plain.columns; j++)
          total += x[r * plain.columns + i] * plain.gram[i * plain.columns + j] * x[r * plain.columns + j];
    return total;
  };
  return energy(zero.map((_, i) => plain.weight[i] - weight[i]));
}
