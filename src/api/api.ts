/**
 * The program as functions: plain objects in, reports out. The command line is made of these. What each takes is in the
 * tables of options (src/options/); docs/node-api.md has it with an example.
 *
 * Work that runs models is done in a thread of its own, so that the caller's stays free.
 */
import { builtInRecipes } from "../config/built-in-recipes.js";
import { resolveComparison } from "../config/comparison.js";
import { resolveBlocksConfig, resolveCutConfig, resolveExpertsConfig, resolveWidthConfig } from "../config/cut.js";
import { resolveGenerationConfig } from "../config/generation.js";
import { resolveInspectionConfig } from "../config/inspection.js";
import { resolveMaskConfig, resolveZeroChecks } from "../config/mask.js";
import { resolveEvaluationConfig, resolveRunConfig, type Resolved, type Surroundings } from "../config/resolve.js";
import type {
  ComparisonReport,
  ConfigReport,
  CutReport,
  EvaluationConfig,
  EngineEvent,
  EvaluationReport,
  GenerationReport,
  InspectionReport,
  MaskReport,
  PlanReport,
  RunReport,
  StopReason,
  StructureReport,
  VerifyReport,
  ZeroChecks,
} from "../contract.js";
import { runInEngine } from "../driver/engine.js";
import { createStopBuffer, requestStop, workOf, type WorkReference } from "../driver/engine-protocol.js";
import type { DownloadProgress } from "../hub/hub.js";
import { HubModels } from "../hub/models.js";
import { SILENT_LOGGER, type Logger } from "../logging.js";
import type { BlockRequest, CutRequest, ExpertRequest, WidthRequest } from "../options/cut-options.js";
import type { ComparisonRequest } from "../options/comparison-options.js";
import type { EvaluationRequest, InspectionRequest } from "../options/evaluation-options.js";
import { GATE_OPTIONS, LIMIT_OPTIONS, type GateRequest, type LimitRequest } from "../options/gate-options.js";
import type { GenerationRequest } from "../options/generation-options.js";
import type { MaskRequest, VerificationRequest } from "../options/mask-options.js";
import type { RunRequest } from "../options/run-options.js";
import type { DevicesReport } from "../report/devices-report.js";
import { describeFamilies, type FamiliesReport } from "../report/families.js";
import { describeMethod, type MethodReport } from "../report/method-details.js";
import { describeMethods, type MethodsReport } from "../report/methods.js";
import type { RecipesReport } from "../report/recipes.js";
import { readLimits, resolveGate, split, withLimits } from "./gate.js";
import { readPiped } from "./piped.js";
import { surroundings } from "./surroundings.js";

export { expectLimitsKept, expectRowsKept } from "../evaluation/limits.js";
export { expectZerosKept } from "../inspection/verify-zeros.js";

/** Who is told of work, and may stop it. */
export interface Listening {
  /** Hears what was decided for the caller, warnings, and with "debug" every step. Default: nobody. */
  readonly logger?: Logger | undefined;
  /** Hears of progress. */
  readonly onEvent?: ((event: EngineEvent) => void) | undefined;
  /** Stops between steps; a run leaves a partial output that `resume: true` goes on with. */
  readonly signal?: AbortSignal | undefined;
}

const PRUNE = workOf<typeof import("../driver/prune-model.js")>(url("../driver/prune-model.js"))("pruneModel");
const PLAN = workOf<typeof import("../driver/plan.js")>(url("../driver/plan.js"))("planRun");
const COMPARE = workOf<typeof import("../driver/compare.js")>(url("../driver/compare.js"))("compareMethods");
const EVALUATE = workOf<typeof import("../evaluation/perplexity.js")>(url("../evaluation/perplexity.js"))(
  "evaluatePerplexity",
);
const GENERATE = workOf<typeof import("../generation/generate-calibration.js")>(
  url("../generation/generate-calibration.js"),
)("generateCalibration");
const APPLY_MASK = workOf<typeof import("../driver/apply-mask.js")>(url("../driver/apply-mask.js"))("applyMask");
const VERIFY_ZEROS = workOf<typeof import("../inspection/verify-zeros.js")>(url("../inspection/verify-zeros.js"))(
  "verifyZeros",
);
const INSPECT = workOf<typeof import("../inspection/inspect-model.js")>(url("../inspection/inspect-model.js"))(
  "inspectModel",
);
const INSPECT_CONFIG = workOf<typeof import("../inspection/inspect-config.js")>(url("../inspection/inspect-config.js"))(
  "inspectConfig",
);
const CUT = workOf<typeof import("../driver/cut/cut-model.js")>(url("../driver/cut/cut-model.js"))("cutModel");
const STRUCTURE = workOf<typeof import("../driver/cut/prune-structure.js")>(url("../driver/cut/prune-structure.js"))(
  "pruneStructure",
);
const VERIFY = workOf<typeof import("../driver/cut/verify.js")>(url("../driver/cut/verify.js"))("verifyModel");
const DEVICES = workOf<typeof import("../driver/devices.js")>(url("../driver/devices.js"))("describeDevices");

function url(path: string): URL {
  return new URL(path, import.meta.url);
}

/**
 * Prune a checkpoint. The result lies in the report's `out`; losses and seconds are per linear. With a limit the result is
 * evaluated after that (`evaluation`); `expectLimitsKept` throws where one is not kept.
 * @throws UsageError, ConfigError, CheckpointError, CalibrationError, DeviceError before anything is written, one error for
 *   all problems of the request
 * @throws InterruptedError after `signal`, NumericalError, ResourceError while working: `resume: true` goes on
 */
export async function prune(options: RunRequest & GateRequest & Listening): Promise<RunReport> {
  const { request, listening } = apart(options);
  const [gate, run] = split(request, GATE_OPTIONS);
  let limited: Resolved<EvaluationConfig> | undefined;
  const report = await workOn(PRUNE, listening, async (around) => {
    const resolved = await resolveRunConfig(run, around);
    limited = await resolveGate(gate, resolved.config, around);
    return resolved;
  });
  if (limited === undefined) return report;
  const { config, notes } = limited;
  return {
    ...report,
    evaluation: await work(EVALUATE, { config: { ...config, model: report.out }, notes }, listening),
  };
}

/**
 * What `prune` with the same options would do, and about what it would cost in seconds and bytes. Writes nothing.
 * @throws as `prune` before anything is written
 */
export async function plan(options: RunRequest & GateRequest & Listening): Promise<PlanReport> {
  const { request, listening } = apart(options);
  const [gate, run] = split(request, GATE_OPTIONS);
  return workOn(PLAN, listening, async (around) => {
    const resolved = await resolveRunConfig(run, around);
    await resolveGate(gate, resolved.config, around);
    return resolved;
  });
}

/**
 * Perplexity of a checkpoint, and with `reference` its distance from another one, in nats.
 * @throws UsageError, CheckpointError, CalibrationError for the request, InterruptedError after `signal`
 */
export async function evaluate(options: EvaluationRequest & Listening): Promise<EvaluationReport> {
  const { request, listening } = apart(options);
  return workOn(EVALUATE, listening, (around) => resolveEvaluationConfig(request, around));
}

/**
 * Prune with several methods, targets and allocations, evaluate each result, and throw it away.
 * @throws as `prune` and `evaluate`; InterruptedError after `signal`: `resume: true` takes finished rows over
 */
export async function compare(options: ComparisonRequest & LimitRequest & Listening): Promise<ComparisonReport> {
  const { request, listening } = apart(options);
  const [limits, sweep] = split(request, LIMIT_OPTIONS);
  const most = readLimits(limits);
  return withLimits(await workOn(COMPARE, listening, (around) => resolveComparison(sweep, around)), most);
}

/**
 * Sample sequences from a checkpoint and write them to `out`, as `calibration` of `prune` reads them.
 * @throws UsageError, CheckpointError, CalibrationError for the request, NumericalError where logits are not finite,
 *   InterruptedError after `signal`; nothing is written then
 */
export async function generateCalibration(options: GenerationRequest & Listening): Promise<GenerationReport> {
  const { request, listening } = apart(options);
  return workOn(GENERATE, listening, (around) => resolveGenerationConfig(request, around));
}

/**
 * Put the zeros of a mask file, which `prune` saved with `saveMask`, into a checkpoint of the same tensors.
 * @throws UsageError, CheckpointError for the request; InterruptedError after `signal`: `resume: true` goes on
 */
export async function applyMask(options: MaskRequest & Listening): Promise<MaskReport> {
  const { request, listening } = apart(options);
  return work(APPLY_MASK, resolveMaskConfig(request, process.cwd()), listening);
}

/**
 * Whether a checkpoint keeps the zeros of a mask, a pattern or another checkpoint; `expectZerosKept` throws where it does not.
 * @throws UsageError, CheckpointError
 */
export async function verifyZeros(options: VerificationRequest & Listening): Promise<ZeroChecks> {
  const { request, listening } = apart(options);
  return work(VERIFY_ZEROS, resolveZeroChecks(request, process.cwd()), listening);
}

/**
 * Write a part of a checkpoint by a plan: fewer blocks, experts or channels. Without `out` nothing is written.
 * @throws UsageError, ConfigError, CheckpointError before anything is written; InterruptedError, ResourceError while
 *   working: `resume: true` goes on
 */
export async function cut(options: CutRequest & Listening): Promise<CutReport> {
  const { request, listening } = apart(options);
  return workOn(CUT, listening, (around) => resolveCutConfig(request, around));
}

/**
 * Find the blocks that a model is without most easily, and write it without them.
 * @throws as `cut`, and CalibrationError. As for the two that follow
 */
export async function dropBlocks(options: BlockRequest & Listening): Promise<StructureReport> {
  const { request, listening } = apart(options);
  return workOn(STRUCTURE, listening, (around) => resolveBlocksConfig(request, around));
}

/** Write a mixture of experts with those experts that do most. */
export async function keepExperts(options: ExpertRequest & Listening): Promise<StructureReport> {
  const { request, listening } = apart(options);
  return workOn(STRUCTURE, listening, (around) => resolveExpertsConfig(request, around));
}

/** Write a model whose MLPs have fewer channels, refitted to do what all did. */
export async function narrow(options: WidthRequest & Listening): Promise<StructureReport> {
  const { request, listening } = apart(options);
  return workOn(STRUCTURE, listening, (around) => resolveWidthConfig(request, around));
}

/**
 * Zeros and N:M patterns of every tensor of a checkpoint.
 * @throws UsageError, CheckpointError, NetworkError
 */
export async function inspect(options: InspectionRequest & Listening): Promise<InspectionReport> {
  const { request, listening } = apart(options);
  return workOn(INSPECT, listening, (around) => resolveInspectionConfig(request, around));
}

/**
 * Whether a checkpoint has what its config.json says, no tensor more or less, and of which size it is.
 * @throws UsageError, CheckpointError naming what does not fit
 */
export async function verify(options: InspectionRequest & Listening): Promise<VerifyReport> {
  const { request, listening } = apart(options);
  return workOn(VERIFY, listening, (around) => resolveInspectionConfig(request, around));
}

/**
 * What a checkpoint's config.json means: its keys, and the defaults of those it leaves out.
 * @throws UsageError, CheckpointError, NetworkError
 */
export async function inspectConfig(options: InspectionRequest & Listening): Promise<ConfigReport> {
  const { request, listening } = apart(options);
  return workOn(INSPECT_CONFIG, listening, (around) => resolveInspectionConfig(request, around), false);
}

/** Adapters, their limits, and what `device: "auto"` takes. */
export async function devices(listening: Listening = {}): Promise<DevicesReport> {
  return work(DEVICES, { config: {}, notes: [] }, listening);
}

/** The methods and steps, what each does and looks at; the allocation rules. */
export function methods(): MethodsReport {
  return describeMethods();
}

/**
 * One of them: its options and their defaults, its paper and what it costs.
 * @throws UsageError E_METHOD
 */
export function method(name: string): MethodReport {
  return describeMethod(name);
}

/** The built-in recipes, which `recipe` takes by name. */
export function recipes(): RecipesReport {
  return { schema: "prune.recipes/v1", recipes: builtInRecipes() };
}

/** The families of models, and which linears of each are pruned. */
export function families(): FamiliesReport {
  return describeFamilies();
}

function apart<Request>({ logger, onEvent, signal, ...request }: Request & Listening): {
  readonly request: Omit<Request, keyof Listening>;
  readonly listening: Listening;
} {
  return { request: request as Omit<Request, keyof Listening>, listening: { logger, onEvent, signal } };
}

/**
 * Resolve a request, fetch what it needs of the Hub, and do the work.
 * @param needsWeights of the models that the request names
 */
async function workOn<Config, Report>(
  reference: WorkReference<Config, Report>,
  listening: Listening,
  resolveRequest: (surroundings: Surroundings) => Promise<Resolved<Config>>,
  needsWeights = true,
): Promise<Report> {
  const { logger, signal, onEvent } = listening;
  const onProgress = (progress: DownloadProgress): void => onEvent?.({ type: "download", ...progress, fraction: 0 });
  const models = new HubModels(process.cwd(), { logger, signal, onProgress });
  const resolved = await resolveRequest(surroundings((name, asked) => models.find(name, asked)));
  if (needsWeights) await models.complete();
  return work(reference, resolved, listening);
}

/** Say what was decided, do the work in the engine's thread, and pass the caller's wish to stop on to it. */
async function work<Config, Report>(
  reference: WorkReference<Config, Report>,
  { config, notes }: Resolved<Config>,
  { logger = SILENT_LOGGER, onEvent = () => undefined, signal }: Listening,
): Promise<Report> {
  for (const { level, message } of notes) logger[level](message);
  await using piped = await readPiped(config, signal);
  const stopBuffer = createStopBuffer();
  const stop = (): void => requestStop(stopBuffer, reasonOf(signal?.reason));
  if (signal?.aborted === true) stop();
  signal?.addEventListener("abort", stop, { once: true });
  try {
    return await runInEngine(reference, piped.config, { logger, stopBuffer, onEvent });
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}

/** The command line aborts with a signal's name. */
function reasonOf(reason: unknown): StopReason {
  return reason === "SIGINT" || reason === "SIGTERM" ? reason : "abort";
}
