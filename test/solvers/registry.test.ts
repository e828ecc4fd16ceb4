/** Finding methods by name, and their option schemas. */
import { test } from "node:test";
import assert from "node:assert/strict";
import { UsageError } from "../../src/errors.js";
import { findSolver, SOLVERS } from "../../src/solvers/registry.js";

test("every registered solver is found under its own name", () => {
  assert.deepEqual(
    [...SOLVERS].filter(([, solver]) => solver.startsFromMask !== true).map(([name]) => name),
    ["random", "magnitude", "wanda", "ria", "sparsegpt", "thanos", "admm", "alps"],
  );
  assert.deepEqual(
    [...SOLVERS].filter(([, solver]) => solver.startsFromMask === true).map(([name]) => name),
    ["dsnot", "obs-update", "admm-update", "cg-update"],
  );
  for (const [name, solver] of SOLVERS) {
    assert.equal(findSolver(name), solver);
    assert.equal(solver.name, name);
    assert.ok(solver.summary.length > 10);
  }
});

test("an unknown method is a usage error that names the nearest one and lists all", () => {
  for (const [wrong, near] of [
    ["wand", "wanda"],
    ["sparse-gpt", "sparsegpt"],
    ["SparseGPT2", "sparsegpt"],
    ["magnitud", "magnitude"],
  ]) {
    assert.throws(
      () => findSolver(wrong),
      (error) =>
        error instanceof UsageError &&
        error.code === "E_METHOD" &&
        error.message.includes(`"${wrong}"`) &&
        error.message.includes([...SOLVERS.keys()].join(", ")) &&
        error.hint?.includes(`"${near}"`) === true,
    );
  }
  assert.throws(
    () => findSolver("aut", ["auto"]),
    (error) => error instanceof UsageError && error.hint?.includes('"auto"') === true,
  );
});

test("options have the documented defaults", () => {
  const admm = { damping: 0.1, iterations: 20, rho: 1 };
  for (const [name, defaults] of [
    ["random", { seed: 0, granularity: "matrix" }],
    ["magnitude", { counting: "exact", granularity: "matrix" }],
    ["wanda", { variant: "rows" }],
    ["ria", { power: 0.5, granularity: "matrix" }],
    ["sparsegpt", { damping: 0.01, blockSize: 128, counting: "exact", order: "natural" }],
    ["thanos", { damping: 0.01, blockSize: 128 }],
    ["admm", { ...admm, maskIterations: 15, schedule: "released" }],
    ["alps", { damping: 0.01, rho: 0.1, iterations: 300, refinements: 10 }],
    ["dsnot", { cycles: 50, threshold: 0.1, power: 1, sameSign: false, lists: "bounded" }],
    ["obs-update", { damping: 0.01 }],
    ["admm-update", admm],
    ["cg-update", { damping: 0.01, steps: 10 }],
  ] as const) {
    assert.deepEqual(findSolver(name).schema.parse({}), defaults, name);
    assert.throws(() => findSolver(name).schema.parse({ unknown: 1 }), name);
  }
  assert.throws(() => findSolver("admm").schema.parse({ iterations: 10 }), /maskIterations/);
});

test("unknown, mistyped and out-of-range options are refused", () => {
  const { schema } = findSolver("sparsegpt");
  for (const bad of [{ dampng: 0.1 }, { damping: 0 }, { damping: -1 }, { damping: "0.1" }, { damping: Infinity }]) {
    assert.throws(() => schema.parse(bad), JSON.stringify(bad));
  }
  for (const blockSize of [0, 3, 48, 127, 256, 1.5])
    assert.throws(() => schema.parse({ blockSize }), `blockSize ${blockSize}`);
  for (const blockSize of [1, 2, 4, 8, 16, 32, 64, 128]) {
    assert.deepEqual(schema.parse({ blockSize }), { damping: 0.01, blockSize, counting: "exact", order: "natural" });
  }
  assert.throws(() => findSolver("wanda").schema.parse({ damping: 0.1 }));
  assert.throws(() => findSolver("magnitude").schema.parse({ blockSize: 128 }));
});
