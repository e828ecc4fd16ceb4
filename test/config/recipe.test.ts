/** Recipes: what is taken, and how each mistake is answered. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseRecipe } from "../../src/config/recipe.js";
import { recipeJsonSchema } from "../../src/options/recipe.js";
import { ConfigError } from "../../src/errors.js";

function refusal(text: string): ConfigError {
  try {
    parseRecipe(text, "recipe.yaml");
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error));
    return error;
  }
  return assert.fail("the recipe was taken");
}

test("aliases and depths that are meant to hurt are refused with their place", () => {
  const levels = "abcdefgh".split("");
  const bomb = levels.map((name, i) => `${name}: &${name} [${Array(9).fill(i === 0 ? "lol" : `*${levels[i - 1]}`)}]`);
  const cases: readonly (readonly [string, RegExp])[] = [
    [["version: 1", ...bomb].join("\n"), /^recipe\.yaml:3:8 aliases .*[Ee]xcessive/],
    [
      "version: 1\nmethod: { name: wanda, options: &o { a: *o } }",
      /^recipe\.yaml:2:41 aliases .* lead into themselves/,
    ],
    ["version: 1\nmethod: *nowhere", /^recipe\.yaml:2:9 aliases .*nowhere/],
    [`version: 1\nx: ${"[".repeat(1e4)}${"]".repeat(1e4)}`, /^recipe\.yaml:\d+:\d+ /],
  ];
  for (const [text, message] of cases) assert.match(refusal(text).message, message);
  assert.equal(parseRecipe("version: 1\nmodel: &m here\nout: *m", "recipe.yaml").out, "here");
});

test("a whole recipe is read", () => {
  const recipe = parseRecipe(
    `
version: 1
description: LLaMA-7B at 70 %, as published
method: { name: sparsegpt, options: { damping: 0.01 } }
then: [dsnot]
sparsity: 70%
allocation: { rule: owl, M: 5 }
overrides:
  - { match: "*.down_proj", sparsity: 0.6 }
ignore: ["model.layers.0.*"]
calibration: { file: c4.jsonl.gz, nsamples: 128, seqlen: 2048, seed: 0 }
propagation: block
`,
    "recipe.yaml",
  );
  assert.deepEqual(recipe.allocation, {
    rule: "owl",
    M: 5,
    lambda: 0.08,
    granularity: "block",
    smallest: 0,
    largest: 0.99,
  });
  assert.equal(recipe.overrides?.[0]?.sparsity, 0.6);
  assert.deepEqual([recipe.method, recipe.methodOptions], ["sparsegpt", { damping: 0.01 }]);
  assert.deepEqual([recipe.calibration, recipe.nsamples], ["c4.jsonl.gz", 128]);
});

test("JSON is taken as it is", () => {
  assert.equal(parseRecipe('{"version": 1, "sparsity": 0.5}', "recipe.json").sparsity, 0.5);
});

test("unknown keys are named with their place and the nearest valid key, all at once", () => {
  const { message } = refusal(
    "version: 1\nsparsty: 0.7\ncalibration:\n  nsample: 4\nthen: [{ name: dsnot, mach: x }]\n",
  );
  assert.match(message, /recipe\.yaml:2:1 sparsty: unknown key\. Did you mean "sparsity"\?/);
  assert.match(message, /recipe\.yaml:4:3 calibration\.nsample: unknown key\. Did you mean "nsamples"\?/);
  assert.match(message, /recipe\.yaml:5:23 then\.0\.mach: unknown key\. Did you mean "match"\?/);
});

test("a value out of range is named with its place", () => {
  assert.match(refusal("version: 1\nsparsity: 1.5\n").message, /recipe\.yaml:2:11 sparsity/);
  assert.match(refusal("version: 1\ncalibration: { seqlen: 1 }\n").message, /recipe\.yaml:2:24 calibration\.seqlen/);
});

test("broken YAML and duplicate keys are named with line and column", () => {
  assert.match(refusal("version: 1\nmethod: [wanda\n").message, /recipe\.yaml:\d+:\d+ /);
  assert.match(refusal("version: 1\nversion: 1\n").message, /recipe\.yaml:2:1 /);
});

test("another version is refused", () => {
  assert.match(refusal("version: 2\n").message, /version/);
});

test("the JSON Schema names every key and refuses others", () => {
  const schema = recipeJsonSchema() as {
    properties: Record<string, unknown>;
    additionalProperties: boolean;
    required: string[];
  };
  assert.equal(schema.additionalProperties, false);
  assert.deepEqual(schema.required, ["version"]);
  for (const key of ["method", "then", "allocation", "overrides"]) assert.ok(key in schema.properties, key);
});
