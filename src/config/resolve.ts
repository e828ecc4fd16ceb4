/**
 * A request → a run with no defaults left to fill in. Looks at directories and at config.json's context length, because
 * some defaults depend on them; opens no weights.
 */
import { existsSync, readFileSync, statSync } from "../files/request-files.js";
import { dirname, join, resolve } from "node:path";
import type { EvaluationConfig, FurtherStep, RunConfig, TokenSource } from "../contract.js";
import { InterruptedError, PruneError, UsageError } from "../errors.js";
import { parseJson } from "../json.js";
import { EVALUATION_OPTIONS, type EvaluationRequest } from "../options/evaluation-options.js";
import { flagOf } from "../options/option.js";
import { readOptions } from "../options/read.js";
import { METHOD_FLAGS, RUN_OPTIONS, type AskedRun, type RunRequest } from "../options/run-options.js";
import { AUTOMATIC, OWN_TEXT } from "../options/values.js";
import { Problems } from "../problems.js";
import { findMethod, isTrainer, needsTokens } from "../methods/registry.js";
import { formatPattern } from "../sparsity/pattern.js";
import { needsActivations, UNIFORM } from "../allocation/registry.js";
import { layAutomatic, trainingFor } from "./automatic.js";
import { fileOfRecipe } from "./built-in-recipes.js";
import { isInCache, placeOfModel } from "./default-names.js";
import { findDataSet, type TokenUse } from "./data-sets.js";
import { maskPlaceProblem } from "./mask.js";
import {
  checkModelDirectory,
  checkSteps,
  checkTraining,
  checkUnsolved,
  resolveAllocation,
  resolveMethodOptions,
  resolvePermutation,
  resolvePropagation,
  resolveReproduced,
  resolveSparsity,
} from "./rules.js";

/** Tokens per sequence where neither the model nor stored ids are shorter. */
const DEFAULT_SEQLEN = 2048;
/** Of text that the model samples, which is paid for by the token. */
const OWN_SEQLEN = 512;

/** What of the surroundings a configuration depends on. */
export interface Surroundings {
  /** Relative paths are taken from here. */
  readonly workingDirectory: string;
  /** The model taken when none is named. */
  readonly demoModel: string;
  readonly freeMemoryBytes: number;
  /** Tokens per row of stored ids, undefined where a file holds text; rejects with a PruneError. Injected: config reads no tensors. */
  readonly tokenRowLength: (source: TokenSource) => Promise<number | undefined>;
  /**
   * The absolute directory that a model's name stands for, with what describes the model in it; rejects with a PruneError.
   * Injected: config knows no network.
   */
  readonly findModel: (name: string, asked: ModelRequest) => Promise<string>;
}

/** What a request says of where models come from. */
export type ModelRequest = Pick<AskedRun, "revision" | "token" | "offline">;

/** The directory of a model, or undefined where that is a problem, which is noted. */
export async function findModel(
  name: string,
  { revision, token, offline }: ModelRequest,
  surroundings: Pick<Surroundings, "findModel">,
  problems: Problems,
): Promise<string | undefined> {
  try {
    return await surroundings.findModel(name, { revision, token, offline });
  } catch (error) {
    if (!(error instanceof PruneError) || error instanceof InterruptedError) throw error;
    problems.add(error);
    return undefined;
  }
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
 * @throws UsageError or ConfigError for the request, CheckpointError for a directory that is no model; one error lists
 *   all problems found
 */
export async function resolveRunConfig(request: RunRequest, surroundings: Surroundings): Promise<Resolved<RunConfig>> {
  const { workingDirectory, demoModel } = surroundings;
  const problems = new Problems();
  const notes: Note[] = [];
  const { asked, isUnread, isAutomatic } = await readLayers(request, workingDirectory, problems);
  const isDemo = asked.model === undefined;
  const found = isDemo ? demoModel : await findModel(asked.model ?? "", asked, surroundings, problems);
  const model = found ?? resolve(workingDirectory, asked.model ?? "");
  if (isDemo) notes.push({ level: "info", message: `no --model given: taking the embedded demo model ${model}` });

  const isTargetUnread = isUnread("pattern") || (asked.sparsity === undefined && isUnread("sparsity"));
  const target = isTargetUnread ? undefined : problems.take(resolveSparsity(asked.pattern, asked.sparsity), undefined);
  const sparsity = target ?? 0;
  if (asked.budget !== undefined && !isAutomatic)
    problems.add(
      new UsageError("E_BUDGET", `--budget: only ${AUTOMATIC} decides how to spend time.`, {
        hint: `Take --method ${AUTOMATIC}, or say it yourself: --then finetune:minutes=${asked.budget / 60}.`,
      }),
    );
  const { method, methodOptions, then } = resolveMethods(asked, isUnread, isAutomatic, problems);
  const methods = [method, ...then.map((step) => step.method)];
  const allocation = problems.take(resolveAllocation(asked.allocation, asked.pattern, target), UNIFORM);
  const permutation = problems.take(resolvePermutation(asked.permutation, asked.pattern), "none");
  const reproduce = problems.take(resolveReproduced(asked.reproduce, asked.propagation), "layer");
  const propagation = resolvePropagation(asked.propagation, reproduce);
  problems.add(checkTraining([{ method, methodOptions }, ...then], propagation));
  problems.add(checkUnsolved(method, { allocation, reproduce, permutation }));
  if (isAutomatic) {
    const spread = allocation.rule === "uniform" ? "" : `, allocation ${allocation.rule}`;
    const moved = permutation === "none" ? "" : `, permutation ${permutation}`;
    const goal = reproduce === "layer" ? "" : `, reproducing the ${reproduce}`;
    notes.push({ level: "info", message: `--method ${AUTOMATIC}: ${methods.join(", then ")}${spread}${moved}${goal}` });
  }
  const modelProblem = found === undefined ? undefined : checkModelDirectory(model);
  problems.add(modelProblem);

  const { name, cache } = await placeOfModel(model);
  const beside = isDemo || cache !== undefined ? workingDirectory : dirname(model);
  if (asked.out === undefined && cache !== undefined && (await isInCache(workingDirectory, cache)))
    problems.add(
      missing("out", `the working directory is inside ${cache}, where the Hub keeps revisions of the model`),
    );
  const step = isAutomatic ? AUTOMATIC : asked.method;
  const out = resolve(workingDirectory, asked.out ?? defaultOut(beside, name, step, asked, sparsity));
  const maskFile = asked.saveMask === undefined ? undefined : resolve(workingDirectory, asked.saveMask);
  if (maskFile !== undefined) problems.add(maskPlaceProblem(maskFile, { ...asked, out }));

  const consumer =
    methods.find((method) => method !== "" && needsTokens(findMethod(method))) ??
    (reproduce === "model" ? "--reproduce model" : undefined) ??
    (needsActivations(allocation) ? `the allocation ${allocation.rule}` : undefined) ??
    (asked.measureLoss ? "measuring the loss" : undefined);
  const isCalibrated = consumer !== undefined;
  const calibration = problems.attempt(() => resolveCalibration(asked.calibration, model, workingDirectory));
  const isOwnText = calibration?.set === OWN_TEXT;
  if (isCalibrated && isOwnText && asked.calibration === undefined) {
    const message = `no --calibration: ${consumer} looks at text that the model samples itself, token by token; a text is read in a moment`;
    notes.push({ level: "info", message });
  }
  if (!isCalibrated && asked.calibration !== undefined) {
    notes.push({ level: "warn", message: `${asked.method} looks at weights only: --calibration is not read` });
  }
  const used = isCalibrated ? calibration : undefined;
  const length = await resolveSeqlen(asked.seqlen, model, used, surroundings, isCalibrated ? notes : []);
  const seqlen = problems.take(length, 0);
  problems.throwAny();

  // What no rule changes is taken over as it was asked for.
  const {
    recipe: _recipe,
    option: _option,
    damping: _damping,
    blockSize: _blockSize,
    budget: _budget,
    init: _init,
    steps: _steps,
    batchSize: _batchSize,
    lr: _lr,
    lambda: _lambda,
    interval: _interval,
    projection: _projection,
    state: _state,
    revision: _revision,
    token: _token,
    offline: _offline,
    memory,
    family,
    textField,
    saveMask: _saveMask,
    ...plain
  } = asked;
  return {
    notes,
    config: {
      ...plain,
      ...(family === undefined ? {} : { family }),
      ...(textField === undefined ? {} : { textField }),
      ...(maskFile === undefined ? {} : { saveMask: maskFile }),
      model,
      out,
      method,
      methodOptions,
      then,
      sparsity,
      permutation,
      allocation,
      calibration: used,
      seqlen,
      propagation,
      reproduce,
      memoryBytes: memory ?? Math.floor(surroundings.freeMemoryBytes / 2),
    },
  };
}

interface Layers {
  readonly asked: AskedRun;
  /** Said somewhere, but not readable: its absence is no second problem. */
  readonly isUnread: (key: keyof RunRequest) => boolean;
  /** Whether the method is what `auto` stands for. */
  readonly isAutomatic: boolean;
}

/** The request over its recipe, over what `auto` stands for, over the defaults. */
async function readLayers(request: RunRequest, workingDirectory: string, problems: Problems): Promise<Layers> {
  const isGiven = (key: keyof RunRequest): boolean => request[key] !== undefined;
  const examined = isGiven("recipe")
    ? await (await import("./recipe.js")).loadRecipe(fileOfRecipe(String(request.recipe), workingDirectory))
    : undefined;
  const recipe = examined?.request ?? {};
  const automatic = layAutomatic(recipe, request);
  const beneath = automatic ?? recipe;
  const given = Object.fromEntries(Object.entries(request).filter(([, value]) => value !== undefined)) as RunRequest;
  const isSameMethod = automatic !== undefined || !isGiven("method") || request.method === beneath.method;
  const methodOptions = isSameMethod ? { ...beneath.methodOptions, ...request.methodOptions } : request.methodOptions;
  const { asked, ...read } = readOptions(RUN_OPTIONS, {
    ...beneath,
    ...given,
    methodOptions,
    ...(automatic === undefined ? {} : { method: automatic.method }),
  });
  problems.add(...(examined?.problems ?? []), ...read.problems);
  return {
    asked,
    isUnread: (key) => read.unread.has(key) || (examined?.unread.has(key) === true && !isGiven(key)),
    isAutomatic: automatic !== undefined,
  };
}

/** @throws UsageError, CheckpointError as `resolveRunConfig` */
export async function resolveEvaluationConfig(
  request: EvaluationRequest,
  surroundings: Pick<Surroundings, "workingDirectory" | "tokenRowLength" | "findModel">,
): Promise<Resolved<EvaluationConfig>> {
  const { workingDirectory } = surroundings;
  const { asked, problems: unreadable } = readOptions(EVALUATION_OPTIONS, request);
  const problems = new Problems();
  problems.add(...unreadable);
  if (asked.text === undefined)
    problems.add(missing("text", "give a text or a file of token ids, for example --text wiki.test.txt"));
  if (asked.model === undefined)
    problems.add(missing("model", "give the directory of a checkpoint, or a model of the Hub"));
  if (asked.reference === undefined)
    for (const key of ["maxPplRatio", "maxKl"] as const)
      if (asked[key] !== undefined)
        problems.add(missing("reference", `${flagOf(key)} compares with another model, usually the dense one`));
  problems.throwAny();
  const notes: Note[] = [];
  const { model: directory = "", text: given = "", family, textField, maxWindows } = asked;
  const found = await findModel(directory, asked, surroundings, problems);
  const model = found ?? resolve(workingDirectory, directory);
  const source = problems.attempt(() => parseTokenSource("--text", given, "evaluation", workingDirectory));
  const length = await resolveSeqlen(asked.seqlen, model, source, surroundings, notes);
  if (found !== undefined) problems.add(checkModelDirectory(model));
  const seqlen = problems.take(length, 0);
  const other =
    asked.reference === undefined
      ? undefined
      : await findModel(asked.reference, { ...asked, revision: undefined }, surroundings, problems);
  problems.throwAny();
  const reference = other === undefined ? {} : { reference: other };
  const named = {
    ...(family === undefined ? {} : { family }),
    ...(textField === undefined ? {} : { textField }),
  };
  const asLimits = { perplexity: asked.maxPpl, perplexityRatio: asked.maxPplRatio, klDivergence: asked.maxKl };
  const limited = Object.entries(asLimits).filter(([, most]) => most !== undefined);
  const limits = limited.length === 0 ? {} : { limits: Object.fromEntries(limited) };
  const config = { model, ...named, ...reference, text: source ?? { file: "" }, seqlen, maxWindows, ...limits };
  return { notes, config };
}

/** A flag that must be there. */
export function missing(key: string, advice: string): UsageError {
  return new UsageError("E_FLAG", `${flagOf(key)}: missing; ${advice}.`);
}

/** The method's options and what follows it, each by the method's own schema, and whether they follow each other. */
function resolveMethods(
  asked: AskedRun,
  isUnread: Layers["isUnread"],
  isAutomatic: boolean,
  problems: Problems,
): Pick<RunConfig, "method" | "methodOptions" | "then"> {
  const { pattern } = asked;
  const askedOptions = isUnread("method")
    ? {} // whose options they are is not known
    : problems.take(
        resolveMethodOptions(findMethod(asked.method), { ...asked.methodOptions, ...methodFlags(asked) }, pattern),
        {},
      );
  const [first, ...initiated] = isUnread("method")
    ? [{ method: asked.method, methodOptions: askedOptions }]
    : resolveInit(asked.init, { method: asked.method, methodOptions: askedOptions }, problems);
  const { method, methodOptions } = first as FurtherStep;
  const unknown: FurtherStep = { method: "", methodOptions: {} };
  const training = isAutomatic && asked.budget !== undefined ? trainingFor(asked.budget) : [];
  const further = [...(asked.then ?? []), ...training].map(({ name, options = {}, match }): FurtherStep => {
    const solver = problems.attempt(() => findMethod(name));
    if (solver === undefined) return unknown;
    const resolved = resolveMethodOptions(solver, options, pattern);
    if (resolved instanceof PruneError) return problems.take(resolved, unknown);
    return { method: solver.name, methodOptions: resolved, ...(match === undefined ? {} : { match }) };
  });
  const then = [...initiated, ...further];
  if (!further.includes(unknown) && !isUnread("method") && !isUnread("then")) {
    problems.add(checkSteps([method, ...then.map((step) => step.method)]));
  }
  return { method, methodOptions, then };
}

/** Options of methods that have flags of their own, and those given as key=value. */
function methodFlags({ damping, option, ...asked }: AskedRun): Record<string, unknown> {
  const [first, ...ladder] = damping ?? [];
  const given = METHOD_FLAGS.flatMap((key) => (asked[key] === undefined ? [] : [[key, asked[key]] as const]));
  return {
    ...(first === undefined ? {} : { damping: first }),
    ...Object.fromEntries(given),
    ...(ladder.length === 0 ? {} : { dampingLadder: ladder }),
    ...option,
  };
}

/** With `init` the method is what it begins with, and the one that was asked for comes next. */
function resolveInit(init: string | undefined, first: FurtherStep, problems: Problems): FurtherStep[] {
  if (init === undefined) return [first];
  const method = problems.attempt(() => findMethod(init));
  if (method === undefined) return [first];
  if (first.method !== "" && !isTrainer(findMethod(first.method)))
    problems.add(
      new UsageError("E_INIT", `--init ${init}: ${first.method} does not train; it begins with the dense model.`, {
        hint: `Leave --init out, or put the methods in order: --method ${init} --then ${first.method}.`,
      }),
    );
  return [{ method: method.name, methodOptions: method.schema.parse({}) as FurtherStep["methodOptions"] }, first];
}

/** `<model>-<method>-<sparsity>`, for example demo-wanda-0.7 or demo-wanda-2of4. */
function defaultOut(
  directory: string,
  model: string,
  method: string,
  { pattern }: Pick<AskedRun, "pattern">,
  sparsity: number,
): string {
  const amount = pattern.kind === "unstructured" ? String(sparsity) : formatPattern(pattern).replace(":", "of");
  return join(directory, `${model}-${method}-${amount}`);
}

/** What is named, else the text that comes with the model, else what the model samples itself. */
export function resolveCalibration(text: string | undefined, model: string, workingDirectory: string): TokenSource {
  if (text !== undefined) return parseTokenSource("--calibration", text, "calibration", workingDirectory);
  const own = join(model, "calibration.txt");
  return existsSync(own) ? { file: own } : { file: "", set: OWN_TEXT };
}

/**
 * FILE, FOLDER or GLOB, FILE#NAME, -, or the name of data; what is there under the very name is taken first.
 * @throws UsageError E_TOKEN_SOURCE; CalibrationError E_DATA_SET where a data set has no copy here
 */
export function parseTokenSource(flag: string, text: string, use: TokenUse, workingDirectory: string): TokenSource {
  if (text === "-") return { file: text };
  const whole = resolve(workingDirectory, text);
  if (existsSync(whole)) return { file: whole };
  if (text === OWN_TEXT && use === "calibration") return { file: "", set: OWN_TEXT };
  const set = findDataSet(text, use, workingDirectory);
  if (set !== undefined) return set;
  const hash = text.lastIndexOf("#");
  if (hash === -1) return { file: whole };
  const tensor = text.slice(hash + 1);
  const file = resolve(workingDirectory, text.slice(0, hash));
  // What the file holds its bytes say; one that is not there is missing under the name that stored ids have.
  if (tensor !== "" && (existsSync(file) || /\.safetensors$/i.test(file))) return { file, tensor };
  throw new UsageError("E_TOKEN_SOURCE", `${flag}: "${text}" is neither a file nor FILE.safetensors#TENSOR.`, {
    details: { value: text },
  });
}

/** The asked length; else the shortest of 2048, the model's own context and the rows of stored ids. */
export async function resolveSeqlen(
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
  if (source?.set === OWN_TEXT) limits.push([OWN_SEQLEN, "what the model samples (--seqlen for more)"]);
  if (context !== undefined) limits.push([context, "the model's context (max_position_embeddings)"]);
  if (source !== undefined && mayHoldIds(source)) {
    try {
      const rows = await tokenRowLength(source);
      if (rows !== undefined) limits.push([rows, `the rows of ${source.file}`]);
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

/** Whether it is one file, which its content tells from a text; what is not there the run itself tells of. */
function mayHoldIds({ file, set }: TokenSource): boolean {
  return set === undefined && existsSync(file) && statSync(file).isFile();
}

interface ContextKeys {
  readonly max_position_embeddings?: unknown;
}

/** max_position_embeddings where config.json has a usable one; the engine reports a broken config.json. */
function contextLength(model: string): number | undefined {
  try {
    const file = join(model, "config.json");
    if (!statSync(file).isFile()) return undefined;
    const config = parseJson(readFileSync(file, "utf8")) as ContextKeys & {
      text_config?: ContextKeys | null;
    };
    const value = (config.text_config ?? config).max_position_embeddings;
    return typeof value === "number" && Number.isInteger(value) && value >= 2 ? value : undefined;
  } catch {
    return undefined;
  }
}
