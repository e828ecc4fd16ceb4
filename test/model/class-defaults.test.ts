/** Keys that config.json leaves out mean what the library's classes say, not nothing. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { inspectConfig } from "../../src/inspection/inspect-config.js";
import type { Architecture, BlockSpec } from "../../src/model/architecture.js";
import { missingDefaults, withDefaults } from "../../src/model/class-defaults.js";
import { readModelConfig, type ModelConfig } from "../../src/model/config.js";
import { FAMILIES, familyOf, modelTypesOf } from "../../src/model/families/registry.js";
import { openModel } from "../../src/model/open-model.js";
import { createMemoryLogger } from "../../src/logging.js";
import { copyFixture, fixtures, readJson } from "../helpers/architectures.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { repositoryPath } from "../helpers/paths.js";

function configDirectory(t: TestContext, config: object | string): string {
  const directory = temporaryDirectory(t);
  writeFileSync(join(directory, "config.json"), typeof config === "string" ? config : JSON.stringify(config));
  return directory;
}

async function read(t: TestContext, config: object | string): Promise<ModelConfig> {
  return readModelConfig(configDirectory(t, config));
}

async function describe(t: TestContext, config: object | string): Promise<Architecture> {
  const complete = withDefaults(await read(t, config));
  const family = familyOf(complete.modelType);
  assert.ok(family);
  return family.describe(
    complete,
    () => false,
    () => undefined,
  );
}

const SMALL = {
  ...{ hidden_size: 8, intermediate_size: 16, num_hidden_layers: 1, num_attention_heads: 2 },
  ...{ num_key_value_heads: 1, vocab_size: 32 },
};

const windowsOf = ({ masks }: Architecture): string[] => [...masks.keys()];
const shapeOf = ({ blocks }: Architecture, role: string): readonly number[] | undefined =>
  blocks[0]?.tensors.get(role)?.shape;

test("Mistral without sliding_window has one of 4096, with null none", async (t) => {
  const config = { ...SMALL, model_type: "mistral" };
  assert.deepEqual(windowsOf(await describe(t, config)), ["window-4096"]);
  assert.deepEqual(windowsOf(await describe(t, { ...config, sliding_window: null })), []);
  assert.deepEqual(windowsOf(await describe(t, { ...config, sliding_window: 7 })), ["window-7"]);
});

test("a text_config that says little is that of its class, also where it leaves out its model_type", async (t) => {
  const text_config = { hidden_size: 2560, intermediate_size: 10240, num_hidden_layers: 1, sliding_window: 1024 };
  for (const inner of [text_config, { ...text_config, model_type: "gemma3_text" }]) {
    const gemma = await describe(t, { model_type: "gemma3", text_config: inner, vision_config: {} });
    assert.equal(gemma.vocabularySize, 262208);
    assert.deepEqual(shapeOf(gemma, "self_attn.q_proj.weight"), [8 * 256, 2560]);
    assert.deepEqual(shapeOf(gemma, "self_attn.k_proj.weight"), [4 * 256, 2560]);
  }
  // XGen-MM
  const phi = await describe(t, { model_type: "xgenmm", text_config: { model_type: "phi3", sliding_window: 2047 } });
  assert.deepEqual([phi.blocks.length, phi.hiddenSize, phi.vocabularySize], [32, 3072, 32064]);
  assert.deepEqual(windowsOf(phi), ["window-2047"]);
  const llava = await describe(t, { model_type: "llava", text_config: { vocab_size: 32064 } });
  assert.deepEqual([llava.family, llava.hiddenSize, llava.vocabularySize], ["llama", 4096, 32064]);
});

test("a Gemma 3n whose config says nothing is an E4B", async (t) => {
  const e4b = await describe(t, { model_type: "gemma3n", text_config: {}, audio_config: {} });
  const { blocks, state, sideTables, masks, isHeadTied, head } = e4b;
  assert.deepEqual([blocks.length, e4b.vocabularySize, isHeadTied, head.softcap], [35, 262400, true, 30]);
  assert.deepEqual(
    sideTables.map(({ tensor, rows, width }) => [tensor, rows, width]),
    [["model.embed_tokens_per_layer.weight", 262144, 35 * 256]],
  );
  assert.deepEqual([state.hidden, state.width], [4 * 2048, 4 * 2048 + 35 * 256 + 4 * 512]);
  assert.deepEqual([...masks], [["window-512", { window: 512 }]]);
  const withoutKeys = blocks.filter(({ tensors }) => !tensors.has("self_attn.k_proj.weight")).map(({ index }) => index);
  assert.deepEqual(
    withoutKeys,
    Array.from({ length: 15 }, (_, index) => 20 + index),
  );
  assert.equal(e4b.idleTensors.length, 3 * 15);
  const isSparse = ({ shapeKey }: BlockSpec): boolean => shapeKey.includes('\\"gateSparsity\\":0.95');
  assert.equal(blocks.filter(isSparse).length, 10);
  assert.ok(blocks.slice(0, 10).every(isSparse));
});

test("defaults of head widths, counts and rotary bases are each class's own", async (t) => {
  const { num_key_value_heads: _, ...sparse } = SMALL;
  const q = "self_attn.q_proj.weight";
  assert.deepEqual(shapeOf(await describe(t, { ...SMALL, model_type: "qwen3" }), q), [2 * 128, 8]);
  const k = "self_attn.k_proj.weight";
  const heads = { ...sparse, num_attention_heads: 64, hidden_size: 128 };
  assert.deepEqual(shapeOf(await describe(t, { ...heads, model_type: "qwen2" }), k), [32 * 2, 128]);
  assert.deepEqual(shapeOf(await describe(t, { ...heads, model_type: "llama" }), k), [64 * 2, 128]);
  assert.deepEqual(shapeOf(await describe(t, { ...heads, model_type: "mistral" }), k), [8 * 2, 128]);
  const secondOf = async (model_type: string): Promise<number | undefined> =>
    (await describe(t, { ...SMALL, model_type })).rotaryTables.get("default")?.at(8).inverseFrequencies[1];
  assert.equal(await secondOf("llama"), Math.fround(10000 ** -0.5));
  assert.equal(await secondOf("cohere"), Math.fround(1 / Math.fround(500000 ** 0.5)));
  assert.equal(await secondOf("mixtral"), Math.fround(1 / 1000));
});

test("a default does not come before another name of its key", async (t) => {
  const gpt2 = await read(t, { model_type: "gpt2", hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4 });
  assert.deepEqual(missingDefaults(gpt2), {
    tie_word_embeddings: true,
    vocab_size: 50257,
    n_positions: 1024,
    activation_function: "gelu_new",
    layer_norm_epsilon: 1e-5,
  });
  assert.deepEqual(
    shapeOf(await describe(t, { model_type: "gpt2", hidden_size: 64, n_layer: 1, n_head: 4 }), "attn.c_proj.weight"),
    [64, 64],
  );
});

test("families whose class is known can be described from their model_type alone", async (t) => {
  const isKnown = async (model_type: string): Promise<boolean> =>
    Object.keys(missingDefaults(await read(t, { model_type }))).length > 0;
  let described = 0;
  for (const modelType of FAMILIES.flatMap(modelTypesOf)) {
    if (Object.hasOwn(WRITTEN, modelType)) continue; // below
    if (modelType === "deepseek_v2" || !(await isKnown(modelType))) continue; // it leaves num_experts_per_tok to the file
    described++;
    const { blocks } = await describe(t, { model_type: modelType });
    assert.ok(blocks.length > 0, modelType);
  }
  assert.ok(described >= 27, `${described}`);
});

test("config.json as Python writes it, and what inspect --config says of it", async (t) => {
  const directory = temporaryDirectory(t);
  const { sliding_window: _, ...config } = { ...SMALL, model_type: "mistral", sliding_window: 1 };
  const text = JSON.stringify(config).replace("{", '\ufeff{"time_step_limit": [0.0, Infinity], "x": NaN, ');
  writeFileSync(join(directory, "config.json"), text);
  const report = await inspectConfig({ directory });
  assert.deepEqual([report.schema, report.modelType, report.family], ["prune.config/v1", "mistral", "mistral"]);
  assert.deepEqual(report.given["time_step_limit"], [0, Infinity]);
  assert.equal(report.defaults["sliding_window"], 4096);
  assert.equal(report.defaults["hidden_size"], undefined);
  const values = (await readModelConfig(directory)).values;
  assert.throws(() => values.number("x"), { code: "E_CONFIG", message: /"x" is "NaN"/ });
});

test("a model without a head that its config does not tie is told of", async (t) => {
  const messages = async (folder: string, changes: object): Promise<string> => {
    const fixture = fixtures().find((candidate) => candidate.folder === folder);
    assert.ok(fixture);
    const directory = await copyFixture(t, fixture, "config.json");
    const { text } = await readModelConfig(directory);
    writeFileSync(join(directory, "config.json"), JSON.stringify({ ...(JSON.parse(text) as object), ...changes }));
    const logger = createMemoryLogger();
    await using _model = await openModel(directory, { logger });
    return logger.lines.map(({ message }) => message).join();
  };
  assert.match(await messages("gemma", { tie_word_embeddings: false }), /there is no head \(lm_head\)/);
  assert.doesNotMatch(await messages("gemma", {}), /there is no head/);
  assert.doesNotMatch(await messages("llama", {}), /there is no head/);
});

type Json = Readonly<Record<string, unknown>>;

/** By `model_type`, all keys of the library's configuration class but those that decide nothing, with four layers. */
const WRITTEN = readJson<Readonly<Record<string, Json>>>(repositoryPath("test/fixtures/class-defaults.json"));

/** What an architecture computes, as far as it is data; rotary positions within and beyond any first context. */
function dataOf(architecture: Architecture): object {
  const { blocks, head, masks, rotaryTables, prologue, ...others } = architecture;
  const tables = [...rotaryTables].map(([name, table]) => [name, table.dimensions, table.at(16), table.at(1e6)]);
  const { build: _head, tensors, ...ends } = head;
  const described = blocks.map(({ build: _block, ...block }) => ({ ...block, tensors: [...block.tensors] }));
  return {
    ...others,
    ends: { ...ends, tensors: [...tensors] },
    prologue: prologue && [...prologue.tensors],
    masks: [...masks],
    tables,
    described,
  };
}

for (const [modelType, written] of Object.entries(WRITTEN)) {
  test(`${modelType}: left-out keys are those of the library's class`, async (t) => {
    const layers = ["num_hidden_layers", "n_layer", "n_layers"].find((key) => key in written) ?? "";
    const silent: Json = {
      ...{ model_type: modelType, [layers]: 4 },
      // no mixture of these can be read without
      ...(modelType === "dots1" ? { n_routed_experts: 8, num_experts_per_tok: 2 } : {}),
      // its hidden size cannot be split over its heads
      ...(modelType === "glm4_moe" ? { head_dim: 128 } : {}),
    };
    const { defaults } = await inspectConfig({ directory: configDirectory(t, silent) });
    assert.ok(Object.keys(defaults).length > 5);
    for (const [key, value] of Object.entries(defaults))
      if (key in written && typeof value !== "object" && key !== "moe_layer_end_index")
        assert.deepEqual(value, written[key], key);
    assert.deepEqual(dataOf(await describe(t, silent)), dataOf(await describe(t, { ...written, ...silent })));
  });
}

test("a key of another name, and null where the default is a set of keys", async (t) => {
  const lfm2 = { ...SMALL, model_type: "lfm2", block_ff_dim: 96, tie_embedding: false, theta: 100 };
  const described = await describe(t, { ...lfm2, block_auto_adjust_ff_dim: false });
  assert.deepEqual(shapeOf(described, "feed_forward.w1.weight"), [96, 8]);
  assert.equal(described.rotaryTables.get("default")?.at(8).inverseFrequencies[1], Math.fround(1 / 10));
  const secondOf = async (config: Json): Promise<number | undefined> =>
    (await describe(t, { ...SMALL, ...config })).rotaryTables.get("default")?.at(8).inverseFrequencies[1];
  const apertus = await secondOf({ model_type: "apertus" });
  assert.equal(await secondOf({ model_type: "apertus", rope_scaling: null }), apertus);
  assert.notEqual(await secondOf({ model_type: "apertus", rope_parameters: { rope_theta: 10000 } }), apertus);
  const linear = { rope_scaling: { rope_type: "linear", factor: 4 }, rope_theta: 10000 };
  assert.notEqual(await secondOf({ model_type: "apertus", ...linear }), apertus);
});

test("with --family a class that nobody knows has the defaults of the family's", async (t) => {
  const config = await read(t, { ...SMALL, model_type: "unheard_of" });
  assert.deepEqual(missingDefaults(config), {});
  assert.equal(missingDefaults(config, familyOf("ernie4_5"))["rope_theta"], 500000);
  assert.equal(missingDefaults(await read(t, { model_type: "llama" }), familyOf("ernie4_5"))["rope_theta"], undefined);
});
