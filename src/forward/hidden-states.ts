/**
 * The states of all sequences between two blocks: in memory up to a budget, the rest in a scratch file.
 * One slot per sequence, read and overwritten in place.
 */
import { rm } from "../files/output-files.js";
import { borrowed, type NdArray } from "../array.js";
import { ArrayPool } from "../array-pool.js";
import { InternalError } from "../errors.js";
import { FileShelf } from "../shelf.js";
import { valuesOf } from "./values.js";

export interface HiddenStatesOptions {
  readonly sequences: number;
  readonly tokens: number;
  /** Values per token. */
  readonly width: number;
  /** Bytes that may stay in memory. */
  readonly memoryBytes: number;
  /** Where the rest goes; created when needed, removed on dispose. */
  readonly scratchFile: string;
}

/** Sequences that stay in memory. */
function residentOf({ sequences, tokens, width, memoryBytes }: Omit<HiddenStatesOptions, "scratchFile">): number {
  return Math.min(sequences, Math.floor(memoryBytes / (tokens * width * 4)));
}

/** Bytes that go to the scratch file. */
export function spilledBytes(options: Omit<HiddenStatesOptions, "scratchFile">): number {
  return (options.sequences - residentOf(options)) * options.tokens * options.width * 4;
}

export class HiddenStates implements AsyncDisposable {
  readonly sequences: number;
  readonly tokens: number;
  /** Values per sequence: tokens * width. */
  readonly sequenceLength: number;
  readonly #resident: Float32Array;
  readonly #residentSequences: number;
  readonly #scratch: FileShelf | undefined;
  readonly #scratchFile: string;
  readonly #width: number;
  /** For what is read from the scratch file. */
  readonly #pool = new ArrayPool();

  private constructor(options: HiddenStatesOptions, residentSequences: number, scratch: FileShelf | undefined) {
    this.sequences = options.sequences;
    this.tokens = options.tokens;
    this.sequenceLength = options.tokens * options.width;
    this.#residentSequences = residentSequences;
    this.#resident = new Float32Array(residentSequences * this.sequenceLength);
    this.#scratch = scratch;
    this.#scratchFile = options.scratchFile;
    this.#width = options.width;
  }

  static async create(options: HiddenStatesOptions): Promise<HiddenStates> {
    const residentSequences = residentOf(options);
    const scratch = residentSequences < options.sequences ? await FileShelf.open(options.scratchFile, "w+") : undefined;
    return new HiddenStates(options, residentSequences, scratch);
  }

  /** [count * tokens, width]: a view where everything is in memory, otherwise a copy. Do not write to it. */
  async read(first: number, count: number): Promise<NdArray> {
    const length = this.sequenceLength;
    const shape = [count * this.tokens, this.#width];
    if (first + count <= this.#residentSequences)
      return borrowed("hidden states", this.#resident.subarray(first * length, (first + count) * length), shape);
    const array = this.#pool.take("hidden states", shape, "f32");
    const values = valuesOf(array);
    for (let i = 0; i < count; i++) {
      const target = values.subarray(i * length, (i + 1) * length);
      if (first + i < this.#residentSequences)
        target.set(this.#resident.subarray((first + i) * length, (first + i + 1) * length));
      else await this.#transfer("read", target, first + i);
    }
    return array;
  }

  /** Overwrite the slots from `first` on with [count * tokens, width] values. */
  async write(first: number, array: NdArray): Promise<void> {
    const values = valuesOf(array);
    const length = this.sequenceLength;
    for (let i = 0; i * length < values.length; i++) {
      const source = values.subarray(i * length, (i + 1) * length);
      if (first + i < this.#residentSequences) this.#resident.set(source, (first + i) * length);
      else await this.#transfer("write", source, first + i);
    }
  }

  /**
   * Sequences into the slots of other states with as many tokens.
   * @param chosen which, in order; default all
   * @param first slot of the first of them
   */
  async copyTo(other: HiddenStates, chosen: Iterable<number> = this.#all(), first = 0): Promise<void> {
    let slot = first;
    for (const sequence of chosen) {
      using values = await this.read(sequence, 1);
      await other.write(slot++, values);
    }
  }

  /** Sequences from anywhere, one after the other: [count * tokens, width] in an array that has room for them. */
  async gather(chosen: readonly number[], into: Float32Array): Promise<NdArray> {
    const length = this.sequenceLength;
    for (const [i, sequence] of chosen.entries()) {
      using values = await this.read(sequence, 1);
      into.set(valuesOf(values), i * length);
    }
    const shape = [chosen.length * this.tokens, this.#width];
    return borrowed("hidden states", into.subarray(0, chosen.length * length), shape);
  }

  /**
   * Change part of a single row. Used to scatter embeddings.
   * @param row counts tokens over all sequences
   * @param start place in the row of the first value
   */
  async writeRow(row: number, values: Float32Array, start = 0): Promise<void> {
    const offset = row * this.#width + start;
    if (offset < this.#resident.length) this.#resident.set(values, offset);
    else await this.#transferBytes("write", values, (offset - this.#resident.length) * 4);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#pool.clear();
    if (this.#scratch === undefined) return;
    await this.#scratch[Symbol.asyncDispose]();
    await rm(this.#scratchFile, { force: true });
  }

  #all(): Iterable<number> {
    return Array(this.sequences).keys();
  }

  #transfer(kind: "read" | "write", values: Float32Array, sequence: number): Promise<void> {
    return this.#transferBytes(kind, values, (sequence - this.#residentSequences) * this.sequenceLength * 4);
  }

  async #transferBytes(kind: "read" | "write", values: Float32Array, position: number): Promise<void> {
    const scratch = this.#scratch;
    if (scratch === undefined) throw new InternalError("E_HIDDEN_STATES", "hidden states: sequence beyond the end");
    await scratch[kind](position, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  }
}
