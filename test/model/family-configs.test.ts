/** What families make of config.json: contradictions are refused by key and value, and equal blocks share a graph. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { buildBlockGraph } from "../../src/forward/block-graph.js";
import { lookUp } from "../../src/look-up.js";
import type { Architecture, BlockSpec } from "../../src/model/architecture.js";
import { withDefaults } from "../../src/model/class-defaults.js";
import { ConfigObject } from "../../src/model/config.js";
import { alibiSlopes } from "../../src/model/families/bloom.js";
import { FAMILIES, familyOf } from "../../src/model/families/registry.js";
import { openModel } from "../../src/model/open-model.js";
import { copyFixture, fixturePath, fixtures, readJson } from "../helpers/architectures.js";
import { blockFeeds } from "../helpers/block-feeds.js";
import { relativeError } from "../helpers/tensors.js";
import { interpret, type Tensor } from "../reference/graph-interpreter.js";

type Json = Record<string, unknown>;

function configOf(folder: string, changes: Json): Json {
  return { ...readJson<Json>(fixturePath(folder, "config.json")), ...changes };
}

/** The architecture of a fixture's config with some keys changed, whatever its tensors are. */
function describe(folder: string, changes: Json, hasTensor: (name: string) => boolean = () => true): Architecture {
  const config = configOf(folder, changes);
  const modelType = String(config["model_type"]);
  const family = familyOf(modelType);
  assert.ok(family, modelType);
  const values = new ConfigObject(config, "config.json");
  return family.describe(withDefaults({ values, modelType, text: "" }), hasTensor, () => undefined);
}

async function openChanged(t: TestContext, folder: string, changes: Json): Promise<void> {
  const fixture = fixtures().find((each) => each.folder === folder);
  assert.ok(fixture, folder);
  const directory = await copyFixture(t, fixture, "config.json");
  writeFileSync(join(directory, "config.json"), JSON.stringify(configOf(folder, changes)));
  await using model = await openModel(directory);
  assert.fail(`opened as ${model.architecture.family}`);
}

const REFUSED: readonly (readonly [folder: string, changes: Json, message: RegExp])[] = [
  ["llama", { num_key_value_heads: 4 }, /6 attention heads cannot be shared by 4 key\/value heads/],
  ["mistral", { hidden_size: 50 }, /hidden size of 50 cannot be split over 4 attention heads/],
  ["llama", { hidden_act: "xielu" }, /"hidden_act" is "xielu"; expected one of silu, /],
  ["dots1", { n_routed_experts: undefined }, /"n_routed_experts" is nothing; expected a positive whole number/],
  ["qwen3", { layer_types: ["full_attention"] }, /"layer_types" is \["full_attention"\]; expected 3 times/],
  ["qwen3", { layer_types: ["linear", "linear", "linear"] }, /"layer_types" is .*linear.*; expected 3 times/],
  ["smollm3", { no_rope_layers: [1, 0] }, /"no_rope_layers" is \[1,0\]; expected a list of 3/],
  ["phi", { qk_layernorm: true }, /"qk_layernorm" is true; expected false/],
  ["opt", { layer_norm_elementwise_affine: false }, /"layer_norm_elementwise_affine" is false; expected true/],
  ["bloom", { apply_residual_connection_post_layernorm: true }, /post_layernorm" is true; expected false/],
  ["falcon_7b_style", { alibi: true }, /"alibi" is true; expected false/],
  ["gemma3n_text", { altup_active_idx: 3 }, /"altup_active_idx" is 3; expected one of 3 streams/],
  ["gemma3n_text", { altup_num_inputs: 1 }, /"altup_num_inputs" is 1; expected 2 or more/],
  ["gemma3n_text", { num_kv_shared_layers: 4 }, /"num_kv_shared_layers" is 4; expected a whole number from 0 to 3/],
  ["gemma3n_text", { num_kv_shared_layers: 3 }, /"num_kv_shared_layers" is 3; .* a layer of "full_attention" keeps/],
  ["gemma3n_text", { intermediate_size: [40] }, /"intermediate_size" is \[40\]; expected 4 numbers/],
  ["gemma3n_text", { activation_sparsity_pattern: [0, 0, 0, 1] }, /expected shares from 0 to less than 1/],
  ["falcon_new_decoder", { num_kv_heads: 4 }, /"num_kv_heads" is 4; expected a divisor of the 6 attention heads/],
];

for (const [folder, changes, message] of REFUSED) {
  test(`${folder} with ${JSON.stringify(changes)} is refused with key and value`, () => {
    assert.throws(() => describe(folder, changes), { code: "E_CONFIG", message });
  });
}

const CONTRADICTED: readonly (readonly [folder: string, changes: Json, message: RegExp])[] = [
  [
    "llama",
    { num_key_value_heads: 3 },
    /layers\.0\.self_attn\.k_proj\.weight in .* is \[16, 48\]; config\.json says \[24, 48\]/,
  ],
  ["gpt2", { n_inner: 96 }, /h\.0\.mlp\.c_fc\.weight in .* is \[48, 192\]; config\.json says \[48, 96\]/],
  ["llama", { attention_bias: true }, /self_attn\.q_proj\.bias is missing/],
  ["llama_bias", { mlp_bias: false }, /mlp\.gate_proj\.bias in .* is \[88\]; config\.json says there is none/],
];

for (const [folder, changes, message] of CONTRADICTED) {
  test(`${folder} with ${JSON.stringify(changes)} contradicts its tensors, and both sides are named`, async (t) => {
    await assert.rejects(openChanged(t, folder, changes), { code: "E_TENSORS", message });
  });
}

test("a head is tied by the config's word, else by the family's default, and always where the file has none", () => {
  const isTied = (folder: string, changes: Json, hasHead: boolean): boolean =>
    describe(folder, changes, (name) => hasHead || !/^(lm_head|embed_out)/.test(name)).isHeadTied;
  assert.equal(isTied("llama", { tie_word_embeddings: undefined }, true), false);
  assert.equal(isTied("llama", { tie_word_embeddings: undefined }, false), true);
  assert.equal(isTied("llama", { tie_word_embeddings: false }, false), true);
  assert.equal(isTied("llama", { tie_word_embeddings: true }, true), true);
  for (const folder of [
    "gemma",
    "gemma2",
    "gemma3_text",
    "opt",
    "gpt2",
    "bloom",
    "falcon_7b_style",
    "cohere",
    "smollm3",
  ]) {
    assert.equal(isTied(folder, { tie_word_embeddings: undefined }, true), true, folder);
    assert.equal(isTied(folder, { tie_word_embeddings: false }, true), false, folder);
  }
});

test("sixty-one blocks of two kinds need two graphs, and blocks of one kind one", () => {
  const shapesOf = (folder: string, changes: Json): number =>
    new Set(describe(folder, changes).blocks.map((block) => block.shapeKey)).size;
  assert.equal(shapesOf("gemma2", { num_hidden_layers: 61 }), 2);
  assert.equal(shapesOf("gemma3_text", { num_hidden_layers: 61 }), 2);
  assert.equal(shapesOf("smollm3", { num_hidden_layers: 61, no_rope_layers: null, layer_types: null }), 2);
  assert.equal(shapesOf("llama", { num_hidden_layers: 61 }), 1);
  // Of either window: blocks that keep their keys, the one that leaves them to others, and those that take them.
  const deep = { num_hidden_layers: 61, layer_types: null, num_kv_shared_layers: 20 };
  const alike = { intermediate_size: 40, activation_sparsity_pattern: Array(61).fill(0) };
  assert.equal(shapesOf("gemma3n_text", { ...deep, ...alike }), 6);
});

test("windows follow layer_types, or the family's own rule where the config has none", () => {
  const windowed = (folder: string, changes: Json): boolean[] =>
    describe(folder, changes).blocks.map((block) => block.shapeKey.includes("window-"));
  assert.deepEqual(windowed("gemma2", {}), [true, false, true, false]);
  assert.deepEqual(windowed("gemma2", { layer_types: Array(4).fill("full_attention") }), Array(4).fill(false));
  assert.deepEqual(windowed("qwen3", { layer_types: undefined, max_window_layers: 2 }), [false, false, true]);
  assert.deepEqual(windowed("qwen3", { use_sliding_window: false }), [false, false, false]);
  assert.deepEqual(windowed("mistral", { sliding_window: null }), [false, false, false]);
  const six = { num_hidden_layers: 7, sliding_window_pattern: undefined };
  assert.deepEqual(windowed("gemma3_text", six), [true, true, true, true, true, false, true]);
});

test("a Gemma file that only has hidden_act gets the tanh form of GELU, whatever variant of it is named", () => {
  const [old] = describe("gemma", { hidden_activation: undefined, hidden_act: "gelu" }).blocks;
  assert.equal(old?.shapeKey, describe("gemma", {}).blocks[0]?.shapeKey);
  const [exact] = describe("gemma", { hidden_activation: "gelu" }).blocks;
  assert.notEqual(exact?.shapeKey, old?.shapeKey);
});

/** Outputs of q, k, v in the fused tensor of the first block that has it as [first, count], from the layouts' definitions. */
const FUSED: readonly (readonly [
  folder: string,
  path: string,
  parts: Readonly<Record<string, readonly number[][]>>,
])[] = [
  ["gpt2", "attn.c_attn", { q: [[0, 48]], k: [[48, 48]], v: [[96, 48]] }],
  ["phi3", "self_attn.qkv_proj", { q: [[0, 48]], k: [[48, 16]], v: [[64, 16]] }],
  ["phi3", "mlp.gate_up_proj", { gate: [[0, 88]], up: [[88, 88]] }],
  [
    "gpt_neox", // 3 heads of 16: per head 16 rows each of q, k, v
    "attention.query_key_value",
    {
      q: [
        [0, 16],
        [48, 16],
        [96, 16],
      ],
      k: [
        [16, 16],
        [64, 16],
        [112, 16],
      ],
      v: [
        [32, 16],
        [80, 16],
        [128, 16],
      ],
    },
  ],
  [
    "bloom", // 6 heads of 8
    "self_attention.query_key_value",
    {
      q: [0, 24, 48, 72, 96, 120].map((first) => [first, 8]),
      k: [8, 32, 56, 80, 104, 128].map((first) => [first, 8]),
      v: [16, 40, 64, 88, 112, 136].map((first) => [first, 8]),
    },
  ],
  ["falcon_7b_style", "self_attention.query_key_value", { q: [[0, 48]], k: [[48, 8]], v: [[56, 8]] }],
  [
    "falcon_new_decoder", // 2 key/value heads, each with 3 query heads of 8
    "self_attention.query_key_value",
    {
      q: [
        [0, 24],
        [40, 24],
      ],
      k: [
        [24, 8],
        [64, 8],
      ],
      v: [
        [32, 8],
        [72, 8],
      ],
    },
  ],
  [
    "qwen3_next", // 4 heads of 16: per head 16 rows of queries and 16 of gates
    "self_attn.q_proj",
    {
      q: [0, 32, 64, 96].map((first) => [first, 16]),
      gate: [16, 48, 80, 112].map((first) => [first, 16]),
    },
  ],
  [
    "qwen3_next", // 2 key heads of 16, each for 2 value heads of 16
    "linear_attn.in_proj_qkvz",
    {
      q: [0, 96].map((first) => [first, 16]),
      k: [16, 112].map((first) => [first, 16]),
      v: [32, 128].map((first) => [first, 32]),
      z: [64, 160].map((first) => [first, 32]),
    },
  ],
  [
    "qwen3_next",
    "linear_attn.in_proj_ba",
    { b: [0, 4].map((first) => [first, 2]), a: [2, 6].map((first) => [first, 2]) },
  ],
  ["qwen3_5_text", "linear_attn.in_proj_qkv", { q: [[0, 32]], k: [[32, 32]], v: [[64, 64]] }],
  [
    "minimax", // 4 heads of 16: per head 16 rows each of q, k, v
    "self_attn.qkv_proj",
    {
      q: [0, 48, 96, 144].map((first) => [first, 16]),
      k: [16, 64, 112, 160].map((first) => [first, 16]),
      v: [32, 80, 128, 176].map((first) => [first, 16]),
    },
  ],
  ["lfm2", "conv.in_proj", { before: [[0, 64]], after: [[64, 64]], states: [[128, 64]] }],
];

for (const [folder, path, parts] of FUSED) {
  test(`${folder}: ${path} is pruned as ${Object.keys(parts).join(", ")}, each its own rows`, () => {
    const block = describe(folder, {}).blocks.find(({ tensors }) => tensors.has(`${path}.weight`));
    const linears =
      block?.groups.flatMap((group) => group.linears).filter(({ role }) => role === `${path}.weight`) ?? [];
    const found = linears.map(({ name, outputs = [] }) => [name, outputs.map(({ first, count }) => [first, count])]);
    assert.deepEqual(
      found,
      Object.entries(parts).map(([part, ranges]) => [`${block?.name}.${path}.${part}`, ranges]),
    );
  });
}

test("gpt_oss: gate and up of an expert are every second output, gate first", () => {
  const linears = describe("gpt_oss", {}).blocks[0]?.groups.flatMap((group) => group.linears) ?? [];
  const rangesOf = (name: string): unknown => linears.find((linear) => linear.name.endsWith(name))?.outputs;
  assert.deepEqual(rangesOf("experts.3.gate"), [{ first: 0, count: 96, step: 2 }]);
  assert.deepEqual(rangesOf("experts.3.up"), [{ first: 1, count: 96, step: 2 }]);
});

test("minimax: what a branch returns is multiplied by its beta, and what it is added to by its alpha", async () => {
  await using model = await openModel(fixturePath("minimax"));
  const [attending] = model.architecture.blocks as [BlockSpec];
  const feeds = await blockFeeds(model, attending);
  const outputOf = (changes: Json, fed = feeds): Float64Array => {
    const architecture = describe("minimax", changes);
    const graph = buildBlockGraph(architecture, architecture.blocks[0] as BlockSpec, { hidden: true, taps: undefined });
    return lookUp(interpret(graph, fed), "output").values;
  };
  const times = (role: string, factor: number): [string, Tensor] => {
    const { shape, values } = lookUp(feeds, role);
    return [role, { shape, values: values.map((value) => value * factor) }];
  };
  const downs = [...feeds.keys()].filter((role) => role.endsWith(".w2.weight"));
  const scaled = new Map([...feeds, times("self_attn.o_proj.weight", 0.5), ...downs.map((role) => times(role, 3))]);
  const betas = { full_attn_beta_factor: 0.5, mlp_beta_factor: 3 };
  assert.ok(relativeError(outputOf(betas), outputOf({}, scaled)) < 1e-12);

  const silent = { full_attn_beta_factor: 0, mlp_beta_factor: 0, full_attn_alpha_factor: 0.25, mlp_alpha_factor: 2 };
  const normed = (x: Float64Array, role: string): Float64Array => {
    const width = model.architecture.hiddenSize;
    const gain = lookUp(feeds, role).values;
    return x.map((value, i) => {
      const row = x.subarray(i - (i % width), i - (i % width) + width);
      const meanSquare = row.reduce((sum, each) => sum + each * each, 0) / width;
      return (value / Math.sqrt(meanSquare + 1e-3)) * (gain[i % width] as number);
    });
  };
  const first = normed(lookUp(feeds, "hidden").values, "input_layernorm.weight").map((value) => value / 4);
  const expected = normed(first, "post_attention_layernorm.weight").map((value) => 2 * value);
  assert.ok(relativeError(outputOf(silent), expected) < 1e-6);
});

function outputOf(folder: string, index: number, changes: Json, feeds: ReadonlyMap<string, Tensor>): Tensor {
  const architecture = describe(folder, changes);
  const block = architecture.blocks[index] as BlockSpec;
  return lookUp(interpret(buildBlockGraph(architecture, block, { hidden: true, taps: undefined }), feeds), "output");
}

/** Every row of the block's output is as with still queries that are `factorAt` its position as large. */
async function assertQueriesGrow(
  folder: string,
  index: number,
  { growing, still }: { readonly growing: Json; readonly still: Json },
  factorAt: (position: number) => number,
): Promise<void> {
  await using model = await openModel(fixturePath(folder));
  const feeds = await blockFeeds(model, model.architecture.blocks[index] as BlockSpec);
  const grown = outputOf(folder, index, growing, feeds);
  const width = grown.shape[1] as number;
  for (let row = 0; row < (grown.shape[0] as number); row++) {
    const factor = factorAt(row % 5); // sequences of five tokens
    const { shape, values } = lookUp(feeds, "self_attn.q_proj.weight");
    const scaled = { shape, values: values.map((value) => value * factor) };
    const expected = outputOf(folder, index, still, new Map([...feeds, ["self_attn.q_proj.weight", scaled] as const]));
    const [found, wanted] = [grown, expected].map((each) => each.values.subarray(row * width, (row + 1) * width));
    assert.ok(relativeError(found as Float64Array, wanted as Float64Array) < 1e-6, `row ${row}`);
  }
}

test("llama4: queries of layers without positions grow with theirs, those of the others do not", async () => {
  const growing = { floor_scale: 2, attn_scale: 0.5 };
  const still = { ...growing, attn_temperature_tuning: false };
  await assertQueriesGrow(
    "llama4_text",
    3,
    { growing, still },
    (position) => 1 + 0.5 * Math.log(1 + Math.floor((position + 1) / 2)),
  );
  await using model = await openModel(fixturePath("llama4_text"));
  const first = await blockFeeds(model, model.architecture.blocks[0] as BlockSpec);
  assert.deepEqual(outputOf("llama4_text", 0, growing, first), outputOf("llama4_text", 0, {}, first));
});

test("ministral3: queries, and no keys, grow with their position", async () => {
  const parameters = configOf("ministral3", {})["rope_parameters"] as Json;
  const changed = (changes: Json): Json => ({ rope_parameters: { ...parameters, ...changes } });
  const growing = changed({ original_max_position_embeddings: 2 });
  const still = changed({ original_max_position_embeddings: 2, llama_4_scaling_beta: 0 });
  await assertQueriesGrow(
    "ministral3",
    0,
    { growing, still },
    (position) => 1 + 0.1 * Math.log(1 + Math.floor(position / 2)),
  );
});

test("ALiBi slopes are those of the paper for powers of two and interleave the next power's for other counts", () => {
  assert.deepEqual(
    alibiSlopes(8),
    [1, 2, 3, 4, 5, 6, 7, 8].map((i) => 2 ** -i),
  );
  assert.deepEqual(alibiSlopes(6), [2 ** -2, 2 ** -4, 2 ** -6, 2 ** -8, 2 ** -1, 2 ** -3]);
});

/** Families made of parts that others' stored forwards cover. */
const WITHOUT_FORWARD = new Set(["deepseek_v3"]);

test("every family says what it covers, and no two claim the same model_type", () => {
  const types = FAMILIES.flatMap((family) => family.modelTypes);
  assert.equal(new Set(types).size, types.length);
  for (const { name, exercises } of FAMILIES) assert.ok(exercises.length > 0, name);
  const covered = new Set(fixtures().map(({ folder }) => readFileSync(fixturePath(folder, "config.json"), "utf8")));
  for (const { name, modelTypes } of FAMILIES) {
    const hasFixture = modelTypes.some((type) => [...covered].some((text) => text.includes(`"model_type": "${type}"`)));
    assert.equal(hasFixture, !WITHOUT_FORWARD.has(name), `${name} has a stored forward`);
  }
});
