/**
 * SquareHead: how far what leaves each block is from what leaves the dense model's, as a share of the latter's mean square,
 * summed over blocks. A term of the loss beside what the head says.
 *
 * Source: Kurtic et al. 2023, arXiv:2310.06927: means over all tokens of the step, and 2⁻⁷ added to the mean square.
 */
import { InternalError } from "../errors.js";
import type { NdArray } from "../array.js";
import type { HiddenStates } from "../forward/hidden-states.js";
import type { Batch } from "../forward/stream.js";
import { squaresOf, valuesOf } from "../forward/values.js";
import type { BlockSpec, StateSpec } from "../model/architecture.js";
import type { BlockTerm } from "./model-gradients.js";

/** Keeps blocks whose states are tiny from deciding the loss. */
const EPSILON = 2 ** -7;

export class SquareHead implements BlockTerm {
  readonly #weight: number;
  readonly #sequences: number;
  /** What leaves each block of the dense model, of each sequence of the step. */
  readonly #taught: HiddenStates;
  readonly #state: StateSpec;
  /** Of each block: Σ of the squares of that. */
  readonly #energies: number[] = [];

  /** @param taught slots for every sequence of a step behind every block */
  constructor(weight: number, sequences: number, taught: HiddenStates, state: StateSpec) {
    this.#weight = weight;
    this.#sequences = sequences;
    this.#taught = taught;
    this.#state = state;
  }

  /** @param states what leaves the block of the dense model, of the step's sequences in order */
  async learn({ index }: BlockSpec, states: HiddenStates): Promise<void> {
    const all = Array.from({ length: this.#sequences }, (_, sequence) => sequence);
    await states.copyTo(this.#taught, all, index * this.#sequences);
    let energy = 0;
    for (const sequence of all) {
      using said = await states.read(sequence, 1);
      energy += squaresOf(valuesOf(said), this.#state);
    }
    this.#energies[index] = energy;
  }

  async add({ name, index }: BlockSpec, { first, count }: Batch, hidden: NdArray, gradient?: NdArray): Promise<number> {
    const energy = this.#energies[index];
    if (energy === undefined) throw new InternalError("E_TRAINING", `${name}: the teacher has not been heard`);
    using taught = await this.#taught.read(index * this.#sequences + first, count);
    const [own, target] = [valuesOf(hidden), valuesOf(taught)];
    const { width, hidden: counted } = this.#state;
    const elements = this.#sequences * this.#taught.tokens * counted;
    const factor = this.#weight / (energy + EPSILON * elements);
    const into = gradient && valuesOf(gradient);
    let sum = 0;
    for (let i = 0; i < own.length; i++) {
      if (i % width >= counted) continue; // carried beside the hidden states
      const apart = own[i] - target[i];
      sum += apart * apart;
      if (into !== undefined) into[i] += 2 * factor * apart;
    }
    return factor * sum;
  }
}
