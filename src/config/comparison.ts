/** A request to compare → a sweep with no defaults left to fill in. All problems are reported together. */
import { existsSync } from "../files/request-files.js";
import { join, resolve } from "node:path";
import type { ComparedAllocation, ComparedMethod, ComparisonConfig, RunConfig, TokenSource } from "../contract.js";
import { InternalError, PruneError, UsageError } from "../errors.js";
import {
  AXIS_OPTIONS,
  SHARED_OPTIONS,
  type ComparisonRequest,
  type SharedRequest,
} from "../options/comparison-options.js";
import { parseAllocation } from "../options/library.js";
import type { RequestOf } from "../options/option.js";
import { readOptions } from "../options/read.js";
import { RUN_OPTIONS, type RunRequest } from "../options/run-options.js";
import { parseNamed } from "../options/types.js";
import { parseSparsity } from "../options/units.js";
import { AUTOMATIC, type FurtherStep, type Permutation } from "../options/values.js";
import { Problems } from "../problems.js";
import { findMethod } from "../methods/registry.js";
import { parsePattern, patternSparsity, UNSTRUCTURED, type Pattern } from "../sparsity/pattern.js";
import { automaticRequest } from "./automatic.js";
import { placeOfModel } from "./default-names.js";
import { findModel, parseTokenSource, resolveRunConfig, type Resolved, type Surroundings } from "./resolve.js";
import {
  checkSteps,
  checkTraining,
  checkUnsolved,
  resolveAllocation,
  resolveMethodOptions,
  resolvePermutation,
  resolvePropagation,
} from "./rules.js";

/** What `parse` gives, or undefined where that is a problem, which is told in this command's words. */
function attempt<Value>(problems: Problems, flag: string, parse: () => Value): Value | undefined {
  return problems.attempt(parse, (problem) => renamed(problem, flag));
}

/** The error with its first word replaced where that is a flag: runs say --method, comparisons --methods. */
function renamed(error: PruneError, flag: string): PruneError {
  const Class = error.constructor as typeof PruneError;
  const { code, message, hint, details } = error;
  return new Class(code, message.replace(/^--[a-z-]+/, flag), { ...(hint === undefined ? {} : { hint }), details });
}

/** Parse every part, each once, collecting the problems of all. */
function parseList<Part, Value>(
  problems: Problems,
  flag: string,
  parts: readonly Part[],
  parse: (part: Part) => Value | undefined,
): Value[] {
  if (parts.length === 0) problems.add(new UsageError("E_COMPARISON", `${flag}: names nothing to compare.`));
  return [...new Set(parts)].flatMap((part) => {
    const value = attempt(problems, flag, () => parse(part));
    return value === undefined ? [] : [value];
  });
}

/** What `auto` stands for, for either kind of pattern. */
function automaticMethods(): ComparedMethod[] {
  return (["unstructured", "n-of-m"] as const).map((kind): ComparedMethod => {
    const { asked } = readOptions(RUN_OPTIONS, automaticRequest(kind));
    const { method, allocation: rule, permutation, reproduce, then: further = [] } = asked;
    const settings = {
      ...(rule === undefined ? {} : { allocation: { label: rule.rule, allocation: rule } }),
      ...(permutation === "none" ? {} : { permutation }),
      ...(reproduce === "layer" ? {} : { reproduce, propagation: resolvePropagation(undefined, reproduce) }),
    };
    const stepOf = (name: string, options: Readonly<Record<string, unknown>> = {}): FurtherStep => {
      return { method: name, methodOptions: findMethod(name).schema.parse(options) as FurtherStep["methodOptions"] };
    };
    const then = further.map(({ name, options }) => stepOf(name, options));
    return { label: AUTOMATIC, ...stepOf(method), then, kind, settings };
  });
}

/** Between the steps of a method; the signs of wanda++ have no letter after them. */
const STEP_SIGN = /\+(?=\s*[a-z])/;

/** A method, or several steps joined by "+", each with an option if need be: wanda+reconstruct:epochs=4. Each unknown name is a problem of its own. */
function parseComparedMethod(label: string, problems: Problems): ComparedMethod | undefined {
  const steps = label.split(STEP_SIGN).flatMap((text) => {
    const read = attempt(problems, "--methods", () => {
      const { name, options = {} } = parseNamed(text.trim());
      return { method: findMethod(name, [AUTOMATIC]), options };
    });
    if (read === undefined) return [];
    const resolved = resolveMethodOptions(read.method, read.options, UNSTRUCTURED);
    if (!(resolved instanceof PruneError)) return { method: read.method.name, methodOptions: resolved };
    problems.add(resolved);
    return [];
  });
  const [first, ...then] = steps;
  if (first === undefined || steps.length < label.split(STEP_SIGN).length) return undefined;
  const problem = checkSteps(steps.map(({ method }) => method));
  if (problem === undefined) return { label, ...first, then };
  const { code, message, hint, details } = problem;
  const suggestion = hint === undefined ? {} : { hint: hint.replace(/--method (\S+) --then (\S+)/, "$1+$2") };
  problems.add(new UsageError(code, `--methods ${label}: ${message}`, { ...suggestion, details }));
  return undefined;
}

function targetsOf(
  patterns: readonly Pattern[],
  sparsities: readonly number[],
  permutation: Permutation,
): ComparisonConfig["targets"] {
  const settled = permutation === "none" ? {} : { permutation: "none" as const };
  return patterns.flatMap((pattern) => {
    const own = patternSparsity(pattern);
    if (own !== undefined) return [{ pattern, sparsity: own }];
    return sparsities.map((sparsity) => ({ pattern, sparsity, ...settled }));
  });
}

/** What is asked for, else the model's own evaluation text. */
function resolveText(text: string | undefined, model: string, workingDirectory: string): TokenSource {
  if (text !== undefined) return parseTokenSource("--text", text, "evaluation", workingDirectory);
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
  request: ComparisonRequest,
  surroundings: Surroundings,
): Promise<Resolved<ComparisonConfig>> {
  const { workingDirectory, demoModel } = surroundings;
  const [axes, shared] = split(request);
  const problems = new Problems();
  const { asked, problems: unreadable } = readOptions(AXIS_OPTIONS, axes);
  const compared = parseList(problems, "--methods", asked.methods, (label) =>
    label === AUTOMATIC ? automaticMethods() : parseComparedMethod(label, problems),
  ).flat();
  const fractions = parseList(problems, "--sparsities", asked.sparsities, (part) =>
    parseSparsity(part, "--sparsities"),
  );
  const patterns = parseList(problems, "--patterns", asked.patterns, parsePattern);
  const { permutation } = readOptions(SHARED_OPTIONS, shared).asked;
  const targets = targetsOf(patterns, fractions, permutation);
  const allocations = [...new Set(asked.allocation)].flatMap((label): ComparedAllocation[] => {
    const parsed = problems.attempt(() => parseAllocation(label));
    return parsed === undefined ? [] : [{ label, allocation: parsed }];
  });
  // N:M cells are uniform whatever is asked, but where there are no others an allocation has nothing to spread.
  const spread = targets.filter(({ pattern }) => pattern.kind === "unstructured");
  for (const { allocation } of allocations) {
    for (const { pattern, sparsity } of spread.length > 0 ? spread : targets.slice(0, 1)) {
      problems.take<unknown>(resolveAllocation(allocation, pattern, sparsity), undefined);
    }
  }
  // The other way round: only N:M cells permute, and where there are none there is nothing to permute.
  if (spread.length === targets.length && spread[0] !== undefined) {
    problems.take<unknown>(resolvePermutation(permutation, spread[0].pattern), undefined);
  }
  const model = shared.model === undefined ? demoModel : await modelOf(shared.model, shared, surroundings);
  const source = problems.attempt(() => resolveText(asked.text, model, workingDirectory));
  problems.add(...unreadable);
  const run = await resolveShared(shared, surroundings, problems);
  if (run !== undefined)
    for (const { method, methodOptions, then, settings } of compared) {
      const { propagation, reproduce } = { ...run.config, ...settings };
      problems.add(checkTraining([{ method, methodOptions }, ...then], propagation));
      const own = settings?.allocation === undefined ? allocations : [settings.allocation];
      for (const { allocation } of own)
        problems.add(
          checkUnsolved(method, { allocation, reproduce, permutation: settings?.permutation ?? permutation }),
        );
    }
  problems.throwAny();
  if (run === undefined || source === undefined) throw new InternalError("E_COMPARISON", "a problem was not noted.");
  return {
    notes: run.notes,
    config: {
      run: { ...run.config, permutation },
      methods: compared,
      targets,
      allocations,
      text: source,
      seqlen: run.config.seqlen,
      maxWindows: asked.maxWindows,
      workDirectory: resolve(workingDirectory, asked.work ?? `${(await placeOfModel(model)).name}-compare`),
      resume: asked.resume,
    },
  };
}

/** As `resolveShared` finds it; its problems are told there. */
async function modelOf(name: string, shared: SharedRequest, surroundings: Surroundings): Promise<string> {
  const { asked } = readOptions(SHARED_OPTIONS, { ...shared, model: name });
  const found = await findModel(name, asked, surroundings, new Problems());
  return found ?? resolve(surroundings.workingDirectory, name);
}

/** The axes of the sweep, and what all cells share. What is neither is a problem of the first. */
function split(request: ComparisonRequest): [axes: RequestOf<typeof AXIS_OPTIONS>, shared: SharedRequest] {
  const isShared = ([key]: [string, unknown]): boolean => Object.hasOwn(SHARED_OPTIONS, key);
  const entries = Object.entries(request);
  return [
    Object.fromEntries(entries.filter((entry) => !isShared(entry))),
    Object.fromEntries(entries.filter(isShared)),
  ];
}

/** What all cells have in common, as a run; its method and sparsity stand for those of the cells. */
async function resolveShared(
  { permutation, ...shared }: SharedRequest,
  surroundings: Surroundings,
  problems: Problems,
): Promise<Resolved<RunConfig> | undefined> {
  // An unstructured run would refuse to permute: that is checked with the patterns, here is only how it is spelt.
  problems.add(...readOptions(SHARED_OPTIONS, { permutation }).problems);
  try {
    const standIn: RunRequest = { ...shared, method: "magnitude", sparsity: 0.5, measureLoss: true };
    return await resolveRunConfig(standIn, surroundings);
  } catch (error) {
    if (!(error instanceof PruneError)) throw error;
    problems.add(error);
    return undefined;
  }
}
