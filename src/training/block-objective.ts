/**
 * How far a block is from what it is to give, over some of the calibration's sequences, and the gradients of that: what every
 * training of a block goes by.
 */
import { NumericalError } from "../errors.js";
import type { HiddenStates } from "../forward/hidden-states.js";
import { batchesOf } from "../forward/stream.js";
import { squaresOf, valuesOf } from "../forward/values.js";
import { sequencesPerRun } from "../forward/weights.js";
import type { BlockSpec } from "../model/architecture.js";
import type { BlockLoss, LossBatch } from "./block-loss.js";
import type { Parameters } from "./parameters.js";

export interface BlockTargets {
  /** The block's inputs, and what it is to give for them. */
  readonly inputs: HiddenStates;
  readonly targets: HiddenStates;
  /** Compiled for this kind of block and all its tensors. */
  readonly loss: BlockLoss;
  /** Sequences that go through the block together; default `sequencesPerRun`. A gradient over more adds up its runs. */
  readonly sequencesPerRun?: number | undefined;
}

/** Losses are means over sequences of Σ (block(input) - target)² / `unit`. */
export class BlockObjective {
  readonly #loss: BlockLoss;
  readonly #inputs: HiddenStates;
  readonly #targets: HiddenStates;
  readonly #size: number;
  /** Of a run: sequences gathered from anywhere. */
  readonly #arrays: readonly [Float32Array, Float32Array];

  constructor({ inputs, targets, loss, sequencesPerRun: size = sequencesPerRun(inputs.tokens) }: BlockTargets) {
    this.#loss = loss;
    this.#inputs = inputs;
    this.#targets = targets;
    this.#size = Math.min(size, inputs.sequences);
    const length = this.#size * inputs.sequenceLength;
    this.#arrays = [new Float32Array(length), new Float32Array(length)];
  }

  /** Σ target² per sequence, the mean over some. */
  async energy(sequences: readonly number[]): Promise<number> {
    const { state } = this.#loss.architecture;
    let sum = 0;
    for (const sequence of sequences) {
      using target = await this.#targets.read(sequence, 1);
      sum += squaresOf(valuesOf(target), state);
    }
    return sum / sequences.length;
  }

  async loss(parameters: Parameters, sequences: readonly number[], unit: number): Promise<number> {
    let sum = 0;
    for await (const batch of this.#batches(sequences, unit)) sum += await this.#loss.loss(parameters.feeds(), batch);
    return sum;
  }

  /** The loss; its gradients take the place of the parameters' own, on the device too. */
  async gradient(parameters: Parameters, sequences: readonly number[], unit: number): Promise<number> {
    let [sum, isFirst] = [0, true];
    for await (const batch of this.#batches(sequences, unit)) {
      const into = isFirst ? parameters.sinks() : undefined;
      const result = await this.#loss.gradients(parameters.feeds(), batch, into);
      if (!isFirst) {
        parameters.accumulate(result.gradients);
        result.gradients.forEach((array) => array[Symbol.dispose]());
      }
      sum += result.loss;
      isFirst = false;
    }
    parameters.uploadGradients();
    return sum;
  }

  /** Each is overwritten by the next. */
  async *#batches(sequences: readonly number[], unit: number): AsyncGenerator<LossBatch> {
    const { tokens } = this.#inputs;
    const weight = 1 / (sequences.length * unit);
    for (const { first, count } of batchesOf({ sequences: sequences.length, tokens }, { size: this.#size })) {
      const chosen = sequences.slice(first, first + count);
      const hidden = await this.#inputs.gather(chosen, this.#arrays[0]);
      const target = await this.#targets.gather(chosen, this.#arrays[1]);
      yield { hidden, target, batch: count, tokens, weight };
    }
  }
}

/** @throws NumericalError E_NON_FINITE naming the block and the step */
export function expectFiniteLoss({ name }: BlockSpec, step: number, loss: number): number {
  if (Number.isFinite(loss)) return loss;
  throw new NumericalError("E_NON_FINITE", `${name}: the loss of its reconstruction is ${loss} at step ${step}.`, {
    hint: "Try a smaller lr, or another method before it.",
    details: { block: name, step, loss },
  });
}
