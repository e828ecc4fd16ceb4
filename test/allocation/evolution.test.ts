/** The evolutionary search on fitness functions whose best allocation is known. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { MersenneTwister } from "../../src/calibration/random.js";
import { evolve, type Evolution } from "../../src/allocation/evolution.js";
import type { Unit } from "../../src/allocation/distribute.js";

type Measure = Evolution["measure"];

function evolution(units: readonly Unit[], measure: Measure, changes: Partial<Evolution> = {}): Evolution {
  const random = new MersenneTwister(7);
  return {
    units,
    target: 0.5,
    options: { generations: 60, offspring: 12, step: 0.05, smallest: 0, largest: 0.95 },
    sequences: 8,
    measure,
    randomInteger: (first, last) => random.randomInteger(first, last),
    onGeneration: () => undefined,
    ...changes,
  };
}

const UNITS: readonly Unit[] = [100, 100, 200, 50].map((elements, i) => ({ name: `linear ${i}`, elements }));
/** Zeros of the model. */
const zerosOf = (units: readonly Unit[], sparsities: readonly number[]): number =>
  units.reduce((sum, { elements }, i) => sum + elements * sparsities[i], 0);

test("the search finds the best allocation of a separable error", async () => {
  // Error elements·a/(1 - s): by Lagrange 1 - s is proportional to √a. √a = 1, 2, 1, 1 and mean density ½ over 450
  // weights: density (2250 / (100 + 200 + 200 + 50)) / 10 = 0.409 times √a.
  const sensitivities = [1, 4, 1, 1];
  const measure: Measure = (candidates) =>
    Promise.resolve(
      candidates.map((candidate) =>
        candidate.reduce((sum, s, i) => sum + (UNITS[i].elements * sensitivities[i]) / (1 - s), 0),
      ),
    );
  const { sparsities, fitness, uniformFitness } = await evolve(evolution(UNITS, measure));
  // A level is 5 % of 112.5 weights: the result lies within one level of the optimum.
  [0.591, 0.182, 0.591, 0.591].forEach((best, i) => {
    const level = (0.05 * 112.5) / UNITS[i].elements;
    assert.ok(Math.abs(sparsities[i] - best) <= level, `${i}: ${sparsities[i]}, best ${best}`);
  });
  assert.ok(fitness < uniformFitness);
});

test("early rounds look at few sequences and many candidates, the last at all and few", async () => {
  const rounds: [candidates: number, sequences: number][] = [];
  const measure: Measure = (candidates, sequences) => {
    rounds.push([candidates.length, sequences.length]);
    assert.equal(new Set(sequences).size, sequences.length);
    return Promise.resolve(candidates.map((candidate) => candidate[0]));
  };
  const options = { generations: 1, offspring: 16, step: 0.05, smallest: 0, largest: 0.95 };
  await evolve(evolution(UNITS, measure, { options }));
  assert.deepEqual(rounds, [
    [1, 8], // the uniform allocation
    [16, 1],
    [4, 4],
    [1, 8],
  ]);
});

test("whatever the fitness says, the number of zeros stays and every linear within its bounds", async () => {
  const unit = fc.integer({ min: 1, max: 1e6 });
  await fc.assert(
    fc.asyncProperty(
      fc.array(unit, { minLength: 1, maxLength: 12 }),
      fc.double({ min: 0.05, max: 0.9, noNaN: true }),
      fc.double({ min: 0.01, max: 0.3, noNaN: true }),
      fc.integer({ min: 0, max: 1000 }),
      async (sizes, target, step, salt) => {
        const units = sizes.map((elements, i) => ({ name: String(i), elements }));
        const total = sizes.reduce((sum, size) => sum + size, 0);
        const measure: Measure = (candidates) =>
          Promise.resolve(
            candidates.map((sparsities) => {
              assert.ok(Math.abs(zerosOf(units, sparsities) - target * total) < Math.max(1e-6 * total, 1e-9));
              for (const s of sparsities) assert.ok(s >= 0 && s <= 0.95, String(s));
              return sparsities.reduce((sum, s, i) => sum + s * Math.sin(salt + i), 0); // wants extremes
            }),
          );
        const options = { generations: 8, offspring: 6, step, smallest: 0, largest: 0.95 };
        const { fitness, uniformFitness } = await evolve(evolution(units, measure, { target, options }));
        assert.ok(fitness <= uniformFitness);
      },
    ),
    { numRuns: 40, seed: 3 },
  );
});
