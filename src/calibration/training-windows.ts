/** Which windows of a text each step of a training sees: pass after pass over all of it, each in an order of its own. */
import { MersenneTwister, shuffled } from "./random.js";
import type { TrainingTokens } from "./corpus.js";

export class TrainingWindows {
  /** Windows of a pass. */
  readonly count: number;
  readonly #tokens: TrainingTokens;
  readonly #seqlen: number;
  readonly #seed: number;
  #pass: { readonly index: number; readonly starts: readonly number[] } | undefined;

  /** @param tokens at least `seqlen` of them */
  constructor(tokens: TrainingTokens, seqlen: number, seed: number) {
    this.#tokens = tokens;
    this.#seqlen = seqlen;
    this.#seed = seed;
    const whole = Math.floor(tokens.ids.length / seqlen);
    // One window less leaves room to begin anywhere, so that passes cut the text in different places.
    this.count = tokens.isContinuous ? Math.max(1, whole - 1) : whole;
  }

  /**
   * Of a step, counted from 1, of so many sequences; the same whatever was asked for before.
   * @returns views of the tokens
   */
  ofStep(step: number, sequences: number): Int32Array[] {
    return Array.from({ length: sequences }, (_, i) => {
      const place = (step - 1) * sequences + i;
      const start = this.#startsOf(Math.floor(place / this.count))[place % this.count] as number;
      return this.#tokens.ids.subarray(start, start + this.#seqlen);
    });
  }

  #startsOf(pass: number): readonly number[] {
    if (this.#pass?.index !== pass) {
      const random = new MersenneTwister(this.#seed + pass);
      const slack = this.#tokens.isContinuous ? this.#tokens.ids.length - this.count * this.#seqlen : 0;
      const first = random.randomInteger(0, slack);
      const starts = Array.from({ length: this.count }, (_, window) => first + window * this.#seqlen);
      this.#pass = { index: pass, starts: shuffled(starts, random) };
    }
    return this.#pass?.starts ?? [];
  }
}
