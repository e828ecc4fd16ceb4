/**
 * From tokens to what enters the first block while the embedding is trained, and back: from the gradient there to those of
 * the embedding table and of what stands between: learned positions, a norm, a projection. Rows of the table are added to
 * on the host, one token after the other, so that the order of the sums does not depend on who computes.
 */
import { borrowed, type NdArray } from "../array.js";
import { buildPrologueGraph, fillFromSideTables } from "../forward/embedding.js";
import type { HiddenStates } from "../forward/hidden-states.js";
import { batchesOf } from "../forward/stream.js";
import { valuesOf } from "../forward/values.js";
import type { Arrays, Executor, Program } from "../graph/executor.js";
import { gradientName, gradientOf } from "../graph/gradient.js";
import { lookUp } from "../look-up.js";
import type { Model } from "../model/open-model.js";

const SLOTS = "slots";

/** What turns tokens into what enters the first block, on the host. */
export interface EmbeddingTensors {
  /** [vocabulary, embeddingWidth] */
  readonly table: Float32Array;
  /** By role of the architecture's prologue; empty where there is none. */
  readonly tensors: Arrays;
}

/**
 * Where gradients are added to; absent ones are let go of. Where the head is tied to the embedding the table's may be
 * the projection's.
 */
export interface EmbeddingSinks {
  readonly table?: Float32Array;
  readonly tensors?: ReadonlyMap<string, Float32Array>;
}

/** Where side tables are read, which nobody trains. */
type Tables = Pick<Model, "architecture" | "checkpoint">;

export class EmbeddingGradient implements AsyncDisposable {
  readonly #model: Tables;
  /** Through the prologue and back; undefined where embeddings enter the first block as they are. */
  readonly #prologue: { readonly forward: Program; readonly backward: Program } | undefined;

  private constructor(model: Tables, prologue: { readonly forward: Program; readonly backward: Program } | undefined) {
    this.#model = model;
    this.#prologue = prologue;
  }

  static async compile(executor: Executor, model: Tables): Promise<EmbeddingGradient> {
    const { architecture } = model;
    const { prologue } = architecture;
    if (prologue === undefined) return new EmbeddingGradient(model, undefined);
    const of = [SLOTS, ...prologue.tensors.keys()];
    const graph = buildPrologueGraph(architecture, prologue);
    return new EmbeddingGradient(model, {
      forward: await executor.compile(graph),
      backward: await executor.compile(gradientOf(graph, { of, through: ["hidden"] })),
    });
  }

  /**
   * What enters the first block for sequences of one length: [sequences * tokens, state.width], the caller's.
   * @param sequences token ids
   */
  async embed(embedding: EmbeddingTensors, sequences: readonly Int32Array[]): Promise<NdArray> {
    const feeds = await this.#feeds(embedding, sequences);
    if (this.#prologue === undefined) return lookUp(feeds, SLOTS);
    return lookUp(await this.#prologue.forward.run(feeds), "hidden");
  }

  /** What enters the first block for sequences of one length, into the first slots. */
  async fill(embedding: EmbeddingTensors, sequences: readonly Int32Array[], states: HiddenStates): Promise<void> {
    for (const { first, count } of batchesOf({ sequences: sequences.length, tokens: states.tokens })) {
      using entering = await this.embed(embedding, sequences.slice(first, first + count));
      await states.write(first, entering);
    }
  }

  /**
   * @param sequences token ids, of one length
   * @param gradient  with respect to what enters the first block, [sequences * tokens, state.width], borrowed
   */
  async run(
    { table, tensors }: EmbeddingTensors,
    sequences: readonly Int32Array[],
    gradient: NdArray,
    sinks: EmbeddingSinks,
  ): Promise<void> {
    if (this.#prologue === undefined) return this.#addRows(sequences, valuesOf(gradient), sinks);
    const feeds = await this.#feeds({ table, tensors }, sequences);
    feeds.set(gradientName("hidden"), gradient);
    const results = await this.#prologue.backward.run(feeds);
    this.#addRows(sequences, valuesOf(lookUp(results, gradientName(SLOTS))), sinks);
    for (const [role, sink] of sinks.tensors ?? []) {
      const found = valuesOf(lookUp(results, gradientName(role)));
      sink.forEach((value, index) => (sink[index] = value + found[index]));
    }
    for (const array of results.values()) array[Symbol.dispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#prologue?.forward[Symbol.asyncDispose]();
    await this.#prologue?.backward[Symbol.asyncDispose]();
  }

  /** The prologue's inputs; without one its slots are what enters the first block. */
  async #feeds({ table, tensors }: EmbeddingTensors, sequences: readonly Int32Array[]): Promise<Map<string, NdArray>> {
    const { state, embeddingWidth: width } = this.#model.architecture;
    const tokens = sequences[0]?.length ?? 0;
    const rows = sequences.length * tokens;
    const slots = new Float32Array(rows * state.width);
    forEachToken(sequences, (id, row) => slots.set(table.subarray(id * width, (id + 1) * width), row * state.width));
    await fillFromSideTables(
      this.#model,
      sequences.flatMap((ids) => [...ids]),
      slots,
    );
    const positions = BigInt64Array.from({ length: rows }, (_, row) => BigInt(row % tokens));
    return new Map([
      ...tensors,
      [SLOTS, borrowed(SLOTS, slots, [rows, state.width])],
      ["positions", borrowed("positions", positions, [rows])],
    ]);
  }

  /** @param gradient of the slots, [rows, state.width], of which embeddings fill the front */
  #addRows(sequences: readonly Int32Array[], gradient: Float32Array, { table }: EmbeddingSinks): void {
    if (table === undefined) return;
    const { state, embeddingWidth: width } = this.#model.architecture;
    forEachToken(sequences, (id, row) => {
      for (let i = 0; i < width; i++) table[id * width + i] += gradient[row * state.width + i];
    });
  }
}

function forEachToken(sequences: readonly Int32Array[], visit: (id: number, row: number) => void): void {
  let row = 0;
  for (const ids of sequences) for (const id of ids) visit(id, row++);
}
