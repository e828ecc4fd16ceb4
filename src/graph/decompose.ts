/** Rewriting a graph in the operators that an executor has. */
import { GraphBuilder, type Graph, type Value } from "./graph.js";
import type { OperatorName } from "./operators.js";

/**
 * The same graph with every composite that is not supported written in operators that are.
 * @throws InternalError E_OPERATOR naming a primitive that is not supported
 */
export function decompose(graph: Graph, supports: (operator: OperatorName) => boolean): Graph {
  const builder = new GraphBuilder(graph.name, { supports });
  const inputs = graph.inputs.map(({ name, value }) => builder.input(name, value.shape, value.dtype));
  const values = builder.inline(graph, inputs);
  for (const { name, value } of graph.outputs) builder.output(name, values.get(value.id) as Value);
  return { ...builder.build(), ...(graph.isOrdered === true ? { isOrdered: true } : {}) };
}
