/** What every graph of a block reads besides hidden states and masks: its tensors, and the rotary tables by position. */
import type { GraphBuilder, Value } from "../graph/graph.js";
import { lookUp } from "../look-up.js";
import type { Architecture, BlockContext, BlockSpec } from "../model/architecture.js";

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
