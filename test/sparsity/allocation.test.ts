/** Allocation rules against hand-computed values, and the promise they all share: the weighted mean is the request. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { distribute, LARGEST_SPARSITY, rescale, type Unit } from "../../src/sparsity/allocation/distribute.js";
import {
  dlpSparsities,
  erdosRenyiSparsities,
  owlSparsities,
  progressionSparsities,
} from "../../src/sparsity/allocation/rules.js";
import { ConfigError } from "../../src/errors.js";

const equalUnits = (count: number): Unit[] =>
  Array.from({ length: count }, (_, i) => ({ name: `block ${i}`, elements: 100 }));

function weightedMean(units: readonly Unit[], sparsities: readonly number[]): number {
  const total = units.reduce((sum, unit) => sum + unit.elements, 0);
  return units.reduce((sum, unit, i) => sum + unit.elements * sparsities[i], 0) / total;
}

function assertClose(actual: readonly number[], expected: readonly number[]): void {
  assert.equal(actual.length, expected.length);
  actual.forEach((value, i) =>
    assert.ok(Math.abs(value - expected[i]) < 1e-9, `${i}: ${value}, expected ${expected[i]}`),
  );
}

test("OWL gives the specification's vector", () => {
  const units = equalUnits(4);
  assertClose(distribute(units, owlSparsities([5, 2, 3, 6], 0.7, 0.08), 0.7), [0.66, 0.78, 0.74, 0.62]);
});

test("OWL falls back to uniform when all blocks have the same outliers", () => {
  assertClose(distribute(equalUnits(3), owlSparsities([4, 4, 4], 0.6, 0.08), 0.6), [0.6, 0.6, 0.6]);
});

test("DLP keeps the block with the smallest median densest", () => {
  const sparsities = distribute(equalUnits(3), dlpSparsities([1, 2, 5], 0.7, 0.15), 0.7);
  // importance 1 - m/8 = 7/8, 6/8, 3/8, rescaled to 0.3, 0.225, 0, mean 0.175
  assertClose(sparsities, [0.575, 0.65, 0.875]);
});

test("a progression is centred on the request, earlier blocks denser", () => {
  assertClose(progressionSparsities(5, 0.5, 0.02), [0.46, 0.48, 0.5, 0.52, 0.54]);
});

test("Erdős-Rényi keeps small linears denser, and dense ones at exactly zero sparsity", () => {
  const shapes = [
    { inFeatures: 4, outFeatures: 4 },
    { inFeatures: 100, outFeatures: 100 },
  ];
  const sparsities = erdosRenyiSparsities(shapes, 0.5);
  assert.equal(sparsities[0], 0);
  assert.ok(Math.abs(sparsities[0] * 16 + sparsities[1] * 10000 - 0.5 * 10016) < 1e-6);
});

test("equal scores are not spread", () => {
  assert.deepEqual(rescale([2, 2], 1), [0, 0]);
  assert.deepEqual(rescale([1, 3, 2], 1), [0, 1, 0.5]);
});

test("more than the cap everywhere is refused", () => {
  assert.throws(
    () => distribute(equalUnits(2), [0.5, 0.5], 0.995),
    (error) => error instanceof ConfigError && error.code === "E_ALLOCATION",
  );
});

test("whatever is wished, the weighted mean is the request and every unit stays within its bounds", () => {
  const unit = fc.record({
    elements: fc.integer({ min: 1, max: 1e8 }),
    wish: fc.double({ min: -3, max: 3, noNaN: true }),
  });
  fc.assert(
    fc.property(
      fc.array(unit, { minLength: 1, maxLength: 40 }),
      fc.double({ min: 0, max: LARGEST_SPARSITY, noNaN: true }),
      (wishes, target) => {
        const units = wishes.map(({ elements }, i) => ({ name: String(i), elements }));
        const sparsities = distribute(
          units,
          wishes.map(({ wish }) => wish),
          target,
        );
        for (const sparsity of sparsities)
          assert.ok(sparsity >= -1e-9 && sparsity <= LARGEST_SPARSITY + 1e-9, String(sparsity));
        const elements = units.reduce((sum, { elements: count }) => sum + count, 0);
        const missing = Math.abs(weightedMean(units, sparsities) - target) * elements;
        assert.ok(missing < Math.max(1, elements * 1e-9), `${missing} weights off`);
        // Order is kept: who wished for more does not get less.
        wishes.forEach(({ wish }, i) =>
          wishes.forEach((other, j) => assert.ok(wish <= other.wish || sparsities[i] >= sparsities[j] - 1e-9)),
        );
      },
    ),
  );
});
