/**
 * Channel permutation of a run: which groups of inputs take part, finding an order, and putting the block's weights and
 * the group's statistics in that order before its linears are solved. How an order is found is sparsity/permutation.ts's
 * business, what has to change places with the channels model/channel-order.ts's.
 */
import { ConfigError, InternalError, type PruneError } from "../errors.js";
import type { LayerReport, RunConfig } from "../contract.js";
import type { Device, Matrix } from "../device/device.js";
import type { Architecture, BlockSpec, ChannelProducer, InputGroup } from "../model/architecture.js";
import { lookUp } from "../look-up.js";
import { reorderChannels, reorderSymmetric } from "../model/channel-order.js";
import { takeMatrix } from "../model/logical-matrix.js";
import type { LayerStatistics } from "../solvers/solver.js";
import { permuteChannels } from "../sparsity/permutation.js";
import type { Run } from "./run.js";

type Selected = ReadonlySet<string>;

/** Whether the run permutes the inputs of this group: it may, and something of it is pruned. */
function isPermuted(config: RunConfig, selected: Selected, group: InputGroup): boolean {
  return (
    config.permutation === "channels" &&
    group.producers !== undefined &&
    group.linears.some(({ name }) => selected.has(name))
  );
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
export function permutedProducers({ config, selected }: Run, block: BlockSpec): ChannelProducer[] {
  return block.groups
    .filter((group) => isPermuted(config, selected, group))
    .flatMap(({ producers }) => producers ?? []);
}

/** Statistics in the new order of the channels; what they hold on the device is disposed of with them. */
export interface ReorderedStatistics extends Disposable {
  readonly statistics: LayerStatistics;
}

/** A group whose weights in the run are in a new order. Its statistics are to be used in place of the old ones. */
export interface PermutedGroup extends ReorderedStatistics {
  /** Other statistics of the same inputs, in the new order; the Gram matrix handed in is disposed of. */
  reorder(statistics: LayerStatistics): Promise<ReorderedStatistics>;
  /** Tensors of the block that changed. */
  readonly roles: ReadonlySet<string>;
  readonly report: NonNullable<LayerReport["permutation"]>;
}

/**
 * Find an order for a group's inputs and put weights and statistics in it; undefined where the run does not permute them.
 * The Gram matrix handed in is disposed of: two of them on the device are enough.
 */
export async function permuteGroup(
  run: Run,
  block: BlockSpec,
  group: InputGroup,
  statistics: LayerStatistics,
): Promise<PermutedGroup | undefined> {
  const { config, selected, weights, device } = run;
  if (!isPermuted(config, selected, group)) return undefined;
  const { pattern } = config;
  if (pattern.kind !== "n-of-m") throw new InternalError("E_PERMUTATION", "a permutation needs an N:M pattern");
  const started = performance.now();
  const matrices = group.linears
    .filter(({ name }) => selected.has(name))
    .map((linear) => takeMatrix(lookUp(weights, linear.role), lookUp(block.tensors, linear.role).shape, linear));
  const { order, retained, before } = permuteChannels(matrices, inputNorms(group, statistics), pattern);
  const isSame = order.every((channel, place) => channel === place);
  const roles = isSame ? new Set<string>() : reorderChannels(block, weights, group, order);
  const reorder = async (given: LayerStatistics): Promise<ReorderedStatistics> => {
    if (isSame) return { statistics: given, [Symbol.dispose]: () => undefined };
    const reordered = await reorderStatistics(given, order, device, `${block.name} ${group.name}`);
    return {
      statistics: reordered,
      [Symbol.dispose]: () => {
        reordered.gram?.[Symbol.dispose]();
        reordered.errors?.[Symbol.dispose]();
      },
    };
  };
  const permuted = await reorder(statistics);
  return {
    ...permuted,
    reorder,
    roles,
    report: { retained, before, seconds: (performance.now() - started) / 1000 },
  };
}

/** ‖x‖ per channel; 1 where the method looks at weights only. */
function inputNorms({ inFeatures }: InputGroup, { squareSums }: LayerStatistics): Float32Array {
  return squareSums === undefined ? new Float32Array(inFeatures).fill(1) : squareSums.map(Math.sqrt);
}

async function reorderStatistics(
  statistics: LayerStatistics,
  order: Int32Array,
  device: Device,
  label: string,
): Promise<LayerStatistics> {
  const reorder = (values: Float32Array): Float32Array => Float32Array.from(order, (channel) => values[channel]);
  const { squareSums, moments, gram, errors } = statistics;
  return {
    ...statistics,
    ...(squareSums === undefined ? {} : { squareSums: reorder(squareSums) }),
    ...(moments === undefined
      ? {}
      : { moments: { sums: reorder(moments.sums), variances: reorder(moments.variances) } }),
    ...(gram === undefined ? {} : { gram: await reorderGram(gram, order, device, label) }),
    ...(errors === undefined ? {} : { errors: reorderErrors(errors, order, device, label) }),
  };
}

/** On the host: three whole passes over the matrix, which is little beside what a solver does with it. */
async function reorderGram(
  gram: NonNullable<LayerStatistics["gram"]>,
  order: Int32Array,
  device: Device,
  label: string,
): Promise<NonNullable<LayerStatistics["gram"]>> {
  const n = order.length;
  const values = await device.download({ matrix: gram });
  gram[Symbol.dispose]();
  reorderSymmetric(values, order);
  const permuted = device.uploadMatrix(values, n, n, `${label} permuted gram`);
  await device.synchronize();
  return permuted;
}

/** Both sides, on the device. */
function reorderErrors(errors: Matrix, order: Int32Array, device: Device, label: string): Matrix {
  const n = order.length;
  const places = Uint32Array.from(order);
  const permuted = device.createMatrix(n, n, `${label} permuted errors`);
  device.gather(errors, permuted, { rows: places, columns: places });
  errors[Symbol.dispose]();
  return permuted;
}
