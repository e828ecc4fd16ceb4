/**
 * What stored forwards do not reach: what families take where a config is silent, DeepSeek-V3's router and scale, clipping,
 * and layers that are only carried along.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { buildBlockGraph } from "../../src/forward/block-graph.js";
import { BlockRunner } from "../../src/forward/block-runner.js";
import { readBlockWeights } from "../../src/forward/weights.js";
import type { Node } from "../../src/graph/graph.js";
import { lookUp } from "../../src/look-up.js";
import { prunableLinears, type Architecture } from "../../src/model/architecture.js";
import { withDefaults } from "../../src/model/class-defaults.js";
import { ConfigObject } from "../../src/model/config.js";
import { findFamily } from "../../src/model/families/registry.js";
import { openModel, type Model } from "../../src/model/open-model.js";
import { normalQuantile } from "../../src/model/statistical-top-k.js";
import { copyFixture, fixtures, readJson, fixturePath, sampleBlock } from "../helpers/architectures.js";
import { deepseekV3 } from "../helpers/checkpoint-variants.js";
import { createTestContext } from "../helpers/engine.js";
import { runBlock } from "../helpers/forward.js";

type Json = Readonly<Record<string, unknown>>;

const SILENT: Json = {
  vocab_size: 32,
  hidden_size: 256,
  num_hidden_layers: 4,
  num_attention_heads: 8,
  intermediate_size: 64,
  moe_intermediate_size: 32,
  max_position_embeddings: 64,
};

function describe(name: string, config: Json): Architecture {
  const values = new ConfigObject(config, "config.json");
  return findFamily(name).describe(
    withDefaults({ values, modelType: name, text: "" }),
    () => true,
    () => undefined,
  );
}

interface Defaults {
  /** Key/value heads of 8, width of a head, whether the head is tied, the base of positions, the norms' epsilon. */
  readonly keyValueHeads: number;
  readonly headDim: number;
  readonly isTied: boolean;
  readonly theta: number;
  readonly epsilon: number;
}

/** As the configuration classes of transformers 5.17 have them. */
const DEFAULTS: Readonly<Record<string, Defaults>> = {
  ernie4_5: { keyValueHeads: 2, headDim: 128, isTied: true, theta: 500000, epsilon: 1e-5 },
  ernie4_5_moe: { keyValueHeads: 4, headDim: 32, isTied: true, theta: 500000, epsilon: 1e-5 },
  glm4: { keyValueHeads: 2, headDim: 128, isTied: false, theta: 10000, epsilon: 1.5625e-7 },
  glm4_moe: { keyValueHeads: 8, headDim: 32, isTied: false, theta: 10000, epsilon: 1e-5 },
  seed_oss: { keyValueHeads: 8, headDim: 128, isTied: false, theta: 10000, epsilon: 1e-6 },
  arcee: { keyValueHeads: 8, headDim: 32, isTied: false, theta: 10000, epsilon: 1e-5 },
  ministral: { keyValueHeads: 8, headDim: 32, isTied: false, theta: 10000, epsilon: 1e-6 },
  cohere2: { keyValueHeads: 8, headDim: 32, isTied: true, theta: 10000, epsilon: 1e-5 },
  olmo3: { keyValueHeads: 8, headDim: 32, isTied: false, theta: 500000, epsilon: 1e-5 },
  olmoe: { keyValueHeads: 8, headDim: 32, isTied: false, theta: 10000, epsilon: 1e-5 },
  flex_olmo: { keyValueHeads: 8, headDim: 32, isTied: false, theta: 500000, epsilon: 1e-6 },
  minimax_m2: { keyValueHeads: 8, headDim: 128, isTied: false, theta: 5e6, epsilon: 1e-6 },
  phimoe: { keyValueHeads: 8, headDim: 32, isTied: false, theta: 1e6, epsilon: 1e-5 },
  nemotron: { keyValueHeads: 8, headDim: 32, isTied: false, theta: 10000, epsilon: 1e-5 },
  starcoder2: { keyValueHeads: 2, headDim: 32, isTied: true, theta: 10000, epsilon: 1e-5 },
};

for (const [name, expected] of Object.entries(DEFAULTS)) {
  test(`${name}: where a config is silent, heads, ties, positions and norms are the library's`, () => {
    const architecture = describe(name, { ...SILENT, num_local_experts: 8 });
    const [block] = architecture.blocks;
    assert.ok(block);
    const [[, table]] = [...architecture.rotaryTables] as [
      [string, { at: (tokens: number) => { inverseFrequencies: Float32Array }; dimensions: number }],
    ];
    const { inverseFrequencies } = table.at(4);
    const found = {
      keyValueHeads: (lookUp(block.tensors, "self_attn.k_proj.weight").shape[0] as number) / expected.headDim,
      headDim: (lookUp(block.tensors, "self_attn.q_proj.weight").shape[0] as number) / 8,
      isTied: architecture.isHeadTied,
      theta: Math.round((inverseFrequencies[1] as number) ** (-table.dimensions / 2)),
      epsilon: (JSON.parse(block.shapeKey) as { norm: { epsilon: number } }).norm.epsilon,
    };
    assert.ok(Math.abs(found.theta / expected.theta - 1) < 1e-4, `theta ${found.theta}`);
    assert.deepEqual({ ...found, theta: expected.theta }, expected);
  });
}

test("Apertus and Ministral 3 scale positions where a config says nothing, and only there", () => {
  const frequenciesOf = (name: string, config: Json): number[] => [
    ...(describe(name, { ...SILENT, ...config })
      .rotaryTables.get("default")
      ?.at(4).inverseFrequencies ?? []),
  ];
  for (const name of ["apertus", "ministral3"]) {
    const plain = frequenciesOf(name, {
      rope_parameters: { rope_type: "default", rope_theta: name === "apertus" ? 12e6 : 1e6 },
    });
    const silent = frequenciesOf(name, {});
    const [factor] = [(plain.at(-1) as number) / (silent.at(-1) as number)];
    assert.ok(Math.abs(factor - (name === "apertus" ? 8 : 16)) < 1e-3, `${name}: ${factor}`);
    assert.equal(silent[0], plain[0]);
  }
});

function nodesOf(model: Model, operator: Node["operator"]): Node[] {
  const block = sampleBlock(model.architecture);
  const graph = buildBlockGraph(model.architecture, block, { hidden: true, taps: undefined });
  return graph.nodes.filter((node) => node.operator === operator);
}

test("DeepSeek-V3 scores by sigmoid, corrects its choice, keeps groups by their best two, renormalises and scales", async (t) => {
  await using model = await openModel(await deepseekV3(t));
  const [router] = nodesOf(model, "router");
  assert.deepEqual(router?.attributes, {
    chosen: 3,
    isRenormalized: true,
    scale: 2.5,
    scores: "sigmoid",
    limit: { groups: 4, kept: 2, by: "best-two" },
  });
  assert.equal(router.inputs.length, 3, "the correction");
});

test("DeepSeek-V3's scores grow with yarn's factor, and its rotation may be of halves", async (t) => {
  const yarn = { type: "yarn", factor: 40, original_max_position_embeddings: 16, mscale: 1, mscale_all_dim: 1 };
  await using plain = await openModel(await deepseekV3(t, { rope_scaling: null }));
  await using scaled = await openModel(await deepseekV3(t, { rope_scaling: yarn, rope_interleave: false }));
  const scaleOf = (model: Model): number => (nodesOf(model, "attention")[0]?.attributes as { scale: number }).scale;
  assert.ok(Math.abs(scaleOf(scaled) / scaleOf(plain) - (0.1 * Math.log(40) + 1) ** 2) < 1e-9);
  const isInterleaved = (model: Model): boolean[] =>
    nodesOf(model, "rotary").map(({ attributes }) => (attributes as { isInterleaved: boolean }).isInterleaved);
  assert.deepEqual(
    [isInterleaved(plain), isInterleaved(scaled)],
    [
      [true, true],
      [false, false],
    ],
  );
});

test("DeepSeek-V3's queries have a latent vector of 1536 unless the config says null or another number", () => {
  const parts = { kv_lora_rank: 8, qk_nope_head_dim: 4, qk_rope_head_dim: 4, v_head_dim: 4 };
  const rankOf = (config: Json): number | undefined =>
    describe("deepseek_v3", { ...SILENT, ...parts, ...config }).blocks[0]?.tensors.get("self_attn.q_a_proj.weight")
      ?.shape[0];
  assert.deepEqual([rankOf({}), rankOf({ q_lora_rank: 8 }), rankOf({ q_lora_rank: null })], [1536, 8, undefined]);
});

test("a router that cannot choose as many experts from the groups it keeps is refused", async (t) => {
  const directory = await deepseekV3(t, { num_experts_per_tok: 5 });
  await assert.rejects(openModel(directory), {
    code: "E_CONFIG",
    message: /5 of 8 experts cannot be chosen from 2 of 4 groups/,
  });
});

test("layers that predict further tokens are no part of the model, and that they stay dense is said", async (t) => {
  const messages: string[] = [];
  const logger = { ...createTestContext().logger, info: (message: string) => void messages.push(message) };
  await using model = await openModel(await deepseekV3(t), { logger });
  const further = `model.layers.${model.architecture.blocks.length}.`;
  const count = [...model.checkpoint.tensors.keys()].filter((name) => name.startsWith(further)).length;
  assert.ok(count > 20);
  assert.ok(prunableLinears(model.architecture).every(({ name }) => !name.startsWith(further)));
  assert.deepEqual(messages, [
    `${count} tensors of layers that predict further tokens are passed through untouched and stay dense`,
  ]);
});

test("quantiles of the normal distribution", () => {
  for (const [share, expected] of [
    [0.95, 1.6448536269514722],
    [0.75, 0.6744897501960817],
    [0.5, 0],
    [0.1, -1.2815515655446004],
    [0.9999, 3.719016485455709],
  ] as const)
    assert.ok(Math.abs(normalQuantile(share) - expected) < 1e-12, `${share}: ${normalQuantile(share)}`);
});

for (const [folder, clip] of [
  ["olmoe", (limit: number) => ({ clip_qkv: limit })],
  ["mpt", (limit: number) => ({ attn_config: { clip_qkv: limit } })],
] as const) {
  test(`${folder}: what attention returns stays within the limit that values are clipped to`, async (t) => {
    const fixture = fixtures().find((each) => each.folder === folder);
    assert.ok(fixture);
    const directory = await copyFixture(t, fixture, "config.json");
    await using stored = await openModel(directory);
    const largest = async (limit: number): Promise<number> => {
      const config = { ...readJson<Json>(fixturePath(folder, "config.json")), ...clip(limit) };
      const architecture = describe(folder, config);
      const block = sampleBlock(architecture);
      const tokens = 6;
      const hidden = new Float32Array(tokens * architecture.hiddenSize).map((_, i) => Math.sin(i * 0.7) + 0.3);
      await using runner = new BlockRunner(architecture);
      const weights = await readBlockWeights(stored.checkpoint, block);
      const request = { hidden: false, taps: { kind: "inputs", groups: ["attention-output"] } } as const;
      const { taps } = await runBlock(runner, block, weights, hidden, { batch: 1, tokens }, request);
      return Math.max(...Array.from(lookUp(taps, "attention-output").parts[0] ?? [], Math.abs));
    };
    const [free, clipped] = [await largest(1000), await largest(0.3)];
    assert.ok(free > 0.5 && clipped <= 0.3 + 1e-6 && clipped > 0.29, `${free}, clipped ${clipped}`); // the first token's values
  });
}
