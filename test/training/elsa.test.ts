/** Elsa on problems small enough to know the answer of, on every device. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { createCpuDevice } from "../../src/device/cpu/cpu-device.js";
import type { Device } from "../../src/device/device.js";
import { NumericalError } from "../../src/errors.js";
import { UNSTRUCTURED, type Pattern } from "../../src/sparsity/pattern.js";
import { elsaSchema, lambdaAt, minimiseSparsely, type ElsaProgress } from "../../src/training/elsa.js";
import { Parameters } from "../../src/training/parameters.js";
import type { LinearSpec } from "../../src/model/architecture.js";
import { describeOnDevices } from "../helpers/devices.js";
import { normals } from "../reference/random.js";

const [ROWS, COLUMNS] = [6, 8];

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
}

async function minimise(
  device: Device,
  given: object,
  { sparsity = 0.5, pattern = UNSTRUCTURED, gradientOf, isTransposed = false }: Setting = {},
): Promise<{ readonly x: Float32Array; readonly progress: readonly ElsaProgress[] }> {
  const { target, curvature, start } = quadratic();
  const shape = isTransposed ? [COLUMNS, ROWS] : [ROWS, COLUMNS];
  using parameters = new Parameters(device, [{ name: "w", shape, values: start, isMasked: false }]);
  const [parameter] = [...parameters];
  assert.ok(parameter !== undefined);
  const linear: LinearSpec = isTransposed ? { ...LINEAR, inputAxis: 0 } : LINEAR;
  const progress: ElsaProgress[] = [];
  await minimiseSparsely(
    {
      ...{ device, parameters: [parameters], sparse: [{ parameter, linears: [{ linear, sparsity }] }], pattern },
      gradient(step) {
        const x = parameter.values.host;
        const own =
          gradientOf?.(x, step) ?? x.map((value, i) => (curvature[i] as number) * (value - (target[i] as number)));
        parameter.gradient.host.set(own);
        const loss = x.reduce(
          (sum, v, i) => sum + 0.5 * (curvature[i] as number) * (v - (target[i] as number)) ** 2,
          0,
        );
        return Promise.resolve(loss);
      },
      onStep: (each) => void progress.push(each),
    },
    elsaSchema.parse({ steps: 1200, interval: 8, lr: 0.02, lambda: 0.5, clip: 0, ...given }),
  );
  return { x: parameter.values.host.slice(), progress };
}

const supportOf = (x: Float32Array): number[] => [...x.keys()].filter((i) => x[i] !== 0);

await describeOnDevices((device) => {
  test("a quadratic converges: x is its projection, optimal on its support, and the support is stationary", async () => {
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
  const [parameter] = [...plain];
  for (let step = 1; step <= steps; step++) {
    const own = parameter?.values.host as Float32Array;
    parameter?.gradient.host.set(own.map((value, i) => (curvature[i] as number) * (value - (target[i] as number))));
    const rate = (0.02 * (steps - step + 1)) / steps;
    await plain.step({ rate, decay: [0.9, 0.95], epsilon: 1e-8, step, gradientScale: 1 });
  }
  assert.deepEqual(x, parameter?.values.host);
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

test("the loss's gradient is clipped before the penalty joins it", async () => {
  await using device = await createCpuDevice();
  const gradientOf = (x: Float32Array): Float32Array => x.map(() => 100);
  const { progress } = await minimise(device, { steps: 1, clip: 1 }, { gradientOf });
  assert.ok(Math.abs((progress[0]?.gradientNorm ?? 0) - 100 * Math.sqrt(ROWS * COLUMNS)) < 1e-2);
  // λ ‖x - z‖ over a gradient of norm 1, not of 693.
  const projected = progress[0]?.projected;
  assert.ok((projected?.penaltyRatio ?? 0) > 0.05, JSON.stringify(projected));
});

test("a loss that is not finite stops with its step, before anything moves", async () => {
  await using device = await createCpuDevice();
  const { start } = quadratic();
  using parameters = new Parameters(device, [{ name: "w", shape: [ROWS, COLUMNS], values: start, isMasked: false }]);
  const problem = {
    device,
    parameters: [parameters],
    sparse: [],
    pattern: UNSTRUCTURED,
    gradient: () => Promise.resolve(NaN),
  };
  await assert.rejects(
    minimiseSparsely(problem, elsaSchema.parse({ steps: 3 })),
    (error: unknown) => error instanceof NumericalError && /step 1 of 3/.test(error.message),
  );
  assert.deepEqual([...parameters][0]?.values.host, start);
});
