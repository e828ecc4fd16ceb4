/** EvoPress (Sieberling et al. 2024, arXiv:2410.14649): the allocation that a search finds. The search is evolution.ts. */
import { z } from "zod";
import { heldOutOf, measuredAtOnce, measuredSequences, measurements } from "./evolution.js";
import { bounds } from "./options.js";
import type { AllocationRule } from "./rule.js";

/** Linears whose level a mutation changes, in the mean: 1.4 swaps of two, some of which were solved before. */
const MOVED_LINEARS = 2.5;

const schema = z.strictObject({
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
});
export type EvolutionaryOptions = z.infer<typeof schema>;

export const evolutionary = {
  name: "evolutionary",
  summary: "a search by the divergence of the pruned model from the dense one; best and by far the dearest",
  schema,
  needs: () => "activations",
  /** Statistics, the dense model on the held-out sequences, and every round of measuring. */
  passes: (options) => 2 + measurements(options),
  dependsOnMethod: ({ proxy }) => proxy === "method",
  cost: (options, { linears, sequences }) => {
    const heldOut = heldOutOf(options, sequences);
    return {
      measuredSequences: measuredSequences(options, heldOut),
      solvedLinears: linears.length + MOVED_LINEARS * options.offspring * options.generations,
      solvedBy: options.proxy,
      // Statistics; then the dense model's embeddings and results, and the candidates.
      states: [[Math.max(1, sequences - heldOut)], [heldOut, heldOut, measuredAtOnce(options, heldOut)]],
    };
  },
  allocate: (source, options, target) => source.search(options, target),
} satisfies AllocationRule<EvolutionaryOptions>;
