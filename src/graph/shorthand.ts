/** What graphs write often, in one call. */
import type { Shape } from "./dimensions.js";
import type { GraphBuilder, Value } from "./graph.js";

/** The same entries under another shape. */
export function reshape(graph: GraphBuilder, value: Value, ...shape: Shape): Value {
  return graph.apply("reshape", [value], { shape });
}

/** The last two axes swapped. */
export function turned(graph: GraphBuilder, value: Value): Value {
  const rank = value.shape.length;
  return graph.apply("transpose", [value], { order: [...Array(rank - 2).keys(), rank - 1, rank - 2] });
}

/** Entries above the limit set to it. */
export function atMost(graph: GraphBuilder, value: Value, limit: number): Value {
  const top = graph.scalar(limit);
  return graph.apply("where", [graph.apply("lessOrEqual", [value, top]), value, top]);
}

/** Entries beyond ±limit set to it. */
export function clamp(graph: GraphBuilder, value: Value, limit: number): Value {
  const [below, bottom] = [atMost(graph, value, limit), graph.scalar(-limit)];
  return graph.apply("where", [graph.apply("lessOrEqual", [bottom, below]), below, bottom]);
}
