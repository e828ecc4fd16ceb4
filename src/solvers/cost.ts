/**
 * What a solve costs, as methods state it of themselves: counts, not times. How fast a machine does each kind of work is
 * the business of whoever plans a run.
 *
 * Legend: R = outFeatures, C = inFeatures, E = R·C
 */
import type { Pattern } from "../sparsity/pattern.js";

/** What of a problem its cost depends on. */
export interface LayerSize {
  readonly name: string;
  readonly inFeatures: number;
  readonly outFeatures: number;
  readonly pattern: Pattern;
  /** Fraction of zeros asked of this layer, in [0, 1). */
  readonly sparsity: number;
}

/** Work of four kinds that run at rates of their own, and memory. */
export interface SolveCost {
  /** Floating-point operations of products, factorisations and inverses. */
  readonly products: number;
  /** Floating-point operations of sweeps over a panel and of systems of single rows, which no product can do. */
  readonly kernels: number;
  /** Entries that everything else on the device goes over, see `PASSES`. */
  readonly entries: number;
  /** Entries that loops on the host go over. */
  readonly hostEntries: number;
  /** Most device memory at once, beyond the weight and the statistics. */
  readonly bytes: number;
}

/** How many element-wise passes an operation is worth; operations that are not here are worth one. */
export const PASSES = {
  /** Of rows, of a matrix; groups are one pass. */
  selection: 2,
  panelSelection: 5,
  combinePair: 2,
  conjugateStep: 3,
} as const;

const NOTHING: SolveCost = { products: 0, kernels: 0, entries: 0, hostEntries: 0, bytes: 0 };

/** A cost of which only some kinds are worth a number. */
export function costOf(parts: Partial<SolveCost>): SolveCost {
  return { ...NOTHING, ...parts };
}

/** One after the other: work adds up, memory is that of the hungriest. */
export function inSequence(...costs: readonly SolveCost[]): SolveCost {
  return costs.reduce(
    (sum, cost) => ({
      products: sum.products + cost.products,
      kernels: sum.kernels + cost.kernels,
      entries: sum.entries + cost.entries,
      hostEntries: sum.hostEntries + cost.hostEntries,
      bytes: Math.max(sum.bytes, cost.bytes),
    }),
    NOTHING,
  );
}

/** The same while more memory is held. */
export function holding(bytes: number, cost: SolveCost): SolveCost {
  return { ...cost, bytes: cost.bytes + bytes };
}

export function repeated(times: number, cost: SolveCost): SolveCost {
  return {
    ...cost,
    products: times * cost.products,
    kernels: times * cost.kernels,
    entries: times * cost.entries,
    hostEntries: times * cost.hostEntries,
  };
}

/** E */
export function elementsOf({ inFeatures, outFeatures }: Pick<LayerSize, "inFeatures" | "outFeatures">): number {
  return inFeatures * outFeatures;
}

/** A matrix of f32. */
export function matrixBytes(rows: number, columns: number): number {
  return 4 * rows * columns;
}

export function maskBytes({ inFeatures, outFeatures }: LayerSize): number {
  return 4 * outFeatures * Math.ceil(inFeatures / 32);
}

/** W·A with A [C, C]. */
export function productOf(size: LayerSize): SolveCost {
  return costOf({ products: 2 * elementsOf(size) * size.inFeatures });
}

/** The inverse of a symmetric matrix [C, C]. */
export function inverseOf({ inFeatures: C }: LayerSize): SolveCost {
  return costOf({ products: C ** 3 });
}
