/** Choosing the next token, against distributions worked out by hand. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { areUsable, distributionOf, draw, mostProbable, type Sampling } from "../../src/generation/sampling.js";

const ALL: Sampling = { temperature: 1, topK: 0, topP: 1 };

/** Logits of given odds. */
const odds = (...values: number[]): Float32Array => Float32Array.from(values, Math.log);

function assertDistribution(
  logits: Float32Array,
  sampling: Partial<Sampling>,
  ids: readonly number[],
  probabilities: readonly number[],
): void {
  const found = distributionOf(logits, { ...ALL, ...sampling });
  assert.deepEqual(found.ids, ids);
  // Logarithms of the odds are float32: each is off by up to 2⁻²³.
  found.probabilities.forEach((probability, place) =>
    assert.ok(Math.abs(probability - (probabilities[place] as number)) < 1e-6, `${place}: ${probability}`),
  );
  assert.equal(found.probabilities.length, probabilities.length);
}

test("all tokens take part, the most probable first", () => {
  assertDistribution(odds(1, 4, 2, 3), {}, [1, 3, 2, 0], [0.4, 0.3, 0.2, 0.1]);
});

test("the temperature is an exponent on the odds", () => {
  assertDistribution(odds(1, 4, 2, 3), { temperature: 0.5 }, [1, 3, 2, 0], [16 / 30, 9 / 30, 4 / 30, 1 / 30]);
  assertDistribution(odds(1, 4), { temperature: 2 }, [1, 0], [2 / 3, 1 / 3]);
});

test("top-k keeps exactly k; of equals those with the smaller ids", () => {
  assertDistribution(odds(1, 4, 2, 3), { topK: 2 }, [1, 3], [4 / 7, 3 / 7]);
  assertDistribution(odds(2, 1, 2, 3, 2), { topK: 3 }, [3, 0, 2], [3 / 7, 2 / 7, 2 / 7]);
  assertDistribution(odds(2, 2, 2), { topK: 1 }, [0], [1]);
  assertDistribution(odds(1, 4), { topK: 9 }, [1, 0], [0.8, 0.2]);
});

test("top-p keeps the fewest tokens that reach it, of what top-k has left", () => {
  const logits = Float32Array.from([Math.log(1), Math.log(4), Math.log(2), Math.log(3)]);
  assertDistribution(logits, { topP: 0.39 }, [1], [1]);
  assertDistribution(logits, { topP: 0.41 }, [1, 3], [4 / 7, 3 / 7]);
  assertDistribution(logits, { topP: 0.95 }, [1, 3, 2, 0], [0.4, 0.3, 0.2, 0.1]);
  // Of the two that top-k leaves, the first has 4/7 ≈ 0.571; of all four it has 0.4.
  assertDistribution(logits, { topK: 2, topP: 0.5 }, [1], [1]);
  assertDistribution(odds(1, 1, 1, 1), { topP: 0.6 }, [0, 1, 2], [1 / 3, 1 / 3, 1 / 3]);
});

test("the temperature comes before top-p", () => {
  assertDistribution(odds(1, 4, 2, 3), { temperature: 0.5, topP: 0.5 }, [1], [1]); // 16/30 > 0.5
});

test("a token at minus infinity is never drawn", () => {
  const logits = Float32Array.of(-Infinity, 0, -Infinity, 0);
  assertDistribution(logits, {}, [1, 3, 0, 2], [0.5, 0.5, 0, 0]);
  for (const random of [0, 0.49, 0.51, 1 - 2 ** -53])
    assert.ok([1, 3].includes(draw(distributionOf(logits, ALL), random)));
  assert.equal(mostProbable(logits), 1);
});

test("large logits do not overflow", () => {
  assertDistribution(Float32Array.of(3e38, 3e38, -3e38), {}, [0, 1, 2], [0.5, 0.5, 0]);
});

test("draws fall where the probabilities say", () => {
  const distribution = { ids: [7, 3, 5], probabilities: [0.5, 0.25, 0.25] };
  assert.deepEqual(
    [0, 0.49, 0.5, 0.74, 0.75, 1 - 2 ** -53].map((random) => draw(distribution, random)),
    [7, 7, 3, 3, 5, 5],
  );
  assert.equal(draw({ ids: [4, 2, 1], probabilities: [0.5, 0.499, 0] }, 0.9999), 2); // a sum that rounding left short
});

test("the greedy token is the largest, the first of equals", () => {
  assert.equal(mostProbable(Float32Array.of(-2, 5, 5, 1)), 1);
  assert.equal(mostProbable(Float32Array.of(-2, -3)), 0);
});

test("what cannot be sampled from is told", () => {
  assert.ok(areUsable(Float32Array.of(-Infinity, 0)));
  for (const logits of [
    [NaN, 0],
    [0, Infinity],
    [-Infinity, -Infinity],
  ])
    assert.ok(!areUsable(Float32Array.from(logits)));
});

test("top-k is what sorting gives", () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: -4, max: 4 }), { minLength: 1, maxLength: 40 }),
      fc.integer({ min: 1, max: 45 }),
      (values, topK) => {
        const sorted = values.map((value, id) => ({ value, id })).sort((a, b) => b.value - a.value || a.id - b.id);
        const { ids } = distributionOf(Float32Array.from(values), { ...ALL, topK });
        assert.deepEqual(
          ids,
          sorted.slice(0, topK).map(({ id }) => id),
        );
      },
    ),
  );
});
