/** Small, complete run configurations over the demo model. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import type { RunConfig } from "../../src/contract.js";
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
    calibration: { file: repositoryPath("test/fixtures/models/demo-self.safetensors"), tensor: "calib" },
    nsamples: 4,
    seqlen: 64,
    seed: 0,
    device: "cpu",
    ignore: [],
    propagation: "block",
    memoryBytes: 2 ** 28,
    ...overrides,
  };
}

/** A directory that is removed after the test. */
export async function scratchDirectory(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "prune-test-"));
  t.after(() => rm(directory, { recursive: true, force: true }));
  return directory;
}
