/** Allocation rules against hand-computed values, and the promise they all share: the weighted mean is the request. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { distribute, LARGEST_SPARSITY, rescale, type Bounds, type Unit } from "../../src/allocation/distribute.js";
import { heavyTailSparsities } from "../../src/allocation/alphapruning.js";
import { largestProgressionStep, progressionSparsities } from "../../src/allocation/atp.js";
import { dlpSparsities } from "../../src/allocation/dlp.js";
import { erdosRenyiSparsities } from "../../src/allocation/erdos-renyi.js";
import { tailExponent } from "../../src/allocation/heavy-tail.js";
import { owlSparsities } from "../../src/allocation/owl.js";
import {
  ALLOCATION_RULES,
  allocationProblems,
  allocationSchema,
  type Allocation,
} from "../../src/allocation/registry.js";
import { lampScores, medianScore, outlierPercent, wandaScores } from "../../src/allocation/scores.js";
import {
  countAround,
  countLeading,
  createLeadingBins,
  leadingBin,
  thresholdSparsities,
} from "../../src/allocation/threshold.js";
import { ConfigError } from "../../src/errors.js";
import { lampScoresByDefinition, tailByDefinition, thresholdShares } from "../reference/allocation.js";

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

test("AlphaPruning scales a band about 1 to the request", () => {
  // exponents 2, 3, 4 → 0.7, 1, 1.3; weighted by 100, 100, 200 their mean is 1.075
  const sparsities = heavyTailSparsities([2, 3, 4], [100, 100, 200], 0.5, 0.3);
  assertClose(sparsities, [0.7 / 2.15, 1 / 2.15, 1.3 / 2.15]);
  assertClose(heavyTailSparsities([3, 3], [10, 20], 0.6, 0.3), [0.6, 0.6]);
  assertClose(
    heavyTailSparsities([2, undefined, 4], [1, 1, 1], 0.5, 0.3),
    [0.35, 0.5, 0.65], // one without a tail counts as the mean
  );
});

test("the exponent of an exact power law is found", () => {
  // λ = (1 - u)^(-1/(α - 1)) at u = t/n is the quantile function of a Pareto law with exponent α.
  const alpha = 3.5;
  const eigenvalues = Float64Array.from({ length: 2000 }, (_, t) => (1 - t / 2000) ** (-1 / (alpha - 1)));
  for (const xmin of ["peak", "mid"] as const) {
    const exponent = tailExponent(eigenvalues, { xmin, xlow: "released" }) ?? NaN;
    assert.ok(Math.abs(exponent - alpha) < 0.03, `${xmin}: ${exponent}`);
  }
});

test("exponents are those of the released code's definition, in all four ways", () => {
  for (let count = 8; count < 160; count += 5) {
    // Without structure, over some decades: no eigenvalue lies on the boundary of a bin or of a search.
    const sorted = Array.from({ length: count }, (_, i) => Math.exp(4 * Math.sin(i * i * 0.37 + count))).sort(
      (x, y) => x - y,
    );
    for (const xmin of ["peak", "mid"] as const) {
      for (const xlow of ["released", "intended"] as const) {
        const expected = tailByDefinition(sorted, { xmin, xlow });
        const actual = tailExponent(Float64Array.from(sorted), { xmin, xlow }) ?? NaN;
        assert.ok(Math.abs(actual / expected - 1) < 1e-9, `${xmin} ${xlow} ${count}: ${actual}, ${expected}`);
      }
    }
  }
});

test("a spectrum without a tail has no exponent, and zeros are left out", () => {
  const options = { xmin: "peak", xlow: "released" } as const;
  assert.equal(tailExponent(new Float64Array([3]), options), undefined);
  assert.equal(tailExponent(new Float64Array([2, 2, 2, 2]), options), undefined);
  assert.equal(tailExponent(new Float64Array(5), { ...options, xmin: "mid" }), undefined);
  const tail = [1, 2, 3, 5, 9];
  const withZeros = tailExponent(Float64Array.from([-1e-17, 0, 1e-16, ...tail]), options);
  assert.equal(withZeros, tailExponent(Float64Array.from(tail), options));
});

const weights = fc.array(fc.integer({ min: -30, max: 30 }), { minLength: 1, maxLength: 60 });

test("LAMP scores are those of the definition, ties sharing one, and the largest weight scores 1", () => {
  fc.assert(
    fc.property(weights, (list) => {
      const values = Float32Array.from(list, (value) => value / 7);
      const expected = lampScoresByDefinition(values).sort((x, y) => x - y);
      const actual = lampScores(values);
      assert.equal(actual.length, expected.length);
      expected.forEach((score, i) => assert.ok(Math.abs(actual[i] - score) <= 1e-6 * score, `${actual[i]}, ${score}`));
    }),
    { seed: 2, numRuns: 100 },
  );
  assert.equal(lampScores(Float32Array.of(3, -5, 0.1))[2], 1);
  assert.deepEqual(lampScores(new Float32Array(3)), new Float32Array(3));
});

test("one threshold over all scores is exact, ties giving way evenly", () => {
  const scale = fc.constantFrom(1, 1e-3, 2 ** -140, 0); // ordinary, small, denormal, nothing
  fc.assert(
    fc.property(
      fc.array(fc.tuple(weights, scale), { minLength: 1, maxLength: 6 }),
      fc.double({ min: 0, max: 0.999, noNaN: true }),
      (lists, target) => {
        const scores = lists.map(([list, factor]) => Float32Array.from(list, (value) => value * factor));
        const bins = createLeadingBins();
        for (const list of scores) countLeading(bins, list);
        const bin = leadingBin(bins, target);
        const actual = thresholdSparsities(
          scores.map((list) => countAround(list, bin)),
          target,
        );
        assertClose(
          actual,
          thresholdShares(
            scores.map((list) => Array.from(list, Math.abs)),
            target,
          ),
        );
      },
    ),
    { seed: 3, numRuns: 30 },
  );
});

test("outliers, medians and scores of a small unit are those counted by hand", () => {
  const matrices = [
    { values: Float32Array.of(1, -2, 3, 4), norms: Float64Array.of(1, 10) },
    { values: Float32Array.of(-5), norms: Float64Array.of(2) },
  ];
  assert.deepEqual([...wandaScores(matrices[0])], [1, 20, 3, 40]); // and 10; their mean is 14.8
  assert.equal(outlierPercent(matrices, 1), 40);
  assert.equal(outlierPercent(matrices, 2), 20);
  assert.equal(medianScore(matrices), 10);
  assert.equal(medianScore(matrices.slice(0, 1)), 3); // of an even number the lower one
});

test("more than the cap everywhere is refused", () => {
  assert.throws(
    () => distribute(equalUnits(2), [0.5, 0.5], 0.995),
    (error) => error instanceof ConfigError && error.code === "E_ALLOCATION",
  );
});

/** Bounds, and a target within them. */
const bounded: fc.Arbitrary<readonly [Bounds, number]> = fc
  .tuple(...[0, 1, 2].map(() => fc.double({ min: 0, max: LARGEST_SPARSITY, noNaN: true })))
  .map((numbers) => numbers.toSorted((x, y) => x - y))
  .map(([smallest, target, largest]) => [{ smallest, largest }, target] as const);

/** The promise of every rule: within the bounds, and the weighted mean is the request to one weight. */
function assertKept(units: readonly Unit[], sparsities: readonly number[], target: number, bounds: Bounds): void {
  for (const sparsity of sparsities)
    assert.ok(sparsity >= bounds.smallest - 1e-9 && sparsity <= bounds.largest + 1e-9, String(sparsity));
  const elements = units.reduce((sum, { elements: count }) => sum + count, 0);
  const missing = Math.abs(weightedMean(units, sparsities) - target) * elements;
  assert.ok(missing < 1, `${missing} weights of ${elements} off`);
}

test("whatever is wished, the weighted mean is the request and every unit stays within its bounds", () => {
  const unit = fc.record({
    elements: fc.integer({ min: 1, max: 1e8 }),
    wish: fc.double({ min: -3, max: 3, noNaN: true }),
  });
  fc.assert(
    fc.property(fc.array(unit, { minLength: 1, maxLength: 40 }), bounded, (wishes, [bounds, target]) => {
      const units = wishes.map(({ elements }, i) => ({ name: String(i), elements }));
      const sparsities = distribute(
        units,
        wishes.map(({ wish }) => wish),
        target,
        bounds,
      );
      assertKept(units, sparsities, target, bounds);
      // Order is kept: who wished for more does not get less.
      wishes.forEach(({ wish }, i) =>
        wishes.forEach((other, j) => assert.ok(wish <= other.wish || sparsities[i] >= sparsities[j] - 1e-9)),
      );
    }),
  );
});

/** Random shapes and scores for each rule: what the driver would hand to it. */
const linear = fc.record({
  inFeatures: fc.integer({ min: 1, max: 20000 }),
  outFeatures: fc.integer({ min: 1, max: 20000 }),
  score: fc.double({ min: 0, max: 1e6, noNaN: true }),
  width: fc.double({ min: 0, max: 1, noNaN: true }),
});
type Linear = typeof linear extends fc.Arbitrary<infer Value> ? Value : never;

/** Raw sparsities of a rule; `width` stands for lambda, alpha, epsilon or the share of the largest beta. */
const RAW: Readonly<Record<string, (linears: readonly Linear[], target: number, width: number) => number[]>> = {
  owl: (linears, target, width) =>
    owlSparsities(
      linears.map(({ score }) => score),
      target,
      width,
    ),
  dlp: (linears, target, width) =>
    dlpSparsities(
      linears.map(({ score }) => score),
      target,
      width,
    ),
  alphapruning: (linears, target, width) =>
    heavyTailSparsities(
      linears.map(({ score }) => (score < 1e5 ? undefined : score)),
      linears.map(({ inFeatures, outFeatures }) => inFeatures * outFeatures),
      target,
      Math.min(width, 0.999),
    ),
  atp: (linears, target, width) =>
    progressionSparsities(
      linears.length,
      target,
      linears.length < 2 ? width : width * largestProgressionStep(linears.length, target),
    ),
  er: (linears, target) => erdosRenyiSparsities(linears, target),
  threshold: (linears, target) => {
    // Counts as a second pass would leave them: some below, some in the bin.
    const counts = linears.map(({ inFeatures, outFeatures, width: share }) => {
      const elements = inFeatures * outFeatures;
      const within = new Uint32Array(512);
      const below = Math.floor(share * target * elements);
      within[Math.floor(share * 511)] = elements - below;
      return { elements, below, within };
    });
    return thresholdSparsities(counts, target);
  },
};

test("every rule keeps the weighted mean to one weight, and the bounds", () => {
  for (const [rule, raw] of Object.entries(RAW)) {
    fc.assert(
      fc.property(
        fc.array(linear, { minLength: 1, maxLength: 30 }),
        bounded,
        fc.double({ min: 0, max: 1, noNaN: true }),
        (linears, [bounds, target], width) => {
          const units = linears.map(({ inFeatures, outFeatures }, i) => ({
            name: String(i),
            elements: inFeatures * outFeatures,
          }));
          assertKept(units, distribute(units, raw(linears, target, width), target, bounds), target, bounds);
        },
      ),
      { seed: 4, numRuns: 60 },
    );
    assert.ok(rule === "threshold" || ALLOCATION_RULES.includes(rule), rule);
  }
});

test("rules that spread nothing away need no shift: their own mean is the request", () => {
  fc.assert(
    fc.property(
      fc.array(linear, { minLength: 1, maxLength: 30 }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      (linears, target) => {
        const units = linears.map(({ inFeatures, outFeatures }) => ({ name: "", elements: inFeatures * outFeatures }));
        for (const rule of ["er", "alphapruning", "threshold"]) {
          if (target === 1 && rule === "threshold") continue;
          const mean = weightedMean(units, RAW[rule]?.(linears, target, 0.3) ?? []);
          assert.ok(Math.abs(mean - target) < 1e-9, `${rule}: ${mean}, asked ${target}`);
        }
      },
    ),
    { seed: 5, numRuns: 60 },
  );
});

test("what an allocation cannot do is found before any work, all of it", () => {
  const of = (options: object): Allocation => allocationSchema.parse(options);
  const problems = (options: object, target?: number, blocks?: number): string =>
    allocationProblems(of(options), target, blocks).join("; ");
  assert.equal(problems({ rule: "owl" }, 0.7, 32), "");
  assert.equal(problems({ rule: "owl", lambda: 0.9 }, 0.9, 32), "", "clamped and spread, not refused");
  assert.match(problems({ rule: "owl" }, 0.995), /0\.995.*at most 0\.99/);
  assert.match(problems({ rule: "lamp", smallest: 0.5 }, 0.3), /0\.3.*0\.5 that every layer gets/);
  const both = problems({ rule: "global", smallest: 0.9, largest: 0.4 }, 0.6);
  assert.match(both, /smallest 0\.9 is more than largest 0\.4.*at most 0\.4.*0\.9 that every/);
  assert.equal(problems({ rule: "atp", beta: 0.05 }, 0.7), "", "not known without the model");
  assert.match(
    problems({ rule: "atp", beta: 0.05 }, 0.7, 32),
    /beta 0\.05 over 32 blocks.*0\.7 ± 0\.7750.*at most 0\.01935/,
  );
  assert.equal(problems({ rule: "atp", beta: 0.01935 }, 0.7, 32), "", "what the message proposes is taken");
  assert.equal(problems({ rule: "atp", beta: 0.05 }, 0.7, 1), "");
  for (const wrong of [
    { rule: "alphapruning", epsilon: 1 },
    { rule: "owl", largest: 1 },
    { rule: "dlp", granularity: "head" },
  ]) {
    assert.throws(() => of(wrong), JSON.stringify(wrong));
  }
});
