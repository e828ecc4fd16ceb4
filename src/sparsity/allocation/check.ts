/** What of an allocation cannot be done, said before any work. Pure. */
import { largestProgressionStep } from "./rules.js";
import type { Allocation } from "./schema.js";

/**
 * The problems of an allocation, as sentences without their full stop; none where it can be done. A rule may wish for
 * more than `largest` or less than `smallest`: that is clamped and spread over the other units, and is no problem.
 *
 * @param target the requested sparsity; undefined where it is not known
 * @param blocks blocks that have something to prune; undefined where the model is not known
 */
export function allocationProblems(
  allocation: Allocation,
  target: number | undefined,
  blocks: number | undefined,
): string[] {
  if (allocation.rule === "uniform") return [];
  const { rule, smallest, largest } = allocation;
  const problems: string[] = [];
  if (smallest > largest) problems.push(`--allocation ${rule}: smallest ${smallest} is more than largest ${largest}`);
  if (target === undefined) return problems;
  if (target > largest) {
    problems.push(
      `--allocation ${rule}: a sparsity of ${target} cannot be reached with at most ${largest} in any layer`,
    );
  }
  if (target < smallest) {
    problems.push(`--allocation ${rule}: a sparsity of ${target} is less than the ${smallest} that every layer gets`);
  }
  if (rule === "atp" && blocks !== undefined) {
    const limit = largestProgressionStep(blocks, target);
    if (allocation.beta > limit * (1 + 1e-12)) {
      const end = (0.5 * (blocks - 1) * allocation.beta).toPrecision(4);
      problems.push(
        `--allocation atp: beta ${allocation.beta} over ${blocks} blocks asks for ${target} ± ${end}, which leaves [0, 1]; at most ${floorTo4(limit)} is possible`,
      );
    }
  }
  return problems;
}

/** Four digits that are not more than the number, so that what a message proposes is taken. */
function floorTo4(value: number): string {
  const scale = 10 ** (3 - Math.floor(Math.log10(value)));
  return value > 0 ? String(Number((Math.floor(value * scale) / scale).toPrecision(4))) : "0";
}
