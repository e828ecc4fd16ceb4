/** ATP (arXiv:2502.14770): an arithmetic progression over the blocks, earlier ones denser. */
import { z } from "zod";
import { bounds, fraction } from "./options.js";
import type { AllocationRule } from "./rule.js";
import { spread, unitsOf } from "./units.js";

const schema = z.strictObject({
  rule: z.literal("atp"),
  /** Step in sparsity from one block to the next. */
  beta: fraction.default(0.01),
  ...bounds,
});
export type AtpOptions = z.infer<typeof schema>;

export const atp = {
  name: "atp",
  summary: "an arithmetic progression over the blocks, earlier ones denser",
  schema,
  needs: () => "nothing",
  passes: () => 0,
  problems({ beta }, target, blocks) {
    if (blocks === undefined) return [];
    const limit = largestProgressionStep(blocks, target);
    if (beta <= limit * (1 + 1e-12)) return [];
    const end = (0.5 * (blocks - 1) * beta).toPrecision(4);
    return [
      `--allocation atp: beta ${beta} over ${blocks} blocks asks for ${target} ± ${end}, which leaves [0, 1]; at most ${floorTo4(limit)} is possible`,
    ];
  },
  allocate(source, options, target) {
    const units = unitsOf(source.blocks, "block");
    const raw = progressionSparsities(units.length, target, options.beta);
    return Promise.resolve(spread(units, raw, target, options));
  },
} satisfies AllocationRule<AtpOptions>;

/** @param beta step between neighbouring blocks */
export function progressionSparsities(blocks: number, target: number, beta: number): number[] {
  return Array.from({ length: blocks }, (_, i) => target + beta * (i - (blocks - 1) / 2));
}

/** The largest step at which no block of a progression is asked more than 1 or less than 0. */
export function largestProgressionStep(blocks: number, target: number): number {
  return blocks < 2 ? Infinity : (2 * Math.min(target, 1 - target)) / (blocks - 1);
}

/** Four digits that are not more than the number, so that what a message proposes is taken. */
function floorTo4(value: number): string {
  const scale = 10 ** (3 - Math.floor(Math.log10(value)));
  return value > 0 ? String(Number((Math.floor(value * scale) / scale).toPrecision(4))) : "0";
}
