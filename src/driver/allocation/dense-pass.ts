/**
 * Streaming the dense model for an allocation: block after block, its weights, or its weights and the norms of their inputs.
 * What is made of them is the visitor's business. Memory: one block.
 */
import { collectStatistics, type GroupStatistics } from "../../calibration/statistics.js";
import type { Device } from "../../device/device.js";
import { InternalError } from "../../errors.js";
import type { BlockSpec, InputGroup, LinearSpec } from "../../model/architecture.js";
import { readBlockWeights } from "../../forward/weights.js";
import type { BlockWeights } from "../../forward/block-runner.js";
import { lookUp } from "../../look-up.js";
import type { Stream } from "../../forward/stream.js";
import { takeMatrix } from "../../model/logical-matrix.js";
import type { Model } from "../../model/open-model.js";
import type { StatisticName } from "../../solvers/solver.js";
import type { ScoredMatrix } from "../../allocation/scores.js";

export interface DensePass {
  readonly model: Model;
  readonly device: Device;
  /** Filled with embeddings; left behind the last block. undefined where nothing is forwarded. */
  readonly stream: Stream | undefined;
  readonly onBatch: (block: BlockSpec, done: number, total: number) => void;
}

/** A block with the linears of it that are pruned. */
export interface SelectedBlock {
  readonly block: BlockSpec;
  readonly linears: readonly LinearSpec[];
}

/** Blocks that have something to prune. */
export function selectedBlocks(blocks: readonly BlockSpec[], selected: ReadonlySet<string>): SelectedBlock[] {
  return blocks
    .map((block) => ({
      block,
      linears: block.groups.flatMap((group) => group.linears.filter((linear) => selected.has(linear.name))),
    }))
    .filter(({ linears }) => linears.length > 0);
}

/** Hand out the weights of each selected linear, [outFeatures, inFeatures], borrowed; no tokens are needed. */
export async function visitWeights(
  { model, onBatch }: Pick<DensePass, "model" | "onBatch">,
  blocks: readonly SelectedBlock[],
  visit: (values: Float32Array, linear: LinearSpec) => void | Promise<void>,
): Promise<void> {
  let weights = new Map<string, Float32Array>();
  for (const { block, linears } of blocks) {
    const roles = new Set(linears.map((linear) => linear.role));
    const tensors = new Map([...block.tensors].filter(([role]) => roles.has(role)));
    weights = await readBlockWeights(model.checkpoint, { ...block, tensors }, weights);
    for (const [i, linear] of linears.entries()) {
      const { shape } = lookUp(block.tensors, linear.role);
      await visit(takeMatrix(lookUp(weights, linear.role), shape, linear), linear);
      onBatch(block, i + 1, linears.length);
    }
  }
}

/** What a block's pass gives for one group of inputs. */
export interface VisitedGroup {
  readonly group: InputGroup;
  /** Selected ones. */
  readonly linears: readonly LinearSpec[];
  readonly statistics: GroupStatistics;
}

/** Hand out, block after block, the statistics of the inputs of selected linears; they are disposed of after the visit. */
export async function visitStatistics(
  pass: DensePass,
  blocks: readonly SelectedBlock[],
  needs: readonly StatisticName[],
  visit: (block: BlockSpec, groups: readonly VisitedGroup[], weights: BlockWeights) => Promise<void>,
): Promise<void> {
  const { model, stream, device } = pass;
  if (stream === undefined)
    throw new InternalError("E_ALLOCATION", "the allocation rule needs activations, and there are none");
  let weights = new Map<string, Float32Array>();
  for (const block of model.architecture.blocks) {
    weights = await readBlockWeights(model.checkpoint, block, weights);
    const linears = blocks.find((entry) => entry.block === block)?.linears ?? [];
    const groups = block.groups.filter((group) => group.linears.some((linear) => linears.includes(linear)));
    const statistics = await collectStatistics({
      stream,
      block,
      weights,
      groups,
      needs,
      device,
      moves: true,
      onBatch: (done, total) => pass.onBatch(block, done, total),
    });
    try {
      const visited = groups.map((group) => ({
        group,
        linears: group.linears.filter((linear) => linears.includes(linear)),
        statistics: lookUp(statistics, group.name),
      }));
      await visit(block, visited, weights);
    } finally {
      for (const group of statistics.values()) group[Symbol.dispose]();
    }
  }
}

/** Hand out the weights of each block's selected linears with the norms of their inputs in the dense model. */
export async function visitInputs(
  pass: DensePass,
  blocks: readonly SelectedBlock[],
  visit: (matrices: readonly ScoredMatrix[], linears: readonly LinearSpec[]) => void,
): Promise<void> {
  await visitStatistics(pass, blocks, ["column-norms"], async (block, groups, weights) => {
    const matrices: ScoredMatrix[] = [];
    for (const { linears, statistics } of groups) {
      const { squareSums } = await statistics.finish();
      const norms = Float64Array.from(squareSums ?? [], Math.sqrt);
      for (const linear of linears) {
        const { shape } = lookUp(block.tensors, linear.role);
        matrices.push({ values: takeMatrix(lookUp(weights, linear.role), shape, linear), norms });
      }
    }
    const linears = groups.flatMap((group) => group.linears);
    if (linears.length > 0) visit(matrices, linears);
  });
}
