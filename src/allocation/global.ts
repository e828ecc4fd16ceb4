/** One threshold on |w|, or on Wanda's |w|·‖x‖, over the whole model. */
import { z } from "zod";
import { lookUp } from "../look-up.js";
import { bounds } from "./options.js";
import type { AllocationRule, AllocationSource } from "./rule.js";
import { wandaScores } from "./scores.js";
import { countAround, countLeading, createLeadingBins, leadingBin, thresholdSparsities } from "./threshold.js";
import type { BinCounts } from "./threshold.js";
import { spread, unitsOf } from "./units.js";

const schema = z.strictObject({
  rule: z.literal("global"),
  /** What one threshold is put on: |w|, or Wanda's |w|·‖x‖. */
  score: z.enum(["magnitude", "wanda"]).default("magnitude"),
  ...bounds,
});
export type GlobalOptions = z.infer<typeof schema>;

export const global = {
  name: "global",
  summary: "one threshold on |w|, or on |w|·‖input‖, over the whole model",
  schema,
  needs: ({ score }) => (score === "wanda" ? "activations" : "weights"),
  passes: () => 2,
  async allocate(source, options, target) {
    const bins = createLeadingBins();
    const scoresOf = options.score === "wanda" ? await countInputs(source, bins) : await countWeights(source, bins);
    const bin = leadingBin(bins, target);
    const counts: BinCounts[] = [];
    await source.visitWeights((values, { name }) => {
      counts.push(countAround(scoresOf(values, name), bin));
    });
    return spread(unitsOf(source.blocks, "projection"), thresholdSparsities(counts, target), target, options);
  },
} satisfies AllocationRule<GlobalOptions>;

/** The scores of a linear's weights, for the second pass. */
type Scores = (values: Float32Array, name: string) => Float32Array;

/** First pass; a weight itself stands for |w|. */
async function countWeights(source: AllocationSource, bins: Float64Array): Promise<Scores> {
  await source.visitWeights((values) => {
    countLeading(bins, values);
  });
  return (values) => values;
}

/** First pass. Norms are kept for the second: some numbers per input. */
async function countInputs(source: AllocationSource, bins: Float64Array): Promise<Scores> {
  const norms = new Map<string, Float64Array>();
  await source.visitInputs((matrices, linears) => {
    matrices.forEach((matrix, i) => {
      norms.set(linears[i].name, matrix.norms);
      countLeading(bins, wandaScores(matrix));
    });
  });
  return (values, name) => wandaScores({ values, norms: lookUp(norms, name) });
}
