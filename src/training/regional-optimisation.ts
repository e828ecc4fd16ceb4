/**
 * Regional optimisation of Wanda++: rounds of training a block towards its dense output on a few sequences, all weights
 * moving, the pruned ones too, and of pruning it again by the scores of the dense block.
 *
 * Source: Yang et al. 2025, arXiv:2503.04992: RMSprop at 3e-7 for models of width 4096, five rounds of 32 sequences. The paper
 * has no code; one sequence to a step and moments that live through all rounds are ours.
 */
import { MersenneTwister, shuffled } from "../calibration/random.js";
import { BlockObjective, expectFiniteLoss } from "./block-objective.js";
import { blockSpecs, Parameters } from "./parameters.js";
import type { BlockToTrain, ReconstructionReport } from "./reconstruct.js";

/** Learning rate times width: the paper's at 4096. */
const RATE_TIMES_WIDTH = 3e-7 * 4096;

/**
 * RMSprop as step of Adam: no first moment, and so late a step that no moment is corrected for having begun at 0. Of the
 * square that is the mean with weight 0.01 on the newest.
 */
const RMSPROP = { decay: [0, 0.99], epsilon: 1e-8, step: Number.MAX_SAFE_INTEGER, gradientScale: 1 } as const;

export interface RegionalOptions {
  readonly rounds: number;
  /** Sequences of a round, drawn anew; all where there are fewer. */
  readonly samples: number;
  /** Default: 3e-7 · 4096 / hidden size. */
  readonly lr?: number | undefined;
}

export interface RegionToOptimise extends BlockToTrain {
  /** Prune the weights again, in place, by what was known of them before they were pruned. */
  readonly pruneAgain: () => Promise<void>;
}

/**
 * @returns losses on all sequences, of the block as it was pruned first and last
 * @throws NumericalError E_NON_FINITE where the loss is not finite; the weights are then as they were after the last pruning
 */
export async function optimiseRegion(work: RegionToOptimise, options: RegionalOptions): Promise<ReconstructionReport> {
  const { block, weights, inputs, device, seed, pruneAgain } = work;
  const random = new MersenneTwister(seed);
  const all = Array.from({ length: inputs.sequences }, (_, i) => i);
  const rate = options.lr ?? RATE_TIMES_WIDTH / (inputs.sequenceLength / inputs.tokens);
  const objective = new BlockObjective(work);
  const energy = await objective.energy(all);
  using parameters = new Parameters(device, blockSpecs(block, weights, {}));
  const before = expectFiniteLoss(block, 0, await objective.loss(parameters, all, energy));
  const perRound = Math.min(options.samples, all.length);
  const steps = options.rounds * perRound;
  let step = 0;
  for (let round = 0; round < options.rounds; round++) {
    for (const sequence of shuffled(all, random).slice(0, perRound)) {
      const loss = expectFiniteLoss(block, ++step, await objective.gradient(parameters, [sequence], energy));
      await parameters.step({ ...RMSPROP, rate });
      work.onStep({ done: step, steps, loss });
    }
    parameters.copyTo(weights);
    await pruneAgain();
    await parameters.assign(weights);
  }
  const after = expectFiniteLoss(block, steps, await objective.loss(parameters, all, energy));
  return { before, after, heldOutBefore: null, heldOutAfter: null, steps };
}
