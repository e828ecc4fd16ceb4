/**
 * What a method is told about gradients. Those of the whole model: a pass over the dense model before anything is pruned puts
 * every block's statistics into a file of its own in the partial output, from which they are read when the block is solved. The
 * journal says when the pass is whole; a run that is stopped before makes it again from the beginning. Those of a block by itself
 * are collected when its turn comes.
 */
import { syncDirectories, syncDirectory } from "../files/durable.js";
import { mkdir, open, rm } from "../files/output-files.js";
import { join } from "node:path";
import { openCheckpoint, SINGLE_FILE } from "../checkpoint/checkpoint.js";
import { writeTensors } from "../checkpoint/write-tensors.js";
import { throwIfStopped } from "../context.js";
import { InternalError } from "../errors.js";
import { lookUp } from "../look-up.js";
import type { BlockSpec } from "../model/architecture.js";
import type { GradientStatistic, ModelGradient } from "../solvers/solver.js";
import {
  collectGradients,
  type GradientPass,
  type GradientSums,
  type TensorSums,
} from "../training/gradient-statistics.js";
import { BlockGradients, stepStates } from "../training/model-gradients.js";
import { regionalGradients } from "../training/regional-gradients.js";
import type { Journal } from "./journal.js";
import { tell } from "./course.js";
import { PARTS } from "./parts.js";
import { blockStage, maskedRoles, type BlockAtWork, type RunParts } from "./run.js";
import type { BoundSolver } from "./solve-linear.js";

/** Folder in OUT.partial: a checkpoint for every block. */
export const GRADIENTS_NAME = "gradients";
export const GRADIENT_STATES_NAME = "gradient-states.bin";

/** The pass's name in the journal. */
const PASS = "pass";

/** A gradient takes the forward once more and twice its products. */
const BACK_PER_FORWARD = 3;

export type GradientParts = Pick<
  RunParts,
  "config" | "context" | "course" | "model" | "selected" | "output" | "runner" | "stream"
>;

/** What the method and its further steps look at. */
export function gradientsOf({ gradients }: Pick<BoundSolver, "gradients">): readonly GradientStatistic[] {
  return gradients?.(undefined) ?? [];
}

/** Those for which the whole model is gone back through. */
export function ofModel(statistics: readonly GradientStatistic[]): readonly ModelGradient[] {
  return statistics.filter((statistic) => statistic !== "regional-gradients");
}

export class GradientSource implements AsyncDisposable {
  readonly #run: GradientParts;
  /** Of the model's loss. */
  readonly #statistics: readonly ModelGradient[];
  readonly #isRegional: boolean;
  readonly #sequences: readonly Int32Array[];
  readonly #programs: BlockGradients;

  /** @param sequences of the calibration */
  constructor(run: GradientParts, statistics: readonly GradientStatistic[], sequences: readonly Int32Array[]) {
    this.#run = run;
    this.#statistics = ofModel(statistics);
    this.#isRegional = statistics.includes("regional-gradients");
    this.#sequences = sequences;
    this.#programs = new BlockGradients(run.runner, run.model.architecture);
  }

  /** The pass over the dense model, unless the journal says that it was made. To be called before other states are filled. */
  async prepare(journal: Journal): Promise<void> {
    if (this.#statistics.length === 0) return;
    if (journal.finished("gradients", PASS) !== undefined)
      return this.#run.course.leaveOut((name) => name === PARTS.gradients);
    const { model, runner, selected, context, config, output } = this.#run;
    const directory = join(output.partialDirectory, GRADIENTS_NAME);
    await rm(directory, { recursive: true, force: true }); // of a pass that was stopped
    await mkdir(directory);
    const [sequences, statistics] = [this.#sequences, this.#statistics];
    await using states = await stepStates(model.architecture, {
      ...{ sequences: sequences.length, tokens: config.seqlen, memoryBytes: config.memoryBytes },
      scratchFile: join(output.partialDirectory, GRADIENT_STATES_NAME),
    });
    const loss = await collectGradients({
      ...{ model, runner, sequences, states, statistics },
      rolesOf: (block) => maskedRoles(block, selected),
      take: (block, sums) => writeSums(this.#directoryOf(block), block, sums),
      onSequences: (block, direction, done) => {
        const share = this.#share(block, direction, done / sequences.length);
        tell(this.#run, PARTS.gradients, share, `gradients, ${block.name} ${direction}`);
        throwIfStopped(context, true);
      },
    });
    await syncDirectories({ open }, directory, output.partialDirectory);
    await journal.append("gradients", PASS, { loss });
    context.logger.info(`gradients of the dense model collected, loss ${loss.toPrecision(4)}`, {
      loss,
      sequences: sequences.length,
    });
  }

  /** What is known of a block that nothing is pruned of yet; the states stand in front of it. */
  async of(block: Pick<BlockAtWork, "spec" | "weights">): Promise<GradientSums> {
    const sums = new Map<GradientStatistic, TensorSums>();
    if (this.#statistics.length > 0)
      for (const [statistic, tensors] of await this.#read(block.spec)) sums.set(statistic, tensors);
    if (this.#isRegional) sums.set("regional-gradients", await this.#collect(block));
    return sums;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#programs[Symbol.asyncDispose]();
  }

  async #collect({ spec, weights }: Pick<BlockAtWork, "spec" | "weights">): Promise<TensorSums> {
    const { stream, runner, selected, context } = this.#run;
    if (stream === undefined) throw new InternalError("E_STATISTICS", `${spec.name}: nothing enters the block`);
    const { states } = stream;
    return regionalGradients({
      ...{ block: spec, weights, states, runner, gradients: this.#programs, roles: maskedRoles(spec, selected) },
      onSequence: (done) => {
        blockStage(this.#run, spec, "regional gradients", done / states.sequences);
        throwIfStopped(context, true);
      },
    });
  }

  /** What the pass collected. */
  async #read(block: BlockSpec): Promise<GradientSums<ModelGradient>> {
    await using file = await openCheckpoint(this.#directoryOf(block));
    const sums = new Map<ModelGradient, TensorSums>();
    for (const statistic of this.#statistics) {
      const tensors = new Map<string, Float32Array>();
      for (const role of maskedRoles(block, this.#run.selected))
        tensors.set(role, await file.readTensor(nameOf(statistic, role)));
      sums.set(statistic, tensors);
    }
    return sums;
  }

  #directoryOf({ index }: BlockSpec): string {
    return join(this.#run.output.partialDirectory, GRADIENTS_NAME, String(index));
  }

  /** How much of the pass is done. */
  #share({ index }: BlockSpec, direction: Parameters<GradientPass["onSequences"]>[1], ofBlock: number): number {
    const blocks = this.#run.model.architecture.blocks.length;
    const done = direction === "forward" ? index + ofBlock : blocks + BACK_PER_FORWARD * (blocks - 1 - index + ofBlock);
    return done / ((1 + BACK_PER_FORWARD) * blocks);
  }
}

function nameOf(statistic: ModelGradient, role: string): string {
  return `${statistic} ${role}`;
}

/** A block's sums, on the disk when this resolves. */
async function writeSums(directory: string, block: BlockSpec, sums: GradientSums<ModelGradient>): Promise<void> {
  const values = new Map(
    [...sums].flatMap(([statistic, tensors]) =>
      [...tensors].map(([role, sum]) => [nameOf(statistic, role), { role, sum }] as const),
    ),
  );
  const layouts = [...values].map(([name, { role, sum }]) => {
    return { name, dtype: "F32", shape: lookUp(block.tensors, role).shape, byteLength: sum.byteLength };
  });
  await mkdir(directory);
  await writeTensors(join(directory, SINGLE_FILE), layouts, (name, write) => write(lookUp(values, name).sum));
  await syncDirectory({ open }, directory);
}
