/**
 * How much each linear loses, decided before solving. What a rule needs to know of the *dense* model is collected by
 * streaming it block by block, like everything else: its weights, or its weights and their inputs. The rules themselves
 * are in sparsity/allocation/.
 */
import { collectStatistics } from "../calibration/statistics.js";
import { SpectrumEngine } from "../device/cpu/eigenvalues.js";
import type { Device } from "../device/device.js";
import { ConfigError, InternalError, type PruneError } from "../errors.js";
import { evolveSparsities, type EvolutionInput } from "./evolve.js";
import type { BlockSpec, LinearSpec } from "../model/architecture.js";
import { readBlockWeights } from "../model/block-weights.js";
import { lookUp, type BlockRunner } from "../model/forward.js";
import type { HiddenStates } from "../model/hidden-states.js";
import { takeMatrix } from "../model/logical-matrix.js";
import type { Model } from "../model/open-model.js";
import { allocationProblems } from "../sparsity/allocation/check.js";
import { distribute, type Unit } from "../sparsity/allocation/distribute.js";
import { tailExponent } from "../sparsity/allocation/heavy-tail.js";
import {
  dlpSparsities,
  erdosRenyiSparsities,
  heavyTailSparsities,
  meanOf,
  owlSparsities,
  progressionSparsities,
} from "../sparsity/allocation/rules.js";
import type { Allocation } from "../sparsity/allocation/schema.js";
import {
  lampScores,
  medianScore,
  outlierPercent,
  wandaScores,
  type ScoredMatrix,
} from "../sparsity/allocation/scores.js";
import {
  countAround,
  countLeading,
  createLeadingBins,
  leadingBin,
  thresholdSparsities,
  type BinCounts,
} from "../sparsity/allocation/threshold.js";

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
  /** What only the evolutionary rule takes; undefined where there are no tokens. */
  readonly search: Omit<EvolutionInput, "options" | "target" | "model" | "linears" | "device" | "runner"> | undefined;
}

/** Sparsity of every selected linear, by name; the parameter-weighted mean is the target. */
export async function allocateSparsity(input: AllocationInput): Promise<ReadonlyMap<string, number>> {
  const { allocation, target } = input;
  const blocks = selectedBlocks(input.model.architecture.blocks, input.selected);
  const linears = unitsOf(blocks, "projection");
  switch (allocation.rule) {
    case "uniform":
      return new Map(linears.map(({ name }) => [name, target]));
    case "atp": {
      const units = unitsOf(blocks, "block");
      return spread(units, progressionSparsities(units.length, target, allocation.beta), target, allocation);
    }
    case "owl": {
      const scores = await scoreUnits(input, blocks, (matrices) => outlierPercent(matrices, allocation.M));
      const raw = owlSparsities(scores, target, allocation.lambda);
      return spread(unitsOf(blocks, allocation.granularity), raw, target, allocation);
    }
    case "dlp": {
      const scores = await scoreUnits(input, blocks, medianScore);
      const raw = dlpSparsities(scores, target, allocation.alpha);
      return spread(unitsOf(blocks, allocation.granularity), raw, target, allocation);
    }
    case "alphapruning": {
      const units = unitsOf(blocks, allocation.granularity);
      const exponents = await tailExponents(input, blocks);
      const perUnit = units.map((unit) => meanOf(unit.linears.map((name) => exponents.get(name))));
      const elements = units.map((unit) => unit.elements);
      return spread(units, heavyTailSparsities(perUnit, elements, target, allocation.epsilon), target, allocation);
    }
    case "er":
    case "erk": {
      const shapes = blocks.flatMap((entry) => entry.linears);
      return spread(linears, erdosRenyiSparsities(shapes, target), target, allocation);
    }
    case "lamp":
    case "global":
      return spread(linears, await sparsitiesByThreshold(input, blocks), target, allocation);
    case "evolutionary": {
      if (input.search === undefined)
        throw new InternalError("E_ALLOCATION", "the evolutionary search needs sequences, and there are none");
      const { sparsities } = await evolveSparsities({
        ...input,
        ...input.search,
        options: allocation,
        linears: blocks.flatMap((entry) => entry.linears),
      });
      return sparsities;
    }
    default:
      return allocation satisfies never;
  }
}

/** What of the configured allocation cannot be done with this model; needs no weights. */
export function allocationProblem(
  { allocation, sparsity }: { readonly allocation: Allocation; readonly sparsity: number },
  blocks: readonly BlockSpec[],
  selected: ReadonlySet<string>,
): PruneError | undefined {
  const problems = allocationProblems(allocation, sparsity, selectedBlocks(blocks, selected).length);
  if (problems.length === 0) return undefined;
  return new ConfigError("E_ALLOCATION", `${problems.join("; ")}.`, {
    hint: "docs/allocation.md says what each rule can spread.",
    details: { problems, allocation },
  });
}

interface SelectedBlock {
  readonly block: BlockSpec;
  readonly linears: readonly LinearSpec[];
}

/** Blocks that have something to prune. */
function selectedBlocks(blocks: readonly BlockSpec[], selected: ReadonlySet<string>): SelectedBlock[] {
  return blocks
    .map((block) => ({
      block,
      linears: block.groups.flatMap((group) => group.linears.filter((linear) => selected.has(linear.name))),
    }))
    .filter(({ linears }) => linears.length > 0);
}

/** What shares one sparsity, with the linears it consists of. */
interface SharingUnit extends Unit {
  readonly linears: readonly string[];
}

/** In the order in which `visit…` hand out matrices. */
function unitsOf(blocks: readonly SelectedBlock[], granularity: "block" | "projection"): SharingUnit[] {
  const toUnit = (name: string, linears: readonly LinearSpec[]): SharingUnit => ({
    name,
    elements: linears.reduce((sum, { inFeatures, outFeatures }) => sum + inFeatures * outFeatures, 0),
    linears: linears.map((linear) => linear.name),
  });
  if (granularity === "block") return blocks.map(({ block, linears }) => toUnit(block.name, linears));
  return blocks.flatMap(({ linears }) => linears.map((linear) => toUnit(linear.name, [linear])));
}

function spread(
  units: readonly SharingUnit[],
  raw: readonly number[],
  target: number,
  bounds: { readonly smallest: number; readonly largest: number },
): Map<string, number> {
  const sparsities = distribute(units, raw, target, bounds);
  return new Map(units.flatMap(({ linears }, i) => linears.map((name): [string, number] => [name, sparsities[i]])));
}

/** A number per unit, from the scores |w|·‖x‖ of its linears on the dense model's activations. */
async function scoreUnits(
  input: AllocationInput,
  blocks: readonly SelectedBlock[],
  score: (matrices: readonly ScoredMatrix[]) => number,
): Promise<number[]> {
  const { allocation } = input;
  const isPerBlock = !("granularity" in allocation) || allocation.granularity === "block";
  const scores: number[] = [];
  await visitInputs(input, blocks, (matrices) => {
    if (isPerBlock) scores.push(score(matrices));
    else scores.push(...matrices.map((matrix) => score([matrix])));
  });
  return scores;
}

/** The exponent of each linear's spectrum, by name; undefined where there is no tail to fit. */
async function tailExponents(
  input: AllocationInput,
  blocks: readonly SelectedBlock[],
): Promise<ReadonlyMap<string, number | undefined>> {
  const { allocation } = input;
  if (allocation.rule !== "alphapruning") throw new InternalError("E_ALLOCATION", "exponents nobody asked for");
  const exponents = new Map<string, number | undefined>();
  await using spectra = new SpectrumEngine();
  await visitWeights(input, blocks, async (values, { name, outFeatures, inFeatures }) => {
    const eigenvalues = await spectra.squaredSingularValues(values, outFeatures, inFeatures);
    exponents.set(name, tailExponent(eigenvalues, allocation));
  });
  return exponents;
}

/** Sparsities of the linears where one threshold is put on all scores: two passes over the weights. */
async function sparsitiesByThreshold(input: AllocationInput, blocks: readonly SelectedBlock[]): Promise<number[]> {
  const { allocation, target } = input;
  const bins = createLeadingBins();
  const norms = new Map<string, Float64Array>();
  const isWanda = allocation.rule === "global" && allocation.score === "wanda";
  const scoresOf = (values: Float32Array, { name }: LinearSpec): Float32Array => {
    if (allocation.rule === "lamp") return lampScores(values);
    return isWanda ? wandaScores({ values, norms: lookUp(norms, name) }) : values;
  };
  if (isWanda) {
    await visitInputs(input, blocks, (matrices, linears) => {
      matrices.forEach((matrix, i) => {
        norms.set(linears[i].name, matrix.norms); // some numbers per input, kept for the second pass
        countLeading(bins, wandaScores(matrix));
      });
    });
  } else {
    await visitWeights(input, blocks, (values, linear) => {
      countLeading(bins, scoresOf(values, linear));
    });
  }
  const bin = leadingBin(bins, target);
  const counts: BinCounts[] = [];
  await visitWeights(input, blocks, (values, linear) => {
    counts.push(countAround(scoresOf(values, linear), bin));
  });
  return thresholdSparsities(counts, target);
}

/** Hand out the weights of each selected linear, [outFeatures, inFeatures], borrowed; no tokens are needed. */
async function visitWeights(
  { model, onBatch }: AllocationInput,
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

/** Hand out the weights of each block's selected linears with the norms of their inputs in the dense model. */
async function visitInputs(
  input: AllocationInput,
  blocks: readonly SelectedBlock[],
  visit: (matrices: readonly ScoredMatrix[], linears: readonly LinearSpec[]) => void,
): Promise<void> {
  const { model, runner, states, device, batch } = input;
  if (states === undefined)
    throw new InternalError("E_ALLOCATION", "the allocation rule needs activations, and there are none");
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
    if (linears.length > 0) visit(matrices, linears);
  }
}
