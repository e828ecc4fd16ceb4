/**
 * Erdős-Rényi (Mocanu et al. 2018; Evci et al. 2020): density proportional to (in + out) / (in · out), so that small
 * and narrow linears stay denser. For linears ERK, which also counts kernel sizes, is the same.
 */
import { z } from "zod";
import { bounds } from "./options.js";
import type { AllocationRule, LinearShape } from "./rule.js";
import { spread, unitsOf } from "./units.js";

const schema = z.strictObject({ rule: z.literal(["er", "erk"]), ...bounds });
export type ErdosRenyiOptions = z.infer<typeof schema>;

export const erdosRenyi = {
  name: "er",
  summary: "small and narrow linears stay denser (also called erk)",
  schema,
  needs: () => "nothing",
  passes: () => 0,
  allocate({ blocks }, options, target) {
    const raw = erdosRenyiSparsities(
      blocks.flatMap((block) => block.linears),
      target,
    );
    return Promise.resolve(spread(unitsOf(blocks, "projection"), raw, target, options));
  },
} satisfies AllocationRule<ErdosRenyiOptions>;

/** Densities above 1 are cut to 1 and the factor is found again for the rest. */
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
