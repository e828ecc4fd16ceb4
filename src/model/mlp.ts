/** Dense MLPs as branches of a block: plain (up, activation, down) and gated (down(activation(gate) · up)). */
import { activate } from "../graph/composites.js";
import { applyGate, type Gate } from "../graph/gates.js";
import type { Value } from "../graph/graph.js";
import type { BlockContext, ChannelProducer } from "./architecture.js";
import type { Branch } from "./branch.js";
import type { ConfigObject } from "./config.js";
import { aboveQuantile } from "./statistical-top-k.js";
import {
  project,
  projectionLinears,
  projectionProducers,
  projectionShapes,
  softplus,
  splitLast,
  type Activation,
  type Projection,
  type Shapes,
} from "./pieces.js";

/**
 * x > 0: p x² + b x; else n (exp(min(x, e)) - 1 - x) + b x; with p = softplus(alpha_p) and n = b + softplus(alpha_n), which
 * are trained (xIELU, arXiv:2411.13010, as Apertus has it).
 */
export interface XieluSpec {
  readonly kind: "xielu";
  /** Module path: alpha_p and alpha_n, each [1], and where they are stored beta and eps. */
  readonly path: string;
  readonly isStored: { readonly beta: boolean; readonly eps: boolean };
}

export interface PlainMlpSpec {
  readonly activation: Activation | XieluSpec;
  readonly up: Projection;
  readonly down: Projection;
}

/** Gate and up stored apart, or as one whose outputs are [gate; up]. */
export type GatedMlpSpec = {
  readonly activation: Gate;
  readonly down: Projection;
  /** Of a token's gates about this share becomes 0 before the activation, see `aboveQuantile`. */
  readonly gateSparsity?: number;
} & ({ readonly gate: Projection; readonly up: Projection } | { readonly gateUp: Projection });

/** up_proj and down_proj of `intermediate_size`, or as `names` calls them. */
export function readPlainMlp(
  values: ConfigObject,
  how: {
    readonly activation: PlainMlpSpec["activation"];
    readonly hasBias: boolean;
    readonly names?: { readonly up: string; readonly down: string };
  },
): Branch {
  const { activation, hasBias, names = { up: "up_proj", down: "down_proj" } } = how;
  const [hiddenSize, width] = [values.count("hidden_size"), values.count("intermediate_size")];
  return plainMlp({
    activation,
    up: { path: `mlp.${names.up}`, inFeatures: hiddenSize, outFeatures: width, hasBias },
    down: { path: `mlp.${names.down}`, inFeatures: width, outFeatures: hiddenSize, hasBias },
  });
}

/** The group of what a dense MLP's channels are read by. */
export const MLP_OUTPUT = "mlp-output";

/** @param producers of the input of `down`: all that `inner` does is done channel by channel */
function mlpBranch(
  inputs: readonly Projection[],
  down: Projection,
  key: string,
  producers: readonly ChannelProducer[],
  inner: (context: BlockContext, input: Value) => Value,
  parameters: Shapes = [],
): Branch {
  return {
    key,
    tensors: [...[...inputs, down].flatMap(projectionShapes), ...parameters],
    reads: inputs.flatMap(projectionLinears),
    groups: [{ name: MLP_OUTPUT, stage: 1, inFeatures: down.inFeatures, linears: projectionLinears(down), producers }],
    build(context, input) {
      const activated = inner(context, input);
      context.tap(MLP_OUTPUT, activated);
      return project(context, down, activated);
    },
  };
}

export function plainMlp(spec: PlainMlpSpec): Branch {
  const { activation, up, down } = spec;
  const inner = (context: BlockContext, input: Value): Value => {
    const value = project(context, up, input);
    return typeof activation === "string"
      ? activate(context.graph, activation, value)
      : xielu(context, activation, value);
  };
  const parameters = typeof activation === "string" ? [] : xieluShapes(activation);
  return mlpBranch([up], down, JSON.stringify(spec), projectionProducers(up), inner, parameters);
}

function xieluShapes({ path, isStored }: XieluSpec): Shapes {
  const stored = (["beta", "eps"] as const).filter((name) => isStored[name]);
  return [
    ...["alpha_p", "alpha_n"].map((name) => [`${path}.${name}`, [1]] as const),
    ...stored.map((name) => [`${path}.${name}`, []] as const),
  ];
}

/** What the library has where a checkpoint does not say. */
const XIELU_DEFAULTS = { beta: 0.5, eps: -1e-6 };

function xielu({ graph, tensor }: BlockContext, { path, isStored }: XieluSpec, x: Value): Value {
  const add = (a: Value, b: Value): Value => graph.apply("add", [a, b]);
  const times = (a: Value, b: Value): Value => graph.apply("multiply", [a, b]);
  const positive = (name: string): Value => softplus(graph, tensor(`${path}.${name}`));
  const [beta, eps] = (["beta", "eps"] as const).map((name) =>
    isStored[name] ? tensor(`${path}.${name}`) : graph.scalar(XIELU_DEFAULTS[name]),
  ) as [Value, Value];
  const above = times(positive("alpha_p"), times(x, x));
  const capped = graph.apply("where", [graph.apply("lessOrEqual", [x, eps]), x, eps]);
  const growth = graph.apply("subtract", [graph.apply("exp", [capped]), graph.scalar(1)]);
  const below = times(add(beta, positive("alpha_n")), graph.apply("subtract", [growth, x]));
  const isBelow = graph.apply("lessOrEqual", [x, graph.scalar(0)]);
  return add(graph.apply("where", [isBelow, below, above]), times(beta, x));
}

export function gatedMlp(spec: GatedMlpSpec): Branch {
  const inputs = "gateUp" in spec ? [spec.gateUp] : [spec.gate, spec.up];
  return mlpBranch(inputs, spec.down, JSON.stringify(spec), gatedProducers(spec), (context, input) => {
    const [gate, up] = gateAndUp(context, spec, input);
    const { gateSparsity = 0, activation } = spec;
    const open = gateSparsity === 0 ? gate : aboveQuantile(context.graph, gate, gateSparsity);
    return applyGate(context.graph, activation, open, up);
  });
}

/** What makes the input of `down`. */
export function gatedProducers(spec: GatedMlpSpec): ChannelProducer[] {
  if (!("gateUp" in spec)) return [spec.gate, spec.up].flatMap((projection) => projectionProducers(projection));
  const count = spec.down.inFeatures;
  return [0, count].flatMap((first) => projectionProducers(spec.gateUp, { first, count }));
}

export function gateAndUp(context: BlockContext, spec: GatedMlpSpec, input: Value): readonly [gate: Value, up: Value] {
  if (!("gateUp" in spec)) return [project(context, spec.gate, input), project(context, spec.up, input)];
  const { inFeatures } = spec.down;
  return splitLast(context.graph, project(context, spec.gateUp, input), [inFeatures, inFeatures]);
}
