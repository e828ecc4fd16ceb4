/** Small, complete run configurations over the demo model, and runs that are stopped. */
import assert from "node:assert/strict";
import type { RunConfig } from "../../src/contract.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { InterruptedError } from "../../src/errors.js";
import { createTestContext } from "./engine.js";
import { UNIFORM } from "../../src/allocation/registry.js";
import { UNSTRUCTURED } from "../../src/sparsity/pattern.js";
import { repositoryPath } from "./paths.js";

/** A quick run of the demo model; override what the test is about. */
export function demoRun(out: string, overrides: Partial<RunConfig> = {}): RunConfig {
  return {
    model: repositoryPath("models/demo"),
    out,
    force: false,
    resume: false,
    method: "wanda",
    methodOptions: {},
    sparsity: 0.5,
    pattern: UNSTRUCTURED,
    permutation: "none",
    allocation: UNIFORM,
    overrides: [],
    then: [],
    calibration: { file: repositoryPath("test/fixtures/models/demo-self.safetensors"), tensor: "calib" },
    nsamples: 4,
    seqlen: 64,
    seed: 0,
    device: "cpu",
    ignore: [],
    propagation: "block",
    starved: "all-tokens",
    memoryBytes: 2 ** 28,
    reproduce: "layer",
    measureLoss: false,
    allowNonFinite: false,
    ...overrides,
  };
}

/** A run that is stopped when so many of its blocks are finished. */
export async function stopAfter(config: RunConfig, blocks: number): Promise<void> {
  let finished = 0;
  const stopping = {
    ...createTestContext({ stop: { requested: () => (finished === blocks ? "SIGINT" : undefined) } }),
    emit: ({ type }: { readonly type: string }) => void (finished += Number(type === "block")),
  };
  await assert.rejects(pruneModel(config, stopping), InterruptedError);
}
