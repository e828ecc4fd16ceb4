/** What every rule promises about itself, held against what it does with a model: what it looks at, how often, what it gives. */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  allocate,
  ALLOCATION_RULES,
  allocationCost,
  allocationSchema,
  boundsOf,
  dependsOnMethod,
  describeAllocations,
  needsActivations,
  weightPasses,
  type Allocation,
} from "../../src/allocation/registry.js";
import { sparsitiesOfLevels } from "../../src/allocation/evolution.js";
import type { AllocationSource, SourceLinear } from "../../src/allocation/rule.js";
import { normals } from "../reference/random.js";

const SHAPES = [
  [6, 8],
  [16, 6],
  [12, 12],
] as const;

/** Three blocks of random linears that note how they are looked at. */
function createSource() {
  const calls = { weights: 0, spectra: 0, inputs: 0, searches: 0 };
  const blocks = [0, 1, 2].map((b) => ({
    name: `block.${b}`,
    linears: SHAPES.map(([inFeatures, outFeatures], i) => ({ name: `block.${b}.${i}`, inFeatures, outFeatures })),
  }));
  const linears = blocks.flatMap((block) => block.linears);
  const weights = new Map(
    linears.map(({ name, inFeatures, outFeatures }, i) => [name, normals(inFeatures * outFeatures, i)]),
  );
  const weightOf = ({ name }: SourceLinear): Float32Array => weights.get(name) ?? assert.fail(name);
  const source: AllocationSource = {
    blocks,
    async visitWeights(visit) {
      calls.weights++;
      for (const linear of linears) await visit(weightOf(linear), linear);
    },
    visitSpectra(visit) {
      calls.spectra++;
      for (const linear of linears)
        visit(Float64Array.from({ length: 9 }, (_, i) => 1.7 ** i + weightOf(linear)[i] ** 2).sort(), linear);
      return Promise.resolve();
    },
    visitInputs(visit) {
      calls.inputs++;
      for (const block of blocks) {
        const matrices = block.linears.map((linear) => ({
          values: weightOf(linear),
          norms: Float64Array.from({ length: linear.inFeatures }, (_, c) => 1 + (c % 5)),
        }));
        visit(matrices, block.linears);
      }
      return Promise.resolve();
    },
    search(options, target) {
      calls.searches++;
      const units = linears.map(({ name, inFeatures, outFeatures }) => ({ name, elements: inFeatures * outFeatures }));
      const levels = Int32Array.from(units, (_, i) => (i === 0 ? 1 : i === 4 ? -1 : 0));
      const sparsities = sparsitiesOfLevels(units, target, options.step)(levels);
      return Promise.resolve(new Map(units.map(({ name }, i) => [name, sparsities[i]])));
    },
  };
  return { source, calls, linears };
}

const ALLOCATIONS: readonly Allocation[] = [
  ...ALLOCATION_RULES.map((rule) => ({ rule })),
  { rule: "owl", M: 2, granularity: "projection" },
  { rule: "global", score: "wanda" },
  { rule: "evolutionary", proxy: "wanda" },
].map((options) => allocationSchema.parse(options));

for (const allocation of ALLOCATIONS) {
  test(`${JSON.stringify(allocation)}: looks at what it says, and gives every linear its share`, async () => {
    const { source, calls, linears } = createSource();
    const sparsities = await allocate(source, allocation, 0.6);
    assert.equal(calls.inputs + calls.searches > 0, needsActivations(allocation));
    if (calls.searches === 0) assert.equal(calls.weights + calls.spectra + calls.inputs, weightPasses(allocation));
    assert.deepEqual(
      [...sparsities.keys()].sort(),
      linears.map(({ name }) => name),
    );
    const elements = linears.reduce((sum, { inFeatures, outFeatures }) => sum + inFeatures * outFeatures, 0);
    const zeros = linears.reduce(
      (sum, { name, inFeatures, outFeatures }) => sum + inFeatures * outFeatures * (sparsities.get(name) ?? NaN),
      0,
    );
    assert.ok(Math.abs(zeros / elements - 0.6) < 1e-9, String(zeros / elements));
    const bounds = boundsOf(allocation);
    assert.equal(bounds === undefined, allocation.rule === "uniform");
  });
}

test("every rule is listed once with a line of its own, and by its other name it is the same", () => {
  const rules = describeAllocations();
  assert.equal(new Set(rules.map(({ summary }) => summary)).size, rules.length);
  assert.deepEqual(
    ALLOCATION_RULES.filter((name) => !rules.some((rule) => rule.name === name)),
    ["erk"],
  );
  for (const rule of ALLOCATION_RULES) assert.equal(allocationSchema.parse({ rule }).rule, rule);
});

test("only a search with the run's method depends on the method, and a search costs what it measures", () => {
  const asked = ALLOCATIONS.filter(dependsOnMethod);
  assert.deepEqual(
    asked.map(({ rule }) => rule),
    ["evolutionary"],
  );
  const size = { linears: [{ inFeatures: 8, outFeatures: 16 }], sequences: 32 };
  const measured = (generations: number): number =>
    allocationCost(allocationSchema.parse({ rule: "evolutionary", generations }), size).measuredSequences ?? NaN;
  assert.equal(measured(0), 16, "the uniform allocation on the held-out half");
  assert.equal(measured(2) - measured(1), measured(1) - measured(0));
  const spectra = allocationCost(allocationSchema.parse({ rule: "alphapruning" }), size);
  assert.equal(spectra.doubleOperations, 2 * 8 * 16 * 8 + 2 * 8 ** 3);
});
