/** Linears of experts that starve are pruned by magnitude or left dense, where the run says so, and reported as what they are. */
import type { StarvedTreatment } from "../../contract.js";
import { MAGNITUDE } from "../solve-linear.js";
import { isStarved } from "../starved-experts.js";
import type { BlockTransform } from "./transform.js";

export function treatStarved(treatment: StarvedTreatment): BlockTransform {
  return {
    name: "starved experts",
    admit(work, statistics) {
      const { group } = work;
      const tokens = statistics.tokensOf(group.name);
      if (group.isRouted !== true || tokens === undefined) return;
      const starves = isStarved(group, tokens);
      work.note(starves ? { tokens, starved: treatment } : { tokens });
      if (!starves || treatment === "all-tokens") return; // the statistics are of all tokens already
      if (treatment === "magnitude") work.solveBy(MAGNITUDE);
      else work.leaveDense();
    },
  };
}
