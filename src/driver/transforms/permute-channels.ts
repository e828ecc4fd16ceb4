/**
 * Channel permutation of a run: which groups of inputs take part, finding an order, and putting the block's weights and
 * the group's statistics in that order before its linears are solved. How an order is found is sparsity/permutation.ts's
 * business, what has to change places with the channels model/channel-order.ts's.
 */
import { ConfigError, InternalError, type PruneError } from "../../errors.js";
import type { RunConfig } from "../../contract.js";
import type { Device, Matrix } from "../../device/device.js";
import type { Architecture, BlockSpec, ChannelProducer, InputGroup } from "../../model/architecture.js";
import { lookUp } from "../../look-up.js";
import { reorderChannels } from "../../model/channel-order.js";
import { takeMatrix } from "../../model/logical-matrix.js";
import type { LayerStatistics } from "../../solvers/solver.js";
import { permuteChannels } from "../../sparsity/permutation.js";
import type { ReorderedStatistics } from "../group-at-work.js";
import { blockStage, isPruned, type RunParts } from "../run.js";
import type { BlockTransform } from "./transform.js";

type Selected = ReadonlySet<string>;

/** Whether the run permutes the inputs of this group: it may, and something of it is pruned. */
function isPermuted(config: RunConfig, selected: Selected, group: InputGroup): boolean {
  return config.permutation === "channels" && group.producers !== undefined && isPruned(group, selected);
}

/** That the run asks for a permutation and no linear can have one. */
export function permutationProblem(
  config: RunConfig,
  { blocks }: Architecture,
  selected: Selected,
): PruneError | undefined {
  if (config.permutation === "none") return undefined;
  if (blocks.some((block) => block.groups.some((group) => isPermuted(config, selected, group)))) return undefined;
  return new ConfigError(
    "E_PERMUTATION_NOTHING",
    "--permutation channels: nothing that is pruned reads inputs which can change places.",
    {
      hint: "Only the inputs of MLPs' down projections can, and --ignore leaves all of these dense: leave --permutation out.",
    },
  );
}

/** What makes the inputs that the run permutes: it is written even where none of it is pruned. */
export function permutedProducers(
  { config, selected }: Pick<RunParts, "config" | "selected">,
  block: BlockSpec,
): ChannelProducer[] {
  return block.groups
    .filter((group) => isPermuted(config, selected, group))
    .flatMap(({ producers }) => producers ?? []);
}

/**
 * Find an order for a group's inputs and put weights and statistics in it, before its linears are solved.
 * The Gram matrix of the statistics is disposed of: two of them on the device are enough.
 */
export function permuteChannelsOf(
  run: Pick<RunParts, "config" | "selected" | "device" | "context" | "course" | "model">,
): BlockTransform {
  const { config, selected, device } = run;
  let permuted: ReorderedStatistics | undefined;
  return {
    name: "permute channels",
    async before(work) {
      const { group, block } = work;
      blockStage(run, block.spec, "statistics", 1, "permutation");
      const { pattern } = config;
      if (!work.isSolved || !isPermuted(config, selected, group)) return;
      if (pattern.kind !== "n-of-m") throw new InternalError("E_PERMUTATION", "a permutation needs an N:M pattern");
      const started = performance.now();
      const matrices = work.linears.map((linear) =>
        takeMatrix(lookUp(block.weights, linear.role), lookUp(block.spec.tensors, linear.role).shape, linear),
      );
      const { order, retained, before } = permuteChannels(matrices, inputNorms(group, work.statistics), pattern);
      const isSame = order.every((channel, place) => channel === place);
      if (!isSame) {
        for (const role of reorderChannels(block.spec, block.weights, group, order)) work.change(role);
        for (const sums of block.gradients?.values() ?? [])
          reorderChannels(block.spec, sums, readersIn(group, sums), order);
        work.reorder = (statistics) => reorder(statistics, order, device, `${block.spec.name} ${group.name}`);
        permuted = work.reorder(work.statistics);
        work.statistics = permuted.statistics;
      }
      work.note({ permutation: { retained, before, seconds: (performance.now() - started) / 1000 } });
    },
    after() {
      permuted?.[Symbol.dispose]();
      permuted = undefined;
    },
  };
}

/** The readers of a group's inputs that some tensors hold. What produces the inputs is solved already. */
function readersIn(group: InputGroup, held: ReadonlyMap<string, Float32Array>): InputGroup {
  return { ...group, linears: group.linears.filter(({ role }) => held.has(role)), producers: [] };
}

/** The Gram matrix handed in is disposed of. */
function reorder(given: LayerStatistics, order: Int32Array, device: Device, label: string): ReorderedStatistics {
  const statistics = reorderStatistics(given, order, device, label);
  return {
    statistics,
    [Symbol.dispose]: () => {
      statistics.gram?.[Symbol.dispose]();
      statistics.errors?.[Symbol.dispose]();
    },
  };
}

/** ‖x‖ per channel; 1 where the method looks at weights only. */
function inputNorms({ inFeatures }: InputGroup, { squareSums }: LayerStatistics): Float32Array {
  return squareSums === undefined ? new Float32Array(inFeatures).fill(1) : squareSums.map(Math.sqrt);
}

function reorderStatistics(
  statistics: LayerStatistics,
  order: Int32Array,
  device: Device,
  label: string,
): LayerStatistics {
  const reorder = (values: Float32Array): Float32Array => Float32Array.from(order, (channel) => values[channel]);
  const { squareSums, moments, gram, errors } = statistics;
  if (gram !== undefined) device.mirrorLower(gram); // given by its lower triangle; entries change sides
  return {
    ...statistics,
    ...(squareSums === undefined ? {} : { squareSums: reorder(squareSums) }),
    ...(moments === undefined
      ? {}
      : { moments: { sums: reorder(moments.sums), variances: reorder(moments.variances) } }),
    ...(gram === undefined ? {} : { gram: reorderSquare(gram, order, device, `${label} permuted gram`) }),
    ...(errors === undefined ? {} : { errors: reorderSquare(errors, order, device, `${label} permuted errors`) }),
  };
}

/** Both sides of a square matrix in a new order; the matrix handed in is disposed of. */
function reorderSquare(matrix: Matrix, order: Int32Array, device: Device, label: string): Matrix {
  const places = Uint32Array.from(order);
  const permuted = device.createMatrix(order.length, order.length, label);
  device.gather(matrix, permuted, { rows: places, columns: places });
  matrix[Symbol.dispose]();
  return permuted;
}
