/** Flags of `prune compare` → a sweep with no defaults left to fill in. All problems are reported together. */
import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { z } from "zod";
import type { ComparedAllocation, ComparedMethod, ComparisonConfig, RunConfig, TokenSource } from "../contract.js";
import { combineProblems, PruneError, UsageError } from "../errors.js";
import { findSolver } from "../solvers/registry.js";
import { parsePattern, patternSparsity, type Pattern } from "../sparsity/pattern.js";
import { parseTokenSource, resolveRunConfig, type Resolved, type Surroundings } from "./resolve.js";
import { checkSteps, resolveAllocation, resolvePropagation } from "./rules.js";
import { automaticRecipe } from "./automatic.js";
import { AUTOMATIC, parseAllocation, type RunFlags } from "./schema.js";
import { parseCount, parseSparsity } from "./units.js";

/** Flags that a cell's run takes too are checked where runs are; here is only their shape. */
const comparisonFlagsSchema = z.strictObject({
  model: z.string().optional(),
  family: z.string().optional(),
  methods: z.string().default("magnitude,wanda,sparsegpt"),
  sparsities: z.string().default("0.5,0.6,0.7"),
  patterns: z.string().default("unstructured,2:4"),
  /** Repeatable, because a rule's own options hold commas. */
  allocation: z.array(z.string()).default(["uniform"]),
  text: z.string().optional(),
  maxWindows: z.string().optional(),
  work: z.string().optional(),
  resume: z.boolean().default(false),
  calibration: z.string().optional(),
  nsamples: z.string().optional(),
  seqlen: z.string().optional(),
  seed: z.string().optional(),
  device: z.string().optional(),
  ignore: z.array(z.string()).optional(),
  propagation: z.string().optional(),
  reproduce: z.string().optional(),
  memory: z.string().optional(),
});

export type ComparisonFlags = z.input<typeof comparisonFlagsSchema>;

/** Problems as they are found, under the names that this command's flags have. */
class Problems {
  readonly found: PruneError[] = [];

  /** What `parse` gives, or undefined where it throws a PruneError. */
  try<Value>(flag: string, parse: () => Value): Value | undefined {
    try {
      return parse();
    } catch (error) {
      if (!(error instanceof PruneError)) throw error;
      this.found.push(renamed(error, flag));
      return undefined;
    }
  }
}

/** The error with its first word replaced where that is a flag: runs say --method, comparisons --methods. */
function renamed(error: PruneError, flag: string): PruneError {
  const Class = error.constructor as typeof PruneError;
  const { code, message, hint, details } = error;
  return new Class(code, message.replace(/^--[a-z-]+/, flag), { ...(hint === undefined ? {} : { hint }), details });
}

/** The parts of a list, each once. */
function splitList(flag: string, text: string): string[] {
  const parts = text
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "");
  if (parts.length === 0) throw new UsageError("E_COMPARISON", `${flag}: names nothing to compare.`);
  return [...new Set(parts)];
}

/** Parse every part, collecting the problems of all. */
function parseList<Value>(
  problems: Problems,
  flag: string,
  text: string,
  parse: (part: string) => Value | undefined,
): Value[] {
  const parts = problems.try(flag, () => splitList(flag, text)) ?? [];
  return parts.flatMap((part) => {
    const value = problems.try(flag, () => parse(part));
    return value === undefined ? [] : [value];
  });
}

/** What `auto` stands for, for either kind of pattern. */
function automaticMethods(): ComparedMethod[] {
  return (["unstructured", "n-of-m"] as const).map((kind): ComparedMethod => {
    const { method, allocation, permutation, reproduce } = automaticRecipe(kind);
    const rule = typeof allocation === "string" ? parseAllocation(allocation) : allocation;
    const settings = {
      ...(rule === undefined ? {} : { allocation: { label: rule.rule, allocation: rule } }),
      ...(permutation === undefined ? {} : { permutation }),
      ...(reproduce === undefined ? {} : { reproduce, propagation: resolvePropagation(undefined, reproduce) }),
    };
    const methodOptions = findSolver(method).schema.parse({}) as Readonly<Record<string, unknown>>;
    return { label: AUTOMATIC, method, methodOptions, then: [], kind, settings };
  });
}

/** A method, or several steps joined by "+": wanda+admm-update. Each unknown name is a problem of its own. */
function parseComparedMethod(label: string, problems: Problems): ComparedMethod | undefined {
  const steps = label.split("+").flatMap((name) => {
    const solver = problems.try("--methods", () => findSolver(name.trim(), [AUTOMATIC]));
    if (solver === undefined) return [];
    return { method: solver.name, methodOptions: solver.schema.parse({}) as Readonly<Record<string, unknown>> };
  });
  const [first, ...then] = steps;
  if (first === undefined || steps.length < label.split("+").length) return undefined;
  const problem = checkSteps(steps.map(({ method }) => method));
  if (problem === undefined) return { label, ...first, then };
  const { code, message, hint, details } = problem;
  const suggestion = hint === undefined ? {} : { hint: hint.replace(/--method (\S+) --then (\S+)/, "$1+$2") };
  problems.found.push(new UsageError(code, `--methods ${label}: ${message}`, { ...suggestion, details }));
  return undefined;
}

function targetsOf(patterns: readonly Pattern[], sparsities: readonly number[]): ComparisonConfig["targets"] {
  return patterns.flatMap((pattern) => {
    const own = patternSparsity(pattern);
    return own !== undefined ? [{ pattern, sparsity: own }] : sparsities.map((sparsity) => ({ pattern, sparsity }));
  });
}

/** What is asked for, else the model's own evaluation text. */
function resolveText(text: string | undefined, model: string, workingDirectory: string): TokenSource {
  if (text !== undefined) {
    const source = parseTokenSource("--text", text, workingDirectory);
    if (source instanceof PruneError) throw source;
    return source;
  }
  const own = join(model, "evaluation.txt");
  if (existsSync(own)) return { file: own };
  throw new UsageError(
    "E_TEXT_MISSING",
    `--text: missing; perplexity is measured on it, and ${model} has no evaluation.txt.`,
    {
      hint: "Give a text or a file of token ids, for example --text wiki.test.txt.",
      details: { model },
    },
  );
}

/**
 * @throws UsageError, ConfigError, CheckpointError as `resolveRunConfig`; one error lists all problems, those of the
 *   run's own flags among them
 */
export async function resolveComparison(
  flags: ComparisonFlags,
  surroundings: Surroundings,
): Promise<Resolved<ComparisonConfig>> {
  const { workingDirectory, demoModel } = surroundings;
  const { methods, sparsities, patterns, allocation, text, maxWindows, work, resume, ...shared } =
    comparisonFlagsSchema.parse(flags);
  const problems = new Problems();
  const compared = parseList(problems, "--methods", methods, (label) =>
    label === AUTOMATIC ? automaticMethods() : parseComparedMethod(label, problems),
  ).flat();
  const fractions = parseList(problems, "--sparsities", sparsities, parseSparsity);
  const targets = targetsOf(parseList(problems, "--patterns", patterns, parsePattern), fractions);
  const allocations = [...new Set(allocation)].flatMap((label): ComparedAllocation[] => {
    const parsed = problems.try("--allocation", () => parseAllocation(label));
    return parsed === undefined ? [] : [{ label, allocation: parsed }];
  });
  // N:M cells are uniform whatever is asked, but where there are no others an allocation has nothing to spread.
  const spread = targets.filter(({ pattern }) => pattern.kind === "unstructured");
  for (const { allocation: asked } of allocations) {
    for (const { pattern, sparsity } of spread.length > 0 ? spread : targets.slice(0, 1)) {
      const problem = resolveAllocation(asked, pattern, sparsity);
      if (problem instanceof PruneError) problems.found.push(problem);
    }
  }
  const model = resolve(workingDirectory, shared.model ?? demoModel);
  const source = problems.try("--text", () => resolveText(text, model, workingDirectory));
  const windows =
    maxWindows === undefined
      ? undefined
      : problems.try("--max-windows", () => parseCount("--max-windows", maxWindows, 1));
  const run = await resolveShared(shared, surroundings, problems);
  if (run === undefined || source === undefined || problems.found.length > 0) throw combineProblems(problems.found);
  return {
    notes: run.notes,
    config: {
      run: run.config,
      methods: compared,
      targets,
      allocations,
      text: source,
      seqlen: run.config.seqlen,
      maxWindows: windows,
      workDirectory: resolve(workingDirectory, work ?? `${basename(model)}-compare`),
      resume,
    },
  };
}

/** What all cells have in common, as a run; its method and sparsity stand for those of the cells. */
async function resolveShared(
  shared: Readonly<Record<string, unknown>>,
  surroundings: Surroundings,
  problems: Problems,
): Promise<Resolved<RunConfig> | undefined> {
  const given = Object.fromEntries(Object.entries(shared).filter(([, value]) => value !== undefined)) as RunFlags;
  try {
    const standIn = { ...given, method: "magnitude", sparsity: "0.5", measureLoss: true };
    return await resolveRunConfig(standIn, false, surroundings);
  } catch (error) {
    if (!(error instanceof PruneError)) throw error;
    problems.found.push(error);
    return undefined;
  }
}
