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

export class HeldWeights {
  readonly tiles: readonly VocabularyTile[];
  /** Blocks that stay in memory: the first so many. */
  readonly heldBlocks: number;
  readonly #model: Model;
  readonly #isHeadHeld: boolean;
  readonly #blocks = new Map<number, BlockWeights>();
  readonly #tiles = new Map<number, ReadonlyMap<string, NdArray>>();
  /** Of the block that was read last, to be overwritten by the next. */
  #passing: ReadonlyMap<string, Float32Array> = new Map();

  /** @param memoryBytes that weights may take, besides one block and one tile of the projection */
  constructor(model: Model, memoryBytes: number) {
    this.#model = model;
    this.tiles = vocabularyTiles(model.architecture.vocabularySize);
    const ofHead = projectionBytes(model);
    this.#isHeadHeld = ofHead <= memoryBytes;
    let left = this.#isHeadHeld ? memoryBytes - ofHead : memoryBytes;
    const { blocks } = model.architecture;
    const full = blocks.findIndex((block) => (left -= blockBytes(block)) < 0);
    this.heldBlocks = full === -1 ? blocks.length : full;
  }

  /** A block's weights, valid until the next block's are asked for. */
  async block(block: BlockSpec): Promise<BlockWeights> {
    const known = this.#blocks.get(block.index);
    if (known !== undefined) return known;
    const isHeld = block.index < this.heldBlocks;
    const weights = await readBlockWeights(this.#model.checkpoint, block, isHeld ? new Map() : this.#passing);
    if (isHeld) this.#blocks.set(block.index, weights);
    else this.#passing = weights;
    return weights;
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
