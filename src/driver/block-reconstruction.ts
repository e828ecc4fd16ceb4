/** Blocks that are trained after their linears are solved; how is training/reconstruct.ts's business. */
import { join } from "node:path";
import { throwIfStopped } from "../context.js";
import { InternalError } from "../errors.js";
import { HiddenStates } from "../forward/hidden-states.js";
import { Stream } from "../forward/stream.js";
import { BlockLoss } from "../training/block-loss.js";
import { reconstructBlock, type ReconstructionReport, type ReconstructOptions } from "../training/reconstruct.js";
import { maskedRoles, stage, type BlockAtWork, type RunParts } from "./run.js";

export const TARGETS_SCRATCH_NAME = "targets.bin";

export type TrainingParts = Pick<
  RunParts,
  "config" | "context" | "model" | "selected" | "device" | "output" | "runner" | "stream" | "denseStream"
>;

/** Training of one block after another, with the programs of the last kind of block. */
export class BlockReconstruction implements AsyncDisposable {
  readonly #run: TrainingParts;
  readonly #options: ReconstructOptions;
  #loss: { readonly key: string; readonly programs: BlockLoss } | undefined;

  constructor(run: TrainingParts, options: ReconstructOptions) {
    this.#run = run;
    this.#options = options;
  }

  /** @param block its dense weights are those of the dense model, whose stream has gone past it already */
  async train({ spec, weights, denseWeights }: BlockAtWork): Promise<ReconstructionReport> {
    const { config, device, selected, stream, denseStream } = this.#run;
    if (stream === undefined || denseWeights === undefined)
      throw new InternalError("E_TRAINING", `${spec.name}: nothing to train with`);
    const masked = maskedRoles(spec, selected);
    const work = async (targets: HiddenStates): Promise<ReconstructionReport> =>
      reconstructBlock(
        {
          ...{ block: spec, weights, masked, inputs: stream.states, targets, device },
          loss: await this.#programs(spec),
          seed: config.seed + spec.index,
          onStep: ({ done, steps, loss }) => {
            stage(this.#run, spec, `reconstruct, loss ${loss.toPrecision(3)}`, done / steps);
            throwIfStopped(this.#run.context, true);
          },
        },
        this.#options,
      );
    if (this.#options.targets === "dense") {
      if (denseStream === undefined) throw new InternalError("E_TRAINING", `${spec.name}: no dense stream`);
      return work(denseStream.states);
    }
    await using targets = await this.#ownTargets(spec, denseWeights, stream);
    return await work(targets);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#loss?.programs[Symbol.asyncDispose]();
  }

  /** What the dense block makes of the inputs that the pruned one sees. */
  async #ownTargets(
    spec: BlockAtWork["spec"],
    denseWeights: BlockAtWork["weights"],
    { states, runner }: Stream,
  ): Promise<HiddenStates> {
    const { config, model, output } = this.#run;
    const targets = await HiddenStates.create({
      sequences: states.sequences,
      tokens: states.tokens,
      hiddenSize: model.architecture.hiddenSize,
      memoryBytes: config.memoryBytes / 2,
      scratchFile: join(output.partialDirectory, TARGETS_SCRATCH_NAME),
    });
    try {
      await states.copyTo(targets);
      await new Stream(runner, targets).pass(spec, denseWeights, { moves: true });
      return targets;
    } catch (error) {
      await targets[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #programs(spec: BlockAtWork["spec"]): Promise<BlockLoss> {
    if (this.#loss?.key === spec.shapeKey) return this.#loss.programs;
    await this.#loss?.programs[Symbol.asyncDispose]();
    this.#loss = undefined;
    const { runner, model } = this.#run;
    const programs = await BlockLoss.compile(runner, model.architecture, spec, [...spec.tensors.keys()]);
    this.#loss = { key: spec.shapeKey, programs };
    return programs;
  }
}
