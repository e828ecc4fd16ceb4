/** Cutting by a plan: configs of the specification, bytes, sizes, interruption, and plans that cannot be. */
import assert from "node:assert/strict";
import { copyFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import { keptRanges } from "../../src/checkpoint/part-shards.js";
import type { CutPlan } from "../../src/contract.js";
import { cutModel } from "../../src/driver/cut/cut-model.js";
import { emptyPlan } from "../../src/driver/cut/plan.js";
import { verifyModel } from "../../src/driver/cut/verify.js";
import { patchJson } from "../../src/json-patch.js";
import { openModel } from "../../src/model/open-model.js";
import { copyFixture, fixtures, readJson } from "../helpers/architectures.js";
import { temporaryDirectory, writeCheckpoint } from "../helpers/checkpoints.js";
import { createTestContext } from "../helpers/engine.js";
import { repositoryPath } from "../helpers/paths.js";
import type { TestContext } from "node:test";

const DEMO = repositoryPath("models/demo");

async function planFor(t: TestContext, model: string, verbs: Partial<CutPlan>): Promise<string> {
  await using opened = await openModel(model);
  const file = join(temporaryDirectory(t), "plan.json");
  writeFileSync(file, JSON.stringify({ ...(await emptyPlan(opened)), ...verbs }));
  return file;
}

function fixture(t: TestContext, folder: string, config = "config.json"): Promise<string> {
  const found = fixtures().find((entry) => entry.folder === folder);
  assert.ok(found);
  return copyFixture(t, found, config);
}

/** Without writing. */
async function look(t: TestContext, model: string, verbs: Partial<CutPlan>): Promise<ReturnType<typeof cutModel>> {
  const plan = await planFor(t, model, verbs);
  return cutModel({ model, plan, out: undefined, force: false, resume: false }, createTestContext());
}

test("a value inside a JSON text is changed and all else stays", () => {
  const text = '{\n  "a": 1e-05, "b": {"c": [1, "]}"], "d": null},\n  "n": NaN\n}\n';
  assert.equal(patchJson(text, { path: ["b", "d"], value: [1, 2] }), text.replace("null", "[1,2]"));
  assert.equal(patchJson(text, { path: ["n"], value: 3 }), text.replace("NaN", "3"));
  assert.equal(patchJson(text, { path: ["a"], value: "x" }), text.replace("1e-05", '"x"'));
  assert.equal(patchJson(text, { path: ["e"], value: true }), text.replace("NaN", 'NaN,\n  "e": true'));
  assert.throws(() => patchJson(text, { path: ["a", "b"], value: 1 }), RangeError);
});

test("ranges of kept entries: whole rows, columns, and slabs", () => {
  const source = { name: "t", dtype: "F16", shape: [3, 4], file: "f", offset: 0, byteLength: 24 };
  const ranges = (...kept: (number[] | undefined)[]): number[][] =>
    [...keptRanges({ source, kept })].map(({ begin, end }) => [begin, end]);
  assert.deepEqual(ranges(), [[0, 24]]);
  assert.deepEqual(ranges([0, 1]), [[0, 16]]);
  assert.deepEqual(ranges([0, 2], undefined), [
    [0, 8],
    [16, 24],
  ]);
  assert.deepEqual(ranges(undefined, [0, 3]), [
    [0, 2],
    [6, 10],
    [14, 18],
    [22, 24],
  ]);
  assert.deepEqual(ranges([1], [1, 2]), [[10, 14]]);
  assert.deepEqual(ranges([0], [0, 2]), [
    [0, 2],
    [4, 6],
  ]);
});

test("keys that go by blocks: lists, numbers, prefixes, further blocks", async (t) => {
  const gemma = await fixture(t, "gemma2");
  const dropped = await look(t, gemma, { drop: { blocks: [1] } });
  assert.deepEqual(dropped.config, [
    { path: ["num_hidden_layers"], from: 4, to: 3 },
    { path: ["layer_types"], from: null, to: ["sliding_attention", "sliding_attention", "full_attention"] },
  ]);
  const periodic = await look(t, gemma, { drop: { blocks: [1, 2] } });
  assert.deepEqual(periodic.config, [{ path: ["num_hidden_layers"], from: 4, to: 2 }]);

  const qwen = await fixture(t, "qwen2"); // windows, were they used, from block 1 on
  const prefix = await look(t, qwen, { drop: { blocks: [1] } });
  assert.deepEqual(prefix.config, [{ path: ["num_hidden_layers"], from: 3, to: 2 }]);
  const later = await look(t, qwen, { drop: { blocks: [0], allowEnds: true } });
  assert.deepEqual(later.config.at(-1), { path: ["max_window_layers"], from: 1, to: 0 });

  const glm = await fixture(t, "glm4_moe");
  const without = await look(t, glm, { drop: { blocks: [0], allowEnds: true } });
  assert.deepEqual(
    without.config.map(({ path, to }) => [path.join(), to]),
    [
      ["num_hidden_layers", 1],
      ["first_k_dense_replace", 0],
      ["num_nextn_predict_layers", 0],
    ],
  );
});

test("sizes are told to the byte before anything is written, and are what is written", async (t) => {
  const out = join(temporaryDirectory(t), "out");
  const plan = await planFor(t, DEMO, { drop: { blocks: [2, 3] } });
  const config = { model: DEMO, plan, force: false, resume: false };
  const told = await cutModel({ ...config, out: undefined }, createTestContext());
  assert.equal(existsSync(out), false);
  const report = await cutModel({ ...config, out }, createTestContext());
  assert.deepEqual(report.after, told.after);
  const block = 256 * 256 * 2 + 256 * 128 * 2 + 3 * 256 * 704 + 2 * 256;
  assert.equal(report.before.parameters - report.after.parameters, 2 * block);
  assert.equal(report.before.tensorBytes - report.after.tensorBytes, 4 * block);
  assert.equal(report.before.keyValueBytesPerToken, 6 * 2 * 4 * 32 * 2);
  assert.equal(report.after.keyValueBytesPerToken, 4 * 2 * 4 * 32 * 2);
  const { blocks, parameters, tensorBytes, fileBytes } = await verifyModel({ directory: out });
  assert.deepEqual(
    [blocks, parameters, tensorBytes, fileBytes],
    [4, ...[report.after].flatMap((after) => [after.parameters, after.tensorBytes, after.fileBytes])],
  );
  assert.equal(readFileSync(join(out, "model.safetensors")).byteLength, fileBytes);
  // What is not numbered, and the numbers in the text, are as they were.
  assert.equal(
    readFileSync(join(out, "config.json"), "utf8"),
    readFileSync(join(DEMO, "config.json"), "utf8").replace('"num_hidden_layers": 6', '"num_hidden_layers": 4'),
  );
  // Its own plan makes the same again.
  const again = join(temporaryDirectory(t), "again");
  await cutModel({ ...config, plan: join(out, "plan.json"), out: again }, createTestContext());
  assert.ok(readFileSync(join(again, "model.safetensors")).equals(readFileSync(join(out, "model.safetensors"))));
});

/** A mixture in shards, with experts of which a token is sent to few. */
test("experts: sizes active and total, shards renumbered, an interrupted cut goes on", async (t) => {
  const source = await fixture(t, "mixtral");
  const model = join(temporaryDirectory(t), "sharded");
  await using single = await openCheckpoint(source);
  const names = [...single.tensors.keys()];
  const bytes = await Promise.all(names.map((name) => single.readBytes(name)));
  const tensors = Object.fromEntries(
    names.map((name, i) => [name, { ...single.info(name), values: bytes[i] as Uint8Array }] as const),
  );
  // All experts but the first have a shard of their own in every third file: one of them becomes empty.
  const shard = (name: string): number => (/experts\.1\./.test(name) ? 2 : /experts\.[^0]\./.test(name) ? 3 : 1);
  await writeCheckpoint(model, {
    tensors,
    config: readJson<object>(join(source, "config.json")),
    shards: Object.fromEntries(names.map((name) => [name, `model-0000${shard(name)}-of-00003.safetensors`])),
  });
  await using opened = await openModel(model);
  const { blocks } = opened.architecture;
  const { count = 0, chosen = 0 } = blocks[0]?.experts ?? {};
  const kept = Array.from({ length: count }, (_, expert) => expert).filter((expert) => expert !== 1);
  const experts = Object.fromEntries(blocks.map(({ index }) => [String(index), kept]));
  const plan = await planFor(t, model, { keep: { experts } });
  const out = join(temporaryDirectory(t), "out");
  const config = { model, plan, out, force: false };

  let stops = 0;
  const stop = { requested: () => (stops++ === 2 ? ("SIGINT" as const) : undefined) };
  await assert.rejects(cutModel({ ...config, resume: false }, createTestContext({ stop })), { code: "E_INTERRUPTED" });
  assert.ok(existsSync(`${out}.partial`) && !existsSync(out));
  const report = await cutModel({ ...config, resume: true }, createTestContext());
  assert.ok(existsSync(join(out, "model-00002-of-00002.safetensors")) && !existsSync(join(out, "journal.jsonl")));
  const expert = Object.entries(tensors).reduce(
    (sum, [name, { shape }]) => sum + (/layers\.0\..*experts\.0\./.test(name) ? (shape[0] ?? 0) * (shape[1] ?? 0) : 0),
    0,
  );
  const hidden = opened.architecture.hiddenSize;
  const { before, after } = report;
  assert.equal(before.parameters - after.parameters, blocks.length * (expert + hidden));
  assert.equal(before.parameters - before.activeParameters, blocks.length * (count - chosen) * expert);
  assert.equal(before.activeParameters - after.activeParameters, blocks.length * hidden); // a row of each router
  const verified = await verifyModel({ directory: out });
  assert.deepEqual([verified.shards, verified.experts, verified.tensorBytes], [2, count - 1, after.tensorBytes]);
  // Kept experts are the old ones' bytes under their new names; routers lose a row.
  await using written = await openCheckpoint(out);
  const last = "model.layers.0.block_sparse_moe";
  assert.deepEqual(
    await written.readBytes(`${last}.experts.1.w2.weight`),
    await single.readBytes(`${last}.experts.2.w2.weight`),
  );
  const gate = await single.readTensor(`${last}.gate.weight`);
  assert.deepEqual(
    await written.readTensor(`${last}.gate.weight`),
    Float32Array.from([...gate.subarray(0, hidden), ...gate.subarray(2 * hidden)]),
  );
});

test("stacked experts lose slabs, and their biases and routers rows", async (t) => {
  const model = await fixture(t, "gpt_oss");
  await using opened = await openModel(model);
  const { blocks } = opened.architecture;
  const experts = Object.fromEntries(
    blocks.map(({ index, experts: own }) => [
      String(index),
      Array.from({ length: (own?.count ?? 0) - 1 }, (_, i) => i + 1),
    ]),
  );
  const report = await look(t, model, { keep: { experts } });
  assert.deepEqual(
    report.config.map(({ path }) => path.join()),
    ["num_local_experts"],
  );
});

test("values that replace a tensor's come from a file beside the plan, and are found again in the output", async (t) => {
  const name = "model.layers.1.mlp.down_proj.weight";
  const plan = await planFor(t, DEMO, { drop: { blocks: [2] }, replace: { [name]: { file: "values.safetensors" } } });
  const file = join(plan, "..", "values.safetensors");
  await using demo = await openCheckpoint(DEMO);
  const values = (await demo.readTensor(name)).map((value) => 2 * value);
  await writeCheckpoint(join(plan, ".."), { tensors: { [name]: { dtype: "BF16", shape: [256, 704], values } } });
  copyFileSync(join(plan, "..", "model.safetensors"), file);
  const out = join(temporaryDirectory(t), "out");
  await cutModel({ model: DEMO, plan, out, force: false, resume: false }, createTestContext());
  await using written = await openCheckpoint(out);
  assert.deepEqual(await written.readTensor(name), values);
  const { replace } = readJson<CutPlan>(join(out, "plan.json"));
  assert.deepEqual(replace, { [name]: { file: "model.safetensors", tensor: name } });
  const short = await planFor(t, DEMO, {
    replace: { [name]: { file: "model.safetensors", tensor: "model.norm.weight" } },
  });
  copyFileSync(join(DEMO, "model.safetensors"), join(short, "..", "model.safetensors"));
  await assert.rejects(
    cutModel({ model: DEMO, plan: short, out: undefined, force: false, resume: false }, createTestContext()),
    { code: "E_PLAN_REPLACE" },
  );
});

test("plans that no config can say, or that are of another model, are refused before any work", async (t) => {
  const all = (count: number): number[] => Array.from({ length: count }, (_, index) => index);
  const everywhere = (blocks: number[], list: readonly number[]): Record<string, readonly number[]> =>
    Object.fromEntries(blocks.map((block) => [String(block), list]));
  const [mixtral, deepseek] = [await fixture(t, "mixtral"), await fixture(t, "deepseek_v2")];
  const cases: [string, Partial<CutPlan>, string, RegExp][] = [
    [DEMO, { drop: { blocks: [0] } }, "E_PLAN_BLOCKS", /first/],
    [DEMO, { drop: { blocks: [5] } }, "E_PLAN_BLOCKS", /last/],
    [DEMO, { drop: { blocks: [2, 2] } }, "E_PLAN_BLOCKS", /ascending/],
    [DEMO, { drop: { blocks: [9] } }, "E_PLAN_BLOCKS", /up to 5/],
    [DEMO, { drop: { blocks: all(6), allowEnds: true } }, "E_PLAN_BLOCKS", /no block/],
    [DEMO, { keep: { experts: { "0": [0] } } }, "E_PLAN_EXPERTS", /has no experts/],
    [DEMO, { keep: { channels: { "0": all(256) } } }, "E_PLAN_CHANNELS", /nothing is said of block 1/],
    [
      DEMO,
      { keep: { channels: { ...everywhere(all(6), all(256)), "3": all(128) } } },
      "E_PLAN_CHANNELS",
      /256 and 128/,
    ],
    [mixtral, { keep: { experts: everywhere(all(3), [0]) } }, "E_PLAN_EXPERTS", /every token is sent to 2/],
    [deepseek, { keep: { experts: everywhere([1, 2], [0, 1, 2, 4, 6]) } }, "E_PLAN_EXPERTS", /2, 1, 1, 1/],
    [
      deepseek,
      { keep: { experts: everywhere([1, 2], [0, 2, 4, 6]) } },
      "E_PLAN_EXPERTS",
      /1 experts would be left of each/,
    ],
    [DEMO, { config: [{ path: ["rope_theta"], from: 1, to: 2 }] }, "E_PLAN_CONFIG", /10000, not 1/],
    [
      DEMO,
      { drop: { blocks: [1] }, config: [{ path: ["num_hidden_layers"], from: 6, to: 4 }] },
      "E_PLAN_CONFIG",
      /follows/,
    ],
    [DEMO, { model: { family: "llama", fingerprint: "0" } }, "E_PLAN_MODEL", /another model/],
    [DEMO, { drop: { blocks: [1], more: 1 } as never }, "E_PLAN", /drop: Unrecognized key/],
  ];
  for (const [model, verbs, code, message] of cases)
    await assert.rejects(look(t, model, verbs), { code, message }, JSON.stringify(verbs).slice(0, 80));
});

test("a family without an edit is refused with the families that have one; a place decides what a block computes", async (t) => {
  const gpt2 = await fixture(t, "gpt2");
  writeFileSync(
    join(gpt2, "config.json"),
    readFileSync(join(gpt2, "config.json"), "utf8").replace(
      '"scale_attn_by_inverse_layer_idx": false',
      '"scale_attn_by_inverse_layer_idx": true',
    ),
  );
  await assert.rejects(look(t, gpt2, { drop: { blocks: [1] } }), { code: "E_EDIT_CONFIG", message: /gpt2/ });
});

test("verify names what is missing, too much or of another shape, and an index that counts wrongly", async (t) => {
  const directory = join(temporaryDirectory(t), "out");
  const plan = await planFor(t, DEMO, { drop: { blocks: [2] } });
  await cutModel({ model: DEMO, plan, out: directory, force: false, resume: false }, createTestContext());
  const config = join(directory, "config.json");
  const text = readFileSync(config, "utf8");
  for (const [from, to, message] of [
    ['"num_hidden_layers": 5', '"num_hidden_layers": 6', /layers\.5\.\S+ is missing/],
    ['"num_hidden_layers": 5', '"num_hidden_layers": 4', /config\.json says there is none/],
    ['"intermediate_size": 704', '"intermediate_size": 640', /\[704, 256\]; config\.json says \[640, 256\]/],
  ] as const) {
    writeFileSync(config, text.replace(from, to));
    await assert.rejects(verifyModel({ directory }), { code: "E_TENSORS", message });
  }
});
