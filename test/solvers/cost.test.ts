/** What methods say they cost, against what they ask of a device that counts. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { createCountingDevice } from "../helpers/counting-device.js";
import { gramOfTokens, reproducing, uploadProblem, type PlainLayer } from "../helpers/layer-problem.js";
import { correlatedTokens, normals } from "../reference/random.js";
import { createCpuDevice } from "../../src/device/cpu/cpu-device.js";
import type { Device } from "../../src/device/device.js";
import type { LayerSize, SolveCost } from "../../src/solvers/cost.js";
import { findSolver } from "../../src/solvers/registry.js";
import type { LayerProblem, LayerSolver } from "../../src/solvers/solver.js";
import { composeSteps } from "../../src/solvers/steps.js";
import { parsePattern, UNSTRUCTURED, type Pattern } from "../../src/sparsity/pattern.js";

/** Far enough from the width of a panel, 128, that a wrong power of a size shows. */
const SIZES = [
  { rows: 512, columns: 384 },
  { rows: 192, columns: 640 },
] as const;
const TARGETS: readonly { readonly pattern: Pattern; readonly sparsity: number }[] = [
  { pattern: UNSTRUCTURED, sparsity: 0.7 },
  { pattern: parsePattern("2:4"), sparsity: 0.5 },
];
const TOLERANCE = 0.2;

let device: Device;
const layers = new Map<number, PlainLayer>();
before(async () => {
  device = await createCpuDevice({ threads: 2 });
  for (const { rows, columns } of SIZES) {
    const tokens = columns + 64;
    const gram = gramOfTokens(correlatedTokens(tokens, columns, 3), tokens, columns);
    layers.set(columns, { weight: normals(rows * columns, 5), gram, rows, columns, sequenceCount: 4 });
  }
});
after(() => device[Symbol.asyncDispose]());

/** A method alone, or after magnitude where it starts from a mask. */
function composed(method: string, options: Record<string, unknown>): LayerSolver<undefined> {
  const solver = findSolver(method);
  const step = { solver, options: solver.schema.parse(options) };
  if (solver.startsFromMask !== true) return composeSteps([step]);
  const first = findSolver("magnitude");
  return composeSteps([{ solver: first, options: first.schema.parse({}) }, step]);
}

async function count(solver: LayerSolver<undefined>, plain: PlainLayer, target: (typeof TARGETS)[number]) {
  const { problem, gram } = uploadProblem(device, plain, target);
  using _gram = gram;
  const { columns } = plain;
  const moments = { sums: new Float32Array(columns).fill(0.1), variances: new Float32Array(columns).fill(1) };
  using errors = device.createMatrix(columns, columns, "errors");
  const sums = new Float32Array(problem.outFeatures * columns).fill(1);
  const gradients = { "gradient-magnitudes": sums, "gradient-squares": sums, "regional-gradients": sums };
  const whole: LayerProblem = { ...problem, gradients, statistics: { ...problem.statistics, moments, errors } };
  const held = 4 * (problem.outFeatures * columns + 2 * columns ** 2);
  const counting = createCountingDevice(device, target.sparsity);
  const solution = await solver.solve(whole, undefined, { device: counting.device });
  solution.weight[Symbol.dispose]();
  solution.keepMask[Symbol.dispose]();
  return { ...counting.counts, bytes: counting.counts.bytes - held };
}

function assertNear(said: number, counted: number, label: string): void {
  const isNear = Math.abs(said - counted) <= TOLERANCE * counted;
  assert.ok(isNear, `${label}: said ${said.toExponential(3)}, counted ${counted.toExponential(3)}`);
}

const METHODS: readonly (readonly [string, Record<string, unknown>])[] = [
  ["random", {}],
  ["magnitude", {}],
  ["wanda", {}],
  ["ria", {}],
  ["snip", {}],
  ["snip", { accumulate: "squares" }],
  ["gblm", {}],
  ["wanda++", {}],
  ["sparsegpt", {}],
  ["sparsegpt", { order: "activation" }],
  ["thanos", {}],
  ["thanos", { blockSize: 64 }],
  ["admm", {}],
  ["admm", { iterations: 6, maskIterations: 2 }],
  ["alps", {}],
  ["alps", { iterations: 12 }],
  ["dsnot", {}],
  ["obs-update", {}],
  ["admm-update", {}],
  ["cg-update", {}],
];

for (const [method, options] of METHODS) {
  test(`${method} ${JSON.stringify(options)} asks of the device what it says`, async () => {
    for (const { rows, columns } of SIZES) {
      for (const target of TARGETS) {
        const size: LayerSize = { name: "test.layer", inFeatures: columns, outFeatures: rows, ...target };
        const plain = layers.get(columns) ?? assert.fail();
        const solver = composed(method, options);
        const label = `${target.pattern.kind} ${rows}x${columns}`;
        const [said, counted] = [solver.cost(size, undefined), await count(solver, plain, target)];
        assertNear(said.products, counted.products, `${label}, products`);
        assertNear(said.kernels, counted.kernels, `${label}, kernels`);
        assertNear(said.entries, counted.entries, `${label}, entries`);
        assertNear(said.bytes, counted.bytes, `${label}, bytes`);
      }
    }
  });
}

test("reproducing the model adds an inverse and two products to any method", async () => {
  const [{ rows, columns }] = SIZES;
  const [target] = TARGETS;
  const size: LayerSize = { name: "test.layer", inFeatures: columns, outFeatures: rows, ...target };
  for (const method of ["wanda", "sparsegpt"]) {
    const solver = reproducing(composed(method, {}));
    const said: SolveCost = solver.cost(size, undefined);
    const counted = await count(solver, layers.get(columns) ?? assert.fail(), target);
    assertNear(said.products, counted.products, `${method}, products`);
    assertNear(said.bytes, counted.bytes, `${method}, bytes`);
  }
});

test("steps that leave a linear out cost nothing there", () => {
  const size = { name: "model.mlp", inFeatures: 64, outFeatures: 32, ...TARGETS[0] };
  const [wanda, update] = [findSolver("wanda"), findSolver("admm-update")];
  const steps = composeSteps([
    { solver: wanda, options: wanda.schema.parse({}) },
    { solver: update, options: update.schema.parse({}), appliesTo: (name) => name.endsWith("attn") },
  ]);
  assert.deepEqual(steps.cost(size, undefined), wanda.cost(size, wanda.schema.parse({})));
  assert.ok(steps.cost({ ...size, name: "model.attn" }, undefined).products > 0);
});
