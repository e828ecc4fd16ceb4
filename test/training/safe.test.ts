/** SAFE on problems small enough to be done again in float64, on every device. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { borrowed } from "../../src/array.js";
import { MersenneTwister, shuffled } from "../../src/calibration/random.js";
import { createCpuDevice } from "../../src/device/cpu/cpu-device.js";
import type { Device } from "../../src/device/device.js";
import { BlockRunner } from "../../src/forward/block-runner.js";
import { HiddenStates } from "../../src/forward/hidden-states.js";
import { readBlockWeights } from "../../src/forward/weights.js";
import type { LinearSpec } from "../../src/model/architecture.js";
import { openModel } from "../../src/model/open-model.js";
import { UNSTRUCTURED, type Pattern } from "../../src/sparsity/pattern.js";
import { BlockLoss } from "../../src/training/block-loss.js";
import { takeStep } from "../../src/training/optimiser.js";
import { blockParameters, Parameters } from "../../src/training/parameters.js";
import { flattenBlock, minimiseFlatly, safeSchema, type SafeOptions } from "../../src/training/safe.js";
import { linearRate } from "../../src/training/schedule.js";
import { lambdaAt } from "../../src/training/splitting.js";
import { fixturePath } from "../helpers/architectures.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { describeOnDevices } from "../helpers/devices.js";
import { normals } from "../reference/random.js";

const [ROWS, COLUMNS] = [6, 8];
const COUNT = ROWS * COLUMNS;
const LINEAR: LinearSpec = { name: "w", role: "w", inFeatures: COLUMNS, outFeatures: ROWS, inputAxis: 1 };
/** w, which becomes sparse, and b, which does not, in one list. */
const START = normals(COUNT + COLUMNS, 3);
/** f(x) = ½ Σ h (x - target)² */
const TARGET = START.map((value, i) => value + 0.1 * Math.sin(i));
const CURVATURE = START.map((_, i) => 0.5 + (1.5 * ((i * 7) % 11)) / 10);

type Gradient = (x: readonly number[]) => number[];
const quadratic: Gradient = (x) => x.map((value, i) => (CURVATURE[i] as number) * (value - (TARGET[i] as number)));

interface Setting {
  readonly steps?: number;
  readonly sparsity?: number;
  readonly pattern?: Pattern;
  /** Factors of the inputs' scores. */
  readonly scale?: Float32Array;
  readonly isTransposed?: boolean;
  readonly start?: Float32Array;
  readonly gradientOf?: Gradient;
}

const optionsOf = (given: object): SafeOptions => safeSchema.parse({ lr: 0.02, interval: 8, lambda: 0.5, ...given });

function parametersOf(device: Device, start: Float32Array, isSplit: boolean, isTransposed = false): Parameters {
  const shape = isTransposed ? [COLUMNS, ROWS] : [ROWS, COLUMNS];
  return new Parameters(device, [
    { name: "w", shape, values: start.subarray(0, COUNT), isMasked: false, isSplit },
    { name: "b", shape: [COLUMNS], values: start.subarray(COUNT), isMasked: false },
  ]);
}

const valuesOf = (parameters: Parameters): number[] => [...parameters].flatMap(({ values }) => [...values.host]);

async function takeGradient(parameters: Parameters, gradientOf: Gradient): Promise<number[]> {
  const x = valuesOf(parameters);
  const all = gradientOf(x);
  let first = 0;
  for (const { gradient } of parameters) {
    gradient.host.set(all.slice(first, first + gradient.host.length));
    first += gradient.host.length;
  }
  parameters.uploadGradients();
  return Promise.resolve(x);
}

interface Minimised {
  readonly x: readonly number[];
  /** Where gradients were taken. */
  readonly places: readonly (readonly number[])[];
}

async function minimise(device: Device, given: object, setting: Setting = {}): Promise<Minimised> {
  const { steps = 40, sparsity = 0.5, pattern = UNSTRUCTURED, scale, start = START, gradientOf = quadratic } = setting;
  const linear: LinearSpec = setting.isTransposed === true ? { ...LINEAR, inputAxis: 0 } : LINEAR;
  using parameters = parametersOf(device, start, true, setting.isTransposed);
  const places: number[][] = [];
  const gradient = async (): Promise<number> => {
    places.push(await takeGradient(parameters, gradientOf));
    return 1;
  };
  const linearsOf = (name: string) => (name === "w" ? [{ linear, sparsity, scale }] : []);
  const onStep = (): void => undefined;
  await minimiseFlatly({ device, pattern, parameters, linearsOf, steps, gradient, onStep }, optionsOf(given));
  return { x: valuesOf(parameters), places };
}

/** The same in float64. */
function reference(given: object, setting: Setting = {}): number[] {
  const { steps = 40, sparsity = 0.5, scale = new Float32Array(COLUMNS).fill(1) } = setting;
  const options = optionsOf(given);
  const project = (v: readonly number[]): number[] => {
    const score = (i: number): number => Math.abs(v[i] as number) * (scale[i % COLUMNS] as number);
    const order = [...Array(COUNT).keys()].sort((a, b) => score(a) - score(b) || a - b);
    const gone = new Set(order.slice(0, Math.floor(sparsity * COUNT)));
    return v.slice(0, COUNT).map((value, i) => (gone.has(i) ? 0 : value));
  };
  const x = [...START];
  let z = project(x);
  const [u, m, v] = [new Array<number>(COUNT).fill(0), x.map(() => 0), x.map(() => 0)];
  for (let step = 1; step <= steps; step++) {
    const g = quadratic(x);
    const norm = Math.sqrt(g.reduce((sum, value) => sum + value * value, 0)) + 1e-12;
    const above = quadratic(x.map((value, i) => value + (options.rho * (g[i] as number)) / norm));
    const lambda = lambdaAt({ ...options, initialLambda: 0, steps }, step - 1);
    const rate = linearRate(options.lr, step, steps, options.warmup);
    above.forEach((slope, i) => {
      const own = slope + (i < COUNT ? lambda * ((x[i] as number) - (z[i] as number) + (u[i] as number)) : 0);
      m[i] = 0.9 * (m[i] as number) + 0.1 * own;
      v[i] = 0.95 * (v[i] as number) + 0.05 * own ** 2;
      const root = Math.sqrt(v[i] / (1 - 0.95 ** step)) + 1e-8;
      x[i] = (x[i] as number) - (rate * m[i]) / (1 - 0.9 ** step) / root;
    });
    if (step % options.interval !== 0) continue;
    z = project(u.map((dual, i) => (x[i] as number) + dual));
    u.forEach((dual, i) => (u[i] = dual + (x[i] as number) - (z[i] as number)));
  }
  return [...project(x), ...x.slice(COUNT)];
}

function expectNear(actual: readonly number[], expected: readonly number[], what: string): void {
  const largest = Math.max(...expected.map((value, i) => Math.abs(value - (actual[i] as number))));
  assert.ok(largest < 2e-4, `${what}: ${largest} apart`);
}

await describeOnDevices((device) => {
  test("x is what the steps in float64 make it: ADMM without an ascent, and with one the gradients above", async () => {
    const scale = Float32Array.from({ length: COLUMNS }, (_, i) => 0.2 + ((i * 5) % 8));
    const cases: readonly (readonly [object, Setting])[] = [
      [{ rho: 0 }, {}],
      [{ rho: 0.3 }, {}],
      [{ rho: 0.3, schedule: "cosine", warmup: 0.3, interval: 5 }, { sparsity: 0.7 }],
      [{ rho: 0.3 }, { scale, sparsity: 0.6 }],
    ];
    for (const [given, setting] of cases)
      expectNear(
        (await minimise(device(), given, setting)).x,
        reference(given, setting),
        JSON.stringify({ ...given, ...setting }),
      );
    const apart = reference({ rho: 0 }).map((value, i) => value - (reference({ rho: 0.3 })[i] as number));
    assert.ok(Math.max(...apart.map(Math.abs)) > 1e-2, "the ascent makes no difference here");
  });

  test("without an ascent and a penalty the steps are plain Adam's, to the bit", async () => {
    const { x, places } = await minimise(device(), { rho: 0, lambda: 0, warmup: 0.2 }, { sparsity: 0 });
    assert.equal(places.length, 40);
    using plain = parametersOf(device(), START, false);
    for (let step = 1; step <= 40; step++) {
      assert.deepEqual(await takeGradient(plain, quadratic), places[step - 1]);
      await takeStep(plain, { rate: linearRate(0.02, step, 40, 0.2), step, gradientScale: 1 });
    }
    assert.deepEqual(x, valuesOf(plain));
  });

  test("a second gradient is taken at x + ρ g/‖g‖, with one norm over all tensors, and the step is taken from x", async () => {
    const { places } = await minimise(device(), { rho: 0.25, lr: 1e-6 }, { steps: 3 });
    assert.equal(places.length, 6);
    for (const step of [0, 1, 2]) {
      const [x, above] = [places[2 * step] as number[], places[2 * step + 1] as number[]];
      const g = quadratic(x);
      const norm = Math.sqrt(g.reduce((sum, value) => sum + value * value, 0));
      for (const [i, value] of above.entries()) {
        const expected = (x[i] as number) + (0.25 * (g[i] as number)) / norm;
        assert.ok(Math.abs(value - expected) < 1e-5, `step ${step}, ${i}: ${value}, not ${expected}`);
      }
      x.forEach((value, i) => assert.ok(Math.abs(value - (START[i] as number)) < 1e-5, `${i} moved with the ascent`));
    }
  });
});

test("of places that are equally low the flat one is found: w₀·w₁ = 1 is flattest where both are 1", async () => {
  await using device = await createCpuDevice();
  const start = Float32Array.from(START, (_, i) => [3, 0.3][i] ?? 0);
  const product: Gradient = (x) => {
    const gap = (x[0] as number) * (x[1] as number) - 1;
    return x.map((_, i) => (i === 0 ? gap * (x[1] as number) : i === 1 ? gap * (x[0] as number) : 0));
  };
  const curvature = async (rho: number): Promise<number> => {
    const setting = { start, gradientOf: product, steps: 600, sparsity: 0 };
    const { x } = await minimise(device, { rho, lambda: 0, lr: 0.01 }, setting);
    const [a = 0, b = 0] = x;
    assert.ok(Math.abs(a * b - 1) < 0.1, `${a} · ${b}`);
    return a * a + b * b;
  };
  const [sharp, flat] = [await curvature(0), await curvature(0.2)];
  assert.ok(sharp > 8.5 && flat < 0.8 * sharp, `${sharp}, flat ${flat}`);
});

test("zeros are exact, unstructured and N:M, in tensors stored either way; scores are weighted by input", async () => {
  await using device = await createCpuDevice();
  const scale = Float32Array.from({ length: COLUMNS }, (_, i) => (i % 2 === 0 ? 1000 : 1));
  for (const isTransposed of [false, true]) {
    const at = (x: readonly number[], row: number, column: number): number =>
      x[isTransposed ? column * ROWS + row : row * COLUMNS + column] as number;
    const zerosOf = (x: readonly number[]): number => x.slice(0, COUNT).filter((value) => value === 0).length;
    for (const [sparsity, zeros] of [
      [0.5, 24],
      [0.7, 33],
    ] as const)
      assert.equal(zerosOf((await minimise(device, {}, { sparsity, isTransposed })).x), zeros);
    const pattern: Pattern = { kind: "n-of-m", keep: 2, group: 4 };
    const { x: grouped } = await minimise(device, {}, { pattern, isTransposed });
    const { x: weighted } = await minimise(device, {}, { scale, isTransposed });
    for (let row = 0; row < ROWS; row++)
      for (let column = 0; column < COLUMNS; column++) {
        const group = [0, 1, 2, 3].map((i) => at(grouped, row, 4 * Math.floor(column / 4) + i));
        assert.equal(group.filter((value) => value === 0).length, 2, `row ${row}, column ${column}`);
        assert.equal(at(weighted, row, column) !== 0, column % 2 === 0, `row ${row}, column ${column}`);
      }
  }
});

test("a block's steps are Adam's on the mean over all elements, each epoch in another order, to the bit", async (t) => {
  await using device = await createCpuDevice();
  await using model = await openModel(fixturePath("llama"));
  const { architecture } = model;
  const block = architecture.blocks[0] ?? assert.fail();
  await using runner = new BlockRunner(architecture);
  const [sequences, tokens] = [5, 6];
  const states = async (seed: number): Promise<HiddenStates> => {
    const { hiddenSize } = architecture;
    const place = { memoryBytes: 2 ** 20, scratchFile: join(temporaryDirectory(t), "states") };
    const created = await HiddenStates.create({ sequences, tokens, width: hiddenSize, ...place });
    const values = normals(sequences * created.sequenceLength, seed);
    await created.write(0, borrowed("states", values, [sequences * tokens, hiddenSize]));
    return created;
  };
  await using inputs = await states(1);
  await using targets = await states(2);
  await using loss = await BlockLoss.compile(runner, architecture, block, [...block.tensors.keys()]);
  const weights = await readBlockWeights(model.checkpoint, block);
  using plain = blockParameters(device, block, weights, new Set());
  const all = [0, 1, 2, 3, 4];
  const random = new MersenneTwister(7);
  const orders = [shuffled(all, random), shuffled(all, random)];
  assert.notDeepEqual(orders[0], orders[1]);
  const batches = orders.flatMap((order) => [order.slice(0, 2), order.slice(2, 4), order.slice(4)]);
  const [hidden, target] = [0, 1].map(() => new Float32Array(2 * inputs.sequenceLength)) as [
    Float32Array,
    Float32Array,
  ];
  for (const [index, some] of batches.entries()) {
    const batch = {
      ...{ hidden: await inputs.gather(some, hidden), target: await targets.gather(some, target) },
      ...{ batch: some.length, tokens, weight: 1 / (some.length * inputs.sequenceLength) },
    };
    await loss.gradients(plain.feeds(), batch, plain.sinks());
    plain.uploadGradients();
    await takeStep(plain, { rate: linearRate(2e-4, index + 1, 6, 0), step: index + 1, gradientScale: 1 });
  }
  const pruned = block.groups.flatMap((group) => group.linears);
  const linears = new Map(pruned.map((linear) => [linear.role, [{ linear, sparsity: 0 }]]));
  const options = safeSchema.parse({ rho: 0, lambda: 0, epochs: 2, batchSize: 2, warmup: 0 });
  const heard: number[] = [];
  const report = await flattenBlock(
    {
      ...{ block, weights, inputs, targets, loss, device, seed: 7, pattern: UNSTRUCTURED, linears },
      onStep: ({ done }) => heard.push(done),
    },
    options,
  );
  assert.deepEqual(heard, [1, 2, 3, 4, 5, 6]);
  assert.ok(report.steps === 6 && report.after < report.before, JSON.stringify(report));
  for (const { name, values } of plain) assert.deepEqual(weights.get(name), values.host, name);
});
