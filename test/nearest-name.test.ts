import assert from "node:assert/strict";
import { test } from "node:test";
import { nearestName } from "../src/nearest-name.js";

test("two letters that changed places are one mistake", () => {
  for (const [said, meant] of [
    ["evla", "eval"],
    ["wnada", "wanda"],
    ["olw", "owl"],
    ["--vresion", "--version"],
    ["sparsgept", "sparsegpt"],
  ] as const)
    assert.equal(nearestName(said, ["eval", "wanda", "owl", "--version", "sparsegpt"]), meant);
  assert.equal(nearestName("abc", ["cab"]), undefined, "no swap of neighbours");
  assert.equal(nearestName("xy", ["yx"]), undefined, "in a short word one mistake is half of it");
});

test("the nearest wins; what is far is nothing; a missing prefix is none of these", () => {
  assert.equal(nearestName("ecal", ["decal", "eval"]), "decal");
  assert.equal(nearestName("methods", ["families"]), undefined);
  assert.equal(nearestName("layers.0.q", ["layers.1.q", "model.layers.0.q"]), "model.layers.0.q");
});
