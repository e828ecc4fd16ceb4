/** Sweeps: every cell is there, equals a run by hand, and an interrupted sweep goes on where it was. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { ComparisonConfig, ComparisonRow } from "../../src/contract.js";
import { compareMethods } from "../../src/driver/compare.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { InterruptedError, PruneError } from "../../src/errors.js";
import { evaluatePerplexity } from "../../src/evaluation/perplexity.js";
import { UNIFORM } from "../../src/sparsity/allocation/schema.js";
import { parsePattern, UNSTRUCTURED } from "../../src/sparsity/pattern.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { createTestContext } from "../helpers/engine.js";
import { repositoryPath } from "../helpers/paths.js";
import { demoRun } from "../helpers/runs.js";

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

const withoutTimes = (rows: readonly ComparisonRow[]): unknown[] =>
  rows.map((row) => ({ ...row, seconds: 0, peakRssBytes: 0 }));

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
  }
  const out = join(directory, "single");
  await pruneModel(demoRun(out, { nsamples: 4, seqlen: 64, sparsity: 0.6 }), createTestContext());
  const single = await evaluatePerplexity({ model: out, text: TEXT, seqlen: 256, maxWindows: 4 }, createTestContext());
  assert.equal(rows[2]?.perplexity, single.perplexity);
  assert.ok(!existsSync(join(directory, "work", "pruned")), "pruned models are thrown away");
});

test("an interrupted sweep resumes to the same rows, and not with other settings", async (t) => {
  const whole = await compareMethods(sweep(temporaryDirectory(t)), createTestContext());
  const workDirectory = temporaryDirectory(t);
  let cells = 0;
  const stop = { requested: () => (cells >= 2 ? ("SIGINT" as const) : undefined) };
  const context = {
    ...createTestContext({ stop }),
    emit: (event: { type: string }) => void (cells += Number(event.type === "cell")),
  };
  await assert.rejects(
    compareMethods(sweep(workDirectory), context),
    (error) => error instanceof InterruptedError && error.details["resumable"] === true,
  );
  await assert.rejects(
    compareMethods(sweep(workDirectory, { resume: true, seqlen: 128 }), createTestContext()),
    (error) => error instanceof PruneError && ["E_FINGERPRINT", "E_TOKEN_ROWS"].includes(error.code),
  );
  const resumed = await compareMethods(sweep(workDirectory, { resume: true }), createTestContext());
  assert.equal(resumed.resumedRows, 2);
  assert.deepEqual(withoutTimes(resumed.rows), withoutTimes(whole.rows));
});
