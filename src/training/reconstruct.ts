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
import type { BlockSpec } from "../model/architecture.js";
import { BlockObjective, expectFiniteLoss, type BlockTargets } from "./block-objective.js";
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

export interface BlockToTrain extends BlockTargets {
  readonly block: BlockSpec;
  /** By role; replaced by the trained values. */
  readonly weights: ReadonlyMap<string, Float32Array>;
  readonly device: Device;
  readonly seed: number;
  /** Called after every step; throws to stop. */
  readonly onStep: (progress: { readonly done: number; readonly steps: number; readonly loss: number }) => void;
}

export interface BlockToReconstruct extends BlockToTrain {
  /** Roles of the tensors whose zeros stay. */
  readonly masked: ReadonlySet<string>;
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
  const { block, weights, masked, inputs, device, seed } = work;
  const random = new MersenneTwister(seed);
  const order = shuffled(
    Array.from({ length: inputs.sequences }, (_, i) => i),
    random,
  );
  const heldOutCount = Math.min(Math.round(options.heldOut * order.length), order.length - 1);
  const [heldOut, training] = [order.slice(0, heldOutCount), order.slice(heldOutCount)];
  const { hiddenSize } = work.loss.architecture;
  const lr = options.lr ?? RATE_TIMES_WIDTH / hiddenSize;
  const objective = new BlockObjective(work);
  const energy = await objective.energy(training);

  using parameters = blockParameters(device, block, weights, masked);
  const measure = (sequences: readonly number[]): Promise<number> => objective.loss(parameters, sequences, energy);
  const measureHeldOut = async (): Promise<number | null> => (heldOut.length === 0 ? null : measure(heldOut));

  const before = expectFiniteLoss(block, 0, await measure(training));
  const heldOutBefore = await measureHeldOut();
  let best: { readonly loss: number; readonly values: Map<string, Float32Array> } | undefined =
    heldOutBefore === null ? undefined : { loss: heldOutBefore, values: parameters.snapshot() };
  const perEpoch = Math.ceil(training.length / options.batchSize);
  const steps = options.epochs * perEpoch;
  let step = 0;
  for (let epoch = 0; epoch < options.epochs; epoch++) {
    const sequences = shuffled(training, random);
    for (let first = 0; first < sequences.length; first += options.batchSize) {
      const some = sequences.slice(first, first + options.batchSize);
      const loss = await objective.gradient(parameters, some, energy);
      step++;
      expectFiniteLoss(block, step, loss);
      await takeStep(parameters, { rate: linearRate(lr, step, steps, options.warmup), step, gradientScale: 1 });
      work.onStep({ done: step, steps, loss });
    }
    const reached = await measureHeldOut();
    if (reached !== null && best !== undefined && reached < best.loss)
      best = { loss: reached, values: parameters.snapshot() };
  }
  if (best !== undefined) await parameters.assign(best.values);
  const after = expectFiniteLoss(block, steps, await measure(training));
  parameters.copyTo(weights);
  return { before, after, heldOutBefore, heldOutAfter: best?.loss ?? null, steps };
}
