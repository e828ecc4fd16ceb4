/** The evolutionary allocation on the demo model: its fitness is what `prune eval` measures of a model really pruned so. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { loadCalibration } from "../../src/calibration/corpus.js";
import { createCpuDevice } from "../../src/device/cpu/cpu-device.js";
import { evolveSparsities, type EvolvedSparsities } from "../../src/driver/allocation/evolve.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { evaluatePerplexity } from "../../src/evaluation/perplexity.js";
import { prunableLinears } from "../../src/model/architecture.js";
import { BlockRunner } from "../../src/forward/block-runner.js";
import { openModel } from "../../src/model/open-model.js";
import { findSolver } from "../../src/solvers/registry.js";
import { composeSteps } from "../../src/solvers/steps.js";
import { encodeSafetensors, temporaryDirectory } from "../helpers/checkpoints.js";
import { createTestContext } from "../helpers/engine.js";
import { repositoryPath } from "../helpers/paths.js";
import { demoRun } from "../helpers/runs.js";

const MODEL = repositoryPath("models/demo");
const IDS = { file: repositoryPath("test/fixtures/models/demo-self.safetensors"), tensor: "calib" };
const SEQLEN = 64;
const HELD_OUT = 2;
const SPARSITY = 0.6;

async function firstSequences(count: number): Promise<readonly Int32Array[]> {
  const options = { modelDirectory: MODEL, nsamples: count, seqlen: SEQLEN, seed: 0, vocabSize: 4096 };
  return (await loadCalibration(IDS, options)).sequences;
}

async function search(t: TestContext, generations: number, method: string): Promise<EvolvedSparsities> {
  const directory = join(temporaryDirectory(t), "search");
  const solver = findSolver(method);
  await using model = await openModel(MODEL);
  await using device = await createCpuDevice();
  await using runner = new BlockRunner(model.architecture);
  const evolved = await evolveSparsities({
    solver: composeSteps([{ solver, options: solver.schema.parse({}) }]),
    options: { proxy: "method", generations, offspring: 6, step: 0.1, smallest: 0, largest: 0.95, heldOut: HELD_OUT },
    target: SPARSITY,
    model,
    linears: prunableLinears(model.architecture),
    device,
    runner,
    sequences: await firstSequences(6),
    seed: 0,
    memoryBytes: 2 ** 17, // a part goes through the scratch files
    directory,
    context: createTestContext(),
    onGeneration: () => undefined,
    onBatch: () => undefined,
  });
  assert.ok(!existsSync(directory), "the search leaves nothing behind");
  return evolved;
}

test("a candidate's fitness is the KL divergence of the model pruned so, on sequences its statistics have not seen", async (t) => {
  const { fitness, uniformFitness, sparsities } = await search(t, 0, "wanda");
  assert.equal(fitness, uniformFitness);
  assert.ok([...sparsities.values()].every((sparsity) => sparsity === SPARSITY));

  const directory = temporaryDirectory(t);
  const out = join(directory, "out");
  await pruneModel(
    demoRun(out, { sparsity: SPARSITY, nsamples: 4, seqlen: SEQLEN, propagation: "dense" }),
    createTestContext(),
  );
  const heldOut = (await firstSequences(6)).slice(4);
  const text = join(directory, "held-out.safetensors");
  const values = Int32Array.from(heldOut.flatMap((ids) => [...ids]));
  const bytes = new Uint8Array(values.buffer);
  await writeFile(text, encodeSafetensors({ ids: { dtype: "I32", shape: [HELD_OUT, SEQLEN], values: bytes } }));
  const { reference } = await evaluatePerplexity(
    { model: out, reference: MODEL, text: { file: text }, seqlen: SEQLEN, maxWindows: undefined },
    createTestContext(),
  );
  const measured = reference?.klDivergence.value ?? NaN;
  assert.ok(Math.abs(fitness / measured - 1) < 1e-5, `${fitness}, evaluated ${measured}`);
});

test("the search finds a fitter allocation with the same number of zeros", async (t) => {
  const { fitness, uniformFitness, sparsities } = await search(t, 4, "sparsegpt");
  assert.ok(fitness < 0.95 * uniformFitness, `${fitness}, uniform ${uniformFitness}`);
  await using model = await openModel(MODEL);
  let [zeros, elements] = [0, 0];
  for (const { name, inFeatures, outFeatures } of prunableLinears(model.architecture)) {
    zeros += (sparsities.get(name) ?? NaN) * inFeatures * outFeatures;
    elements += inFeatures * outFeatures;
  }
  assert.ok(Math.abs(zeros - SPARSITY * elements) < 1, `${zeros} of ${elements}`);
});
