/**
 * From scores to a mask: what the pattern of a problem makes of |values|·scale. N:M keeps the largest of every group;
 * unstructured prunes the exact number, over the whole matrix or in each output row alone. Every method that chooses all
 * of a mask at once chooses it here.
 */
import type { Device, KeepMask, Matrix } from "../device/device.js";
import { pruneCount } from "../sparsity/target.js";
import {
  costOf,
  elementsOf,
  holding,
  inSequence,
  maskBytes,
  matrixBytes,
  PASSES,
  type LayerSize,
  type SolveCost,
} from "./cost.js";
import { disposeOnFailure } from "./matrices.js";
import { expectGroupsFit } from "./problem.js";
import type { LayerProblem, LayerSolution } from "./solver.js";

/** Where the weights compete that are to go: over the whole matrix, or in each output row alone. */
export const GRANULARITIES = ["matrix", "row"] as const;
export type Granularity = (typeof GRANULARITIES)[number];

export interface SelectionOptions {
  /** Factor of every input's scores, [inFeatures]; default 1. */
  readonly scale?: Float32Array;
  /** Of unstructured patterns; default "matrix". */
  readonly granularity?: Granularity;
  /** How many of so many weights go; default the exact count. */
  readonly count?: (elements: number, sparsity: number) => number;
}

/** The selection of one problem; what it holds on the device is disposed of with it. */
export class Selection implements Disposable {
  readonly #problem: LayerProblem;
  readonly #device: Device;
  readonly #granularity: Granularity;
  readonly #count: (elements: number, sparsity: number) => number;
  /** [1, inFeatures] */
  readonly #scale: Matrix;

  constructor(
    problem: LayerProblem,
    device: Device,
    { scale, granularity = "matrix", count = pruneCount }: SelectionOptions = {},
  ) {
    const { name, inFeatures } = problem;
    this.#problem = problem;
    this.#device = device;
    this.#granularity = granularity;
    this.#count = count;
    this.#scale = device.uploadMatrix(scale ?? new Float32Array(inFeatures).fill(1), 1, inFeatures, `${name}: scale`);
  }

  /** The mask that the problem asks for. @param values [outFeatures, inFeatures], finite */
  choose(values: Matrix, keepMask: KeepMask): void {
    const { inFeatures, outFeatures, pattern, sparsity } = this.#problem;
    if (pattern.kind === "n-of-m")
      this.#device.selectGroups(values, this.#scale, pattern.keep, pattern.group, keepMask);
    else if (this.#granularity === "row")
      this.#device.selectRows(values, this.#scale, this.#count(inFeatures, sparsity), keepMask);
    else this.chooseFewer(values, this.#count(outFeatures * inFeatures, sparsity), keepMask);
  }

  /** Whatever the pattern: the mask without the `pruned` smallest of the whole matrix, for masks on their way to the final one. */
  chooseFewer(values: Matrix, pruned: number, keepMask: KeepMask): void {
    this.#device.selectMatrix(values, this.#scale, pruned, keepMask);
  }

  [Symbol.dispose](): void {
    this.#scale[Symbol.dispose]();
  }
}

/**
 * Choose a mask, prune the weight by it and change nothing else: the whole of a method without a weight update.
 *
 * @throws ConfigError E_PATTERN_WIDTH when inFeatures is not a multiple of the pattern's group
 */
export function pruneByMask(
  problem: LayerProblem,
  device: Device,
  choose: (keepMask: KeepMask) => void | Promise<void>,
): Promise<LayerSolution> {
  const { name, weight, inFeatures, outFeatures } = problem;
  return disposeOnFailure(weight, async (owned) => {
    expectGroupsFit(problem);
    const keepMask = owned(device.createMask(outFeatures, inFeatures, `${name}: keep mask`));
    await choose(keepMask);
    device.applyMask(weight, keepMask);
    await device.synchronize();
    return { weight, keepMask, loss: undefined };
  });
}

/** The mask that the problem asks for, of its weight. */
export function chooseByWeight(
  problem: LayerProblem,
  keepMask: KeepMask,
  device: Device,
  options: SelectionOptions,
): void {
  using selection = new Selection(problem, device, options);
  selection.choose(problem.weight, keepMask);
}

/**
 * The mask that the problem asks for, of scores that the host computed: for methods whose score is not |w| times a factor
 * per column.
 *
 * @param scores [outFeatures, inFeatures], finite
 */
export function chooseByScores(
  problem: LayerProblem,
  scores: Float32Array,
  granularity: Granularity,
  keepMask: KeepMask,
  device: Device,
): void {
  const { name, inFeatures, outFeatures } = problem;
  using uploaded = device.uploadMatrix(scores, outFeatures, inFeatures, `${name}: scores`);
  using selection = new Selection(problem, device, { granularity });
  selection.choose(uploaded, keepMask);
}

/** What it costs to choose a mask once. */
export function selectionCost(size: LayerSize): SolveCost {
  return costOf({ entries: (size.pattern.kind === "n-of-m" ? 1 : PASSES.selection) * elementsOf(size) });
}

/** What `pruneByMask` costs where the scores are |weight|·scale. */
export function chosenByWeightCost(size: LayerSize): SolveCost {
  const applied = costOf({ entries: elementsOf(size), bytes: maskBytes(size) });
  return inSequence(selectionCost(size), applied);
}

/** What `pruneByMask` costs where the scores come from the host. @param perEntry entries that the host goes over for each */
export function chosenByScoresCost(size: LayerSize, perEntry: number): SolveCost {
  const elements = elementsOf(size);
  const scores = costOf({ hostEntries: perEntry * elements, entries: elements });
  return holding(matrixBytes(size.outFeatures, size.inFeatures), inSequence(scores, chosenByWeightCost(size)));
}

/** How many weights the pattern keeps of the whole matrix. */
export function keptCount({ pattern, sparsity, inFeatures, outFeatures }: LayerProblem): number {
  const elements = inFeatures * outFeatures;
  if (pattern.kind === "n-of-m") return (elements * pattern.keep) / pattern.group;
  return elements - pruneCount(elements, sparsity);
}
