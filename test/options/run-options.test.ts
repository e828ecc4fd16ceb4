/** The table of a run's options: what is derived from it agrees, entry by entry. */
import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { resolveRunConfig, type Surroundings } from "../../src/config/resolve.js";
import type { RunConfig } from "../../src/contract.js";
import { SHARED_OPTIONS } from "../../src/options/comparison-options.js";
import { bytesOf, placeOf, sharedBytesOf } from "../../src/options/fingerprint.js";
import { readOptions } from "../../src/options/read.js";
import { fieldOf, RUN_OPTION_LIST, RUN_OPTIONS } from "../../src/options/run-options.js";
import { formatRecipe } from "../../src/report/run-recipe.js";
import { findSolver } from "../../src/solvers/registry.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { localModels, repositoryPath } from "../helpers/paths.js";
import { optionSamples } from "../helpers/run-options.js";
import { demoRun } from "../helpers/runs.js";

const SURROUNDINGS: Surroundings = {
  workingDirectory: repositoryPath("."),
  demoModel: repositoryPath("models/demo"),
  freeMemoryBytes: 2 ** 29,
  findModel: localModels(repositoryPath(".")),
  tokenRowLength: () => Promise.resolve(256),
};

/** A run as the command line resolves it: all options of methods filled in. */
function resolvedRun(overrides: Partial<RunConfig> = {}): RunConfig {
  const config = demoRun(repositoryPath("nowhere"), overrides);
  const parsed = findSolver(config.method).schema.parse(config.methodOptions) as RunConfig["methodOptions"];
  return { ...config, methodOptions: parsed };
}

const keysWhere = (isWanted: (entry: (typeof RUN_OPTION_LIST)[number][1]) => boolean): string[] =>
  RUN_OPTION_LIST.flatMap(([key, entry]) => (fieldOf(key) !== undefined && isWanted(entry) ? [key] : []));

/** What belongs to a directory, an invocation or a machine, not to the run. */
const NOT_WRITTEN = ["out", "force", "saveMask", "memory", "resume"];

for (const [key, sample] of optionSamples()) {
  test(`${key} survives from the configuration to recipe.yaml and back`, async (t) => {
    assert.ok(sample !== undefined, `test/helpers/run-options.ts has no sample of ${key}`);
    const config = resolvedRun(sample);
    assert.notDeepEqual(config, resolvedRun(), "the sample is not what there is without it");
    const recipe = join(temporaryDirectory(t), "recipe.yaml");
    writeFileSync(recipe, formatRecipe(config));
    const again = (await resolveRunConfig({ recipe, out: config.out }, SURROUNDINGS)).config;
    const { force, resume, memoryBytes, saveMask } = config;
    const kept = { force, resume, memoryBytes, ...(saveMask === undefined ? {} : { saveMask }) };
    assert.deepEqual({ ...again, ...kept }, config);
    if (NOT_WRITTEN.includes(key)) assert.equal(formatRecipe(config), formatRecipe(resolvedRun()));
  });
}

test("what a recipe does not say is what no other place needs", () => {
  assert.deepEqual(
    keysWhere(({ recipe, isWritten }) => recipe === undefined || isWritten === false),
    NOT_WRITTEN,
  );
});

for (const [key, sample] of optionSamples()) {
  const { decides } = RUN_OPTIONS[key];
  test(`another ${key} gives ${decides === "result" ? "another" : "the same"} fingerprint`, () => {
    const [then, now] = [resolvedRun(), resolvedRun(sample)].map(bytesOf);
    const differing = Object.keys(now).filter((name) => now[name] !== then[name]);
    assert.equal(differing.includes(key), decides === "result", differing.join(", "));
    if (decides !== "result") assert.deepEqual(now, then);
  });
}

test("only these decide nothing, or by what their files hold, or say where a run worked", () => {
  assert.deepEqual(
    keysWhere(({ decides }) => decides === "nothing"),
    ["out", "force", "saveMask", "memory", "resume"],
  );
  assert.deepEqual(
    keysWhere(({ decides }) => decides === "contents"),
    ["model", "family", "calibration", "textField"],
  );
  assert.deepEqual(placeOf(resolvedRun()), { device: "cpu" });
  assert.ok(!("device" in bytesOf(resolvedRun())));
});

test("a comparison shares whatever is no axis of it and not for one run only", () => {
  const own = ["out", "force", "saveMask", "overrides", "measureLoss", "resume", "recipe", "budget"];
  const axes = [
    "method",
    "methodOptions",
    "then",
    "option",
    "sparsity",
    "pattern",
    "allocation",
    "damping",
    "blockSize",
    "init",
    "steps",
    "batchSize",
    "lr",
    "lambda",
    "interval",
    "projection",
    "state",
  ];
  const others = Object.keys(RUN_OPTIONS).filter((key) => !own.includes(key) && !axes.includes(key));
  assert.deepEqual(Object.keys(SHARED_OPTIONS), others);
  const deciding = others.filter((key) => key in bytesOf(resolvedRun()));
  assert.deepEqual(Object.keys(sharedBytesOf(resolvedRun())), deciding);
});

test("a value may be plain or a flag's text, and means the same", () => {
  const plain = {
    sparsity: 0.7,
    nsamples: 32,
    memory: 2 ** 29,
    damping: [0.01, 0.1],
    allocation: { rule: "owl", M: 7 },
  };
  const texts = { sparsity: "70%", nsamples: "32", memory: "512MiB", damping: "0.01,0.1", allocation: "owl:M=7" };
  const [read, same] = [readOptions(RUN_OPTIONS, plain), readOptions(RUN_OPTIONS, texts)];
  assert.deepEqual(read.problems, []);
  assert.deepEqual(read.asked, same.asked);
});

test("values of a wrong kind and unknown options are problems, all of them named", () => {
  const request = { nsamples: 0.5, sparsity: 70, method: 3, ignore: "*.k_proj", force: "yes", then: [4], sparsty: 0.5 };
  const { problems, unread } = readOptions(RUN_OPTIONS, request as never);
  const found = problems.map(({ code, message, hint = "" }) => `${code} ${message} ${hint}`).join("\n");
  for (const expected of [
    /E_COUNT --nsamples: "0\.5"/,
    /E_SPARSITY --sparsity: "70" is not a fraction below 1; for 70% write/,
    /E_OPTION_TYPE --method: 3 is not a text/,
    /E_OPTION_TYPE --ignore: "\*\.k_proj" is not a list/,
    /E_OPTION_TYPE --force: "yes" is not true or false/,
    /E_OPTION_TYPE --then: 4 is not a method's name/,
    /E_OPTION_UNKNOWN "sparsty" is no option\. Did you mean "sparsity"\?/,
  ])
    assert.match(found, expected);
  assert.equal(problems.length, 7);
  assert.deepEqual([...unread], Object.keys(request));
});

test("docs/recipes.md names every key of a recipe, docs/node-api.md every option", () => {
  const recipes = readFileSync(repositoryPath("docs/recipes.md"), "utf8");
  const api = existsSync(repositoryPath("docs/node-api.md"))
    ? readFileSync(repositoryPath("docs/node-api.md"), "utf8")
    : "";
  for (const [key, { recipe }] of RUN_OPTION_LIST) {
    if (recipe !== undefined) assert.match(recipes, new RegExp(`\`${recipe.split(".")[0]}\``), recipe);
    assert.match(api, new RegExp(`\`${key}\``), key);
  }
});
