import type { MersenneTwister } from "../calibration/random.js";

/** In an order drawn from `random` (Fisher and Yates). */
export function shuffled<Item>(items: readonly Item[], random: MersenneTwister): Item[] {
  const result = [...items];
  for (let last = result.length - 1; last > 0; last--) {
    const other = random.randomInteger(0, last);
    [result[last], result[other]] = [result[other] as Item, result[last] as Item];
  }
  return result;
}
