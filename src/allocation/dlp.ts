/** DLP (arXiv:2505.23807): units with a smaller median score |w|·‖x‖ are kept denser. */
import { z } from "zod";
import { rescale } from "./distribute.js";
import { bounds, fraction, granularity } from "./options.js";
import type { AllocationRule } from "./rule.js";
import { medianScore } from "./scores.js";
import { scoreUnits, spread, unitsOf } from "./units.js";

const schema = z.strictObject({
  rule: z.literal("dlp"),
  /** Half the difference between the largest and the smallest sparsity. */
  alpha: fraction.default(0.15),
  granularity,
  ...bounds,
});
export type DlpOptions = z.infer<typeof schema>;

export const dlp = {
  name: "dlp",
  summary: "units whose median score |w|·‖input‖ is smaller stay denser",
  schema,
  needs: () => "activations",
  passes: () => 1,
  async allocate(source, options, target) {
    const raw = dlpSparsities(await scoreUnits(source, options.granularity, medianScore), target, options.alpha);
    return spread(unitsOf(source.blocks, options.granularity), raw, target, options);
  },
} satisfies AllocationRule<DlpOptions>;

/**
 * @param medians per unit
 * @param alpha half the difference between the largest and the smallest sparsity
 * @returns raw sparsities: `distribute` makes their weighted mean the target
 */
export function dlpSparsities(medians: readonly number[], target: number, alpha: number): number[] {
  const total = medians.reduce((sum, median) => sum + median, 0);
  const importance = medians.map((median) => 1 - (total === 0 ? 0 : median / total));
  return rescale(importance, 2 * alpha).map((density) => target - density);
}
