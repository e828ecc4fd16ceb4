/** When an expert starves: with fewer tokens than inputs, not with as many. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { isStarved } from "../../src/driver/starved-experts.js";

test("a group starves with fewer tokens than inputs, and only where a router decides", () => {
  const group = { name: "expert-3-input", stage: 0, inFeatures: 64, linears: [], isRouted: true };
  assert.equal(isStarved(group, 63), true);
  assert.equal(isStarved(group, 64), false);
  assert.equal(isStarved(group, 0), true);
  assert.equal(isStarved(group, undefined), false);
  assert.equal(isStarved({ ...group, isRouted: false }, 3), false);
});
