/**
 * A mixture of experts as a branch of a block: a router that sends every token to a few experts with a weight each,
 * the experts (gated MLPs, stored one by one or stacked), and where a family has it an expert that all tokens share.
 *
 * The router and the shared expert's gate are tiny and decide everything, so they are tensors of the branch but never
 * linears to prune. An expert is run on its routed rows only, in ascending token order; none at all is fine.
 */
import type { ExpertTap, RouterAttributes, StackedLayout } from "../graph/composites.js";
import { applyGate, type Gate } from "../graph/gates.js";
import type { Value } from "../graph/graph.js";
import {
  ROUTING,
  type BlockContext,
  type ChannelProducer,
  type InputGroup,
  type LinearSpec,
  type RoutedExperts,
} from "./architecture.js";
import type { Branch } from "./branch.js";
import { gateAndUp, gatedProducers, type GatedMlpSpec } from "./mlp.js";
import {
  gateUpParts,
  linear,
  project,
  projectionLinears,
  projectionShapes,
  reshape,
  type Projection,
  type Shapes,
} from "./pieces.js";

/**
 * "separate": <path>.<expert>.<name>.weight, each [out, in]; "stacked": <path>.gate_up_proj and <path>.down_proj (or as
 * `names` says) hold all experts, [experts, out, in] (inputAxis 1) or [experts, in, out] (inputAxis 0), gate rows before
 * up rows or in turn with them; the same names with _bias hold their biases where there are any.
 */
export type ExpertLayout =
  | { readonly kind: "separate"; readonly gate: string; readonly up: string; readonly down: string }
  | (StackedLayout & { readonly names?: { readonly gateUp: string; readonly down: string } });

export interface RouterSpec extends RouterAttributes {
  /** Module path; its weight is [experts, hidden]. */
  readonly path: string;
  readonly experts: number;
  /** Role and shape of what is added to scores for the choice alone: an entry per expert. */
  readonly correction?: { readonly role: string; readonly shape: readonly number[] };
  /** Two experts by `sparseMixer` with this margin, whatever the attributes say. */
  readonly mixerMargin?: number;
}

export interface SharedExpertSpec {
  readonly path: string;
  readonly width: number;
  /** Names of its linears where gate and up are one; default gate_proj, up_proj and down_proj. */
  readonly fused?: { readonly gateUp: string; readonly down: string };
  /** Module path of the gate whose sigmoid scales the shared expert's output; no gate where absent. */
  readonly gate?: string;
}

export interface MixtureSpec {
  readonly hiddenSize: number;
  /** Inner width of an expert. */
  readonly width: number;
  readonly activation: Gate;
  readonly router: RouterSpec;
  readonly experts: { readonly path: string; readonly layout: ExpertLayout };
  /** Whether a token's weight is a factor on what its experts read, not on what they return. */
  readonly isInputScaled?: boolean;
  readonly shared?: SharedExpertSpec;
}

/**
 * The layout of stacked experts, or undefined where the checkpoint does not stack them. Whether inputs lie along the
 * last axis is seen from where the hidden size is: releases differ, and the names are the same.
 * @param path whole module path, for example model.layers.0.mlp.experts
 */
export function findStackedExperts(
  path: string,
  hiddenSize: number,
  shapeOf: (name: string) => readonly number[] | undefined,
): ExpertLayout | undefined {
  const gateUp = shapeOf(`${path}.gate_up_proj`);
  const down = shapeOf(`${path}.down_proj`);
  if (gateUp === undefined || down === undefined) return undefined;
  const isInputFirst = gateUp[1] === hiddenSize && down[2] === hiddenSize;
  const isInputLast = gateUp[2] === hiddenSize && down[1] === hiddenSize;
  return { kind: "stacked", inputAxis: isInputFirst && !isInputLast ? 0 : 1 };
}

/** What is pruned of an expert. */
interface Expert {
  readonly gate: LinearSpec;
  readonly up: LinearSpec;
  readonly down: LinearSpec;
}

function describeExpert({ hiddenSize, width, experts }: MixtureSpec, index: number): Expert {
  const { path, layout } = experts;
  if (layout.kind === "separate") {
    const at = (name: string, inFeatures: number, outFeatures: number): LinearSpec => {
      const projection = { path: `${path}.${index}.${name}`, inFeatures, outFeatures, hasBias: false };
      return (projectionLinears(projection) as [LinearSpec])[0];
    };
    return {
      gate: at(layout.gate, hiddenSize, width),
      up: at(layout.up, hiddenSize, width),
      down: at(layout.down, width, hiddenSize),
    };
  }
  const { inputAxis, isInterleaved = false } = layout;
  const roles = stackedRoles(path, layout);
  const half = (name: string, place: 0 | 1): LinearSpec => ({
    name: `${path}.${index}.${name}`,
    role: roles.gateUp,
    inFeatures: hiddenSize,
    outFeatures: width,
    inputAxis,
    slab: index,
    outputs: [isInterleaved ? { first: place, count: width, step: 2 } : { first: place * width, count: width }],
  });
  return {
    gate: half("gate", 0),
    up: half("up", 1),
    down: {
      name: `${path}.${index}.down`,
      role: roles.down,
      inFeatures: width,
      outFeatures: hiddenSize,
      inputAxis,
      slab: index,
    },
  };
}

function stackedRoles(
  path: string,
  { names = { gateUp: "gate_up_proj", down: "down_proj" } }: ExpertLayout & { readonly kind: "stacked" },
): { readonly gateUp: string; readonly down: string } {
  return { gateUp: `${path}.${names.gateUp}`, down: `${path}.${names.down}` };
}

function expertShapes({ hiddenSize, width, experts, router }: MixtureSpec, described: readonly Expert[]): Shapes {
  const { path, layout } = experts;
  if (layout.kind === "separate") {
    return described.flatMap(({ gate, up, down }) =>
      [gate, up, down].map(({ role, outFeatures, inFeatures }) => [role, [outFeatures, inFeatures]] as const),
    );
  }
  const stack = (outFeatures: number, inFeatures: number): readonly number[] =>
    layout.inputAxis === 1 ? [router.experts, outFeatures, inFeatures] : [router.experts, inFeatures, outFeatures];
  const roles = stackedRoles(path, layout);
  return [
    [roles.gateUp, stack(2 * width, hiddenSize)],
    [roles.down, stack(hiddenSize, width)],
    ...(layout.hasBias === true
      ? [
          [`${roles.gateUp}_bias`, [router.experts, 2 * width]] as const,
          [`${roles.down}_bias`, [router.experts, hiddenSize]] as const,
        ]
      : []),
  ];
}

export function inputGroupOf(expert: number): string {
  return `expert-${expert}-input`;
}

export function outputGroupOf(expert: number): string {
  return `expert-${expert}-output`;
}

/** What makes the input of an expert's down projection. */
function innerProducers({ experts }: MixtureSpec, { gate, up }: Expert): ChannelProducer[] {
  const { layout } = experts;
  const weights = [gate, up].map((linear): ChannelProducer => ({ ...linear, kind: "weight" }));
  if (layout.kind === "separate" || layout.hasBias !== true) return weights;
  const biases = weights.map((linear): ChannelProducer => ({
    ...linear,
    kind: "bias",
    role: `${linear.role}_bias`,
    inFeatures: 1,
    inputAxis: 1,
  }));
  return [...weights, ...biases];
}

function expertGroups(spec: MixtureSpec, index: number, expert: Expert): InputGroup[] {
  const { gate, up, down } = expert;
  return [
    {
      name: inputGroupOf(index),
      stage: 0,
      inFeatures: gate.inFeatures,
      linears: [gate, up],
      isRouted: true,
    },
    {
      name: outputGroupOf(index),
      stage: 1,
      inFeatures: down.inFeatures,
      linears: [down],
      isRouted: true,
      producers: innerProducers(spec, expert),
    },
  ];
}

function describeShared(
  { hiddenSize, activation }: MixtureSpec,
  { path, width, fused }: SharedExpertSpec,
): GatedMlpSpec {
  const at = (name: string, inFeatures: number, outFeatures: number): Projection => ({
    path: `${path}.${name}`,
    inFeatures,
    outFeatures,
    hasBias: false,
  });
  if (fused !== undefined) {
    const parts = gateUpParts(width);
    const gateUp = { ...at(fused.gateUp, hiddenSize, 2 * width), parts };
    return { activation, gateUp, down: at(fused.down, width, hiddenSize) };
  }
  const [gate, up] = [at("gate_proj", hiddenSize, width), at("up_proj", hiddenSize, width)];
  return { activation, gate, up, down: at("down_proj", width, hiddenSize) };
}

function sharedInputs(shared: GatedMlpSpec): Projection[] {
  return "gateUp" in shared ? [shared.gateUp] : [shared.gate, shared.up];
}

function sharedGroups(hiddenSize: number, shared: GatedMlpSpec): InputGroup[] {
  const { down } = shared;
  const linears = sharedInputs(shared).flatMap(projectionLinears);
  return [
    { name: "shared-expert-input", stage: 0, inFeatures: hiddenSize, linears },
    {
      name: "shared-expert-output",
      stage: 1,
      inFeatures: down.inFeatures,
      linears: projectionLinears(down),
      producers: gatedProducers(shared),
    },
  ];
}

/** Which tensors have what of which expert. */
function routedExperts({ router, experts, isInputScaled }: MixtureSpec, described: readonly Expert[]): RoutedExperts {
  const { path, layout } = experts;
  const shared = new Map([[`${router.path}.weight`, 0]]);
  if (router.hasBias === true) shared.set(`${router.path}.bias`, 0);
  if (router.correction !== undefined) shared.set(router.correction.role, router.correction.shape.length - 1);
  const isStacked = layout.kind === "stacked";
  const hasBias = isStacked && layout.hasBias === true;
  const stacks = isStacked ? Object.values(stackedRoles(path, layout)) : [];
  for (const role of stacks) for (const name of hasBias ? [role, `${role}_bias`] : [role]) shared.set(name, 0);
  return {
    count: router.experts,
    chosen: router.mixerMargin === undefined ? router.chosen : 2,
    ...(router.limit === undefined ? {} : { limit: { groups: router.limit.groups, kept: router.limit.kept } }),
    ...(isInputScaled === true ? { isInputScaled } : {}),
    shared,
    own: isStacked ? [] : described.map(({ gate, up, down }) => [gate.role, up.role, down.role]),
    down: described.map(({ down }) => ({ linear: down, ...(hasBias ? { bias: `${down.role}_bias` } : {}) })),
  };
}

export function mixtureBranch(spec: MixtureSpec): Branch {
  const { hiddenSize, router } = spec;
  const experts = Array.from({ length: router.experts }, (_, index) => describeExpert(spec, index));
  const shared = spec.shared && describeShared(spec, spec.shared);
  const gate = spec.shared?.gate;
  return {
    key: JSON.stringify(spec),
    tensors: [
      [`${router.path}.weight`, [router.experts, hiddenSize]],
      ...(router.correction === undefined ? [] : [[router.correction.role, router.correction.shape] as const]),
      ...(router.hasBias === true ? [[`${router.path}.bias`, [router.experts]] as const] : []),
      ...expertShapes(spec, experts),
      ...(shared === undefined ? [] : [...sharedInputs(shared), shared.down].flatMap(projectionShapes)),
      ...(gate === undefined ? [] : [[`${gate}.weight`, [1, hiddenSize]] as const]),
    ],
    reads: [],
    experts: routedExperts(spec, experts),
    groups: [
      ...experts.flatMap((expert, index) => expertGroups(spec, index, expert)),
      ...(shared === undefined ? [] : sharedGroups(hiddenSize, shared)),
    ].toSorted((a, b) => a.stage - b.stage),
    build(context, input) {
      const sum = shared === undefined ? undefined : runShared(context, spec, shared, input);
      return runExperts(context, spec, experts, input, sum);
    },
  };
}

function runShared(context: BlockContext, spec: MixtureSpec, shared: GatedMlpSpec, input: Value): Value {
  const { graph, tensor } = context;
  context.tap("shared-expert-input", input);
  const [gate, up] = gateAndUp(context, shared, input);
  const activated = applyGate(graph, spec.activation, gate, up);
  context.tap("shared-expert-output", activated);
  const output = project(context, shared.down, activated);
  if (spec.shared?.gate === undefined) return output;
  const openness = graph.apply("sigmoid", [linear(graph, input, tensor(`${spec.shared.gate}.weight`))]); // [rows, 1]
  return graph.apply("multiply", [output, openness]);
}

/** Experts and weights of every row. */
function route({ graph, tensor }: BlockContext, router: RouterSpec, input: Value): readonly Value[] {
  const { path, experts, correction, mixerMargin, ...choice } = router;
  const bias = choice.hasBias === true ? [tensor(`${path}.bias`)] : [];
  const operands = [input, tensor(`${path}.weight`), ...bias];
  if (mixerMargin !== undefined) return graph.applyAll("sparseMixer", operands, { margin: mixerMargin });
  const corrections = correction === undefined ? [] : [reshape(graph, tensor(correction.role), experts)];
  return graph.applyAll("router", [...operands, ...corrections], choice);
}

function tapRouting(context: BlockContext, [experts, weights]: readonly Value[]): void {
  if (context.isTapped(ROUTING.experts))
    context.tap(ROUTING.experts, context.graph.apply("cast", [experts as Value], { to: "f32" }));
  if (context.isTapped(ROUTING.weights)) context.tap(ROUTING.weights, weights as Value);
}

function stackedOnly({ names: _, ...layout }: Exclude<ExpertLayout, { kind: "separate" }>): StackedLayout {
  return layout;
}

/** @param sum [rows, hidden]: what the experts' outputs are added to; nothing where absent */
function runExperts(
  context: BlockContext,
  spec: MixtureSpec,
  experts: readonly Expert[],
  input: Value,
  sum: Value | undefined,
): Value {
  const { graph, tensor } = context;
  const { layout } = spec.experts;
  const { isInputScaled = false } = spec;
  const routing = route(context, spec.router, input);
  tapRouting(context, routing);
  const roles = new Set(experts.flatMap(({ gate, up, down }) => [gate.role, up.role, down.role])); // stacked ones share
  if (layout.kind === "stacked" && layout.hasBias === true) for (const role of [...roles]) roles.add(`${role}_bias`);
  const tapped = experts
    .flatMap((_, expert): readonly (ExpertTap & { readonly group: string })[] => [
      { group: inputGroupOf(expert), expert, at: "input" },
      { group: outputGroupOf(expert), expert, at: "activated" },
    ])
    .filter(({ group }) => context.isTapped(group));
  const operands = [input, ...routing, ...(sum === undefined ? [] : [sum]), ...[...roles].map((role) => tensor(role))];
  if (isInputScaled && context.isRoutingBypassed && tapped.length > 0)
    operands.push(graph.apply("sigmoid", [linear(graph, input, tensor(`${spec.router.path}.weight`))]));
  const [output, ...taps] = graph.applyAll("experts", operands, {
    experts: spec.router.experts,
    activation: spec.activation,
    layout: layout.kind === "separate" ? { kind: "separate" } : stackedOnly(layout),
    ...(isInputScaled ? { isInputScaled } : {}),
    hasSum: sum !== undefined,
    taps: tapped.map(({ expert, at }) => ({ expert, at })),
    isRoutingBypassed: context.isRoutingBypassed, // changes what is tapped, never what the block returns
  });
  tapped.forEach(({ group }, index) => context.tap(group, taps[index] as Value));
  return output as Value;
}
