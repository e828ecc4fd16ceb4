/** `--reproduce model` in whole runs: what it changes, what it must not, and that it brings the model nearer to the dense one. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import type { RunConfig, RunReport } from "../../src/contract.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { evaluatePerplexity } from "../../src/evaluation/perplexity.js";
import { findTestAdapter } from "../helpers/adapter.js";
import { fixturePath } from "../helpers/architectures.js";
import { encodeSafetensors, temporaryDirectory } from "../helpers/checkpoints.js";
import { createTestContext } from "../helpers/engine.js";
import { repositoryPath } from "../helpers/paths.js";
import { demoRun } from "../helpers/runs.js";

const MODEL = { reproduce: "model", propagation: "group" } as const;

interface Pruned {
  readonly report: RunReport;
  readonly tensors: ReadonlyMap<string, Float32Array>;
}

async function pruneFixture(t: TestContext, name: string, overrides: Partial<RunConfig>): Promise<Pruned> {
  const directory = temporaryDirectory(t);
  const file = join(directory, "ids.safetensors");
  const ids = Int32Array.from({ length: 12 * 24 }, (_, i) => (i * i * 7 + i * 3) % 90);
  const values = new Uint8Array(ids.buffer);
  writeFileSync(file, encodeSafetensors({ ids: { dtype: "I32", shape: [12, 24], values } }));
  const shape = { model: fixturePath(name), calibration: { file }, nsamples: 12, seqlen: 24, method: "sparsegpt" };
  const run = demoRun(join(directory, "out"), { ...shape, propagation: "group", ...overrides });
  const report = await pruneModel(run, createTestContext());
  await using checkpoint = await openCheckpoint(run.out);
  const tensors = new Map<string, Float32Array>();
  for (const tensor of checkpoint.tensors.keys()) tensors.set(tensor, await checkpoint.readTensor(tensor));
  return { report, tensors };
}

function largestOf(values: Float32Array): number {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

test("the first inputs of the model are the dense model's, so their linears are as they are without it; later ones are not", async (t) => {
  const layer = await pruneFixture(t, "llama", {});
  const model = await pruneFixture(t, "llama", MODEL);
  for (const { name } of layer.report.layers) {
    const [before, after] = [layer.tensors.get(`${name}.weight`), model.tensors.get(`${name}.weight`)];
    assert.ok(before && after);
    // Gram matrices are summed in another order, so that values agree to f32 only.
    const difference = largestOf(after.map((value, i) => value - before[i])) / largestOf(before);
    const isFirst = /layers\.0\.self_attn\.[qkv]_proj/.test(name);
    assert.equal(difference < 1e-4, isFirst, `${name}: ${difference}`);
  }
});

test("linears that are left dense make up for nothing, and what the run does not prune keeps its bits", async (t) => {
  const { report, tensors } = await pruneFixture(t, "llama", { ...MODEL, ignore: ["*.down_proj"] });
  await using source = await openCheckpoint(fixturePath("llama"));
  const pruned = new Set(report.layers.map(({ name }) => `${name}.weight`));
  for (const [name, values] of tensors) {
    if (!pruned.has(name)) assert.deepEqual(values, await source.readTensor(name), name);
  }
});

test("mixtures of experts lose the exact count everywhere, and what is no expert makes up for errors", async (t) => {
  for (const name of ["qwen3_moe", "qwen2_moe", "deepseek_v2"]) {
    const { report } = await pruneFixture(t, name, MODEL);
    for (const { name: linear, zeros, elements } of report.layers)
      assert.equal(zeros, Math.floor(elements / 2), `${name}: ${linear}`);
  }
  const [layer, model] = [await pruneFixture(t, "qwen3_moe", {}), await pruneFixture(t, "qwen3_moe", MODEL)];
  const output = "model.layers.0.self_attn.o_proj.weight";
  assert.notDeepEqual(model.tensors.get(output), layer.tensors.get(output));
});

test("hidden states on the disk give the bytes of hidden states in memory", async (t) => {
  const inMemory = await pruneFixture(t, "llama", MODEL);
  const onDisk = await pruneFixture(t, "llama", { ...MODEL, memoryBytes: 2 ** 14 });
  assert.deepEqual(onDisk.tensors, inMemory.tensors);
});

test("on webgpu the weights are those of the CPU", async (t) => {
  const adapter = await findTestAdapter();
  if (!adapter.available) return t.skip(adapter.reason);
  const ignore = ["model.layers.1.*", "model.layers.2.*", "*.mlp.*"];
  const cpu = await pruneFixture(t, "llama", { ...MODEL, ignore, method: "wanda" });
  const gpu = await pruneFixture(t, "llama", { ...MODEL, ignore, method: "wanda", device: "webgpu" });
  for (const { name } of cpu.report.layers) {
    const [expected, actual] = [cpu.tensors.get(`${name}.weight`), gpu.tensors.get(`${name}.weight`)];
    assert.ok(expected && actual);
    const bound = 1e-4 * largestOf(expected);
    actual.forEach((value, i) => assert.ok(Math.abs(value - expected[i]) < bound, `${name}: ${i}`));
  }
});

test("the demo model stays nearer to the dense one", { timeout: 120_000 }, async (t) => {
  const text = { file: repositoryPath("test/fixtures/models/demo-self.safetensors"), tensor: "evaluation" };
  const model = repositoryPath("models/demo");
  const divergences: number[] = [];
  for (const reproduce of ["layer", "model"] as const) {
    const out = join(temporaryDirectory(t), "out");
    const size = { sparsity: 0.7, nsamples: 8, seqlen: 256 };
    await pruneModel(demoRun(out, { ...size, propagation: "group", reproduce }), createTestContext());
    const evaluation = { model: out, reference: model, text, seqlen: 256, maxWindows: 6 };
    const { reference } = await evaluatePerplexity(evaluation, createTestContext());
    divergences.push(reference?.klDivergence.value ?? NaN);
  }
  const [layer, reproduced] = divergences;
  t.diagnostic(`${reproduced}, without ${layer}`);
  assert.ok(reproduced < 0.95 * layer, `${reproduced}, without ${layer}`);
});
