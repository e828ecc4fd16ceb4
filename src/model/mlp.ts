/** Dense MLPs as branches of a block: plain (up, activation, down) and gated (down(activation(gate) · up)). */
import { activate } from "../graph/composites.js";
import type { Value } from "../graph/graph.js";
import type { BlockContext, ChannelProducer } from "./architecture.js";
import type { Branch } from "./branch.js";
import {
  project,
  projectionLinears,
  projectionProducers,
  projectionShapes,
  splitLast,
  type Activation,
  type Projection,
} from "./pieces.js";

export interface PlainMlpSpec {
  readonly activation: Activation;
  readonly up: Projection;
  readonly down: Projection;
}

/** Gate and up stored apart, or as one whose outputs are [gate; up]. */
export type GatedMlpSpec = { readonly activation: Activation; readonly down: Projection } & (
  { readonly gate: Projection; readonly up: Projection } | { readonly gateUp: Projection }
);

/** @param producers of the input of `down`: all that `inner` does is done channel by channel */
function mlpBranch(
  inputs: readonly Projection[],
  down: Projection,
  key: string,
  producers: readonly ChannelProducer[],
  inner: (context: BlockContext, input: Value) => Value,
): Branch {
  return {
    key,
    tensors: [...inputs, down].flatMap(projectionShapes),
    reads: inputs.flatMap(projectionLinears),
    groups: [
      { name: "mlp-output", stage: 1, inFeatures: down.inFeatures, linears: projectionLinears(down), producers },
    ],
    build(context, input) {
      const activated = inner(context, input);
      context.tap("mlp-output", activated);
      return project(context, down, activated);
    },
  };
}

export function plainMlp(spec: PlainMlpSpec): Branch {
  return mlpBranch([spec.up], spec.down, JSON.stringify(spec), projectionProducers(spec.up), (context, input) =>
    activate(context.graph, spec.activation, project(context, spec.up, input)),
  );
}

export function gatedMlp(spec: GatedMlpSpec): Branch {
  const inputs = "gateUp" in spec ? [spec.gateUp] : [spec.gate, spec.up];
  return mlpBranch(inputs, spec.down, JSON.stringify(spec), gatedProducers(spec), (context, input) => {
    const [gate, up] = gateAndUp(context, spec, input);
    return context.graph.apply("gatedActivation", [gate, up], { activation: spec.activation });
  });
}

function gatedProducers(spec: GatedMlpSpec): ChannelProducer[] {
  if (!("gateUp" in spec)) return [spec.gate, spec.up].flatMap((projection) => projectionProducers(projection));
  const count = spec.down.inFeatures;
  return [0, count].flatMap((first) => projectionProducers(spec.gateUp, { first, count }));
}

function gateAndUp(context: BlockContext, spec: GatedMlpSpec, input: Value): readonly [gate: Value, up: Value] {
  if (!("gateUp" in spec)) return [project(context, spec.gate, input), project(context, spec.up, input)];
  const { inFeatures } = spec.down;
  return splitLast(context.graph, project(context, spec.gateUp, input), [inFeatures, inFeatures]);
}
