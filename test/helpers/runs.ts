/** Small, complete run configurations over the demo model. */
import type { RunConfig } from "../../src/contract.js";
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
