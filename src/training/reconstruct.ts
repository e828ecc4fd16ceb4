/**
 * Block reconstruction: after a block's linears are pruned, all its tensors are trained so that the block gives what it gave
 * in the dense model, zeros staying zeros. The block's inputs are those of the pruned model, so it makes up for errors of
 * the blocks before it as well (targets "dense": the dense model's own stream), or only for its own (targets "block": the
 * dense block on the same inputs).
 *
 * Source: Shin et al. 2024, arXiv:2406.15524 (BR and global propagation). The loss is divided by the targets' mean square, so
 * that one learning rate serves all blocks, and the weights kept are those with the smallest loss on sequences held out.
 */
import { z } from "zod";
import { MersenneTwister, shuffled } from "../calibration/random.js";
import type { Device } from "../device/device.js";
import { NumericalError } from "../errors.js";
import { batchesOf } from "../forward/stream.js";
import type { HiddenStates } from "../forward/hidden-states.js";
import { valuesOf } from "../forward/values.js";
import { sequencesPerRun } from "../forward/weights.js";
import type { BlockSpec } from "../model/architecture.js";
import { BlockLoss, type LossBatch } from "./block-loss.js";
import { takeStep } from "./optimiser.js";
import { blockParameters } from "./parameters.js";
import { linearRate } from "./schedule.js";
import type { Trainer } from "./trainer.js";

/** Learning rate times width that suits a block of any width: 1e-3 at 256, 6e-5 at 4096. */
const RATE_TIMES_WIDTH = 0.256;

const schema = z.strictObject({
  /** Passes over the calibration sequences, for each block. */
  epochs: z.number().int().min(1).default(8),
  /** Sequences per step. */
  batchSize: z.number().int().min(1).default(8),
  /** Peak learning rate of Adam. Default: 0.256 / hidden size. */
  lr: z.number().positive().max(1).optional(),
  /** Fraction of the steps in which the rate rises; then it falls to 0. */
  warmup: z.number().min(0).max(0.9).default(0.1),
  /** What the block is to give: the dense model's hidden states, or what the dense block makes of the pruned model's. */
  targets: z.enum(["dense", "block"]).default("dense"),
  /** Fraction of the sequences that only tell when to stop; 0 keeps the last weights. */
  heldOut: z.number().min(0).max(0.5).default(0.125),
});
export type ReconstructOptions = z.infer<typeof schema>;

export const reconstruct = {
  name: "reconstruct",
  summary: "train what a block kept until it gives what it gave in the dense model, block by block",
  unit: "block",
  schema,
} satisfies Trainer<ReconstructOptions>;

export interface BlockToReconstruct {
  readonly block: BlockSpec;
  /** By role; replaced by the trained values. */
  readonly weights: ReadonlyMap<string, Float32Array>;
  /** Roles of the tensors whose zeros stay. */
  readonly masked: ReadonlySet<string>;
  /** The block's inputs, and what it is to give for them. */
  readonly inputs: HiddenStates;
  readonly targets: HiddenStates;
  /** Compiled for this kind of block and all its tensors. */
  readonly loss: BlockLoss;
  readonly device: Device;
  readonly seed: number;
  /** Sequences that go through the block together; default `sequencesPerRun`. A step of more adds up its runs. */
  readonly sequencesPerRun?: number | undefined;
  /** Called after every step; throws to stop. */
  readonly onStep: (progress: { readonly done: number; readonly steps: number; readonly loss: number }) => void;
}

/** Losses are divided by the targets' mean square: 0 is perfect, 1 as good as giving nothing. */
export interface ReconstructionReport {
  readonly before: number;
  readonly after: number;
  /** On the sequences held out; null where there are none. */
  readonly heldOutBefore: number | null;
  readonly heldOutAfter: number | null;
  readonly steps: number;
}

/** @throws NumericalError E_NON_FINITE where the loss is not finite; the weights are then as they were */
export async function reconstructBlock(
  work: BlockToReconstruct,
  options: ReconstructOptions,
): Promise<ReconstructionReport> {
  const { block, weights, masked, inputs, loss, device, seed } = work;
  const random = new MersenneTwister(seed);
  const order = shuffled(
    Array.from({ length: inputs.sequences }, (_, i) => i),
    random,
  );
  const heldOutCount = Math.min(Math.round(options.heldOut * order.length), order.length - 1);
  const [heldOut, training] = [order.slice(0, heldOutCount), order.slice(heldOutCount)];
  const hiddenSize = inputs.sequenceLength / inputs.tokens;
  const lr = options.lr ?? RATE_TIMES_WIDTH / hiddenSize;
  const batches = new Batches(work, work.sequencesPerRun ?? sequencesPerRun(inputs.tokens));
  const energy = await batches.energy(training);

  using parameters = blockParameters(device, block, weights, masked);
  const measure = async (sequences: readonly number[]): Promise<number | null> => {
    if (sequences.length === 0) return null;
    let sum = 0;
    for await (const batch of batches.of(sequences, 1 / (sequences.length * energy)))
      sum += await loss.loss(parameters.feeds(), batch);
    return sum;
  };

  const before = expectFinite(block, 0, (await measure(training)) as number);
  const heldOutBefore = await measure(heldOut);
  let best: { readonly loss: number; readonly values: Map<string, Float32Array> } | undefined =
    heldOutBefore === null ? undefined : { loss: heldOutBefore, values: parameters.snapshot() };
  const perEpoch = Math.ceil(training.length / options.batchSize);
  const steps = options.epochs * perEpoch;
  let step = 0;
  for (let epoch = 0; epoch < options.epochs; epoch++) {
    const sequences = shuffled(training, random);
    for (let first = 0; first < sequences.length; first += options.batchSize) {
      const some = sequences.slice(first, first + options.batchSize);
      let [stepLoss, isFirst] = [0, true];
      for await (const batch of batches.of(some, 1 / (some.length * energy))) {
        const into = isFirst ? parameters.sinks() : undefined;
        const result = await loss.gradients(parameters.feeds(), batch, into);
        if (!isFirst) {
          parameters.accumulate(result.gradients);
          result.gradients.forEach((array) => array[Symbol.dispose]());
        }
        stepLoss += result.loss;
        isFirst = false;
      }
      step++;
      expectFinite(block, step, stepLoss);
      parameters.uploadGradients();
      await takeStep(parameters, { rate: linearRate(lr, step, steps, options.warmup), step, gradientScale: 1 });
      work.onStep({ done: step, steps, loss: stepLoss });
    }
    const reached = await measure(heldOut);
    if (reached !== null && best !== undefined && reached < best.loss)
      best = { loss: reached, values: parameters.snapshot() };
  }
  if (best !== undefined) await parameters.assign(best.values);
  const after = expectFinite(block, steps, (await measure(training)) as number);
  parameters.copyTo(weights);
  return { before, after, heldOutBefore, heldOutAfter: best?.loss ?? null, steps };
}

/** Sequences gathered from anywhere into arrays of a run's size. */
class Batches {
  readonly #inputs: HiddenStates;
  readonly #targets: HiddenStates;
  readonly #size: number;
  readonly #arrays: readonly [Float32Array, Float32Array];

  constructor({ inputs, targets }: Pick<BlockToReconstruct, "inputs" | "targets">, size: number) {
    this.#inputs = inputs;
    this.#targets = targets;
    this.#size = Math.min(size, inputs.sequences);
    const length = this.#size * inputs.sequenceLength;
    this.#arrays = [new Float32Array(length), new Float32Array(length)];
  }

  /** Σ target² per sequence, the mean over some. */
  async energy(sequences: readonly number[]): Promise<number> {
    let sum = 0;
    for (const sequence of sequences) {
      using target = await this.#targets.read(sequence, 1);
      for (const value of valuesOf(target)) sum += value * value;
    }
    return sum / sequences.length;
  }

  /** Each is overwritten by the next. */
  async *of(sequences: readonly number[], weight: number): AsyncGenerator<LossBatch> {
    const { tokens } = this.#inputs;
    for (const { first, count } of batchesOf({ sequences: sequences.length, tokens }, { size: this.#size })) {
      const chosen = sequences.slice(first, first + count);
      const hidden = await this.#inputs.gather(chosen, this.#arrays[0]);
      const target = await this.#targets.gather(chosen, this.#arrays[1]);
      yield { hidden, target, batch: count, tokens, weight };
    }
  }
}

function expectFinite({ name }: BlockSpec, step: number, loss: number): number {
  if (Number.isFinite(loss)) return loss;
  throw new NumericalError("E_NON_FINITE", `${name}: the loss of its reconstruction is ${loss} at step ${step}.`, {
    hint: "Try a smaller lr, or another method before it.",
    details: { block: name, step, loss },
  });
}
