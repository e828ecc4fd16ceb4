/**
 * How much each linear loses, decided before solving. Rules that look at activations need one pass over the *dense*
 * model, which streams block by block like everything else.
 */
import { collectStatistics } from "../calibration/statistics.js";
import type { Device } from "../device/device.js";
import { InternalError } from "../errors.js";
import type { BlockSpec, LinearSpec } from "../model/architecture.js";
import { readBlockWeights } from "../model/block-weights.js";
import { lookUp, type BlockRunner } from "../model/forward.js";
import type { HiddenStates } from "../model/hidden-states.js";
import { takeMatrix } from "../model/logical-matrix.js";
import type { Model } from "../model/open-model.js";
import { distribute, type Unit } from "../sparsity/allocation/distribute.js";
import {
  dlpSparsities,
  erdosRenyiSparsities,
  owlSparsities,
  progressionSparsities,
} from "../sparsity/allocation/rules.js";
import type { Allocation } from "../sparsity/allocation/schema.js";

export interface AllocationInput {
  readonly allocation: Allocation;
  readonly target: number;
  readonly model: Model;
  /** Linears to prune, by name. */
  readonly selected: ReadonlySet<string>;
  readonly device: Device;
  readonly runner: BlockRunner;
  /** Filled with embeddings; left behind the last block. undefined where no rule needs a forward. */
  readonly states: HiddenStates | undefined;
  readonly batch: number;
  readonly onBatch: (block: BlockSpec, done: number, total: number) => void;
}

/** Sparsity of every selected linear, by name; the parameter-weighted mean is the target. */
export async function allocateSparsity(input: AllocationInput): Promise<ReadonlyMap<string, number>> {
  const { allocation, target } = input;
  const blocks = input.model.architecture.blocks
    .map((block) => ({ block, linears: selectedLinears(block, input.selected) }))
    .filter(({ linears }) => linears.length > 0);
  switch (allocation.rule) {
    case "uniform":
      return byBlock(
        blocks,
        blocks.map(() => target),
      );
    case "atp":
      return byBlock(blocks, spread(blocks, progressionSparsities(blocks.length, target, allocation.beta), target));
    case "owl": {
      const scores = await scoreBlocks(input, blocks, (matrices) => outlierPercent(matrices, allocation.M));
      return byBlock(blocks, spread(blocks, owlSparsities(scores, target, allocation.lambda), target));
    }
    case "dlp": {
      const scores = await scoreBlocks(input, blocks, medianScore);
      return byBlock(blocks, spread(blocks, dlpSparsities(scores, target, allocation.alpha), target));
    }
    case "er": {
      const linears = blocks.flatMap((entry) => entry.linears);
      const sparsities = distribute(linears.map(unitOf), erdosRenyiSparsities(linears, target), target);
      return new Map(linears.map(({ name }, i) => [name, sparsities[i]]));
    }
    default:
      return allocation satisfies never;
  }
}

interface SelectedBlock {
  readonly block: BlockSpec;
  readonly linears: readonly LinearSpec[];
}

function selectedLinears(block: BlockSpec, selected: ReadonlySet<string>): LinearSpec[] {
  return block.groups.flatMap((group) => group.linears.filter((linear) => selected.has(linear.name)));
}

function unitOf({ name, inFeatures, outFeatures }: LinearSpec): Unit {
  return { name, elements: inFeatures * outFeatures };
}

function spread(blocks: readonly SelectedBlock[], raw: readonly number[], target: number): number[] {
  const units = blocks.map(({ block, linears }) => ({
    name: block.name,
    elements: linears.reduce((sum, linear) => sum + unitOf(linear).elements, 0),
  }));
  return distribute(units, raw, target);
}

function byBlock(blocks: readonly SelectedBlock[], sparsities: readonly number[]): Map<string, number> {
  return new Map(
    blocks.flatMap(({ linears }, i) => linears.map(({ name }): [string, number] => [name, sparsities[i]])),
  );
}

/** One linear's weights and the norms of its input channels. */
interface ScoredMatrix {
  readonly values: Float32Array;
  readonly norms: Float64Array;
}

/** A number per block from the scores |w|·‖x‖ of its linears, on the dense model's activations. */
async function scoreBlocks(
  input: AllocationInput,
  blocks: readonly SelectedBlock[],
  score: (matrices: readonly ScoredMatrix[]) => number,
): Promise<number[]> {
  const { model, runner, states, device, batch } = input;
  if (states === undefined)
    throw new InternalError("E_ALLOCATION", "the allocation rule needs activations, and there are none");
  const scores: number[] = [];
  let weights = new Map<string, Float32Array>();
  for (const block of model.architecture.blocks) {
    weights = await readBlockWeights(model.checkpoint, block, weights);
    const linears = blocks.find((entry) => entry.block === block)?.linears ?? [];
    const groups = block.groups.filter((group) => group.linears.some((linear) => linears.includes(linear)));
    const statistics = await collectStatistics({
      runner,
      block,
      weights,
      states,
      groups,
      needs: ["column-norms"],
      device,
      batch,
      onHidden: (first, hidden) => states.write(first, hidden),
      onBatch: (done, total) => input.onBatch(block, done, total),
    });
    const matrices: ScoredMatrix[] = [];
    for (const group of groups) {
      using grown = lookUp(statistics, group.name);
      const { squareSums } = await grown.finish();
      const norms = Float64Array.from(squareSums ?? [], Math.sqrt);
      for (const linear of group.linears.filter((candidate) => linears.includes(candidate))) {
        const { shape } = lookUp(block.tensors, linear.role);
        matrices.push({ values: takeMatrix(lookUp(weights, linear.role), shape, linear), norms });
      }
    }
    if (linears.length > 0) scores.push(score(matrices));
  }
  return scores;
}

/** 100 · share of a block's scores above M times their mean. */
export function outlierPercent(matrices: readonly ScoredMatrix[], M: number): number {
  let sum = 0;
  let count = 0;
  for (const { values, norms } of matrices) {
    for (let i = 0, channel = 0; i < values.length; i++) {
      sum += Math.abs(values[i]) * norms[channel];
      if (++channel === norms.length) channel = 0;
    }
    count += values.length;
  }
  const threshold = (M * sum) / count;
  let outliers = 0;
  for (const { values, norms } of matrices) {
    for (let i = 0, channel = 0; i < values.length; i++) {
      if (Math.abs(values[i]) * norms[channel] > threshold) outliers++;
      if (++channel === norms.length) channel = 0;
    }
  }
  return count === 0 ? 0 : (100 * outliers) / count;
}

/** The median score of a block, exact to float32: found in two passes over a histogram of the scores' bits. */
export function medianScore(matrices: readonly ScoredMatrix[]): number {
  const count = matrices.reduce((sum, { values }) => sum + values.length, 0);
  const rank = Math.floor((count - 1) / 2); // of an even number the lower one, as torch.median takes
  const single = new Float32Array(1);
  const bits = new Uint32Array(single.buffer);
  const histogram = (isCounted: (pattern: number) => boolean, binOf: (pattern: number) => number): Uint32Array => {
    const bins = new Uint32Array(2 ** 16);
    for (const { values, norms } of matrices) {
      for (let i = 0, channel = 0; i < values.length; i++) {
        single[0] = Math.abs(values[i]) * norms[channel];
        if (isCounted(bits[0])) bins[binOf(bits[0])]++;
        if (++channel === norms.length) channel = 0;
      }
    }
    return bins;
  };
  const [high, before] = binOfRank(
    histogram(
      () => true,
      (pattern) => pattern >>> 16,
    ),
    rank,
  );
  const low = histogram(
    (pattern) => pattern >>> 16 === high,
    (pattern) => pattern & 0xffff,
  );
  bits[0] = high * 2 ** 16 + binOfRank(low, rank - before)[0];
  return single[0];
}

/** The bin that holds the element of a rank, and how many lie in earlier bins. */
function binOfRank(bins: Uint32Array, rank: number): [bin: number, before: number] {
  let before = 0;
  for (let bin = 0; bin < bins.length; bin++) {
    if (before + bins[bin] > rank) return [bin, before];
    before += bins[bin];
  }
  return [bins.length - 1, before];
}
