/** Adam steps with a pull and a mask, sums of squares, scores of projections, dual steps, accumulation: on every device. */
import { test } from "node:test";
import assert from "node:assert/strict";
import type { Device, Matrix } from "../../src/device/device.js";
import { describeOnDevices } from "../helpers/devices.js";
import { assertSameBits, assertWithin, F32_ROUNDOFF } from "../helpers/compare.js";
import { createRandom, normals } from "../reference/random.js";
import { packMask } from "../reference/selection.js";
import {
  referenceAdamStep,
  referenceDualStep,
  referenceScores,
  referenceSlope,
  referenceSumOfSquares,
  roundedAdamStep,
  type AdamResult,
  type ReferenceAdam,
} from "../reference/training.js";

const SHAPES = [
  [1, 1],
  [1, 2049],
  [7, 1],
  [3, 31],
  [2, 33],
  [65, 127],
  [64, 256],
  [300, 131],
] as const;
/** Several chunks of the CPU device, and rows that are larger than one. */
const LARGE = [
  [701, 401],
  [2, 100_003],
] as const;

const SCALARS = { rate: 2e-4, decay: [0.9, 0.95], epsilon: 1e-8, gradientScale: 0.37 } as const;

function randomMask(count: number, seed: number): Uint8Array {
  const random = createRandom(seed);
  return Uint8Array.from({ length: count }, () => Number(random() < 0.6));
}

function scaled(count: number, seed: number, scale: number): Float32Array {
  return normals(count, seed).map((value) => scale * value);
}

/** A state as one finds it in the middle of training: weights of 0.02, gradients of 1e-3, moments of that size. */
function adamProblem(count: number, step: number, seed: number): ReferenceAdam {
  const isStart = step === 1;
  return {
    ...SCALARS,
    step,
    values: scaled(count, seed, 0.02),
    gradient: scaled(count, seed + 1, 1e-3),
    first: isStart ? new Float32Array(count) : scaled(count, seed + 2, 1e-4),
    second: isStart ? new Float32Array(count) : scaled(count, seed + 3, 1e-3).map((value) => value ** 2),
  };
}

function pullFor(count: number, seed: number, strength: number): NonNullable<ReferenceAdam["pull"]> {
  const keep = randomMask(count, seed);
  const split = scaled(count, seed + 1, 0.02).map((value, i) => keep[i] * value);
  return { split, dual: scaled(count, seed + 2, 0.004), strength };
}

async function adamOn(
  device: Device,
  adam: ReferenceAdam,
  rows: number,
  columns: number,
): Promise<AdamResult<Float32Array>> {
  const upload = (array: ArrayLike<number>, label: string) =>
    device.uploadMatrix(Float32Array.from(array), rows, columns, label);
  using values = upload(adam.values, "x");
  using gradient = upload(adam.gradient, "g");
  using first = upload(adam.first, "m");
  using second = upload(adam.second, "v");
  using split = upload(adam.pull?.split ?? adam.gradient, "z");
  using dual = upload(adam.pull?.dual ?? adam.gradient, "u");
  const keep = adam.keep ?? new Uint8Array(rows * columns);
  using mask = device.uploadMask(packMask(keep, rows, columns), rows, columns, "mask");
  device.adamStep({
    values,
    gradient,
    first,
    second,
    gradientScale: adam.gradientScale,
    rate: adam.rate,
    decay: adam.decay,
    epsilon: adam.epsilon,
    step: adam.step,
    ...(adam.pull && { pull: { split, dual, strength: adam.pull.strength } }),
    ...(adam.keep && { mask }),
  });
  const [x, m, v, g, z, u] = await Promise.all(
    [values, first, second, gradient, split, dual].map((matrix) => device.download({ matrix })),
  );
  assertSameBits(g, Float32Array.from(adam.gradient), "the gradient is left alone");
  assertSameBits(z, Float32Array.from(adam.pull?.split ?? adam.gradient), "z is left alone");
  assertSameBits(u, Float32Array.from(adam.pull?.dual ?? adam.gradient), "u is left alone");
  return { values: x, first: m, second: v };
}

/**
 * What rounding may do to the three results, by the number of roundings that each value goes through; `root` is what a
 * root and a quotient add: 2 units of roundoff where they are rounded correctly, 16 where WGSL says 3 ulp each and more.
 */
function adamBounds(adam: ReferenceAdam, exact: AdamResult, root: number): AdamResult {
  const u = F32_ROUNDOFF;
  const [b1, b2] = adam.decay;
  const { rate, epsilon, step, pull, gradientScale } = adam;
  const slope = referenceSlope(adam).map(Math.abs);
  const slopeError = slope.map((g, i) => {
    const { split, dual, strength } = pull ?? { split: [], dual: [], strength: 0 };
    const terms = strength === 0 ? 0 : Math.abs(adam.values[i]) + Math.abs(split[i]) + Math.abs(dual[i]);
    return 2 * u * Math.abs(gradientScale * adam.gradient[i]) + 4 * u * Math.abs(strength) * terms + u * g;
  });
  const smallest = 2 ** -126; // what may become 0 where subnormal numbers do
  const first = slope.map(
    (g, i) => 3 * u * (b1 * Math.abs(adam.first[i]) + (1 - b1) * g) + (1 - b1) * slopeError[i] + smallest,
  );
  const second = slope.map(
    (g, i) => 4 * u * exact.second[i] + (1 - b2) * slopeError[i] * (2 * g + slopeError[i]) + smallest,
  );
  const values = slope.map((_, i) => {
    const rootOfSquare = Math.sqrt(exact.second[i] / (1 - b2 ** step));
    const rootError = Math.min(second[i] / Math.max(exact.second[i], smallest), 1) * rootOfSquare;
    const size = Math.max(rootOfSquare - rootError, 0) + epsilon;
    const change = (rate * Math.abs(exact.first[i])) / (1 - b1 ** step) / size;
    const relative = rootError / size + (6 + root) * u;
    return u * Math.abs(exact.values[i]) + (rate * first[i]) / (1 - b1 ** step) / size + change * relative;
  });
  return { values, first, second };
}

await describeOnDevices((device, name) => {
  const root = name === "webgpu" ? 16 : 2;

  const assertAdam = async (adam: ReferenceAdam, rows: number, columns: number, what: string): Promise<void> => {
    const actual = await adamOn(device(), adam, rows, columns);
    const exact = referenceAdamStep(adam);
    const bounds = adamBounds(adam, exact, root);
    for (const part of ["values", "first", "second"] as const) {
      const bound = (i: number): number => bounds[part][i];
      assertWithin(actual[part], exact[part], bound, `${what}: ${part}`);
    }
    if (name === "webgpu") return;
    const rounded = roundedAdamStep(adam);
    for (const part of ["values", "first", "second"] as const) assertSameBits(actual[part], rounded[part], what);
  };

  for (const [kind, strength, masks] of [
    ["plain", undefined, false],
    ["with a pull", 0.01, false],
    ["with a mask", undefined, true],
    ["with a pull and a mask", 0.3, true],
  ] as const) {
    test(`adamStep ${kind} follows the formula at the first step and later`, async () => {
      for (const [rows, columns] of SHAPES) {
        const count = rows * columns;
        for (const step of [1, 2, 700]) {
          const adam: ReferenceAdam = {
            ...adamProblem(count, step, rows + step),
            ...(strength !== undefined && { pull: pullFor(count, columns, strength) }),
            ...(masks && { keep: randomMask(count, columns + 5) }),
          };
          await assertAdam(adam, rows, columns, `[${rows}, ${columns}], step ${step}`);
        }
      }
    });
  }

  test("adamStep takes matrices that are larger than a chunk", async () => {
    for (const [rows, columns] of LARGE) {
      const count = rows * columns;
      const rest = { pull: pullFor(count, 4, 0.1), keep: randomMask(count, 5) };
      await assertAdam({ ...adamProblem(count, 3, 6), ...rest }, rows, columns, `[${rows}, ${columns}]`);
    }
  });

  test("adamStep takes every scalar where it belongs", async () => {
    const [rows, columns] = [5, 67];
    const start = { ...adamProblem(rows * columns, 3, 1), pull: pullFor(rows * columns, 2, 0.02) };
    for (const changed of [
      { rate: 0.5 },
      { decay: [0, 0.999] },
      { decay: [0.8, 0] },
      { epsilon: 0.25 },
      { gradientScale: -3 },
      { step: 1 },
      { step: 40 },
    ] as const) {
      await assertAdam({ ...start, ...changed }, rows, columns, JSON.stringify(changed));
    }
  });

  test("adamStep leaves weights without any gradient where they are", async () => {
    const adam = { ...adamProblem(70, 1, 9), gradient: new Float32Array(70) };
    const { values, first, second } = await adamOn(device(), adam, 2, 35);
    assertSameBits(values, Float32Array.from(adam.values), "x");
    assertSameBits(first, new Float32Array(70), "m");
    assertSameBits(second, new Float32Array(70), "v");
  });

  test("a pull without strength gives the very bits of no pull", async () => {
    for (const [rows, columns] of SHAPES) {
      const count = rows * columns;
      const adam = adamProblem(count, 5, 11);
      const values = Float32Array.from(adam.values);
      const gradient = Float32Array.from(adam.gradient);
      gradient[0] = -0;
      for (const strength of [0, -0, 1e-60]) {
        // Finite, but not their sum: nothing of it may come through.
        const [split, dual] = [new Float32Array(count).fill(-3e38), new Float32Array(count).fill(3e38)];
        const pull = { split, dual, strength };
        const without = await adamOn(device(), { ...adam, values, gradient }, rows, columns);
        const pulled = await adamOn(device(), { ...adam, values, gradient, pull }, rows, columns);
        for (const part of ["values", "first", "second"] as const) assertSameBits(pulled[part], without[part], part);
      }
    }
  });

  test("a mask that keeps all gives the very bits of no mask, and pruned entries are +0 whatever was there", async () => {
    for (const [rows, columns] of SHAPES) {
      const count = rows * columns;
      const adam = adamProblem(count, 6, 13);
      const without = await adamOn(device(), adam, rows, columns);
      const keep = new Uint8Array(count).fill(1);
      const whole = await adamOn(device(), { ...adam, keep }, rows, columns);
      for (const part of ["values", "first", "second"] as const) assertSameBits(whole[part], without[part], part);
      keep[count - 1] = 0;
      const gradient = Float32Array.from(adam.gradient);
      gradient[count - 1] = NaN;
      const dirty = (array: ArrayLike<number>): Float32Array => {
        const copy = Float32Array.from(array);
        copy[count - 1] = -5;
        return copy;
      };
      const state = { values: dirty(adam.values), first: dirty(adam.first), second: dirty(adam.second) };
      const pruned = await adamOn(device(), { ...adam, ...state, gradient, keep }, rows, columns);
      for (const part of ["values", "first", "second"] as const) {
        const expected = without[part].slice();
        expected[count - 1] = 0;
        assertSameBits(pruned[part], expected, `${part} of [${rows}, ${columns}]`);
      }
    }
  });

  test("100 steps down a bowl, the rate decaying, go where the float64 twin goes", async () => {
    const [rows, columns, steps] = [3, 45, 100];
    const count = rows * columns;
    const keep = randomMask(count, 20);
    const start = scaled(count, 21, 1).map((x, i) => keep[i] * x);
    const bottom = start.map((x, i) => x + (i % 2 === 0 ? 4 : -4)); // too far to arrive: nothing cancels
    const scalars = { decay: [0.9, 0.95] as const, epsilon: 1e-8, gradientScale: 0.5 };
    using values = device().uploadMatrix(start, rows, columns, "x");
    using first = device().createMatrix(rows, columns, "m");
    using second = device().createMatrix(rows, columns, "v");
    using gradient = device().createMatrix(rows, columns, "g");
    using target = device().uploadMatrix(bottom, rows, columns, "bottom");
    using mask = device().uploadMask(packMask(keep, rows, columns), rows, columns, "mask");
    let twin: AdamResult = {
      values: Float64Array.from(start),
      first: new Float64Array(count),
      second: new Float64Array(count),
    };
    for (let step = 1; step <= steps; step++) {
      const rate = 0.04 * (1 - step / (steps + 1));
      device().subtract({ matrix: values }, { matrix: target }, { matrix: gradient });
      device().adamStep({ values, gradient, first, second, ...scalars, rate, step, mask });
      const slope = twin.values.map((x, i) => x - bottom[i]);
      twin = referenceAdamStep({ ...scalars, ...twin, gradient: slope, rate, step, keep });
    }
    // A step rounds x once, and itself, 0.04 at most, some twenty times.
    const bound = (i: number): number => steps * F32_ROUNDOFF * (Math.abs(start[i]) + 3);
    assertWithin(await device().download({ matrix: values }), twin.values, bound, "x");
    twin.values.forEach((x, i) => assert.ok(keep[i] === 0 || Math.abs(x - start[i]) > 1, `entry ${i} moved`));
  });

  /** Not a number behind the last column, where a device pads its rows. */
  const uploadDirty = (values: Float32Array, rows: number, columns: number): Matrix => {
    using zero = device().createMatrix(rows, columns, "zero");
    using source = device().uploadMatrix(values, rows, columns, "source");
    const matrix = device().createMatrix(rows, columns, "dirty");
    device().scale(matrix, NaN);
    device().subtract({ matrix: source }, { matrix: zero }, { matrix });
    return matrix;
  };

  /** What f32 sums of rows may be off: all terms are positive, chains of columns / 256 and a tree of 8 additions. */
  const sumBound = (columns: number, exact: number): number => (columns / 256 + 12) * F32_ROUNDOFF * exact;

  test("sumOfSquares adds up every entry of the matrix and nothing else, also where calls overlap", async () => {
    for (const [rows, columns] of SHAPES) {
      const values = normals(rows * columns, 30);
      using a = uploadDirty(values, rows, columns);
      using b = device().uploadMatrix(
        values.map((value) => 2 * value),
        rows,
        columns,
        "b",
      );
      const [sum, other, again] = await Promise.all([a, b, a].map((matrix) => device().sumOfSquares(matrix)));
      const exact = referenceSumOfSquares(values);
      assertWithin([sum], [exact], () => sumBound(columns, exact), `[${rows}, ${columns}]`);
      assert.equal(other, 4 * sum, "powers of two change no rounding");
      assert.equal(again, sum);
    }
  });

  test("sumOfSquares waits for what was queued before, not after", async () => {
    using a = device().uploadMatrix(Float32Array.of(1, 2, 3), 1, 3, "a");
    device().scale(a, 2);
    const sum = device().sumOfSquares(a);
    device().scale(a, 100);
    assert.equal(await sum, 4 * 14);
  });

  test("projectionScores are √v·|x + u|, to the bit where no root is taken", async () => {
    for (const [rows, columns] of [...SHAPES, ...LARGE]) {
      const count = rows * columns;
      const [x, u] = [scaled(count, 31, 0.02), scaled(count, 32, 0.01)];
      const v = scaled(count, 33, 1e-3).map((value) => value ** 2);
      x[0] = -0;
      u[0] = -0;
      v[count - 1] = 0;
      using values = device().uploadMatrix(x, rows, columns, "x");
      using dual = device().uploadMatrix(u, rows, columns, "u");
      using second = device().uploadMatrix(v, rows, columns, "v");
      using out = device().createMatrix(rows, columns, "scores");
      for (const [hasDual, hasSecond] of [
        [false, false],
        [true, false],
        [false, true],
        [true, true],
      ]) {
        device().scale(out, NaN);
        device().projectionScores({ values, out, ...(hasDual && { dual }), ...(hasSecond && { second }) });
        const scores = await device().download({ matrix: out });
        const exact = referenceScores(x, hasDual ? u : undefined, hasSecond ? v : undefined);
        const what = `[${rows}, ${columns}]${hasDual ? " with u" : ""}${hasSecond ? " with v" : ""}`;
        if (hasSecond) {
          const bound = (i: number): number => (4 + root) * F32_ROUNDOFF * exact[i] + 2 ** -126;
          const rounded = hasDual ? x.map((value, i) => value + u[i]) : x; // its own rounding may cancel
          assertWithin(scores, referenceScores(rounded, undefined, v), bound, what);
        } else {
          assertSameBits(scores, Float32Array.from(exact), what);
        }
        assertSameBits(await device().download({ matrix: values }), x, "x is left alone");
      }
    }
  });

  test("dualStep moves z and u and measures how far they were", async () => {
    for (const [rows, columns] of [...SHAPES, ...LARGE]) {
      const count = rows * columns;
      const [x, z, u] = [scaled(count, 34, 0.02), scaled(count, 35, 0.02), scaled(count, 36, 0.01)];
      const keep = randomMask(count, 37);
      keep[count - 1] = 0;
      x[count - 1] = -0;
      using values = uploadDirty(x, rows, columns);
      using split = uploadDirty(z, rows, columns);
      using dual = uploadDirty(u, rows, columns);
      using mask = device().uploadMask(packMask(keep, rows, columns), rows, columns, "mask");
      const sums = await device().dualStep({ values, split, dual, mask });
      const exact = referenceDualStep(x, z, u, keep);
      const what = `[${rows}, ${columns}]`;
      assertSameBits(await device().download({ matrix: split }), Float32Array.from(exact.split), `${what}: z`);
      const bound = (i: number): number => 4 * F32_ROUNDOFF * (Math.abs(x[i]) + Math.abs(u[i]));
      assertWithin(await device().download({ matrix: dual }), exact.dual, bound, `${what}: u`);
      assertWithin(await device().download({ matrix: values }), x, () => 0, `${what}: x is left alone`);
      for (const sum of ["primal", "change", "values", "split"] as const) {
        // Differences were rounded before they were squared; none of them cancels in a sum of this many.
        const limit = sumBound(columns, exact.sums[sum]) + 8 * F32_ROUNDOFF * (exact.sums.values + exact.sums.split);
        assertWithin([sums[sum]], [exact.sums[sum]], () => limit, `${what}: ${sum}`);
      }
    }
  });

  test("a second dualStep starts from where the first one ended", async () => {
    const [rows, columns] = [33, 70];
    const count = rows * columns;
    const [x, u] = [scaled(count, 38, 1), scaled(count, 39, 0.5)];
    const [one, two] = [randomMask(count, 40), randomMask(count, 41)];
    using values = device().uploadMatrix(x, rows, columns, "x");
    using split = device().createMatrix(rows, columns, "z");
    using dual = device().uploadMatrix(u, rows, columns, "u");
    using before = device().uploadMask(packMask(one, rows, columns), rows, columns, "one");
    using after = device().uploadMask(packMask(two, rows, columns), rows, columns, "two");
    const steps = [before, after].map((mask) => device().dualStep({ values, split, dual, mask }));
    const sums = await Promise.all(steps);
    const first = referenceDualStep(x, new Float64Array(count), u, one);
    const second = referenceDualStep(x, first.split, first.dual, two);
    for (const [i, { sums: exact }] of [first, second].entries()) {
      for (const sum of ["primal", "change", "values", "split"] as const) {
        assertWithin([sums[i][sum]], [exact[sum]], () => 1e-5 * exact.values, `step ${i + 1}: ${sum}`);
      }
    }
    const bound = (i: number): number => 8 * F32_ROUNDOFF * (Math.abs(x[i]) + Math.abs(u[i]));
    assertWithin(await device().download({ matrix: split }), second.split, bound, "z");
    assertWithin(await device().download({ matrix: dual }), second.dual, bound, "u");
  });

  test("addInto adds entry by entry, with one rounding", async () => {
    for (const [rows, columns] of SHAPES) {
      const [x, y] = [normals(rows * columns, 42), normals(rows * columns, 43)];
      using a = device().uploadMatrix(x, rows, columns, "a");
      using out = device().uploadMatrix(y, rows, columns, "out");
      device().addInto(a, out);
      const expected = y.map((value, i) => value + x[i]);
      assertSameBits(await device().download({ matrix: out }), expected, `[${rows}, ${columns}]`);
      assertSameBits(await device().download({ matrix: a }), x, "a is left alone");
    }
  });
});
