/**
 * What the program knows of a model: where its tensors are, which linears read which input, and how one block's
 * forward is written as an ONNX graph. A family (families/<name>.ts) turns a config.json into one of these.
 */
import type { GraphBuilder, Value } from "../onnx/graph.js";
import type { RotaryTable } from "./rotary.js";

/** A prunable linear layer. */
export interface LinearSpec {
  /** Module path: the weight's tensor name without ".weight". */
  readonly name: string;
  /** Key of its weight among the block's tensors, for example "mlp.down_proj.weight". */
  readonly role: string;
  readonly inFeatures: number;
  readonly outFeatures: number;
  /** Axis of the stored matrix along which inputs lie: 1 for [out, in], 0 for Conv1D's [in, out]. */
  readonly inputAxis: 0 | 1;
}

/** Linears that read one and the same input, so that one statistic serves all of them. */
export interface InputGroup {
  readonly name: string;
  /** Groups of one stage do not depend on each other; a later stage sees the outputs of earlier ones. */
  readonly stage: number;
  readonly inFeatures: number;
  readonly linears: readonly LinearSpec[];
}

/** A tensor the block's graph is fed with. */
export interface BlockTensor {
  /** Name in the checkpoint. */
  readonly tensor: string;
  readonly shape: readonly number[];
}

/** What a family's graph function is given. */
export interface BlockContext {
  readonly graph: GraphBuilder;
  /** [batch, tokens, hidden] */
  readonly hidden: Value;
  /** The graph input of one of the block's tensors. */
  tensor(role: string): Value;
  /** cos and sin tables [tokens, rotaryDim / 2] and positions [batch, tokens] of one of the architecture's rotary tables. */
  rotary(name: string): { readonly cos: Value; readonly sin: Value; readonly positions: Value };
  /** Announce the input of a group: [batch * tokens, inFeatures]. */
  tap(group: string, input: Value): void;
}

export interface BlockSpec {
  readonly index: number;
  /** Module path, for example "model.layers.3". */
  readonly name: string;
  /** Blocks with the same key share their graphs: everything but the tensors' values is equal. */
  readonly shapeKey: string;
  /** By role: the part of the tensor's name after the block's. */
  readonly tensors: ReadonlyMap<string, BlockTensor>;
  readonly groups: readonly InputGroup[];
  /** The block's forward; returns the new hidden states [batch, tokens, hidden]. */
  build(context: BlockContext): Value;
}

/** From the last block's hidden states to logits. */
export interface HeadSpec {
  readonly tensors: ReadonlyMap<string, BlockTensor>;
  /** Final norm: hidden [tokens, hidden] → [tokens, hidden]. */
  build(graph: GraphBuilder, hidden: Value, tensor: (role: string) => Value): Value;
  /** [vocabulary, hidden]; the embedding where the two are tied. */
  readonly projection: string;
}

export interface Architecture {
  readonly family: string;
  readonly hiddenSize: number;
  readonly vocabularySize: number;
  readonly maxPositions: number;
  /** [vocabulary, hidden] */
  readonly embedding: string;
  readonly isHeadTied: boolean;
  readonly rotaryTables: ReadonlyMap<string, RotaryTable>;
  readonly blocks: readonly BlockSpec[];
  readonly head: HeadSpec;
}

/** All prunable linears, in order. */
export function prunableLinears(architecture: Architecture): LinearSpec[] {
  return architecture.blocks.flatMap((block) => block.groups.flatMap((group) => group.linears));
}
