/**
 * The layer loop: block after block, load the dense weights, collect statistics, solve, patch the output, forward the
 * pruned block. It owns the order of things and the journal, and nothing numerical.
 */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { loadCalibration, type TokenSequences } from "../calibration/corpus.js";
import { createOutput } from "../checkpoint/output.js";
import type { Device } from "../device/device.js";
import { CalibrationError } from "../errors.js";
import { requirePositions } from "../model/architecture.js";
import { sequencesPerRun } from "../forward/weights.js";
import { embedTokens } from "../forward/embedding.js";
import { BlockRunner } from "../forward/block-runner.js";
import { HiddenStates } from "../forward/hidden-states.js";
import type { Logger } from "../logging.js";
import { openModel, type Model } from "../model/open-model.js";
import { compilePathPattern } from "./selection.js";
import { findSolver } from "../solvers/registry.js";
import { reproduceModel } from "../solvers/reproduce-model.js";
import type { LayerSolver } from "../solvers/solver.js";
import { composeSteps, type Step } from "../solvers/steps.js";
import { formatPattern } from "../sparsity/pattern.js";
import { throwIfStopped, type EngineContext } from "../context.js";
import type { FurtherStep, LayerReport, RunConfig, RunReport } from "../contract.js";
import { bytesOf } from "../options/fingerprint.js";
import { formatRecipe } from "../report/run-recipe.js";
import { needsActivations } from "../sparsity/allocation/schema.js";
import { allocateSparsity } from "./allocation/allocate.js";
import { openDevice } from "./devices.js";
import { Journal, JOURNAL_NAME, hashOf, type Fingerprint } from "./journal.js";
import { decidePrunables } from "./prunables.js";
import { warnOfStarvedExperts } from "./starved-experts.js";
import type { StoredStatistics } from "./stored-statistics.js";
import { processBlock, replayBlock } from "./prune-block.js";
import { aside, stage, type Run } from "./run.js";
import { VERSION } from "../version.js";

const SCRATCH_NAME = "hidden-states.bin";
const DENSE_SCRATCH_NAME = "dense-states.bin";
const SEARCH_NAME = "search";
const RECIPE_NAME = "recipe.yaml";
/** What a run leaves in OUT.partial while it works, and only then. */
const WORKING_FILES = [JOURNAL_NAME, SCRATCH_NAME, DENSE_SCRATCH_NAME, SEARCH_NAME];

/**
 * Prune a checkpoint as configured; the result is in `config.out` when this resolves.
 * @throws CheckpointError, ConfigError, CalibrationError before anything is written where the input is unusable
 * @throws InterruptedError when a stop was requested; OUT.partial can be resumed
 * @throws NumericalError, ResourceError while working; OUT.partial can be resumed
 */
export async function pruneModel(
  config: RunConfig,
  context: EngineContext,
  shared: SharedWork = NOTHING_SHARED,
): Promise<RunReport> {
  const started = performance.now();
  await using model = await openModel(config.model, { family: config.family, logger: context.logger });
  const { selection, overrides } = decidePrunables(config, model.architecture, "refused");
  const solver = solverOf(config);
  const selected = new Set(selection.selected.map((linear) => linear.name));
  const collected = [solver.needs, ...(config.measureLoss ? [["gram"] as const] : [])];
  const stored = isRouted(model) || config.propagation !== "dense" ? undefined : shared.statistics;
  const isStored = stored !== undefined && collected.every((needs) => stored.has(needs));
  const needsStates = !isStored && (solver.needs.length > 0 || config.measureLoss);
  const needsCalibration = isStored || needsStates || needsActivations(config.allocation);
  const calibration = needsCalibration
    ? (shared.calibration ?? (await loadCalibrationTokens(config, model)))
    : undefined;
  throwIfStopped(context, false);

  await using device = await openDevice(config.device, context.logger);
  context.logger.info("device", { device: device.kind, description: device.description });
  await using output = await createOutput({
    source: model.checkpoint,
    out: config.out,
    force: config.force,
    resume: config.resume,
    exclude: WORKING_FILES,
  });
  await using journal = await Journal.open(
    output.partialDirectory,
    fingerprintOf(config, model, device, calibration),
    config.resume,
  );
  await using runner = new BlockRunner(model.architecture);
  await using states =
    calibration !== undefined && (needsStates || needsActivations(config.allocation))
      ? await createStates(config, model, calibration, join(output.partialDirectory, SCRATCH_NAME))
      : undefined;
  await using denseStates =
    calibration !== undefined && config.reproduce === "model"
      ? await createStates(config, model, calibration, join(output.partialDirectory, DENSE_SCRATCH_NAME))
      : undefined;
  const batch = sequencesPerRun(config.seqlen);
  const run: Run = {
    config,
    context,
    model,
    solver,
    sparsities: new Map(),
    selected,
    device,
    output,
    runner,
    states: needsStates ? states : undefined,
    dense: denseStates && { states: denseStates, weights: new Map() },
    batch,
    stored,
    measuring: { seconds: 0 },
    weights: new Map(),
  };

  const resumedBlocks = journal.finished.length;
  context.emit({ type: "start", blocks: model.architecture.blocks.length, device: device.kind, resumedBlocks });
  const embed = async (): Promise<void> => {
    if (calibration === undefined) return;
    if (states !== undefined) await embedTokens(model, calibration.sequences, states);
    if (denseStates !== undefined) await embedTokens(model, calibration.sequences, denseStates);
  };
  const allocating = performance.now();
  const allocated = shared.allocations?.get(allocationKey(config));
  const known = journal.sparsities ?? allocated?.sparsities;
  if (known === undefined && needsActivations(config.allocation)) await embed();
  run.sparsities = known ?? (await allocateRun(run, overrides, states, calibration));
  if (journal.sparsities === undefined) await journal.appendSparsities(run.sparsities);
  const allocationSeconds = (performance.now() - allocating) / 1000;
  shared.allocations?.set(
    allocationKey(config),
    allocated ?? { sparsities: run.sparsities, seconds: allocationSeconds },
  );
  if (needsStates) await (solver.needs.length > 0 ? embed() : aside(run, embed)); // an allocation's pass moves them
  const layers: LayerReport[] = [];
  for (const block of model.architecture.blocks) {
    const finished = journal.finished[block.index];
    if (finished === undefined) layers.push(...(await processBlock(run, journal, block)));
    else {
      await replayBlock(run, block, finished);
      layers.push(...finished.layers);
    }
    throwIfStopped(context, true);
  }
  await writeFile(join(output.partialDirectory, RECIPE_NAME), formatRecipe(config));
  await output.finish({ remove: WORKING_FILES });
  warnOfStarvedExperts(context.logger, layers);
  for (const needs of collected) if (needsStates) stored?.complete(needs);
  const saved = (allocated?.seconds ?? 0) + (isStored ? stored.secondsOf(solver.needs) : 0);
  const seconds = (performance.now() - started) / 1000 - run.measuring.seconds + saved;
  return report(run, layers, { seconds, resumedBlocks, calibration });
}

/** Work on the dense model that many runs have in common; only `compareMethods` shares it between them. */
export interface SharedWork {
  /** What `loadCalibrationTokens` gives for the run's settings. */
  readonly calibration?: TokenSequences;
  /** By `allocationKey`; runs of one model and one calibration add to it. */
  readonly allocations?: Map<string, SharedAllocation>;
  /** Used under dense propagation, unless the model routes tokens to experts. */
  readonly statistics?: StoredStatistics;
}

function isRouted({ architecture }: Model): boolean {
  return architecture.blocks.some((block) => block.groups.some((group) => group.isRouted === true));
}

export interface SharedAllocation {
  readonly sparsities: ReadonlyMap<string, number>;
  /** What the first run took for it; every run that takes it over counts it as its own. */
  readonly seconds: number;
}

const NOTHING_SHARED: SharedWork = {};

function allocationKey({ allocation, sparsity, method, methodOptions, then }: RunConfig): string {
  const isMethodAsked = allocation.rule === "evolutionary" && allocation.proxy === "method";
  return JSON.stringify([allocation, sparsity, ...(isMethodAsked ? [method, methodOptions, then] : [])]);
}

/** The method and what follows it as one solver, options parsed, asked for what the run is to reproduce. */
export function solverOf(config: RunConfig): LayerSolver<undefined> {
  const solver = composeSteps(stepsOf(config));
  return config.reproduce === "model" ? reproduceModel(solver) : solver;
}

function stepsOf(config: RunConfig): Step[] {
  const steps: readonly FurtherStep[] = [config, ...config.then];
  return steps.map(({ method, methodOptions, match }) => {
    const solver = findSolver(method);
    const step = { solver, options: solver.schema.parse(methodOptions) };
    if (match === undefined) return step;
    const expression = compilePathPattern(match, `then ${method}`);
    return { ...step, appliesTo: (name: string) => expression.test(name) };
  });
}

/** Sparsity of every selected linear: overrides as they are, the allocation over the others. */
async function allocateRun(
  run: Run,
  overrides: ReadonlyMap<string, number>,
  states: HiddenStates | undefined,
  calibration: TokenSequences | undefined,
): Promise<ReadonlyMap<string, number>> {
  const { config, context } = run;
  const allocated = await allocateSparsity({
    ...run,
    states,
    allocation: config.allocation,
    target: config.sparsity,
    selected: new Set([...run.selected].filter((name) => !overrides.has(name))),
    onBatch: (block, done, total) => {
      stage(run, { ...block, index: 0 }, `allocation, ${block.name}`, 0.01 * (done / total));
      throwIfStopped(context, true);
    },
    search: calibration && {
      sequences: calibration.sequences,
      seed: config.seed,
      memoryBytes: config.memoryBytes,
      directory: join(run.output.partialDirectory, SEARCH_NAME),
      solver: composeSteps(stepsOf(config)), // candidates are put together from linears that no other one has touched
      context,
      onGeneration: (generation, fitness) => {
        const [first] = run.model.architecture.blocks;
        if (first !== undefined)
          stage(run, first, `allocation, generation ${generation}: KL ${fitness.toFixed(4)}`, 0.01);
      },
    },
  });
  warnOfCaps(context.logger, config, allocated);
  return new Map([...allocated, ...overrides]);
}

/** A linear at the rule's largest sparsity is all but gone: worth a look before the run has taken its hours. */
function warnOfCaps(logger: Logger, { allocation, sparsity }: RunConfig, allocated: ReadonlyMap<string, number>): void {
  if (allocation.rule === "uniform" || sparsity >= allocation.largest) return;
  const { rule, largest } = allocation;
  const capped = [...allocated].flatMap(([name, value]) => (value >= largest ? [name] : []));
  if (capped.length === 0) return;
  logger.warn(
    `--allocation ${rule}: asked for more than ${largest} of ${capped.length} linears (${capped[0]}, …); they lose ${largest}, the others make up for it`,
    { rule, largest, capped },
  );
}

/** @throws CalibrationError as `loadCalibration`, ConfigError where the model has no such positions */
export async function loadCalibrationTokens(config: RunConfig, model: Model): Promise<TokenSequences> {
  if (config.calibration === undefined) {
    throw new CalibrationError("E_CALIBRATION_MISSING", `${config.method} needs calibration data and none was given.`, {
      hint: "Pass --calibration FILE (.txt, .jsonl, .jsonl.gz, or token ids in .safetensors).",
    });
  }
  const { nsamples, seqlen, seed } = config;
  requirePositions(model.architecture, seqlen);
  const { vocabularySize } = model.architecture;
  return loadCalibration(config.calibration, {
    modelDirectory: config.model,
    nsamples,
    seqlen,
    seed,
    vocabSize: vocabularySize,
  });
}

function createStates(
  config: RunConfig,
  model: Model,
  calibration: TokenSequences,
  scratchFile: string,
): Promise<HiddenStates> {
  return HiddenStates.create({
    sequences: calibration.sequences.length,
    tokens: config.seqlen,
    hiddenSize: model.architecture.hiddenSize,
    memoryBytes: config.reproduce === "model" ? config.memoryBytes / 2 : config.memoryBytes,
    scratchFile,
  });
}

/** What must be equal for two runs to give the same bytes. */
function fingerprintOf(
  config: RunConfig,
  model: Model,
  device: Device,
  calibration: TokenSequences | undefined,
): Fingerprint {
  return {
    version: VERSION,
    tensors: model.checkpoint.headersSha256,
    config: hashOf(model.config.text),
    ...bytesOf(config),
    family: model.architecture.family,
    calibration: calibration?.sha256 ?? "none",
    device: `${device.kind}: ${device.description}`,
  };
}

function report(
  run: Run,
  layers: readonly LayerReport[],
  facts: { readonly seconds: number; readonly resumedBlocks: number; readonly calibration: TokenSequences | undefined },
): RunReport {
  const { config, device } = run;
  const zeros = layers.reduce((sum, layer) => sum + layer.zeros, 0);
  const elements = layers.reduce((sum, layer) => sum + layer.elements, 0);
  const { calibration } = facts;
  return {
    schema: "prune.run/v1",
    out: config.out,
    model: config.model,
    method: config.method,
    pattern: formatPattern(config.pattern),
    sparsity: { target: config.sparsity, achieved: zeros / elements },
    seconds: facts.seconds,
    peakRssBytes: process.resourceUsage().maxRSS * 1024,
    device: `${device.kind} (${device.description})`,
    calibration:
      calibration === undefined
        ? null
        : { sequences: calibration.sequences.length, seqlen: config.seqlen, sha256: calibration.sha256 },
    resumedBlocks: facts.resumedBlocks,
    layers,
  };
}
