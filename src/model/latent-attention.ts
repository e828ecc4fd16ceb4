/**
 * Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1): keys and values of all heads are made from
 * one short latent vector per token, queries optionally from another; positions are in a separate part of each head,
 * whose key all heads share.
 */
import type { Value } from "../graph/graph.js";
import type { BlockContext, InputGroup } from "./architecture.js";
import type { Branch } from "./branch.js";
import {
  applyNorm,
  normShapes,
  project,
  projectionLinears,
  projectionShapes,
  reshape,
  rotate,
  splitLast,
  type Norm,
  type Projection,
} from "./pieces.js";

export interface LatentAttentionSpec {
  readonly hiddenSize: number;
  readonly heads: number;
  /** Dimensions of a head's queries and keys without and with position. */
  readonly plainDim: number;
  readonly rotaryDim: number;
  readonly valueDim: number;
  /** Width of the latent vector of keys and values. */
  readonly keyValueRank: number;
  /** Width of the latent vector of queries; queries are projected directly where absent. */
  readonly queryRank?: number;
  readonly scale: number;
  /** Whether the projections from and to the hidden size have a bias. */
  readonly hasBias: boolean;
  /** Which of the architecture's rotary tables. */
  readonly rotary: string;
  /** Whether dimension 2i is rotated with 2i + 1, not i with i + half. */
  readonly isInterleaved: boolean;
}

/** The latent norms are built with the library's default, whatever the config says of the others. */
const LATENT_NORM: Norm = { kind: "rms", epsilon: 1e-6 };

const QUERY_LATENT = "query-latent";
const KEY_VALUE_LATENT = "key-value-latent";

interface Projections {
  /** From the hidden size: the queries, or their latent vector. */
  readonly query: Projection;
  /** From the queries' latent vector. */
  readonly queryUp: Projection | undefined;
  /** [latent; the rotary key that all heads share] */
  readonly keyValue: Projection;
  /** Per head [plain key; value]. */
  readonly keyValueUp: Projection;
  readonly output: Projection;
}

function projectionsOf(spec: LatentAttentionSpec): Projections {
  const { hiddenSize, heads, plainDim, rotaryDim, valueDim, keyValueRank, queryRank, hasBias } = spec;
  const queries = heads * (plainDim + rotaryDim);
  const at = (name: string, inFeatures: number, outFeatures: number, bias = false): Projection => ({
    path: `self_attn.${name}`,
    inFeatures,
    outFeatures,
    hasBias: bias,
  });
  return {
    query: queryRank === undefined ? at("q_proj", hiddenSize, queries) : at("q_a_proj", hiddenSize, queryRank, hasBias),
    queryUp: queryRank === undefined ? undefined : at("q_b_proj", queryRank, queries),
    keyValue: at("kv_a_proj_with_mqa", hiddenSize, keyValueRank + rotaryDim, hasBias),
    keyValueUp: at("kv_b_proj", keyValueRank, heads * (plainDim + valueDim)),
    output: at("o_proj", heads * valueDim, hiddenSize, hasBias),
  };
}

export function latentAttentionBranch(spec: LatentAttentionSpec): Branch {
  const projections = projectionsOf(spec);
  const { query, queryUp, keyValue, keyValueUp, output } = projections;
  const group = (name: string, stage: number, projection: Projection): InputGroup => ({
    name,
    stage,
    inFeatures: projection.inFeatures,
    linears: projectionLinears(projection),
  });
  const stored = [query, ...(queryUp === undefined ? [] : [queryUp]), keyValue, keyValueUp, output];
  return {
    key: JSON.stringify(spec),
    tensors: [
      ...stored.flatMap(projectionShapes),
      ...(queryUp === undefined ? [] : normShapes(LATENT_NORM, "self_attn.q_a_layernorm", queryUp.inFeatures)),
      ...normShapes(LATENT_NORM, "self_attn.kv_a_layernorm", spec.keyValueRank),
    ],
    reads: [query, keyValue].flatMap(projectionLinears),
    groups: [
      ...(queryUp === undefined ? [] : [group(QUERY_LATENT, 1, queryUp)]),
      group(KEY_VALUE_LATENT, 1, keyValueUp),
      group("attention-output", 2, output),
    ],
    build: (context, input) => buildLatentAttention(context, spec, projections, input),
  };
}

function buildLatentAttention(
  context: BlockContext,
  spec: LatentAttentionSpec,
  { query, queryUp, keyValue, keyValueUp, output }: Projections,
  input: Value,
): Value {
  const { graph, rows } = context;
  const { heads, plainDim, rotaryDim, valueDim, keyValueRank, scale } = spec;
  const perHead = (states: Value, width: number, count = heads): Value => reshape(graph, states, rows, count, width);
  const joinHeads = (states: Value, width: number): Value => reshape(graph, states, rows, heads * width);
  const turn = (states: Value, count: number): Value =>
    rotate(context, states, spec.rotary, { heads: count, dimensions: rotaryDim, isInterleaved: spec.isInterleaved });

  let queries = project(context, query, input);
  if (queryUp !== undefined) {
    const latent = applyNorm(context, LATENT_NORM, "self_attn.q_a_layernorm", queries);
    context.tap(QUERY_LATENT, latent);
    queries = project(context, queryUp, latent);
  }
  const [compressed, rotaryKey] = splitLast(graph, project(context, keyValue, input), [keyValueRank, rotaryDim]);
  const latent = applyNorm(context, LATENT_NORM, "self_attn.kv_a_layernorm", compressed);
  context.tap(KEY_VALUE_LATENT, latent);
  const expanded = perHead(project(context, keyValueUp, latent), plainDim + valueDim);
  const [plainKey, value] = splitLast(graph, expanded, [plainDim, valueDim]);
  const [plainQuery, rotaryQuery] = splitLast(graph, perHead(queries, plainDim + rotaryDim), [plainDim, rotaryDim]);

  const turnedQuery = perHead(turn(joinHeads(rotaryQuery, rotaryDim), heads), rotaryDim);
  const turnedKey = perHead(turn(rotaryKey, 1), rotaryDim, 1);
  const sharedKey = graph.apply("expand", [turnedKey], { shape: [rows, heads, rotaryDim] });
  const together = (plain: Value, turned: Value): Value =>
    joinHeads(graph.apply("concat", [plain, turned], { axis: 2 }), plainDim + rotaryDim);
  const mixed = context.attend(
    together(plainQuery, turnedQuery),
    together(plainKey, sharedKey),
    joinHeads(value, valueDim),
    { heads, keyValueHeads: heads, scale },
  );
  context.tap("attention-output", mixed);
  return project(context, output, mixed);
}
