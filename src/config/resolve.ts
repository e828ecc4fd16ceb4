/**
 * Flags → a run with no defaults left to fill in. Looks at directories and at config.json's context length, because
 * some defaults depend on them; opens no weights.
 */
import { existsSync, readFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import type { EvaluationConfig, FurtherStep, RunConfig, TokenSource } from "../contract.js";
import { combineProblems, PruneError, UsageError } from "../errors.js";
import { findSolver } from "../solvers/registry.js";
import { formatPattern } from "../sparsity/pattern.js";
import { needsActivations, UNIFORM, type Allocation } from "../allocation/registry.js";
import { layAutomatic } from "./automatic.js";
import { flagsOfRecipe, loadRecipe, stepOf, type Recipe } from "./recipe.js";
import {
  calibrationProblem,
  checkModelDirectory,
  checkSteps,
  resolveAllocation,
  resolveMethodOptions,
  resolvePermutation,
  resolvePropagation,
  resolveReproduced,
  resolveSparsity,
} from "./rules.js";
import {
  AUTOMATIC,
  DEFAULT_SEQLEN,
  type EvaluationFlags,
  evaluationFlagsSchema,
  examineFlags,
  parseAllocation,
  type ParsedRunFlags,
  parseFlags,
  type RunFlags,
  runFlagsSchema,
} from "./schema.js";
import { parseSparsity } from "./units.js";

/** What of the surroundings a configuration depends on. */
export interface Surroundings {
  /** Relative paths are taken from here. */
  readonly workingDirectory: string;
  /** The model taken when none is named. */
  readonly demoModel: string;
  readonly freeMemoryBytes: number;
  /** Tokens per row of stored ids; rejects with a PruneError where there are none. Injected: config reads no tensors. */
  readonly tokenRowLength: (source: TokenSource) => Promise<number>;
}

export interface Note {
  readonly level: "info" | "warn";
  readonly message: string;
}

export interface Resolved<Config> {
  readonly config: Config;
  /** What was decided for the user, to be said on stderr. */
  readonly notes: readonly Note[];
}

/**
 * @throws UsageError or ConfigError for the flags, CheckpointError for a directory that is no model; one error lists
 *   all problems found
 */
export async function resolveRunConfig(
  flags: RunFlags,
  isDryRun: boolean,
  surroundings: Surroundings,
): Promise<Resolved<RunConfig>> {
  const { workingDirectory, demoModel } = surroundings;
  const problems: PruneError[] = [];
  const examined = flags.recipe === undefined ? undefined : await loadRecipe(resolve(workingDirectory, flags.recipe));
  const automatic = layAutomatic(examined?.recipe, flags);
  const recipe = automatic?.recipe ?? examined?.recipe;
  const { parsed, ...read } = examineFlags(runFlagsSchema, {
    ...(recipe === undefined ? {} : flagsOfRecipe(recipe)),
    ...flags,
    ...(automatic === undefined ? {} : { method: automatic.method }),
  });
  problems.push(...(examined?.problems ?? []), ...read.problems);
  /** Said somewhere, but not readable: its absence is no second problem. */
  const isUnread = (name: string): boolean =>
    read.unread.has(name) || (examined?.unread.has(name) === true && !(name in flags));
  const notes: Note[] = [];
  const keep = <Value>(result: Value | PruneError, otherwise: Value): Value => {
    if (!(result instanceof PruneError)) return result;
    problems.push(result);
    return otherwise;
  };
  const solver = findSolver(parsed.method);
  const isDemo = parsed.model === undefined;
  const model = resolve(workingDirectory, parsed.model ?? demoModel);
  if (isDemo) notes.push({ level: "info", message: `no --model given: taking the embedded demo model ${model}` });
  const isTargetUnread = isUnread("pattern") || (parsed.sparsity === undefined && isUnread("sparsity"));
  const target = isTargetUnread ? undefined : keep(resolveSparsity(parsed.pattern, parsed.sparsity), undefined);
  const sparsity = target ?? 0;
  const methodOptions = isUnread("method")
    ? {} // whose options they are is not known
    : keep(
        resolveMethodOptions(solver, { ...recipeOptions(recipe, solver.name), ...methodFlags(parsed) }, parsed.pattern),
        {},
      );
  const then = resolveSteps(parsed, recipe).map((step) => keep(step, { method: "", methodOptions: {} }));
  if (then.every((step) => step.method !== "") && !isUnread("method") && !isUnread("then")) {
    const orderProblem = checkSteps([solver.name, ...then.map((step) => step.method)]);
    if (orderProblem !== undefined) problems.push(orderProblem);
  }
  const allocation = keep(
    resolveAllocation(parsed.allocation ?? recipeAllocation(recipe), parsed.pattern, target),
    UNIFORM,
  );
  const permutation = keep(resolvePermutation(parsed.permutation, parsed.pattern), "none");
  const reproduce = keep(resolveReproduced(parsed.reproduce, parsed.propagation), "layer");
  const propagation = resolvePropagation(parsed.propagation, reproduce);
  const overrides = (recipe?.overrides ?? []).map(({ match, sparsity: asked }) => ({
    match,
    sparsity: parseSparsity(String(asked)),
  }));
  if (automatic !== undefined) {
    const steps = [solver.name, ...then.map((step) => step.method)].join(", then ");
    const spread = allocation.rule === "uniform" ? "" : `, allocation ${allocation.rule}`;
    const moved = permutation === "none" ? "" : `, permutation ${permutation}`;
    const goal = reproduce === "layer" ? "" : `, reproducing the ${reproduce}`;
    notes.push({ level: "info", message: `--method ${AUTOMATIC}: ${steps}${spread}${moved}${goal}` });
  }
  const modelProblem = checkModelDirectory(model);
  if (modelProblem !== undefined) problems.push(modelProblem);

  const out = resolve(
    workingDirectory,
    parsed.out ??
      defaultOut(
        isDemo ? workingDirectory : dirname(model),
        model,
        { ...parsed, ...(automatic === undefined ? {} : { method: AUTOMATIC }) },
        sparsity,
      ),
  );
  if (isDryRun && existsSync(out) && !parsed.force) {
    notes.push({ level: "warn", message: `--out: ${out} exists: the run itself will need another --out, or --force` });
  }

  const consumer =
    [solver.name, ...then.map((step) => step.method)].find(
      (name) => name !== "" && findSolver(name).needs.length > 0,
    ) ??
    (reproduce === "model" ? "--reproduce model" : undefined) ??
    (needsActivations(allocation) ? `the allocation ${allocation.rule}` : undefined) ??
    (parsed.measureLoss ? "measuring the loss" : undefined);
  const needsTokens = consumer !== undefined;
  const calibration = keep(resolveCalibration(parsed.calibration, model, workingDirectory), undefined);
  const isCalibrationGiven = parsed.calibration !== undefined || isUnread("calibration") || isUnread("method");
  if (needsTokens && !isCalibrationGiven && calibration === undefined && modelProblem === undefined) {
    problems.push(calibrationProblem(consumer, model));
  }
  if (!needsTokens && parsed.calibration !== undefined) {
    notes.push({ level: "warn", message: `${solver.name} looks at weights only: --calibration is not read` });
  }
  const used = needsTokens ? calibration : undefined;
  const seqlen = keep(await resolveSeqlen(parsed.seqlen, model, used, surroundings, needsTokens ? notes : []), 0);
  if (problems.length > 0) throw combineProblems(problems);

  return {
    notes,
    config: {
      model,
      ...(parsed.family === undefined ? {} : { family: parsed.family }),
      out,
      force: parsed.force,
      resume: parsed.resume,
      method: solver.name,
      methodOptions,
      then,
      sparsity,
      pattern: parsed.pattern,
      permutation,
      allocation,
      overrides,
      calibration: used,
      nsamples: parsed.nsamples,
      seqlen,
      seed: parsed.seed,
      device: parsed.device,
      ignore: parsed.ignore,
      propagation,
      reproduce,
      starved: parsed.starved,
      memoryBytes: parsed.memory ?? Math.floor(surroundings.freeMemoryBytes / 2),
      measureLoss: parsed.measureLoss,
    },
  };
}

/** @throws UsageError, CheckpointError as `resolveRunConfig` */
export async function resolveEvaluationConfig(
  flags: EvaluationFlags,
  surroundings: Pick<Surroundings, "workingDirectory" | "tokenRowLength">,
): Promise<Resolved<EvaluationConfig>> {
  const parsed = parseFlags(evaluationFlagsSchema, flags);
  const notes: Note[] = [];
  const model = resolve(surroundings.workingDirectory, parsed.model);
  const text = parseTokenSource("--text", parsed.text, surroundings.workingDirectory);
  const source = text instanceof PruneError ? undefined : text;
  const seqlen = await resolveSeqlen(parsed.seqlen, model, source, surroundings, notes);
  const problems = [checkModelDirectory(model), text, seqlen].filter((result) => result instanceof PruneError);
  if (problems.length > 0 || source === undefined || seqlen instanceof PruneError) throw combineProblems(problems);
  const { family, maxWindows } = parsed;
  const reference =
    parsed.reference === undefined ? {} : { reference: resolve(surroundings.workingDirectory, parsed.reference) };
  const named = family === undefined ? {} : { family };
  return { notes, config: { model, ...named, ...reference, text: source, seqlen, maxWindows } };
}

/** The recipe's options of the method, unless the command line chose another one. */
function recipeOptions(recipe: Recipe | undefined, method: string): Record<string, unknown> {
  const step = recipe?.method === undefined ? undefined : stepOf(recipe.method);
  return step?.name === method ? step.options : {};
}

/** Further steps: those of the command line, else those of the recipe. */
function resolveSteps(
  { then: names, pattern }: Pick<ParsedRunFlags, "then" | "pattern">,
  recipe: Recipe | undefined,
): (FurtherStep | PruneError)[] {
  const steps = (names.length > 0 ? names : (recipe?.then ?? [])).map(stepOf);
  return steps.map(({ name, options, ...rest }) => {
    try {
      const solver = findSolver(name);
      const methodOptions = resolveMethodOptions(solver, options, pattern);
      return methodOptions instanceof PruneError ? methodOptions : { method: solver.name, methodOptions, ...rest };
    } catch (error) {
      if (error instanceof PruneError) return error;
      throw error;
    }
  });
}

function recipeAllocation(recipe: Recipe | undefined): Allocation | undefined {
  return typeof recipe?.allocation === "string" ? parseAllocation(recipe.allocation) : recipe?.allocation;
}

function methodFlags({ damping, blockSize, option }: ParsedRunFlags): Record<string, unknown> {
  const [first, ...ladder] = damping ?? [];
  return {
    ...(first === undefined ? {} : { damping: first }),
    ...(ladder.length === 0 ? {} : { dampingLadder: ladder }),
    ...(blockSize === undefined ? {} : { blockSize }),
    ...Object.fromEntries(option),
  };
}

/** `<model>-<method>-<sparsity>`, for example demo-wanda-0.7 or demo-wanda-2of4. */
function defaultOut(directory: string, model: string, { method, pattern }: ParsedRunFlags, sparsity: number): string {
  const amount = pattern.kind === "unstructured" ? String(sparsity) : formatPattern(pattern).replace(":", "of");
  return join(directory, `${basename(model)}-${method}-${amount}`);
}

function resolveCalibration(
  text: string | undefined,
  model: string,
  workingDirectory: string,
): TokenSource | undefined | PruneError {
  if (text !== undefined) return parseTokenSource("--calibration", text, workingDirectory);
  const own = join(model, "calibration.txt");
  return existsSync(own) ? { file: own } : undefined;
}

/** FILE or FILE#NAME; a file whose own name holds a # is taken first. */
export function parseTokenSource(flag: string, text: string, workingDirectory: string): TokenSource | PruneError {
  const whole = resolve(workingDirectory, text);
  const hash = text.lastIndexOf("#");
  if (existsSync(whole) || hash === -1) return { file: whole };
  const tensor = text.slice(hash + 1);
  const file = text.slice(0, hash);
  if (!file.endsWith(".safetensors") || tensor === "") {
    return new UsageError("E_TOKEN_SOURCE", `${flag}: "${text}" is neither a file nor FILE.safetensors#TENSOR.`, {
      details: { value: text },
    });
  }
  return { file: resolve(workingDirectory, file), tensor };
}

/** The asked length; else the shortest of 2048, the model's own context and the rows of stored ids. */
async function resolveSeqlen(
  asked: number | undefined,
  model: string,
  source: TokenSource | undefined,
  { tokenRowLength }: Pick<Surroundings, "tokenRowLength">,
  notes: Note[],
): Promise<number | PruneError> {
  const context = contextLength(model);
  if (asked !== undefined) {
    if (context !== undefined && asked > context) {
      const message = `--seqlen ${asked} is longer than the model's context (max_position_embeddings ${context})`;
      notes.push({ level: "warn", message });
    }
    return asked;
  }
  const limits: [number, string][] = [[DEFAULT_SEQLEN, ""]];
  if (context !== undefined) limits.push([context, "the model's context (max_position_embeddings)"]);
  if (source?.file.endsWith(".safetensors") === true) {
    try {
      limits.push([await tokenRowLength(source), `the rows of ${source.file}`]);
    } catch (error) {
      if (error instanceof PruneError) return error;
      throw error;
    }
  }
  const [seqlen, reason] = limits.reduce((shortest, limit) => (limit[0] < shortest[0] ? limit : shortest));
  if (reason !== "")
    notes.push({
      level: "info",
      message: `sequences of ${seqlen} tokens, not ${DEFAULT_SEQLEN}: the length of ${reason}`,
    });
  return seqlen;
}

interface ContextKeys {
  readonly max_position_embeddings?: unknown;
}

/** max_position_embeddings where config.json has a usable one; the engine reports a broken config.json. */
function contextLength(model: string): number | undefined {
  try {
    const config = JSON.parse(readFileSync(join(model, "config.json"), "utf8")) as ContextKeys & {
      text_config?: ContextKeys | null;
    };
    const value = (config.text_config ?? config).max_position_embeddings;
    return typeof value === "number" && Number.isInteger(value) && value >= 2 ? value : undefined;
  } catch {
    return undefined;
  }
}
