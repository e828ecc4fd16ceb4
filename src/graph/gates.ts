/** What a gated MLP does with its gate and up projections: activation(gate) · up, or a clamped form of it. */
import type { Activation } from "./composites.js";
import type { GraphBuilder, Value } from "./graph.js";
import { inputAt, requireShape, requireType, type Operator } from "./operator.js";
import { atMost, clamp } from "./shorthand.js";

export interface ClampedGateAttributes {
  /** Gates are at most this, ups between its negative and itself. */
  readonly limit: number;
  /** Factor inside the sigmoid. */
  readonly alpha: number;
}

export type Gate = Activation | ClampedGateAttributes;

/**
 * g · sigmoid(alpha · g) · (u + 1) of the clamped gate g and up u, as released with gpt-oss (arXiv:2508.10925).
 * Inputs: gate and up of one shape.
 */
export const clampedGate: Operator<ClampedGateAttributes> = {
  infer(inputs) {
    const { shape, dtype } = inputAt("clampedGate", inputs, 0);
    requireType("clampedGate", inputs, "f32");
    requireShape("clampedGate", inputs, 1, shape);
    return [{ shape, dtype }];
  },
  decompose(graph, inputs, { limit, alpha }) {
    const [gate, up] = inputs as readonly [Value, Value];
    const g = atMost(graph, gate, limit);
    const open = graph.apply("sigmoid", [graph.apply("multiply", [g, graph.scalar(alpha)])]);
    const activated = graph.apply("multiply", [g, open]);
    return [graph.apply("multiply", [activated, graph.apply("add", [clamp(graph, up, limit), graph.scalar(1)])])];
  },
};

export function applyGate(graph: GraphBuilder, how: Gate, gate: Value, up: Value): Value {
  if (typeof how === "string") return graph.apply("gatedActivation", [gate, up], { activation: how });
  return graph.apply("clampedGate", [gate, up], how);
}
