import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { MersenneTwister } from "../../src/calibration/random.js";

// Check values: CPython 3, random.seed(s); random.getrandbits(32) / random.randint(a, b).
test("the first outputs after seed 0 are CPython's", () => {
  const random = new MersenneTwister(0);
  assert.deepEqual(
    [32, 32, 32].map((bits) => random.getRandomBits(bits)),
    [3626764237, 1654615998, 3255389356],
  );
});

test("the first C4 documents drawn with seed 0 are those of the papers' code", () => {
  const random = new MersenneTwister(0);
  const drawn = Array.from({ length: 5 }, () => random.randomInteger(0, 356316));
  assert.deepEqual(drawn, [201979, 220500, 21225, 135746, 268055]);
});

test("a seed of more than 32 bits uses both of its words", () => {
  const random = new MersenneTwister(2 ** 40 + 7);
  assert.deepEqual(
    Array.from({ length: 4 }, () => random.getRandomBits(32)),
    [2635837658, 3209733218, 3500038837, 4028389051],
  );
});

test("outputs beyond one state of 624 words are CPython's", () => {
  const random = new MersenneTwister(12345);
  for (let i = 0; i < 2000; i++) random.getRandomBits(32);
  assert.deepEqual(
    [random.randomInteger(5, 5), random.randomInteger(-3, 1000), random.randomInteger(0, 2 ** 31)],
    [5, 260, 556952727],
  );
});

test("fractions are CPython's", () => {
  // random.Random(7).random()
  const random = new MersenneTwister(7);
  const drawn = [0, 0, 0].map(() => random.random());
  assert.deepEqual(drawn, [0.32383276483316237, 0.15084917392450192, 0.6509344730398537]);
});

test("every draw lies in its interval", () => {
  fc.assert(
    fc.property(fc.nat(), fc.nat(1000), fc.integer({ min: 0, max: 100000 }), (seed, first, width) => {
      const value = new MersenneTwister(seed).randomInteger(first, first + width);
      return Number.isInteger(value) && value >= first && value <= first + width;
    }),
  );
});

test("an empty interval and a negative seed are refused", () => {
  assert.throws(() => new MersenneTwister(0).randomInteger(0, -1), RangeError);
  assert.throws(() => new MersenneTwister(-1), RangeError);
});
