/**
 * The router of a mixture of experts: which experts each token goes to and with which weight, and the rows of one
 * expert. Running experts is moe.ts's business.
 */
import type { GraphBuilder, Value } from "../onnx/graph.js";
import { linear } from "./pieces.js";

export interface RouterSpec {
  /** Module path; its weight is [experts, hidden]. */
  readonly path: string;
  readonly experts: number;
  /** Experts per token. */
  readonly chosen: number;
  /** Whether a token's weights are scaled to sum to 1. */
  readonly isRenormalized: boolean;
  /** Weights are multiplied by this; default 1. */
  readonly scale?: number;
  /** Choose only among the experts of this many groups: those with the best single expert. */
  readonly limit?: { readonly groups: number; readonly kept: number };
}

/** What the router decided: for every token the chosen experts and their weights, each [tokens, chosen]. */
export interface Routing {
  readonly experts: Value;
  readonly weights: Value;
}

/**
 * softmax over all experts, the best `chosen` of them, and their probabilities as weights.
 * @param input  [tokens, hidden]
 * @param weight [experts, hidden]
 */
export function route(graph: GraphBuilder, input: Value, weight: Value, router: RouterSpec): Routing {
  const all = graph.node("Softmax", [linear(graph, input, weight)], { axis: -1 });
  const eligible = router.limit === undefined ? all : limitToGroups(graph, all, router.experts, router.limit);
  const [best, experts] = graph.nodes("TopK", [eligible, graph.integers([router.chosen])], 2) as [Value, Value];
  const sum = (): Value => graph.node("ReduceSum", [best, graph.integers([1])], { keepdims: 1 });
  const normed = router.isRenormalized ? graph.node("Div", [best, sum()]) : best;
  const { scale = 1 } = router;
  return { experts, weights: scale === 1 ? normed : graph.node("Mul", [normed, graph.floats([scale], [])]) };
}

/** Probabilities with those outside the best groups set to 0; a group is as good as its best expert. */
function limitToGroups(
  graph: GraphBuilder,
  probabilities: Value,
  experts: number,
  { groups, kept }: NonNullable<RouterSpec["limit"]>,
): Value {
  const grouped = graph.node("Reshape", [probabilities, graph.integers([-1, groups, experts / groups])]);
  const scores = graph.node("ReduceMax", [grouped, graph.integers([2])], { keepdims: 0 });
  const [, best] = graph.nodes("TopK", [scores, graph.integers([kept])], 2) as [Value, Value];
  const zeros = graph.node("ConstantOfShape", [graph.node("Shape", [scores])]);
  const ones = graph.node("Expand", [graph.floats([1], []), graph.node("Shape", [best])]);
  const mask = graph.node("ScatterElements", [zeros, best, ones], { axis: 1 });
  const masked = graph.node("Mul", [grouped, graph.node("Unsqueeze", [mask, graph.integers([2])])]);
  return graph.node("Reshape", [masked, graph.integers([-1, experts])]);
}

/** The rows routed to one expert, ascending, and the weight of each: both [n], n known only at run time. */
export function routedRows(
  graph: GraphBuilder,
  { experts, weights }: Routing,
  expert: number,
): { readonly tokens: Value; readonly weights: Value } {
  const places = graph.node("NonZero", [graph.node("Equal", [experts, graph.integers([expert], [])])]); // [2, n]
  return {
    tokens: graph.node("Gather", [places, graph.integers([0], [])], { axis: 0 }),
    weights: graph.node("GatherND", [weights, graph.node("Transpose", [places], { perm: [1, 0] })]),
  };
}
