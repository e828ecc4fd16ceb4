/** `prune families`, the document generated from the same data, and `--family` on every command that opens a model. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { z } from "zod";
import { FAMILIES } from "../../src/model/families/registry.js";
import { describeFamilies, familiesDocument } from "../../src/report/families.js";
import { copyFixture, fixturePath, fixtures, readJson } from "../helpers/architectures.js";
import { encodeSafetensors } from "../helpers/checkpoints.js";
import { runPrune } from "../helpers/cli.js";
import {
  ERROR_DOCUMENT,
  EVALUATION_DOCUMENT,
  INSPECTION_DOCUMENT,
  parseDocument,
  PLAN_DOCUMENT,
  RUN_DOCUMENT,
} from "../helpers/documents.js";
import { repositoryPath } from "../helpers/paths.js";

const names = z.array(z.string().min(1)).min(1);
const REPORT = describeFamilies();

const FAMILIES_DOCUMENT = z.looseObject({
  schema: z.literal("prune.families/v1"),
  families: z.array(
    z.looseObject({
      name: z.string().regex(/^[a-z0-9_]+$/),
      modelTypes: names,
      exercises: names,
      models: z.array(z.string().min(1)),
      dense: z.array(z.string().min(1)),
      gradients: z.boolean(),
      generation: z.boolean(),
      blocks: z.array(z.array(z.array(names).min(1)).min(1)).min(1),
    }),
  ),
});

test("prune families lists every family with its model types, what it exercises and its prunable groups", async () => {
  const json = await runPrune(["families", "--json"]);
  assert.equal(json.code, 0, json.stderr);
  const { families } = parseDocument(FAMILIES_DOCUMENT, json.stdout);
  assert.deepEqual(
    families.map(({ name }) => name),
    FAMILIES.map(({ name }) => name),
  );
  const text = await runPrune(["families"]);
  assert.equal(text.code, 0, text.stderr);
  for (const { name, exercises } of families) {
    assert.match(text.stdout, new RegExp(`^${name} `, "m"));
    for (const phrase of exercises) assert.ok(text.stdout.includes(phrase), phrase);
  }
  assert.match(text.stdout, /\[mlp\.experts\.\*\.gate_proj mlp\.experts\.\*\.up_proj\]/);
  assert.doesNotMatch(text.stdout, /shared_expert_gate|mlp\.gate\b|block_sparse_moe\.gate\b/);
});

test("no two families take the same model type, and every stored architecture has one", () => {
  const modelTypes = REPORT.families.flatMap((family) => family.modelTypes);
  assert.equal(new Set(modelTypes).size, modelTypes.length);
  for (const { folder } of fixtures()) {
    const { model_type: modelType } = readJson<{ model_type: string }>(fixturePath(folder, "config.json"));
    assert.ok(modelTypes.includes(modelType), `${folder}: ${modelType}`);
  }
});

test("docs/families.md is what scripts/generate-families.mjs writes", () => {
  assert.equal(readFileSync(repositoryPath("docs/families.md"), "utf8"), familiesDocument(REPORT));
});

/** The mistral fixture under a model_type that nobody knows; its ids as calibration and as text. */
async function unknownModel(t: TestContext): Promise<{ model: string; ids: string }> {
  const fixture = fixtures().find(({ folder }) => folder === "mistral");
  assert.ok(fixture);
  const model = await copyFixture(t, fixture, "config.json");
  const config = readJson<Record<string, unknown>>(join(model, "config.json"));
  writeFileSync(join(model, "config.json"), JSON.stringify({ ...config, model_type: "brandnew" }));
  const ids = join(model, "ids.bin.safetensors");
  const values = new Uint8Array(Int32Array.from({ length: 64 }, (_, i) => (i * 29) % 90).buffer);
  writeFileSync(ids, encodeSafetensors({ ids: { dtype: "I32", shape: [4, 16], values } }));
  return { model, ids };
}

test("--family makes run, --dry-run, eval and inspect read an unknown model_type", async (t) => {
  const { model, ids } = await unknownModel(t);
  const options = ["--sparsity", "0.5", "--calibration", ids, "--nsamples", "4", "--device", "cpu", "--json"];
  const run = ["run", "--model", model, ...options, "--out", `${model}-pruned`];

  const refused = await runPrune(run);
  assert.equal(refused.code, 4);
  const { code, hint, details } = parseDocument(ERROR_DOCUMENT, refused.stdout);
  assert.equal(code, "E_ARCHITECTURE");
  assert.match(hint ?? "", /^looks like mistral: pass --family mistral/); // llama does not know of windows
  assert.ok(Array.isArray(details["alike"]) && details["alike"].includes("llama"));

  const family = ["--family", "mistral"];
  const plan = parseDocument(PLAN_DOCUMENT, (await runPrune([...run, ...family, "--dry-run"])).stdout);
  assert.equal(plan["family"], "mistral");
  const pruned = await runPrune([...run, ...family]);
  assert.equal(pruned.code, 0, pruned.stderr);
  assert.equal(parseDocument(RUN_DOCUMENT, pruned.stdout).sparsity.achieved, 0.5);

  const evaluate = ["eval", `${model}-pruned`, "--text", ids, "--json"];
  assert.equal((await runPrune(evaluate)).code, 4);
  const evaluated = await runPrune([...evaluate, ...family]);
  assert.ok(parseDocument(EVALUATION_DOCUMENT, evaluated.stdout).perplexity > 1);

  const inspect = ["inspect", `${model}-pruned`, "--json"];
  assert.equal(parseDocument(INSPECTION_DOCUMENT, (await runPrune([...inspect, ...family])).stdout).sparsity, 0.5);
});

test("a model type with keys that no family knows is not offered as one, and the keys are named", async (t) => {
  const { model, ids } = await unknownModel(t);
  const file = join(model, "config.json");
  const config = readJson<Record<string, unknown>>(file);
  const silent = { eos_token_id: 2, hidden_dropout: 0.1, use_cache: true, torch_dtype: "bfloat16", scale_none: null };
  writeFileSync(file, JSON.stringify({ ...config, ...silent, scale_emb: 12, scale_depth: 1.4 }));
  const { code, stdout } = await runPrune(["eval", model, "--text", ids, "--json"]);
  assert.equal(code, 4);
  const { hint, details } = parseDocument(ERROR_DOCUMENT, stdout);
  assert.match(
    hint ?? "",
    /those of mistral, but config\.json has keys that mistral does not know .*: scale_emb, scale_depth\.$/,
  );
  assert.doesNotMatch(hint ?? "", /--family/);
  assert.ok(Array.isArray(details["alike"]) && details["alike"].includes("mistral"));
});

test("an unknown family ends with 2 and the nearest name", async () => {
  for (const args of [
    ["run", "--model", fixturePath("mistral"), "--method", "magnitude", "--sparsity", "0.5", "--family", "mistrl"],
    ["inspect", fixturePath("mistral"), "--family", "mistrl"],
  ]) {
    const { code, stderr } = await runPrune(args);
    assert.equal(code, 2);
    assert.match(
      stderr,
      /^error: --family: "mistrl" is not a family; known families are .*\.\nhint: Did you mean "mistral"\?/m,
    );
  }
});
