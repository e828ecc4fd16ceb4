/** Finds the name a user or a configuration probably meant. Pure; used only on the way to an error message. */

/** Names further apart than this share of their length are not worth suggesting. */
const LARGEST_SHARE_OF_EDITS = 1 / 3;

/** The nearest of `candidates` by edit distance, one that ends in `name` first; undefined when none is near. */
export function nearestName(name: string, candidates: Iterable<string>): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.floor(name.length * LARGEST_SHARE_OF_EDITS) + 1;
  for (const candidate of candidates) {
    // The usual difference is a prefix such as "model." or "language_model.".
    if (candidate.endsWith(`.${name}`) || name.endsWith(`.${candidate}`)) return candidate;
    const distance = editDistance(name, candidate, bestDistance);
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/** Letters to add, leave out, replace, or swap with their neighbour; any number >= `limit` when it is not below `limit`. */
function editDistance(a: string, b: string, limit: number): number {
  if (Math.abs(a.length - b.length) >= limit) return limit;
  let beforeThat = new Uint32Array(b.length + 1);
  let previous = Uint32Array.from({ length: b.length + 1 }, (_, j) => j);
  let current = new Uint32Array(b.length + 1);
  const isSwap = (i: number, j: number): boolean => i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
  for (let i = 1; i <= a.length; i++) {
    current[0] = i;
    let smallest = i;
    for (let j = 1; j <= b.length; j++) {
      const substitution = previous[j - 1] + (a.charCodeAt(i - 1) === b.charCodeAt(j - 1) ? 0 : 1);
      current[j] = Math.min(substitution, previous[j] + 1, current[j - 1] + 1);
      if (isSwap(i, j)) current[j] = Math.min(current[j], beforeThat[j - 2] + 1);
      if (current[j] < smallest) smallest = current[j];
    }
    if (smallest >= limit) return limit; // and a swap from the row before, which has at least limit - 1, is no less
    [beforeThat, previous, current] = [previous, current, beforeThat];
  }
  return previous[b.length];
}
