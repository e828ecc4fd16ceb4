/** Which linears a run prunes: all prunable ones, minus those that `--ignore` patterns match. */
import picomatch from "picomatch";
import { nearestName } from "../nearest-name.js";
import type { SparsityOverride } from "../contract.js";
import { ConfigError, UsageError, type PruneError } from "../errors.js";
import { formatPattern, type Pattern } from "../sparsity/pattern.js";
import { prunableLinears, tensorOf, type Architecture, type LinearSpec } from "../model/architecture.js";

export interface LinearSelection {
  readonly selected: readonly LinearSpec[];
  readonly ignored: readonly LinearSpec[];
  /** Patterns that match nothing: almost always a typing mistake. */
  readonly unmatchedPatterns: readonly string[];
  /** Patterns that match only modules which are never pruned: the head, embeddings, norms. */
  readonly needlessPatterns: readonly string[];
}

/** Habits of other tools: a head that is tied to the embedding has no tensor of its own. */
const NEVER_PRUNED = ["lm_head", "model.embed_tokens", "embed_tokens"];

/**
 * "re:…" is a regular expression, anything else a glob (`*` any characters, `?` one, `{a,b}`, `{0..3}`, `[0-3]`, `!` before the
 * whole); both must match the whole path.
 * @param source where the pattern was written, for the message
 */
export function compilePathPattern(pattern: string, source = "--ignore"): RegExp {
  if (pattern.startsWith("re:")) {
    try {
      return new RegExp(`^(?:${pattern.slice(3)})$`, "u");
    } catch (cause) {
      throw new UsageError(
        "E_IGNORE",
        `${source}: "${pattern}" is not a regular expression (${(cause as Error).message}).`,
        {
          hint: "Escape special characters with a backslash, or use a glob without re:.",
          details: { pattern },
          cause,
        },
      );
    }
  }
  try {
    return picomatch.makeRe(pattern, GLOB);
  } catch (cause) {
    throw new UsageError("E_IGNORE", `${source}: "${pattern}" is no pattern (${(cause as Error).message}).`, {
      hint: "Close its brackets and braces, or put a backslash before them.",
      details: { pattern },
      cause,
    });
  }
}

/** Module paths have no folders, so "*" goes over their dots; {0..3} counts. */
const GLOB: picomatch.PicomatchOptions = {
  dot: true,
  strictBrackets: true,
  windows: false,
  expandRange: (from: string, to: string) => {
    const [first, last] = [Number(from), Number(to)];
    if (!Number.isInteger(first) || !Number.isInteger(last) || last < first || last - first > 9999)
      return `${from}..${to}`;
    return `(?:${Array.from({ length: last - first + 1 }, (_, index) => first + index).join("|")})`;
  },
};

/**
 * Split a model's linears by the ignore patterns.
 * @param keptTensors tensors whose linears are ignored as well
 * @param modules     paths of further modules, which are never pruned
 */
export function selectLinears(
  architecture: Architecture,
  ignore: readonly string[],
  keptTensors: ReadonlySet<string> = new Set(),
  modules: readonly string[] = [],
): LinearSelection {
  const linears = prunableLinears(architecture);
  const kept = new Set(
    architecture.blocks.flatMap((block) =>
      block.groups.flatMap((group) => group.linears.filter((linear) => keptTensors.has(tensorOf(block, linear)))),
    ),
  );
  const patterns = ignore.map((text) => ({ text, expression: compilePathPattern(text) }));
  const isIgnored = (linear: LinearSpec): boolean =>
    kept.has(linear) || patterns.some(({ expression }) => expression.test(linear.name));
  const idle = patterns.filter(({ expression }) => !linears.some(({ name }) => expression.test(name)));
  const others = [...NEVER_PRUNED, ...modules];
  const isNeedless = ({ expression }: { readonly expression: RegExp }): boolean =>
    others.some((name) => expression.test(name));
  return {
    selected: linears.filter((linear) => !isIgnored(linear)),
    ignored: linears.filter(isIgnored),
    unmatchedPatterns: idle.filter((pattern) => !isNeedless(pattern)).map(({ text }) => text),
    needlessPatterns: idle.filter(isNeedless).map(({ text }) => text),
  };
}

/** What a pattern that matches nothing was perhaps to be: the end of a path, or a name with a mistake in it. */
function suggestionFor(pattern: string, linears: readonly LinearSpec[]): string | undefined {
  const names = linears.map(({ name }) => name);
  if (names.some((name) => name.endsWith(`.${pattern}`))) return `*.${pattern}`;
  const kinds = [...new Set(names.map((name) => name.slice(name.lastIndexOf(".") + 1)))];
  const kind = nearestName(pattern.slice(pattern.lastIndexOf(".") + 1), kinds);
  return kind === undefined ? undefined : `*.${kind}`;
}

/** What is wrong with a selection, in one error that names everything; undefined where it can be pruned. */
export function selectionProblem(selection: LinearSelection, pattern: Pattern): PruneError | undefined {
  const linears = [...selection.selected, ...selection.ignored];
  const problems = selection.unmatchedPatterns.map((text) => {
    const meant = suggestionFor(text, linears);
    return `--ignore "${text}" matches no linear${meant === undefined ? "" : ` (did you mean "${meant}"?)`}`;
  });
  if (selection.selected.length === 0) problems.push("nothing is left to prune");
  const uneven =
    pattern.kind === "n-of-m" ? selection.selected.filter(({ inFeatures }) => inFeatures % pattern.group !== 0) : [];
  if (uneven.length > 0) {
    problems.push(
      `${formatPattern(pattern)} does not divide the inputs of ${uneven.length} linears: ${summarizeWidths(uneven)}`,
    );
  }
  if (problems.length === 0) return undefined;
  return new ConfigError("E_SELECTION", `${problems.join("; ")}.`, {
    hint: "`prune inspect MODEL` lists the module paths; --dry-run shows what would be pruned. Linears that an N:M pattern does not fit can be left dense with --ignore.",
    details: {
      problems,
      unmatchedPatterns: selection.unmatchedPatterns,
      undivided: uneven.map(({ name, inFeatures }) => ({ name, inFeatures })),
    },
  });
}

/** "256 in 36 (model.layers.0.q_proj, …), 704 in 6 (…)": each width once. */
function summarizeWidths(linears: readonly LinearSpec[]): string {
  const byWidth = new Map<number, LinearSpec[]>();
  for (const linear of linears) byWidth.set(linear.inFeatures, [...(byWidth.get(linear.inFeatures) ?? []), linear]);
  return [...byWidth]
    .map(([width, members]) => {
      const more = members.length === 1 ? "" : ", …";
      return `${width} in ${members.length} (${members[0]?.name ?? ""}${more})`;
    })
    .join(", ");
}

export interface ResolvedOverrides {
  /** The sparsity of every linear that an override matches, the last match winning. */
  readonly sparsities: ReadonlyMap<string, number>;
  readonly unmatchedPatterns: readonly string[];
  /** Sparsities outside [0, 1), and a pattern that has its own. */
  readonly problems: readonly string[];
}

export function resolveOverrides(
  { overrides, pattern }: { readonly overrides: readonly SparsityOverride[]; readonly pattern: Pattern },
  selected: readonly LinearSpec[],
): ResolvedOverrides {
  const problems: string[] = [];
  const unmatchedPatterns: string[] = [];
  if (overrides.length > 0 && pattern.kind === "n-of-m") {
    problems.push(`${formatPattern(pattern)} has its own sparsity, which overrides cannot change`);
  }
  const sparsities = new Map<string, number>();
  for (const { match, sparsity } of overrides) {
    if (!(sparsity >= 0 && sparsity < 1)) {
      problems.push(`overrides: "${match}" asks for a sparsity of ${sparsity}; expected at least 0 and below 1`);
    }
    const expression = compilePathPattern(match, "overrides");
    const matched = selected.filter(({ name }) => expression.test(name));
    if (matched.length === 0) unmatchedPatterns.push(match);
    for (const { name } of matched) sparsities.set(name, sparsity);
  }
  return { sparsities, unmatchedPatterns, problems };
}

/** What is wrong with overrides, in one error; undefined where they can be done. */
export function overrideProblem({ problems, unmatchedPatterns }: ResolvedOverrides): PruneError | undefined {
  const all = [
    ...problems,
    ...unmatchedPatterns.map((match) => `overrides: "${match}" matches no linear that is pruned`),
  ];
  if (all.length === 0) return undefined;
  return new ConfigError("E_OVERRIDE", `${all.join("; ")}.`, {
    hint: "Patterns must match the whole module path, for example *.down_proj.",
    details: { problems: all },
  });
}
