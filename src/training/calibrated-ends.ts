/**
 * Both ends of a model whose embedding and head are not trained, on calibration sequences: what enters the first block and what
 * a teacher's last block gave are known for all of them, and each step takes some.
 */
import type { NdArray } from "../array.js";
import type { HiddenStates } from "../forward/hidden-states.js";
import type { Batch } from "../forward/stream.js";
import type { HeadGradient, HeadTensors } from "./head-gradient.js";
import type { ModelEnds } from "./model-gradients.js";

export interface CalibratedEndsOptions {
  readonly head: HeadTensors;
  readonly gradient: HeadGradient;
  /** Token ids. */
  readonly sequences: readonly Int32Array[];
  /** What enters the first block, for each of them. */
  readonly embedded: HiddenStates;
  /** What left the teacher's last block; its head is the same. */
  readonly taught: HiddenStates;
  /** Share of the divergence from the teacher in the loss. */
  readonly distillation: number;
}

export class CalibratedEnds implements ModelEnds {
  readonly #options: CalibratedEndsOptions;
  #chosen: readonly number[] = [];

  constructor(options: CalibratedEndsOptions) {
    this.#options = options;
  }

  /** The sequences of the next step, by index. */
  choose(chosen: readonly number[]): void {
    this.#chosen = chosen;
  }

  embed(states: HiddenStates): Promise<void> {
    return this.#options.embedded.copyTo(states, this.#chosen);
  }

  async loss({ first, count }: Batch, hidden: NdArray): Promise<{ readonly loss: number; readonly gradient: NdArray }> {
    const { sequences, taught, head, gradient, distillation } = this.#options;
    const chosen = this.#chosen.slice(first, first + count);
    const { tokens } = taught;
    const targets = new Int32Array(count * tokens).fill(-1);
    for (const [i, sequence] of chosen.entries())
      targets.set((sequences[sequence] as Int32Array).subarray(1), i * tokens);
    const weight = 1 / (this.#chosen.length * (tokens - 1));
    const batch = { hidden, targets, weight, distillation };
    if (distillation === 0) return gradient.run(head, batch, {});
    const said = await taught.gather(chosen, new Float32Array(count * taught.sequenceLength));
    return gradient.run(head, { ...batch, teacher: { head, hidden: said } }, {});
  }
}
