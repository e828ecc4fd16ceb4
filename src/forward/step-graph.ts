/** A block's forward for one further token of each of several sequences, over what it remembers of the tokens before. */
import { GraphBuilder, type Graph, type Value } from "../graph/graph.js";
import { lookUp } from "../look-up.js";
import type { Architecture, BlockSpec } from "../model/architecture.js";
import { addBlockInputs, addStateInput } from "./block-inputs.js";

/** Name of the mask of attention that has none of its own: all cached tokens of the sequence. */
export const PLAIN_MASK = "past";

/**
 * Inputs besides the block's own: hidden [rows, state.width], a row per sequence; positions [rows, 1]; keys and values of the
 * cache and one mask, as `cachedAttention` takes them. Outputs: hidden [rows, state.width], and key and value of the token
 * [rows, keyValueHeads * width], for the cache.
 */
export function buildStepGraph(architecture: Architecture, block: BlockSpec): Graph {
  const graph = new GraphBuilder(block.shapeKey);
  const state = addStateInput(graph, architecture, "rows");
  const positions = graph.input("positions", ["rows", 1], "i64");
  const masks = new Map<string, Value>([[PLAIN_MASK, graph.input(`mask.${PLAIN_MASK}`, ["rows", 1, "past"])]]);
  for (const [name, { slopes }] of architecture.masks)
    masks.set(name, graph.input(`mask.${name}`, ["rows", slopes?.length ?? 1, "past"]));
  const output = block.build({
    graph,
    hidden: state.hidden,
    carried: state.carried,
    rows: "rows",
    isRoutingBypassed: false,
    ...addBlockInputs(graph, architecture, block, positions),
    attend(query, key, value, { mask = PLAIN_MASK, sinks, ...how }) {
      const cached = ([name, states]: readonly [string, Value]): Value => {
        const width = (states.shape[1] as number) / how.keyValueHeads;
        return graph.input(name, ["rows", how.keyValueHeads, "past", width]);
      };
      graph.output("key", key);
      graph.output("value", value);
      const [keys, values] = [cached(["keys", key]), cached(["values", value])];
      const operands = [query, key, value, keys, values, lookUp(masks, mask), ...(sinks === undefined ? [] : [sinks])];
      return graph.apply("cachedAttention", operands, how);
    },
    isTapped: () => false,
    tap: () => undefined,
  });
  graph.output("hidden", state.leave(output));
  return graph.build();
}

/** What a block remembers of a token: so many keys and values of these widths. */
export interface CacheShape {
  readonly heads: number;
  readonly keyWidth: number;
  readonly valueWidth: number;
}

export function cacheShapeOf(graph: Graph): CacheShape {
  const shapes = new Map(graph.inputs.map(({ name, value }) => [name, value.shape as readonly number[]]));
  const [, heads = 0, , keyWidth = 0] = lookUp(shapes, "keys");
  const [, , , valueWidth = 0] = lookUp(shapes, "values");
  return { heads, keyWidth, valueWidth };
}
