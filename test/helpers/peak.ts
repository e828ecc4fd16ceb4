/** How much memory a graph's values take at once where its nodes are run in order. */
import { evaluate, type Bindings, type Dim } from "../../src/graph/dimensions.js";
import { decompose } from "../../src/graph/decompose.js";
import type { Graph, Node, Value } from "../../src/graph/graph.js";
import type { AttributesOf, OperatorName } from "../../src/graph/operators.js";
import { canEncode } from "../../src/onnx/encoder.js";

const BYTES = { f32: 4, f64: 8, i64: 8, bool: 1 } as const;

/** Operators whose output may be written over an input of the same size that nobody reads any more. */
const IN_PLACE: ReadonlySet<OperatorName> = new Set([
  ...(["add", "subtract", "multiply", "divide", "exp", "log", "sqrt", "tanh", "sigmoid", "softmax", "relu"] as const),
  ...(["reshape", "scatterAdd"] as const),
]);

/** What ONNX Runtime's attention holds of itself: the scores of all heads. */
function scoreBytes({ operator, inputs, attributes }: Node, sizes: Bindings): number {
  if (operator !== "attention") return 0;
  const { heads, tokens } = attributes as AttributesOf<"attention">;
  return 4 * heads * (evaluate(inputs[0]?.shape[0] as Dim, sizes) ?? 0) * (evaluate(tokens, sizes) ?? 0);
}

/** Bytes of all values that are there at once at most, inputs and outputs of the graph not counted. */
export function peakBytes(graph: Graph, sizes: Bindings): { readonly bytes: number; readonly at: OperatorName } {
  const written = decompose(graph, canEncode);
  const order = written.nodes;
  const bytesOf = ({ shape, dtype }: Value): number =>
    shape.reduce<number>((total, dim) => total * (evaluate(dim, sizes) ?? 0), BYTES[dtype]);
  const outer = new Set([...written.inputs, ...written.outputs, ...written.constants].map(({ value }) => value.id));
  const lastRead = new Map(order.flatMap(({ inputs }, index) => inputs.map(({ id }) => [id, index] as const)));
  /** Values that share memory, by the value that has it. */
  const owners = new Map<number, number>();
  const ends = new Map<number, number>();
  const held = new Map<number, number>();
  let [now, peak, at]: [number, number, OperatorName] = [0, 0, "fill"];
  order.forEach((node, index) => {
    const { operator, inputs, outputs } = node;
    for (const output of outputs) {
      const [input] = inputs.filter(
        (value) =>
          held.has(owners.get(value.id) ?? value.id) &&
          (ends.get(owners.get(value.id) ?? value.id) as number) <= index &&
          bytesOf(value) === bytesOf(output),
      );
      const owner = IN_PLACE.has(operator) && input !== undefined ? (owners.get(input.id) ?? input.id) : output.id;
      if (operator === "reshape" && input === undefined && inputs[0] !== undefined) {
        const whose = owners.get(inputs[0].id) ?? inputs[0].id;
        owners.set(output.id, whose);
        ends.set(whose, Math.max(ends.get(whose) ?? 0, lastRead.get(output.id) ?? index));
        continue;
      }
      owners.set(output.id, owner);
      ends.set(owner, lastRead.get(output.id) ?? index);
      if (owner === output.id && !outer.has(output.id)) {
        held.set(owner, bytesOf(output));
        now += bytesOf(output);
      }
    }
    const here = now + scoreBytes(node, sizes);
    if (here > peak) [peak, at] = [here, operator];
    for (const [owner, bytes] of held)
      if ((ends.get(owner) as number) <= index) {
        held.delete(owner);
        now -= bytes;
      }
  });
  return { bytes: peak, at };
}
