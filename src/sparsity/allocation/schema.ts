/** The allocation rules by name, with their options and defaults. */
import { z } from "zod";
import { LARGEST_SPARSITY } from "./distribute.js";
import { measurements } from "./evolution.js";

const fraction = z.number().min(0).max(1);

/** Bounds of every rule that spreads: what exceeds them is taken over by the other units. */
const bounds = {
  /** No unit gets less than this. */
  smallest: z.number().min(0).lt(1).default(0),
  /** No unit gets more than this. */
  largest: z.number().gt(0).lt(1).default(LARGEST_SPARSITY),
};

/** What shares one sparsity: a block of the model, or each linear ("projection") by itself. */
const granularity = z.enum(["block", "projection"]).default("block");

/** One entry per rule; `rule` decides which other keys there are. */
export const allocationSchema = z.discriminatedUnion("rule", [
  z.strictObject({ rule: z.literal("uniform") }),
  z.strictObject({
    rule: z.literal("owl"),
    /** A score counts as an outlier above this multiple of its unit's mean; 5 is what the paper's 7B runs used. */
    M: z.number().positive().default(5),
    /** Half the difference between the largest and the smallest sparsity. */
    lambda: fraction.default(0.08),
    granularity,
    ...bounds,
  }),
  z.strictObject({
    rule: z.literal("dlp"),
    /** Half the difference between the largest and the smallest sparsity. */
    alpha: fraction.default(0.15),
    granularity,
    ...bounds,
  }),
  z.strictObject({
    rule: z.literal("alphapruning"),
    /** Sparsities before scaling lie in [1 - epsilon, 1 + epsilon]. */
    epsilon: z.number().min(0).lt(1).default(0.3),
    /** Where the tail of a spectrum begins: the best fit near the peak of its density, or its median. */
    xmin: z.enum(["peak", "mid"]).default("peak"),
    /** Lower end of the search near the peak: log10(0.95·peak) as the code has it, or 0.95·peak as meant. */
    xlow: z.enum(["released", "intended"]).default("released"),
    granularity,
    ...bounds,
  }),
  z.strictObject({
    rule: z.literal("atp"),
    /** Step in sparsity from one block to the next. */
    beta: fraction.default(0.01),
    ...bounds,
  }),
  /** For linears the two names mean the same: ERK counts kernel sizes besides. */
  z.strictObject({ rule: z.literal(["er", "erk"]), ...bounds }),
  z.strictObject({ rule: z.literal("lamp"), ...bounds }),
  z.strictObject({
    rule: z.literal("global"),
    /** What one threshold is put on: |w|, or Wanda's |w|·‖x‖. */
    score: z.enum(["magnitude", "wanda"]).default("magnitude"),
    ...bounds,
  }),
  z.strictObject({
    rule: z.literal("evolutionary"),
    generations: z.number().int().min(0).default(40),
    /** Mutations tried in each generation. */
    offspring: z.number().int().min(1).default(16),
    /** What prunes the linears of candidates: the run's own method, or Wanda, which needs no room on the disk. */
    proxy: z.enum(["method", "wanda"]).default("method"),
    /** Calibration sequences that measure candidates: the last ones, at most half of all. */
    heldOut: z.number().int().min(1).default(16),
    /** Weights that a swap moves from one linear to another, as a fraction of an average linear's. */
    step: z.number().gt(0).max(1).default(0.05),
    ...bounds,
  }),
]);

export type Allocation = z.infer<typeof allocationSchema>;

export const ALLOCATION_RULES: readonly Allocation["rule"][] = [
  "uniform",
  "owl",
  "dlp",
  "alphapruning",
  "atp",
  "er",
  "erk",
  "lamp",
  "global",
  "evolutionary",
];

export const UNIFORM: Allocation = { rule: "uniform" };

/** Whether a rule looks at the dense model's activations, so that a run needs calibration data for it. */
export function needsActivations(allocation: Allocation): boolean {
  switch (allocation.rule) {
    case "owl":
    case "dlp":
    case "evolutionary":
      return true;
    case "global":
      return allocation.score === "wanda";
    case "uniform":
    case "alphapruning":
    case "atp":
    case "er":
    case "erk":
    case "lamp":
      return false;
    default:
      return allocation satisfies never;
  }
}

/** How often a rule reads the dense model's weights. */
export function weightPasses(allocation: Allocation): number {
  switch (allocation.rule) {
    case "owl":
    case "dlp":
    case "alphapruning":
      return 1;
    case "lamp":
    case "global":
      return 2;
    case "evolutionary":
      return 2 + measurements(allocation);
    case "uniform":
    case "atp":
    case "er":
    case "erk":
      return 0;
    default:
      return allocation satisfies never;
  }
}
