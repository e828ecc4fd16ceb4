/** Bytes that a run writes beside its output while it works, at their fullest moment. Counts only, as in run-cost.ts. */
import type { RunConfig } from "../contract.js";
import { spilledBytes } from "../forward/hidden-states.js";
import type { Architecture } from "../model/architecture.js";
import { needsActivations } from "../allocation/registry.js";
import {
  gradientStateBytes,
  isForwarded,
  storeBytes,
  summedBytes,
  trainedElements,
  type PlannedRun,
} from "./run-cost.js";

type DiskParts = Pick<PlannedRun, "config" | "architecture" | "selected" | "solver" | "blockTrainings" | "trainings">;

/** A training's store, two copies of its state, and what was trained, in f32. */
const COPIES_OF_STATE = 2;

export function scratchBytesOf(planned: DiskParts): number {
  const { config, architecture, blockTrainings, trainings } = planned;
  const hasDense = config.reproduce === "model" || blockTrainings.length > 0;
  const states = statesOf(config, architecture);
  const isStreamed = isForwarded(planned) || needsActivations(config.allocation);
  const memoryBytes = hasDense ? config.memoryBytes / 2 : config.memoryBytes;
  const streams = (isStreamed ? 1 : 0) + (hasDense ? 1 : 0); // the dense model's, or the targets of a block
  const spilled = streams * spilledBytes({ ...states, memoryBytes });
  const sums = architecture.blocks.reduce((sum, block) => sum + summedBytes(planned, block), 0);
  const gradients = sums === 0 ? 0 : sums + Math.max(0, gradientStateBytes(planned) - config.memoryBytes);
  const trained = trainings.map((training) => {
    const { bytes, fileBytes } = storeBytes(planned, training);
    return fileBytes + COPIES_OF_STATE * bytes + 4 * trainedElements(architecture, training);
  });
  return spilled + gradients + Math.max(0, ...trained);
}

function statesOf(
  { nsamples, seqlen }: RunConfig,
  { state }: Architecture,
): Readonly<Record<"sequences" | "tokens" | "width", number>> {
  return { sequences: nsamples, tokens: seqlen, width: state.width };
}
