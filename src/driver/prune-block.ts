/**
 * One block of a run: statistics, solves, writing, and moving the hidden states past it, for each kind of propagation.
 * In which order blocks come, and what happens before and after them, is prune-model.ts's business.
 */
import { collectStatistics, type GroupStatistics } from "../calibration/statistics.js";
import type { Device } from "../device/device.js";
import { CheckpointError, InternalError } from "../errors.js";
import { tensorOf, type BlockSpec, type InputGroup, type LinearSpec } from "../model/architecture.js";
import { copyBlockWeights, readBlockWeights } from "../forward/weights.js";
import { type BlockWeights } from "../forward/block-runner.js";
import { lookUp } from "../look-up.js";
import type { HiddenStates } from "../forward/hidden-states.js";
import { countZeros, putMatrix, takeMatrix } from "../model/logical-matrix.js";
import { reconstructionLoss } from "../solvers/matrices.js";
import { findSolver } from "../solvers/registry.js";
import type { LayerStatistics, StatisticName } from "../solvers/solver.js";
import { throwIfStopped } from "../context.js";
import type { LayerReport, Reconstruction } from "../contract.js";
import { Journal, hashOf, type BlockEntry } from "./journal.js";
import { permutedProducers, permuteGroup, type PermutedGroup } from "./permute-channels.js";
import { aside, stage, type Run } from "./run.js";
import { routedShares, type RoutedShare } from "./starved-experts.js";

const MAGNITUDE = findSolver("magnitude");

/** Work on the calibration's activations: the method's, or only there to measure a method that does not look at them. */
function onActivations<Result>(run: Run, work: () => Promise<Result>): Promise<Result> {
  return run.solver.needs.length > 0 ? work() : aside(run, work);
}

/** Prune one block, note it in the journal, and move the hidden states past it. */
export async function processBlock(run: Run, journal: Journal, block: BlockSpec): Promise<LayerReport[]> {
  const started = performance.now();
  const measuredBefore = run.measuring.seconds;
  const { context, model, output } = run;
  stage(run, block, "read", 0);
  run.weights = await readBlockWeights(model.checkpoint, block, run.weights);
  if (run.dense !== undefined) run.dense.weights = copyBlockWeights(run.weights, run.dense.weights);
  const layers: LayerReport[] = [];
  if (run.config.propagation === "group") {
    for (const current of new Set(block.groups.map((group) => group.stage))) {
      const groups = block.groups.filter((group) => group.stage === current);
      layers.push(...(await pruneGroups(run, block, groups)));
    }
  } else layers.push(...(await pruneGroups(run, block, block.groups)));
  await output.flush();
  await journal.append({ block: block.index, sha256: await hashBlock(run, block), layers });
  if (run.config.propagation !== "dense") await onActivations(run, () => forwardBlock(run, block));
  await forwardDense(run, block);

  const losses = layers.flatMap((layer) => layer.loss ?? []);
  context.emit({
    type: "block",
    block: block.index,
    blocks: model.architecture.blocks.length,
    zeros: layers.reduce((sum, layer) => sum + layer.zeros, 0),
    elements: layers.reduce((sum, layer) => sum + layer.elements, 0),
    loss: losses.length === 0 ? null : losses.reduce((sum, loss) => sum + loss, 0),
    seconds: (performance.now() - started) / 1000 - (run.measuring.seconds - measuredBefore),
    fraction: (block.index + 1) / model.architecture.blocks.length,
  });
  return layers;
}

/** Move the hidden states past a block that an earlier run finished, after checking that its bytes are still those. */
export async function replayBlock(run: Run, block: BlockSpec, entry: BlockEntry): Promise<void> {
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
    const { needs } = run.solver;
    const statistics = await collect(run, block, block.groups, { needs }); // the very graph of the first run: its bits count
    disposeAll(statistics);
  } else {
    const seen = propagation === "dense" ? run.model.checkpoint : run.output.checkpoint;
    run.weights = await readBlockWeights(seen, block, run.weights);
    await forwardBlock(run, block);
  }
  if (run.dense === undefined) return;
  run.dense.weights = await readBlockWeights(run.model.checkpoint, block, run.dense.weights);
  await forwardDense(run, block);
}

/** Collect the statistics of some groups, solve their linears in the order of the block, and write what changed. */
async function pruneGroups(run: Run, block: BlockSpec, groups: readonly InputGroup[]): Promise<LayerReport[]> {
  const measured = await collectForMeasuring(run, block, groups); // before the states may move on
  using _measured = { [Symbol.dispose]: () => disposeAll(measured) };
  const statistics = await onActivations(run, () => collect(run, block, groups, { needs: run.solver.needs }));
  try {
    const shares = routedShares(groups, statistics, run.config.starved);
    await feedStarvedGroups(run, block, groups, shares, statistics);
    if (run.config.propagation === "dense" && !movesWhileCollecting(run, block))
      await onActivations(run, () => forwardBlock(run, block));
    const solved: SolvedLinear[] = [];
    const reordered = new Set<string>();
    for (const group of groups) {
      const linears = group.linears.filter((linear) => run.selected.has(linear.name));
      if (linears.length === 0) continue;
      using grown = statistics.get(group.name);
      const share = shares.get(group.name);
      const isStatisticUsed = share?.starved === undefined || share.starved === "all-tokens";
      const finished = (isStatisticUsed ? await grown?.finish() : undefined) ?? NO_STATISTICS;
      throwIfStopped(run.context, true);
      if (run.config.permutation !== "none") stage(run, block, "permutation", 0.5);
      using permuted = share?.starved === "skip" ? undefined : await permuteGroup(run, block, group, finished);
      for (const role of permuted?.roles ?? []) reordered.add(role);
      const solvedOn = permuted?.statistics ?? finished;
      using seen = measured?.get(group.name);
      const truth = seen === undefined ? undefined : await aside(run, () => seen.finish());
      using reorderedTruth = truth && (await permuted?.reorder(truth));
      for (const linear of linears) {
        throwIfStopped(run.context, true);
        stage(run, block, linear.name.slice(block.name.length + 1), 0.5);
        const inputs = { statistics: solvedOn, truth: reorderedTruth?.statistics ?? truth ?? solvedOn, share };
        const result = await solveLinear(run, block, linear, inputs);
        solved.push({ ...result, ...(permuted === undefined ? {} : { permutation: permuted.report }) });
      }
    }
    const changed = solved.filter(({ share }) => share?.starved !== "skip");
    await writeTensors(run, block, new Set([...changed.map(({ linear }) => linear.role), ...reordered]));
    return solved.map(({ linear, share, ...outcome }) => {
      const { stored, shape } = storedTensor(run, block, linear);
      const elements = linear.inFeatures * linear.outFeatures;
      return { name: linear.name, zeros: countZeros(stored, shape, linear), elements, ...outcome, ...share };
    });
  } finally {
    disposeAll(statistics);
  }
}

function disposeAll(statistics: ReadonlyMap<string, GroupStatistics> | undefined): void {
  for (const group of statistics?.values() ?? []) group[Symbol.dispose]();
}

/**
 * Gram matrices of what the linears see, where the method does not collect just those itself: it needs less, or it gives
 * starved experts the statistics of other tokens. In a pass of its own, so that measuring changes no bit of the result.
 */
async function collectForMeasuring(
  run: Run,
  block: BlockSpec,
  groups: readonly InputGroup[],
): Promise<Map<string, GroupStatistics> | undefined> {
  const isRouted = groups.some((group) => group.isRouted === true);
  if (!run.config.measureLoss || (run.solver.needs.includes("gram") && !isRouted)) return undefined;
  return aside(run, () => collect(run, block, groups, { needs: ["gram"], isMoving: false }));
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
  for (const [name, fed] of await collect(run, block, starved, {
    needs: run.solver.needs,
    isRoutingBypassed: true,
  })) {
    statistics.get(name)?.[Symbol.dispose]();
    statistics.set(name, fed);
  }
}

interface CollectedStatistics {
  readonly needs: readonly StatisticName[];
  readonly isRoutingBypassed?: boolean;
  /** Default: what `movesWhileCollecting` says. */
  readonly isMoving?: boolean;
}

async function collect(
  run: Run,
  block: BlockSpec,
  groups: readonly InputGroup[],
  options: CollectedStatistics,
): Promise<Map<string, GroupStatistics>> {
  const { states, runner, device, batch, weights } = run;
  const { needs, isRoutingBypassed = false, isMoving = movesWhileCollecting(run, block) } = options;
  const needed = groups.filter((group) => group.linears.some((linear) => run.selected.has(linear.name)));
  const { stored } = run;
  const pathOf = (group: string): string => `${block.name} ${group}`;
  if (stored?.has(needs) === true && needs.length > 0 && !(isMoving && states !== undefined)) {
    return new Map(needed.map(({ name, inFeatures }) => [name, stored.open(pathOf(name), needs, inFeatures, device)]));
  }
  if (states === undefined) return new Map();
  const started = performance.now();
  const statistics = await collectStatistics({
    runner,
    block,
    weights,
    states,
    groups: needed,
    needs,
    device,
    batch,
    isRoutingBypassed,
    dense: run.dense,
    ...(isMoving ? { onHidden: (first, hidden) => states.write(first, hidden) } : {}),
    onBatch: (done, total) => {
      stage(run, block, "statistics", 0.5 * (done / total));
      throwIfStopped(run.context, true);
    },
  });
  if (stored === undefined || stored.has(needs)) return statistics;
  stored.addSeconds(needs, (performance.now() - started) / 1000);
  const keep = (name: string, finished: LayerStatistics): Promise<void> =>
    aside(run, () => stored.keep(pathOf(name), needs, finished, device));
  return new Map([...statistics].map(([name, group]) => [name, keeping(group, (finished) => keep(name, finished))]));
}

/** Hand over what a group's statistics are in the end. */
function keeping(group: GroupStatistics, keep: (finished: LayerStatistics) => Promise<void>): GroupStatistics {
  return {
    get tokens() {
      return group.tokens;
    },
    add: (tap, sequences) => group.add(tap, sequences),
    finish: async () => {
      const finished = await group.finish();
      await keep(finished);
      return finished;
    },
    [Symbol.dispose]: () => group[Symbol.dispose](),
  };
}

interface SolvedLinear {
  readonly linear: LinearSpec;
  readonly loss: number | null;
  readonly reconstruction?: Reconstruction;
  readonly seconds: number;
  /** Of an expert's linear. */
  readonly share: RoutedShare | undefined;
  readonly permutation?: PermutedGroup["report"];
}

interface LinearInputs {
  /** What the method is given. */
  readonly statistics: LayerStatistics;
  /** What the error is measured on, where the run measures it. */
  readonly truth: LayerStatistics;
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
  { statistics, truth, share }: LinearInputs,
): Promise<SolvedLinear> {
  const { device, config } = run;
  const { name, inFeatures, outFeatures } = linear;
  const { stored, shape } = storedTensor(run, block, linear);
  const before = config.measureLoss ? takeMatrix(stored, shape, linear).slice() : undefined;
  const measure = async (): Promise<{ readonly reconstruction?: Reconstruction }> => {
    if (before === undefined) return {};
    const after = takeMatrix(stored, shape, linear);
    return { reconstruction: await aside(run, () => measureReconstruction(device, linear, before, after, truth)) };
  };
  if (share?.starved === "skip") return { linear, loss: null, ...(await measure()), seconds: 0, share };
  const started = performance.now();
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
  const seconds = (performance.now() - started) / 1000;
  return { linear, loss: solution.loss ?? null, ...(await measure()), seconds, share };
}

/** Two products of the layer's own size on the device; see `Reconstruction`. */
async function measureReconstruction(
  device: Device,
  { name, inFeatures, outFeatures }: LinearSpec,
  before: Float32Array,
  after: Float32Array,
  { gram, sequenceCount }: LayerStatistics,
): Promise<Reconstruction> {
  if (gram === undefined) throw new InternalError("E_STATISTICS", `${name}: there is no Gram matrix to measure with`);
  if (sequenceCount === 0) return { error: 0, output: 0, relative: 0 };
  using dense = device.uploadMatrix(before, outFeatures, inFeatures, `${name}: dense weight`);
  using pruned = device.uploadMatrix(after, outFeatures, inFeatures, `${name}: pruned weight`);
  using nothing = device.createMatrix(outFeatures, inFeatures, `${name}: zeros`);
  const error = await reconstructionLoss(device, { dense, pruned, gram, sequenceCount });
  const output = await reconstructionLoss(device, { dense, pruned: nothing, gram, sequenceCount });
  return { error, output, relative: output === 0 ? 0 : error / output };
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
  if (run.states !== undefined) await forwardStates(run, block, run.weights, run.states);
}

/** The dense model's hidden states through a block. */
async function forwardDense(run: Run, block: BlockSpec): Promise<void> {
  if (run.dense !== undefined) await forwardStates(run, block, run.dense.weights, run.dense.states);
}

async function forwardStates(run: Run, block: BlockSpec, weights: BlockWeights, states: HiddenStates): Promise<void> {
  const { runner, batch, model } = run;
  if (block.index === model.architecture.blocks.length - 1) return;
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
  const producers = permutedProducers(run, block).map(({ role }) => lookUp(block.tensors, role).tensor);
  const hashes: string[] = [];
  for (const tensor of new Set([...linears.map((linear) => tensorOf(block, linear)), ...producers])) {
    hashes.push(hashOf(await run.output.checkpoint.readBytes(tensor)));
  }
  return hashOf(hashes.join("\n"));
}
