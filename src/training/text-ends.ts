/**
 * Both ends of a model in training on text: the embedding and the head, trained or as the checkpoint has them, and what a
 * teacher says of the same tokens.
 */
import type { HostArray, NdArray } from "../array.js";
import type { HiddenStates } from "../forward/hidden-states.js";
import { readArrays } from "../forward/weights.js";
import type { Batch } from "../forward/stream.js";
import type { Architecture } from "../model/architecture.js";
import type { Checkpoint } from "../checkpoint/checkpoint.js";
import type { EmbeddingGradient, EmbeddingSinks, EmbeddingTensors } from "./embedding-gradient.js";
import { nextTokens, readHead, type HeadGradient, type HeadSinks, type HeadTensors } from "./head-gradient.js";
import type { HeadLoss, ModelEnds } from "./model-gradients.js";
import type { Parameters, ParameterSpec } from "./parameters.js";
import type { Access, ParameterGroup, ParameterStore } from "./parameter-store.js";

/** Names of the ends' groups of parameters. */
const EMBEDDING = "embedding";
const HEAD = "head";
/** Names in these groups beside roles of the prologue and of the head, which are prefixed. */
const TABLE = "table";
const PROJECTION = "projection";
const BIAS = "bias";
const ROLE = "role:";

/** What both ends compute with. */
export interface EndTensors {
  readonly embedding: EmbeddingTensors;
  readonly head: HeadTensors;
}

/** As a checkpoint has them; a table that is tied to the projection is there once. */
export async function readEnds(checkpoint: Checkpoint, architecture: Architecture): Promise<EndTensors> {
  const { embedding, prologue } = architecture;
  const head = await readHead({ checkpoint, architecture });
  const table = isTied(architecture) ? head.projection : await checkpoint.readTensor(embedding);
  const tensors = await readArrays(checkpoint, prologue?.tensors ?? new Map());
  return { embedding: { table, tensors }, head };
}

function isTied({ embedding, head }: Architecture): boolean {
  return embedding === head.projection;
}

/** Groups of parameters for training the ends. */
export function endGroups(checkpoint: Checkpoint, architecture: Architecture): ParameterGroup[] {
  const { vocabularySize, embeddingWidth, prologue, head } = architecture;
  const spec = async (name: string, tensor: string, shape: readonly number[]): Promise<ParameterSpec> => {
    return { name, shape, values: await checkpoint.readTensor(tensor), isMasked: false };
  };
  const roles = (some: ReadonlyMap<string, { readonly tensor: string; readonly shape: readonly number[] }>) =>
    [...some].map(([role, { tensor, shape }]) => spec(`${ROLE}${role}`, tensor, shape));
  return [
    {
      name: EMBEDDING,
      load: async () => [
        await spec(TABLE, architecture.embedding, [vocabularySize, embeddingWidth]),
        ...(await Promise.all(roles(prologue?.tensors ?? new Map()))),
      ],
    },
    {
      name: HEAD,
      load: async () => [
        ...(await Promise.all(roles(head.tensors))),
        ...(isTied(architecture) ? [] : [await spec(PROJECTION, head.projection, [vocabularySize, head.width])]),
        ...(head.bias === undefined ? [] : [await spec(BIAS, head.bias, [vocabularySize])]),
      ],
    },
  ];
}

/** The name in the checkpoint of a parameter of such a group; undefined for groups of blocks. */
export function tensorOfEnd(
  { embedding, prologue, head }: Architecture,
  group: string,
  parameter: string,
): string | undefined {
  if (group !== EMBEDDING && group !== HEAD) return undefined;
  const tensors = group === EMBEDDING ? prologue?.tensors : head.tensors;
  if (parameter.startsWith(ROLE)) return tensors?.get(parameter.slice(ROLE.length))?.tensor;
  return { [TABLE]: embedding, [PROJECTION]: head.projection, [BIAS]: head.bias }[parameter];
}

/** What leaves the last block of the model that a loss compares with. */
export interface Teacher {
  readonly head: HeadTensors;
  /** Of sequences of the step, by index, [sequences * tokens, state.width]; the caller's. */
  hidden(first: number, count: number): Promise<NdArray>;
}

export interface TextEndsOptions {
  readonly architecture: Architecture;
  readonly embedding: EmbeddingGradient;
  readonly head: HeadGradient;
  /** What is not trained; absent where both ends are, in groups of this store. */
  readonly fixed: EndTensors | undefined;
  readonly store: ParameterStore;
  readonly teacher: Teacher | undefined;
  /** Share of the divergence from the teacher in the loss. */
  readonly distillation: number;
}

export class TextEnds implements ModelEnds {
  readonly #options: TextEndsOptions;
  #sequences: readonly Int32Array[] = [];

  constructor(options: TextEndsOptions) {
    this.#options = options;
  }

  /** @param sequences of the next step: token ids, of one length */
  choose(sequences: readonly Int32Array[]): void {
    this.#sequences = sequences;
  }

  async embed(states: HiddenStates): Promise<void> {
    const { embedding, fixed, store } = this.#options;
    if (fixed !== undefined) return embedding.fill(fixed.embedding, this.#sequences, states);
    await store.use(EMBEDDING, { reads: ["values"] }, (own) =>
      embedding.fill(embeddingOf(own), this.#sequences, states),
    );
  }

  async atHead<Result>(isTraining: boolean, work: (loss: HeadLoss) => Promise<Result>): Promise<Result> {
    const { architecture, fixed, store } = this.#options;
    if (fixed !== undefined) return work((batch, hidden) => this.#loss(fixed.head, undefined, batch, hidden));
    const access: Access = { reads: ["values"], writes: isTraining ? ["gradient"] : [] };
    const withHead = (table: Parameters | undefined): Promise<Result> =>
      store.use(HEAD, access, (own) => {
        if (isTraining) for (const each of [own, table]) clear(each);
        return work((batch, hidden) =>
          this.#loss(headOf(own, table), isTraining ? [own, table] : undefined, batch, hidden),
        );
      });
    return isTied(architecture) ? store.use(EMBEDDING, access, withHead) : withHead(undefined);
  }

  async atEmbedding(
    work: (take: (batch: Batch, gradient: NdArray) => Promise<void>) => Promise<void>,
  ): Promise<number> {
    const { architecture, embedding, fixed, store } = this.#options;
    if (fixed !== undefined) return 0;
    // Where they are tied the table has the projection's gradient already.
    const reads = isTied(architecture) ? (["values", "gradient"] as const) : (["values"] as const);
    const squares = await store.use(EMBEDDING, { reads, writes: ["gradient"] }, async (own) => {
      if (!isTied(architecture)) clear(own);
      await work(async ({ first, count }, gradient) =>
        embedding.run(embeddingOf(own), this.#sequences.slice(first, first + count), gradient, gradientsOf(own)),
      );
      return finish(own);
    });
    return squares + (await store.use(HEAD, { reads: ["gradient"] }, finish));
  }

  async #loss(
    tensors: HeadTensors,
    trained: readonly [own: Parameters, table: Parameters | undefined] | undefined,
    { first, count }: Batch,
    hidden: NdArray,
  ): Promise<{ readonly loss: number; readonly gradient: NdArray }> {
    const { head, teacher, distillation } = this.#options;
    const chosen = this.#sequences.slice(first, first + count);
    const tokens = chosen[0]?.length ?? 0;
    const targets = nextTokens(chosen);
    const weight = 1 / (this.#sequences.length * (tokens - 1));
    const batch = { hidden, targets, weight, distillation };
    const sinks = trained === undefined ? {} : sinksOf(...trained);
    if (teacher === undefined || distillation === 0) return head.run(tensors, { ...batch, distillation: 0 }, sinks);
    using said = await teacher.hidden(first, count);
    return await head.run(tensors, { ...batch, teacher: { head: teacher.head, hidden: said } }, sinks);
  }
}

/** Σ g² of what is in the sinks, which is whole now. */
async function finish(parameters: Parameters): Promise<number> {
  parameters.uploadGradients();
  return parameters.gradientSquares();
}

function clear(parameters: Parameters | undefined): void {
  for (const { gradient } of parameters ?? []) gradient.host.fill(0);
}

function valuesByRole(parameters: Parameters): Map<string, HostArray> {
  const feeds = [...parameters.feeds()].filter(([name]) => name.startsWith(ROLE));
  return new Map(feeds.map(([name, array]) => [name.slice(ROLE.length), array]));
}

function embeddingOf(parameters: Parameters): EmbeddingTensors {
  return { table: hostOf(parameters, TABLE) as Float32Array, tensors: valuesByRole(parameters) };
}

function headOf(own: Parameters, table: Parameters | undefined): HeadTensors {
  const projection = table === undefined ? hostOf(own, PROJECTION) : hostOf(table, TABLE);
  const bias = hostOf(own, BIAS);
  return { tensors: valuesByRole(own), projection: projection as Float32Array, ...(bias && { bias }) };
}

function hostOf(parameters: Parameters, name: string): Float32Array | undefined {
  return [...parameters].find((each) => each.name === name)?.values.host;
}

/** Where gradients of a group are added up. */
function gradientsOf(parameters: Parameters): HeadSinks & EmbeddingSinks {
  const all = [...parameters].map(({ name, gradient }): [string, Float32Array] => [name, gradient.host]);
  const tensors = all
    .filter(([name]) => name.startsWith(ROLE))
    .map(([name, host]): [string, Float32Array] => [name.slice(ROLE.length), host]);
  const others = Object.fromEntries(all.filter(([name]) => !name.startsWith(ROLE)));
  return { tensors: new Map(tensors), ...others };
}

function sinksOf(own: Parameters, table: Parameters | undefined): HeadSinks {
  const sinks = gradientsOf(own);
  const tied = table && gradientsOf(table).table;
  return { ...sinks, ...(tied && { projection: tied }) };
}
