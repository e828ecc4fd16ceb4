/**
 * AlphaPruning (Lu et al. 2024, arXiv:2410.10912): units with a lighter spectral tail lose more. How the exponent of a
 * tail is found is heavy-tail.ts's business.
 */
import { z } from "zod";
import { rescale } from "./distribute.js";
import { tailExponent } from "./heavy-tail.js";
import { bounds, granularity } from "./options.js";
import type { AllocationRule, LinearShape } from "./rule.js";
import { meanOf, spread, unitsOf } from "./units.js";

const schema = z.strictObject({
  rule: z.literal("alphapruning"),
  /** Sparsities before scaling lie in [1 - epsilon, 1 + epsilon]. */
  epsilon: z.number().min(0).lt(1).default(0.3),
  /** Where the tail of a spectrum begins: the best fit near the peak of its density, or its median. */
  xmin: z.enum(["peak", "mid"]).default("peak"),
  /** Lower end of the search near the peak: log10(0.95·peak) as the code has it, or 0.95·peak as meant. */
  xlow: z.enum(["released", "intended"]).default("released"),
  granularity,
  ...bounds,
});
export type AlphaPruningOptions = z.infer<typeof schema>;

export const alphapruning = {
  name: "alphapruning",
  summary: "units whose weights' spectra have lighter tails lose more",
  schema,
  needs: () => "weights",
  passes: () => 1,
  cost: (_options, { linears }) => ({
    doubleOperations: linears.reduce((sum, linear) => sum + spectrumOperations(linear), 0),
    bytes: linears.reduce((most, { inFeatures: n, outFeatures: m }) => Math.max(most, 3 * Math.min(n, m) ** 2 * 8), 0),
  }),
  async allocate(source, options, target) {
    const exponents = new Map<string, number | undefined>();
    await source.visitSpectra((eigenvalues, { name }) => {
      exponents.set(name, tailExponent(eigenvalues, options));
    });
    const units = unitsOf(source.blocks, options.granularity);
    const perUnit = units.map((unit) => meanOf(unit.linears.map((name) => exponents.get(name))));
    const elements = units.map((unit) => unit.elements);
    return spread(units, heavyTailSparsities(perUnit, elements, target, options.epsilon), target, options);
  },
} satisfies AllocationRule<AlphaPruningOptions>;

/** The Gram matrix on the smaller side and its reduction to a band. */
function spectrumOperations({ inFeatures, outFeatures }: LinearShape): number {
  const size = Math.min(inFeatures, outFeatures);
  return 2 * inFeatures * outFeatures * size + 2 * size ** 3;
}

/**
 * Exponents are mapped to [1 - epsilon, 1 + epsilon] and scaled so that the weighted mean is the target: the most pruned
 * unit is asked (1 + epsilon) / (1 - epsilon) times what the least pruned one is.
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
