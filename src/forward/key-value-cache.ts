/** What one block remembers of the tokens that were fed: a key and a value per head and token, for each sequence. */
import { borrowed, type HostArray } from "../array.js";
import type { CacheShape } from "./step-graph.js";

/** Room for so many more tokens is made at a time. */
const GROWTH = 64;

/** Bytes that a block's cache takes per sequence of so many tokens. */
export function cacheBytes({ heads, keyWidth, valueWidth }: CacheShape, tokens: number): number {
  return heads * (keyWidth + valueWidth) * roomFor(tokens) * 4;
}

/** Tokens that there is room for where this many must fit. */
export function roomFor(tokens: number): number {
  return Math.ceil(tokens / GROWTH) * GROWTH;
}

/** [rows, heads, room, width]; what was never written is 0. */
class Remembered {
  readonly #rows: number;
  readonly #heads: number;
  readonly #width: number;
  #room = 0;
  #values = new Float32Array(0);

  constructor(rows: number, heads: number, width: number) {
    this.#rows = rows;
    this.#heads = heads;
    this.#width = width;
  }

  /** Make room for more tokens per sequence; what is there stays. */
  grow(room: number): void {
    const [before, after] = [this.#room * this.#width, room * this.#width];
    const values = new Float32Array(this.#rows * this.#heads * after);
    for (let slab = 0; slab < this.#rows * this.#heads; slab++)
      values.set(this.#values.subarray(slab * before, (slab + 1) * before), slab * after);
    this.#values = values;
    this.#room = room;
  }

  /** @param vector [heads * width] */
  write(row: number, position: number, vector: Float32Array): void {
    for (let head = 0; head < this.#heads; head++) {
      const from = head * this.#width;
      const to = ((row * this.#heads + head) * this.#room + position) * this.#width;
      this.#values.set(vector.subarray(from, from + this.#width), to);
    }
  }

  move(from: number, to: number): void {
    const size = this.#heads * this.#room * this.#width;
    this.#values.copyWithin(to * size, from * size, (from + 1) * size);
  }

  /** The first rows, as they lie. */
  read(label: string, rows: number): HostArray {
    const shape = [rows, this.#heads, this.#room, this.#width];
    return borrowed(label, this.#values.subarray(0, rows * this.#heads * this.#room * this.#width), shape);
  }
}

export class KeyValueCache {
  readonly #keys: Remembered;
  readonly #values: Remembered;
  readonly #shape: CacheShape;

  /** @param rows the most sequences */
  constructor(shape: CacheShape, rows: number) {
    this.#shape = shape;
    this.#keys = new Remembered(rows, shape.heads, shape.keyWidth);
    this.#values = new Remembered(rows, shape.heads, shape.valueWidth);
  }

  /** Make room for this many tokens per sequence, `roomFor` some; what is there stays. */
  grow(room: number): void {
    this.#keys.grow(room);
    this.#values.grow(room);
  }

  /**
   * Remember one token of each sequence.
   * @param keys [rows, heads * keyWidth]
   * @param values [rows, heads * valueWidth]
   */
  write(positions: readonly number[], keys: Float32Array, values: Float32Array): void {
    const [keySize, valueSize] = [this.#shape.heads * this.#shape.keyWidth, this.#shape.heads * this.#shape.valueWidth];
    positions.forEach((position, row) => {
      this.#keys.write(row, position, keys.subarray(row * keySize, (row + 1) * keySize));
      this.#values.write(row, position, values.subarray(row * valueSize, (row + 1) * valueSize));
    });
  }

  /** Let a sequence take the place of another. */
  move(from: number, to: number): void {
    this.#keys.move(from, to);
    this.#values.move(from, to);
  }

  /** Keys and values of the first rows, by the names of the graph's inputs; borrowed. */
  feeds(rows: number): readonly (readonly [string, HostArray])[] {
    return [
      ["keys", this.#keys.read("keys", rows)],
      ["values", this.#values.read("values", rows)],
    ];
  }
}
