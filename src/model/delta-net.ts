/**
 * The gated delta net (Yang et al. 2024, arXiv:2412.06464) as Qwen3-Next and Qwen3.5 have it in place of attention:
 * queries, keys and values go through a short convolution and change a state per head, whose reading is normed and gated.
 * The convolution, the logarithms of the decays and their biases are tensors of the branch but nothing to prune.
 */
import type { Value } from "../graph/graph.js";
import type { BlockContext } from "./architecture.js";
import type { Branch } from "./branch.js";
import {
  applyNorm,
  normalize,
  normShapes,
  partsInTurn,
  project,
  projectionLinears,
  projectionShapes,
  reshape,
  softplus,
  splitLast,
  type Activation,
  type Norm,
  type Projection,
  type ProjectionPart,
} from "./pieces.js";
import { activate } from "../graph/composites.js";
import { product } from "../graph/dimensions.js";

export interface DeltaNetSpec {
  readonly hiddenSize: number;
  /** Each serves valueHeads / keyHeads heads in turn. */
  readonly keyHeads: number;
  readonly valueHeads: number;
  readonly keyDim: number;
  readonly valueDim: number;
  /** Tokens that the convolution sees, the own one included. */
  readonly kernel: number;
  /** Of the convolution's outputs, and of the gates. */
  readonly activation: Activation;
  /** Of each head's output. */
  readonly norm: Norm;
  /**
   * "grouped": two projections, whose outputs are per key head its query, its key, and its heads' values and gates, and
   * per key head its heads' β and decays; "separate": one of all queries, keys and values, and one each of the others.
   */
  readonly layout: "grouped" | "separate";
}

/** Of the sum of squares in the norms of queries and keys; the library's own. */
const UNIT_EPSILON = 1e-6;

/** Tokens of a piece, see graph/recurrent.ts. */
const PIECE = 64;

interface Widths {
  /** Of all key heads and of all value heads. */
  readonly keys: number;
  readonly values: number;
  /** Value heads of a key head. */
  readonly perKey: number;
}

function widthsOf({ keyHeads, valueHeads, keyDim, valueDim }: DeltaNetSpec): Widths {
  return { keys: keyHeads * keyDim, values: valueHeads * valueDim, perKey: valueHeads / keyHeads };
}

interface Projections {
  readonly inputs: readonly Projection[];
  readonly output: Projection;
}

function projectionsOf(spec: DeltaNetSpec): Projections {
  const { hiddenSize, keyHeads, valueHeads, keyDim, valueDim, layout } = spec;
  const { keys, values, perKey } = widthsOf(spec);
  const input = (name: string, outFeatures: number, parts?: ProjectionPart[]): Projection => ({
    path: `linear_attn.${name}`,
    inFeatures: hiddenSize,
    outFeatures,
    hasBias: false,
    ...(parts === undefined ? {} : { parts }),
  });
  const ofHead = { q: keyDim, k: keyDim, v: perKey * valueDim, z: perKey * valueDim };
  const inputs =
    layout === "grouped"
      ? [
          input("in_proj_qkvz", 2 * keys + 2 * values, partsInTurn(keyHeads, ofHead)),
          input("in_proj_ba", 2 * valueHeads, partsInTurn(keyHeads, { b: perKey, a: perKey })),
        ]
      : [
          input("in_proj_qkv", 2 * keys + values, partsInTurn(1, { q: keys, k: keys, v: values })),
          input("in_proj_z", values),
          input("in_proj_b", valueHeads),
          input("in_proj_a", valueHeads),
        ];
  const output = { path: "linear_attn.out_proj", inFeatures: values, outFeatures: hiddenSize, hasBias: false };
  return { inputs, output };
}

export function deltaNetBranch(spec: DeltaNetSpec): Branch {
  const { inputs, output } = projectionsOf(spec);
  const { keys, values } = widthsOf(spec);
  return {
    key: JSON.stringify(spec),
    tensors: [
      ...inputs.flatMap(projectionShapes),
      ["linear_attn.conv1d.weight", [2 * keys + values, 1, spec.kernel]],
      ["linear_attn.A_log", [spec.valueHeads]],
      ["linear_attn.dt_bias", [spec.valueHeads]],
      ...normShapes(spec.norm, "linear_attn.norm", spec.valueDim),
      ...projectionShapes(output),
    ],
    reads: inputs.flatMap(projectionLinears),
    groups: [{ name: "attention-output", stage: 1, inFeatures: values, linears: projectionLinears(output) }],
    isRecurrent: true,
    build(context, input) {
      const mixed = buildDeltaNet(context, spec, inputs, input);
      context.tap("attention-output", mixed);
      return project(context, output, mixed);
    },
  };
}

interface Projected {
  /** Queries, keys and values of all heads side by side, as the convolution reads them. */
  readonly mixed: Value;
  readonly gate: Value;
  /** [rows, valueHeads] */
  readonly beta: Value;
  readonly decay: Value;
}

function projectAll(
  context: BlockContext,
  spec: DeltaNetSpec,
  projections: readonly Projection[],
  input: Value,
): Projected {
  const { graph, rows } = context;
  const { keyHeads, keyDim, valueDim } = spec;
  const { perKey } = widthsOf(spec);
  const made = projections.map((projection) => project(context, projection, input));
  if (spec.layout === "separate") {
    const [mixed, gate, beta, decay] = made as [Value, Value, Value, Value];
    return { mixed, gate, beta, decay };
  }
  const [states, rates] = made as [Value, Value];
  const apart = (value: Value, sizes: readonly number[]): Value[] => {
    const width = sizes.reduce((sum, size) => sum + size, 0);
    const parts = splitLast(graph, reshape(graph, value, rows, keyHeads, width), sizes);
    return parts.map((part, index) => reshape(graph, part, rows, keyHeads * (sizes[index] as number)));
  };
  const [query, key, value, gate] = apart(states, [keyDim, keyDim, perKey * valueDim, perKey * valueDim]) as [
    Value,
    Value,
    Value,
    Value,
  ];
  const [beta, decay] = apart(rates, [perKey, perKey]) as [Value, Value];
  return { mixed: graph.apply("concat", [query, key, value], { axis: 1 }), gate, beta, decay };
}

function buildDeltaNet(
  context: BlockContext,
  spec: DeltaNetSpec,
  projections: readonly Projection[],
  input: Value,
): Value {
  const { graph, rows, tensor } = context;
  const { keyHeads, valueHeads, keyDim, valueDim, activation } = spec;
  const { keys, values } = widthsOf(spec);
  const { mixed, gate, beta, decay } = projectAll(context, spec, projections, input);
  const convolved = context.convolve(mixed, tensor("linear_attn.conv1d.weight"));
  const [query, key, value] = splitLast(graph, activate(graph, activation, convolved), [keys, keys, values]);
  /** Every head at length `length`. */
  const atLength = (states: Value, length: number): Value => {
    const gain = graph.floats(new Float32Array(keyDim).fill(length / Math.sqrt(keyDim)), [keyDim]);
    const norm = { kind: "rms", epsilon: UNIT_EPSILON / keyDim } as const;
    const heads = reshape(graph, states, product(rows, keyHeads), keyDim);
    return reshape(graph, normalize(graph, norm, heads, gain), rows, keys);
  };
  const rate = graph.apply("multiply", [graph.apply("exp", [tensor("linear_attn.A_log")]), graph.scalar(-1)]);
  const step = softplus(graph, graph.apply("add", [decay, tensor("linear_attn.dt_bias")]));
  const read = context.recur(
    "deltaRule",
    [
      atLength(query, keyDim ** -0.5),
      atLength(key, 1),
      value,
      graph.apply("multiply", [step, rate]),
      graph.apply("sigmoid", [beta]),
    ],
    { heads: valueHeads, keyHeads, piece: PIECE },
  );
  const perHead = reshape(graph, read, product(rows, valueHeads), valueDim);
  const normed = reshape(graph, applyNorm(context, spec.norm, "linear_attn.norm", perHead), rows, values);
  return graph.apply("gatedActivation", [gate, normed], { activation });
}
