/** A sample of `npm run fuzz`, inputs that once found something, and whether a fault would be found. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { examineRecipe } from "../../src/config/recipe.js";
import { Mutator, textOf, treeOf } from "./mutate.js";
import { inputOfSeed, openFolder, targetOf } from "./run-target.js";
import { readInput, TARGETS, type Target } from "./targets.js";

/** A process of the tokenizers library takes longer to start than all the others together. */
const SLOW = ["tokenizer", "tokenizer-config", "lock"];
const RUNS = 36;

for (const target of TARGETS)
  test(`${target.name}: what is valid is taken, and what is mutated gives nothing but PruneErrors`, async () => {
    using folder = await openFolder(target);
    const [seed = new Uint8Array()] = target.seeds;
    await readInput(target, seed, folder.path);
    const runs = SLOW.includes(target.name) ? RUNS / 12 : RUNS;
    for (let index = 0; index < runs; index++) await readInput(target, inputOfSeed(target, index), folder.path);
  });

/** Inputs that ended in another error, did not end, or took the process with them. */
const FOUND: Readonly<Record<string, readonly string[]>> = {
  config: [
    '{"model_type":"llama","num_hidden_layers":9007199254740991,"hidden_size":48,"num_attention_heads":6,"vocab_size":9,"intermediate_size":8}',
    '{"model_type":"constructor","text_config":{}}',
    '{"model_type":"x"}', // every family is tried, with the sizes that its class has by default
    '{"model_type":"x","num_hidden_layers":9999,"num_attention_heads":4,"hidden_size":48,"vocab_size":160,"num_experts":128}',
  ],
  journal: [
    '{"type":"run","fingerprint":{"bytes":{"version":"1","tensors":"a"},"place":{"device":"cpu"}}}\n{"type":"block","name":"model.layers.0","sha256":"cd","layers":[null]}\n',
    '{"type":"run","fingerprint":{"bytes":{"version":"1","tensors":"a"},"place":{"device":"cpu"}}}\n{"type":"allocation","name":"all","sparsities":{"a":"x"}}\n',
    '{"type":"run","fingerprint":{"bytes":{"version":{"toString":1}},"place":{}}}\n',
    '{"type":"run","fingerprint":{"bytes":{"version":"1","tensors":"a"},"place":{"device":"cpu"}}}\n{"type":{"toString":1},"name":"x"}\n',
  ],
  marker: ['{"headersSha256":"ab","shards":[null]}', "null"],
  results: ['{"fingerprint":"f"}\nnull\n', '{"fingerprint":"f"}\n{"label":"a"}\n', "null\n"],
  course: [
    "null",
    "{",
    '{"losses":1,"gradientNorms":[],"curve":[]}',
    '{"losses":[],"gradientNorms":[],"curve":[null]}',
  ],
  "tokenizer-config": [
    '{"tokenizer_class":{"toString":1}}',
    '{"tokenizer_class":"LlamaTokenizer","bos_token":{"content":{"valueOf":0,"toString":0}}}',
  ],
  recipe: ["[".repeat(100_000), "- ".repeat(60_000), "{a: ".repeat(30_000), "version: 1\n? {}\n: 1\n"],
};

describe("inputs that found something", () => {
  for (const [name, inputs] of Object.entries(FOUND))
    test(name, async () => {
      const target = targetOf(name);
      using folder = await openFolder(target);
      for (const input of inputs) await readInput(target, Buffer.from(input), folder.path);
    });

  test("recipes of very many unknown keys name some of them", () => {
    const text = Array.from({ length: 500 }, (_, i) => `k${i}: 1\n`).join("");
    const { problems } = examineRecipe(text, "r.yaml");
    assert.equal(problems.length, 52); // and the missing version
    assert.ok(problems.some(({ message }) => message.endsWith("450 more unknown keys.")));
  });
});

test("what is no PruneError is a finding, and so is an internal one", async () => {
  const faulty = (error: Error): Target => ({ ...targetOf("header"), read: () => Promise.reject(error) });
  const read = (error: Error): Promise<unknown> => readInput(faulty(error), new Uint8Array(), "");
  await assert.rejects(read(new TypeError("x")), TypeError);
  const { InternalError, CheckpointError } = await import("../../src/errors.js");
  await assert.rejects(read(new InternalError("E_X", "x")), InternalError);
  assert.ok((await read(new CheckpointError("E_X", "x"))) instanceof CheckpointError);
});

test("mutations are the same for a seed, differ between seeds, and reach doubled and inherited keys", () => {
  const target = targetOf("index");
  assert.deepEqual(inputOfSeed(target, 7), inputOfSeed(target, 7));
  const texts = Array.from({ length: 400 }, (_, seed) => Buffer.from(inputOfSeed(target, seed)).toString("latin1"));
  assert.ok(new Set(texts).size > 300);
  assert.ok(texts.some((text) => text.includes('"__proto__"')));
  const doubled = Array.from({ length: 400 }, (_, seed) => textOf(new Mutator(seed, []).json(treeOf({ a: 1, b: 2 }))));
  assert.ok(doubled.some((text) => /"a":.*"a":/.test(text)));
});

test("valid inputs of every target are taken", async () => {
  // Nor can what every reader refuses at once find anything.
  for (const target of TARGETS) {
    if (["foreign", "checkpoint", "quantisation", "recipe", ...SLOW].includes(target.name)) continue;
    using folder = await openFolder(target);
    const [seed = new Uint8Array()] = target.seeds;
    assert.equal(await readInput(target, seed, folder.path), "taken", target.name);
  }
});
