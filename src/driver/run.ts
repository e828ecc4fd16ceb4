/**
 * What one run works with, whatever its method and its transforms, and what is said and timed about it. Opened and closed by
 * session.ts; what happens to a block is prune-block.ts's business.
 */
import type { OutputCheckpoint } from "../checkpoint/output.js";
import { throwIfStopped, type EngineContext } from "../context.js";
import type { RunConfig } from "../contract.js";
import type { Device } from "../device/device.js";
import type { BlockRunner, BlockWeights } from "../forward/block-runner.js";
import type { Stream } from "../forward/stream.js";
import type { BlockSpec, InputGroup } from "../model/architecture.js";
import type { Model } from "../model/open-model.js";
import type { ElsaOptions } from "../training/elsa.js";
import type { FinetuneOptions } from "../training/finetune.js";
import type { GradientSums } from "../training/gradient-statistics.js";
import type { ReconstructOptions } from "../training/reconstruct.js";
import type { RegionalOptions } from "../training/regional-optimisation.js";
import type { SafeOptions } from "../training/safe.js";
import type { ProjectedLinear } from "../training/projection.js";
import type { BlockReconstruction } from "./block-reconstruction.js";
import type { Course } from "./course.js";
import { blockPart, type BlockStep } from "./parts.js";
import type { BoundSolver } from "./solve-linear.js";

export interface RunParts {
  readonly config: RunConfig;
  readonly context: EngineContext;
  readonly model: Model;
  /** The method and its further steps, options bound. */
  readonly solver: BoundSolver;
  /** Names of the linears that are pruned. */
  readonly selected: ReadonlySet<string>;
  readonly device: Device;
  readonly output: OutputCheckpoint;
  readonly runner: BlockRunner;
  /** The pruned model's hidden states; undefined where nothing looks at activations: then nothing is forwarded. */
  readonly stream: Stream | undefined;
  /** The dense model's beside them, where that is what the run reproduces or trains towards. */
  readonly denseStream: Stream | undefined;
  /** Trains every block once its linears are solved. */
  readonly reconstruction: BlockReconstruction | undefined;
  /** How the whole model is trained after its last block, in order. */
  readonly trainings: readonly ModelTraining[];
  readonly clock: Clock;
  readonly course: Course;
}

/** A step that trains every block, with its options. */
export type BlockTraining =
  | { readonly name: "reconstruct"; readonly options: ReconstructOptions }
  | { readonly name: "safe" | "safe+"; readonly options: SafeOptions }
  | { readonly name: "wanda++"; readonly options: RegionalOptions };

/** A step that trains the whole model, with its options. */
export type ModelTraining =
  | { readonly name: "finetune"; readonly options: FinetuneOptions }
  | { readonly name: "elsa"; readonly options: ElsaOptions };

/** Whether the dense model goes through every step of it as well. */
export function isTaught({ options }: ModelTraining): boolean {
  return options.distillation > 0 || options.squareHead > 0;
}

/** A block while it is worked on. */
export interface BlockAtWork {
  readonly spec: BlockSpec;
  /** Tensors by role in f32, changed in place as the block is pruned. */
  readonly weights: Map<string, Float32Array>;
  /** The dense block's, where the dense model goes along. */
  readonly denseWeights: Map<string, Float32Array> | undefined;
  /** What the method is told of gradients, changed in place where channels change places; absent: nothing. */
  readonly gradients?: GradientSums | undefined;
}

/** Tells the run's time from what only measuring takes. */
export class Clock {
  #measuring = 0;

  /** What work that is there only to measure has taken so far; no part of the run's time. */
  get measuringSeconds(): number {
    return this.#measuring;
  }

  /** Do work that a run which measures nothing would not do. */
  async aside<Result>(work: () => Promise<Result>): Promise<Result> {
    const started = performance.now();
    try {
      return await work();
    } finally {
      this.#measuring += (performance.now() - started) / 1000;
    }
  }
}

/** Work on the calibration's activations: the method's, or only there to measure a method that does not look at them. */
export function onActivations<Result>(
  run: Pick<RunParts, "solver" | "reconstruction" | "clock">,
  work: () => Promise<Result>,
): Promise<Result> {
  return run.solver.needs.length > 0 || run.reconstruction !== undefined ? work() : run.clock.aside(work);
}

/**
 * Say what is done to a block.
 * @param part of the run's course
 * @param share how much of the part is done, 0..1
 */
export function stage(
  { context, model, course }: Pick<RunParts, "context" | "model" | "course">,
  block: BlockSpec,
  part: string,
  share: number,
  words: string,
): void {
  const blocks = model.architecture.blocks.length;
  context.emit({ type: "stage", block: block.index, blocks, stage: words, fraction: course.reach(part, share) });
}

/** The same of a step that every block goes through. */
export function blockStage(
  run: Pick<RunParts, "context" | "model" | "course">,
  block: BlockSpec,
  step: BlockStep,
  share: number,
  words: string = step,
): void {
  stage(run, block, blockPart(block, step), share, words);
}

/** Hidden states through a block whose weights are final. The last block's output is not needed but to train towards. */
export async function moveOn(
  run: Pick<RunParts, "context" | "model" | "course">,
  stream: Stream | undefined,
  block: BlockSpec,
  weights: BlockWeights,
  { step = "forward", isLastNeeded = false }: { readonly step?: BlockStep; readonly isLastNeeded?: boolean } = {},
): Promise<void> {
  if (stream === undefined) return;
  if (!isLastNeeded && block.index === run.model.architecture.blocks.length - 1) return;
  await stream.pass(block, weights, {
    moves: true,
    onBatch: (done, total) => {
      blockStage(run, block, step, done / total);
      throwIfStopped(run.context, true);
    },
  });
}

/** Whether a router decides which tokens reach some of the block's linears: experts, whose statistics may need a second pass. */
export function isRouted({ groups }: Pick<BlockSpec, "groups">): boolean {
  return groups.some((group) => group.isRouted === true);
}

/** Roles of the tensors of a block that hold pruned linears: their zeros stay in training. */
export function maskedRoles({ groups }: Pick<BlockSpec, "groups">, selected: ReadonlySet<string>): Set<string> {
  const pruned = groups.filter((group) => isPruned(group, selected));
  return new Set(pruned.flatMap(({ linears }) => linears.map(({ role }) => role)));
}

/**
 * The pruned linears of a block's tensors, by role.
 * @param norms of the inputs of groups, as far as they are known, to scale scores by
 */
export function projectedLinears(
  { groups }: Pick<BlockSpec, "groups">,
  sparsities: ReadonlyMap<string, number>,
  norms: ReadonlyMap<string, Float32Array> = new Map(),
): Map<string, ProjectedLinear[]> {
  const byRole = new Map<string, ProjectedLinear[]>();
  for (const { name, linears } of groups)
    for (const linear of linears) {
      const sparsity = sparsities.get(linear.name);
      if (sparsity === undefined) continue;
      const projected = { linear, sparsity, scale: norms.get(name) };
      byRole.set(linear.role, [...(byRole.get(linear.role) ?? []), projected]);
    }
  return byRole;
}

/** Whether anything that reads these inputs is pruned. */
export function isPruned({ linears }: InputGroup, selected: ReadonlySet<string>): boolean {
  return linears.some(({ name }) => selected.has(name));
}
