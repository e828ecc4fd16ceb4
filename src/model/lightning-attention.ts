/**
 * Lightning attention (Qin et al. 2024, arXiv:2405.17381) as MiniMax-01 has it: no softmax, scores that fade with
 * distance at each head's own slope, a norm and gates on what comes out.
 */
import { activate } from "../graph/composites.js";
import type { Branch } from "./branch.js";
import { queryKeyValueParts } from "./attention.js";
import {
  applyNorm,
  normShapes,
  project,
  projectionLinears,
  projectionShapes,
  reshape,
  splitLast,
  type Activation,
  type Norm,
  type Projection,
} from "./pieces.js";

export interface LightningAttentionSpec {
  readonly hiddenSize: number;
  readonly heads: number;
  readonly headDim: number;
  /** On queries, keys and values. */
  readonly activation: Activation;
  /** Tokens of a piece, see graph/recurrent.ts. */
  readonly piece: number;
  /** How fast each head's scores fade; where the checkpoint stores them, read from there. */
  readonly slopes: readonly number[] | "stored";
}

/** Built with the library's default, whatever the config says of the others. */
const NORM: Norm = { kind: "rms", epsilon: 1e-6 };

export function lightningAttentionBranch(spec: LightningAttentionSpec): Branch {
  const { hiddenSize, heads, headDim, activation, piece, slopes } = spec;
  const width = heads * headDim;
  const at = (name: string, inFeatures: number, outFeatures: number): Projection => ({
    path: `self_attn.${name}`,
    inFeatures,
    outFeatures,
    hasBias: false,
  });
  const parts = queryKeyValueParts("grouped", { heads, keyValueHeads: heads, headDim });
  const input: Projection = { ...at("qkv_proj", hiddenSize, 3 * width), parts };
  const gate = at("output_gate", hiddenSize, width);
  const output = at("out_proj", width, hiddenSize);
  return {
    key: JSON.stringify(spec),
    tensors: [
      ...[input, gate].flatMap(projectionShapes),
      ...(slopes === "stored" ? [["self_attn.slope_rate", [heads, 1, 1]] as const] : []),
      ...normShapes(NORM, "self_attn.norm", width),
      ...projectionShapes(output),
    ],
    reads: [input, gate].flatMap(projectionLinears),
    groups: [{ name: "attention-output", stage: 1, inFeatures: width, linears: projectionLinears(output) }],
    isRecurrent: true,
    build(context, states) {
      const { graph, rows, tensor } = context;
      const activated = activate(graph, activation, project(context, input, states));
      const perHead = splitLast(graph, reshape(graph, activated, rows, heads, 3 * headDim), [
        headDim,
        headDim,
        headDim,
      ]);
      const operands = perHead.map((part) => reshape(graph, part, rows, width));
      const fading = slopes === "stored" ? tensor("self_attn.slope_rate") : graph.floats(slopes, [heads]);
      const attributes = { heads, keyHeads: heads, piece };
      const mixed = context.recur("fadingAttention", [...operands, reshape(graph, fading, heads)], attributes);
      const open = graph.apply("sigmoid", [project(context, gate, states)]);
      const gated = graph.apply("multiply", [open, applyNorm(context, NORM, "self_attn.norm", mixed)]);
      context.tap("attention-output", gated);
      return project(context, output, gated);
    },
  };
}
