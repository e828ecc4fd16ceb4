/**
 * Allocation rules: how much of the requested sparsity each unit gets. A rule sees sizes and scores, never weights;
 * what scores it needs is collected by the driver beforehand. Pure.
 *
 * Convention: rules return *raw* sparsities; `distribute` makes their weighted mean the target.
 */
import { rescale } from "./distribute.js";

export interface LinearShape {
  readonly inFeatures: number;
  readonly outFeatures: number;
}

/**
 * OWL (Yin et al. 2023, arXiv:2310.05175): units with more outliers are kept denser.
 * @param outlierPercent per unit, 100 · share of scores |w|·‖x‖ above M times the unit's mean
 * @param lambda half the difference between the largest and the smallest sparsity
 */
export function owlSparsities(outlierPercent: readonly number[], target: number, lambda: number): number[] {
  const densities = rescale(outlierPercent, 2 * lambda);
  return densities.map((density) => target - density);
}

/**
 * DLP (arXiv:2505.23807): units with a smaller median score |w|·‖x‖ are kept denser.
 * @param medians per unit
 * @param alpha half the difference between the largest and the smallest sparsity
 */
export function dlpSparsities(medians: readonly number[], target: number, alpha: number): number[] {
  const total = medians.reduce((sum, median) => sum + median, 0);
  const importance = medians.map((median) => 1 - (total === 0 ? 0 : median / total));
  return rescale(importance, 2 * alpha).map((density) => target - density);
}

/**
 * ATP (arXiv:2502.14770): an arithmetic progression over the blocks, earlier ones denser.
 * @param beta step between neighbouring blocks
 */
export function progressionSparsities(blocks: number, target: number, beta: number): number[] {
  return Array.from({ length: blocks }, (_, i) => target + beta * (i - (blocks - 1) / 2));
}

/** The largest step at which no block of a progression is asked more than 1 or less than 0. */
export function largestProgressionStep(blocks: number, target: number): number {
  return blocks < 2 ? Infinity : (2 * Math.min(target, 1 - target)) / (blocks - 1);
}

/**
 * AlphaPruning (Lu et al. 2024, arXiv:2410.10912): units with a lighter spectral tail lose more. Exponents are mapped
 * to [1 - epsilon, 1 + epsilon] and scaled so that the weighted mean is the target: the most pruned unit is asked
 * (1 + epsilon) / (1 - epsilon) times what the least pruned one is.
 * @param exponents per unit; undefined where none could be fitted, which counts as the mean of the others
 * @param elements per unit, prunable weights
 */
export function heavyTailSparsities(
  exponents: readonly (number | undefined)[],
  elements: readonly number[],
  target: number,
  epsilon: number,
): number[] {
  const mean = meanOf(exponents) ?? 0;
  const ratios = rescale(
    exponents.map((exponent) => exponent ?? mean),
    2 * epsilon,
  ).map((ratio) => 1 - epsilon + ratio);
  const total = elements.reduce((sum, count) => sum + count, 0);
  const weighted = elements.reduce((sum, count, i) => sum + count * ratios[i], 0);
  return ratios.map((ratio) => (ratio * target * total) / weighted);
}

/** The mean of those that are there; undefined where none is. */
export function meanOf(values: readonly (number | undefined)[]): number | undefined {
  const known = values.filter((value) => value !== undefined);
  return known.length === 0 ? undefined : known.reduce((sum, value) => sum + value, 0) / known.length;
}

/**
 * Erdős-Rényi (Mocanu et al. 2018; Evci et al. 2020): density proportional to (in + out) / (in · out), so that small
 * and narrow linears stay denser; densities above 1 are cut to 1 and the factor is found again for the rest.
 * For linears ERK, which also counts kernel sizes, is the same.
 */
export function erdosRenyiSparsities(shapes: readonly LinearShape[], target: number): number[] {
  const wish = shapes.map(({ inFeatures, outFeatures }) => (inFeatures + outFeatures) / (inFeatures * outFeatures));
  const elements = shapes.map(({ inFeatures, outFeatures }) => inFeatures * outFeatures);
  const isDense = shapes.map(() => false);
  const total = elements.reduce((sum, count) => sum + count, 0);
  for (;;) {
    let kept = (1 - target) * total;
    let weighted = 0;
    elements.forEach((count, i) => {
      if (isDense[i]) kept -= count;
      else weighted += wish[i] * count;
    });
    const factor = weighted === 0 ? 0 : kept / weighted;
    const overfull = wish.map((value, i) => !isDense[i] && factor * value > 1);
    if (!overfull.includes(true)) return wish.map((value, i) => (isDense[i] ? 0 : 1 - factor * value));
    overfull.forEach((value, i) => (isDense[i] ||= value));
  }
}
