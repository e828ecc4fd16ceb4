/**
 * A decoder-only transformer as a plan: where norms stand in a block, whether its branches follow each other or run
 * side by side, what happens to embeddings before and to hidden states after the blocks. Turning the plan into an
 * architecture is the same for every family; what is read from which config key is not decided here.
 */
import type { Value } from "../graph/graph.js";
import type {
  Architecture,
  AttentionMask,
  BlockContext,
  BlockSpec,
  BlockTensor,
  HeadSpec,
  InputGroup,
  LinearSpec,
  PrologueSpec,
} from "./architecture.js";
import type { Branch } from "./branch.js";
import {
  applyNorm,
  normShapes,
  project,
  projectionShapes,
  scaleBy,
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

export interface LayerPlan {
  readonly norm: Norm;
  readonly norms: NormPlaces;
  /** "sequential": the MLP reads the sum of residual and attention; "parallel": both read the block's input. */
  readonly residual: "sequential" | "parallel";
  /** Of the sum after each branch; default 1. */
  readonly residualFactors?: { readonly attention: ResidualFactors; readonly mlp: ResidualFactors };
  readonly attention: Branch;
  readonly mlp: Branch;
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
}

export function describeDecoder(plan: DecoderPlan): Architecture {
  const { hiddenSize, embedding } = plan;
  const prologue = describePrologue(embedding, hiddenSize);
  return {
    family: plan.family,
    hiddenSize,
    vocabularySize: plan.vocabularySize,
    maxPositions: plan.maxPositions,
    embedding: `${embedding.path}.weight`,
    embeddingWidth: embedding.width ?? hiddenSize,
    ...(prologue === undefined ? {} : { prologue }),
    isHeadTied: plan.head.isTied,
    rotaryTables: plan.rotaryTables ?? new Map(),
    masks: plan.masks ?? new Map(),
    blocks: Array.from({ length: plan.layers }, (_, index) =>
      describeBlock(plan.layer(index), { index, path: `${plan.layersPath}.${index}`, hiddenSize }),
    ),
    head: describeHead(plan),
  };
}

/** Tensors outside blocks go by their whole names. */
function byWholeName(shapes: Shapes): Map<string, BlockTensor> {
  return new Map(shapes.map(([role, shape]) => [role, { tensor: role, shape }]));
}

function describePrologue(plan: EmbeddingPlan, hiddenSize: number): PrologueSpec | undefined {
  const { scale = 1, projection, positions, norm } = plan;
  if (scale === 1 && projection === undefined && positions === undefined && norm === undefined) return undefined;
  const shapes: Shapes = [
    ...(projection === undefined ? [] : projectionShapes(projection)),
    ...(positions === undefined ? [] : [[`${positions.path}.weight`, [positions.count, hiddenSize]] as const]),
    ...(norm === undefined ? [] : normShapes(norm.norm, norm.path, hiddenSize)),
  ];
  return {
    tensors: byWholeName(shapes),
    ...(positions === undefined ? {} : { positionLimit: positions.count - positions.offset }),
    build(graph, embedded, positionIds, tensor) {
      const context: PieceContext = { graph, tensor };
      let states = scaleBy(graph, embedded, scale);
      if (projection !== undefined) states = project(context, projection, states);
      if (positions !== undefined) {
        const rows = graph.apply("add", [positionIds, graph.integers([positions.offset], [])]);
        states = graph.apply("add", [states, graph.apply("gather", [tensor(`${positions.path}.weight`), rows])]);
      }
      return norm === undefined ? states : applyNorm(context, norm.norm, norm.path, states);
    },
  };
}

function describeHead({ head, hiddenSize, embedding }: DecoderPlan): HeadSpec {
  const { norm, projection, logitScale, softcap } = head;
  return {
    tensors: byWholeName([
      ...(norm === undefined ? [] : normShapes(norm.norm, norm.path, hiddenSize)),
      ...(projection === undefined ? [] : projectionShapes(projection)),
    ]),
    build(graph, hidden, tensor) {
      const context: PieceContext = { graph, tensor };
      const normed = norm === undefined ? hidden : applyNorm(context, norm.norm, norm.path, hidden);
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
  const { norm, norms, residual, residualFactors, attention, mlp } = plan;
  const isRecurrent = [attention, mlp].some((branch) => branch.isRecurrent === true);
  const shapes: Shapes = [...new Set(Object.values(norms) as string[])].flatMap((place) =>
    normShapes(norm, place, hiddenSize),
  );
  const tensors = new Map(
    [...shapes, ...attention.tensors, ...mlp.tensors].map(([role, shape]) => [
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
  const { attention, mlp, residual } = plan;
  const group = (name: string, linears: readonly LinearSpec[]): InputGroup[] =>
    linears.length === 0 ? [] : [{ name, stage: 0, inFeatures: linears[0]?.inFeatures ?? 0, linears }];
  const later = (groups: readonly InputGroup[], offset: number): InputGroup[] =>
    groups.map((entry) => ({ ...entry, stage: entry.stage + offset }));
  const inputs = isInputShared(plan)
    ? group("block-input", [...attention.reads, ...mlp.reads])
    : group("attention-input", attention.reads);
  const mlpGroups = isInputShared(plan) ? mlp.groups : [...group("mlp-input", mlp.reads), ...mlp.groups];
  const attentionStages = 1 + Math.max(0, ...attention.groups.map(({ stage }) => stage));
  return [...inputs, ...attention.groups, ...later(mlpGroups, residual === "parallel" ? 0 : attentionStages)]
    .toSorted((a, b) => a.stage - b.stage)
    .map((entry) => ({
      ...entry,
      linears: entry.linears.map((linear) => ({ ...linear, name: `${path}.${linear.name}` })),
    }));
}

function buildBlock(plan: LayerPlan, context: BlockContext): Value {
  const { graph } = context;
  const { norms, attention, mlp, residual } = plan;
  const norm = (place: string | undefined, value: Value): Value =>
    place === undefined ? value : applyNorm(context, plan.norm, place, value);
  const add = (sum: Value, branch: Value, factors: ResidualFactors = { kept: 1, added: 1 }): Value =>
    graph.apply("add", [scaleBy(graph, sum, factors.kept), scaleBy(graph, branch, factors.added)]);

  const input = norm(norms.onInput, context.hidden);
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
