/** The allocation rules by name, with their options and defaults. */
import { z } from "zod";

const fraction = z.number().min(0).max(1);

/** One entry per rule; `rule` decides which other keys there are. */
export const allocationSchema = z.discriminatedUnion("rule", [
  z.strictObject({ rule: z.literal("uniform") }),
  z.strictObject({
    rule: z.literal("owl"),
    /** A score counts as an outlier above this multiple of its block's mean; 5 is what the paper's 7B runs used. */
    M: z.number().positive().default(5),
    /** Half the difference between the largest and the smallest sparsity. */
    lambda: fraction.default(0.08),
  }),
  z.strictObject({
    rule: z.literal("dlp"),
    /** Half the difference between the largest and the smallest sparsity. */
    alpha: fraction.default(0.15),
  }),
  z.strictObject({
    rule: z.literal("atp"),
    /** Step in sparsity from one block to the next. */
    beta: fraction.default(0.01),
  }),
  z.strictObject({ rule: z.literal("er") }),
]);

export type Allocation = z.infer<typeof allocationSchema>;

export const ALLOCATION_RULES: readonly Allocation["rule"][] = ["uniform", "owl", "dlp", "atp", "er"];

export const UNIFORM: Allocation = { rule: "uniform" };

/** Whether a rule looks at the dense model's activations, so that a run needs calibration data for it. */
export function needsActivations({ rule }: Allocation): boolean {
  return rule === "owl" || rule === "dlp";
}
