/**
 * The layer loop: block after block, load the dense weights, collect statistics, solve, patch the output, forward the
 * pruned block. It owns the order of things and the journal, and nothing numerical.
 */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { collectStatistics, type GroupStatistics } from "../calibration/statistics.js";
import { loadCalibration, type TokenSequences } from "../calibration/corpus.js";
import { createOutput, type OutputCheckpoint } from "../checkpoint/output.js";
import type { Device } from "../device/device.js";
import { CalibrationError, CheckpointError } from "../errors.js";
import { requirePositions, tensorOf, type BlockSpec, type InputGroup, type LinearSpec } from "../model/architecture.js";
import { readBlockWeights, sequencesPerRun } from "../model/block-weights.js";
import { embedTokens } from "../model/embedding.js";
import { BlockRunner, lookUp } from "../model/forward.js";
import { HiddenStates } from "../model/hidden-states.js";
import { countZeros, putMatrix, takeMatrix } from "../model/logical-matrix.js";
import { openModel, type Model } from "../model/open-model.js";
import { requireUsableSelection, resolveOverrides, selectLinears } from "../model/selection.js";
import { findSolver } from "../solvers/registry.js";
import type { LayerSolver, LayerStatistics } from "../solvers/solver.js";
import { composeSteps, type Step } from "../solvers/steps.js";
import { formatPattern } from "../sparsity/pattern.js";
import { throwIfStopped, type EngineContext } from "../context.js";
import type { LayerReport, RunConfig, RunReport } from "../contract.js";
import { formatRecipe } from "../report/run-recipe.js";
import { allocateSparsity, needsActivations } from "./allocate.js";
import { openDevice } from "./devices.js";
import { Journal, JOURNAL_NAME, hashOf, type BlockEntry, type Fingerprint } from "./journal.js";
import { routedShares, warnOfStarvedExperts, type RoutedShare } from "./starved-experts.js";
import { VERSION } from "../version.js";

const SCRATCH_NAME = "hidden-states.bin";
const RECIPE_NAME = "recipe.yaml";
const MAGNITUDE = findSolver("magnitude");

/** Everything one run works with; opened by `pruneModel`, closed there. */
interface Run {
  readonly config: RunConfig;
  readonly context: EngineContext;
  readonly model: Model;
  /** The method and its further steps, options bound. */
  readonly solver: LayerSolver<undefined>;
  /** Fraction of zeros of every selected linear, by name. */
  sparsities: ReadonlyMap<string, number>;
  readonly selected: ReadonlySet<string>;
  readonly device: Device;
  readonly output: OutputCheckpoint;
  readonly runner: BlockRunner;
  /** undefined where the method needs no calibration: then nothing is forwarded. */
  readonly states: HiddenStates | undefined;
  readonly batch: number;
  /** The current block's tensors in f32; the next block takes over the memory. */
  weights: Map<string, Float32Array>;
}

/**
 * Prune a checkpoint as configured; the result is in `config.out` when this resolves.
 * @throws CheckpointError, ConfigError, CalibrationError before anything is written where the input is unusable
 * @throws InterruptedError when a stop was requested; OUT.partial can be resumed
 * @throws NumericalError, ResourceError while working; OUT.partial can be resumed
 */
export async function pruneModel(config: RunConfig, context: EngineContext): Promise<RunReport> {
  const started = performance.now();
  await using model = await openModel(config.model, { family: config.family, logger: context.logger });
  const solver = composeSteps(stepsOf(config));
  const selection = selectLinears(model.architecture, config.ignore);
  requireUsableSelection(selection, config.pattern);
  const overrides = resolveOverrides(config, selection.selected);
  const needsCalibration = solver.needs.length > 0 || needsActivations(config.allocation);
  const calibration = needsCalibration ? await loadCalibrationTokens(config, model) : undefined;
  throwIfStopped(context, false);

  await using device = await openDevice(config.device, context.logger);
  context.logger.info("device", { device: device.kind, description: device.description });
  await using output = await createOutput({
    source: model.checkpoint,
    out: config.out,
    force: config.force,
    resume: config.resume,
    exclude: [JOURNAL_NAME, SCRATCH_NAME],
  });
  await using journal = await Journal.open(
    output.partialDirectory,
    fingerprintOf(config, model, device, calibration),
    config.resume,
  );
  await using runner = new BlockRunner(model.architecture);
  await using states = calibration && (await createStates(config, model, calibration, output.partialDirectory));
  const batch = sequencesPerRun(config.seqlen);
  const selected = new Set(selection.selected.map((linear) => linear.name));
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
    states,
    batch,
    weights: new Map(),
  };

  const resumedBlocks = journal.finished.length;
  context.emit({ type: "start", blocks: model.architecture.blocks.length, device: device.kind, resumedBlocks });
  const embed = async (): Promise<void> => {
    if (states !== undefined && calibration !== undefined) await embedTokens(model, calibration.sequences, states);
  };
  await embed();
  run.sparsities = await allocateRun(run, overrides);
  if (needsActivations(config.allocation)) await embed(); // the allocation's pass moved the states to the end
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
  await output.finish({ remove: [JOURNAL_NAME, SCRATCH_NAME] });
  warnOfStarvedExperts(context.logger, layers);
  return report(run, layers, { started, resumedBlocks, calibration });
}

/** The method and what follows it, with their options parsed. */
export function stepsOf(config: RunConfig): Step[] {
  return [config, ...config.then].map(({ method, methodOptions }) => {
    const solver = findSolver(method);
    return { solver, options: solver.schema.parse(methodOptions) };
  });
}

/** Sparsity of every selected linear: overrides as they are, the allocation over the others. */
async function allocateRun(run: Run, overrides: ReadonlyMap<string, number>): Promise<ReadonlyMap<string, number>> {
  const { config, context } = run;
  const allocated = await allocateSparsity({
    ...run,
    allocation: config.allocation,
    target: config.sparsity,
    selected: new Set([...run.selected].filter((name) => !overrides.has(name))),
    onBatch: (block, done, total) => {
      stage(run, { ...block, index: 0 }, `allocation, ${block.name}`, 0.01 * (done / total));
      throwIfStopped(context, true);
    },
  });
  return new Map([...allocated, ...overrides]);
}

async function loadCalibrationTokens(config: RunConfig, model: Model): Promise<TokenSequences> {
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
  directory: string,
): Promise<HiddenStates> {
  return HiddenStates.create({
    sequences: calibration.sequences.length,
    tokens: config.seqlen,
    hiddenSize: model.architecture.hiddenSize,
    memoryBytes: config.memoryBytes,
    scratchFile: join(directory, SCRATCH_NAME),
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
    method: config.method,
    methodOptions: JSON.stringify(config.methodOptions),
    then: JSON.stringify(config.then),
    allocation: JSON.stringify(config.allocation),
    overrides: JSON.stringify(config.overrides),
    sparsity: String(config.sparsity),
    pattern: formatPattern(config.pattern),
    ignore: JSON.stringify(config.ignore),
    propagation: config.propagation,
    starved: config.starved,
    family: model.architecture.family,
    calibration: calibration?.sha256 ?? "none",
    seqlen: String(config.seqlen),
    device: `${device.kind}: ${device.description}`,
  };
}

/** Prune one block, note it in the journal, and move the hidden states past it. */
async function processBlock(run: Run, journal: Journal, block: BlockSpec): Promise<LayerReport[]> {
  const started = performance.now();
  const { context, model, output } = run;
  stage(run, block, "read", 0);
  run.weights = await readBlockWeights(model.checkpoint, block, run.weights);
  const layers: LayerReport[] = [];
  if (run.config.propagation === "group") {
    for (const current of new Set(block.groups.map((group) => group.stage))) {
      const groups = block.groups.filter((group) => group.stage === current);
      layers.push(...(await pruneGroups(run, block, groups)));
    }
  } else layers.push(...(await pruneGroups(run, block, block.groups)));
  await output.flush();
  await journal.append({ block: block.index, sha256: await hashBlock(run, block), layers });
  if (run.config.propagation !== "dense") await forwardBlock(run, block);

  const losses = layers.flatMap((layer) => layer.loss ?? []);
  context.emit({
    type: "block",
    block: block.index,
    blocks: model.architecture.blocks.length,
    zeros: layers.reduce((sum, layer) => sum + layer.zeros, 0),
    elements: layers.reduce((sum, layer) => sum + layer.elements, 0),
    loss: losses.length === 0 ? null : losses.reduce((sum, loss) => sum + loss, 0),
    seconds: (performance.now() - started) / 1000,
    fraction: (block.index + 1) / model.architecture.blocks.length,
  });
  return layers;
}

/** Move the hidden states past a block that an earlier run finished, after checking that its bytes are still those. */
async function replayBlock(run: Run, block: BlockSpec, entry: BlockEntry): Promise<void> {
  const found = await hashBlock(run, block);
  if (found !== entry.sha256) {
    throw new CheckpointError(
      "E_JOURNAL_HASH",
      `${run.output.partialDirectory}: the tensors of ${block.name} are not those the journal names.`,
      {
        hint: "Something else changed the partial output; start again with --force.",
        details: { block: block.index, expected: entry.sha256, found },
      },
    );
  }
  if (run.states === undefined) return;
  stage(run, block, "replay", 0);
  const { propagation } = run.config;
  if (movesWhileCollecting(run, block)) {
    run.weights = await readBlockWeights(run.model.checkpoint, block, run.weights);
    const statistics = await collect(run, block, block.groups); // the very graph of the first run: its bits count
    for (const group of statistics.values()) group[Symbol.dispose]();
  } else {
    const seen = propagation === "dense" ? run.model.checkpoint : run.output.checkpoint;
    run.weights = await readBlockWeights(seen, block, run.weights);
    await forwardBlock(run, block);
  }
}

/** Collect the statistics of some groups, solve their linears in the order of the block, and write what changed. */
async function pruneGroups(run: Run, block: BlockSpec, groups: readonly InputGroup[]): Promise<LayerReport[]> {
  const statistics = await collect(run, block, groups);
  try {
    const shares = routedShares(groups, statistics, run.config.starved);
    await feedStarvedGroups(run, block, groups, shares, statistics);
    if (run.config.propagation === "dense" && !movesWhileCollecting(run, block)) await forwardBlock(run, block);
    const solved: SolvedLinear[] = [];
    for (const group of groups) {
      const linears = group.linears.filter((linear) => run.selected.has(linear.name));
      if (linears.length === 0) continue;
      using grown = statistics.get(group.name);
      const share = shares.get(group.name);
      const isStatisticUsed = share?.starved === undefined || share.starved === "all-tokens";
      const finished = (isStatisticUsed ? await grown?.finish() : undefined) ?? NO_STATISTICS;
      for (const linear of linears) {
        throwIfStopped(run.context, true);
        stage(run, block, linear.name.slice(block.name.length + 1), 0.5);
        solved.push(await solveLinear(run, block, linear, finished, share));
      }
    }
    const changed = solved.filter(({ share }) => share?.starved !== "skip");
    await writeTensors(run, block, new Set(changed.map(({ linear }) => linear.role)));
    return solved.map(({ linear, loss, seconds, share }) => {
      const { stored, shape } = storedTensor(run, block, linear);
      const elements = linear.inFeatures * linear.outFeatures;
      return { name: linear.name, zeros: countZeros(stored, shape, linear), elements, loss, seconds, ...share };
    });
  } finally {
    for (const group of statistics.values()) group[Symbol.dispose]();
  }
}

const NO_STATISTICS: LayerStatistics = { tokenCount: 0, sequenceCount: 0 };

/**
 * Whether one pass both collects statistics and moves the hidden states on: with dense propagation, unless experts may
 * need a second pass over the same states.
 */
function movesWhileCollecting(run: Run, block: BlockSpec): boolean {
  return run.config.propagation === "dense" && !block.groups.some((group) => group.isRouted === true);
}

/** Where the run says so, replace the statistics of starved groups by those of all tokens. */
async function feedStarvedGroups(
  run: Run,
  block: BlockSpec,
  groups: readonly InputGroup[],
  shares: ReadonlyMap<string, RoutedShare>,
  statistics: Map<string, GroupStatistics>,
): Promise<void> {
  const starved = groups.filter((group) => shares.get(group.name)?.starved === "all-tokens");
  if (starved.length === 0) return;
  for (const [name, fed] of await collect(run, block, starved, true)) {
    statistics.get(name)?.[Symbol.dispose]();
    statistics.set(name, fed);
  }
}

async function collect(
  run: Run,
  block: BlockSpec,
  groups: readonly InputGroup[],
  isRoutingBypassed = false,
): Promise<Map<string, GroupStatistics>> {
  const { states, runner, device, batch, solver, weights } = run;
  if (states === undefined) return new Map();
  const needed = groups.filter((group) => group.linears.some((linear) => run.selected.has(linear.name)));
  return collectStatistics({
    runner,
    block,
    weights,
    states,
    groups: needed,
    needs: solver.needs,
    device,
    batch,
    isRoutingBypassed,
    ...(movesWhileCollecting(run, block) ? { onHidden: (first, hidden) => states.write(first, hidden) } : {}),
    onBatch: (done, total) => {
      stage(run, block, "statistics", 0.5 * (done / total));
      throwIfStopped(run.context, true);
    },
  });
}

interface SolvedLinear {
  readonly linear: LinearSpec;
  readonly loss: number | null;
  readonly seconds: number;
  /** Of an expert's linear. */
  readonly share: RoutedShare | undefined;
}

function storedTensor(
  run: Run,
  block: BlockSpec,
  linear: LinearSpec,
): { stored: Float32Array; shape: readonly number[] } {
  return { stored: lookUp(run.weights, linear.role), shape: lookUp(block.tensors, linear.role).shape };
}

/** Solve one linear and put the result into the block's weights; a starved one as its share says. */
async function solveLinear(
  run: Run,
  block: BlockSpec,
  linear: LinearSpec,
  statistics: LayerStatistics,
  share: RoutedShare | undefined,
): Promise<SolvedLinear> {
  if (share?.starved === "skip") return { linear, loss: null, seconds: 0, share };
  const started = performance.now();
  const { device, config } = run;
  const { name, inFeatures, outFeatures } = linear;
  const { stored, shape } = storedTensor(run, block, linear);
  const weight = device.uploadMatrix(takeMatrix(stored, shape, linear), outFeatures, inFeatures, name);
  const { pattern } = config;
  const sparsity = lookUp(run.sparsities, name);
  const problem = { name, inFeatures, outFeatures, weight, statistics, pattern, sparsity };
  const solution =
    share?.starved === "magnitude"
      ? await MAGNITUDE.solve(problem, MAGNITUDE.schema.parse({}), { device })
      : await run.solver.solve(problem, undefined, { device });
  putMatrix(await device.download({ matrix: solution.weight }), stored, shape, linear);
  solution.weight[Symbol.dispose]();
  solution.keepMask[Symbol.dispose]();
  return { linear, loss: solution.loss ?? null, seconds: (performance.now() - started) / 1000, share };
}

/** Write changed tensors and read them back: later blocks must see the weights as rounded to the stored type. */
async function writeTensors(run: Run, block: BlockSpec, roles: ReadonlySet<string>): Promise<void> {
  for (const role of roles) {
    const { tensor } = lookUp(block.tensors, role);
    const values = lookUp(run.weights, role);
    const { overflowed } = await run.output.writeTensor(tensor, values);
    if (overflowed > 0) {
      run.context.logger.warn(`${tensor}: ${overflowed} weights exceed the range of the stored type`, {
        tensor,
        overflowed,
      });
    }
    await run.output.checkpoint.readTensor(tensor, values);
  }
}

/** Hidden states through a block whose weights are final. The last block's output is not needed. */
async function forwardBlock(run: Run, block: BlockSpec): Promise<void> {
  const { states, runner, batch, model, weights } = run;
  if (states === undefined || block.index === model.architecture.blocks.length - 1) return;
  for (let first = 0; first < states.sequences; first += batch) {
    const count = Math.min(batch, states.sequences - first);
    const input = await states.read(first, count);
    const { hidden } = await runner.run(block, weights, input, count, states.tokens, { hidden: true, taps: undefined });
    if (hidden !== undefined) await states.write(first, hidden);
    stage(run, block, "forward", 0.5 + 0.5 * ((first + count) / states.sequences));
    throwIfStopped(run.context, true);
  }
}

async function hashBlock(run: Run, block: BlockSpec): Promise<string> {
  const linears = block.groups.flatMap((group) => group.linears).filter((linear) => run.selected.has(linear.name));
  const hashes: string[] = [];
  for (const tensor of new Set(linears.map((linear) => tensorOf(block, linear)))) {
    hashes.push(hashOf(await run.output.checkpoint.readBytes(tensor)));
  }
  return hashOf(hashes.join("\n"));
}

/** @param share how much of the block is done, 0..1 */
function stage(run: Run, block: BlockSpec, name: string, share: number): void {
  const blocks = run.model.architecture.blocks.length;
  run.context.emit({
    type: "stage",
    block: block.index,
    blocks,
    stage: name,
    fraction: (block.index + share) / blocks,
  });
}

function report(
  run: Run,
  layers: readonly LayerReport[],
  facts: { readonly started: number; readonly resumedBlocks: number; readonly calibration: TokenSequences | undefined },
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
    seconds: (performance.now() - facts.started) / 1000,
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
