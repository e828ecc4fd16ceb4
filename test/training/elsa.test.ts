/** Elsa on problems small enough to know the answer of, on every device. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { createCpuDevice } from "../../src/device/cpu/cpu-device.js";
import type { Device } from "../../src/device/device.js";
import { NumericalError } from "../../src/errors.js";
import { UNSTRUCTURED, type Pattern } from "../../src/sparsity/pattern.js";
import type { StepProgress } from "../../src/training/descent.js";
import { elsa, elsaSchema, minimiseSparsely, shareAt, STATES, type ElsaProblem } from "../../src/training/elsa.js";
import { Parameters, type Parameter } from "../../src/training/parameters.js";
import { lambdaAt, project, startSplitting } from "../../src/training/splitting.js";
import { ParameterStore } from "../../src/training/parameter-store.js";
import type { LinearSpec } from "../../src/model/architecture.js";
import { describeOnDevices } from "../helpers/devices.js";
import { normals } from "../reference/random.js";

const [ROWS, COLUMNS] = [6, 8];
/** A word of 32 bits for every row of 8. */
const MASK_BYTES = 4 / COLUMNS;

/** f(x) = ½ Σ h (x - target)², with curvatures h between 0.5 and 2. */
interface Quadratic {
  readonly target: Float32Array;
  readonly curvature: Float32Array;
  readonly start: Float32Array;
}

function quadratic(): Quadratic {
  const count = ROWS * COLUMNS;
  const target = normals(count, 3);
  const curvature = Float32Array.from({ length: count }, (_, i) => 0.5 + (1.5 * ((i * 7) % 11)) / 10);
  return { target, curvature, start: target.map((value, i) => value + 0.1 * Math.sin(i)) };
}

const LINEAR: LinearSpec = { name: "w", role: "w", inFeatures: COLUMNS, outFeatures: ROWS, inputAxis: 1 };

interface Setting {
  readonly sparsity?: number;
  readonly pattern?: Pattern;
  readonly gradientOf?: (x: Float32Array, step: number) => Float32Array;
  /** Whether the matrix is stored [in, out]. */
  readonly isTransposed?: boolean;
  /** For the store; with none of it everything lies in files. */
  readonly memoryBytes?: number;
  readonly state?: keyof typeof STATES;
  /** Stop after this step, keep the state, and go on in a store of its own. */
  readonly stopsAfter?: number;
}

class Stopped extends Error {}

async function minimise(device: Device, given: object, setting: Setting = {}): Promise<Minimised> {
  const directory = mkdtempSync(join(tmpdir(), "prune-elsa-"));
  try {
    return await minimiseIn(directory, device, given, setting);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

interface Minimised {
  readonly x: Float32Array;
  readonly progress: readonly StepProgress[];
  readonly bytesPerParameter: number;
}

async function minimiseIn(
  directory: string,
  device: Device,
  given: object,
  {
    sparsity = 0.5,
    pattern = UNSTRUCTURED,
    gradientOf,
    isTransposed = false,
    memoryBytes = 2 ** 20,
    ...setting
  }: Setting,
): Promise<Minimised> {
  const { target, curvature, start } = quadratic();
  const shape = isTransposed ? [COLUMNS, ROWS] : [ROWS, COLUMNS];
  const group = {
    name: "g",
    load: () => Promise.resolve([{ name: "w", shape, values: start, isMasked: false, isSplit: true }]),
  };
  const open = (name: string): Promise<ParameterStore> =>
    ParameterStore.create({
      ...{ device, memoryBytes, groups: [group], formats: STATES[setting.state ?? "fp32"] },
      directory: join(directory, name),
    });
  const linear: LinearSpec = isTransposed ? { ...LINEAR, inputAxis: 0 } : LINEAR;
  const progress: StepProgress[] = [];
  const options = elsaSchema.parse({ steps: 1200, interval: 8, lr: 0.02, lambda: 0.5, clip: 0, ...given });
  const run = async (store: ParameterStore, taken: number): Promise<void> => {
    const problem: ElsaProblem = {
      ...{ device, pattern, store, taken, linearsOf: () => [{ linear, sparsity }] },
      gradient: (step) =>
        store.use("g", { reads: ["values"], writes: ["gradient"] }, async (parameters) => {
          const [parameter] = [...parameters] as [Parameter];
          const x = parameter.values.host;
          const gap = (i: number): number => (x[i] as number) - (target[i] as number);
          const own = gradientOf?.(x, step) ?? x.map((_, i) => (curvature[i] as number) * gap(i));
          parameter.gradient.host.set(own);
          parameters.uploadGradients();
          const loss = x.reduce((sum, _, i) => sum + 0.5 * (curvature[i] as number) * gap(i) ** 2, 0);
          return { loss, squares: await parameters.gradientSquares() };
        }),
      onStep(each) {
        progress.push(each);
        if (each.step === setting.stopsAfter && taken === 0) throw new Stopped();
      },
    };
    await minimiseSparsely(problem, options);
  };
  await using store = await open("first");
  const finish = async (last: ParameterStore): Promise<Minimised> => ({
    x: await last.use("g", { reads: ["values"] }, ([parameter]) =>
      Promise.resolve((parameter as Parameter).values.host.slice()),
    ),
    progress,
    bytesPerParameter: last.size.bytes / last.size.elements,
  });
  try {
    await run(store, 0);
    return await finish(store);
  } catch (error) {
    if (!(error instanceof Stopped)) throw error;
  }
  await store.snapshot(join(directory, "kept"));
  await using second = await open("second");
  await second.restore(join(directory, "kept"));
  await run(second, setting.stopsAfter as number);
  return await finish(second);
}

const supportOf = (x: Float32Array): number[] => [...x.keys()].filter((i) => x[i] !== 0);

await describeOnDevices((device, name) => {
  if (name === "webgpu")
    test("its steps are those of the cpu", async () => {
      await using cpu = await createCpuDevice();
      for (const given of [
        { steps: 70, interval: 16, lambda: 8, frozen: 0.2 },
        { steps: 40, interval: 8, lambda: 2, schedule: "cosine", projection: "fisher" },
      ]) {
        const [there, here] = [await minimise(device(), given), await minimise(cpu, given)];
        assert.deepEqual(supportOf(there.x), supportOf(here.x));
        there.x.forEach((value, i) => assert.ok(Math.abs(value - (here.x[i] as number)) < 1e-5, `entry ${i}`));
      }
    });

  // Thousands of small steps, which emulated shaders take half a minute for.
  const convergent = { skip: name === "webgpu" };
  test(
    "a quadratic converges: x is its projection, optimal on its support, and the support is stationary",
    convergent,
    async () => {
      const { target, curvature } = quadratic();
      const lambda = 8;
      const { x, progress } = await minimise(device(), { steps: 2400, interval: 32, lambda });
      const support = supportOf(x);
      assert.equal(support.length, (ROWS * COLUMNS) / 2);
      for (const i of support) assert.ok(Math.abs((x[i] as number) - (target[i] as number)) < 0.02, `entry ${i}`);
      const last = progress.findLast((each) => each.projected !== undefined)?.projected;
      assert.ok((last?.primal ?? 1) < 0.02, JSON.stringify(last));
      // λ-stationary: no pruned entry of x - ∇f/λ is larger than the smallest that is kept.
      const step = (i: number): number =>
        Math.abs((x[i] as number) - ((curvature[i] as number) * ((x[i] as number) - (target[i] as number))) / lambda);
      const kept = Math.min(...support.map(step));
      const pruned = Math.max(...[...x.keys()].filter((i) => x[i] === 0).map(step));
      assert.ok(pruned <= kept, `${pruned} of ${kept}`);
      assert.equal(last?.flips, 0);
    },
  );

  test("u takes up the share of x - z that it is told to, and what was left before", async () => {
    const { start } = quadratic();
    const shape = [ROWS, COLUMNS];
    using parameters = new Parameters(device(), [{ name: "w", shape, values: start, isMasked: false, isSplit: true }]);
    const [parameter] = [...parameters] as [Parameter];
    const twin = parameter.twin ?? assert.fail();
    const linears = [{ linear: LINEAR, sparsity: 0.5 }];
    const split = { device: device(), parameter, ...twin, linears, pattern: UNSTRUCTURED };
    await startSplitting(split);
    let expected = new Float64Array(start.length);
    for (const share of [0.25, 0, 1]) {
      await project(split, "identity", share);
      const z = (await parameter.give("split")) as Float32Array;
      expected = expected.map((u, i) => u + share * ((start[i] as number) - (z[i] as number)));
      const u = (await parameter.give("dual")) as Float32Array;
      u.forEach((value, i) => assert.ok(Math.abs(value - (expected[i] as number)) < 1e-6, `${share}, entry ${i}`));
    }
    const kept = supportOf((await parameter.give("split")) as Float32Array);
    assert.equal(kept.length, start.length / 2);
  });

  test("2:4 keeps two of every four inputs, in either order of storage", async () => {
    for (const isTransposed of [false, true]) {
      const pattern: Pattern = { kind: "n-of-m", keep: 2, group: 4 };
      const { x } = await minimise(device(), { steps: 60 }, { pattern, isTransposed });
      for (let row = 0; row < ROWS; row++)
        for (let first = 0; first < COLUMNS; first += 4) {
          const group = [0, 1, 2, 3].map((i) => x[isTransposed ? (first + i) * ROWS + row : row * COLUMNS + first + i]);
          assert.equal(group.filter((value) => value === 0).length, 2, `${isTransposed} ${row} ${first}`);
        }
    }
  });

  test("scores by the second moment choose otherwise than by magnitude", async () => {
    // Large entries without any gradient matter to the one and not to the other.
    const gradientOf = (x: Float32Array): Float32Array => x.map((_, i) => (i % 2 === 0 ? 0.5 * Math.sin(i + 1) : 1e-6));
    const given = { steps: 9, lr: 1e-4, lambda: 0 };
    const identity = await minimise(device(), { ...given, projection: "identity" }, { gradientOf });
    const fisher = await minimise(device(), { ...given, projection: "fisher" }, { gradientOf });
    assert.notDeepEqual(supportOf(fisher.x), supportOf(identity.x));
    assert.ok(supportOf(fisher.x).every((i) => i % 2 === 0));
  });
});

test("with a penalty of 0 the steps are plain Adam's, to the bit", async () => {
  await using device = await createCpuDevice();
  const { target, curvature, start } = quadratic();
  const steps = 17;
  const { x } = await minimise(device, { steps, lambda: 0 }, { sparsity: 0 });
  using plain = new Parameters(device, [{ name: "w", shape: [ROWS, COLUMNS], values: start, isMasked: false }]);
  const [parameter] = [...plain] as [Parameter];
  for (let step = 1; step <= steps; step++) {
    const own = parameter.values.host;
    parameter.gradient.host.set(own.map((value, i) => (curvature[i] as number) * (value - (target[i] as number))));
    const rate = (0.02 * (steps - step + 1)) / steps;
    await plain.step({ rate, decay: [0.9, 0.95], epsilon: 1e-8, step, gradientScale: 1 });
  }
  assert.deepEqual(x, parameter.values.host);
});

test("where the state lies changes no bit, nor does a stop at any kind of step", async () => {
  await using device = await createCpuDevice();
  for (const given of [
    { steps: 40, frozen: 0.4 },
    { steps: 40, schedule: "cosine", projection: "fisher" },
  ]) {
    const expected = await minimise(device, given);
    const inFiles = await minimise(device, given, { memoryBytes: 0 });
    assert.deepEqual(inFiles.x, expected.x);
    // After a projection and before, in the middle of an interval, around the beginning of the frozen stretch.
    for (const stopsAfter of [1, 8, 9, 13, 23, 24, 25, 39])
      for (const memoryBytes of [0, 2 ** 20]) {
        const resumed = await minimise(device, given, { stopsAfter, memoryBytes });
        assert.deepEqual(resumed.x, expected.x, `${JSON.stringify(given)} after ${stopsAfter}`);
        assert.deepEqual(resumed.progress, expected.progress);
      }
  }
});

test("Elsa-L keeps x and gradients in 4 bytes, z and the moments in 1, u in 2, and comes near", async () => {
  await using device = await createCpuDevice();
  const given = { steps: 400, interval: 8, lambda: 8 };
  const full = await minimise(device, given);
  assert.ok(Math.abs(full.bytesPerParameter - (24 + MASK_BYTES)) < 1e-9, `${full.bytesPerParameter}`);
  for (const state of ["elsa-l", "elsa-l-e5m2"] as const) {
    const light = await minimise(device, given, { state });
    // One scale for z, and one for every block of 256 of either moment: a matrix of 48 has one of each.
    assert.ok(Math.abs(light.bytesPerParameter - (13 + MASK_BYTES + 12 / 48)) < 1e-9, `${light.bytesPerParameter}`);
    assert.equal(supportOf(light.x).length, 24);
    const common = supportOf(light.x).filter((i) => full.x[i] !== 0).length;
    assert.ok(common >= 22, `${state}: ${common} of 24 in common`);
    const again = await minimise(device, given, { state, stopsAfter: 77, memoryBytes: 0 });
    assert.deepEqual(again.x, light.x, "packed in memory, in a file, or kept and taken up again");
  }
});

test("with a huge penalty the support stays that of the starting magnitudes", async () => {
  await using device = await createCpuDevice();
  const { start } = quadratic();
  const { x } = await minimise(device, { steps: 200, lambda: 1000, lr: 1e-3 });
  const order = [...start.keys()].sort((a, b) => Math.abs(start[b] as number) - Math.abs(start[a] as number));
  assert.deepEqual(
    supportOf(x),
    order.slice(0, (ROWS * COLUMNS) / 2).sort((a, b) => a - b),
  );
});

test("every schedule ends at lambda, and one that begins there is constant to the bit", async () => {
  const options = elsaSchema.parse({ steps: 100, lambda: 0.4, initialLambda: 0.1 });
  for (const schedule of ["linear", "cosine", "exponential"] as const) {
    const values = [0, 25, 50, 75, 100].map((step) => lambdaAt({ ...options, schedule }, step));
    assert.ok(Math.abs((values[0] as number) - 0.1) < 1e-12 && Math.abs((values[4] as number) - 0.4) < 1e-12, schedule);
    assert.ok(
      values.every((value, i) => i === 0 || value > (values[i - 1] as number)),
      schedule,
    );
  }
  await using device = await createCpuDevice();
  const [constant, cosine] = [
    await minimise(device, { steps: 40 }),
    await minimise(device, { steps: 40, schedule: "cosine", initialLambda: 0.5 }),
  ];
  assert.deepEqual(cosine.x, constant.x);
});

test("projections come after steps 1, interval + 1, …, and a frozen end trains under the mask alone", async () => {
  await using device = await createCpuDevice();
  const given = { steps: 40, interval: 8, lambda: 8 };
  const { progress } = await minimise(device, { ...given, frozen: 0.5 });
  assert.deepEqual(
    progress.filter((each) => each.projected !== undefined).map(({ step }) => step),
    [1, 9, 17],
  );
  const { target } = quadratic();
  const largestError = (values: Float32Array): number =>
    Math.max(...supportOf(values).map((i) => Math.abs((values[i] as number) - (target[i] as number))));
  const long = { ...given, steps: 600 };
  const [frozen, never] = [await minimise(device, { ...long, frozen: 0.5 }), await minimise(device, long)];
  assert.equal(supportOf(frozen.x).length, (ROWS * COLUMNS) / 2);
  // Without the penalty the kept entries reach their optimum, which it holds them back from.
  assert.ok(largestError(frozen.x) < 0.02, `${largestError(frozen.x)}`);
  assert.ok(largestError(never.x) > 0.05, `${largestError(never.x)}`);
});

test("gradual: projections follow a cubic, from none of the sparsity to all of it, and the end has all", async () => {
  await using device = await createCpuDevice();
  const options = { gradual: 0.5, steps: 40 };
  assert.deepEqual(
    [0, 10, 20, 40].map((taken) => shareAt(options, taken)),
    [0, 1 - 0.5 ** 3, 1, 1],
  );
  assert.equal(shareAt({ gradual: 0, steps: 40 }, 0), 1);
  const given = { steps: 40, interval: 8, lambda: 8, gradual: 0.5 };
  const { x, progress } = await minimise(device, given);
  assert.equal(supportOf(x).length, (ROWS * COLUMNS) / 2);
  assert.equal(progress[0]?.projected?.flips, 0, "nothing is pruned at the first projection, nor was before");
  assert.ok((progress[8]?.projected?.flips ?? 0) > 0.2);
  const refused = elsa.misfit(elsaSchema.parse({ gradual: 0.5 }), { kind: "n-of-m", keep: 2, group: 4 });
  assert.match(refused ?? "", /gradual/);
  assert.equal(elsa.misfit(elsaSchema.parse({ gradual: 0.5 }), UNSTRUCTURED), undefined);
});

test("decoupled: x moves by -λ (x - z + u) after Adam's step, whatever the rate", async () => {
  await using device = await createCpuDevice();
  const { start } = quadratic();
  // With hardly a rate only the pull moves: pruned entries shrink by 1 - λ a step while u is 0, kept ones stay.
  const { x } = await minimise(
    device,
    { steps: 1, lr: 1e-12, lambda: 0.25, decoupled: true, frozen: 0 },
    { sparsity: 0 },
  );
  x.forEach((value, i) => assert.ok(Math.abs(value - (start[i] as number)) < 1e-6));
  const given = { steps: 60, interval: 8, lambda: 0.1, decoupled: true };
  const [decoupled, coupled] = [await minimise(device, given), await minimise(device, { ...given, decoupled: false })];
  const residual = ({ progress }: Minimised): number =>
    progress.findLast(({ projected }) => projected !== undefined)?.projected?.primal ?? 1;
  assert.ok(residual(decoupled) < 0.5 * residual(coupled), `${residual(decoupled)}, ${residual(coupled)}`);
  const inFiles = await minimise(device, given, { memoryBytes: 0, stopsAfter: 21 });
  assert.deepEqual(inFiles.x, decoupled.x);
});

test("the loss's gradient is clipped before the penalty joins it", async () => {
  await using device = await createCpuDevice();
  const gradientOf = (x: Float32Array): Float32Array => x.map(() => 100);
  const { progress } = await minimise(device, { steps: 1, clip: 1 }, { gradientOf });
  assert.ok(Math.abs((progress[0]?.gradientNorm ?? 0) - 100 * Math.sqrt(ROWS * COLUMNS)) < 1e-2);
  // λ ‖x - z‖ over a gradient of norm 1, not of 693.
  const projected = progress[0]?.projected;
  assert.ok((projected?.penaltyRatio ?? 0) > 0.05, JSON.stringify(projected));
});

test("a loss or a gradient that is not finite stops with its step, before anything moves", async () => {
  await using device = await createCpuDevice();
  const { start } = quadratic();
  for (const bad of [
    { loss: NaN, squares: 1 },
    { loss: 1, squares: Infinity },
  ]) {
    await using store = await ParameterStore.create({
      ...{ device, memoryBytes: 2 ** 20, directory: "unused", formats: STATES.fp32 },
      groups: [
        {
          name: "g",
          load: () => Promise.resolve([{ name: "w", shape: [ROWS, COLUMNS], values: start, isMasked: false }]),
        },
      ],
    });
    const problem: ElsaProblem = {
      ...{ device, store, taken: 0, pattern: UNSTRUCTURED, linearsOf: () => [] },
      gradient: () => Promise.resolve({ ...bad, origin: "what leaves block 3" }),
    };
    await assert.rejects(
      minimiseSparsely(problem, elsaSchema.parse({ steps: 3 })),
      (error: unknown) =>
        error instanceof NumericalError &&
        /step 1 of 3.*what leaves block 3/s.test(error.message) &&
        error.code === "E_NON_FINITE",
    );
    const x = await store.use("g", {}, ([parameter]) => Promise.resolve((parameter as Parameter).values.host.slice()));
    assert.deepEqual(x, start);
  }
});
