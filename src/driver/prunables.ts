/**
 * Which linears a run prunes and what is fixed about them before any work: everything about selection, overrides,
 * allocation and permutation that does not fit the model is found here, and reported at once.
 */
import type { RunConfig } from "../contract.js";
import { combineProblems, PruneError } from "../errors.js";
import type { Architecture } from "../model/architecture.js";
import {
  compilePathPattern,
  overrideProblem,
  resolveOverrides,
  selectionProblem,
  selectLinears,
  type LinearSelection,
} from "../model/selection.js";
import { allocationProblem } from "./allocation/allocate.js";
import { permutationProblem } from "./permute-channels.js";

export interface Prunables {
  readonly selection: LinearSelection;
  /** Sparsity of the linears that an override matches. */
  readonly overrides: ReadonlyMap<string, number>;
  /** Patterns that match nothing, of `--ignore` and of overrides. */
  readonly unmatchedPatterns: readonly string[];
}

/**
 * @param unmatched whether patterns that match nothing are an error, or only listed
 * @throws UsageError, ConfigError naming all problems
 */
export function decidePrunables(
  config: RunConfig,
  architecture: Architecture,
  unmatched: "refused" | "listed",
): Prunables {
  const problems: PruneError[] = [];
  const compiles = (pattern: string, source: string): boolean => {
    try {
      compilePathPattern(pattern, source);
      return true;
    } catch (error) {
      if (!(error instanceof PruneError)) throw error;
      problems.push(error);
      return false;
    }
  };
  const selection = selectLinears(
    architecture,
    config.ignore.filter((pattern) => compiles(pattern, "--ignore")),
  );
  const usable = config.overrides.filter(({ match }) => compiles(match, "overrides"));
  const resolved = resolveOverrides({ ...config, overrides: usable }, selection.selected);
  const isListed = unmatched === "listed";
  const allocated = new Set(
    selection.selected.map(({ name }) => name).filter((name) => !resolved.sparsities.has(name)),
  );
  const found = [
    selectionProblem(isListed ? { ...selection, unmatchedPatterns: [] } : selection, config.pattern),
    overrideProblem(isListed ? { ...resolved, unmatchedPatterns: [] } : resolved),
    allocationProblem(config, architecture.blocks, allocated),
    permutationProblem(config, architecture, new Set(selection.selected.map(({ name }) => name))),
  ];
  problems.push(...found.filter((problem) => problem !== undefined));
  if (problems.length > 0) throw combineProblems(problems);
  return {
    selection,
    overrides: resolved.sparsities,
    unmatchedPatterns: [...selection.unmatchedPatterns, ...resolved.unmatchedPatterns],
  };
}
