/** Channel permutation: what it promises, against brute force where that is feasible; and its linear sum assignment. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { assignLargest } from "../../src/sparsity/assignment.js";
import { permuteChannels, retainedScore } from "../../src/sparsity/permutation.js";

/** Every order of 0 … size - 1. */
function ordersOf(size: number): number[][] {
  if (size === 0) return [[]];
  return ordersOf(size - 1).flatMap((order) =>
    Array.from({ length: size }, (_, place) => [...order.slice(0, place), size - 1, ...order.slice(place)]),
  );
}

test("linear sum assignment: a permutation of the largest sum, against brute force", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 6 }).chain((size) =>
        fc.tuple(
          fc.constant(size),
          // few different values, so that reductions tie and leave rows free
          fc.array(fc.integer({ min: -4, max: 4 }), { minLength: size * size, maxLength: size * size }),
        ),
      ),
      ([size, values]) => {
        const sumOf = (columns: ArrayLike<number>): number =>
          Array.from(columns).reduce((sum, column, row) => sum + values[row * size + column], 0);
        const chosen = assignLargest(Float64Array.from(values), size);
        assert.deepEqual(
          [...chosen].sort(),
          Array.from({ length: size }, (_, i) => i),
        );
        assert.equal(sumOf(chosen), Math.max(...ordersOf(size).map(sumOf)));
      },
    ),
    { numRuns: 300, seed: 1 },
  );
});

test("linear sum assignment of a larger problem: dual variables prove that nothing is better", () => {
  const size = 120;
  const values = Float64Array.from({ length: size * size }, (_, i) => Math.sin(i * 12.9898) * 100);
  const columns = assignLargest(values, size);
  assert.equal(new Set(columns).size, size);
  // Longest-path potentials over exchanges: they settle exactly if no cycle of exchanges gains anything.
  const potential = new Float64Array(size);
  let isSettled = false;
  for (let round = 0; round <= size && !isSettled; round++) {
    isSettled = true;
    for (let from = 0; from < size; from++) {
      for (let to = 0; to < size; to++) {
        const gain = values[from * size + columns[to]] - values[from * size + columns[from]];
        if (potential[from] + gain <= potential[to] + 1e-9) continue;
        potential[to] = potential[from] + gain;
        isSettled = false;
      }
    }
  }
  assert.ok(isSettled, "a cycle of exchanges would have a larger sum");
});

interface Case {
  readonly weight: Float32Array;
  readonly norms: Float32Array;
  readonly keep: number;
  readonly group: number;
}

const PATTERNS = [
  [2, 4],
  [4, 8],
  [1, 4],
  [1, 2],
  [3, 4],
] as const;

/** Heavy-tailed weights and norms, with zeros. */
const value = fc
  .tuple(fc.integer({ min: 0, max: 9 }), fc.double({ min: -3, max: 3, noNaN: true }))
  .map(([kind, exponent]) => (kind === 0 ? 0 : kind % 2 === 0 ? -(2 ** exponent) : 2 ** exponent));
const cases: fc.Arbitrary<Case> = fc
  .tuple(fc.constantFrom(...PATTERNS), fc.integer({ min: 1, max: 6 }), fc.integer({ min: 1, max: 5 }))
  .chain(([[keep, group], groups, rows]) => {
    const columns = groups * group;
    return fc.record({
      weight: fc
        .array(value, { minLength: rows * columns, maxLength: rows * columns })
        .map((v) => Float32Array.from(v)),
      norms: fc.array(value, { minLength: columns, maxLength: columns }).map((v) => Float32Array.from(v, Math.abs)),
      keep: fc.constant(keep),
      group: fc.constant(group),
    });
  });

/** The score that N:M retains, in plain loops over sorted groups. */
function retainedByTwin({ weight, norms, keep, group }: Case, order: ArrayLike<number>): number {
  const columns = norms.length;
  let sum = 0;
  for (let row = 0; row < weight.length / columns; row++) {
    for (let first = 0; first < columns; first += group) {
      const scores = Array.from({ length: group }, (_, k) => {
        const channel = order[first + k];
        return Math.abs(weight[row * columns + channel]) * norms[channel];
      });
      sum += scores
        .sort((a, b) => b - a)
        .slice(0, keep)
        .reduce((total, score) => total + score, 0);
    }
  }
  return sum;
}

const natural = (columns: number): number[] => Array.from({ length: columns }, (_, channel) => channel);
const total = (each: Case): number => retainedByTwin({ ...each, keep: each.group }, natural(each.norms.length));

function assertClose(actual: number, expected: number, message: string): void {
  assert.ok(
    Math.abs(actual - expected) <= 1e-9 * Math.max(1, Math.abs(expected)),
    `${message}: ${actual}, ${expected}`,
  );
}

test("a permutation that retains what it says, never less than the order as it is, and the same every time", () => {
  fc.assert(
    fc.property(cases, (each) => {
      const { weight, norms } = each;
      const columns = norms.length;
      const { order, retained, before } = permuteChannels([weight], norms, each);
      assert.deepEqual(
        [...order].sort((a, b) => a - b),
        natural(columns),
      );
      assert.ok(retained >= before);
      if (total(each) > 0) {
        assertClose(retained * total(each), retainedByTwin(each, order), "retained");
        assertClose(before * total(each), retainedByTwin(each, natural(columns)), "before");
      } else assert.deepEqual([retained, before, ...order], [1, 1, ...natural(columns)]);
      assertClose(retainedScore(weight, norms, order, each), retainedByTwin(each, order), "retainedScore");
      assert.deepEqual(permuteChannels([weight], norms, each).order, order);
      // Only what shares a group matters: groups come by their first channel, their channels ascending.
      for (let place = 1; place < columns; place++) {
        const isFirst = place % each.group === 0;
        assert.ok(order[place] > order[isFirst ? place - each.group : place - 1]);
      }
    }),
    { numRuns: 300, seed: 2 },
  );
});

test("several matrices that read one input are permuted as the one they would be on top of each other", () => {
  fc.assert(
    fc.property(cases, (each) => {
      const { weight, norms } = each;
      const cut = Math.floor(weight.length / norms.length / 2) * norms.length;
      const apart = permuteChannels([weight.subarray(0, cut), weight.subarray(cut)], norms, each);
      assert.deepEqual(apart.order, permuteChannels([weight], norms, each).order);
    }),
    { numRuns: 100, seed: 3 },
  );
});

test("where all rows agree on what is important, the optimum is found: all that is among the largest stays", () => {
  fc.assert(
    fc.property(cases, fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 5, maxLength: 5 }), (each, loudness) => {
      const columns = each.norms.length;
      const channels = each.weight.subarray(0, columns);
      const rows = loudness.flatMap((factor) => Array.from(channels, (weight) => weight * factor));
      const agreeing = { ...each, weight: Float32Array.from(rows) };
      const { order } = permuteChannels([agreeing.weight], each.norms, each);
      const scores = Array.from(channels, (weight, channel) => Math.abs(weight) * each.norms[channel]);
      const best = scores.sort((a, b) => b - a).slice(0, (columns / each.group) * each.keep);
      const optimum = best.reduce((sum, score) => sum + score, 0) * loudness.reduce((sum, factor) => sum + factor, 0);
      const found = retainedByTwin(agreeing, order);
      assert.ok(Math.abs(found - optimum) <= 1e-6 * optimum, `${found} of ${optimum}`);
    }),
    { numRuns: 200, seed: 4 },
  );
});

/** The channels of two groups of four: 35 ways, of which the algorithm promises a good one. */
function bestOfTwoGroups(each: Case): number {
  let best = 0;
  for (let subset = 0; subset < 256; subset++) {
    const first = natural(8).filter((channel) => (subset >> channel) & 1);
    if (first.length !== 4 || !first.includes(0)) continue;
    best = Math.max(
      best,
      retainedByTwin(each, [...first, ...natural(8).filter((channel) => !first.includes(channel))]),
    );
  }
  return best;
}

test("two groups of four against brute force: the optimum more often than not, and close to it otherwise", () => {
  let [optima, worst] = [0, 1];
  const [before, after, best] = [[0], [0], [0]];
  const runs = 200;
  for (let run = 0; run < runs; run++) {
    const noise = (i: number): number => Math.sin((run * 1000 + i) * 12.9898) * 43758.5453;
    const weight = Float32Array.from({ length: 3 * 8 }, (_, i) => (noise(i) % 1) ** 3);
    const each = {
      weight,
      norms: Float32Array.from({ length: 8 }, (_, i) => 2 ** (noise(i + 100) % 2)),
      keep: 2,
      group: 4,
    };
    const found = permuteChannels([weight], each.norms, each);
    const [reached, optimum] = [retainedByTwin(each, found.order), bestOfTwoGroups(each)];
    before[0] += retainedByTwin(each, natural(8));
    after[0] += reached;
    best[0] += optimum;
    if (reached >= optimum * (1 - 1e-7)) optima++;
    worst = Math.min(worst, reached / optimum);
  }
  const share = (after[0] - before[0]) / (best[0] - before[0]);
  // Measured: the optimum in 148 of 200, never below 0.977 of it, 0.967 of what there is to gain.
  assert.ok(optima >= 130 && worst > 0.97 && share > 0.95, `${optima} optima, worst ${worst}, share ${share}`);
});

test("parts and sampled rows: less work, still a permutation, and most of the gain", () => {
  const [rows, columns] = [24, 1040];
  const weight = Float32Array.from({ length: rows * columns }, (_, i) => Math.sin(i * 12.9898) ** 3);
  const norms = Float32Array.from({ length: columns }, (_, i) => 1 + 20 * Math.abs(Math.sin(i * 0.01)) ** 9);
  // All rows in 2 parts, in 4 parts, and 2 rows in 5 parts: measured 0.1703, 0.1698, 0.1488.
  const gains = [4e9, 2e6, 2e5].map((work) => {
    const found = permuteChannels([weight], norms, { keep: 2, group: 4 }, work);
    assert.deepEqual(
      [...found.order].sort((a, b) => a - b),
      natural(columns),
    );
    return found.retained - found.before;
  });
  assert.ok(gains[0] >= gains[1] && gains[1] > gains[2] && gains[2] > 0.8 * gains[0], gains.join(", "));
});
