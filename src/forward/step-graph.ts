/** A block's forward for one further token of each of several sequences, over what it remembers of the tokens before. */
import { GraphBuilder, type Graph, type Value } from "../graph/graph.js";
import { lookUp } from "../look-up.js";
import type { Architecture, BlockSpec, Recurrence } from "../model/architecture.js";
import { addBlockInputs, addStateInput } from "./block-inputs.js";

/** Name of the mask of attention that has none of its own: all cached tokens of the sequence. */
export const PLAIN_MASK = "past";

/** What stands for an operator that carries a state, where a token comes by itself. */
const STEPS = { deltaRule: "deltaRuleStep", fadingAttention: "fadingAttentionStep" } as const satisfies Record<
  Recurrence,
  string
>;

/**
 * Inputs besides the block's own: hidden [rows, state.width], a row per sequence; positions [rows, 1]; keys and values of the
 * cache and one mask, as `cachedAttention` takes them; and `stateName`s, what the tokens before left of each recurrence,
 * [rows, …]. Outputs: hidden [rows, state.width]; key and value of the token [rows, keyValueHeads * width], for the cache; and
 * by `nextStateName`s what takes the place of each state.
 */
export function buildStepGraph(architecture: Architecture, block: BlockSpec): Graph {
  const graph = new GraphBuilder(block.shapeKey);
  const state = addStateInput(graph, architecture, "rows");
  const positions = graph.input("positions", ["rows", 1], "i64");
  const masks = new Map<string, Value>([[PLAIN_MASK, graph.input(`mask.${PLAIN_MASK}`, ["rows", 1, "past"])]]);
  for (const [name, { slopes }] of architecture.masks)
    masks.set(name, graph.input(`mask.${name}`, ["rows", slopes?.length ?? 1, "past"]));
  let states = 0;
  /** An operator that takes a state of so many numbers per row besides its operands, and returns its output and the next. */
  const recurring = (shape: readonly number[], apply: (state: Value) => readonly Value[]): Value => {
    const index = states++;
    const [output, next] = apply(graph.input(stateName(index), ["rows", ...shape])) as [Value, Value];
    graph.output(nextStateName(index), next);
    return output;
  };
  const output = block.build({
    graph,
    hidden: state.hidden,
    carried: state.carried,
    rows: "rows",
    isRoutingBypassed: false,
    ...addBlockInputs(graph, architecture, block, positions),
    attend(query, key, value, { mask = PLAIN_MASK, sinks, ...how }) {
      const cached = ([name, vectors]: readonly [string, Value]): Value => {
        const width = (vectors.shape[1] as number) / how.keyValueHeads;
        return graph.input(name, ["rows", how.keyValueHeads, "past", width]);
      };
      graph.output("key", key);
      graph.output("value", value);
      const [keys, values] = [cached(["keys", key]), cached(["values", value])];
      const operands = [query, key, value, keys, values, lookUp(masks, mask), ...(sinks === undefined ? [] : [sinks])];
      return graph.apply("cachedAttention", operands, how);
    },
    convolve(x, weight, bias) {
      const [channels, , taps] = weight.shape as readonly [number, number, number];
      const more = bias === undefined ? [] : [bias];
      if (taps === 1) return graph.apply("convolution", [x, weight, ...more], { tokens: 1 }); // sees no other token
      return recurring([taps - 1, channels], (state) =>
        graph.applyAll("convolutionStep", [x, weight, state, ...more], {}),
      );
    },
    recur(operator, operands, { heads, keyHeads }) {
      const [query, , value] = operands as readonly [Value, Value, Value];
      const shape = [heads, (query.shape[1] as number) / keyHeads, (value.shape[1] as number) / heads];
      return recurring(shape, (state) => graph.applyAll(STEPS[operator], [...operands, state], { heads, keyHeads }));
    },
    isTapped: () => false,
    tap: () => undefined,
  });
  graph.output("hidden", state.leave(output));
  return graph.build();
}

/** The input that is what the tokens before left. */
export function stateName(index: number): string {
  return `state.${index}`;
}

/** The output that takes its place. */
export function nextStateName(index: number): string {
  return `next.${index}`;
}

/** What a block remembers of a sequence. */
export interface CacheShape {
  /** Of every token: so many keys and values of these widths. */
  readonly attention: { readonly heads: number; readonly keyWidth: number; readonly valueWidth: number } | undefined;
  /** Sizes of states that do not grow with the sequence, in the order of their names. */
  readonly states: readonly (readonly number[])[];
}

export function cacheShapeOf(graph: Graph): CacheShape {
  const shapes = new Map(graph.inputs.map(({ name, value }) => [name, value.shape as readonly number[]]));
  const [keys, values] = [shapes.get("keys"), shapes.get("values")];
  const states: (readonly number[])[] = [];
  for (let shape = shapes.get(stateName(0)); shape !== undefined; shape = shapes.get(stateName(states.length)))
    states.push(shape.slice(1));
  if (keys === undefined || values === undefined) return { attention: undefined, states };
  const [, heads, , keyWidth] = keys as readonly [number, number, number, number];
  return { attention: { heads, keyWidth, valueWidth: values[3] as number }, states };
}
