/**
 * What `--propagation`, `--memory` and `--device` change, and what they must not. Everything runs on a tiny llama, so
 * that a dozen whole runs take seconds.
 */
import assert from "node:assert/strict";
import { cpSync, rmSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import type { RunConfig } from "../../src/contract.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { findTestAdapter } from "../helpers/adapter.js";
import { encodeSafetensors, temporaryDirectory } from "../helpers/checkpoints.js";
import { createTestContext } from "../helpers/engine.js";
import { repositoryPath } from "../helpers/paths.js";
import { demoRun } from "../helpers/runs.js";
import { writeFileSync } from "node:fs";

const BLOCKS = 3;
const SEQUENCES = 12;
const SEQLEN = 24;

interface Outcome {
  /** Pruned tensors by name. */
  readonly weights: ReadonlyMap<string, Float32Array>;
  readonly losses: ReadonlyMap<string, number | null>;
}

async function pruneTiny(t: TestContext, overrides: Partial<RunConfig>): Promise<Outcome> {
  const directory = temporaryDirectory(t);
  const model = join(directory, "model");
  cpSync(repositoryPath("test/fixtures/architectures/llama"), model, { recursive: true });
  rmSync(join(model, "golden.safetensors"));
  const ids = Int32Array.from({ length: SEQUENCES * SEQLEN }, (_, i) => (i * i * 7 + i * 3) % 160);
  const calibration = { file: join(directory, "ids.safetensors") };
  const values = new Uint8Array(ids.buffer);
  writeFileSync(calibration.file, encodeSafetensors({ ids: { dtype: "I32", shape: [SEQUENCES, SEQLEN], values } }));
  const shape = { nsamples: SEQUENCES, seqlen: SEQLEN, method: "sparsegpt", sparsity: 0.5 };
  const run = demoRun(join(directory, "out"), { model, calibration, ...shape, ...overrides });
  const report = await pruneModel(run, createTestContext());
  const weights = new Map<string, Float32Array>();
  await using checkpoint = await openCheckpoint(run.out);
  for (const { name } of report.layers) weights.set(name, await checkpoint.readTensor(`${name}.weight`));
  return { weights, losses: new Map(report.layers.map(({ name, loss }) => [name, loss])) };
}

function linearsOf(outcome: Outcome, part: string): Float32Array[] {
  return [...outcome.weights].filter(([name]) => name.includes(part)).map(([, values]) => values);
}

function countDifferentZeros(a: Float32Array, b: Float32Array): number {
  return a.reduce((count, value, i) => count + Number((value === 0) !== (b[i] === 0)), 0);
}

const allBlocksBut = (kept: number): string[] =>
  Array.from({ length: BLOCKS }, (_, block) => `model.layers.${block}.*`).filter((_, block) => block !== kept);

test("dense propagation: a block's result does not depend on whether others are pruned", async (t) => {
  const whole = await pruneTiny(t, { propagation: "dense" });
  const alone = await pruneTiny(t, { propagation: "dense", ignore: allBlocksBut(2) });
  assert.deepEqual(linearsOf(alone, "layers.2."), linearsOf(whole, "layers.2."));
  const block = await pruneTiny(t, { propagation: "block" });
  assert.deepEqual(
    linearsOf(block, "layers.0."),
    linearsOf(whole, "layers.0."),
    "block 0 sees dense inputs either way",
  );
  assert.notDeepEqual(linearsOf(block, "layers.2."), linearsOf(whole, "layers.2."));
});

test("group propagation: later groups of a block see what pruning did to earlier ones", async (t) => {
  const block = await pruneTiny(t, { propagation: "block" });
  const group = await pruneTiny(t, { propagation: "group" });
  const first = ["q_proj", "k_proj", "v_proj"].map((name) => `model.layers.0.self_attn.${name}`);
  for (const name of first) assert.deepEqual(group.weights.get(name), block.weights.get(name), name);
  for (const name of ["model.layers.0.self_attn.o_proj", "model.layers.0.mlp.down_proj"]) {
    assert.notDeepEqual(group.weights.get(name), block.weights.get(name), name);
  }
  const onlyDown = ["*.self_attn.*", "*.gate_proj", "*.up_proj"];
  const [blockDown, groupDown] = [
    await pruneTiny(t, { propagation: "block", ignore: onlyDown }),
    await pruneTiny(t, { propagation: "group", ignore: onlyDown }),
  ];
  assert.deepEqual([...groupDown.weights], [...blockDown.weights], "with one group per block the two are the same");
});

test("hidden states in a scratch file give the same bytes as in memory", async (t) => {
  const inMemory = await pruneTiny(t, { memoryBytes: 2 ** 26 });
  const onDisk = await pruneTiny(t, { memoryBytes: 0 });
  assert.deepEqual([...onDisk.weights], [...inMemory.weights]);
});

test("two runs give the same bytes", async (t) => {
  const [first, second] = [await pruneTiny(t, {}), await pruneTiny(t, {})];
  assert.deepEqual([...second.weights], [...first.weights]);
  assert.deepEqual([...second.losses], [...first.losses]);
});

test("the webgpu device prunes a model as the cpu device does", async (t) => {
  const adapter = await findTestAdapter();
  if (!adapter.available) {
    t.skip(adapter.reason);
    return;
  }
  for (const method of ["magnitude", "wanda", "sparsegpt"]) {
    const onCpu = await pruneTiny(t, { method, device: "cpu" });
    const onGpu = await pruneTiny(t, { method, device: "webgpu" });
    for (const [name, values] of onCpu.weights) {
      const other = onGpu.weights.get(name) ?? new Float32Array(0);
      const different = countDifferentZeros(values, other);
      if (method !== "sparsegpt") assert.deepEqual(other, values, `${method} ${name}`);
      // Gram matrices are summed in another order, so a score that ties to rounding may fall the other way.
      else assert.ok(different <= values.length * 0.005, `${name}: ${different} of ${values.length} zeros differ`);
    }
    for (const [name, loss] of onCpu.losses) {
      if (loss === null) continue;
      // Losses are sums of squares of quantities that agree to about 1e-4.
      assert.ok(Math.abs((onGpu.losses.get(name) ?? NaN) / loss - 1) < 1e-3, `${name}: loss`);
    }
  }
});
