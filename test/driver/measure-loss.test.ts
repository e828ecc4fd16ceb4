/** `--measure-loss`: the error is that of the stored inputs, the same for every method, and leaves the result alone. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import type { EngineEvent, RunConfig, RunReport } from "../../src/contract.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { findTestAdapter } from "../helpers/adapter.js";
import { fixturePath } from "../helpers/architectures.js";
import { encodeSafetensors, temporaryDirectory } from "../helpers/checkpoints.js";
import { createTestContext } from "../helpers/engine.js";
import { gramOfTokens, quadratic } from "../helpers/layer-problem.js";
import { demoRun } from "../helpers/runs.js";
import { readTensors, tensorOf, type StoredTensor } from "../helpers/tensors.js";

function goldenOf(folder: string): ReadonlyMap<string, StoredTensor> {
  return readTensors(fixturePath(folder, "golden.safetensors"));
}

interface Pruned {
  readonly report: RunReport;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  readonly bytes: ReadonlyMap<string, Buffer>;
}

function weightsOf(directory: string): Map<string, StoredTensor> {
  const files = readdirSync(directory).filter((name) => /^model.*\.safetensors$/.test(name));
  return new Map(files.flatMap((file) => [...readTensors(join(directory, file))]));
}

/** Prune a fixture, calibrated on its own stored token ids. */
async function prune(t: TestContext, folder: string, config: Partial<RunConfig>): Promise<Pruned> {
  const directory = temporaryDirectory(t);
  const { shape, values } = tensorOf(goldenOf(folder), "input_ids");
  const calibration = { file: join(directory, "ids.safetensors") };
  const ids = new Uint8Array(Int32Array.from(values).buffer);
  writeFileSync(calibration.file, encodeSafetensors({ ids: { dtype: "I32", shape, values: ids } }));
  const [nsamples = 0, seqlen = 0] = shape;
  const out = join(directory, "out");
  const model = fixturePath(folder);
  const run = demoRun(out, { model, calibration, nsamples, seqlen, measureLoss: true, ...config });
  const report = await pruneModel(run, createTestContext());
  const files = readdirSync(out).filter((name) => name.endsWith(".safetensors"));
  return {
    report,
    tensors: weightsOf(out),
    bytes: new Map(files.map((name) => [name, readFileSync(join(out, name))])),
  };
}

/** Compare the report's errors of block 1 with float64 sums over the fixture's stored inputs of those linears. */
function assertErrors(folder: string, { report, tensors }: Pruned): number {
  const golden = goldenOf(folder);
  const dense = weightsOf(fixturePath(folder));
  let compared = 0;
  for (const { name, reconstruction } of report.layers) {
    const inputs = golden.get(`inputs/${name}`);
    const before = dense.get(`${name}.weight`);
    if (inputs === undefined || before === undefined) continue;
    const [tokens = 0, columns = 0] = inputs.shape;
    const [rows = 0] = before.shape;
    const [sequences = 1] = tensorOf(golden, "input_ids").shape;
    const gram = gramOfTokens(inputs.values, tokens, columns);
    const after = tensorOf(tensors, `${name}.weight`).values;
    const change = before.values.map((value, i) => value - (after[i] ?? 0));
    const error = quadratic(change, gram, rows, columns) / sequences;
    const output = quadratic(before.values, gram, rows, columns) / sequences;
    assert.ok(reconstruction !== undefined, name);
    // Inputs of this forward and of the stored one agree to 1e-5, sums of their squares to a few times that.
    assert.ok(Math.abs(reconstruction.output / output - 1) < 1e-4, `${name}: ${reconstruction.output}, ${output}`);
    assert.ok(Math.abs(reconstruction.error - error) < 1e-4 * output, `${name}: ${reconstruction.error}, ${error}`);
    assert.equal(reconstruction.relative, reconstruction.error / reconstruction.output);
    compared++;
  }
  return compared;
}

test("errors are those of the stored inputs in float64, for methods that look at nothing, norms and Gram matrices", async (t) => {
  for (const method of ["magnitude", "wanda", "sparsegpt"]) {
    const pruned = await prune(t, "llama", { method, propagation: "dense" });
    assert.equal(assertErrors("llama", pruned), 7, method);
  }
});

test("an expert's error is measured on the tokens it is sent, also where it is pruned on all", async (t) => {
  for (const starved of ["all-tokens", "magnitude", "skip"] as const) {
    const pruned = await prune(t, "mixtral", { method: "sparsegpt", propagation: "dense", starved });
    assert.ok(assertErrors("mixtral", pruned) >= 4, starved);
    const experts = pruned.report.layers.filter((layer) => layer.starved === starved);
    assert.ok(experts.length > 0, "the fixture's experts starve");
    for (const { name, reconstruction } of experts)
      assert.equal(reconstruction?.error === 0, starved === "skip", `${starved}: ${name}`);
  }
});

test("admm's own objective is the measured one", async (t) => {
  const { report } = await prune(t, "llama", { method: "admm" });
  for (const { name, loss, reconstruction } of report.layers) {
    assert.ok(loss !== null && reconstruction !== undefined, name);
    assert.ok(Math.abs(reconstruction.error / loss - 1) < 1e-3, `${name}: ${reconstruction.error}, ${loss}`);
  }
});

test("measuring changes no byte of the result, under any propagation", async (t) => {
  for (const method of ["magnitude", "wanda", "admm"]) {
    for (const propagation of ["block", "group", "dense"] as const) {
      const measured = await prune(t, "llama", { method, propagation });
      const plain = await prune(t, "llama", { method, propagation, measureLoss: false });
      assert.deepEqual([...measured.bytes], [...plain.bytes], `${method} ${propagation}`);
      assert.ok(plain.report.layers.every((layer) => layer.reconstruction === undefined));
      assert.ok(measured.report.layers.every((layer) => layer.reconstruction !== undefined));
    }
  }
});

test("the webgpu device measures the same errors", async (t) => {
  const adapter = await findTestAdapter();
  if (!adapter.available) {
    t.skip(adapter.reason);
    return;
  }
  for (const method of ["magnitude", "sparsegpt"]) {
    const pruned = await prune(t, "llama", { method, propagation: "dense", device: "webgpu" });
    assert.equal(assertErrors("llama", pruned), 7, method);
  }
});

test("what only measuring takes is no part of the run's time", async (t) => {
  const out = join(temporaryDirectory(t), "out");
  // Magnitude pruning looks at no activations: every pass over them is there to measure, and each is made to take long.
  const pause = 0.03;
  let pauses = 0;
  const context = {
    ...createTestContext(),
    emit: (event: EngineEvent) => {
      if (event.type !== "stage" || (event.stage !== "statistics" && event.stage !== "forward")) return;
      pauses += 1;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, pause * 1000);
    },
  };
  const started = performance.now();
  const { seconds } = await pruneModel(demoRun(out, { method: "magnitude", measureLoss: true }), context);
  const elapsed = (performance.now() - started) / 1000;
  assert.ok(pauses > 10, `${pauses} passes`);
  assert.ok(elapsed - seconds > pauses * pause, `${elapsed} s, of which ${seconds} are the run's, ${pauses} pauses`);
});
