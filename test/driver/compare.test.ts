/** Sweeps: every cell is there, equals a run by hand, and an interrupted sweep goes on where it was. */
import assert from "node:assert/strict";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import type { ComparedAllocation, ComparisonConfig, ComparisonRow, LayerReport } from "../../src/contract.js";
import { compareMethods } from "../../src/driver/compare.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { ConfigError, InterruptedError, PruneError, ResourceError } from "../../src/errors.js";
import { evaluatePerplexity, memoryForStates } from "../../src/evaluation/perplexity.js";
import { allocationSchema, UNIFORM } from "../../src/allocation/registry.js";
import { parsePattern, UNSTRUCTURED } from "../../src/sparsity/pattern.js";
import { fixturePath } from "../helpers/architectures.js";
import { encodeSafetensors, temporaryDirectory } from "../helpers/checkpoints.js";
import { createTestContext } from "../helpers/engine.js";
import { repositoryPath } from "../helpers/paths.js";
import { demoRun } from "../helpers/runs.js";
import { mountSmallDisk, NO_DISK } from "../helpers/small-disk.js";

const TEXT = { file: repositoryPath("test/fixtures/models/demo-self.safetensors"), tensor: "evaluation" };

function sweep(workDirectory: string, overrides: Partial<ComparisonConfig> = {}): ComparisonConfig {
  return {
    run: demoRun("", { nsamples: 4, seqlen: 64, measureLoss: true }),
    methods: ["magnitude", "wanda"].map((method) => ({ label: method, method, methodOptions: {}, then: [] })),
    targets: [
      { pattern: UNSTRUCTURED, sparsity: 0.6 },
      { pattern: parsePattern("2:4"), sparsity: 0.5 },
    ],
    allocations: [{ label: "uniform", allocation: UNIFORM }],
    text: TEXT,
    seqlen: 256,
    maxWindows: 4,
    workDirectory,
    resume: false,
    ...overrides,
  };
}

/** A sweep over a model so small that a cell takes a fraction of a second. */
function tinySweep(t: TestContext, workDirectory: string, overrides: Partial<ComparisonConfig> = {}): ComparisonConfig {
  const file = join(temporaryDirectory(t), "ids.safetensors");
  const ids = Int32Array.from({ length: 6 * 24 }, (_, i) => (i * i * 7 + i * 3) % 160);
  const values = new Uint8Array(ids.buffer);
  writeFileSync(file, encodeSafetensors({ ids: { dtype: "I32", shape: [6, 24], values } }));
  const tiny = { model: fixturePath("llama"), calibration: { file }, nsamples: 6, seqlen: 24, measureLoss: true };
  return sweep(workDirectory, { run: demoRun("", tiny), text: { file }, seqlen: 24, ...overrides });
}

const OWL: ComparedAllocation = { label: "owl:M=2", allocation: allocationSchema.parse({ rule: "owl", M: 2 }) };
const SPREAD = [{ label: "uniform", allocation: UNIFORM }, OWL];

const withoutTimes = (rows: readonly ComparisonRow[]): unknown[] =>
  rows.map((row) => ({
    ...row,
    seconds: 0,
    peakRssBytes: 0,
    layers: row.layers.map((layer) => ({ ...layer, seconds: 0 })),
  }));

test("a sweep's rows are those of single runs, worse than dense and in the asked order", async (t) => {
  const directory = temporaryDirectory(t);
  const { rows, dense } = await compareMethods(sweep(join(directory, "work")), createTestContext());
  assert.deepEqual(
    rows.map(({ method, pattern }) => [method, pattern]),
    [
      ["magnitude", "unstructured"],
      ["magnitude", "2:4"],
      ["wanda", "unstructured"],
      ["wanda", "2:4"],
    ],
  );
  for (const row of rows) {
    assert.ok(row.perplexity > dense.perplexity && row.klDivergence.value > 0.01 && row.top1Agreement.value < 1);
    assert.ok(Math.abs(row.perplexityRatio.value - row.perplexity / dense.perplexity) < 1e-9);
    assert.ok(row.peakRssBytes > 2 ** 26 && row.seconds > 0);
    const errors = row.layers.map(({ reconstruction }) => reconstruction?.relative ?? NaN);
    assert.equal(errors.length, 42);
    assert.ok(Math.abs(row.loss - errors.reduce((sum, error) => sum + error, 0) / errors.length) < 1e-12);
  }
  const out = join(directory, "single");
  await pruneModel(demoRun(out, { nsamples: 4, seqlen: 64, sparsity: 0.6 }), createTestContext());
  const single = await evaluatePerplexity({ model: out, text: TEXT, seqlen: 256, maxWindows: 4 }, createTestContext());
  assert.equal(rows[2]?.perplexity, single.perplexity);
  assert.ok(!existsSync(join(directory, "work", "pruned")), "pruned models are thrown away");
});

test("allocations are an axis of unstructured cells, worked out once and equal to those of single runs", async (t) => {
  const directory = temporaryDirectory(t);
  const config = tinySweep(t, join(directory, "work"), { allocations: SPREAD });
  const context = createTestContext();
  const { rows } = await compareMethods(config, context);
  assert.deepEqual(
    rows.map(({ method, pattern, allocation }) => [method, pattern, allocation]),
    ["magnitude", "wanda"].flatMap((method) => [
      [method, "unstructured", "uniform"],
      [method, "unstructured", "owl:M=2"],
      [method, "2:4", "uniform"],
    ]),
  );
  const allocating = context.events.filter((event) => event.type === "stage" && event.stage.startsWith("allocation"));
  assert.equal(allocating.length, 3, "one dense pass over the three blocks");
  for (const row of rows.filter(({ allocation }) => allocation !== "uniform")) {
    const out = join(directory, row.method);
    const cell = { method: row.method, sparsity: 0.6, allocation: OWL.allocation };
    const single = await pruneModel({ ...config.run, ...cell, out }, createTestContext());
    const layers = ({ name, zeros, reconstruction }: LayerReport): unknown => ({ name, zeros, reconstruction });
    assert.deepEqual(row.layers.map(layers), single.layers.map(layers));
    assert.ok(new Set(row.layers.map(({ zeros, elements }) => (zeros / elements).toFixed(3))).size > 1);
  }
});

test("under dense propagation each kind of statistics is collected once, and rows are still those of single runs", async (t) => {
  const directory = temporaryDirectory(t);
  const methods = ["wanda", "magnitude", "sparsegpt", "admm"].map((method) => ({
    ...{ label: method, method, methodOptions: {}, then: [] },
  }));
  const workDirectory = join(directory, "work");
  const base = tinySweep(t, workDirectory, { methods });
  const config = { ...base, run: { ...base.run, propagation: "dense" as const } };
  const context = createTestContext();
  const { rows } = await compareMethods(config, context);
  assert.equal(rows.length, 8);
  const passes = context.events.filter((event) => event.type === "stage" && event.stage === "statistics");
  assert.equal(passes.length, 2 * 3, "column norms and Gram matrices of three blocks");
  assert.ok(!existsSync(workDirectory), "nothing is left");
  for (const row of rows) {
    const target = row.pattern === "2:4" ? { pattern: parsePattern("2:4"), sparsity: 0.5 } : { sparsity: 0.6 };
    const run = { ...config.run, ...target, method: row.method, out: join(directory, "single"), force: true };
    const single = await pruneModel(run, createTestContext());
    const layers = ({ seconds: _, ...layer }: LayerReport): unknown => layer;
    assert.deepEqual(row.layers.map(layers), single.layers.map(layers), `${row.method} ${row.pattern}`);
  }
});

test("an interrupted sweep resumes to the same rows, and not with other settings", async (t) => {
  const allocations = SPREAD;
  const whole = await compareMethods(tinySweep(t, temporaryDirectory(t), { allocations }), createTestContext());
  const workDirectory = temporaryDirectory(t);
  const interrupted = (overrides: Partial<ComparisonConfig> = {}): ComparisonConfig =>
    tinySweep(t, workDirectory, { allocations, ...overrides });
  let cells = 0;
  const stop = { requested: () => (cells >= 2 ? ("SIGINT" as const) : undefined) };
  const context = {
    ...createTestContext({ stop }),
    emit: (event: { type: string }) => void (cells += Number(event.type === "cell")),
  };
  await assert.rejects(
    compareMethods(interrupted(), context),
    (error) => error instanceof InterruptedError && error.details["resumable"] === true,
  );
  await assert.rejects(
    compareMethods(interrupted({ resume: true, maxWindows: 2 }), createTestContext()),
    (error) => error instanceof PruneError && error.code === "E_FINGERPRINT",
  );
  const resumed = await compareMethods(interrupted({ resume: true }), createTestContext());
  assert.equal(resumed.resumedRows, 2);
  assert.deepEqual(withoutTimes(resumed.rows), withoutTimes(whole.rows));
});

test("a pattern that does not fit and an ignore that matches nothing are found before anything is evaluated", async (t) => {
  const wide = [{ pattern: parsePattern("3:5"), sparsity: 0.4 }];
  const context = createTestContext();
  await assert.rejects(compareMethods(tinySweep(t, temporaryDirectory(t), { targets: wide }), context), ConfigError);
  const config = tinySweep(t, temporaryDirectory(t));
  const run = { ...config.run, ignore: ["*.dwn_proj"] };
  await assert.rejects(compareMethods({ ...config, run }, context), ConfigError);
  assert.deepEqual(context.events, []);
});

test("a sweep that has no room is refused before the dense model is evaluated", async (t) => {
  const disk = mountSmallDisk(t, 1 << 20); // the demo model has ten times as much
  if (disk === undefined) return t.skip(NO_DISK);
  const context = createTestContext();
  await assert.rejects(compareMethods(sweep(join(disk, "work")), context), (error: unknown) => {
    assert.ok(error instanceof ResourceError && error.code === "E_DISK_FULL", String(error));
    assert.match(error.hint ?? "", /another --work/);
    return true;
  });
  const evaluated = context.events.filter(({ type }) => type === "windows");
  assert.deepEqual(evaluated, []);
});

test("memory for hidden states is shared out by halves", () => {
  const [first = 0, second = 0] = memoryForStates(2);
  assert.equal(second, first / 2);
  assert.ok(first > 0);
});
