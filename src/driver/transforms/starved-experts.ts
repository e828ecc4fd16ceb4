/**
 * Linears of experts that starve are pruned by magnitude or left dense, where the run says so, and reported as what they are.
 * A method that looks at gradients and not at inputs knows nothing of an expert that no token reached, whatever other
 * tokens there are: by magnitude it is then.
 */
import type { StarvedTreatment } from "../../contract.js";
import type { GroupAtWork } from "../group-at-work.js";
import { MAGNITUDE } from "../solve-linear.js";
import { isStarved } from "../starved-experts.js";
import type { BlockTransform } from "./transform.js";

export function treatStarved(asked: StarvedTreatment): BlockTransform {
  return {
    name: "starved experts",
    admit(work, statistics) {
      const { group } = work;
      const counted = statistics.tokensOf(group.name);
      const tokens = counted ?? (isWithoutGradients(work) ? 0 : undefined);
      if (group.isRouted !== true || tokens === undefined) return;
      const treatment = counted === undefined && asked === "all-tokens" ? "magnitude" : asked;
      const starves = isStarved(group, tokens);
      work.note(starves ? { tokens, starved: treatment } : { tokens });
      if (!starves || treatment === "all-tokens") return; // the statistics are of all tokens already
      if (treatment === "magnitude") work.solveBy(MAGNITUDE);
      else work.leaveDense();
    },
  };
}

/** Whether gradients were collected and those of all the group's pruned linears are zero. */
function isWithoutGradients(work: GroupAtWork): boolean {
  if (work.block.gradients === undefined || work.group.isRouted !== true) return false;
  const all = work.linears.flatMap((linear) => Object.values(work.gradientsOf(linear) ?? {}));
  return all.every((values) => values.every((value) => value === 0));
}
