/** LAMP (Lee et al. 2021, arXiv:2010.07611): one threshold on scores that are relative to the rest of their matrix. */
import { z } from "zod";
import { bounds } from "./options.js";
import type { AllocationRule } from "./rule.js";
import { lampScores } from "./scores.js";
import { countAround, countLeading, createLeadingBins, leadingBin, thresholdSparsities } from "./threshold.js";
import type { BinCounts } from "./threshold.js";
import { spread, unitsOf } from "./units.js";

const schema = z.strictObject({ rule: z.literal("lamp"), ...bounds });
export type LampOptions = z.infer<typeof schema>;

export const lamp = {
  name: "lamp",
  summary: "one threshold on LAMP scores, w² over the sum of the larger v² of its matrix",
  schema,
  needs: () => "weights",
  passes: () => 2,
  async allocate(source, options, target) {
    const bins = createLeadingBins();
    await source.visitWeights((values) => {
      countLeading(bins, lampScores(values));
    });
    const bin = leadingBin(bins, target);
    const counts: BinCounts[] = [];
    await source.visitWeights((values) => {
      counts.push(countAround(lampScores(values), bin));
    });
    return spread(unitsOf(source.blocks, "projection"), thresholdSparsities(counts, target), target, options);
  },
} satisfies AllocationRule<LampOptions>;
