/** What every graph of a block reads besides masks: the state, its tensors, and the rotary tables by position. */
import type { Dim } from "../graph/dimensions.js";
import type { GraphBuilder, Value } from "../graph/graph.js";
import { lookUp } from "../look-up.js";
import type { Architecture, BlockContext, BlockSpec } from "../model/architecture.js";

/** The state that enters a block, and the one that leaves it. */
export interface BlockState extends Pick<BlockContext, "hidden" | "carried"> {
  /** With new hidden states, and whatever was set of what is carried: [rows, state.width]. */
  leave(hidden: Value): Value;
}

/** Add the input `hidden` [rows, state.width] to the graph. */
export function addStateInput(graph: GraphBuilder, { state }: Architecture, rows: Dim): BlockState {
  const whole = graph.input("hidden", [rows, state.width]);
  const names = state.carried.map(({ name }) => name);
  const sizes = [state.hidden, ...state.carried.map(({ width }) => width)];
  const [hidden, ...others] = sizes.length === 1 ? [whole] : graph.applyAll("split", [whole], { axis: 1, sizes });
  const carried = new Map(names.map((name, index) => [name, others[index] as Value]));
  return {
    hidden: hidden as Value,
    carried: { get: (name) => lookUp(carried, name), set: (name, value) => void carried.set(name, value) },
    leave: (left) =>
      names.length === 0
        ? left
        : graph.apply("concat", [left, ...names.map((name) => lookUp(carried, name))], { axis: 1 }),
  };
}

/**
 * Add the inputs to the graph; those that it never reads go when it is built.
 * @param positions of its rows, [sequences, tokens]
 */
export function addBlockInputs(
  graph: GraphBuilder,
  { rotaryTables }: Architecture,
  block: BlockSpec,
  positions: Value,
): Pick<BlockContext, "tensor" | "rotary" | "positions"> {
  const tensors = new Map([...block.tensors].map(([role, { shape }]) => [role, graph.input(role, shape)]));
  const tables = new Map(
    [...rotaryTables].map(([name, { dimensions }]) => {
      const shape = ["table", dimensions / 2];
      return [name, { cos: graph.input(`cos.${name}`, shape), sin: graph.input(`sin.${name}`, shape), positions }];
    }),
  );
  return { tensor: (role) => lookUp(tensors, role), rotary: (name) => lookUp(tables, name), positions };
}
