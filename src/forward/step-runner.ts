/**
 * A model run token by token: one further token for each of several sequences, which need not be equally long, in one pass
 * over the blocks. What blocks remember of earlier tokens is kept, so a token costs the same products as in a whole forward.
 */
import { borrowed, type HostArray, type NdArray } from "../array.js";
import type { Program } from "../graph/executor.js";
import type { Graph } from "../graph/graph.js";
import { lookUp } from "../look-up.js";
import { fillMaskRow } from "../model/mask.js";
import type { Model } from "../model/open-model.js";
import { OnnxExecutor } from "../onnx/executor.js";
import { buildPrologueGraph, fillFromSideTables } from "./embedding.js";
import { buildNormGraph, buildTileGraph } from "./head.js";
import { HeldWeights } from "./held-weights.js";
import { BlockCache, cacheBytes, roomFor } from "./block-cache.js";
import { rotaryFeeds } from "./position-feeds.js";
import { buildStepGraph, cacheShapeOf, PLAIN_MASK } from "./step-graph.js";
import { valuesOf } from "./values.js";
import { readArrays, weightArrays } from "./weights.js";

export interface StepRunnerOptions {
  /** The most sequences at a time. */
  readonly rows: number;
  /** The longest sequence; rotary scalings that go by the length of a sequence take this one. */
  readonly tokens: number;
  /** What weights may take in memory. */
  readonly weightBytes: number;
}

/** Bytes that what is remembered of a sequence of so many tokens takes. */
export function sequenceCacheBytes({ architecture }: Model, tokens: number): number {
  const sizes = new Map<string, number>();
  for (const block of architecture.blocks)
    if (!sizes.has(block.shapeKey))
      sizes.set(block.shapeKey, cacheBytes(cacheShapeOf(buildStepGraph(architecture, block)), tokens));
  return architecture.blocks.reduce((sum, { shapeKey }) => sum + lookUp(sizes, shapeKey), 0);
}

export class StepRunner implements AsyncDisposable {
  readonly weights: HeldWeights;
  readonly #model: Model;
  readonly #executor: OnnxExecutor;
  readonly #options: StepRunnerOptions;
  readonly #programs: Programs;
  readonly #caches: readonly BlockCache[];
  readonly #rotary: ReadonlyMap<string, HostArray>;
  #room = 0;
  /** After the last block, [rows, state.width]. */
  #hidden: Float32Array = new Float32Array(0);

  private constructor(model: Model, options: StepRunnerOptions, executor: OnnxExecutor, programs: Programs) {
    const { architecture } = model;
    this.weights = new HeldWeights(model, options.weightBytes);
    this.#model = model;
    this.#executor = executor;
    this.#options = options;
    this.#programs = programs;
    this.#caches = architecture.blocks.map(({ shapeKey }) => {
      return new BlockCache(cacheShapeOf(lookUp(programs.blocks, shapeKey).graph), options.rows);
    });
    this.#rotary = rotaryFeeds(architecture, options.tokens);
  }

  static async open(model: Model, options: StepRunnerOptions): Promise<StepRunner> {
    const executor = new OnnxExecutor();
    try {
      return new StepRunner(model, options, executor, await compilePrograms(model, executor));
    } catch (error) {
      await executor[Symbol.asyncDispose]();
      throw error;
    }
  }

  /**
   * Feed one token to each of the first sequences.
   * @param positions how many tokens each was fed before; a sequence that begins anew is at 0
   * @param onBlock called after each block; throws to stop
   */
  async advance(ids: readonly number[], positions: readonly number[], onBlock: () => void): Promise<void> {
    const rows = ids.length;
    const { architecture } = this.#model;
    this.#makeRoom(Math.max(...positions) + 1);
    const shared = new Map<string, NdArray>([...this.#rotary, ...this.#positionFeeds(positions)]);
    let hidden = await this.#embed(ids, positions);
    for (const block of architecture.blocks) {
      const { program } = lookUp(this.#programs.blocks, block.shapeKey);
      const cache = this.#caches[block.index] as BlockCache;
      const weights = await this.weights.blocks.of(block);
      const tensors = weightArrays(block, weights);
      const states = borrowed("hidden", hidden, [rows, architecture.state.width]);
      const results = await program.run(
        new Map<string, NdArray>([...shared, ...tensors, ...cache.feeds(positions), ["hidden", states]]),
      );
      cache.write(positions, results);
      hidden = valuesOf(lookUp(results, "hidden")).slice();
      results.forEach((array) => array[Symbol.dispose]());
      onBlock();
    }
    this.#hidden = hidden;
  }

  /** Logits of what follows the tokens that were fed last, [rows, vocabulary]. */
  async logits(): Promise<Float32Array> {
    const { state, vocabularySize } = this.#model.architecture;
    const rows = this.#hidden.length / state.width;
    const { norm, tile: program, headTensors } = this.#programs;
    const states = borrowed("hidden", this.#hidden, [rows, state.width]);
    using normed = lookUp(await norm.run(new Map([...headTensors, ["hidden", states]])), "normed");
    const logits = new Float32Array(rows * vocabularySize);
    for (const tile of this.weights.tiles) {
      const feeds = await this.weights.tile(tile);
      using part = lookUp(await program.run(new Map([...feeds, ["hidden", normed]])), "logits");
      const values = valuesOf(part);
      for (let row = 0; row < rows; row++)
        logits.set(values.subarray(row * tile.rows, (row + 1) * tile.rows), row * vocabularySize + tile.first);
    }
    return logits;
  }

  /** Let a sequence take the place of another, which is done. */
  move(from: number, to: number): void {
    for (const cache of this.#caches) cache.move(from, to);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#executor[Symbol.asyncDispose]();
  }

  #makeRoom(tokens: number): void {
    if (tokens <= this.#room) return;
    this.#room = roomFor(tokens);
    for (const cache of this.#caches) cache.grow(this.#room);
  }

  #positionFeeds(positions: readonly number[]): ReadonlyMap<string, NdArray> {
    const rows = positions.length;
    const feeds = new Map<string, NdArray>([
      ["positions", borrowed("positions", BigInt64Array.from(positions, BigInt), [rows, 1])],
    ]);
    for (const [name, mask] of [[PLAIN_MASK, {}] as const, ...this.#model.architecture.masks]) {
      const heads = mask.slopes?.length ?? 1;
      const values = new Float32Array(rows * heads * this.#room);
      const size = heads * this.#room;
      positions.forEach((position, row) => fillMaskRow(mask, position, values.subarray(row * size, (row + 1) * size)));
      feeds.set(`mask.${name}`, borrowed(name, values, [rows, heads, this.#room]));
    }
    return feeds;
  }

  /** What enters the first block, [rows, state.width]. */
  async #embed(ids: readonly number[], positions: readonly number[]): Promise<Float32Array> {
    const { checkpoint, architecture } = this.#model;
    const { embedding, embeddingWidth, state } = architecture;
    const slots = new Float32Array(ids.length * state.width);
    const known = new Map<number, Float32Array>();
    for (const [row, id] of ids.entries()) {
      const vector = known.get(id) ?? (await checkpoint.readRows(embedding, id, 1));
      known.set(id, vector);
      slots.set(vector.subarray(0, embeddingWidth), row * state.width);
    }
    await fillFromSideTables(this.#model, ids, slots);
    const { prologue } = this.#programs;
    if (prologue === undefined) return slots;
    const feeds = new Map<string, NdArray>([
      ...prologue.tensors,
      ["slots", borrowed("slots", slots, [ids.length, state.width])],
      ["positions", borrowed("positions", BigInt64Array.from(positions, BigInt), [ids.length])],
    ]);
    using hidden = lookUp(await prologue.program.run(feeds), "hidden");
    return valuesOf(hidden).slice();
  }
}

interface Programs {
  /** By shape key. */
  readonly blocks: ReadonlyMap<string, { readonly graph: Graph; readonly program: Program }>;
  readonly prologue: { readonly program: Program; readonly tensors: ReadonlyMap<string, NdArray> } | undefined;
  readonly norm: Program;
  readonly tile: Program;
  readonly headTensors: ReadonlyMap<string, NdArray>;
}

async function compilePrograms(model: Model, executor: OnnxExecutor): Promise<Programs> {
  const { architecture } = model;
  const { prologue, head } = architecture;
  const blocks = new Map<string, { readonly graph: Graph; readonly program: Program }>();
  for (const block of architecture.blocks) {
    if (blocks.has(block.shapeKey)) continue;
    const graph = buildStepGraph(architecture, block);
    blocks.set(block.shapeKey, { graph, program: await executor.compile(graph) });
  }
  return {
    blocks,
    prologue: prologue && {
      program: await executor.compile(buildPrologueGraph(architecture, prologue)),
      tensors: await readArrays(model.checkpoint, prologue.tensors),
    },
    norm: await executor.compile(buildNormGraph(architecture)),
    tile: await executor.compile(buildTileGraph(architecture, "logits")),
    headTensors: await readArrays(model.checkpoint, head.tensors),
  };
}
