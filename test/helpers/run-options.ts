/** For every option of the table that a run's configuration holds, a value that is not the default's, with what it needs. */
import type { RunConfig } from "../../src/contract.js";
import { fieldOf, RUN_OPTION_LIST, type RunOptionKey } from "../../src/options/run-options.js";
import { allocationSchema } from "../../src/allocation/registry.js";
import { parsePattern } from "../../src/sparsity/pattern.js";
import { fixturePath } from "./architectures.js";
import { repositoryPath } from "./paths.js";

const CG_UPDATE = { method: "cg-update", methodOptions: { damping: 0.02, steps: 3 }, match: "*.up_proj" };

/** A new option without a line here fails the tests that go through the table. */
const SAMPLES: Partial<Record<RunOptionKey, Partial<RunConfig>>> = {
  model: { model: fixturePath("llama") },
  family: { family: "llama" },
  out: { out: "/elsewhere" },
  force: { force: true },
  method: { method: "ria" },
  methodOptions: { methodOptions: { variant: "alpha" } },
  then: { then: [CG_UPDATE] },
  sparsity: { sparsity: 0.3 },
  pattern: { pattern: parsePattern("2:4") },
  permutation: { permutation: "channels", pattern: parsePattern("2:4") },
  allocation: { allocation: allocationSchema.parse({ rule: "atp", beta: 0.003 }) },
  overrides: { overrides: [{ match: "*.o_proj", sparsity: 0.2 }] },
  ignore: { ignore: ["*.k_proj"] },
  allowNonFinite: { allowNonFinite: true },
  calibration: {
    calibration: { file: repositoryPath("test/fixtures/models/demo-self.safetensors"), tensor: "evaluation" },
  },
  textField: { textField: "text" },
  saveMask: { saveMask: "/elsewhere/mask.safetensors" },
  nsamples: { nsamples: 3 },
  seqlen: { seqlen: 48 },
  seed: { seed: 5 },
  propagation: { propagation: "group" },
  reproduce: { reproduce: "model", propagation: "group" },
  starved: { starved: "skip" },
  device: { device: "auto" },
  memory: { memoryBytes: 12345 },
  measureLoss: { measureLoss: true },
  resume: { resume: true },
};

/** Options that a run's configuration holds, each with its sample; undefined where there is none. */
export function optionSamples(): readonly (readonly [RunOptionKey, Partial<RunConfig> | undefined])[] {
  return RUN_OPTION_LIST.flatMap(([key]) => (fieldOf(key) === undefined ? [] : [[key, SAMPLES[key]] as const]));
}
