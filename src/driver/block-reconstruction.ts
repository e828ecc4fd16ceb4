/**
 * Blocks that are trained after their linears are solved; how is the business of training/reconstruct.ts, safe.ts and
 * regional-optimisation.ts.
 */
import { join } from "node:path";
import { collectStatistics } from "../calibration/statistics.js";
import { throwIfStopped } from "../context.js";
import type { BlockTrainingReport } from "../contract.js";
import { InternalError } from "../errors.js";
import { HiddenStates } from "../forward/hidden-states.js";
import { Stream } from "../forward/stream.js";
import type { BlockSpec } from "../model/architecture.js";
import { BlockLoss } from "../training/block-loss.js";
import type { ProjectedLinear } from "../training/projection.js";
import { reconstructBlock, type BlockToTrain, type ReconstructionReport } from "../training/reconstruct.js";
import { optimiseRegion } from "../training/regional-optimisation.js";
import { flattenBlock } from "../training/safe.js";
import type { SolvedLinear } from "./group-at-work.js";
import {
  blockStage,
  isPruned,
  maskedRoles,
  projectedLinears,
  type BlockAtWork,
  type BlockTraining,
  type RunParts,
} from "./run.js";

export const TARGETS_SCRATCH_NAME = "targets.bin";

export type TrainingParts = Pick<
  RunParts,
  "config" | "context" | "course" | "model" | "selected" | "device" | "output" | "runner" | "stream" | "denseStream"
>;

/** Whether it trains towards the dense model's own stream, not towards what the dense block makes of the pruned one's. */
export function takesDenseStream({ name, options }: BlockTraining): boolean {
  return name === "reconstruct" && options.targets === "dense";
}

/** Training of one block after another, with the programs of the last kind of block. */
export class BlockReconstruction implements AsyncDisposable {
  readonly #run: TrainingParts;
  readonly #trainings: readonly BlockTraining[];
  #loss: { readonly key: string; readonly programs: BlockLoss } | undefined;

  /** @param trainings in order */
  constructor(run: TrainingParts, trainings: readonly BlockTraining[]) {
    this.#run = run;
    this.#trainings = trainings;
  }

  /**
   * @param block its dense weights are those of the dense model, whose stream has gone past it already
   * @param solved its linears, for what prunes them again
   * @param sparsities of linears, by name, for what chooses masks
   */
  async train(
    block: BlockAtWork,
    solved: readonly Pick<SolvedLinear, "solveAgain">[],
    sparsities: ReadonlyMap<string, number>,
  ): Promise<BlockTrainingReport[]> {
    const pruneAgain = async (): Promise<void> => {
      for (const { solveAgain } of solved) await solveAgain();
    };
    await using own = this.#trainings.every(takesDenseStream) ? undefined : await this.#ownTargets(block);
    const linears = projectedLinears(block.spec, sparsities, own?.norms);
    const reports: BlockTrainingReport[] = [];
    for (const training of this.#trainings) {
      // Where nothing becomes sparse there is no error, and rounding alone must not move weights.
      if (training.name !== "reconstruct" && linears.size === 0) continue;
      const targets = takesDenseStream(training) ? this.#run.denseStream?.states : own?.states;
      if (targets === undefined) throw nothingToTrainWith(block.spec);
      reports.push(await this.#trainBy(training, block, targets, { linears, pruneAgain }));
    }
    return reports;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#loss?.programs[Symbol.asyncDispose]();
  }

  async #trainBy(
    training: BlockTraining,
    { spec, weights }: BlockAtWork,
    targets: HiddenStates,
    pruning: Pruning,
  ): Promise<BlockTrainingReport> {
    const { device, stream, context, config } = this.#run;
    const step = training.name;
    if (stream === undefined) throw nothingToTrainWith(spec);
    const work: BlockToTrain = {
      ...{ block: spec, weights, inputs: stream.states, targets, device },
      loss: await this.#programs(spec),
      seed: config.seed + spec.index,
      onStep: ({ done, steps, loss }) => {
        const number = this.#trainings.indexOf(training);
        const share = (number + done / steps) / this.#trainings.length;
        blockStage(this.#run, spec, "training", share, `${step}, loss ${loss.toPrecision(3)}`);
        throwIfStopped(context, true);
      },
    };
    return { name: spec.name, step, ...(await this.#trained(training, work, pruning)) };
  }

  #trained(
    training: BlockTraining,
    work: BlockToTrain,
    { linears, pruneAgain }: Pruning,
  ): Promise<ReconstructionReport> {
    const { config, selected } = this.#run;
    const { pattern } = config;
    switch (training.name) {
      case "reconstruct":
        return reconstructBlock({ ...work, masked: maskedRoles(work.block, selected) }, training.options);
      case "safe":
        return flattenBlock({ ...work, pattern, linears: withoutScale(linears) }, training.options);
      case "safe+":
        return flattenBlock({ ...work, pattern, linears }, training.options);
      case "wanda++":
        return optimiseRegion({ ...work, pruneAgain }, training.options);
      default:
        return training satisfies never;
    }
  }

  /** What the dense block makes of the inputs that the pruned one sees, and where somebody asks the norms of its linears' own inputs. */
  async #ownTargets({ spec, denseWeights }: BlockAtWork): Promise<OwnTargets> {
    const { config, model, output, stream, device, selected } = this.#run;
    if (stream === undefined || denseWeights === undefined) throw nothingToTrainWith(spec);
    const { states, runner } = stream;
    const targets = await HiddenStates.create({
      sequences: states.sequences,
      tokens: states.tokens,
      width: model.architecture.state.width,
      memoryBytes: config.memoryBytes / 2,
      scratchFile: join(output.partialDirectory, TARGETS_SCRATCH_NAME),
    });
    try {
      await states.copyTo(targets);
      const collected = await collectStatistics({
        ...{ stream: new Stream(runner, targets), block: spec, weights: denseWeights, device, moves: true },
        groups: spec.groups.filter((group) => isPruned(group, selected)),
        needs: this.#trainings.some(({ name }) => name === "safe+") ? ["column-norms"] : [],
      });
      const norms = new Map<string, Float32Array>();
      for (const [group, growing] of collected) {
        using statistics = growing;
        const { squareSums, tokenCount, sequenceCount } = await statistics.finish();
        // Of an expert that no token reaches nothing is known: all its inputs count the same.
        if (squareSums !== undefined && tokenCount > 0)
          norms.set(
            group,
            squareSums.map((sum) => Math.sqrt(sum / sequenceCount)),
          );
      }
      return { states: targets, norms, [Symbol.asyncDispose]: () => targets[Symbol.asyncDispose]() };
    } catch (error) {
      await targets[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #programs(spec: BlockSpec): Promise<BlockLoss> {
    if (this.#loss?.key === spec.shapeKey) return this.#loss.programs;
    await this.#loss?.programs[Symbol.asyncDispose]();
    this.#loss = undefined;
    const { runner, model } = this.#run;
    const programs = await BlockLoss.compile(runner, model.architecture, spec, [...spec.tensors.keys()]);
    this.#loss = { key: spec.shapeKey, programs };
    return programs;
  }
}

/** What a training that prunes goes by. */
interface Pruning {
  /** By role, with the norms of their inputs as far as they are known. */
  readonly linears: ReadonlyMap<string, readonly ProjectedLinear[]>;
  readonly pruneAgain: () => Promise<void>;
}

interface OwnTargets extends AsyncDisposable {
  readonly states: HiddenStates;
  /** By group: the root of Σ x² per sequence of every input. */
  readonly norms: ReadonlyMap<string, Float32Array>;
}

function withoutScale(
  linears: ReadonlyMap<string, readonly ProjectedLinear[]>,
): ReadonlyMap<string, readonly ProjectedLinear[]> {
  return new Map(
    [...linears].map(([role, some]) => [role, some.map(({ linear, sparsity }) => ({ linear, sparsity }))]),
  );
}

function nothingToTrainWith({ name }: BlockSpec): InternalError {
  return new InternalError("E_TRAINING", `${name}: nothing to train with`);
}
