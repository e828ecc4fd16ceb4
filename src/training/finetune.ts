/**
 * Training under a fixed mask: all tensors of all blocks are trained on the run's calibration sequences, zeros staying zeros, by the
 * divergence of the pruned model's predictions from the dense model's, the cross-entropy of the text, or a mixture.
 *
 * Source: the field's practice of retraining after pruning; Hinton et al. 2015, arXiv:1503.02531, for the divergence.
 */
import { z } from "zod";
import { MersenneTwister } from "../calibration/random.js";
import type { BlockRunner } from "../forward/block-runner.js";
import type { HiddenStates } from "../forward/hidden-states.js";
import type { Architecture } from "../model/architecture.js";
import type { CalibratedEnds } from "./calibrated-ends.js";
import { accumulateGradients, type BlockGradients } from "./model-gradients.js";
import { expectFiniteLoss, takeStep } from "./optimiser.js";
import type { Parameters } from "./parameters.js";
import { linearRate } from "./schedule.js";
import { shuffled } from "./shuffle.js";
import type { Trainer } from "./trainer.js";

/** Learning rate times width that suits a model of any width: 5e-4 at 256, 3e-5 at 4096. */
const RATE_TIMES_WIDTH = 0.128;

const schema = z.strictObject({
  steps: z.number().int().min(1).max(10_000_000).default(300),
  /** Sequences per step. */
  batchSize: z.number().int().min(1).default(8),
  /** Peak learning rate of Adam. Default: 0.128 / hidden size. */
  rate: z.number().positive().max(1).optional(),
  /** Fraction of the steps in which the rate rises; then it falls to 0. */
  warmup: z.number().min(0).max(0.9).default(0.05),
  /** Share of the divergence from the dense model in the loss; the rest is the cross-entropy of the text. */
  distillation: z.number().min(0).max(1).default(1),
  /** Largest norm of the gradient; 0 for no clipping. */
  clip: z.number().min(0).finite().default(1),
});
export type FinetuneOptions = z.infer<typeof schema>;

export const finetune = {
  name: "finetune",
  summary: "train what all blocks kept by the dense model's predictions or by the text, the mask as it is",
  unit: "model",
  schema,
} satisfies Trainer<FinetuneOptions>;

export interface ModelToFinetune {
  readonly architecture: Architecture;
  readonly runner: BlockRunner;
  readonly gradients: BlockGradients;
  /** Of each block, in order; their masks are fixed. */
  readonly parameters: readonly Parameters[];
  readonly ends: CalibratedEnds;
  /** Calibration sequences that there are. */
  readonly sequences: number;
  /** For a step, see `stepStates`. */
  readonly states: HiddenStates;
  readonly seed: number;
  /** Called after every block of a step, forward and back; throws to stop. */
  readonly onBlock?: () => void;
  /** Called after every step. */
  readonly onStep: (progress: { readonly step: number; readonly steps: number; readonly loss: number }) => void;
}

export interface FinetuneReport {
  readonly steps: number;
  /** Mean losses over the first and the last tenth of the steps. */
  readonly first: number;
  readonly last: number;
}

/** @throws NumericalError E_NON_FINITE where the loss is not finite */
export async function finetuneModel(work: ModelToFinetune, options: FinetuneOptions): Promise<FinetuneReport> {
  const { parameters, ends, architecture } = work;
  const { steps, batchSize, clip } = options;
  const rate = options.rate ?? RATE_TIMES_WIDTH / architecture.hiddenSize;
  const random = new MersenneTwister(work.seed);
  const size = Math.min(batchSize, work.sequences);
  const losses: number[] = [];
  let waiting: number[] = [];
  for (let step = 1; step <= steps; step++) {
    if (waiting.length < size)
      waiting = shuffled(
        Array.from({ length: work.sequences }, (_, i) => i),
        random,
      );
    ends.choose(waiting.splice(0, size));
    const loss = await accumulateGradients({ ...work, sequences: size });
    expectFiniteLoss(loss, step, steps, "Try a smaller rate.");
    await takeStep(parameters, { rate: linearRate(rate, step, steps, options.warmup), step, clip });
    losses.push(loss);
    work.onStep({ step, steps, loss });
  }
  const tenth = Math.max(1, Math.floor(steps / 10));
  const mean = (some: readonly number[]): number => some.reduce((sum, loss) => sum + loss, 0) / some.length;
  return { steps, first: mean(losses.slice(0, tenth)), last: mean(losses.slice(-tenth)) };
}
