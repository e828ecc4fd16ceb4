/**
 * Weights of a model that is run over and over: the head and as many blocks as fit are kept in memory, the others are read
 * again for every pass.
 */
import { elementsOf, type NdArray } from "../array.js";
import type { BlockSpec } from "../model/architecture.js";
import type { Model } from "../model/open-model.js";
import type { BlockWeights } from "./block-runner.js";
import { tileFeeds, vocabularyTiles, type VocabularyTile } from "./head.js";
import { readBlockWeights } from "./weights.js";

/** Bytes of a block's weights in memory. */
export function blockBytes(block: BlockSpec): number {
  return [...block.tensors.values()].reduce((sum, { shape }) => sum + 4 * elementsOf(shape), 0);
}

/** Bytes of the projection to the vocabulary in memory. */
export function projectionBytes({ architecture: { vocabularySize, head } }: Model): number {
  return 4 * vocabularySize * (head.width + (head.bias === undefined ? 0 : 1));
}

/** The first so many blocks, kept once they were read. */
export class HeldBlocks {
  /** How many stay in memory. */
  readonly count: number;
  readonly #model: Pick<Model, "checkpoint">;
  readonly #held = new Map<number, BlockWeights>();
  /** Of the block that was read last, to be overwritten by the next. */
  #passing: ReadonlyMap<string, Float32Array> = new Map();

  /** @param memoryBytes that they may take, besides one block */
  constructor(model: Pick<Model, "checkpoint" | "architecture">, memoryBytes: number) {
    const { blocks } = model.architecture;
    let left = memoryBytes;
    const full = blocks.findIndex((block) => (left -= blockBytes(block)) < 0);
    this.count = full === -1 ? blocks.length : full;
    this.#model = model;
  }

  /** A block's weights, valid until the next block's are asked for. */
  async of(block: BlockSpec): Promise<BlockWeights> {
    const known = this.#held.get(block.index);
    if (known !== undefined) return known;
    const isHeld = block.index < this.count;
    const weights = await readBlockWeights(this.#model.checkpoint, block, isHeld ? new Map() : this.#passing);
    if (isHeld) this.#held.set(block.index, weights);
    else this.#passing = weights;
    return weights;
  }
}

export class HeldWeights {
  readonly tiles: readonly VocabularyTile[];
  readonly blocks: HeldBlocks;
  readonly #model: Model;
  readonly #isHeadHeld: boolean;
  readonly #tiles = new Map<number, ReadonlyMap<string, NdArray>>();

  /** @param memoryBytes that weights may take, besides one block and one tile of the projection */
  constructor(model: Model, memoryBytes: number) {
    this.#model = model;
    this.tiles = vocabularyTiles(model.architecture.vocabularySize);
    const ofHead = projectionBytes(model);
    this.#isHeadHeld = ofHead <= memoryBytes;
    this.blocks = new HeldBlocks(model, this.#isHeadHeld ? memoryBytes - ofHead : memoryBytes);
  }

  /** What feeds a tile of the projection. */
  async tile(tile: VocabularyTile): Promise<ReadonlyMap<string, NdArray>> {
    const known = this.#tiles.get(tile.first);
    if (known !== undefined) return known;
    const feeds = await tileFeeds(this.#model, tile);
    if (this.#isHeadHeld) this.#tiles.set(tile.first, feeds);
    return feeds;
  }
}
