/**
 * The next token from logits: the largest, or one drawn by temperature, top-k and top-p, in this order, as generation is
 * done elsewhere. Where scores are equal the smaller id comes first, so that exactly k tokens are kept and a draw is the
 * same everywhere.
 *
 * Sources: top-k, Fan et al. 2018, arXiv:1805.04833; top-p, Holtzman et al. 2020, arXiv:1904.09751.
 */

export interface Sampling {
  /** Logits are divided by this; above 0. */
  readonly temperature: number;
  /** Only so many of the most probable tokens take part; 0: all. */
  readonly topK: number;
  /** Of those, the most probable ones that together have at least this probability; in (0, 1]. */
  readonly topP: number;
}

/** Tokens that may be drawn, the most probable first, and their probabilities, which sum to 1. */
export interface Distribution {
  readonly ids: readonly number[];
  readonly probabilities: readonly number[];
}

/** The id of the largest logit, the first of equals. */
export function mostProbable(logits: Float32Array): number {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id] > logits[best]) best = id;
  return best;
}

/** @param logits without NaN or +∞, one of them finite; -∞ is a token that is never drawn */
export function distributionOf(logits: Float32Array, { temperature, topK, topP }: Sampling): Distribution {
  const ids = largest(logits, topK === 0 ? logits.length : Math.min(topK, logits.length));
  const top = logits[ids[0] as number];
  const weights = ids.map((id) => Math.exp((logits[id] - top) / temperature));
  const total = sumOf(weights);
  let count = weights.length;
  if (topP < 1) {
    let sum = 0;
    count = weights.findIndex((weight) => (sum += weight) >= topP * total) + 1;
  }
  const kept = weights.slice(0, count);
  const mass = sumOf(kept);
  return { ids: ids.slice(0, count), probabilities: kept.map((weight) => weight / mass) };
}

/** @param random in [0, 1) */
export function draw({ ids, probabilities }: Distribution, random: number): number {
  let sum = 0;
  const place = probabilities.findIndex((probability) => (sum += probability) > random);
  // Rounding may leave the sum a little below 1: then it is the last that can be drawn.
  return ids[place === -1 ? probabilities.findLastIndex((probability) => probability > 0) : place] as number;
}

/** Whether a token can be drawn: no NaN, no +∞, and something finite. */
export function areUsable(logits: Float32Array): boolean {
  let hasFinite = false;
  for (const logit of logits) {
    if (Number.isNaN(logit) || logit === Infinity) return false;
    if (logit !== -Infinity) hasFinite = true;
  }
  return hasFinite;
}

/** Ids of the `count` largest logits, largest first. */
function largest(logits: Float32Array, count: number): number[] {
  const comesBefore = (a: number, b: number): boolean => logits[a] > logits[b] || (logits[a] === logits[b] && a < b);
  if (count === logits.length) return Array.from(logits, (_, id) => id).sort((a, b) => (comesBefore(a, b) ? -1 : 1)); // no two are equal
  const found: number[] = [];
  for (let id = 0; id < logits.length; id++) {
    if (found.length === count && !comesBefore(id, found[count - 1] as number)) continue;
    if (found.length === count) found.pop();
    let place = found.length;
    while (place > 0 && comesBefore(id, found[place - 1] as number)) place--;
    found.splice(place, 0, id);
  }
  return found;
}

function sumOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0);
}
