import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { ALLOCATION_RULES } from "../../src/allocation/registry.js";
import { UsageError } from "../../src/errors.js";
import { METHODS } from "../../src/methods/registry.js";
import { describeMethod, renderMethod } from "../../src/report/method-details.js";
import { repositoryPath } from "../helpers/paths.js";

test("every method, step and rule says its options, and where to read on", () => {
  for (const name of [...METHODS.keys(), ...ALLOCATION_RULES]) {
    const report = describeMethod(name);
    assert.equal(report.name, name);
    assert.ok(existsSync(repositoryPath(report.page)), report.page);
    assert.ok(report.summary !== "" && renderMethod(report).includes(report.summary), name);
    for (const { values } of report.options) assert.notEqual(values, "", name);
    if (report.cost !== null) assert.ok(report.cost.operations >= 0 && report.cost.bytes >= 0, name);
  }
});

test("what sparsegpt takes is what its schema takes", () => {
  const { options, paper, flag, needs, cost } = describeMethod("sparsegpt");
  const given = Object.fromEntries(
    options.flatMap(({ name, default: value }) => (value === null ? [] : [[name, value]])),
  );
  assert.deepEqual(given, METHODS.get("sparsegpt")?.schema.parse({}));
  assert.deepEqual([paper, flag, needs], ["https://arxiv.org/abs/2301.00774", "--method", ["gram"]]);
  // A Cholesky factor, its inverse and the updates of 4096 columns are some n³ each.
  assert.ok(cost !== null && cost.operations > 4096 ** 3 && cost.operations < 10 * 4096 ** 3, String(cost?.operations));
  assert.equal(describeMethod("reconstruct").flag, "--then");
  assert.equal(describeMethod("owl").flag, "--allocation");
  assert.deepEqual(describeMethod("owl").options[0], { name: "M", values: "number", default: 5 });
});

test("what is neither is refused with what was meant", () => {
  for (const [said, meant] of [
    ["sparsgept", "sparsegpt"],
    ["olw", "owl"],
  ] as const)
    assert.throws(
      () => describeMethod(said),
      (error) => error instanceof UsageError && error.hint === `Did you mean "${meant}"?`,
    );
});
