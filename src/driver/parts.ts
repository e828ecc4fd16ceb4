/** What the parts of a run are called: their costs have these names, and what is told of them while they are done. */
import type { BlockSpec } from "../model/architecture.js";

/** Names of the parts of a run that belong to no block. */
export const PARTS = {
  weights: "check of the weights",
  text: "text",
  copy: "copy",
  gradients: "gradients",
  allocation: "allocation",
  search: "search",
} as const;

/** What is done to a block besides solving its linears, whose parts have their names. */
export const BLOCK_STEPS = [
  ...(["read", "regional gradients", "statistics", "dense forward", "training", "forward"] as const),
  "end",
] as const;
export type BlockStep = (typeof BLOCK_STEPS)[number];

export function blockPart({ name }: Pick<BlockSpec, "name">, step: BlockStep): string {
  return `${name} ${step}`;
}

/** Of the how-manieth training of the whole model. */
export function trainingPart(index: number): string {
  return `training ${index}`;
}
