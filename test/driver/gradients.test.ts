/** What a run tells methods of gradients: that of every linear's own weights in the dense model, whatever stores them. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import type { RunConfig, RunReport } from "../../src/contract.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { BlockRunner } from "../../src/forward/block-runner.js";
import { lookUp } from "../../src/look-up.js";
import { takeMatrix } from "../../src/model/logical-matrix.js";
import { openModel, type Model } from "../../src/model/open-model.js";
import { parsePattern, UNSTRUCTURED, type Pattern } from "../../src/sparsity/pattern.js";
import { pruneCount } from "../../src/sparsity/target.js";
import { collectGradients, type GradientSums } from "../../src/training/gradient-statistics.js";
import { stepStates } from "../../src/training/model-gradients.js";
import { fixturePath } from "../helpers/architectures.js";
import { encodeSafetensors, temporaryDirectory } from "../helpers/checkpoints.js";
import { assertSameMask } from "../helpers/compare.js";
import { createTestContext } from "../helpers/engine.js";
import { demoRun } from "../helpers/runs.js";
import { referenceSelectGroups, referenceSelectMatrix } from "../reference/selection.js";

interface Size {
  readonly nsamples: number;
  readonly seqlen: number;
}

function idsOf({ vocabularySize }: Model["architecture"], { nsamples, seqlen }: Size): Int32Array[] {
  return Array.from({ length: nsamples }, (_, s) =>
    Int32Array.from({ length: seqlen }, (_, i) => (s * 61 + i * i * 31 + 7 * i) % vocabularySize),
  );
}

/** A run of snip on these ids. */
async function runOf(directory: string, model: Model, size: Size, overrides: Partial<RunConfig>): Promise<RunConfig> {
  const file = join(directory, "ids.safetensors");
  const values = Buffer.concat(idsOf(model.architecture, size).map(({ buffer }) => new Uint8Array(buffer)));
  writeFileSync(file, encodeSafetensors({ ids: { dtype: "I32", shape: [size.nsamples, size.seqlen], values } }));
  const run = { model: model.directory, method: "snip", calibration: { file, tensor: "ids" }, ...size };
  return demoRun(join(directory, "out"), { ...run, ...overrides });
}

/** Σ |G| of every linear of a dense model, [outFeatures, inFeatures], by name. */
async function magnitudesOf(model: Model, size: Size, directory: string): Promise<Map<string, Float32Array>> {
  const { architecture } = model;
  await using runner = new BlockRunner(architecture);
  await using states = await stepStates(architecture, {
    ...{
      sequences: size.nsamples,
      tokens: size.seqlen,
      memoryBytes: 2 ** 26,
      scratchFile: join(directory, "apart.bin"),
    },
  });
  const found = new Map<string, Float32Array>();
  await collectGradients({
    ...{ model, runner, states, sequences: idsOf(architecture, size), statistics: ["gradient-magnitudes"] },
    rolesOf: ({ tensors }) => new Set(tensors.keys()),
    take(block, sums: GradientSums) {
      for (const linear of block.groups.flatMap(({ linears }) => linears)) {
        const stored = lookUp(lookUp(sums, "gradient-magnitudes"), linear.role);
        found.set(linear.name, takeMatrix(stored, lookUp(block.tensors, linear.role).shape, linear).slice());
      }
      return Promise.resolve();
    },
    onSequences: () => undefined,
  });
  return found;
}

/** A run keeps what |w| · Σ |G| says, |w| alone where no token came by, in every linear. */
async function assertSnipped(t: TestContext, folder: string, pattern: Pattern, size: Size): Promise<RunReport> {
  const directory = temporaryDirectory(t);
  await using dense = await openModel(fixturePath(folder));
  const config = await runOf(directory, dense, size, { sparsity: 0.5, pattern, memoryBytes: 20_000 });
  const report = await pruneModel(config, createTestContext());
  await using pruned = await openCheckpoint(config.out);
  const magnitudes = await magnitudesOf(dense, size, directory);
  for (const block of dense.architecture.blocks) {
    for (const linear of block.groups.flatMap(({ linears }) => linears)) {
      const { outFeatures: rows, inFeatures: columns, role, name } = linear;
      const { tensor, shape } = lookUp(block.tensors, role);
      const weight = takeMatrix(await dense.checkpoint.readTensor(tensor), shape, linear);
      const gradients = lookUp(magnitudes, name);
      const isReached = gradients.some((value) => value !== 0);
      const scores = Float64Array.from(weight, (value, i) =>
        Math.fround(Math.abs(value) * (isReached ? (gradients[i] as number) : 1)),
      );
      const expected =
        pattern.kind === "n-of-m"
          ? referenceSelectGroups(scores, rows, columns, pattern.keep, pattern.group)
          : referenceSelectMatrix(scores, rows, columns, pruneCount(rows * columns, 0.5));
      const values = takeMatrix(await pruned.readTensor(tensor), shape, linear);
      assertSameMask(
        Uint8Array.from(values, (value) => Number(value !== 0)),
        expected,
        columns,
        name,
      );
    }
  }
  return report;
}

for (const { folder, pattern } of [
  { folder: "llama", pattern: UNSTRUCTURED },
  { folder: "gpt_neox", pattern: UNSTRUCTURED }, // q, k and v in one tensor
  { folder: "gpt2", pattern: parsePattern("2:4") }, // and inputs along its first axis
]) {
  test(`${folder}: a run's masks are those of the dense model's gradients`, async (t) => {
    await assertSnipped(t, folder, pattern, { nsamples: 4, seqlen: 12 });
  });
}

test("experts that no token reached are pruned by magnitude and said to be, or left dense", async (t) => {
  const size = { nsamples: 1, seqlen: 3 };
  const { layers } = await assertSnipped(t, "qwen3_moe", parsePattern("2:4"), size);
  const starved = layers.filter(({ tokens }) => tokens !== undefined);
  assert.ok(starved.length > 0 && starved.length < layers.length, `${starved.length} of ${layers.length}`);
  for (const layer of starved) assert.deepEqual([layer.tokens, layer.starved], [0, "magnitude"], layer.name);
  await using model = await openModel(fixturePath("qwen3_moe"));
  const config = await runOf(temporaryDirectory(t), model, size, { starved: "skip" });
  const skipped = (await pruneModel(config, createTestContext())).layers.filter((layer) => layer.starved === "skip");
  assert.deepEqual(
    skipped.map(({ name, zeros }) => [name, zeros]),
    starved.map(({ name }) => [name, 0]),
  );
});
