/**
 * Experts that the router sent too few tokens: found by comparing tokens with a linear's inputs, since fewer samples
 * than inputs leave a Gram matrix without full rank and column norms to chance. What is done about them is the run's
 * `starved` option.
 */
import type { LayerReport, StarvedTreatment } from "../contract.js";
import type { Logger } from "../logging.js";
import type { InputGroup } from "../model/architecture.js";

/** @param tokens that reached the group; undefined where nobody counted */
export function isStarved({ isRouted, inFeatures }: InputGroup, tokens: number | undefined): boolean {
  return isRouted === true && tokens !== undefined && tokens < inFeatures;
}

const DONE: Readonly<Record<StarvedTreatment, string>> = {
  "all-tokens": "pruned with statistics of all tokens",
  magnitude: "pruned by magnitude",
  skip: "left dense",
};

/** One line about all starved experts of a run, or none. */
export function warnOfStarvedExperts(logger: Logger, layers: readonly LayerReport[]): void {
  const starved = layers.filter((layer) => layer.starved !== undefined);
  const [first] = starved;
  if (first?.starved === undefined) return;
  const fewest = Math.min(...starved.map((layer) => layer.tokens ?? 0));
  logger.warn(
    `${starved.length} linears of experts saw fewer tokens than they have inputs (fewest: ${fewest}) and were ${DONE[first.starved]}; more --nsamples would feed them`,
    { linears: starved.length, first: first.name, fewest, starved: first.starved },
  );
}
