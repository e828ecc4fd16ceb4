/**
 * Opening a run: everything that is checked before anything is written, then the output, the journal and what the loop
 * works with, closed again in the reverse order. Decides once where statistics come from and what happens around solving.
 */
import { join } from "node:path";
import type { TokenSequences, TrainingTokens } from "../calibration/corpus.js";
import { TrainingWindows } from "../calibration/training-windows.js";
import { createOutput } from "../checkpoint/output.js";
import { nonFiniteBefore } from "../checkpoint/output-directory.js";
import { throwIfStopped, type EngineContext } from "../context.js";
import type { FurtherStep, RunConfig } from "../contract.js";
import type { Device } from "../device/device.js";
import { BlockRunner } from "../forward/block-runner.js";
import { embedTokens } from "../forward/embedding.js";
import { HiddenStates } from "../forward/hidden-states.js";
import { Stream } from "../forward/stream.js";
import { tensorsHolding } from "../model/architecture.js";
import type { Logger } from "../logging.js";
import { openModel, type Model } from "../model/open-model.js";
import { findSolver } from "../solvers/registry.js";
import { inSequence } from "../solvers/cost.js";
import { REPRODUCE_MODEL } from "../solvers/reproduce-model.js";
import type { StatisticName } from "../solvers/solver.js";
import { wandaPlusPlus } from "../solvers/wanda-plus-plus.js";
import { composeSteps, type Step } from "../solvers/steps.js";
import { needsActivations } from "../allocation/registry.js";
import { bytesOf } from "../options/fingerprint.js";
import { VERSION } from "../version.js";
import { elsa } from "../training/elsa.js";
import { finetune } from "../training/finetune.js";
import { reconstruct } from "../training/reconstruct.js";
import { TRAINERS } from "../training/registry.js";
import { safe, safePlus } from "../training/safe.js";
import { TRAINING_NAME } from "./model-training.js";
import { BlockReconstruction, takesDenseStream, TARGETS_SCRATCH_NAME } from "./block-reconstruction.js";
import { courseOf, tell } from "./course.js";
import { openDevice, sayDevice } from "./devices.js";
import { scratchBytesOf } from "./disk-cost.js";
import { GRADIENT_STATES_NAME, GRADIENTS_NAME, gradientsOf, GradientSource } from "./gradient-source.js";
import { hashOf, Journal, JOURNAL_NAME, type Fingerprint } from "./journal.js";
import { checkWeights } from "./finite-weights.js";
import { PARTS } from "./parts.js";
import { decidePrunables, sayNeedless } from "./prunables.js";
import type { Run } from "./prune-block.js";
import type { PlannedRun } from "./run-cost.js";
import {
  Clock,
  isRouted,
  moveOn,
  onActivations,
  type BlockAtWork,
  type BlockTraining,
  type ModelTraining,
  type RunParts,
} from "./run.js";
import { compilePathPattern, type LinearSelection } from "./selection.js";
import { KEEP, type BoundSolver } from "./solve-linear.js";
import {
  CollectedStatistics,
  KeptStatistics,
  NOTHING_KNOWN,
  RoutedStatistics,
  type StatisticsSource,
} from "./statistics-source.js";
import { loadCalibrationTokens, loadTrainingText } from "./run-tokens.js";
import { expectSameSource } from "./source-check.js";
import type { StoredStatistics } from "./stored-statistics.js";
import { measureLoss } from "./transforms/measure-loss.js";
import { permuteChannelsOf } from "./transforms/permute-channels.js";
import { reproduceModel } from "./transforms/reproduce-model.js";
import { treatStarved } from "./transforms/starved-experts.js";
import type { BlockTransform } from "./transforms/transform.js";

const SCRATCH_NAME = "hidden-states.bin";
const DENSE_SCRATCH_NAME = "dense-states.bin";
export const SEARCH_NAME = "search";
export const RECIPE_NAME = "recipe.yaml";
/** What a run leaves in OUT.partial while it works, and only then. */
export const WORKING_FILES = [
  JOURNAL_NAME,
  SCRATCH_NAME,
  DENSE_SCRATCH_NAME,
  TARGETS_SCRATCH_NAME,
  SEARCH_NAME,
  TRAINING_NAME,
  GRADIENTS_NAME,
  GRADIENT_STATES_NAME,
];

export const OWN_NAMES = { working: WORKING_FILES, written: [RECIPE_NAME] };

/** Work on the dense model that many runs have in common; only `compareMethods` shares it between them. */
export interface SharedWork {
  /** What `loadCalibrationTokens` gives for the run's settings. */
  readonly calibration?: TokenSequences;
  /** By `allocationKey`; runs of one model and one calibration add to it. */
  readonly allocations?: Map<string, SharedAllocation>;
  /** What `checkWeights` gives. */
  readonly nonFinite?: ReadonlySet<string>;
  /** Used under dense propagation, unless the model routes tokens to experts. */
  readonly statistics?: StoredStatistics;
}

export interface SharedAllocation {
  readonly sparsities: ReadonlyMap<string, number>;
  /** What the first run took for it; every run that takes it over counts it as its own. */
  readonly seconds: number;
}

/** An open run, and what only its beginning and its end look at. */
export interface Session extends AsyncDisposable {
  /** Without its sparsities: they are the allocation's to find. */
  readonly run: Omit<Run, "sparsities">;
  readonly journal: Journal;
  readonly calibration: TokenSequences | undefined;
  /** What the whole model is trained on. */
  readonly text: TrainingTokens | undefined;
  /** Sparsity of the linears that an override matches. */
  readonly overrides: ReadonlyMap<string, number>;
  /** Where an allocation's pass over the dense model goes through; the run's own stream where it has one. */
  readonly allocationStream: Stream | undefined;
  /** Seconds that an earlier run took for statistics which this one takes over. */
  readonly savedSeconds: number;
  /** Put the calibration's embeddings into all hidden states. */
  embed(): Promise<void>;
  /** Note that every statistic this run collected was kept. */
  completeShared(): void;
}

/**
 * @throws CheckpointError, ConfigError, CalibrationError before anything is written where the input is unusable
 * @throws InterruptedError where a stop was requested meanwhile
 */
export async function openSession(config: RunConfig, context: EngineContext, shared: SharedWork): Promise<Session> {
  const resources = new Resources();
  try {
    const model = resources.own(await openModel(config.model, { family: config.family, logger: context.logger }));
    const prunable = decidePrunables(config, model); // before anything is read
    sayNeedless(prunable.selection, context.logger);
    const planned = plannedRun(config, model, prunable.selection);
    const { solver, blockTrainings, trainings } = planned;
    const course = courseOf(planned);
    if (shared.nonFinite !== undefined) course.leaveOut((name) => name === PARTS.weights);
    const kept =
      shared.nonFinite ??
      (await findNonFinite(model, config, context, (done, total) => {
        tell({ context, course }, PARTS.weights, done / total);
      }));
    const { selection, overrides } = kept.size === 0 ? prunable : decidePrunables(config, model, kept);
    const selected = new Set(selection.selected.map((linear) => linear.name));
    const isAnyRouted = model.architecture.blocks.some(isRouted);
    const gradients = gradientsOf(solver);
    const isRegional = gradients.includes("regional-gradients"); // then states must go through blocks whatever is stored
    const stored = isAnyRouted || isRegional || config.propagation !== "dense" ? undefined : shared.statistics;
    const collected: readonly (readonly StatisticName[])[] = [
      solver.needs,
      ...(config.measureLoss ? [["gram"] as const] : []),
    ];
    const isStored = stored !== undefined && collected.every((needs) => stored.has(needs));
    const isForwarded = !isStored && (solver.needs.length > 0 || config.measureLoss || blockTrainings.length > 0);
    const isAllocationForwarded = needsActivations(config.allocation);
    const encoded = new Map<string, Int32Array>(); // trainings read the calibration's text as a whole
    const ofText: EngineContext = {
      ...context,
      emit: (event) => context.emit({ ...event, fraction: course.reach(PARTS.text, event.fraction) }),
    };
    const calibration =
      isStored || isForwarded || isAllocationForwarded || gradients.length > 0
        ? (shared.calibration ?? (await loadCalibrationTokens(config, model, ofText, encoded)))
        : undefined;
    const text =
      trainings.length === 0
        ? undefined
        : await loadTrainingText(config, model, trainings, { context: ofText, calibration, encoded });
    if (text !== undefined) sayRepetitions(context.logger, config, text, trainings);
    throwIfStopped(context, false);

    const device = resources.own(await openDevice(config.device, context.logger));
    sayDevice(device, context.logger);
    const { out, force, resume } = config;
    const output = resources.own(
      await createOutput({
        ...{ source: model.checkpoint, out, force, resume, own: OWN_NAMES, nonFinite: kept },
        scratchBytes: scratchBytesOf({
          ...planned,
          config: { ...config, nsamples: calibration?.sequences.length ?? 0 },
          selected: new Set(selection.selected),
        }),
        warn: (message) => context.logger.warn(message),
        onCopied: (done, total) => {
          tell({ context, course }, PARTS.copy, total === 0 ? 1 : done / total);
          throwIfStopped(context, false);
        },
      }),
    );
    const journal = resources.own(
      await Journal.open(output.partialDirectory, fingerprintOf(config, model, device, { calibration, text }), resume),
    );
    if (output.resumed) await expectSameSource(model, output, journal);
    const runner = resources.own(new BlockRunner(model.architecture));
    const hasDense = config.reproduce === "model" || blockTrainings.some(takesDenseStream);
    const openStream = async (name: string): Promise<Stream | undefined> => {
      if (calibration === undefined) return undefined;
      const memoryBytes = hasDense ? config.memoryBytes / 2 : config.memoryBytes;
      const states = await createStates(config, model, calibration, {
        memoryBytes,
        scratchFile: join(output.partialDirectory, name),
      });
      return new Stream(runner, resources.own(states));
    };
    const stream = isForwarded || isAllocationForwarded ? await openStream(SCRATCH_NAME) : undefined;
    const denseStream = hasDense ? await openStream(DENSE_SCRATCH_NAME) : undefined;
    const clock = new Clock();
    const opened = {
      ...{ config, context, course, model, solver, selected, device, output, runner, clock, denseStream },
      stream: isForwarded ? stream : undefined,
    };
    const reconstruction =
      blockTrainings.length === 0 ? undefined : resources.own(new BlockReconstruction(opened, blockTrainings));
    const parts: RunParts = { ...opened, reconstruction, trainings };
    const tokens = calibration?.sequences ?? [];
    const source = gradients.length > 0 ? resources.own(new GradientSource(parts, gradients, tokens)) : undefined;
    return {
      ...{ journal, calibration, text, overrides, allocationStream: stream },
      run: {
        ...{ ...parts, statistics: methodStatistics(parts, stored), transforms: transformsOf(parts, stored) },
        gradients: source,
      },
      savedSeconds: isStored ? stored.secondsOf(solver.needs) : 0,
      async embed() {
        if (calibration === undefined) return;
        for (const each of [stream, denseStream])
          if (each !== undefined) await embedTokens(model, calibration.sequences, each.states);
      },
      completeShared: () => {
        if (isForwarded) for (const needs of collected) stored?.complete(needs);
      },
      [Symbol.asyncDispose]: () => resources[Symbol.asyncDispose](),
    };
  } catch (error) {
    await resources[Symbol.asyncDispose]().catch(() => undefined); // what went wrong first is told
    throw error;
  }
}

/** A resume does not read the whole model again to find what the interrupted run has found. */
async function findNonFinite(
  model: Model,
  config: RunConfig,
  context: EngineContext,
  onTensor: (done: number, total: number) => void,
): Promise<ReadonlySet<string>> {
  const known = config.resume ? await nonFiniteBefore(config.out, model.checkpoint) : undefined;
  const isAllowed = known?.size === 0 || config.allowNonFinite;
  return known !== undefined && isAllowed ? known : checkWeights(model, config, context, onTensor);
}

/** What a run is to do, from which its cost and its course are counted. */
export function plannedRun(
  config: RunConfig,
  { architecture, checkpoint }: Model,
  { selected: linears }: Pick<LinearSelection, "selected">,
): PlannedRun & { readonly solver: BoundSolver } {
  const selected = new Set(linears);
  const bytes = (tensors: Iterable<string>): number =>
    [...tensors].reduce((sum, tensor) => sum + checkpoint.info(tensor).byteLength, 0);
  return {
    ...{ config, architecture, selected, solver: solverOf(config) },
    ...{ blockTrainings: blockTrainingsOf(config), trainings: modelTrainingsOf(config) },
    checkpointBytes: bytes(checkpoint.tensors.keys()),
    prunedBytes: bytes(tensorsHolding(architecture.blocks, (linear) => selected.has(linear))),
  };
}

/** Closed in the reverse order of opening, all of them: the first that cannot be is reported then. */
class Resources implements AsyncDisposable {
  readonly #owned: AsyncDisposable[] = [];

  own<Resource extends AsyncDisposable>(resource: Resource): Resource {
    this.#owned.push(resource);
    return resource;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const failures: unknown[] = [];
    for (const resource of this.#owned.splice(0).toReversed())
      try {
        await resource[Symbol.asyncDispose]();
      } catch (error) {
        failures.push(error);
      }
    if (failures.length > 0) throw failures[0];
  }
}

/** Where the method's statistics come from. With dense propagation collecting them takes the states past the block. */
function methodStatistics(parts: RunParts, stored: StoredStatistics | undefined): StatisticsSource {
  const { config, stream, solver, clock } = parts;
  const options = { ...parts, needs: solver.needs };
  if (stream === undefined)
    return stored?.has(solver.needs) === true && solver.needs.length > 0
      ? new KeptStatistics(stored, options)
      : NOTHING_KNOWN;
  const isDense = config.propagation === "dense";
  const keeping = stored?.has(solver.needs) === false ? { store: stored, clock } : undefined;
  const source = new CollectedStatistics({ ...options, stream }, isDense, keeping);
  const move = ({ spec, weights }: BlockAtWork): Promise<void> =>
    onActivations(parts, () => moveOn(parts, stream, spec, weights));
  return new RoutedStatistics(source, config.starved, isDense ? move : undefined);
}

/** Gram matrices of what linears see, in a pass of its own, so that measuring changes no bit of the result. */
function measuredGrams(parts: RunParts, stored: StoredStatistics | undefined): StatisticsSource {
  const options = { ...parts, needs: ["gram"] as const };
  const { stream, clock } = parts;
  if (stored?.has(options.needs) === true) return new KeptStatistics(stored, options);
  if (stream === undefined) return NOTHING_KNOWN;
  const keeping = stored && { store: stored, clock };
  return new CollectedStatistics({ ...options, stream, denseStream: undefined }, false, keeping);
}

function transformsOf(parts: RunParts, stored: StoredStatistics | undefined): BlockTransform[] {
  const { config, solver, device, clock } = parts;
  const hasOwnGram = solver.needs.includes("gram");
  return [
    treatStarved(config.starved),
    ...(config.permutation === "none" ? [] : [permuteChannelsOf(parts)]),
    ...(config.reproduce === "layer" ? [] : [reproduceModel(device)]),
    ...(config.measureLoss ? [measureLoss({ device, clock, grams: measuredGrams(parts, stored), hasOwnGram })] : []),
  ];
}

/** The method and what follows it as one solver, options parsed, with what the run's target adds to its needs and its cost. */
export function solverOf(config: RunConfig): BoundSolver {
  const solver = methodOf(config);
  if (config.reproduce === "layer") return solver;
  return {
    ...solver,
    needs: [...new Set([...solver.needs, ...REPRODUCE_MODEL.needs])],
    cost: (size, options) => inSequence(REPRODUCE_MODEL.cost(size), solver.cost(size, options)),
  };
}

/** The same without what the run is to reproduce, and without steps that train. */
export function methodOf(config: Pick<RunConfig, "method" | "methodOptions" | "then">): BoundSolver {
  const steps = [config, ...config.then].filter(({ method }: FurtherStep) => !TRAINERS.has(method));
  if (steps.length === 0) return KEEP;
  return composeSteps(
    steps.map(({ method, methodOptions, match }: FurtherStep): Step => {
      const solver = findSolver(method);
      const step = { solver, options: solver.schema.parse(methodOptions) };
      if (match === undefined) return step;
      const expression = compilePathPattern(match, `then ${method}`);
      return { ...step, appliesTo: (name: string) => expression.test(name) };
    }),
  );
}

/** The steps that train every block, in order. */
export function blockTrainingsOf(config: Pick<RunConfig, "method" | "methodOptions" | "then">): BlockTraining[] {
  return [config, ...config.then].flatMap(({ method, methodOptions }): BlockTraining[] => {
    if (method === reconstruct.name) return [{ name: "reconstruct", options: reconstruct.schema.parse(methodOptions) }];
    if (method === safe.name) return [{ name: "safe", options: safe.schema.parse(methodOptions) }];
    if (method === safePlus.name) return [{ name: "safe+", options: safePlus.schema.parse(methodOptions) }];
    if (method === wandaPlusPlus.name) {
      const options = wandaPlusPlus.schema.parse(methodOptions);
      return options.rounds === 0 ? [] : [{ name: "wanda++", options }];
    }
    return [];
  });
}

/** The steps that train the whole model, in order. */
export function modelTrainingsOf(config: Pick<RunConfig, "method" | "methodOptions" | "then">): ModelTraining[] {
  return [config, ...config.then].flatMap(({ method, methodOptions }): ModelTraining[] => {
    if (method === finetune.name) return [{ name: "finetune", options: finetune.schema.parse(methodOptions) }];
    if (method === elsa.name) return [{ name: "elsa", options: elsa.schema.parse(methodOptions) }];
    return [];
  });
}

/** A text that a training goes over more than once is worth knowing about before it has taken its hours. */
function sayRepetitions(
  logger: Logger,
  { seqlen, seed }: RunConfig,
  text: TrainingTokens,
  trainings: readonly ModelTraining[],
): void {
  const { count } = new TrainingWindows(text, seqlen, seed);
  for (const { name, options } of trainings) {
    const passes = (options.steps * options.batchSize) / count;
    if (passes <= 1 || ("minutes" in options && options.minutes !== undefined)) continue;
    const wanted = `${options.steps} steps of ${options.batchSize} sequences`;
    const said = `${name}: ${wanted} go over the ${count} windows of ${text.description} ${passes.toFixed(1)} times`;
    logger.info(said, { windows: count, passes });
  }
}

function createStates(
  config: RunConfig,
  model: Model,
  calibration: TokenSequences,
  place: { readonly memoryBytes: number; readonly scratchFile: string },
): Promise<HiddenStates> {
  return HiddenStates.create({
    sequences: calibration.sequences.length,
    tokens: config.seqlen,
    width: model.architecture.state.width,
    ...place,
  });
}

/** What must be equal for two runs to give the same bytes. */
function fingerprintOf(
  config: RunConfig,
  model: Model,
  device: Device,
  { calibration, text }: Pick<Session, "calibration" | "text">,
): Fingerprint {
  return {
    bytes: {
      version: VERSION,
      tensors: model.checkpoint.headersSha256,
      config: hashOf(model.config.text),
      ...bytesOf(config),
      family: model.architecture.family,
      calibration: calibration?.sha256 ?? "none",
      ...(text === undefined ? {} : { text: text.sha256 }),
    },
    place: { device: `${device.kind}: ${device.description}` },
  };
}
