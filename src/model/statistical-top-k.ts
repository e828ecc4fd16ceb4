/** The largest of a token's activations, found without sorting them: statistical top-k (Spark transformers, arXiv:2506.06644). */
import type { GraphBuilder, Value } from "../graph/graph.js";

/**
 * How far entries are above a quantile of the normal distribution that has the mean and the deviation of their row, 0 where
 * they are below it.
 * @param value [rows, width]
 * @param share of entries that become 0 where they are distributed like that, between 0 and 1
 */
export function aboveQuantile(graph: GraphBuilder, value: Value, share: number): Value {
  const meanOf = (some: Value): Value => graph.apply("reduceMean", [some], { axes: [1], keepsAxes: true });
  const centred = graph.apply("subtract", [value, meanOf(value)]);
  const deviation = graph.apply("sqrt", [meanOf(graph.apply("multiply", [centred, centred]))]);
  const quantile = graph.apply("multiply", [deviation, graph.scalar(normalQuantile(share))]);
  return graph.apply("relu", [graph.apply("subtract", [centred, quantile])]);
}

/** x with Φ(x) = share, of the normal distribution with mean 0 and deviation 1. */
export function normalQuantile(share: number): number {
  let [low, high] = [-WIDEST, WIDEST];
  for (let step = 0; step < HALVINGS; step++) {
    const middle = (low + high) / 2;
    if (normalShareBelow(middle) < share) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

/** Beyond it lies less than any share that a float has room for beside 1. */
const WIDEST = 9;
const HALVINGS = 60;

/** Φ(x) = 1/2 + φ(x) (x + x³/3 + x⁵/(3·5) + …) */
function normalShareBelow(x: number): number {
  let [term, sum] = [x, x];
  for (let n = 3; Math.abs(term) > Math.abs(sum) * Number.EPSILON; n += 2) {
    term *= (x * x) / n;
    sum += term;
  }
  return 0.5 + (sum * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI);
}
