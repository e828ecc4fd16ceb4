/** OWL (Yin et al. 2023, arXiv:2310.05175): units with more outliers are kept denser. */
import { z } from "zod";
import { rescale } from "./distribute.js";
import { bounds, fraction, granularity } from "./options.js";
import type { AllocationRule } from "./rule.js";
import { outlierPercent } from "./scores.js";
import { scoreUnits, spread, unitsOf } from "./units.js";

const schema = z.strictObject({
  rule: z.literal("owl"),
  /** A score counts as an outlier above this multiple of its unit's mean; 5 is what the paper's 7B runs used. */
  M: z.number().positive().default(5),
  /** Half the difference between the largest and the smallest sparsity. */
  lambda: fraction.default(0.08),
  granularity,
  ...bounds,
});
export type OwlOptions = z.infer<typeof schema>;

export const owl = {
  name: "owl",
  summary: "units whose scores |w|·‖input‖ have more outliers stay denser",
  schema,
  needs: () => "activations",
  passes: () => 1,
  async allocate(source, options, target) {
    const scores = await scoreUnits(source, options.granularity, (matrices) => outlierPercent(matrices, options.M));
    const raw = owlSparsities(scores, target, options.lambda);
    return spread(unitsOf(source.blocks, options.granularity), raw, target, options);
  },
} satisfies AllocationRule<OwlOptions>;

/**
 * @param outlierPercent per unit, 100 · share of scores |w|·‖x‖ above M times the unit's mean
 * @param lambda half the difference between the largest and the smallest sparsity
 * @returns raw sparsities: `distribute` makes their weighted mean the target
 */
export function owlSparsities(outlierPercent: readonly number[], target: number, lambda: number): number[] {
  const densities = rescale(outlierPercent, 2 * lambda);
  return densities.map((density) => target - density);
}
