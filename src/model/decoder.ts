/**
 * A decoder-only transformer as a plan: where norms stand in a block, whether its branches follow each other or run
 * side by side, what happens to embeddings before and to hidden states after the blocks. Turning the plan into an
 * architecture is the same for every family; what is read from which config key is not decided here.
 */
import { CheckpointError } from "../errors.js";
import type { Value } from "../graph/graph.js";
import {
  stateOf,
  type Architecture,
  type AttentionMask,
  type BlockContext,
  type BlockSpec,
  type BlockTensor,
  type HeadSpec,
  type InputGroup,
  type LinearSpec,
  type PrologueSpec,
  type StateSpec,
} from "./architecture.js";
import type { Branch } from "./branch.js";
import {
  applyNorm,
  normShapes,
  project,
  projectionShapes,
  scaleBy,
  splitLast,
  type Norm,
  type PieceContext,
  type Projection,
  type Shapes,
} from "./pieces.js";
import type { RotaryTable } from "./rotary.js";

/** Module paths, within the block, of the norms at each place; no norm where absent. */
export interface NormPlaces {
  /** On what enters the block, before anything else: also what residuals are added to. */
  readonly onInput?: string;
  readonly beforeAttention?: string;
  /** On what attention returns, before it is added. */
  readonly afterAttention?: string;
  /** On the sum. */
  readonly onAttentionSum?: string;
  /** In a parallel block the same path as `beforeAttention` means: one input for both branches. */
  readonly beforeMlp?: string;
  readonly afterMlp?: string;
  readonly onMlpSum?: string;
}

/** A residual sum: kept · what there was + added · what the branch returns. */
export interface ResidualFactors {
  readonly kept: number;
  readonly added: number;
}

/**
 * What stands around a block's branches where hidden states are several streams: from all of them to the one that the
 * branches work on, and back.
 */
export interface Surround {
  /** Surrounds with the same key write the same graph. */
  readonly key: string;
  /** Shapes by role. */
  readonly tensors: Shapes;
  /** Groups that it taps behind the branches, whose stages count from 0; names are relative to the block. */
  readonly groups: readonly InputGroup[];
  /**
   * From hidden states [rows, state.hidden] to new ones.
   * @param inner the branches, of one stream: [rows, hiddenSize] to the same
   */
  build(context: BlockContext, inner: (stream: Value) => Value): Value;
}

/** How embeddings become a state of more than one stream, and what leaves the last block one again. */
export interface StreamsPlan {
  readonly state: StateSpec;
  /** Paths as in the checkpoint, without ".weight". */
  readonly sideTables: readonly { readonly path: string; readonly rows: number; readonly width: number }[];
  readonly enter: {
    readonly tensors: Shapes;
    /**
     * @param embedded [rows, hiddenSize]
     * @param sides    what the side tables have, one after the other; undefined without any
     * @returns [rows, state.width]
     */
    build(context: PieceContext, embedded: Value, sides: Value | undefined): Value;
  };
  readonly leave: {
    readonly tensors: Shapes;
    /** [tokens, state.hidden] to [tokens, hiddenSize], in front of the final norm. */
    build(context: PieceContext, hidden: Value): Value;
  };
}

export interface LayerPlan {
  readonly norm: Norm;
  readonly norms: NormPlaces;
  /** "sequential": the MLP reads the sum of residual and attention; "parallel": both read the block's input. */
  readonly residual: "sequential" | "parallel";
  /** Of the sum after each branch; default 1. */
  readonly residualFactors?: { readonly attention: ResidualFactors; readonly mlp: ResidualFactors };
  readonly attention: Branch;
  readonly mlp: Branch;
  /** Of a model whose plan has streams. */
  readonly around?: Surround;
}

/** From embeddings to block 0, in this order. */
export interface EmbeddingPlan {
  readonly scale?: number;
  /** To the hidden size, where embeddings are narrower. */
  readonly projection?: Projection;
  /** A learned row per position: row = position + offset. */
  readonly positions?: { readonly path: string; readonly count: number; readonly offset: number };
  readonly norm?: { readonly path: string; readonly norm: Norm };
}

export interface HeadPlan {
  readonly norm?: { readonly path: string; readonly norm: Norm };
  /** From the hidden size to the embeddings' width. */
  readonly projection?: Projection;
  /** Module path of the projection to the vocabulary; not read where it is tied to the embedding. */
  readonly path: string;
  readonly isTied: boolean;
  readonly hasBias?: boolean;
  readonly logitScale?: number;
  readonly softcap?: number;
}

export interface DecoderPlan {
  readonly family: string;
  readonly hiddenSize: number;
  readonly vocabularySize: number;
  readonly maxPositions: number;
  readonly embedding: { readonly path: string; readonly width?: number } & EmbeddingPlan;
  readonly rotaryTables?: ReadonlyMap<string, RotaryTable>;
  readonly masks?: ReadonlyMap<string, AttentionMask>;
  /** Blocks are <path>.0, <path>.1, … */
  readonly layersPath: string;
  readonly layers: number;
  layer(index: number): LayerPlan;
  readonly head: HeadPlan;
  /** Default: one stream, and nothing beside it. */
  readonly streams?: StreamsPlan;
  /** Tensors that some files hold although no forward reads them. */
  readonly idleTensors?: readonly string[];
}

/** Linears and tensors of all blocks together: three times those of the largest public models. */
const MOST_DESCRIBED = 300_000;

/** @throws CheckpointError E_CONFIG where the config asks for more than any model has */
export function describeDecoder(plan: DecoderPlan): Architecture {
  const { hiddenSize, embedding, streams } = plan;
  const prologue = describePrologue(embedding, hiddenSize, streams);
  return {
    family: plan.family,
    hiddenSize,
    vocabularySize: plan.vocabularySize,
    maxPositions: plan.maxPositions,
    embedding: `${embedding.path}.weight`,
    embeddingWidth: embedding.width ?? hiddenSize,
    sideTables: (streams?.sideTables ?? []).map(({ path, ...size }) => ({ tensor: `${path}.weight`, ...size })),
    state: streams?.state ?? stateOf(hiddenSize),
    idleTensors: plan.idleTensors ?? [],
    ...(prologue === undefined ? {} : { prologue }),
    isHeadTied: plan.head.isTied,
    rotaryTables: plan.rotaryTables ?? new Map(),
    masks: plan.masks ?? new Map(),
    blocks: describeBlocks(plan),
    head: describeHead(plan),
  };
}

function describeBlocks(plan: DecoderPlan): BlockSpec[] {
  const { layers, layersPath, hiddenSize } = plan;
  const blocks: BlockSpec[] = [];
  let described = 0;
  for (let index = 0; index < layers; index++) {
    const block = describeBlock(plan.layer(index), { index, path: `${layersPath}.${index}`, hiddenSize });
    described += block.groups.reduce((sum, { linears }) => sum + linears.length, block.tensors.size);
    if (described > MOST_DESCRIBED)
      throw new CheckpointError(
        "E_CONFIG",
        `config.json: ${layers} layers have over ${MOST_DESCRIBED} linears and tensors; no model has so many.`,
        { details: { layers, limit: MOST_DESCRIBED } },
      );
    blocks.push(block);
  }
  return blocks;
}

/** Tensors outside blocks go by their whole names. */
function byWholeName(shapes: Shapes): Map<string, BlockTensor> {
  return new Map(shapes.map(([role, shape]) => [role, { tensor: role, shape }]));
}

function describePrologue(
  plan: DecoderPlan["embedding"],
  hiddenSize: number,
  streams: StreamsPlan | undefined,
): PrologueSpec | undefined {
  const { scale = 1, projection, positions, norm, width = hiddenSize } = plan;
  const isLookUp = scale === 1 && projection === undefined && positions === undefined && norm === undefined;
  if (isLookUp && streams === undefined) return undefined;
  const shapes: Shapes = [
    ...(projection === undefined ? [] : projectionShapes(projection)),
    ...(positions === undefined ? [] : [[`${positions.path}.weight`, [positions.count, hiddenSize]] as const]),
    ...(norm === undefined ? [] : normShapes(norm.norm, norm.path, hiddenSize)),
    ...(streams?.enter.tensors ?? []),
  ];
  return {
    tensors: byWholeName(shapes),
    ...(positions === undefined ? {} : { positionLimit: positions.count - positions.offset }),
    build(graph, slots, positionIds, tensor) {
      const context: PieceContext = { graph, tensor };
      const beside = (slots.shape[1] as number) - width;
      const [embedded, sides] = beside === 0 ? [slots] : splitLast(graph, slots, [width, beside]);
      let states = scaleBy(graph, embedded, scale);
      if (projection !== undefined) states = project(context, projection, states);
      if (positions !== undefined) {
        const rows = graph.apply("add", [positionIds, graph.integers([positions.offset], [])]);
        states = graph.apply("add", [states, graph.apply("gather", [tensor(`${positions.path}.weight`), rows])]);
      }
      if (norm !== undefined) states = applyNorm(context, norm.norm, norm.path, states);
      return streams === undefined ? states : streams.enter.build(context, states, sides);
    },
  };
}

function describeHead({ head, hiddenSize, embedding, streams }: DecoderPlan): HeadSpec {
  const { norm, projection, logitScale, softcap } = head;
  return {
    tensors: byWholeName([
      ...(streams?.leave.tensors ?? []),
      ...(norm === undefined ? [] : normShapes(norm.norm, norm.path, hiddenSize)),
      ...(projection === undefined ? [] : projectionShapes(projection)),
    ]),
    build(graph, hidden, tensor) {
      const context: PieceContext = { graph, tensor };
      const stream = streams === undefined ? hidden : streams.leave.build(context, hidden);
      const normed = norm === undefined ? stream : applyNorm(context, norm.norm, norm.path, stream);
      return projection === undefined ? normed : project(context, projection, normed);
    },
    width: projection?.outFeatures ?? hiddenSize,
    projection: `${head.isTied ? embedding.path : head.path}.weight`,
    ...(head.hasBias === true ? { bias: `${head.path}.bias` } : {}),
    ...(logitScale === undefined ? {} : { logitScale }),
    ...(softcap === undefined ? {} : { softcap }),
  };
}

interface BlockPlace {
  readonly index: number;
  readonly path: string;
  readonly hiddenSize: number;
}

function describeBlock(plan: LayerPlan, { index, path, hiddenSize }: BlockPlace): BlockSpec {
  const { norm, norms, residual, residualFactors, attention, mlp, around } = plan;
  const isRecurrent = [attention, mlp].some((branch) => branch.isRecurrent === true);
  const shapes: Shapes = [...new Set(Object.values(norms) as string[])].flatMap((place) =>
    normShapes(norm, place, hiddenSize),
  );
  const tensors = new Map(
    [...shapes, ...attention.tensors, ...mlp.tensors, ...(around?.tensors ?? [])].map(([role, shape]) => [
      role,
      { tensor: `${path}.${role}`, shape },
    ]),
  );
  return {
    index,
    name: path,
    shapeKey: JSON.stringify({
      norm,
      norms,
      residual,
      residualFactors,
      attention: attention.key,
      mlp: mlp.key,
      around: around?.key,
    }),
    tensors,
    groups: groupsOf(plan, path),
    ...(isRecurrent ? { isRecurrent } : {}),
    ...(mlp.experts === undefined ? {} : { experts: mlp.experts }),
    build: (context) => buildBlock(plan, context),
  };
}

function isInputShared({ residual, norms }: LayerPlan): boolean {
  return residual === "parallel" && norms.beforeAttention === norms.beforeMlp;
}

/** The branches' groups in the order of the block, with names in full. */
function groupsOf(plan: LayerPlan, path: string): InputGroup[] {
  const { attention, mlp, residual, around } = plan;
  const group = (name: string, linears: readonly LinearSpec[]): InputGroup[] =>
    linears.length === 0 ? [] : [{ name, stage: 0, inFeatures: linears[0]?.inFeatures ?? 0, linears }];
  const later = (groups: readonly InputGroup[], offset: number): InputGroup[] =>
    groups.map((entry) => ({ ...entry, stage: entry.stage + offset }));
  const inputs = isInputShared(plan)
    ? group("block-input", [...attention.reads, ...mlp.reads])
    : group("attention-input", attention.reads);
  const mlpGroups = isInputShared(plan) ? mlp.groups : [...group("mlp-input", mlp.reads), ...mlp.groups];
  const attentionStages = 1 + Math.max(0, ...attention.groups.map(({ stage }) => stage));
  const ofBranches = [
    ...[...inputs, ...attention.groups],
    ...later(mlpGroups, residual === "parallel" ? 0 : attentionStages),
  ];
  const stages = 1 + Math.max(0, ...ofBranches.map(({ stage }) => stage));
  return [...ofBranches, ...later(around?.groups ?? [], stages)]
    .toSorted((a, b) => a.stage - b.stage)
    .map((entry) => ({
      ...entry,
      linears: entry.linears.map((linear) => ({ ...linear, name: `${path}.${linear.name}` })),
    }));
}

function buildBlock(plan: LayerPlan, context: BlockContext): Value {
  const inner = (stream: Value): Value => buildBranches(plan, context, stream);
  return plan.around === undefined ? inner(context.hidden) : plan.around.build(context, inner);
}

/** @param stream [rows, hiddenSize] */
function buildBranches(plan: LayerPlan, context: BlockContext, stream: Value): Value {
  const { graph } = context;
  const { norms, attention, mlp, residual } = plan;
  const norm = (place: string | undefined, value: Value): Value =>
    place === undefined ? value : applyNorm(context, plan.norm, place, value);
  const add = (sum: Value, branch: Value, factors: ResidualFactors = { kept: 1, added: 1 }): Value =>
    graph.apply("add", [scaleBy(graph, sum, factors.kept), scaleBy(graph, branch, factors.added)]);

  const input = norm(norms.onInput, stream);
  const attentionInput = norm(norms.beforeAttention, input);
  context.tap(isInputShared(plan) ? "block-input" : "attention-input", attentionInput);
  const mixed = norm(norms.afterAttention, attention.build(context, attentionInput));
  const attended = add(input, mixed, plan.residualFactors?.attention);
  const sum = norm(norms.onAttentionSum, attended);

  const mlpSource = residual === "parallel" ? input : sum;
  const mlpInput = isInputShared(plan) ? attentionInput : norm(norms.beforeMlp, mlpSource);
  if (!isInputShared(plan)) context.tap("mlp-input", mlpInput);
  const made = norm(norms.afterMlp, mlp.build(context, mlpInput));
  return norm(norms.onMlpSum, add(sum, made, plan.residualFactors?.mlp));
}
