/**
 * The program as functions: plain objects in, reports out. The command line is made of these. What each takes is in the
 * tables of options (src/options/); docs/node-api.md has it with an example.
 *
 * Work that runs models is done in a thread of its own, so that the caller's stays free.
 */
import { resolve } from "node:path";
import { resolveComparison } from "../config/comparison.js";
import { resolveBlocksConfig, resolveCutConfig, resolveExpertsConfig, resolveWidthConfig } from "../config/cut.js";
import { resolveGenerationConfig } from "../config/generation.js";
import { resolveEvaluationConfig, resolveRunConfig, type Resolved } from "../config/resolve.js";
import { checkModelDirectory } from "../config/rules.js";
import type {
  ComparisonReport,
  ConfigReport,
  CutReport,
  EngineEvent,
  EvaluationReport,
  GenerationReport,
  InspectionConfig,
  InspectionReport,
  PlanReport,
  RunReport,
  StopReason,
  StructureReport,
  VerifyReport,
} from "../contract.js";
import { runInEngine } from "../driver/engine.js";
import { createStopBuffer, requestStop, workOf, type WorkReference } from "../driver/engine-protocol.js";
import { SILENT_LOGGER, type Logger } from "../logging.js";
import type { BlockRequest, CutRequest, ExpertRequest, WidthRequest } from "../options/cut-options.js";
import type { ComparisonRequest } from "../options/comparison-options.js";
import type { EvaluationRequest } from "../options/evaluation-options.js";
import type { GenerationRequest } from "../options/generation-options.js";
import type { RunRequest } from "../options/run-options.js";
import type { DevicesReport } from "../report/devices-report.js";
import { describeFamilies, type FamiliesReport } from "../report/families.js";
import { describeMethods, type MethodsReport } from "../report/methods.js";
import { surroundings } from "./surroundings.js";

export { expectLimitsKept } from "../evaluation/limits.js";

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
 * Prune a checkpoint. The result lies in the report's `out`; losses and seconds are per linear.
 * @throws UsageError, ConfigError, CheckpointError, CalibrationError, DeviceError before anything is written, one error for
 *   all problems of the request
 * @throws InterruptedError after `signal`, NumericalError, ResourceError while working: `resume: true` goes on
 */
export async function prune(options: RunRequest & Listening): Promise<RunReport> {
  const { request, listening } = apart(options);
  return work(PRUNE, await resolveRunConfig(request, false, surroundings()), listening);
}

/**
 * What `prune` with the same options would do, and about what it would cost in seconds and bytes. Writes nothing.
 * @throws as `prune` before anything is written, except that patterns which match nothing are listed
 */
export async function plan(options: RunRequest & Listening): Promise<PlanReport> {
  const { request, listening } = apart(options);
  return work(PLAN, await resolveRunConfig(request, true, surroundings()), listening);
}

/**
 * Perplexity of a checkpoint, and with `reference` its distance from another one, in nats.
 * @throws UsageError, CheckpointError, CalibrationError for the request, InterruptedError after `signal`
 */
export async function evaluate(options: EvaluationRequest & Listening): Promise<EvaluationReport> {
  const { request, listening } = apart(options);
  return work(EVALUATE, await resolveEvaluationConfig(request, surroundings()), listening);
}

/**
 * Prune with several methods, targets and allocations, evaluate each result, and throw it away.
 * @throws as `prune` and `evaluate`; InterruptedError after `signal`: `resume: true` takes finished rows over
 */
export async function compare(options: ComparisonRequest & Listening): Promise<ComparisonReport> {
  const { request, listening } = apart(options);
  return work(COMPARE, await resolveComparison(request, surroundings()), listening);
}

/**
 * Sample sequences from a checkpoint and write them to `out`, as `calibration` of `prune` reads them.
 * @throws UsageError, CheckpointError, CalibrationError for the request, NumericalError where logits are not finite,
 *   InterruptedError after `signal`; nothing is written then
 */
export async function generateCalibration(options: GenerationRequest & Listening): Promise<GenerationReport> {
  const { request, listening } = apart(options);
  return work(GENERATE, await resolveGenerationConfig(request, surroundings()), listening);
}

/**
 * Write a part of a checkpoint by a plan: fewer blocks, experts or channels. Without `out` nothing is written.
 * @throws UsageError, ConfigError, CheckpointError before anything is written; InterruptedError, ResourceError while
 *   working: `resume: true` goes on
 */
export async function cut(options: CutRequest & Listening): Promise<CutReport> {
  const { request, listening } = apart(options);
  return work(CUT, resolveCutConfig(request, surroundings()), listening);
}

/**
 * Find the blocks that a model is without most easily, and write it without them.
 * @throws as `cut`, and CalibrationError. As for the two that follow
 */
export async function dropBlocks(options: BlockRequest & Listening): Promise<StructureReport> {
  const { request, listening } = apart(options);
  return work(STRUCTURE, await resolveBlocksConfig(request, surroundings()), listening);
}

/** Write a mixture of experts with those experts that do most. */
export async function keepExperts(options: ExpertRequest & Listening): Promise<StructureReport> {
  const { request, listening } = apart(options);
  return work(STRUCTURE, await resolveExpertsConfig(request, surroundings()), listening);
}

/** Write a model whose MLPs have fewer channels, refitted to do what all did. */
export async function narrow(options: WidthRequest & Listening): Promise<StructureReport> {
  const { request, listening } = apart(options);
  return work(STRUCTURE, await resolveWidthConfig(request, surroundings()), listening);
}

export interface InspectionRequest {
  /** Checkpoint directory. */
  readonly model: string;
  /** Read it as this family. */
  readonly family?: string | undefined;
}

/**
 * Zeros and N:M patterns of every tensor of a checkpoint.
 * @throws UsageError, CheckpointError
 */
export async function inspect(options: InspectionRequest & Listening): Promise<InspectionReport> {
  return workOn(INSPECT, options);
}

/**
 * Whether a checkpoint has what its config.json says, no tensor more or less, and of which size it is.
 * @throws UsageError, CheckpointError naming what does not fit
 */
export async function verify(options: InspectionRequest & Listening): Promise<VerifyReport> {
  return workOn(VERIFY, options);
}

async function workOn<Report>(
  reference: WorkReference<InspectionConfig, Report>,
  { model, family, ...listening }: InspectionRequest & Listening,
): Promise<Report> {
  const directory = resolve(model);
  const problem = checkModelDirectory(directory);
  if (problem !== undefined) throw problem;
  const config = { directory, ...(family === undefined ? {} : { family }) };
  return work(reference, { config, notes: [] }, listening);
}

/**
 * What a checkpoint's config.json means: its keys, and the defaults of those it leaves out.
 * @throws UsageError, CheckpointError
 */
export async function inspectConfig(options: InspectionRequest & Listening): Promise<ConfigReport> {
  return workOn(INSPECT_CONFIG, options);
}

/** Adapters, their limits, and what `device: "auto"` takes. */
export async function devices(listening: Listening = {}): Promise<DevicesReport> {
  return work(DEVICES, { config: {}, notes: [] }, listening);
}

/** The methods and steps, what each does and looks at; the allocation rules. */
export function methods(): MethodsReport {
  return describeMethods();
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

/** Say what was decided, do the work in the engine's thread, and pass the caller's wish to stop on to it. */
async function work<Config, Report>(
  reference: WorkReference<Config, Report>,
  { config, notes }: Resolved<Config>,
  { logger = SILENT_LOGGER, onEvent = () => undefined, signal }: Listening,
): Promise<Report> {
  for (const { level, message } of notes) logger[level](message);
  const stopBuffer = createStopBuffer();
  const stop = (): void => requestStop(stopBuffer, reasonOf(signal?.reason));
  if (signal?.aborted === true) stop();
  signal?.addEventListener("abort", stop, { once: true });
  try {
    return await runInEngine(reference, config, { logger, stopBuffer, onEvent });
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}

/** The command line aborts with a signal's name. */
function reasonOf(reason: unknown): StopReason {
  return reason === "SIGINT" || reason === "SIGTERM" ? reason : "abort";
}
