/**
 * One residual branch of a block: attention, an MLP, a mixture of experts. A branch reads its own input (the block's
 * norm has been applied), taps whatever its inner linears read, and returns what is added to the residual stream.
 * How branches and norms make a block is decoder.ts's business.
 */
import type { Value } from "../graph/graph.js";
import type { BlockContext, InputGroup, LinearSpec, RoutedExperts } from "./architecture.js";
import type { Shapes } from "./pieces.js";

export interface Branch {
  /** Branches with the same key write the same graph. */
  readonly key: string;
  /** Shapes by role: the part of a tensor's name after the block's. */
  readonly tensors: Shapes;
  /** Linears that read the branch's own input; names are relative to the block. Whoever makes the input taps it. */
  readonly reads: readonly LinearSpec[];
  /** Groups that the branch taps itself; their stages count from that of `reads`, which is 0. */
  readonly groups: readonly InputGroup[];
  /** Whether a token is told more of those before it than their keys and values. */
  readonly isRecurrent?: boolean;
  readonly experts?: RoutedExperts;
  /** @param input [rows, hidden]; returns the same shape */
  build(context: BlockContext, input: Value): Value;
}
