/** The parts of a model that share one sparsity: which they are, their scores, and the way back to linears. Pure. */
import { distribute, type Bounds, type Unit } from "./distribute.js";
import type { AllocationSource, SourceBlock, SourceLinear } from "./rule.js";
import type { ScoredMatrix } from "./scores.js";

/** What shares one sparsity, with the linears it consists of. */
export interface SharingUnit extends Unit {
  readonly linears: readonly string[];
}

export type UnitGranularity = "block" | "projection";

/** In the order in which a source hands out matrices. */
export function unitsOf(blocks: readonly SourceBlock[], granularity: UnitGranularity): SharingUnit[] {
  const toUnit = (name: string, linears: readonly SourceLinear[]): SharingUnit => ({
    name,
    elements: linears.reduce((sum, { inFeatures, outFeatures }) => sum + inFeatures * outFeatures, 0),
    linears: linears.map((linear) => linear.name),
  });
  if (granularity === "block") return blocks.map(({ name, linears }) => toUnit(name, linears));
  return blocks.flatMap(({ linears }) => linears.map((linear) => toUnit(linear.name, [linear])));
}

/** What a rule wishes for each unit, made what each linear gets: within the bounds, and with the target as its mean. */
export function spread(
  units: readonly SharingUnit[],
  raw: readonly number[],
  target: number,
  bounds: Bounds,
): Map<string, number> {
  const sparsities = distribute(units, raw, target, bounds);
  return new Map(units.flatMap(({ linears }, i) => linears.map((name): [string, number] => [name, sparsities[i]])));
}

/** A number per unit, from the scores |w|·‖x‖ of its linears on the dense model's activations. */
export async function scoreUnits(
  source: AllocationSource,
  granularity: UnitGranularity,
  score: (matrices: readonly ScoredMatrix[]) => number,
): Promise<number[]> {
  const scores: number[] = [];
  await source.visitInputs((matrices) => {
    if (granularity === "block") scores.push(score(matrices));
    else scores.push(...matrices.map((matrix) => score([matrix])));
  });
  return scores;
}

/** The mean of those that are there; undefined where none is. */
export function meanOf(values: readonly (number | undefined)[]): number | undefined {
  const known = values.filter((value) => value !== undefined);
  return known.length === 0 ? undefined : known.reduce((sum, value) => sum + value, 0) / known.length;
}
