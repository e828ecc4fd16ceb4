/** The weight that reproduces the dense model's outputs, against its twin and against what it promises. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { describeOnDevices } from "../helpers/devices.js";
import { assertSameBits } from "../helpers/compare.js";
import { solverOf } from "../../src/driver/session.js";
import { demoRun } from "../helpers/runs.js";
import { gramOfTokens, reproducing, uploadProblem, type PlainLayer } from "../helpers/layer-problem.js";
import { referenceMatmul } from "../reference/products.js";
import { correlatedTokens, normals } from "../reference/random.js";
import { referenceRetargeted } from "../reference/reproduce-model.js";
import { findSolver } from "../../src/solvers/registry.js";
import { composeSteps } from "../../src/solvers/steps.js";
import type { Device } from "../../src/device/device.js";
import type { LayerSolver } from "../../src/solvers/solver.js";

const [ROWS, COLUMNS, TOKENS] = [24, 48, 200];
const SEEN = correlatedTokens(TOKENS, COLUMNS, 2);
/** The dense model's inputs: a linear map of those seen and something that no map of them gives. */
const DENSE = SEEN.map((value, i) => 1.1 * value + 0.2 * (SEEN[i ^ 1] ?? 0) + 0.05 * Math.sin(i * 1.7));
const ERRORS = errorsOf(DENSE, SEEN);
const PLAIN: PlainLayer = {
  weight: normals(ROWS * COLUMNS, 1),
  gram: gramOfTokens(SEEN, TOKENS, COLUMNS),
  rows: ROWS,
  columns: COLUMNS,
  sequenceCount: 4,
};

/** Σ (x̃ - x)xᵀ */
function errorsOf(dense: ArrayLike<number>, seen: ArrayLike<number>): Float64Array {
  const differences = Float64Array.from(dense, (value, i) => value - seen[i]);
  return referenceMatmul(differences, seen, { m: COLUMNS, n: COLUMNS, k: TOKENS }, true);
}

/** ‖V·x - W·x̃‖² over all tokens. */
function distance(weight: ArrayLike<number>): number {
  const shape = { m: TOKENS, n: ROWS, k: COLUMNS };
  const target = referenceMatmul(DENSE, PLAIN.weight, shape, false, true);
  return referenceMatmul(SEEN, weight, shape, false, true).reduce((sum, value, i) => sum + (value - target[i]) ** 2, 0);
}

function method(name: string): LayerSolver<undefined> {
  const solver = findSolver(name);
  return composeSteps([{ solver, options: solver.schema.parse({}) }]);
}

async function solve(
  device: Device,
  solver: LayerSolver<undefined>,
  sparsity: number,
  errors?: ArrayLike<number>,
): Promise<Float32Array> {
  const { problem, gram } = uploadProblem(device, PLAIN, { sparsity });
  using _gram = gram;
  using uploaded = errors && device.uploadMatrix(Float32Array.from(errors), COLUMNS, COLUMNS, "errors");
  const statistics = uploaded === undefined ? problem.statistics : { ...problem.statistics, errors: uploaded };
  const solution = await solver.solve({ ...problem, statistics }, undefined, { device });
  using weight = solution.weight;
  using _mask = solution.keepMask;
  return await device.download({ matrix: weight });
}

test("a method that is to reproduce the model needs Gram matrices and the errors besides its own statistics", () => {
  const solver = solverOf(demoRun("unused", { method: "wanda", reproduce: "model", propagation: "group" }));
  assert.deepEqual([...solver.needs].sort(), ["column-norms", "gram", "inherited-errors"]);
  assert.equal(solver.name, "wanda");
});

await describeOnDevices((device) => {
  test("nothing pruned, the weight is the twin's and nearer to the dense model", async () => {
    const weight = await solve(device(), reproducing(method("magnitude")), 0, ERRORS);
    const twin = referenceRetargeted(PLAIN.weight, { errors: ERRORS, gram: PLAIN.gram }, ROWS, COLUMNS, 0.1);
    weight.forEach((value, i) => assert.ok(Math.abs(value - twin[i]) < 1e-4, `weight ${i}: ${value}, ${twin[i]}`));
    assert.ok(distance(weight) < 0.1 * distance(PLAIN.weight), `${distance(weight)}, ${distance(PLAIN.weight)}`);
  });

  test("any method then prunes that weight: nearer to the dense model than the method alone", async () => {
    for (const name of ["wanda", "sparsegpt", "alps"]) {
      const own = await solve(device(), method(name), 0.5);
      const made = await solve(device(), reproducing(method(name)), 0.5, ERRORS);
      const zeros = (values: Float32Array): number => values.filter((value) => value === 0).length;
      assert.equal(zeros(made), zeros(own), name);
      assert.ok(distance(made) < distance(own), `${name}: ${distance(made)}, alone ${distance(own)}`);
    }
  });

  test("where nothing is known of the dense model's inputs, or they are those seen, it is the method itself", async () => {
    const alone = await solve(device(), method("sparsegpt"), 0.5);
    assertSameBits(await solve(device(), reproducing(method("sparsegpt")), 0.5), alone, "unknown");
    const nothing = new Float64Array(COLUMNS * COLUMNS);
    assertSameBits(await solve(device(), reproducing(method("sparsegpt")), 0.5, nothing), alone, "no errors");
  });
});
