/**
 * Whole runs of a model whose state is more than hidden states: several streams, inputs of single blocks, and keys and
 * values that two blocks leave for the last two. What a block sees is worked out from the weights that a run wrote.
 */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import type { Propagation, RunConfig } from "../../src/contract.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { BlockRunner } from "../../src/forward/block-runner.js";
import { embedTokens } from "../../src/forward/embedding.js";
import { HiddenStates } from "../../src/forward/hidden-states.js";
import { readBlockWeights } from "../../src/forward/weights.js";
import { lookUp } from "../../src/look-up.js";
import { Stream } from "../../src/forward/stream.js";
import { tensorOf, type StateSpec } from "../../src/model/architecture.js";
import { openModel, type Model } from "../../src/model/open-model.js";
import { reconstruct } from "../../src/training/reconstruct.js";
import { copyFixture, fixturePath, fixtures, readJson } from "../helpers/architectures.js";
import { encodeSafetensors, temporaryDirectory, writeCheckpoint, type TestTensor } from "../helpers/checkpoints.js";
import { createTestContext } from "../helpers/engine.js";
import { readStates, runBlock, writeStates } from "../helpers/forward.js";
import { demoRun, stopAfter } from "../helpers/runs.js";
import { readTensors } from "../helpers/tensors.js";

const FOLDER = "gemma3n_text";
const [SEQUENCES, SEQLEN] = [5, 14]; // longer than its window
const IDS = Int32Array.from({ length: SEQUENCES * SEQLEN }, (_, i) => (i * i * 7 + i * 3) % 160);

async function runOf(t: TestContext, overrides: Partial<RunConfig>): Promise<RunConfig> {
  const fixture = fixtures().find(({ folder }) => folder === FOLDER) ?? assert.fail();
  const directory = temporaryDirectory(t);
  const file = join(directory, "ids.safetensors");
  const values = new Uint8Array(IDS.buffer);
  writeFileSync(file, encodeSafetensors({ ids: { dtype: "I32", shape: [SEQUENCES, SEQLEN], values } }));
  const model = await copyFixture(t, fixture, "config.json");
  const size = { nsamples: SEQUENCES, seqlen: SEQLEN };
  return demoRun(join(directory, "out"), { model, calibration: { file }, ...size, ...overrides });
}

/** What leaves block 0 of each of two checkpoints for the calibration's sequences, and of what its rows are made. */
async function firstBlockOf(
  t: TestContext,
  ...directories: readonly [string, string]
): Promise<{ readonly state: StateSpec; readonly left: readonly [Float32Array, Float32Array] }> {
  const left: Float32Array[] = [];
  for (const directory of directories) {
    await using model = await openModel(directory);
    await using states = await embedded(t, model);
    await using runner = new BlockRunner(model.architecture);
    const block = model.architecture.blocks[0] ?? assert.fail();
    const weights = await readBlockWeights(model.checkpoint, block);
    await new Stream(runner, states).pass(block, weights, { moves: true });
    left.push(await readStates(states, 0, SEQUENCES));
  }
  await using model = await openModel(directories[0]);
  return { state: model.architecture.state, left: left as [Float32Array, Float32Array] };
}

async function embedded(t: TestContext, model: Model): Promise<HiddenStates> {
  const states = await HiddenStates.create({
    ...{ sequences: SEQUENCES, tokens: SEQLEN, width: model.architecture.state.width },
    ...{ memoryBytes: 2 ** 24, scratchFile: join(temporaryDirectory(t), "states") },
  });
  const sequences = Array.from({ length: SEQUENCES }, (_, s) => IDS.subarray(s * SEQLEN, (s + 1) * SEQLEN));
  await embedTokens(model, sequences, states);
  return states;
}

/** Σ x² of the inputs of every linear, where each block sees what the weights of `directory` make in front of it. */
async function squaresOf(t: TestContext, source: string, directory: string): Promise<Map<string, Float64Array>> {
  await using dense = await openModel(source);
  await using before = await openModel(directory);
  const { architecture } = dense;
  await using states = await embedded(t, dense);
  await using runner = new BlockRunner(architecture);
  const squares = new Map<string, Float64Array>();
  for (const block of architecture.blocks) {
    const size = { batch: SEQUENCES, tokens: SEQLEN };
    const entering = await readStates(states, 0, SEQUENCES);
    const taps = { kind: "inputs", groups: block.groups.map(({ name }) => name) } as const;
    const own = await readBlockWeights(dense.checkpoint, block);
    const seen = await runBlock(runner, block, own, entering, size, { hidden: false, taps });
    for (const { name, inFeatures, linears } of block.groups) {
      const sums = new Float64Array(inFeatures);
      const [inputs = new Float32Array(0)] = lookUp(seen.taps, name).parts;
      inputs.forEach((value, i) => (sums[i % inFeatures] = (sums[i % inFeatures] ?? 0) + value * value));
      for (const linear of linears) squares.set(tensorOf(block, linear), sums);
    }
    const left = await readBlockWeights(before.checkpoint, block);
    const moved = await runBlock(runner, block, left, entering, size, { hidden: true, taps: undefined });
    await writeStates(states, 0, moved.hidden ?? assert.fail());
  }
  return squares;
}

const PROPAGATIONS: readonly Propagation[] = ["block", "dense"];

for (const propagation of PROPAGATIONS) {
  test(`${propagation} propagation: what streams, inputs of blocks and earlier keys say is what wanda goes by`, async (t) => {
    const run = await runOf(t, { propagation, memoryBytes: 0 }); // all through the scratch file
    await pruneModel(run, createTestContext());
    const squares = await squaresOf(t, run.model, propagation === "dense" ? run.model : run.out);
    const [before, after] = [run.model, run.out].map((each) => readTensors(join(each, "model.safetensors")));
    let rows = 0;
    for (const [tensor, sums] of squares) {
      const [dense, pruned] = [before, after].map((tensors) => lookUp(tensors ?? new Map(), tensor).values);
      const width = sums.length;
      for (let start = 0; start < (dense?.length ?? 0); start += width, rows++) {
        const own = [...(dense?.subarray(start, start + width) ?? [])];
        const order = own
          .map((weight, i) => [Math.abs(weight) * Math.sqrt(sums[i] ?? 0), i] as const)
          .sort((a, b) => a[0] - b[0])
          .slice(0, width / 2)
          .map(([, i]) => i);
        const expected = own.map((weight, i) => (order.includes(i) ? 0 : weight));
        assert.deepEqual(
          [...(pruned?.subarray(start, start + width) ?? [])],
          expected,
          `${tensor}, row ${start / width}`,
        );
      }
    }
    assert.ok(rows > 1000, `${rows} rows`);
  });
}

test("stopped between blocks that share keys and values, a run is resumed to the same bytes", async (t) => {
  for (const overrides of [
    { propagation: "block", memoryBytes: 2 ** 24 },
    { propagation: "dense", memoryBytes: 0 },
    { reproduce: "model", method: "sparsegpt", memoryBytes: 0 },
  ] satisfies Partial<RunConfig>[]) {
    const run = await runOf(t, overrides);
    await pruneModel(run, createTestContext());
    const bytes = ({ out }: RunConfig): Buffer => readFileSync(join(out, "model.safetensors"));
    const stopped = { ...run, out: `${run.out}-stopped` };
    await stopAfter(stopped, 3);
    const { resumedBlocks } = await pruneModel({ ...stopped, resume: true }, createTestContext());
    assert.equal(resumedBlocks, 3);
    assert.ok(bytes(stopped).equals(bytes(run)), JSON.stringify(overrides));
  }
});

test("keys and values that no forward reads stay as they are, and are told of", async (t) => {
  const names = ["k_proj", "v_proj", "k_norm"].map((name) => `model.layers.3.self_attn.${name}.weight`);
  const tensors: Record<string, TestTensor> = {};
  for (const [name, { shape, values }] of readTensors(fixturePath(FOLDER, "model.safetensors")))
    tensors[name] = { dtype: "F32", shape, values: Float32Array.from(values) };
  for (const name of names) tensors[name] = tensors[name.replace(".3.", ".1.")] ?? assert.fail();
  const model = join(temporaryDirectory(t), "model");
  await writeCheckpoint(model, { tensors, config: readJson<object>(fixturePath(FOLDER, "config.json")) });
  const lines: string[] = [];
  const context = createTestContext();
  const logger = { ...context.logger, info: (message: string) => void lines.push(message) };
  const run = await runOf(t, { model, method: "magnitude" });
  const { layers } = await pruneModel(run, { ...context, logger });
  const after = readTensors(join(run.out, "model.safetensors"));
  for (const name of names) {
    assert.deepEqual(lookUp(after, name).values, Float64Array.from(tensors[name]?.values ?? []), name);
    assert.ok(layers.every((layer) => `${layer.name}.weight` !== name));
  }
  assert.match(
    lines.join("\n"),
    /3 tensors that no forward reads, model\.layers\.3\.self_attn\.k_proj\.weight among them/,
  );
});

test("a block is trained towards hidden states alone: what is carried beside them is no part of its loss", async (t) => {
  const methodOptions = reconstruct.schema.parse({ epochs: 2, heldOut: 0, lr: 2e-3 });
  const run = await runOf(t, { method: "magnitude", then: [{ method: "reconstruct", methodOptions }] });
  const { training = [] } = await pruneModel(run, createTestContext());
  assert.deepEqual(
    training.map(({ name }) => name),
    [0, 1, 2, 3].map((block) => `model.layers.${block}`),
  );
  for (const { name, before, after } of training) assert.ok(after < before, `${name}: ${before} to ${after}`);

  const pruned = { ...run, out: `${run.out}-pruned`, then: [] };
  await pruneModel(pruned, createTestContext());
  const {
    state,
    left: [dense, own],
  } = await firstBlockOf(t, run.model, pruned.out);
  let [apart, all] = [0, 0];
  dense.forEach((value, i) => {
    if (i % state.width >= state.hidden) return;
    apart += (value - (own[i] ?? NaN)) ** 2;
    all += value ** 2;
  });
  const before = training[0]?.before ?? NaN;
  assert.ok(Math.abs(before / (apart / all) - 1) < 1e-4, `${before}, computed ${apart / all}`);
});
