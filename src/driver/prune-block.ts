/**
 * One block of a run: for each stage of it statistics, then group by group what is to happen around solving its linears,
 * and writing; then the hidden states go past it. In which order blocks come is prune-model.ts's business.
 */
import { CheckpointError } from "../errors.js";
import { throwIfStopped } from "../context.js";
import type { BlockTrainingReport, LayerReport, Propagation } from "../contract.js";
import { copyBlockWeights, readBlockWeights } from "../forward/weights.js";
import { lookUp } from "../look-up.js";
import { tensorOf, type BlockSpec, type InputGroup, type LinearSpec } from "../model/architecture.js";
import { countZeros } from "../model/logical-matrix.js";
import type { GradientSource } from "./gradient-source.js";
import { GroupAtWork, type SolvedLinear } from "./group-at-work.js";
import { hashOf, type Journal, type StepEntries } from "./journal.js";
import { blockStage, isRouted, moveOn, onActivations, type BlockAtWork, type RunParts } from "./run.js";
import { readSourceBlock } from "./source-check.js";
import type { StatisticsSource } from "./statistics-source.js";
import { permutedProducers } from "./transforms/permute-channels.js";
import type { BlockTransform } from "./transforms/transform.js";

export interface Run extends RunParts {
  /** Fraction of zeros of every selected linear, by name: what the allocation decided. */
  readonly sparsities: ReadonlyMap<string, number>;
  /** What the method is told about inputs. */
  readonly statistics: StatisticsSource;
  /** What the method is told about gradients; undefined where it looks at none. */
  readonly gradients: GradientSource | undefined;
  /** What happens around the solving of a group, in this order before and in the reverse after it. */
  readonly transforms: readonly BlockTransform[];
}

/** The arrays of the block before, which the next one overwrites: fresh memory costs more than the reading. */
export type BlockMemory = Pick<BlockAtWork, "weights" | "denseWeights">;

export const NO_MEMORY: BlockMemory = { weights: new Map(), denseWeights: undefined };

/** Prune one block, note it in the journal, and move the hidden states past it. */
export async function processBlock(
  run: Run,
  journal: Journal,
  spec: BlockSpec,
  memory: BlockMemory,
): Promise<{
  readonly layers: readonly LayerReport[];
  readonly training: readonly BlockTrainingReport[];
  readonly memory: BlockMemory;
}> {
  const { context, model, output, clock, config } = run;
  const started = performance.now();
  const measuredBefore = clock.measuringSeconds;
  blockStage(run, spec, "read", 0);
  const weights = await readSourceBlock(model, journal, spec, memory.weights);
  const isDenseKept = run.denseStream !== undefined || run.reconstruction !== undefined;
  const denseWeights = isDenseKept ? copyBlockWeights(weights, memory.denseWeights ?? new Map()) : undefined;
  const gradients = await run.gradients?.of({ spec, weights });
  const block = { spec, weights, denseWeights, gradients };

  const solved: SolvedLinear[] = [];
  for (const groups of stagesOf(spec, config.propagation)) solved.push(...(await pruneStage(run, block, groups)));
  await moveDense(run, block);
  const training = (await run.reconstruction?.train(block, solved, run.sparsities)) ?? [];
  const isTrained = training.length > 0;
  if (isTrained) await writeTensors(run, block, new Set(spec.tensors.keys()));
  const layers = solved.map(({ linear, report }) => ({ name: linear.name, ...countsOf(block, linear), ...report }));
  await output.flush();
  const noted = isTrained ? { training } : {};
  await journal.append("block", spec.name, { sha256: await hashBlock(run, spec), layers, ...noted });
  if (config.propagation !== "dense") await onActivations(run, () => moveOn(run, run.stream, spec, weights));

  const losses = layers.flatMap((layer) => layer.loss ?? []);
  context.emit({
    type: "block",
    block: spec.index,
    blocks: model.architecture.blocks.length,
    zeros: layers.reduce((sum, layer) => sum + layer.zeros, 0),
    elements: layers.reduce((sum, layer) => sum + layer.elements, 0),
    loss: losses.length === 0 ? null : losses.reduce((sum, loss) => sum + loss, 0),
    seconds: (performance.now() - started) / 1000 - (clock.measuringSeconds - measuredBefore),
    fraction: run.course.finish(spec),
  });
  return { layers, training, memory: { weights, denseWeights } };
}

/** Groups whose statistics are collected in one pass, before any of their linears is solved. */
function stagesOf({ groups }: BlockSpec, propagation: Propagation): (readonly InputGroup[])[] {
  if (propagation !== "group") return [groups];
  const stages = new Set(groups.map((group) => group.stage));
  return [...stages].map((number) => groups.filter((group) => group.stage === number));
}

/** Collect the statistics of some groups, solve their linears in the order of the block, and write what changed. */
async function pruneStage(run: Run, block: BlockAtWork, groups: readonly InputGroup[]): Promise<SolvedLinear[]> {
  const { transforms } = run;
  const solved: SolvedLinear[] = [];
  const changed = new Set<string>();
  try {
    for (const transform of transforms) await transform.openStage?.(block, groups);
    using statistics = await onActivations(run, () => run.statistics.of(block, groups));
    for (const group of groups) {
      const work = new GroupAtWork(run, block, group);
      if (work.linears.length === 0) continue;
      for (const transform of transforms) transform.admit?.(work, statistics);
      if (work.isOwnMethod) work.statistics = await statistics.finish(group.name);
      throwIfStopped(run.context, true);
      try {
        for (const transform of transforms) await transform.before?.(work);
        solved.push(...(await work.solveAll(transforms)));
      } finally {
        for (const transform of transforms.toReversed()) transform.after?.(work);
        statistics.release(group.name);
      }
      for (const role of work.changed) changed.add(role);
    }
  } finally {
    for (const transform of transforms.toReversed()) transform.closeStage?.();
  }
  await writeTensors(run, block, changed);
  return solved;
}

/** The counts of layers as they are on the disk. */
export async function recount({ model, output }: Run, layers: readonly LayerReport[]): Promise<LayerReport[]> {
  const counted: LayerReport[] = [];
  let weights = new Map<string, Float32Array>();
  for (const spec of model.architecture.blocks) {
    weights = await readBlockWeights(output.checkpoint, spec, weights);
    counted.push(...recountBlock({ spec, weights }, layers));
  }
  return counted;
}

/** The counts of those layers that are linears of a block, as it has them now. */
function recountBlock(block: Pick<BlockAtWork, "spec" | "weights">, layers: readonly LayerReport[]): LayerReport[] {
  const byName = new Map(block.spec.groups.flatMap(({ linears }) => linears.map((linear) => [linear.name, linear])));
  return layers.flatMap((layer) => {
    const linear = byName.get(layer.name);
    return linear === undefined ? [] : [{ ...layer, ...countsOf(block, linear) }];
  });
}

function countsOf(
  { spec, weights }: Pick<BlockAtWork, "spec" | "weights">,
  linear: LinearSpec,
): Pick<LayerReport, "zeros" | "elements"> {
  const { shape } = lookUp(spec.tensors, linear.role);
  const zeros = countZeros(lookUp(weights, linear.role), shape, linear);
  return { zeros, elements: linear.inFeatures * linear.outFeatures };
}

/** Move the hidden states past a block that an earlier run finished, after checking that its bytes are still those. */
export async function replayBlock(
  run: Run,
  journal: Journal,
  spec: BlockSpec,
  entry: StepEntries["block"],
  memory: BlockMemory,
): Promise<BlockMemory> {
  const { stream, denseStream, model, output } = run;
  await expectUnchanged(run, spec, entry);
  if (stream === undefined) return memory;
  blockStage(run, spec, "forward", 0, "replay");
  const isDense = run.config.propagation === "dense";
  const weights = isDense
    ? await readSourceBlock(model, journal, spec, memory.weights)
    : await readBlockWeights(output.checkpoint, spec, memory.weights);
  const block = { spec, weights, denseWeights: undefined };
  if (isDense && !isRouted(spec)) {
    // Statistics and states came out of one graph: its bits count, so it is run again.
    using _again = await run.statistics.of(block, spec.groups);
  } else await moveOn(run, stream, spec, weights);
  if (denseStream === undefined) return block;
  const denseWeights = await readSourceBlock(model, journal, spec, memory.denseWeights);
  await moveDense(run, { ...block, denseWeights });
  return { weights, denseWeights };
}

async function expectUnchanged(run: Run, spec: BlockSpec, { sha256 }: StepEntries["block"]): Promise<void> {
  const found = await hashBlock(run, spec);
  if (found === sha256) return;
  throw new CheckpointError(
    "E_JOURNAL_HASH",
    `${run.output.partialDirectory}: the tensors of ${spec.name} are not those the journal names.`,
    {
      hint: "Something else changed the partial output; start again with --force.",
      details: { block: spec.index, expected: sha256, found },
    },
  );
}

/** Write changed tensors and read them back: later blocks must see the weights as rounded to the stored type. */
async function writeTensors(run: Run, { spec, weights }: BlockAtWork, roles: ReadonlySet<string>): Promise<void> {
  for (const role of roles) {
    const { tensor } = lookUp(spec.tensors, role);
    const values = lookUp(weights, role);
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

/** The dense model's hidden states through a block. */
async function moveDense(run: Run, { spec, denseWeights }: BlockAtWork): Promise<void> {
  if (denseWeights !== undefined)
    await moveOn(run, run.denseStream, spec, denseWeights, {
      step: "dense forward",
      isLastNeeded: run.reconstruction !== undefined,
    });
}

/** Over everything that the run writes of a block, in order. */
async function hashBlock(run: Run, spec: BlockSpec): Promise<string> {
  const trained = run.reconstruction === undefined ? [] : [...spec.tensors.values()].map(({ tensor }) => tensor);
  const linears = spec.groups.flatMap((group) => group.linears).filter((linear) => run.selected.has(linear.name));
  const producers = permutedProducers(run, spec).map(({ role }) => lookUp(spec.tensors, role).tensor);
  const hashes: string[] = [];
  for (const tensor of new Set([...linears.map((linear) => tensorOf(spec, linear)), ...producers, ...trained])) {
    hashes.push(hashOf(await run.output.checkpoint.readBytes(tensor)));
  }
  return hashOf(hashes.join("\n"));
}
