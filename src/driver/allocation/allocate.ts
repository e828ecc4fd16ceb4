/**
 * How much each linear loses, decided before solving. What a rule needs to know of the *dense* model is collected by
 * streaming it block by block, like everything else: its weights, or its weights and their inputs. The rules themselves
 * are in sparsity/allocation/.
 */
import { SpectrumEngine } from "../../device/cpu/eigenvalues.js";
import { ConfigError, InternalError, type PruneError } from "../../errors.js";
import { selectedBlocks, visitInputs, visitWeights, type DensePass, type SelectedBlock } from "./dense-pass.js";
import { evolveSparsities, type EvolutionInput } from "./evolve.js";
import type { BlockSpec, LinearSpec } from "../../model/architecture.js";
import { lookUp } from "../../look-up.js";
import { allocationProblems } from "../../sparsity/allocation/check.js";
import { distribute, type Unit } from "../../sparsity/allocation/distribute.js";
import { tailExponent } from "../../sparsity/allocation/heavy-tail.js";
import {
  dlpSparsities,
  erdosRenyiSparsities,
  heavyTailSparsities,
  meanOf,
  owlSparsities,
  progressionSparsities,
} from "../../sparsity/allocation/rules.js";
import type { Allocation } from "../../sparsity/allocation/schema.js";
import {
  lampScores,
  medianScore,
  outlierPercent,
  wandaScores,
  type ScoredMatrix,
} from "../../sparsity/allocation/scores.js";
import {
  countAround,
  countLeading,
  createLeadingBins,
  leadingBin,
  thresholdSparsities,
  type BinCounts,
} from "../../sparsity/allocation/threshold.js";

export interface AllocationInput extends DensePass {
  readonly allocation: Allocation;
  readonly target: number;
  /** Linears to prune, by name. */
  readonly selected: ReadonlySet<string>;
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
