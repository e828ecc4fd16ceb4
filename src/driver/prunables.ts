/**
 * Which linears a run prunes and what is fixed about them before any work: everything about selection, overrides, steps,
 * allocation and permutation that does not fit the model is found here, and reported at once.
 */
import type { FurtherStep, RunConfig } from "../contract.js";
import { ConfigError, type PruneError } from "../errors.js";
import { dependsOnMethod } from "../allocation/registry.js";
import type { Logger } from "../logging.js";
import type { Model } from "../model/open-model.js";
import { Problems } from "../problems.js";
import {
  compilePathPattern,
  overrideProblem,
  resolveOverrides,
  selectionProblem,
  selectLinears,
  type LinearSelection,
} from "./selection.js";
import { allocationProblem } from "./allocation/allocate.js";
import { SOLVERS } from "../solvers/registry.js";
import { permutationProblem } from "./transforms/permute-channels.js";

export interface Prunables {
  readonly selection: LinearSelection;
  /** Sparsity of the linears that an override matches. */
  readonly overrides: ReadonlyMap<string, number>;
}

/**
 * @param keptTensors tensors that are not to be pruned, whatever the patterns say
 * @throws UsageError, ConfigError naming all problems
 */
export function decidePrunables(
  config: RunConfig,
  { architecture, checkpoint }: Pick<Model, "architecture" | "checkpoint">,
  keptTensors?: ReadonlySet<string>,
): Prunables {
  const problems = new Problems();
  const compiles = (pattern: string, source: string): boolean =>
    problems.attempt(() => compilePathPattern(pattern, source)) !== undefined;
  const selection = selectLinears(
    architecture,
    config.ignore.filter((pattern) => compiles(pattern, "--ignore")),
    keptTensors,
    [...checkpoint.tensors.keys()].map((name) => name.replace(/\.(?:weight|bias)$/, "")),
  );
  const usable = config.overrides.filter(({ match }) => compiles(match, "overrides"));
  const resolved = resolveOverrides({ ...config, overrides: usable }, selection.selected);
  const idle = idleSteps(
    config.then.filter(({ match }) => match !== undefined && compiles(match, "then")),
    selection,
  );
  const allocated = new Set(
    selection.selected.map(({ name }) => name).filter((name) => !resolved.sparsities.has(name)),
  );
  const found = [
    selectionProblem(selection, config.pattern),
    overrideProblem(resolved),
    stepProblem(idle),
    allocationProblem(config, architecture.blocks, allocated),
    searchProblem(config),
    permutationProblem(config, architecture, new Set(selection.selected.map(({ name }) => name))),
  ];
  problems.add(...found);
  problems.throwAny();
  return { selection, overrides: resolved.sparsities };
}

/** Patterns that change nothing are no mistake: other tools need them. */
export function sayNeedless({ needlessPatterns }: LinearSelection, logger: Logger): void {
  for (const pattern of needlessPatterns)
    logger.info(`--ignore ${pattern}: never pruned, so the pattern changes nothing`);
}

/** A search prunes linears of the dense model by the run's method, and has no gradients of them. */
function searchProblem({ allocation, method, then }: RunConfig): PruneError | undefined {
  const looking = [method, ...then.map((step) => step.method)].find(
    (name) => SOLVERS.get(name)?.gradients !== undefined,
  );
  if (looking === undefined || !dependsOnMethod(allocation)) return undefined;
  return new ConfigError(
    "E_ALLOCATION",
    `--allocation ${allocation.rule}: its candidates are pruned by the run's method, and ${looking} looks at gradients, which they have not.`,
    {
      hint: `Let Wanda stand for it: --allocation ${allocation.rule}:proxy=wanda.`,
      details: { allocation, method: looking },
    },
  );
}

/** Patterns of further steps that no pruned linear matches. */
function idleSteps(steps: readonly FurtherStep[], { selected }: LinearSelection): string[] {
  return steps
    .flatMap(({ match }) => match ?? [])
    .filter((match) => {
      const expression = compilePathPattern(match, "then");
      return !selected.some(({ name }) => expression.test(name));
    });
}

function stepProblem(idle: readonly string[]): PruneError | undefined {
  if (idle.length === 0) return undefined;
  const problems = idle.map((match) => `then: "${match}" matches no linear that is pruned`);
  return new ConfigError("E_STEPS", `${problems.join("; ")}.`, {
    hint: "Patterns must match the whole module path, for example *.self_attn.*.",
    details: { problems },
  });
}
