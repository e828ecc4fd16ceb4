/**
 * What one block remembers of the tokens that were fed, for each sequence: a key and a value per head and token, and states
 * of a fixed size.
 */
import { borrowed, elementsOf, type HostArray, type NdArray } from "../array.js";
import { lookUp } from "../look-up.js";
import { nextStateName, stateName, type CacheShape } from "./step-graph.js";
import { valuesOf } from "./values.js";

/** Room for so many more tokens is made at a time. */
const GROWTH = 64;

/** Bytes that a block's cache takes per sequence of so many tokens. */
export function cacheBytes({ attention, states }: CacheShape, tokens: number): number {
  const perToken = attention === undefined ? 0 : attention.heads * (attention.keyWidth + attention.valueWidth);
  return 4 * (perToken * roomFor(tokens) + states.reduce((sum, shape) => sum + elementsOf(shape), 0));
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

/** [rows, …], zeros where a sequence begins. */
class State {
  readonly #shape: readonly number[];
  readonly #size: number;
  readonly #values: Float32Array;

  constructor(rows: number, shape: readonly number[]) {
    this.#shape = shape;
    this.#size = elementsOf(shape);
    this.#values = new Float32Array(rows * this.#size);
  }

  begin(row: number): void {
    this.#values.fill(0, row * this.#size, (row + 1) * this.#size);
  }

  /** @param values of the first rows */
  write(values: Float32Array): void {
    this.#values.set(values);
  }

  move(from: number, to: number): void {
    this.#values.copyWithin(to * this.#size, from * this.#size, (from + 1) * this.#size);
  }

  /** The first rows, as they lie. */
  read(label: string, rows: number): HostArray {
    return borrowed(label, this.#values.subarray(0, rows * this.#size), [rows, ...this.#shape]);
  }
}

export class BlockCache {
  readonly #attention: { readonly keys: Remembered; readonly values: Remembered } | undefined;
  readonly #states: readonly State[];

  /** @param rows the most sequences */
  constructor({ attention, states }: CacheShape, rows: number) {
    this.#attention = attention && {
      keys: new Remembered(rows, attention.heads, attention.keyWidth),
      values: new Remembered(rows, attention.heads, attention.valueWidth),
    };
    this.#states = states.map((shape) => new State(rows, shape));
  }

  /** Make room for this many tokens per sequence, `roomFor` some; what is there stays. */
  grow(room: number): void {
    this.#attention?.keys.grow(room);
    this.#attention?.values.grow(room);
  }

  /**
   * What is remembered of the first sequences, by the names of the graph's inputs; borrowed.
   * @param positions how many tokens each was fed before; one at 0 begins anew
   */
  feeds(positions: readonly number[]): readonly (readonly [string, HostArray])[] {
    const rows = positions.length;
    for (const state of this.#states)
      positions.forEach((position, row) => {
        if (position === 0) state.begin(row);
      });
    const states = this.#states.map((state, index) => {
      const name = stateName(index);
      return [name, state.read(name, rows)] as const;
    });
    if (this.#attention === undefined) return states;
    const { keys, values } = this.#attention;
    return [...states, ["keys", keys.read("keys", rows)], ["values", values.read("values", rows)]];
  }

  /** Remember one token of each of the first sequences by what the graph returned of it. */
  write(positions: readonly number[], results: ReadonlyMap<string, NdArray>): void {
    this.#states.forEach((state, index) => state.write(valuesOf(lookUp(results, nextStateName(index)))));
    if (this.#attention === undefined) return;
    const { keys, values } = this.#attention;
    const [ofKeys, ofValues] = [valuesOf(lookUp(results, "key")), valuesOf(lookUp(results, "value"))];
    positions.forEach((position, row) => {
      keys.write(row, position, rowOf(ofKeys, row, positions.length));
      values.write(row, position, rowOf(ofValues, row, positions.length));
    });
  }

  /** Let a sequence take the place of another. */
  move(from: number, to: number): void {
    this.#attention?.keys.move(from, to);
    this.#attention?.values.move(from, to);
    for (const state of this.#states) state.move(from, to);
  }
}

function rowOf(values: Float32Array, row: number, rows: number): Float32Array {
  const width = values.length / rows;
  return values.subarray(row * width, (row + 1) * width);
}
