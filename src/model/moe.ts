/**
 * A mixture of experts as a branch of a block: a router that sends every token to a few experts with a weight each,
 * the experts (gated MLPs, stored one by one or stacked), and where a family has it an expert that all tokens share.
 *
 * The router and the shared expert's gate are tiny and decide everything, so they are tensors of the branch but never
 * linears to prune. An expert is run on its routed rows only, in ascending token order; none at all is fine.
 */
import type { Value } from "../onnx/graph.js";
import type { BlockContext, InputGroup, LinearSpec } from "./architecture.js";
import type { Branch } from "./branch.js";
import {
  activate,
  linear,
  project,
  projectionLinears,
  projectionProducers,
  projectionShapes,
  type Activation,
  type Projection,
  type Shapes,
} from "./pieces.js";
import { route, routedRows, type RouterSpec, type Routing } from "./router.js";

/**
 * "separate": <path>.<expert>.<name>.weight, each [out, in]; "stacked": <path>.gate_up_proj and <path>.down_proj hold
 * all experts, [experts, out, in] (inputAxis 1) or [experts, in, out] (inputAxis 0), gate rows before up rows.
 */
export type ExpertLayout =
  | { readonly kind: "separate"; readonly gate: string; readonly up: string; readonly down: string }
  | { readonly kind: "stacked"; readonly inputAxis: 0 | 1 };

export interface SharedExpertSpec {
  readonly path: string;
  readonly width: number;
  /** Module path of the gate whose sigmoid scales the shared expert's output; no gate where absent. */
  readonly gate?: string;
}

export interface MixtureSpec {
  readonly hiddenSize: number;
  /** Inner width of an expert. */
  readonly width: number;
  readonly activation: Activation;
  readonly router: RouterSpec;
  readonly experts: { readonly path: string; readonly layout: ExpertLayout };
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

/** One linear of one expert: what is pruned, and its product with flat x. */
interface ExpertLinear {
  readonly spec: LinearSpec;
  apply(context: BlockContext, input: Value): Value;
}

interface Expert {
  readonly gate: ExpertLinear;
  readonly up: ExpertLinear;
  readonly down: ExpertLinear;
}

function separateLinear(projection: Projection): ExpertLinear {
  const [spec] = projectionLinears(projection) as [LinearSpec];
  return { spec, apply: (context, input) => project(context, projection, input) };
}

function stackedLinear(spec: LinearSpec & { readonly slab: number }): ExpertLinear {
  return {
    spec,
    apply({ graph, tensor }, input) {
      const matrix = graph.node("Gather", [tensor(spec.role), graph.integers([spec.slab], [])], { axis: 0 });
      const [range] = spec.outputs ?? [];
      const outputAxis = graph.integers([1 - spec.inputAxis]);
      const part =
        range === undefined
          ? matrix
          : graph.node("Slice", [
              matrix,
              graph.integers([range.first]),
              graph.integers([range.first + range.count]),
              outputAxis,
            ]);
      return graph.node("Gemm", [input, part], { transB: spec.inputAxis });
    },
  };
}

function describeExpert({ hiddenSize, width, experts }: MixtureSpec, index: number): Expert {
  const { path, layout } = experts;
  if (layout.kind === "separate") {
    const at = (name: string, inFeatures: number, outFeatures: number): ExpertLinear =>
      separateLinear({ path: `${path}.${index}.${name}`, inFeatures, outFeatures, hasBias: false });
    return {
      gate: at(layout.gate, hiddenSize, width),
      up: at(layout.up, hiddenSize, width),
      down: at(layout.down, width, hiddenSize),
    };
  }
  const { inputAxis } = layout;
  const half = (name: string, first: number): ExpertLinear =>
    stackedLinear({
      name: `${path}.${index}.${name}`,
      role: `${path}.gate_up_proj`,
      inFeatures: hiddenSize,
      outFeatures: width,
      inputAxis,
      slab: index,
      outputs: [{ first, count: width }],
    });
  return {
    gate: half("gate", 0),
    up: half("up", width),
    down: stackedLinear({
      name: `${path}.${index}.down`,
      role: `${path}.down_proj`,
      inFeatures: width,
      outFeatures: hiddenSize,
      inputAxis,
      slab: index,
    }),
  };
}

function expertShapes({ hiddenSize, width, experts, router }: MixtureSpec, described: readonly Expert[]): Shapes {
  const { path, layout } = experts;
  if (layout.kind === "separate") {
    return described.flatMap(({ gate, up, down }) =>
      [gate, up, down].map(({ spec }) => [spec.role, [spec.outFeatures, spec.inFeatures]] as const),
    );
  }
  const stack = (outFeatures: number, inFeatures: number): readonly number[] =>
    layout.inputAxis === 1 ? [router.experts, outFeatures, inFeatures] : [router.experts, inFeatures, outFeatures];
  return [
    [`${path}.gate_up_proj`, stack(2 * width, hiddenSize)],
    [`${path}.down_proj`, stack(hiddenSize, width)],
  ];
}

export function inputGroupOf(expert: number): string {
  return `expert-${expert}-input`;
}

export function outputGroupOf(expert: number): string {
  return `expert-${expert}-output`;
}

function expertGroups(index: number, { gate, up, down }: Expert): InputGroup[] {
  return [
    {
      name: inputGroupOf(index),
      stage: 0,
      inFeatures: gate.spec.inFeatures,
      linears: [gate.spec, up.spec],
      isRouted: true,
    },
    {
      name: outputGroupOf(index),
      stage: 1,
      inFeatures: down.spec.inFeatures,
      linears: [down.spec],
      isRouted: true,
      producers: [gate, up].map(({ spec }) => ({ ...spec, kind: "weight" })), // no expert has biases
    },
  ];
}

interface SharedExpert {
  readonly gate: Projection;
  readonly up: Projection;
  readonly down: Projection;
}

function describeShared(hiddenSize: number, { path, width }: SharedExpertSpec): SharedExpert {
  const at = (name: string, inFeatures: number, outFeatures: number): Projection => ({
    path: `${path}.${name}`,
    inFeatures,
    outFeatures,
    hasBias: false,
  });
  return {
    gate: at("gate_proj", hiddenSize, width),
    up: at("up_proj", hiddenSize, width),
    down: at("down_proj", width, hiddenSize),
  };
}

function sharedGroups({ gate, up, down }: SharedExpert): InputGroup[] {
  const inputs = [gate, up].flatMap(projectionLinears);
  return [
    { name: "shared-expert-input", stage: 0, inFeatures: gate.inFeatures, linears: inputs },
    {
      name: "shared-expert-output",
      stage: 1,
      inFeatures: down.inFeatures,
      linears: projectionLinears(down),
      producers: [gate, up].flatMap((projection) => projectionProducers(projection)),
    },
  ];
}

export function mixtureBranch(spec: MixtureSpec): Branch {
  const { hiddenSize, router } = spec;
  const experts = Array.from({ length: router.experts }, (_, index) => describeExpert(spec, index));
  const shared = spec.shared && describeShared(hiddenSize, spec.shared);
  const gate = spec.shared?.gate;
  return {
    key: JSON.stringify(spec),
    tensors: [
      [`${router.path}.weight`, [router.experts, hiddenSize]],
      ...expertShapes(spec, experts),
      ...(shared === undefined ? [] : [shared.gate, shared.up, shared.down].flatMap(projectionShapes)),
      ...(gate === undefined ? [] : [[`${gate}.weight`, [1, hiddenSize]] as const]),
    ],
    reads: [],
    groups: [
      ...experts.flatMap((expert, index) => expertGroups(index, expert)),
      ...(shared === undefined ? [] : sharedGroups(shared)),
    ].toSorted((a, b) => a.stage - b.stage),
    build(context, input) {
      const { graph, tensor } = context;
      const routing = route(graph, input, tensor(`${router.path}.weight`), router);
      const first =
        shared === undefined
          ? graph.node("ConstantOfShape", [graph.node("Shape", [input])])
          : runShared(context, spec, shared, input);
      return experts.reduce(
        (sum, expert, index) => addExpert(context, spec, { expert, index, routing, input, sum }),
        first,
      );
    },
  };
}

function runShared(context: BlockContext, spec: MixtureSpec, shared: SharedExpert, input: Value): Value {
  const { graph, tensor } = context;
  context.tap("shared-expert-input", input);
  const gate = activate(graph, spec.activation, project(context, shared.gate, input));
  const activated = graph.node("Mul", [gate, project(context, shared.up, input)]);
  context.tap("shared-expert-output", activated);
  const output = project(context, shared.down, activated);
  if (spec.shared?.gate === undefined) return output;
  const openness = graph.node("Sigmoid", [linear(graph, input, tensor(`${spec.shared.gate}.weight`))]); // [tokens, 1]
  return graph.node("Mul", [output, openness]);
}

interface ExpertRun {
  readonly expert: Expert;
  readonly index: number;
  readonly routing: Routing;
  /** [tokens, hidden] */
  readonly input: Value;
  /** [tokens, hidden]: what the experts before it gave. */
  readonly sum: Value;
}

/** Gather the expert's rows, run it, and add what it returns, weighted, to the rows it came from. */
function addExpert(context: BlockContext, spec: MixtureSpec, { expert, index, routing, input, sum }: ExpertRun): Value {
  const { graph } = context;
  const activatedOf = (rows: Value): Value => {
    const gate = activate(graph, spec.activation, expert.gate.apply(context, rows));
    return graph.node("Mul", [gate, expert.up.apply(context, rows)]);
  };
  const { tokens, weights } = routedRows(graph, routing, index);
  const rows = graph.node("Gather", [input, tokens], { axis: 0 });
  const activated = activatedOf(rows);
  // Bypassing the router changes what is tapped, never what the block returns.
  context.tap(inputGroupOf(index), context.isRoutingBypassed ? input : rows);
  context.tap(outputGroupOf(index), context.isRoutingBypassed ? activatedOf(input) : activated);
  const column = graph.integers([1]);
  const weighted = graph.node("Mul", [
    expert.down.apply(context, activated),
    graph.node("Unsqueeze", [weights, column]),
  ]);
  return graph.node("ScatterND", [sum, graph.node("Unsqueeze", [tokens, column]), weighted], { reduction: "add" });
}
