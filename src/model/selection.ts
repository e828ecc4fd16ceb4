/** Which linears a run prunes: all prunable ones, minus those that `--ignore` patterns match. */
import type { SparsityOverride } from "../contract.js";
import { ConfigError, UsageError } from "../errors.js";
import { formatPattern, type Pattern } from "../sparsity/pattern.js";
import { prunableLinears, type Architecture, type LinearSpec } from "./architecture.js";

export interface LinearSelection {
  readonly selected: readonly LinearSpec[];
  readonly ignored: readonly LinearSpec[];
  /** Patterns that match nothing: almost always a typing mistake. */
  readonly unmatchedPatterns: readonly string[];
}

/** "re:…" is a regular expression, anything else a glob (`*` any characters, `?` one); both must match the whole path. */
export function compilePathPattern(pattern: string): RegExp {
  if (pattern.startsWith("re:")) {
    try {
      return new RegExp(`^(?:${pattern.slice(3)})$`, "u");
    } catch (cause) {
      throw new UsageError(
        "E_IGNORE",
        `--ignore: "${pattern}" is not a regular expression (${(cause as Error).message}).`,
        {
          hint: "Escape special characters with a backslash, or use a glob without re:.",
          details: { pattern },
          cause,
        },
      );
    }
  }
  const source = pattern.replace(/[\\^$.*+?()[\]{}|/]/g, (symbol) =>
    symbol === "*" ? ".*" : symbol === "?" ? "." : `\\${symbol}`,
  );
  return new RegExp(`^${source}$`, "u");
}

/** Split a model's linears by the ignore patterns. */
export function selectLinears(architecture: Architecture, ignore: readonly string[]): LinearSelection {
  const linears = prunableLinears(architecture);
  const patterns = ignore.map((text) => ({ text, expression: compilePathPattern(text) }));
  const isIgnored = ({ name }: LinearSpec): boolean => patterns.some(({ expression }) => expression.test(name));
  return {
    selected: linears.filter((linear) => !isIgnored(linear)),
    ignored: linears.filter(isIgnored),
    unmatchedPatterns: patterns
      .filter(({ expression }) => !linears.some(({ name }) => expression.test(name)))
      .map(({ text }) => text),
  };
}

/** Throw one error that names everything wrong with a selection. */
export function requireUsableSelection(selection: LinearSelection, pattern: Pattern): void {
  const problems = selection.unmatchedPatterns.map((text) => `--ignore "${text}" matches no linear`);
  if (selection.selected.length === 0) problems.push("nothing is left to prune");
  if (pattern.kind === "n-of-m") {
    const uneven = selection.selected.filter((linear) => linear.inFeatures % pattern.group !== 0);
    const widths = [...new Set(uneven.map((linear) => linear.inFeatures))];
    if (uneven.length > 0) {
      problems.push(
        `${formatPattern(pattern)} does not divide the ${widths.join(" and ")} inputs of ${uneven.length} linears (first: ${uneven[0]?.name ?? ""})`,
      );
    }
  }
  if (problems.length === 0) return;
  throw new ConfigError("E_SELECTION", `${problems.join("; ")}.`, {
    hint: "`prune inspect MODEL` lists the module paths; --dry-run shows what would be pruned. Linears that an N:M pattern does not fit can be left dense with --ignore.",
    details: { problems, unmatchedPatterns: selection.unmatchedPatterns },
  });
}

/**
 * The sparsity of every linear that an override matches, the last match winning.
 * @throws ConfigError E_OVERRIDE naming the patterns that match nothing, or an N:M run, whose sparsity is the pattern's
 */
export function resolveOverrides(
  { overrides, pattern }: { readonly overrides: readonly SparsityOverride[]; readonly pattern: Pattern },
  selected: readonly LinearSpec[],
): ReadonlyMap<string, number> {
  const problems: string[] = [];
  if (overrides.length > 0 && pattern.kind === "n-of-m") {
    problems.push(`${formatPattern(pattern)} has its own sparsity, which overrides cannot change`);
  }
  const result = new Map<string, number>();
  for (const { match, sparsity } of overrides) {
    const expression = compilePathPattern(match);
    const matched = selected.filter(({ name }) => expression.test(name));
    if (matched.length === 0) problems.push(`overrides: "${match}" matches no linear that is pruned`);
    for (const { name } of matched) result.set(name, sparsity);
  }
  if (problems.length === 0) return result;
  throw new ConfigError("E_OVERRIDE", `${problems.join("; ")}.`, {
    hint: "Patterns must match the whole module path, for example *.down_proj.",
    details: { problems },
  });
}
