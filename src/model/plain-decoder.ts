/**
 * Decoders with a plain MLP and layer norms, each with module names of its own: GPT-2 and its relatives. A family
 * fills in names, layouts and positions; everything else is decoder.ts's business.
 */
import type { Architecture, AttentionMask } from "./architecture.js";
import { attentionBranch, queryKeyValueParts, type FusedLayout, type QueryKeyValue } from "./attention.js";
import type { ConfigObject, ModelConfig } from "./config.js";
import { describeDecoder, type EmbeddingPlan, type NormPlaces } from "./decoder.js";
import { readTied, type HasTensor, type HeadCounts } from "./decoder-config.js";
import type { FamilyEdit } from "./family-edit.js";
import type { Family } from "./family.js";
import { plainMlp } from "./mlp.js";
import type { Activation, Norm, Projection } from "./pieces.js";
import type { RotaryTable } from "./rotary.js";

/** Module paths; those of `attention` and `mlp` within a block. */
export interface PlainNames {
  readonly embedding: string;
  readonly layers: string;
  /** One path where q, k and v are fused. */
  readonly queryKeyValue: string | readonly [query: string, key: string, value: string];
  readonly attentionOutput: string;
  readonly up: string;
  readonly down: string;
  /** No norm after the blocks where absent. */
  readonly finalNorm?: string;
  readonly head: string;
}

export interface PlainLayout {
  readonly names: PlainNames;
  readonly hiddenSize: number;
  readonly layers: number;
  readonly heads: HeadCounts;
  /** Of the MLP. */
  readonly width: number;
  readonly maxPositions: number;
  readonly norm: Norm;
  readonly norms: NormPlaces;
  readonly residual: "sequential" | "parallel";
  readonly activation: Activation;
  /** How q, k and v lie in a fused projection (see attention.ts). */
  readonly fusedLayout?: FusedLayout;
  /** Default 1: weights are [out, in]. */
  readonly inputAxis?: 0 | 1;
  /** Default true. */
  readonly hasAttentionBias?: boolean;
  readonly hasMlpBias?: boolean;
  /** Default headDim^-½. */
  readonly scaleOf?: (layer: number) => number;
  readonly rotary?: RotaryTable;
  readonly isRotaryInterleaved?: boolean;
  /** Limit of what queries, keys and values are. */
  readonly clip?: number | undefined;
  readonly slopes?: readonly number[];
  /** Default: embeddings enter block 0 as they are. */
  readonly embedding?: EmbeddingPlan;
  readonly embeddingWidth?: number;
  /** From the hidden size to the embeddings' width. */
  readonly headProjection?: Projection;
  readonly hasHeadBias?: boolean;
  readonly isTiedByDefault?: boolean;
}

export function plainFamily(
  name: string,
  exercises: readonly string[],
  read: (values: ConfigObject) => PlainLayout,
  edit: FamilyEdit = { layers: ["num_hidden_layers"], width: ["intermediate_size"] },
): Family {
  return {
    name,
    modelTypes: [name],
    exercises,
    edit,
    describe: (config, hasTensor) => describePlainDecoder(name, config, hasTensor, read(config.values)),
  };
}

function describePlainDecoder(
  family: string,
  { values }: ModelConfig,
  hasTensor: HasTensor,
  layout: PlainLayout,
): Architecture {
  const { names, norm, hiddenSize, slopes, rotary, embeddingWidth, headProjection } = layout;
  const masks: [string, AttentionMask][] = slopes === undefined ? [] : [["alibi", { slopes }]];
  return describeDecoder({
    family,
    hiddenSize,
    vocabularySize: values.count("vocab_size"),
    maxPositions: layout.maxPositions,
    embedding: {
      ...layout.embedding,
      path: names.embedding,
      ...(embeddingWidth === undefined ? {} : { width: embeddingWidth }),
    },
    rotaryTables: new Map(rotary === undefined ? [] : [["default", rotary]]),
    masks: new Map(masks),
    layersPath: names.layers,
    layers: layout.layers,
    layer: (index) => ({
      norm,
      norms: layout.norms,
      residual: layout.residual,
      attention: attentionOf(layout, index),
      mlp: mlpOf(layout),
    }),
    head: {
      ...(names.finalNorm === undefined ? {} : { norm: { path: names.finalNorm, norm } }),
      ...(headProjection === undefined ? {} : { projection: headProjection }),
      path: names.head,
      isTied: readTied(values, layout.isTiedByDefault ?? false, hasTensor, names.head),
      hasBias: layout.hasHeadBias === true,
    },
  });
}

function attentionOf(layout: PlainLayout, layer: number): ReturnType<typeof attentionBranch> {
  const { heads, hiddenSize, names, rotary, slopes, clip, inputAxis = 1, hasAttentionBias: hasBias = true } = layout;
  const queries = heads.heads * heads.headDim;
  return attentionBranch({
    ...heads,
    scale: layout.scaleOf?.(layer) ?? heads.headDim ** -0.5,
    rotary: rotary === undefined ? undefined : "default",
    ...(rotary === undefined ? {} : { rotaryDimensions: rotary.dimensions }),
    ...(layout.isRotaryInterleaved === true ? { isRotaryInterleaved: true } : {}),
    ...(slopes === undefined ? {} : { mask: "alibi" }),
    ...(clip === undefined ? {} : { clip }),
    input: inputOf(layout),
    output: { path: names.attentionOutput, inFeatures: queries, outFeatures: hiddenSize, hasBias, inputAxis },
  });
}

function inputOf(layout: PlainLayout): QueryKeyValue {
  const { heads, hiddenSize, names, fusedLayout = "stacked", inputAxis = 1, hasAttentionBias: hasBias = true } = layout;
  const queries = heads.heads * heads.headDim;
  const keys = heads.keyValueHeads * heads.headDim;
  const input = (path: string, outFeatures: number): Projection => ({
    path,
    inFeatures: hiddenSize,
    outFeatures,
    hasBias,
    inputAxis,
  });
  if (typeof names.queryKeyValue === "string") {
    const parts = queryKeyValueParts(fusedLayout, heads);
    return { layout: fusedLayout, fused: { ...input(names.queryKeyValue, queries + 2 * keys), parts } };
  }
  const [query, key, value] = names.queryKeyValue;
  return { layout: "separate", query: input(query, queries), key: input(key, keys), value: input(value, keys) };
}

function mlpOf(layout: PlainLayout): ReturnType<typeof plainMlp> {
  const { activation, names, hiddenSize, width, inputAxis = 1, hasMlpBias: hasBias = true } = layout;
  return plainMlp({
    activation,
    up: { path: names.up, inFeatures: hiddenSize, outFeatures: width, hasBias, inputAxis },
    down: { path: names.down, inFeatures: width, outFeatures: hiddenSize, hasBias, inputAxis },
  });
}
