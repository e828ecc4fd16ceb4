/** Recipes, steps and allocations on their way into a run's configuration. */
import assert from "node:assert/strict";
import { cpSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { resolveComparison } from "../../src/config/comparison.js";
import { recipeJsonSchema } from "../../src/options/recipe.js";
import { resolveRunConfig, type Surroundings } from "../../src/config/resolve.js";
import type { RunRequest } from "../../src/options/run-options.js";
import type { RunConfig } from "../../src/contract.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { exitCodeOf, PruneError } from "../../src/errors.js";
import { SILENT_LOGGER } from "../../src/logging.js";
import { allocationSchema, needsActivations } from "../../src/allocation/registry.js";
import { parsePattern } from "../../src/sparsity/pattern.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { createTestContext } from "../helpers/engine.js";
import { localModels, repositoryPath } from "../helpers/paths.js";
import { demoRun } from "../helpers/runs.js";

const DEMO = repositoryPath("models/demo");

function surroundings(workingDirectory: string): Surroundings {
  return {
    workingDirectory,
    demoModel: DEMO,
    freeMemoryBytes: 2 ** 30,
    findModel: localModels(workingDirectory),
    tokenRowLength: () => Promise.resolve(256),
  };
}

async function resolveIn(directory: string, flags: RunRequest): Promise<RunConfig> {
  return (await resolveRunConfig(flags, surroundings(directory))).config;
}

async function refusal(directory: string, flags: RunRequest): Promise<PruneError> {
  try {
    await resolveIn(directory, flags);
  } catch (error) {
    assert.ok(error instanceof PruneError, String(error));
    return error;
  }
  return assert.fail("the flags were taken");
}

test("a recipe fills in what flags leave open, and flags come first", async (t) => {
  const directory = temporaryDirectory(t);
  writeFileSync(
    join(directory, "r.yaml"),
    `version: 1
method: { name: sparsegpt, options: { damping: 0.05, counting: released } }
then: [{ name: obs-update, options: {} }]
sparsity: 70%
allocation: { rule: owl, M: 7 }
overrides: [{ match: "*.down_proj", sparsity: 0.25 }]
ignore: ["*.q_proj"]
calibration: { nsamples: 4, seqlen: 32, seed: 3 }
`,
  );
  const fromRecipe = await resolveIn(directory, { recipe: "r.yaml" });
  assert.equal(fromRecipe.method, "sparsegpt");
  assert.equal(fromRecipe.methodOptions["damping"], 0.05);
  assert.equal(fromRecipe.methodOptions["counting"], "released");
  assert.deepEqual(
    fromRecipe.then.map(({ method }) => method),
    ["obs-update"],
  );
  assert.deepEqual(fromRecipe.allocation, allocationSchema.parse({ rule: "owl", M: 7 }));
  assert.deepEqual(fromRecipe.overrides, [{ match: "*.down_proj", sparsity: 0.25 }]);
  assert.deepEqual([fromRecipe.sparsity, fromRecipe.nsamples, fromRecipe.seqlen, fromRecipe.seed], [0.7, 4, 32, 3]);

  // A built-in recipe goes by its name, unless a file of the name is there.
  for (const recipe of ["wanda-2of4", "wanda-2of4.yaml"]) {
    const { method, pattern } = await resolveIn(directory, { recipe });
    assert.deepEqual([method, pattern], ["wanda", parsePattern("2:4")]);
  }
  writeFileSync(join(directory, "wanda-2of4.yaml"), "version: 1\nmethod: ria\nsparsity: 0.5\n");
  assert.equal((await resolveIn(directory, { recipe: "wanda-2of4.yaml" })).method, "ria");
  await assert.rejects(resolveIn(directory, { recipe: "wnada-2of4" }), { hint: 'Did you mean "wanda-2of4"?' });

  const flags = {
    recipe: "r.yaml",
    method: "wanda",
    sparsity: "0.5",
    then: ["admm-update"],
    allocation: "uniform",
    seed: "9",
  };
  const overridden = await resolveIn(directory, flags);
  assert.deepEqual([overridden.method, overridden.sparsity, overridden.seed], ["wanda", 0.5, 9]);
  assert.deepEqual(overridden.methodOptions, { variant: "rows" }, "options of a method that was not taken are dropped");
  assert.deepEqual(
    overridden.then.map(({ method }) => method),
    ["admm-update"],
  );
  assert.deepEqual(overridden.allocation, { rule: "uniform" });
});

test("options without a flag of their own reach the method, and unknown ones are refused", async (t) => {
  const directory = temporaryDirectory(t);
  const config = await resolveIn(directory, { method: "sparsegpt", sparsity: "0.5", option: ["counting=released"] });
  assert.equal(config.methodOptions["counting"], "released");
  const unknown = await refusal(directory, { method: "wanda", sparsity: "0.5", option: ["counting=released"] });
  assert.match(unknown.message, /counting/);
  assert.match((await refusal(directory, { sparsity: "0.5", option: ["counting"] })).message, /key=value/);
});

test("step orders that make no sense, unknown rules and N:M allocations are refused before any work", async (t) => {
  const directory = temporaryDirectory(t);
  const cases: [RunRequest, RegExp][] = [
    [{ method: "admm-update", sparsity: "0.5" }, /starts from a mask/],
    [{ method: "wanda", then: ["sparsegpt"], sparsity: "0.5" }, /sparsegpt chooses a mask itself/],
    [{ method: "wanda", then: ["admm-updat"], sparsity: "0.5" }, /admm-updat/],
    [{ allocation: "owll", sparsity: "0.5" }, /owll.*uniform, owl/],
    [{ allocation: "owl:lamda=0.1", sparsity: "0.5" }, /lamda/],
    [{ allocation: "owl", pattern: "2:4" }, /2:4/],
  ];
  for (const [flags, expected] of cases) {
    const error = await refusal(directory, flags);
    assert.match(error.message, expected);
    assert.equal(exitCodeOf(error), 2, JSON.stringify(flags));
  }
  assert.match((await refusal(directory, { allocation: "owll", sparsity: "0.5" })).hint ?? "", /"owl"/);
});

test("an option that has no meaning for the pattern is refused before any work, a step's too", async (t) => {
  const directory = temporaryDirectory(t);
  const alpha = await refusal(directory, { option: ["variant=alpha"], pattern: "2:4", device: "cuda" });
  assert.match(alpha.message, /^2 problems:/);
  assert.match(alpha.message, /wanda: the variant "alpha" has no meaning for 2:4/);
  writeFileSync(join(directory, "r.yaml"), "version: 1\nthen: [{ name: dsnot, options: { lists: released } }]\n");
  const lists = await refusal(directory, { recipe: "r.yaml", pattern: "4:8" });
  assert.match(lists.message, /dsnot: lists "released" would break 4:8/);
  assert.equal((await resolveIn(directory, { recipe: "r.yaml", sparsity: "0.5" })).then.length, 1);
});

test("the mistakes of a recipe and of the flags are reported together, each with its place", async (t) => {
  const directory = temporaryDirectory(t);
  writeFileSync(
    join(directory, "r.yaml"),
    `version: 1
method: { name: sparsegpt, options: { damping: -1, blockSize: 0 } }
then: [sparsegpt]
sparsity: 150%
allocation: { rule: owl, lamda: 0.1, largest: 2 }
overrides: [{ match: "*.down_proj", sparsity: "1.5" }]
nsample: 3
`,
  );
  const { message } = await refusal(directory, { recipe: "r.yaml", model: "absent", device: "cuda", seqlen: "1" });
  for (const expected of [
    /^10 problems:\n/,
    /r\.yaml:4:11 sparsity: "150%" would leave no weights/,
    /r\.yaml:5:\d+ allocation\.lamda: unknown key\. Did you mean "lambda"\?/,
    /r\.yaml:5:\d+ allocation\.largest: /,
    /r\.yaml:6:\d+ overrides\.0\.sparsity: "1\.5" is not a fraction/,
    /r\.yaml:7:1 nsample: unknown key/,
    /--device: "cuda"/,
    /--seqlen: "1"/,
    /--damping: .*; --block-size: /,
    /sparsegpt chooses a mask itself/,
    /absent: no such directory/,
  ]) {
    assert.match(message, expected);
  }
  assert.doesNotMatch(message, /missing/, "what is there but wrong is not missing");
});

test("an allocation that cannot reach the request is refused before any work", async (t) => {
  const directory = temporaryDirectory(t);
  const error = await refusal(directory, { allocation: "lamp:largest=0.6", sparsity: "0.7", device: "cuda" });
  assert.match(error.message, /0\.7 cannot be reached with at most 0\.6/);
  assert.match(error.message, /cuda/);
  assert.match(
    (await refusal(directory, { allocation: "alphapruning:epsilon=1,xmin=top", sparsity: "0.7" })).message,
    /epsilon.*xmin/,
  );
  writeFileSync(join(directory, "text.yaml"), "version: 1\nsparsity: 0.7\nallocation: owl:M=0\n");
  assert.match((await refusal(directory, { recipe: "text.yaml" })).message, /text\.yaml:3:13 allocation: .*M /);
});

test("an allocation that looks at activations needs calibration even where the method does not", async (t) => {
  const directory = temporaryDirectory(t);
  const model = join(directory, "model");
  cpSync(DEMO, model, { recursive: true, filter: (file) => !file.endsWith("calibration.txt") });
  const flags = { model, method: "magnitude", sparsity: "0.5" };
  assert.equal((await resolveIn(directory, { ...flags, allocation: "owl" })).calibration?.set, "self");
  const { calibration } = await resolveIn(directory, { ...flags, allocation: "global" });
  assert.equal(calibration, undefined);
});

test("every recipe of configs/ is valid and resolves", async () => {
  const files = readdirSync(repositoryPath("configs")).filter((name) => name.endsWith(".yaml"));
  assert.ok(files.length >= 7);
  for (const file of files) {
    const config = await resolveIn(repositoryPath("."), { recipe: `configs/${file}` });
    assert.equal(config.nsamples, 128, file);
    assert.equal(config.seed, 0, file);
  }
});

test("configs/recipe.schema.json is the recipe's definition (node scripts/generate-schema.mjs renews it)", () => {
  const stored = JSON.parse(readFileSync(repositoryPath("configs/recipe.schema.json"), "utf8")) as unknown;
  assert.deepEqual(stored, JSON.parse(JSON.stringify(recipeJsonSchema())));
});

test("a run leaves the recipe that repeats it to the same bytes", async (t) => {
  const directory = temporaryDirectory(t);
  const out = join(directory, "first");
  const allocation = allocationSchema.parse({ rule: "atp", beta: 0.02 });
  const overrides = [{ match: "*.o_proj", sparsity: 0.2 }];
  const methodOptions = { variant: "rows" }; // all defaults filled in, as the command line does
  const then = [{ method: "cg-update", methodOptions: { damping: 0.02, steps: 3 }, match: "*.up_proj" }];
  const config = { methodOptions, then, allocation, overrides, ignore: ["*.k_proj"] };
  await pruneModel(demoRun(out, config), createTestContext());
  cpSync(join(out, "recipe.yaml"), join(directory, "again.yaml"));
  const again = await resolveIn(directory, { recipe: "again.yaml", out: "second" });
  await pruneModel(again, createTestContext());
  for (const name of ["model.safetensors", "recipe.yaml"]) {
    assert.ok(readFileSync(join(directory, "second", name)).equals(readFileSync(join(out, name))), name);
  }
});

test("to reproduce the model implies that groups see errors, and contradicts that nothing does", async (t) => {
  const directory = temporaryDirectory(t);
  const asked = { sparsity: "0.5", reproduce: "model" };
  assert.equal((await resolveIn(directory, { sparsity: "0.5" })).propagation, "block");
  const config = await resolveIn(directory, asked);
  assert.deepEqual([config.reproduce, config.propagation], ["model", "group"]);
  assert.equal((await resolveIn(directory, { ...asked, propagation: "block" })).propagation, "block");
  assert.match(
    (await refusal(directory, { ...asked, propagation: "dense" })).message,
    /--reproduce model: with --prop/,
  );
  assert.match((await refusal(directory, { ...asked, reproduce: "modell" })).message, /layer, model/);
  writeFileSync(join(directory, "r.yaml"), "version: 1\nsparsity: 0.5\nreproduce: model\n");
  assert.equal((await resolveIn(directory, { recipe: "r.yaml" })).reproduce, "model");
  const plain = { ...asked, method: "magnitude", model: join(directory, "model") };
  cpSync(DEMO, plain.model, { recursive: true, filter: (file) => !file.endsWith("calibration.txt") });
  assert.equal((await resolveIn(directory, plain)).calibration?.set, "self", "magnitude needs none for itself");
});

test("a further step for some linears changes those only", async (t) => {
  const directory = temporaryDirectory(t);
  writeFileSync(join(directory, "r.yaml"), 'version: 1\nthen: [{ name: cg-update, match: "*.down_proj" }]\n');
  const shared = { method: "wanda", sparsity: "0.5", propagation: "dense", nsamples: "4", seqlen: "64" };
  const run = async (flags: RunRequest) =>
    (
      await pruneModel(
        { ...(await resolveIn(directory, { ...shared, ...flags })), measureLoss: true },
        createTestContext(),
      )
    ).layers;
  const plain = await run({ out: "plain" });
  const updated = await run({ recipe: "r.yaml", out: "updated" });
  for (const [i, { name, zeros, reconstruction }] of updated.entries()) {
    assert.equal(zeros, plain[i].zeros, name);
    const [before, after] = [plain[i].reconstruction?.error ?? NaN, reconstruction?.error ?? NaN];
    assert.ok(name.endsWith(".down_proj") ? after < before : after === before, `${name}: ${before}, then ${after}`);
  }
});

test("overrides change their linears only, and the last match wins", async (t) => {
  const out = join(temporaryDirectory(t), "out");
  const overrides = [
    { match: "*.down_proj", sparsity: 0.25 },
    { match: "model.layers.5.mlp.down_proj", sparsity: 0 },
  ];
  const { layers } = await pruneModel(demoRun(out, { method: "magnitude", overrides }), createTestContext());
  for (const { name, zeros, elements } of layers) {
    const expected = name === "model.layers.5.mlp.down_proj" ? 0 : name.endsWith("down_proj") ? 0.25 : 0.5;
    assert.equal(zeros, Math.floor(elements * expected), name);
  }
  const unmatched = demoRun(join(out, "..", "other"), { overrides: [{ match: "*.gone", sparsity: 0.1 }] });
  await assert.rejects(
    pruneModel(unmatched, createTestContext()),
    (error) => error instanceof PruneError && error.code === "E_OVERRIDE",
  );
  const pattern = { pattern: parsePattern("2:4"), overrides };
  await assert.rejects(
    pruneModel(demoRun(join(out, "..", "third"), pattern), createTestContext()),
    /2:4 has its own sparsity/,
  );
  assert.ok(!existsSync(join(out, "..", "other.partial")));
});

test("an allocation keeps the mean and spreads the blocks", async (t) => {
  for (const options of [
    { rule: "owl" },
    { rule: "owl", granularity: "projection" },
    { rule: "dlp" },
    { rule: "alphapruning" },
    { rule: "alphapruning", granularity: "projection" },
    { rule: "erk" },
    { rule: "lamp" },
    { rule: "global", score: "wanda" },
    { rule: "global", smallest: 0.6, largest: 0.8 },
  ]) {
    const allocation = allocationSchema.parse(options);
    const needsTokens = needsActivations(allocation);
    const out = join(temporaryDirectory(t), "out");
    const { layers, sparsity } = await pruneModel(
      demoRun(out, {
        method: "magnitude",
        sparsity: 0.7,
        allocation,
        ...(needsTokens ? {} : { calibration: undefined }),
      }),
      createTestContext(),
    );
    // magnitude is exact per linear, so at most one weight per linear is missing from the request.
    const missing = Math.abs(sparsity.achieved - 0.7) * layers.reduce((sum, { elements }) => sum + elements, 0);
    assert.ok(missing <= layers.length, `${JSON.stringify(options)}: ${missing} weights off`);
    const shares = layers.map(({ zeros, elements }) => zeros / elements);
    assert.ok(new Set(shares.map((share) => share.toFixed(3))).size > 1, allocation.rule);
    if ("smallest" in options) {
      assert.ok(Math.min(...shares) > 0.599 && Math.max(...shares) <= 0.8, `${shares}`);
    }
    const isPerBlock = "granularity" in allocation && allocation.granularity === "block";
    const inFirst = layers.flatMap(({ name }, i) => (name.startsWith("model.layers.0.") ? [shares[i].toFixed(3)] : []));
    assert.equal(new Set(inFirst).size === 1, isPerBlock, `${JSON.stringify(options)}: ${inFirst.join(" ")}`);
  }
});

test("linears at an allocation's largest sparsity are named in a warning", async (t) => {
  const warnings: string[] = [];
  const logger = { ...SILENT_LOGGER, warn: (message: string) => void warnings.push(message) };
  const run = async (rule: string): Promise<void> => {
    const allocation = allocationSchema.parse({ rule });
    const config = { method: "magnitude", sparsity: 0.7, allocation, calibration: undefined };
    await pruneModel(demoRun(join(temporaryDirectory(t), "out"), config), createTestContext({ logger }));
  };
  await run("erk");
  assert.deepEqual(warnings, []);
  await run("alphapruning"); // takes nearly all of the demo model's first block
  assert.equal(warnings.length, 1);
  assert.match(warnings[0], /more than 0\.99 of 7 linears \(model\.layers\.0\./);
});

test("a comparison's methods, steps and targets are read from its lists", async (t) => {
  const directory = temporaryDirectory(t);
  const flags = {
    methods: "magnitude, wanda+admm-update",
    sparsities: "0.5,70%",
    patterns: "unstructured,1:4",
    text: "t.txt",
  };
  const { config } = await resolveComparison(flags, surroundings(directory));
  assert.deepEqual(
    config.methods.map(({ label, then }) => [label, then.map(({ method }) => method)]),
    [
      ["magnitude", []],
      ["wanda+admm-update", ["admm-update"]],
    ],
  );
  assert.deepEqual(
    config.targets.map(({ sparsity }) => sparsity),
    [0.5, 0.7, 0.75],
  );
  assert.equal(config.workDirectory, join(directory, "demo-compare"));
  assert.ok(config.run.calibration !== undefined, "some cell needs calibration");
  await assert.rejects(resolveComparison({ ...flags, methods: "wanda,wnda" }, surroundings(directory)), /wnda/);
  await assert.rejects(
    resolveComparison({ ...flags, methods: "admm-update" }, surroundings(directory)),
    /starts from a mask/,
  );
});
