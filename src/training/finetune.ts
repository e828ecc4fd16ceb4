/**
 * Training under a fixed mask: tensors are trained on the run's text, zeros staying zeros, by the divergence of the pruned
 * model's predictions from the dense model's, the cross-entropy of the text, or a mixture. With `evolve` the mask moves
 * (evolution.ts).
 *
 * Source: the field's practice of retraining after pruning; Hinton et al. 2015, arXiv:1503.02531, for the divergence.
 */
import { z } from "zod";
import type { Device } from "../device/device.js";
import type { LinearSpec } from "../model/architecture.js";
import { descend, type Descent } from "./descent.js";
import { exchange, exchangedShare } from "./evolution.js";
import type { Trainer } from "./trainer.js";

/** Learning rate times width that suits a model of any width: 5e-4 at 256, 3e-5 at 4096. */
const RATE_TIMES_WIDTH = 0.128;

/** What of a model is trained: the tensors of its blocks, or the embedding and the head too. */
export const TRAINED = ["blocks", "all"] as const;

const schema = z.strictObject({
  steps: z.number().int().min(1).max(10_000_000).default(300),
  /** Train for as many steps as fit into so many minutes of the machine, in place of `steps`. */
  minutes: z.number().positive().max(1e6).optional(),
  /** Sequences per step. */
  batchSize: z.number().int().min(1).default(8),
  /** Peak learning rate of Adam. Default: 0.128 / hidden size. */
  lr: z.number().positive().max(1).optional(),
  /** Fraction of the steps in which the rate rises; then it falls to 0. */
  warmup: z.number().min(0).max(0.9).default(0.05),
  /** Share of the divergence from the dense model in the loss; the rest is the cross-entropy of the text. */
  distillation: z.number().min(0).max(1).default(1),
  /** Weight of how far each block's output is from the dense model's, see square-head.ts, added to the loss. */
  squareHead: z.number().min(0).finite().default(0),
  /** Largest norm of the gradient; 0 for no clipping. */
  clip: z.number().min(0).finite().default(1),
  train: z.enum(TRAINED).default("blocks"),
  /** Share of the kept weights that change places with pruned ones at first, falling to 0 by a cosine; 0 leaves masks as they are. */
  evolve: z.number().min(0).max(0.9).default(0),
  /** Steps between such exchanges. */
  evolveEvery: z.number().int().min(1).default(60),
});
export type FinetuneOptions = z.infer<typeof schema>;

export const finetune = {
  name: "finetune",
  summary: "train what all blocks kept by the dense model's predictions or by the text, the mask as it is",
  unit: "model",
  schema,
  misfit: ({ evolve }, pattern) =>
    evolve > 0 && pattern.kind === "n-of-m" ? "evolve has no meaning where every group keeps as many" : undefined,
} satisfies Trainer<FinetuneOptions>;

export interface FinetuneProblem extends Descent {
  readonly device: Device;
  readonly hiddenSize: number;
  /** The pruned linears of a parameter. */
  linearsOf(group: string, parameter: string): readonly LinearSpec[];
}

/** @throws NumericalError E_NON_FINITE where the loss is not finite, before the values change */
export async function finetuneModel(problem: FinetuneProblem, options: FinetuneOptions): Promise<void> {
  const { device, hiddenSize, linearsOf } = problem;
  const { steps, evolve, evolveEvery, lr = RATE_TIMES_WIDTH / hiddenSize } = options;
  const isExchanged = (step: number): boolean => evolve > 0 && step % evolveEvery === 0 && step < steps;
  await descend(problem, { ...options, lr }, (step) => {
    if (!isExchanged(step)) return {};
    const share = exchangedShare(evolve, step, steps);
    return {
      async visit(group, parameters) {
        for (const parameter of parameters)
          if (parameter.has("mask")) await exchange(device, parameter, linearsOf(group, parameter.name), share);
      },
    };
  });
}
