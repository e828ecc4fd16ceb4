/**
 * What the program knows of a model: where its tensors are, which linears read which input, and how one block's
 * forward is written as a graph. A family (families/<name>.ts) turns a config.json into one of these.
 */
import { ConfigError, InternalError } from "../errors.js";
import type { AttentionAttributes } from "../graph/attention.js";
import type { Dim } from "../graph/dimensions.js";
import type { GraphBuilder, Value } from "../graph/graph.js";
import type { LinearAttentionAttributes } from "../graph/recurrent.js";
import type { RotaryTable } from "./rotary.js";

/** Outputs of a stored matrix: consecutive ones, or every `step`-th. */
export interface OutputRange {
  readonly first: number;
  readonly count: number;
  /** Default 1. */
  readonly step?: number;
}

/**
 * A prunable linear layer: a whole stored matrix, or the part of a fused tensor that is one logical matrix (each of
 * q, k and v is pruned by itself even where a checkpoint stores them as one).
 */
export interface LinearSpec {
  /** Module path: the weight's tensor name without ".weight"; a part of a fused tensor adds its own name to it. */
  readonly name: string;
  /** Key of the tensor that holds it among the block's tensors, for example "mlp.down_proj.weight". */
  readonly role: string;
  readonly inFeatures: number;
  readonly outFeatures: number;
  /** Axis of the stored matrix along which inputs lie: 1 for [out, in], 0 for Conv1D's [in, out]. */
  readonly inputAxis: 0 | 1;
  /** Which matrix of a stacked [experts, …, …] tensor. */
  readonly slab?: number;
  /** The stored matrix's outputs that belong to this linear, in order; all where absent. */
  readonly outputs?: readonly OutputRange[];
}

/**
 * What makes the channels of a group's input, entry by entry: channel i comes from row i of a stored matrix (of each,
 * where there are several) and from the entries of its bias, and depends on nothing else that has an order. Hence the
 * channels may change places if these rows do: the model computes the same function.
 */
export interface ChannelProducer extends Pick<LinearSpec, "role" | "inFeatures" | "inputAxis" | "slab" | "outputs"> {
  /** A bias is stored as [out], or as [experts, out] where there is a slab; its inFeatures are 1, its inputAxis is 1. */
  readonly kind: "weight" | "bias";
  /** As many as the group has inputs. */
  readonly outFeatures: number;
}

/** Linears that read one and the same input, so that one statistic serves all of them. */
export interface InputGroup {
  readonly name: string;
  /** Groups of one stage do not depend on each other; a later stage sees the outputs of earlier ones. */
  readonly stage: number;
  readonly inFeatures: number;
  readonly linears: readonly LinearSpec[];
  /** Whether only some tokens reach it (an expert): how many is known only after a run. */
  readonly isRouted?: boolean;
  /** Absent where the input's channels must stay in place, as those of the residual stream. */
  readonly producers?: readonly ChannelProducer[];
}

/** The experts of a mixture that tokens are sent to, as far as some of them may be taken away. */
export interface RoutedExperts {
  readonly count: number;
  /** How many a token is sent to. */
  readonly chosen: number;
  /** A choice from `kept` of so many groups of consecutive experts. */
  readonly limit?: { readonly groups: number; readonly kept: number };
  /** Whether a token's weight is a factor on what its experts read, not on what they return. */
  readonly isInputScaled?: boolean;
  /** Roles of tensors with an entry per expert along an axis: router, corrections of scores, stacks. */
  readonly shared: ReadonlyMap<string, number>;
  /** Roles of the tensors that an expert has for itself, expert by expert, in one order; none where they are stacked. */
  readonly own: readonly (readonly string[])[];
  /** The expert's down projection, and where there is one the role of its bias, [experts, hidden]. */
  readonly down: readonly { readonly linear: LinearSpec; readonly bias?: string }[];
}

/**
 * What may be tapped of a mixture besides its groups: the experts of every row, as numbers, and their weights, both
 * [rows, chosen].
 */
export const ROUTING = { experts: "routing-experts", weights: "routing-weights" } as const;

/** A tensor the block's graph is fed with. */
export interface BlockTensor {
  /** Name in the checkpoint. */
  readonly tensor: string;
  readonly shape: readonly number[];
}

/** How queries meet keys. */
export interface Attending extends Pick<AttentionAttributes, "heads" | "keyValueHeads" | "scale" | "softcap"> {
  /** Which of the architecture's masks, causal themselves; default: all of a token's past. */
  readonly mask?: string | undefined;
  /** A score per head, [heads], that takes its share of every softmax and has no value. */
  readonly sinks?: Value;
}

/** Operators that carry a state from token to token, by what they are in whole sequences (graph/recurrent.ts). */
export type Recurrence = "deltaRule" | "fadingAttention";

/** What a family's graph function is given. */
export interface BlockContext {
  readonly graph: GraphBuilder;
  /** [rows, state.hidden] */
  readonly hidden: Value;
  /** What goes with them, by name, each [rows, width]. What is set is what later blocks get. */
  readonly carried: {
    get(name: string): Value;
    set(name: string, value: Value): void;
  };
  /** All tokens of a run, sequence after sequence. */
  readonly rows: Dim;
  /** The graph input of one of the block's tensors. */
  tensor(role: string): Value;
  /** cos and sin tables [tokens, rotaryDim / 2] and positions [batch, tokens] of one of the architecture's rotary tables. */
  rotary(name: string): { readonly cos: Value; readonly sin: Value; readonly positions: Value };
  /** Of the rows within their sequences, [sequences, tokens], i64. */
  readonly positions: Value;
  /**
   * Causal attention over the tokens of each sequence.
   * Inputs: query [rows, heads * d], key [rows, keyValueHeads * d], value [rows, keyValueHeads * e]; [rows, heads * e]
   */
  attend(query: Value, key: Value, value: Value, how: Attending): Value;
  /**
   * A short causal convolution of every channel over the tokens of each sequence.
   * Inputs: x [rows, channels], weight [channels, 1, K], bias [channels] where there is one; [rows, channels]
   */
  convolve(x: Value, weight: Value, bias?: Value): Value;
  /** Linear attention over the tokens of each sequence; operands and result are the operator's. */
  recur(operator: Recurrence, operands: readonly Value[], how: Omit<LinearAttentionAttributes, "tokens">): Value;
  /** Announce the input of a group: [rows, inFeatures], or [routed rows, inFeatures] for an expert. */
  tap(group: string, input: Value): void;
  /** Whether a group is asked for: inside a composite a place must be announced beforehand. */
  isTapped(group: string): boolean;
  /** Every expert is to see every token: for statistics of experts that the router starves. */
  readonly isRoutingBypassed: boolean;
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
  /** Whether it keeps another state from token to token than keys and values. */
  readonly isRecurrent?: boolean;
  /** Where it is a mixture. */
  readonly experts?: RoutedExperts;
  /** The block's forward; returns the new hidden states [rows, state.hidden]. */
  build(context: BlockContext): Value;
}

/**
 * What goes from block to block for each token, a row of numbers: hidden states, and behind them what blocks need that is
 * not made of these: inputs of single blocks that the embedding gives, keys and values that a block leaves for later ones.
 */
export interface StateSpec {
  /** Of a row. */
  readonly width: number;
  /** Of the hidden states in front: hiddenSize, or that of each of several streams, one after the other. */
  readonly hidden: number;
  /** What is carried behind them, in this order. */
  readonly carried: readonly { readonly name: string; readonly width: number }[];
}

/** A state of so wide hidden states, and what is carried with them. */
export function stateOf(hidden: number, carried: StateSpec["carried"] = []): StateSpec {
  return { hidden, carried, width: carried.reduce((sum, { width }) => sum + width, hidden) };
}

/** A table beside the embedding that tokens are looked up in as well. */
export interface SideTable {
  readonly tensor: string;
  /** Tokens beyond the last row have the first one. */
  readonly rows: number;
  readonly width: number;
}

/** From embeddings to the state that enters the first block, where that is more than a look-up. */
export interface PrologueSpec {
  readonly tensors: ReadonlyMap<string, BlockTensor>;
  /** Longest sequence that a table of learned positions has rows for. */
  readonly positionLimit?: number;
  /**
   * @param embedded  [rows, embeddingWidth], and behind it what the side tables have of the token
   * @param positions [rows], 0 … tokens - 1 of each sequence
   * @returns [rows, state.width]
   */
  build(graph: GraphBuilder, embedded: Value, positions: Value, tensor: (role: string) => Value): Value;
}

/** From the last block's hidden states to logits. */
export interface HeadSpec {
  readonly tensors: ReadonlyMap<string, BlockTensor>;
  /** Final norm and what else precedes the projection: hidden [tokens, state.hidden] → [tokens, width]. */
  build(graph: GraphBuilder, hidden: Value, tensor: (role: string) => Value): Value;
  /** Width that the projection reads: hiddenSize, unless `build` projects to another. */
  readonly width: number;
  /** [vocabulary, width]; the embedding where the two are tied. */
  readonly projection: string;
  /** [vocabulary], or undefined. */
  readonly bias?: string;
  /** Logits are multiplied by this; default 1. */
  readonly logitScale?: number;
  /** Then squashed to cap · tanh(logits / cap). */
  readonly softcap?: number;
}

/** Which keys a query sees, besides those of its past. */
export interface AttentionMask {
  /** Position i sees j with i - window < j <= i. */
  readonly window?: number;
  /** Position i sees j of its own chunk of so many positions only. */
  readonly chunk?: number;
  /** ALiBi: slope · (j - i) is added per head. */
  readonly slopes?: readonly number[];
}

export interface Architecture {
  readonly family: string;
  readonly hiddenSize: number;
  readonly vocabularySize: number;
  readonly maxPositions: number;
  /** [vocabulary, embeddingWidth] */
  readonly embedding: string;
  /** hiddenSize, or less where the prologue projects. */
  readonly embeddingWidth: number;
  /** Never pruned nor trained; what a token has of them is for the prologue. */
  readonly sideTables: readonly SideTable[];
  readonly prologue?: PrologueSpec;
  readonly state: StateSpec;
  readonly isHeadTied: boolean;
  readonly rotaryTables: ReadonlyMap<string, RotaryTable>;
  readonly masks: ReadonlyMap<string, AttentionMask>;
  readonly blocks: readonly BlockSpec[];
  readonly head: HeadSpec;
  /** Tensors of its blocks that some files hold although no forward reads them. */
  readonly idleTensors: readonly string[];
}

/** All prunable linears, in order. */
export function prunableLinears(architecture: Architecture): LinearSpec[] {
  return architecture.blocks.flatMap((block) => block.groups.flatMap((group) => group.linears));
}

/** @throws ConfigError E_SEQLEN_POSITIONS when a sequence is longer than the model's learned positions */
export function requirePositions({ prologue }: Architecture, seqlen: number): void {
  const limit = prologue?.positionLimit;
  if (limit === undefined || seqlen <= limit) return;
  throw new ConfigError(
    "E_SEQLEN_POSITIONS",
    `--seqlen ${seqlen}: the model has learned positions for ${limit} tokens only.`,
    {
      hint: `Give --seqlen ${limit} or less.`,
      details: { seqlen, limit },
    },
  );
}

/** The tensor in the checkpoint that holds a linear of this block. */
export function tensorOf(block: BlockSpec, linear: LinearSpec): string {
  const tensor = block.tensors.get(linear.role);
  if (tensor === undefined)
    throw new InternalError("E_ROLE", `${linear.name}: its block has no tensor "${linear.role}"`);
  return tensor.tensor;
}

/** The tensors that hold some of the linears, each once. */
export function tensorsHolding(
  blocks: readonly BlockSpec[],
  isChosen: (linear: LinearSpec) => boolean,
): ReadonlySet<string> {
  const linearsOf = ({ groups }: BlockSpec): LinearSpec[] => groups.flatMap(({ linears }) => linears.filter(isChosen));
  return new Set(blocks.flatMap((block) => linearsOf(block).map((linear) => tensorOf(block, linear))));
}
