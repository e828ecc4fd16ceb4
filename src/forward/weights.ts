/** Reading one block's weights, copying them, and how many sequences a run of it takes. */
import { borrowed, elementsOf, type HostArray } from "../array.js";
import type { Checkpoint } from "../checkpoint/checkpoint.js";
import { lookUp } from "../look-up.js";
import type { BlockSpec } from "../model/architecture.js";

/** Tokens per run of a block: enough to keep the products busy, few enough that activations stay small. */
const TOKENS_PER_RUN = 2048;

/** How many sequences of `tokens` tokens go into one run. Part of a run's numbers: products are summed in this order. */
export function sequencesPerRun(tokens: number): number {
  return Math.max(1, Math.floor(TOKENS_PER_RUN / tokens));
}

/**
 * All tensors of a block, widened to f32, by role. The arrays of `previous`, a block that is no longer needed, are
 * overwritten where they fit: fresh memory costs more than the reading.
 */
export async function readBlockWeights(
  checkpoint: Checkpoint,
  block: BlockSpec,
  previous: ReadonlyMap<string, Float32Array> = new Map(),
): Promise<Map<string, Float32Array>> {
  const weights = new Map<string, Float32Array>();
  for (const [role, { tensor, shape }] of block.tensors) {
    const known = previous.get(role);
    const isReusable = known?.length === elementsOf(shape);
    weights.set(role, await checkpoint.readTensor(tensor, isReusable ? known : undefined));
  }
  return weights;
}

/** A block's weights as inputs of its graph, by role; borrowed. */
export function weightArrays(
  { tensors }: BlockSpec,
  weights: ReadonlyMap<string, Float32Array>,
): Map<string, HostArray> {
  return new Map([...tensors].map(([role, { shape }]) => [role, borrowed(role, lookUp(weights, role), shape)]));
}

/** Tensors of a checkpoint in f32 as inputs of a graph, by role. */
export async function readArrays(
  checkpoint: Checkpoint,
  tensors: BlockSpec["tensors"],
): Promise<Map<string, HostArray>> {
  const arrays = new Map<string, HostArray>();
  for (const [role, { tensor, shape }] of tensors)
    arrays.set(role, borrowed(role, await checkpoint.readTensor(tensor), shape));
  return arrays;
}

/** A copy of a block's weights, in the arrays of `previous` where they fit. */
export function copyBlockWeights(
  weights: ReadonlyMap<string, Float32Array>,
  previous: ReadonlyMap<string, Float32Array>,
): Map<string, Float32Array> {
  return new Map(
    [...weights].map(([role, values]) => {
      const known = previous.get(role);
      if (known?.length !== values.length) return [role, values.slice()];
      known.set(values);
      return [role, known];
    }),
  );
}
