/**
 * Random pruning: the weakest baseline. Every weight of a matrix (or of an N:M group) is equally likely to go; the same
 * seed and layer name give the same mask on every machine. Needs no calibration data.
 */
import { z } from "zod";
import { chooseByScores, chosenByScoresCost, GRANULARITIES, pruneByMask } from "./selection.js";
import type { LayerSolver } from "./solver.js";

const schema = z.strictObject({
  seed: z.number().int().min(0).default(0),
  granularity: z.enum(GRANULARITIES).default("matrix"),
});
export type RandomOptions = z.infer<typeof schema>;

export const random = {
  name: "random",
  summary: "remove weights at random: the baseline that every method must beat",
  needs: [],
  schema,
  cost: (size) => chosenByScoresCost(size, 6),
  solve(problem, { seed, granularity }, { device }) {
    return pruneByMask(problem, device, (keepMask) => {
      const { name, inFeatures, outFeatures } = problem;
      const next = uniform(hash(`${seed} ${name}`));
      const scores = Float32Array.from({ length: outFeatures * inFeatures }, next);
      chooseByScores(problem, scores, granularity, keepMask, device);
    });
  },
} satisfies LayerSolver<RandomOptions>;

/** FNV-1a. */
function hash(text: string): number {
  let state = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) state = Math.imul(state ^ text.charCodeAt(i), 0x01000193);
  return state >>> 0;
}

/** Uniform in [0, 1) (mulberry32). */
function uniform(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
