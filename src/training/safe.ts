/**
 * SAFE and SAFE+: a block's reconstruction error is minimised under a sparsity constraint by ADMM, at a place whose whole
 * neighbourhood is good. The gradient of a step is that at x + ρ g/‖g‖, g over all tensors of the block; Adam takes it with
 * the penalty λ/2 ‖x - z + u‖², and after every `interval` steps z becomes the projection of x + u. At the end x itself is
 * projected. SAFE projects by |x|, SAFE+ by |x|·a_j, with the norms a of the dense block's inputs.
 *
 * Source: Lee et al. 2025, arXiv:2506.06866, and its released code for language models: the penalty goes through Adam's
 * moments with the loss's gradient, and the last projection has the method's own scores. The penalty is that at x, as in the
 * paper, where the code has it at the place above; it differs by λρ at most.
 */
import { z } from "zod";
import { MersenneTwister, shuffled } from "../calibration/random.js";
import type { Device } from "../device/device.js";
import type { Pattern } from "../sparsity/pattern.js";
import { Ascent } from "./ascent.js";
import { BlockObjective, expectFiniteLoss } from "./block-objective.js";
import { takeStep } from "./optimiser.js";
import { blockSpecs, Parameters } from "./parameters.js";
import type { ProjectedLinear } from "./projection.js";
import type { BlockToTrain, ReconstructionReport } from "./reconstruct.js";
import { linearRate } from "./schedule.js";
import { forEachSplit, lambdaAt, project, settle, startSplitting, type Splitting } from "./splitting.js";
import type { Trainer } from "./trainer.js";

export const safeSchema = z.strictObject({
  /** Passes over the calibration sequences, for each block. */
  epochs: z.number().int().min(1).default(30),
  /** Sequences per step. */
  batchSize: z.number().int().min(1).default(8),
  /** Peak learning rate of Adam. */
  lr: z.number().positive().max(1).default(2e-4),
  /** Fraction of the steps in which the rate rises, 2 epochs of 30; then it falls to 0. */
  warmup: z
    .number()
    .min(0)
    .max(0.9)
    .default(1 / 15),
  /** How far the gradient is taken from x; 0 for plain ADMM, at half the gradients. */
  rho: z.number().min(0).finite().default(2e-4),
  /** Penalty λ: the last one of a schedule. */
  lambda: z.number().min(0).finite().default(1e-3),
  /** How λ rises from 0. */
  schedule: z.enum(["constant", "linear", "cosine"]).default("constant"),
  /** Steps between projections. */
  interval: z.number().int().min(1).default(32),
});
export type SafeOptions = z.infer<typeof safeSchema>;

export const safe = {
  name: "safe",
  summary: "minimise each block's error at a sparse and flat place by ADMM; projects by magnitude",
  unit: "block",
  choosesMask: true,
  schema: safeSchema,
} satisfies Trainer<SafeOptions>;

export const safePlus = {
  ...safe,
  name: "safe+",
  summary: "as safe, but projects by |w|·‖input of the dense block‖",
} satisfies Trainer<SafeOptions>;

export interface FlatProblem extends Splitting {
  readonly parameters: Parameters;
  readonly steps: number;
  /** Take the gradients of a step's loss at the current values to the device. @throws where the loss is not finite */
  gradient(step: number): Promise<number>;
  /** Called after every step with the loss before it; throws to stop. */
  onStep(step: number, loss: number): void;
}

/** The parameters are projected when this resolves. */
export async function minimiseFlatly(problem: FlatProblem, options: SafeOptions): Promise<void> {
  const { device, parameters, steps } = problem;
  const { rho, lr, warmup, interval } = options;
  await forEachSplit(problem, parameters, startSplitting);
  using ascent = rho === 0 ? undefined : new Ascent(device, parameters);
  for (let step = 1; step <= steps; step++) {
    const loss = await problem.gradient(step);
    if (ascent !== undefined) {
      await ascent.climb(rho);
      await problem.gradient(step);
      ascent.goBack();
    }
    const pull = lambdaAt({ ...options, initialLambda: 0, steps }, step - 1);
    await takeStep(parameters, { pull, rate: linearRate(lr, step, steps, warmup), step, gradientScale: 1 });
    if (step % interval === 0)
      await forEachSplit(problem, parameters, async (split) => void (await project(split, "identity")));
    problem.onStep(step, loss);
  }
  await settleAll(problem);
}

async function settleAll(problem: Pick<FlatProblem, keyof Splitting | "parameters">): Promise<void> {
  await forEachSplit(problem, problem.parameters, (split) => settle(split, "identity"));
  await problem.parameters.refresh();
}

export interface BlockToFlatten extends BlockToTrain {
  readonly device: Device;
  readonly pattern: Pattern;
  /** By role: the pruned linears of the tensors that become sparse; with factors of their inputs' scores for SAFE+. */
  readonly linears: ReadonlyMap<string, readonly ProjectedLinear[]>;
}

/**
 * The report's loss before is that of the projection alone, with nothing trained.
 * @throws NumericalError E_NON_FINITE where the loss is not finite; the weights are then as they were
 */
export async function flattenBlock(work: BlockToFlatten, options: SafeOptions): Promise<ReconstructionReport> {
  const { block, weights, inputs, device, pattern, linears } = work;
  const all = Array.from({ length: inputs.sequences }, (_, i) => i);
  const batches = shuffledBatches(all, options, new MersenneTwister(work.seed));
  const objective = new BlockObjective(work);
  const energy = await objective.energy(all);
  using parameters = new Parameters(device, blockSpecs(block, weights, { split: new Set(linears.keys()) }));
  const splitting = { device, pattern, parameters, linearsOf: (role: string) => linears.get(role) ?? [] };
  await settleAll(splitting);
  const before = expectFiniteLoss(block, 0, await objective.loss(parameters, all, energy));
  await parameters.assign(weights);
  const steps = batches.length;
  const elements = inputs.sequenceLength;
  await minimiseFlatly(
    {
      ...{ ...splitting, steps },
      gradient: async (step) =>
        // The mean over all elements, which λ is measured by.
        expectFiniteLoss(block, step, await objective.gradient(parameters, batches[step - 1] ?? [], elements)),
      onStep: (done, loss) => work.onStep({ done, steps, loss: (loss * elements) / energy }),
    },
    options,
  );
  const after = expectFiniteLoss(block, steps, await objective.loss(parameters, all, energy));
  parameters.copyTo(weights);
  return { before, after, heldOutBefore: null, heldOutAfter: null, steps };
}

/** Of every step; each epoch has another order. */
function shuffledBatches(
  sequences: readonly number[],
  { epochs, batchSize }: Pick<SafeOptions, "epochs" | "batchSize">,
  random: MersenneTwister,
): number[][] {
  return Array.from({ length: epochs }, () => shuffled(sequences, random)).flatMap((order) =>
    Array.from({ length: Math.ceil(order.length / batchSize) }, (_, i) =>
      order.slice(i * batchSize, (i + 1) * batchSize),
    ),
  );
}
