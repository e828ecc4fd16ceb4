/**
 * Checkpoints whose tensors go by other names than their family's canonical ones, multimodal checkpoints, unknown
 * model types, and configs that contradict the tensors.
 */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import type { RunConfig } from "../../src/contract.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { CheckpointError, PruneError, UsageError } from "../../src/errors.js";
import { prunableLinears } from "../../src/model/architecture.js";
import { openModel } from "../../src/model/open-model.js";
import { inspectModel } from "../../src/inspection/inspect-model.js";
import { fixturePath, readJson } from "../helpers/architectures.js";
import { encodeSafetensors, temporaryDirectory, writeCheckpoint, type TestTensor } from "../helpers/checkpoints.js";
import { createTestContext } from "../helpers/engine.js";
import { demoRun } from "../helpers/runs.js";
import { readTensors, tensorOf, type StoredTensor } from "../helpers/tensors.js";

const LLAMA_FILES = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
const SINGLE = ["model.safetensors"];

type Config = Record<string, unknown>;

interface Variant {
  readonly folder: string;
  readonly files?: readonly string[];
  readonly rename?: (name: string) => string;
  readonly config?: (config: Config) => Config;
  readonly extra?: Readonly<Record<string, TestTensor>>;
  readonly without?: readonly string[];
}

function storedTensors(folder: string, files: readonly string[] = SINGLE): Map<string, StoredTensor> {
  return new Map(files.flatMap((file) => [...readTensors(fixturePath(folder, file))]));
}

/** A fixture under other names, with another config, with more or fewer tensors; in one file. */
async function writeVariant(t: TestContext, variant: Variant): Promise<string> {
  const { folder, files, rename = (name) => name, config = (same) => same, extra = {}, without = [] } = variant;
  const directory = join(temporaryDirectory(t), "model");
  const tensors: Record<string, TestTensor> = {};
  for (const [name, { shape, values }] of storedTensors(folder, files)) {
    if (!without.includes(name)) tensors[rename(name)] = { dtype: "F32", shape, values: Float32Array.from(values) };
  }
  await writeCheckpoint(directory, {
    tensors: { ...tensors, ...extra },
    config: config(readJson<Config>(fixturePath(folder, "config.json"))),
  });
  return directory;
}

const CALIBRATION_IDS = Int32Array.from({ length: 4 * 16 }, (_, i) => (i * 37) % 97);

async function prune(t: TestContext, model: string, config: Partial<RunConfig> = {}) {
  const file = join(temporaryDirectory(t), "ids.safetensors");
  const ids = new Uint8Array(CALIBRATION_IDS.buffer);
  writeFileSync(file, encodeSafetensors({ ids: { dtype: "I32", shape: [4, 16], values: ids } }));
  const out = join(temporaryDirectory(t), "out");
  const context = createTestContext();
  const lines: string[] = [];
  const logger = { ...context.logger, info: (message: string) => void lines.push(message) };
  const run = demoRun(out, { model, calibration: { file }, nsamples: 4, seqlen: 16, ...config });
  const report = await pruneModel(run, { ...context, logger });
  return { report, out, tensors: readTensors(join(out, "model.safetensors")), lines };
}

/** Remove the canonical base, put another in its place, and move what lies beside it. */
function rebase(base: string, stored: string, beside = ""): (name: string) => string {
  return (name) => (name.startsWith(base) ? stored + name.slice(base.length) : beside + name);
}

const VISION: Readonly<Record<string, TestTensor>> = {
  "vision_tower.patch.weight": { dtype: "U8", shape: [96], values: new Uint8Array(96).map((_, i) => i) },
  // Named like a decoder's own, but of other sizes.
  "vision_tower.layers.0.self_attn.q_proj.weight": {
    dtype: "F32",
    shape: [6, 6],
    values: new Float32Array(36).fill(2),
  },
  "vision_tower.layers.0.input_layernorm.weight": { dtype: "F32", shape: [6], values: new Float32Array(6).fill(1) },
};

function asMultimodal(wrapper: string): (config: Config) => Config {
  return (config) => ({ model_type: wrapper, vision_config: { hidden_size: 6 }, text_config: config });
}

const RENAMED: readonly (Variant & {
  readonly title: string;
  readonly canonical: (stored: string) => string;
  readonly further?: number;
})[] = [
  {
    title: "llama without its base prefix",
    folder: "llama",
    files: LLAMA_FILES,
    rename: rebase("model.", ""),
    canonical: (stored) => (stored === "lm_head.weight" ? stored : `model.${stored}`),
  },
  {
    title: "gpt2 with a base prefix",
    folder: "gpt2",
    rename: (name) => `transformer.${name}`,
    canonical: (stored) => stored.slice("transformer.".length),
  },
  {
    title: "llama as model.language_model, the head where it was",
    folder: "llama",
    files: LLAMA_FILES,
    rename: rebase("model.", "model.language_model."),
    config: asMultimodal("llava"),
    extra: VISION,
    canonical: (stored) => stored.replace("model.language_model.", "model."),
  },
  {
    title: "ministral3 as language_model.model, the head beside it",
    folder: "ministral3",
    rename: rebase("model.", "language_model.model.", "language_model."),
    config: asMultimodal("mistral3"),
    extra: VISION,
    canonical: (stored) => stored.replace("language_model.", ""),
  },
  {
    title: "gemma3n as model.language_model of a multimodal checkpoint, tied",
    folder: "gemma3n_text",
    rename: rebase("model.", "model.language_model."),
    config: asMultimodal("gemma3n"),
    extra: VISION,
    canonical: (stored) => stored.replace("model.language_model.", "model."),
  },
  {
    title: "llama4_text as language_model.model, the head beside it",
    folder: "llama4_text",
    rename: rebase("model.", "language_model.model.", "language_model."),
    config: asMultimodal("llama4"),
    extra: VISION,
    canonical: (stored) => stored.replace("language_model.", ""),
  },
  {
    title: "qwen3_5_moe_text as model.language_model, layers of further tokens beside it",
    folder: "qwen3_5_moe_text",
    rename: rebase("model.", "model.language_model."),
    config: asMultimodal("qwen3_5_moe"),
    extra: { ...VISION, "mtp.layers.0.self_attn.q_proj.weight": floats([4, 4]), "mtp.norm.weight": floats([4]) },
    further: 2,
    canonical: (stored) => stored.replace("model.language_model.", "model."),
  },
  {
    title: "cohere2 inside a multimodal checkpoint, tied",
    folder: "cohere2",
    rename: rebase("model.", "model.language_model."),
    config: asMultimodal("cohere2_vision"),
    extra: VISION,
    canonical: (stored) => stored.replace("model.language_model.", "model."),
  },
  {
    title: "gemma3 inside a multimodal checkpoint, tied",
    folder: "gemma3_text",
    rename: rebase("model.", "language_model.model."),
    config: asMultimodal("gemma3"),
    extra: VISION,
    canonical: (stored) => stored.replace("language_model.", ""),
  },
];

for (const { title, canonical, further = 0, ...variant } of RENAMED) {
  test(`${title}: pruned to the very values of the plain checkpoint, all else untouched`, async (t) => {
    const plain = await prune(
      t,
      await writeVariant(t, { folder: variant.folder, ...(variant.files ? { files: variant.files } : {}) }),
    );
    const renamed = await prune(t, await writeVariant(t, variant));
    const { rename = (name: string) => name } = variant;
    assert.deepEqual(
      renamed.report.layers.map(({ name, zeros }) => [name, zeros]),
      plain.report.layers.map(({ name, zeros }) => [rename(`${name}.x`).slice(0, -".x".length), zeros]),
    );
    for (const [name, { values }] of renamed.tensors) {
      const extra = variant.extra?.[name];
      if (extra === undefined) assert.deepEqual(values, tensorOf(plain.tensors, canonical(name)).values, name);
    }
    for (const [name, { values }] of Object.entries(variant.extra ?? {}))
      assert.deepEqual(tensorOf(renamed.tensors, name).values, Float64Array.from(values), name);
    const told = renamed.lines.filter((line) => line.includes("passed through untouched"));
    assert.equal(told.length, (variant.extra === undefined ? 0 : 1) + (further === 0 ? 0 : 1));
    if (variant.extra !== undefined) assert.match(told.at(-1) ?? "", /only the language model is read; 3 tensors/);
    if (further !== 0) assert.match(told[0] ?? "", /2 tensors of layers that predict further tokens .* stay dense/);
  });
}

test("the vision part of a multimodal checkpoint survives to the bit, and is not counted as prunable", async (t) => {
  const directory = await writeVariant(t, {
    folder: "llama",
    files: LLAMA_FILES,
    rename: rebase("model.", "model.language_model."),
    config: asMultimodal("llava"),
    extra: {
      ...VISION,
      // Bytes that are no finite number: nothing may have read them as values.
      "vision_tower.patch.weight": { dtype: "F32", shape: [4], values: new Uint8Array(16).fill(0xff) },
    },
  });
  const { out, tensors } = await prune(t, directory);
  await using pruned = await openCheckpoint(out);
  assert.deepEqual(await pruned.readBytes("vision_tower.patch.weight"), new Uint8Array(16).fill(0xff));
  assert.ok(tensorOf(tensors, "vision_tower.layers.0.self_attn.q_proj.weight").values.every((value) => value === 2));
  const inspected = await inspectModel({ directory });
  const prunable = inspected.tensors.filter((tensor) => tensor.prunable).map(({ name }) => name);
  assert.equal(prunable.length, 7 * 3);
  assert.ok(prunable.every((name) => name.startsWith("model.language_model.layers.")));
});

test("a qwen2.5-vl config, with its keys at the top or in text_config, is read as qwen2", async (t) => {
  const scaling = { rope_scaling: { type: "mrope", mrope_section: [2, 3, 3] } };
  const flat = await writeVariant(t, {
    folder: "qwen2_yarn",
    config: (config) => ({ ...config, ...scaling, model_type: "qwen2_5_vl", vision_config: {} }),
  });
  const nested = await writeVariant(t, {
    folder: "qwen2_yarn",
    rename: rebase("model.", "model.language_model."),
    config: (config) => asMultimodal("qwen2_5_vl")({ ...config, ...scaling, model_type: "qwen2_5_vl_text" }),
  });
  for (const directory of [flat, nested]) {
    await using model = await openModel(directory);
    assert.equal(model.architecture.family, "qwen2");
    assert.equal(model.config.wrapper, "qwen2_5_vl");
  }
});

async function failureOf(attempt: Promise<unknown>): Promise<PruneError> {
  try {
    await attempt;
  } catch (error) {
    if (error instanceof PruneError) return error;
    throw error;
  }
  assert.fail("nothing was refused");
}

const UNKNOWN: readonly { readonly folder: string; readonly files?: readonly string[]; readonly like: string }[] = [
  { folder: "llama", files: LLAMA_FILES, like: "llama" },
  { folder: "llama_bias", like: "llama" },
  { folder: "qwen3", like: "qwen3" },
  { folder: "gpt2", like: "gpt2" },
  { folder: "qwen3_moe", like: "qwen3_moe" },
  { folder: "deepseek_v2", like: "deepseek_v2" },
  { folder: "glm4_moe", like: "glm4_moe" }, // dots1 has the same tensors and knows of no partial rotation
];

for (const { folder, files, like } of UNKNOWN) {
  test(`${folder} under an unknown model_type is offered to be read as ${like}, and then is`, async (t) => {
    const directory = await writeVariant(t, {
      folder,
      ...(files ? { files } : {}),
      config: (config) => ({ ...config, model_type: "brandnew" }),
    });
    const error = await failureOf(openModel(directory));
    assert.ok(error instanceof CheckpointError);
    assert.equal(error.code, "E_ARCHITECTURE");
    assert.match(error.message, /model_type "brandnew" is not supported/);
    assert.ok(error.hint?.startsWith(`looks like ${like}: pass --family ${like}`), error.hint);
    await using plain = await openModel(fixturePath(folder));
    await using named = await openModel(directory, { family: like });
    assert.deepEqual(prunableLinears(named.architecture), prunableLinears(plain.architecture));
  });
}

test("a checkpoint that no family accounts for is not offered any", async (t) => {
  const directory = await writeVariant(t, {
    folder: "llama",
    files: LLAMA_FILES,
    config: (config) => ({ ...config, model_type: "brandnew" }),
    extra: { "model.layers.1.self_attn.sinks.weight": { dtype: "F32", shape: [6], values: new Float32Array(6) } },
  });
  const error = await failureOf(openModel(directory));
  assert.equal(error.code, "E_ARCHITECTURE");
  assert.deepEqual(error.details["alike"], []);
  assert.match(error.hint ?? "", /`prune families`/);
});

test("an unknown family is refused with the nearest name", async () => {
  const error = await failureOf(openModel(fixturePath("llama"), { family: "lama" }));
  assert.ok(error instanceof UsageError);
  assert.equal(error.code, "E_FAMILY");
  assert.match(error.message, /^--family: "lama" is not a family; known families are llama, /);
  assert.equal(error.hint, 'Did you mean "llama"?');
});

interface Contradiction extends Variant {
  readonly title: string;
  /** What the message must name: the tensor, and both values. */
  readonly names: readonly RegExp[];
}

function floats(shape: readonly number[]): TestTensor {
  return { dtype: "F32", shape, values: new Float32Array(shape.reduce((product, size) => product * size, 1)) };
}

const CONTRADICTIONS: readonly Contradiction[] = [
  {
    title: "fewer key/value heads than the tensors have",
    folder: "llama",
    files: LLAMA_FILES,
    config: (config) => ({ ...config, num_key_value_heads: 1 }),
    names: [/layers\.0\.self_attn\.k_proj\.weight/, /is \[16, 48\]; config\.json says \[8, 48\]/],
  },
  {
    title: "other attention heads than the tensors have",
    folder: "llama_bias",
    config: (config) => ({ ...config, num_attention_heads: 8 }),
    names: [/layers\.0\.self_attn\.q_proj\.weight/, /is \[80, 48\]; config\.json says \[160, 48\]/],
  },
  {
    title: "heads that cannot share key/value heads",
    folder: "llama",
    files: LLAMA_FILES,
    config: (config) => ({ ...config, num_key_value_heads: 4 }),
    names: [/6 attention heads cannot be shared by 4 key\/value heads/],
  },
  {
    title: "biases that the config denies",
    folder: "llama_bias",
    config: (config) => ({ ...config, attention_bias: false }),
    names: [/self_attn\.q_proj\.bias .*is \[80\]; config\.json says there is none/],
  },
  {
    title: "a bias in one layer only",
    folder: "llama",
    files: LLAMA_FILES,
    extra: { "model.layers.1.mlp.up_proj.bias": floats([88]) },
    names: [/layers\.1\.mlp\.up_proj\.bias .*is \[88\]; config\.json says there is none/],
  },
  {
    title: "a bias of the head",
    folder: "llama",
    files: LLAMA_FILES,
    extra: { "lm_head.bias": floats([160]) },
    names: [/lm_head\.bias in model\.safetensors is \[160\]; config\.json says there is none/],
  },
  {
    title: "biases that the tensors lack",
    folder: "llama",
    files: LLAMA_FILES,
    config: (config) => ({ ...config, attention_bias: true }),
    names: [/layers\.0\.self_attn\.q_proj\.bias is missing; config\.json says \[48\]/],
  },
  {
    title: "fewer experts than the tensors have",
    folder: "qwen3_moe",
    config: (config) => ({ ...config, num_experts: 4 }),
    names: [
      /mlp\.gate\.weight .* is \[8, 40\]; config\.json says \[4, 40\]/,
      /experts\.4\.\w+\.weight .*says there is none/,
    ],
  },
  {
    title: "more experts than the tensors have",
    folder: "mixtral",
    files: LLAMA_FILES,
    config: (config) => ({ ...config, num_local_experts: 6 }),
    names: [/gate\.weight .* is \[4, 40\]; config\.json says \[6, 40\]/, /experts\.5\.w1\.weight is missing/],
  },
  {
    title: "fewer blocks than the tensors have",
    folder: "llama",
    files: LLAMA_FILES,
    config: (config) => ({ ...config, num_hidden_layers: 2 }),
    names: [/model\.layers\.2\.\S+ in model\.safetensors is \[.*\]; config\.json says there is none/],
  },
  {
    title: "norms that the family does not have",
    folder: "qwen3",
    config: (config) => ({ ...config, model_type: "llama" }),
    names: [/self_attn\.q_norm\.weight .* is \[16\]; config\.json says there is none/],
  },
  {
    title: "a correction of a router's scores that the family does not have",
    folder: "olmoe",
    extra: { "model.layers.0.mlp.gate.e_score_correction_bias": floats([8]) },
    names: [/e_score_correction_bias .* is \[8\]; config\.json says there is none/],
  },
  {
    title: "another vocabulary than the embedding has",
    folder: "llama",
    files: LLAMA_FILES,
    config: (config) => ({ ...config, vocab_size: 99 }),
    names: [/model\.embed_tokens\.weight .* config\.json says \[99, 48\]/],
  },
];

for (const { title, names, ...variant } of CONTRADICTIONS) {
  test(`${title}: refused, with both values named`, async (t) => {
    const error = await failureOf(openModel(await writeVariant(t, variant)));
    assert.ok(error instanceof CheckpointError, String(error));
    for (const name of names) assert.match(error.message, name);
  });
}

test("layers that predict further tokens may follow the decoder's own", async (t) => {
  const directory = await writeVariant(t, {
    folder: "llama",
    files: LLAMA_FILES,
    config: (config) => ({ ...config, num_nextn_predict_layers: 1 }),
    extra: { "model.layers.3.input_layernorm.weight": floats([48]) },
  });
  await using model = await openModel(directory);
  assert.equal(model.architecture.blocks.length, 3);
  assert.deepEqual((await inspectModel({ directory })).further, ["model.layers.3.input_layernorm.weight"]);
});
