/** Bytes that a run writes beside its output while it works, at their fullest moment. Counts only, as in run-cost.ts. */
import type { RunConfig } from "../contract.js";
import { spilledBytes } from "../forward/hidden-states.js";
import type { Architecture, LinearSpec } from "../model/architecture.js";
import { allocationCost, needsActivations } from "../allocation/registry.js";
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
  return spilled + gradients + Math.max(searchBytes(planned), ...trained);
}

/** What a search for an allocation keeps in files, which are gone before anything is pruned. */
function searchBytes({ config, architecture, solver, selected }: DiskParts): number {
  const linears = [...selected];
  const {
    states = [],
    solvedLinears = 0,
    solvedBy,
  } = allocationCost(config.allocation, {
    ...{ linears, sequences: config.nsamples },
  });
  const { seqlen: tokens, memoryBytes } = config;
  const { width } = architecture.state;
  const moments = states.map((sets) =>
    sets.reduce((sum, sequences) => sum + spilledBytes({ sequences, tokens, width, memoryBytes }), 0),
  );
  const isKept = solvedBy === "method" && solver.needs.includes("gram");
  const elements = linears.reduce((sum, { inFeatures, outFeatures }) => sum + inFeatures * outFeatures, 0);
  const solved = (4 * solvedLinears * elements) / Math.max(1, linears.length);
  return Math.max(0, ...moments) + (isKept ? gramBytes(architecture, selected) + Math.ceil(solved) : 0);
}

/** Gram matrices of the inputs of all linears that are pruned, in files. */
export function gramBytes({ blocks }: Architecture, selected: ReadonlySet<LinearSpec>): number {
  const groups = blocks.flatMap((block) => block.groups);
  return groups
    .filter(({ linears }) => linears.some((linear) => selected.has(linear)))
    .reduce((sum, { inFeatures }) => sum + 4 * inFeatures ** 2, 0);
}

function statesOf(
  { nsamples, seqlen }: RunConfig,
  { state }: Architecture,
): Readonly<Record<"sequences" | "tokens" | "width", number>> {
  return { sequences: nsamples, tokens: seqlen, width: state.width };
}
