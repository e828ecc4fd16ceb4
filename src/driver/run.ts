/**
 * Everything one run works with, and what is said and timed about it. Opened and closed by prune-model.ts; what happens
 * to a block is prune-block.ts's business.
 */
import type { OutputCheckpoint } from "../checkpoint/output.js";
import type { EngineContext } from "../context.js";
import type { RunConfig } from "../contract.js";
import type { Device } from "../device/device.js";
import type { BlockSpec } from "../model/architecture.js";
import type { BlockRunner } from "../forward/block-runner.js";
import type { HiddenStates } from "../forward/hidden-states.js";
import type { Model } from "../model/open-model.js";
import type { LayerSolver } from "../solvers/solver.js";
import type { StoredStatistics } from "./stored-statistics.js";

export interface Run {
  readonly config: RunConfig;
  readonly context: EngineContext;
  readonly model: Model;
  /** The method and its further steps, options bound. */
  readonly solver: LayerSolver<undefined>;
  /** Fraction of zeros of every selected linear, by name. */
  sparsities: ReadonlyMap<string, number>;
  readonly selected: ReadonlySet<string>;
  readonly device: Device;
  readonly output: OutputCheckpoint;
  readonly runner: BlockRunner;
  /** undefined where neither the method nor measuring needs calibration: then nothing is forwarded. */
  readonly states: HiddenStates | undefined;
  /** The dense model beside the pruned one, where that is what the run reproduces; its weights are the current block's. */
  readonly dense: { readonly states: HiddenStates; weights: Map<string, Float32Array> } | undefined;
  readonly batch: number;
  /** Statistics that runs of one dense model share, where this is one of them. */
  readonly stored: StoredStatistics | undefined;
  /** What `measureLoss` alone has taken so far; no part of the run's time. */
  readonly measuring: { seconds: number };
  /** The current block's tensors in f32; the next block takes over the memory. */
  weights: Map<string, Float32Array>;
}

/** Do work that only measuring needs. */
export async function aside<Result>(run: Pick<Run, "measuring">, work: () => Promise<Result>): Promise<Result> {
  const started = performance.now();
  try {
    return await work();
  } finally {
    run.measuring.seconds += (performance.now() - started) / 1000;
  }
}

/** @param share how much of the block is done, 0..1 */
export function stage(run: Run, block: BlockSpec, name: string, share: number): void {
  const blocks = run.model.architecture.blocks.length;
  run.context.emit({
    type: "stage",
    block: block.index,
    blocks,
    stage: name,
    fraction: (block.index + share) / blocks,
  });
}
