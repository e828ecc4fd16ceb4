/**
 * The layout that most families share with llama (q, k, v, o, gate, up, down under `model.layers.N`), and what they
 * change in it, as data. Families with other module names plan their decoder themselves (decoder.ts).
 */
import type { Architecture, AttentionMask } from "./architecture.js";
import {
  attentionBranch,
  gatedQueryParts,
  queryKeyValueParts,
  type AttentionSpec,
  type HeadNorm,
  type QueryKeyValue,
  type QueryGrowth,
} from "./attention.js";
import type { Branch } from "./branch.js";
import type { ConfigObject, ModelConfig } from "./config.js";
import { describeDecoder, type LayerPlan, type NormPlaces, type StreamsPlan, type Surround } from "./decoder.js";
import {
  readActivation,
  readHeads,
  readTied,
  type HasTensor,
  type HeadCounts,
  type WindowOf,
} from "./decoder-config.js";
import { DECODER_EDIT, type FamilyEdit } from "./family-edit.js";
import type { Family } from "./family.js";
import { gatedMlp } from "./mlp.js";
import { gateUpParts, type Activation, type Norm, type Projection } from "./pieces.js";
import { readRotaryTable, type RotaryTable } from "./rotary.js";

/** What a family changes; everything absent is as in llama. */
export interface GatedVariations {
  /** Default: RMS with `rms_norm_eps`. */
  readonly norm?: Norm;
  readonly norms?: NormPlaces;
  readonly residual?: "sequential" | "parallel";
  readonly residualFactorsOf?: (layer: number) => LayerPlan["residualFactors"];
  /** Biases of q, k, v; default: `attention_bias`. */
  readonly hasInputBias?: boolean;
  /** Default: `attention_bias`. */
  readonly hasOutputBias?: boolean;
  /** Default: `mlp_bias`. */
  readonly hasMlpBias?: boolean;
  /** Default: `hidden_act`, which must be known. */
  readonly activation?: Activation | undefined;
  readonly heads?: HeadCounts;
  /** Default headDim^-½. */
  readonly attentionScale?: number;
  readonly attentionSoftcap?: number | undefined;
  readonly headNorm?: HeadNorm | undefined;
  /** A layer's norm of heads in place of `headNorm`. */
  readonly headNormOf?: (layer: number) => HeadNorm | undefined;
  readonly valueNorm?: Norm;
  /** Keys and values that a layer leaves for later ones, or takes from an earlier one instead of making its own. */
  readonly sharedOf?: (layer: number) => SharedKeys | undefined;
  readonly queryGrowthOf?: (layer: number) => QueryGrowth | undefined;
  /** Whether q_proj also has gates of what attention returns, see AttentionSpec. */
  readonly hasOutputGate?: boolean;
  /** Module path of the sinks of attention. */
  readonly sinks?: string;
  /** Whether q, k, v are one tensor and gate, up another. */
  readonly isFused?: boolean;
  /** Whether gate and up are one tensor; default `isFused`. */
  readonly isGateUpFused?: boolean;
  /** Limit of what queries, keys and values are. */
  readonly clip?: number | undefined;
  /** Default: one table, over the whole head. */
  readonly rotaryTables?: ReadonlyMap<string, RotaryTable>;
  /** Which table a layer uses, or undefined for no positions; default "default". */
  readonly rotaryOf?: (layer: number) => string | undefined;
  readonly isRotaryInterleaved?: boolean;
  readonly windowOf?: WindowOf;
  /** Size of the chunks within which a layer's tokens see each other, or undefined where there are none. */
  readonly chunkOf?: (layer: number) => number | undefined;
  readonly embeddingScale?: number;
  readonly logitScale?: number;
  readonly logitSoftcap?: number | undefined;
  readonly hasHeadBias?: boolean;
  readonly isTiedByDefault?: boolean;
  /** A layer's own attention in place of the usual one. */
  readonly attentionOf?: (layer: number, usual: () => Branch) => Branch | undefined;
  /** A layer's own MLP in place of the dense one. */
  readonly mlpOf?: (layer: number, dense: () => Branch) => Branch;
  readonly aroundOf?: (layer: number) => Surround;
  readonly streams?: StreamsPlan;
  readonly idleTensors?: readonly string[];
}

/** See AttentionSpec. */
export interface SharedKeys {
  readonly names: NonNullable<AttentionSpec["shared"]>;
  readonly isTaken: boolean;
}

/** x + attention(norm(x)), then x + mlp(norm(x)). */
export const PRE_NORM: NormPlaces = { beforeAttention: "input_layernorm", beforeMlp: "post_attention_layernorm" };

/** x + norm(attention(x)), then x + norm(mlp(x)). */
export const POST_NORM: NormPlaces = {
  afterAttention: "post_attention_layernorm",
  afterMlp: "post_feedforward_layernorm",
};

/** The norm of all families that do not say otherwise. */
export function readRmsNorm(values: ConfigObject, epsilon = 1e-6): Norm {
  return { kind: "rms", epsilon: values.number("rms_norm_eps", epsilon) };
}

/** q, k and v per head, before rotation, as several families name them. */
export function perHeadNorm(norm: Norm, gain: HeadNorm["gain"] = "shared"): HeadNorm {
  return { norm, query: "self_attn.q_norm", key: "self_attn.k_norm", gain };
}

/** A family that is this layout with variations. */
export function gatedFamily(
  name: string,
  exercises: readonly string[],
  vary: (values: ConfigObject) => GatedVariations,
  edit: Partial<FamilyEdit> = {},
): Family {
  return {
    name,
    modelTypes: [name],
    exercises,
    edit: { ...DECODER_EDIT, ...edit },
    describe: (config, hasTensor) => describeGatedDecoder(name, config, hasTensor, vary(config.values)),
  };
}

export function describeGatedDecoder(
  family: string,
  { values }: ModelConfig,
  hasTensor: HasTensor,
  variations: GatedVariations,
): Architecture {
  const { norm = readRmsNorm(values), norms = PRE_NORM, windowOf = () => undefined } = variations;
  const hiddenSize = values.count("hidden_size");
  const layers = values.count("num_hidden_layers");
  const heads = variations.heads ?? readHeads(values, hiddenSize);
  const rotaryTables = variations.rotaryTables ?? new Map([["default", readRotaryTable(values, heads.headDim)]]);
  const masks = new Map<string, AttentionMask>();
  for (let layer = 0; layer < layers; layer++) {
    const window = windowOf(layer);
    if (window !== undefined) masks.set(`window-${window}`, { window });
    const chunk = variations.chunkOf?.(layer);
    if (chunk !== undefined) masks.set(`chunk-${chunk}`, { chunk });
  }
  const dense = (): Branch => denseMlp(values, hiddenSize, variations);
  return describeDecoder({
    family,
    hiddenSize,
    vocabularySize: values.count("vocab_size"),
    maxPositions: values.count("max_position_embeddings", 2048),
    embedding: { path: "model.embed_tokens", ...given("scale", variations.embeddingScale) },
    rotaryTables,
    masks,
    layersPath: "model.layers",
    layers,
    layer: (index) => {
      const usual = (): Branch => usualAttention({ values, hiddenSize, heads, rotaryTables, variations }, index);
      return {
        norm,
        norms,
        residual: variations.residual ?? "sequential",
        ...given("residualFactors", variations.residualFactorsOf?.(index)),
        attention: variations.attentionOf?.(index, usual) ?? usual(),
        mlp: variations.mlpOf?.(index, dense) ?? dense(),
        ...given("around", variations.aroundOf?.(index)),
      };
    },
    ...given("streams", variations.streams),
    ...given("idleTensors", variations.idleTensors),
    head: {
      norm: { path: "model.norm", norm },
      path: "lm_head",
      isTied: readTied(values, variations.isTiedByDefault ?? false, hasTensor, "lm_head"),
      ...given("hasBias", variations.hasHeadBias),
      ...given("logitScale", variations.logitScale),
      ...given("softcap", variations.logitSoftcap),
    },
  });
}

/** An optional entry of an object: nothing where the value is undefined. */
function given<Key extends string, Item>(key: Key, value: Item | undefined): { readonly [K in Key]?: Item } {
  return value === undefined ? {} : ({ [key]: value } as { readonly [K in Key]?: Item });
}

interface AttentionContext {
  readonly values: ConfigObject;
  readonly hiddenSize: number;
  readonly heads: HeadCounts;
  readonly rotaryTables: ReadonlyMap<string, RotaryTable>;
  readonly variations: GatedVariations;
}

function usualAttention(context: AttentionContext, layer: number): Branch {
  const { values, hiddenSize, heads, rotaryTables, variations } = context;
  const hasBias = values.boolean("attention_bias", false);
  const { hasInputBias = hasBias, hasOutputBias = hasBias, windowOf, rotaryOf } = variations;
  const queries = heads.heads * heads.headDim;
  const keys = heads.keyValueHeads * heads.headDim;
  const input = (path: string, outFeatures: number): Projection => ({
    path: `self_attn.${path}`,
    inFeatures: hiddenSize,
    outFeatures,
    hasBias: hasInputBias,
  });
  const rotary = rotaryOf === undefined ? "default" : rotaryOf(layer);
  const [window, chunk] = [windowOf?.(layer), variations.chunkOf?.(layer)];
  const headNorm = variations.headNormOf?.(layer) ?? variations.headNorm;
  const shared = variations.sharedOf?.(layer);
  const inputOf = (): QueryKeyValue => {
    if (shared?.isTaken === true) return { layout: "queries", query: input("q_proj", queries) };
    if (variations.isFused === true) {
      const fused = { ...input("qkv_proj", queries + 2 * keys), parts: queryKeyValueParts("stacked", heads) };
      return { layout: "stacked", fused };
    }
    const query =
      variations.hasOutputGate === true
        ? { ...input("q_proj", 2 * queries), parts: gatedQueryParts(heads) }
        : input("q_proj", queries);
    return { layout: "separate", query, key: input("k_proj", keys), value: input("v_proj", keys) };
  };
  return attentionBranch({
    ...heads,
    scale: variations.attentionScale ?? heads.headDim ** -0.5,
    ...given("softcap", variations.attentionSoftcap),
    rotary,
    ...given("rotaryDimensions", rotary === undefined ? undefined : rotaryTables.get(rotary)?.dimensions),
    ...given("isRotaryInterleaved", variations.isRotaryInterleaved),
    ...given("mask", window === undefined ? undefined : `window-${window}`),
    ...given("mask", chunk === undefined ? undefined : `chunk-${chunk}`),
    input: inputOf(),
    ...given("headNorm", headNorm),
    ...given("valueNorm", variations.valueNorm),
    ...given("shared", shared?.names),
    ...given("clip", variations.clip),
    ...given("queryGrowth", variations.queryGrowthOf?.(layer)),
    ...given("sinks", variations.sinks),
    ...given("hasOutputGate", variations.hasOutputGate),
    output: { path: "self_attn.o_proj", inFeatures: queries, outFeatures: hiddenSize, hasBias: hasOutputBias },
  });
}

function denseMlp(values: ConfigObject, hiddenSize: number, variations: GatedVariations): Branch {
  const hasBias = variations.hasMlpBias ?? values.boolean("mlp_bias", false);
  const { activation = readActivation(values, "hidden_act", "silu") } = variations;
  const width = values.count("intermediate_size");
  const down: Projection = { path: "mlp.down_proj", inFeatures: width, outFeatures: hiddenSize, hasBias };
  const input = (path: string, outFeatures: number): Projection => ({
    path,
    inFeatures: hiddenSize,
    outFeatures,
    hasBias,
  });
  if ((variations.isGateUpFused ?? variations.isFused) !== true)
    return gatedMlp({ activation, down, gate: input("mlp.gate_proj", width), up: input("mlp.up_proj", width) });
  return gatedMlp({ activation, down, gateUp: { ...input("mlp.gate_up_proj", 2 * width), parts: gateUpParts(width) } });
}
