import assert from "node:assert/strict";
import { test } from "node:test";
import { clipScale } from "../../src/training/clip.js";
import { linearRate } from "../../src/training/schedule.js";

test("a rate rises over the warm-up, peaks once and falls to one step above 0", () => {
  const rates = Array.from({ length: 10 }, (_, i) => linearRate(1, i + 1, 10, 0.2));
  assert.deepEqual(
    rates.map((rate) => Number(rate.toFixed(4))),
    [0.3333, 0.6667, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125],
  );
  assert.equal(linearRate(2, 1, 4, 0), 2);
  assert.equal(linearRate(2, 4, 4, 0), 0.5);
});

test("a gradient is scaled down to the norm, never up", () => {
  assert.equal(clipScale(0.5, 1), 1);
  assert.ok(Math.abs(clipScale(4, 1) * 4 - 1) < 1e-6);
  assert.equal(clipScale(1e9, 0), 1);
});
