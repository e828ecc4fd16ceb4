/** An interrupted run or sweep is resumed with the same options only, whichever option it is that differs. */
import assert from "node:assert/strict";
import { cpSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { ComparisonConfig, RunConfig } from "../../src/contract.js";
import { compareMethods } from "../../src/driver/compare.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { InterruptedError, PruneError } from "../../src/errors.js";
import { RUN_OPTIONS, type RunOptionKey } from "../../src/options/run-options.js";
import { UNIFORM } from "../../src/allocation/registry.js";
import { UNSTRUCTURED } from "../../src/sparsity/pattern.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { createTestContext } from "../helpers/engine.js";
import { repositoryPath } from "../helpers/paths.js";
import { optionSamples } from "../helpers/run-options.js";
import { demoRun } from "../helpers/runs.js";

/** A context that stops the engine after the first event of a type. */
function stoppedAfter(type: "block" | "cell"): ReturnType<typeof createTestContext> {
  const context = createTestContext({
    stop: { requested: () => (context.events.some((event) => event.type === type) ? "SIGINT" : undefined) },
  });
  return context;
}

const decidesByItself = (key: RunOptionKey): boolean => RUN_OPTIONS[key].decides === "result";
const isRefusal = (error: unknown): boolean => error instanceof PruneError && error.code === "E_FINGERPRINT";

test("a run is not resumed with another value of any option that decides its result", async (t) => {
  const directory = temporaryDirectory(t);
  const first = demoRun(join(directory, "first"));
  await assert.rejects(pruneModel(first, stoppedAfter("block")), InterruptedError);
  for (const [key, sample] of optionSamples()) {
    if (!decidesByItself(key) && key !== "calibration") continue;
    const resumed: RunConfig = { ...first, ...sample, resume: true };
    await assert.rejects(
      pruneModel(resumed, createTestContext()),
      (error) => isRefusal(error) && ((error as PruneError).details["differing"] as string[]).includes(key),
      key,
    );
  }
});

test("a run is resumed elsewhere, with more memory, by its family's name", async (t) => {
  const directory = temporaryDirectory(t);
  const first = demoRun(join(directory, "first"));
  await assert.rejects(pruneModel(first, stoppedAfter("block")), InterruptedError);
  const out = join(directory, "moved");
  cpSync(join(directory, "first.partial"), `${out}.partial`, { recursive: true });
  const others = { out, memoryBytes: first.memoryBytes * 2, family: "llama" };
  const { resumedBlocks } = await pruneModel({ ...first, ...others, resume: true }, createTestContext());
  assert.equal(resumedBlocks, 1);
});

test("a sweep is not resumed with another value of any option that its cells share", async (t) => {
  const work = join(temporaryDirectory(t), "work");
  const run = demoRun("", { measureLoss: true });
  const sweep: ComparisonConfig = {
    run,
    methods: ["magnitude", "wanda"].map((method) => ({ label: method, method, methodOptions: {}, then: [] })),
    targets: [{ pattern: UNSTRUCTURED, sparsity: 0.6, permutation: "none" }],
    allocations: [{ label: "uniform", allocation: UNIFORM }],
    text: { file: repositoryPath("test/fixtures/models/demo-self.safetensors"), tensor: "evaluation" },
    seqlen: 64,
    maxWindows: 1,
    workDirectory: work,
    resume: false,
  };
  await assert.rejects(compareMethods(sweep, stoppedAfter("cell")), InterruptedError);
  for (const [key, sample] of optionSamples()) {
    const isShared = RUN_OPTIONS[key].compare === "shared";
    if (!isShared || !(decidesByItself(key) || RUN_OPTIONS[key].decides === "place" || key === "calibration")) continue;
    const resumed = { ...sweep, run: { ...run, ...sample }, resume: true };
    await assert.rejects(compareMethods(resumed, createTestContext()), isRefusal, key);
  }
  const { resumedRows } = await compareMethods({ ...sweep, resume: true }, createTestContext());
  assert.equal(resumedRows, 1);
});
