/**
 * `--permutation channels` end to end. The strongest statement is about all of it at once: a permuted run of a model is
 * an ordinary run of that model with its channels already in that order.
 */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import { createOutput } from "../../src/checkpoint/output.js";
import type { RunConfig, RunReport } from "../../src/contract.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { readBlockWeights } from "../../src/forward/weights.js";
import { reorderChannels } from "../../src/model/channel-order.js";
import { lookUp } from "../../src/look-up.js";
import { takeMatrix } from "../../src/model/logical-matrix.js";
import { openModel } from "../../src/model/open-model.js";
import { parsePattern } from "../../src/sparsity/pattern.js";
import { copyFixture, fixtures, type Fixture } from "../helpers/architectures.js";
import { encodeSafetensors, temporaryDirectory } from "../helpers/checkpoints.js";
import { findTestAdapter } from "../helpers/adapter.js";
import { createTestContext } from "../helpers/engine.js";
import { demoRun } from "../helpers/runs.js";

const NSAMPLES = 6;
const SEQLEN = 16;

type Tensors = ReadonlyMap<string, Float32Array>;

function fixture(name: string): Fixture {
  const found = fixtures().find(({ folder }) => folder === name);
  assert.ok(found, name);
  return found;
}

async function prune(
  t: TestContext,
  model: string,
  overrides: Partial<RunConfig>,
): Promise<{ readonly out: string; readonly report: RunReport }> {
  const directory = temporaryDirectory(t);
  const calibration = { file: join(directory, "ids.safetensors") };
  const ids = Int32Array.from({ length: NSAMPLES * SEQLEN }, (_, i) => (i * i * 7 + i * 3) % 90);
  const values = new Uint8Array(ids.buffer);
  writeFileSync(calibration.file, encodeSafetensors({ ids: { dtype: "I32", shape: [NSAMPLES, SEQLEN], values } }));
  const shape = { nsamples: NSAMPLES, seqlen: SEQLEN, sparsity: 0.5, pattern: parsePattern("2:4") };
  const out = join(directory, "out");
  const report = await pruneModel(demoRun(out, { model, calibration, ...shape, ...overrides }), createTestContext());
  return { out, report };
}

async function readAll(directory: string): Promise<Tensors> {
  await using checkpoint = await openCheckpoint(directory);
  const tensors = new Map<string, Float32Array>();
  for (const name of checkpoint.tensors.keys()) tensors.set(name, await checkpoint.readTensor(name));
  return tensors;
}

/** Where every row of `rows` is in `source`, or undefined where rows are alike. */
function findRows(rows: Float32Array, source: Float32Array, count: number): Int32Array {
  const width = rows.length / count;
  const keyOf = (values: Float32Array, row: number): string =>
    values.subarray(row * width, (row + 1) * width).join(",");
  const places = new Map(Array.from({ length: count }, (_, row) => [keyOf(source, row), row]));
  assert.equal(places.size, count, "rows are told apart by their values");
  return Int32Array.from({ length: count }, (_, row) => {
    const place = places.get(keyOf(rows, row));
    assert.ok(place !== undefined, `row ${row} is none of the source's`);
    return place;
  });
}

/** The source in the order that a run found, nothing pruned: read off a producer that the run left dense. */
async function rearrange(t: TestContext, source: string, pruned: Tensors): Promise<{ out: string; moved: number }> {
  const out = join(temporaryDirectory(t), "rearranged");
  await using model = await openModel(source);
  const { checkpoint, architecture } = model;
  await using output = await createOutput({ source: checkpoint, out, force: false, resume: false });
  let moved = 0;
  for (const block of architecture.blocks) {
    const weights = await readBlockWeights(checkpoint, block);
    for (const group of block.groups) {
      const [producer] = group.producers ?? [];
      if (producer === undefined) continue;
      const { tensor, shape } = lookUp(block.tensors, producer.role);
      const found = takeMatrix(lookUp(pruned, tensor), shape, producer);
      const order = findRows(found, takeMatrix(lookUp(weights, producer.role), shape, producer), group.inFeatures);
      moved += order.reduce((count, channel, place) => count + Number(channel !== place), 0);
      reorderChannels(block, weights, group, order);
    }
    for (const [role, values] of weights) await output.writeTensor(lookUp(block.tensors, role).tensor, values);
  }
  await output.finish({ remove: [] });
  return { out, moved };
}

/** Two zeros in every four inputs of every linear that the report names, in the order they are stored in. */
async function assertTwoOfFour(source: string, report: RunReport, tensors: Tensors): Promise<void> {
  await using model = await openModel(source);
  const pruned = new Set(report.layers.map(({ name }) => name));
  for (const block of model.architecture.blocks) {
    for (const linear of block.groups.flatMap(({ linears }) => linears).filter(({ name }) => pruned.has(name))) {
      const { tensor, shape } = lookUp(block.tensors, linear.role);
      const matrix = takeMatrix(lookUp(tensors, tensor), shape, linear);
      for (let first = 0; first < matrix.length; first += 4)
        assert.equal(matrix.subarray(first, first + 4).filter((value) => value === 0).length, 2, linear.name);
    }
  }
}

/** Zeros that differ, and the largest difference relative to the largest value. */
function compareTensors(
  a: Tensors,
  b: Tensors,
): { readonly zeros: number; readonly error: number; readonly all: number } {
  let [zeros, error, all] = [0, 0, 0];
  for (const [name, values] of a) {
    const other = lookUp(b, name);
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    values.forEach((value, i) => {
      const expected = other[i] ?? NaN;
      if ((value === 0) !== (expected === 0)) zeros++;
      else error = Math.max(error, Math.abs(value - expected) / largest);
    });
    all += values.length;
  }
  return { zeros, error, all };
}

interface Case {
  readonly folder: string;
  /** What leaves the producers of permuted inputs dense, so that the order can be read off them. */
  readonly ignore: readonly string[];
  readonly run: Partial<RunConfig>;
}

async function assertSameAsRearranged(t: TestContext, { folder, ignore, run }: Case): Promise<void> {
  const source = await copyFixture(t, fixture(folder), "config.json");
  const permuted = await prune(t, source, { ...run, ignore, permutation: "channels" });
  const tensors = await readAll(permuted.out);
  await assertTwoOfFour(source, permuted.report, tensors);
  const { out: rearranged, moved } = await rearrange(t, source, tensors);
  assert.ok(moved > 0, "channels changed places");
  const ordinary = await prune(t, rearranged, { ...run, ignore });
  const { zeros, error, all } = compareTensors(tensors, await readAll(ordinary.out));
  // Statistics may be summed in another order; here they are not: no zero differs, values by 1e-5 at most (dense).
  assert.ok(zeros <= all * 1e-4 && error < 1e-4, `${zeros} zeros differ, values by ${error}`);
}

const GATED = ["*.gate_proj", "*.up_proj"];
const DSNOT = [{ method: "dsnot", methodOptions: {} }];
const CASES: readonly Case[] = [
  { folder: "llama", ignore: GATED, run: { method: "sparsegpt" } },
  { folder: "llama", ignore: GATED, run: { method: "sparsegpt", propagation: "group" } },
  { folder: "llama", ignore: GATED, run: { method: "sparsegpt", propagation: "dense" } },
  { folder: "llama", ignore: GATED, run: { method: "sparsegpt", propagation: "group", reproduce: "model" } },
  { folder: "llama", ignore: GATED, run: { method: "wanda", then: DSNOT } },
  { folder: "qwen3_moe", ignore: GATED, run: { method: "sparsegpt", propagation: "group" } },
  { folder: "qwen3_moe", ignore: GATED, run: { method: "ria", starved: "magnitude" } },
  { folder: "llama", ignore: GATED, run: { method: "snip" } },
  { folder: "qwen3_moe", ignore: GATED, run: { method: "gblm" } },
  { folder: "gpt2", ignore: ["*.c_fc"], run: { method: "wanda" } },
  { folder: "phi3", ignore: ["*.gate_up_proj.*"], run: { method: "wanda" } },
];
for (const each of CASES) {
  test(`${each.folder}: ${JSON.stringify(each.run)} permuted is the same run of the permuted model`, (t) =>
    assertSameAsRearranged(t, each));
}

test("on webgpu: sparsegpt permuted is the same run of the permuted model", async (t) => {
  const adapter = await findTestAdapter();
  const ignore = [...GATED, "model.layers.1.*", "model.layers.2.*"];
  const run = { method: "sparsegpt", device: "webgpu" } as const;
  if (adapter.available) await assertSameAsRearranged(t, { folder: "llama", ignore, run });
  else t.skip(adapter.reason);
});

test("without activations the score is the magnitude, and the report says how much of it is retained", async (t) => {
  const source = await copyFixture(t, fixture("llama"), "config.json");
  const { out, report } = await prune(t, source, { method: "magnitude", permutation: "channels" });
  const [before, after] = [await readAll(source), await readAll(out)];
  const sumOf = (values: Float32Array): number => values.reduce((sum, value) => sum + Math.abs(value), 0);
  for (const { name, permutation } of report.layers) {
    assert.equal(permutation !== undefined, name.endsWith("down_proj"), name);
    if (permutation === undefined) continue;
    const retained = sumOf(lookUp(after, `${name}.weight`)) / sumOf(lookUp(before, `${name}.weight`));
    assert.ok(Math.abs(permutation.retained - retained) < 1e-6, `${name}: ${permutation.retained}, ${retained}`);
    assert.ok(permutation.retained > permutation.before);
  }
});

test("a run whose permutation would change nothing is refused", async (t) => {
  const source = await copyFixture(t, fixture("llama"), "config.json");
  const config = { permutation: "channels", ignore: ["*.down_proj"] } as const;
  await assert.rejects(prune(t, source, config), { code: "E_PERMUTATION_NOTHING" });
});
