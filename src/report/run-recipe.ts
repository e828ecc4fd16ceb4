/** A resolved run as a recipe that repeats it: left in the output of every run. */
import { stringify } from "yaml";
import type { FurtherStep, RunConfig } from "../contract.js";
import { formatPattern } from "../sparsity/pattern.js";

/** The text of recipe.yaml. Paths are absolute, all defaults are filled in; the output, which may be moved, is not named. */
export function formatRecipe(config: RunConfig): string {
  const { calibration, nsamples, seqlen, seed } = config;
  const tensor = calibration?.tensor === undefined ? "" : `#${calibration.tensor}`;
  const step = ({ method, methodOptions, match }: FurtherStep): object => ({
    name: method,
    options: methodOptions,
    ...(match === undefined ? {} : { match }),
  });
  return stringify({
    version: 1,
    model: config.model,
    method: step(config),
    ...(config.then.length === 0 ? {} : { then: config.then.map(step) }),
    sparsity: config.sparsity,
    pattern: formatPattern(config.pattern),
    permutation: config.permutation,
    allocation: config.allocation,
    ...(config.overrides.length === 0 ? {} : { overrides: config.overrides }),
    ...(config.ignore.length === 0 ? {} : { ignore: config.ignore }),
    ...(calibration === undefined
      ? {}
      : { calibration: { file: `${calibration.file}${tensor}`, nsamples, seqlen, seed } }),
    propagation: config.propagation,
    reproduce: config.reproduce,
    starved: config.starved,
    device: config.device,
  });
}
