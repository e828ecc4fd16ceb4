/** Options that several rules have. */
import { z } from "zod";
import { LARGEST_SPARSITY } from "./distribute.js";

export const fraction = z.number().min(0).max(1);

/** Bounds of every rule that spreads: what exceeds them is taken over by the other units. */
export const bounds = {
  /** No unit gets less than this. */
  smallest: z.number().min(0).lt(1).default(0),
  /** No unit gets more than this. */
  largest: z.number().gt(0).lt(1).default(LARGEST_SPARSITY),
};

/** What shares one sparsity: a block of the model, or each linear ("projection") by itself. */
export const granularity = z.enum(["block", "projection"]).default("block");
