/** Llama, and the many checkpoints that only reuse its layout: the family that others are variations of. */
import { gatedFamily } from "../gated-decoder.js";

export const LLAMA = gatedFamily(
  "llama",
  [
    "grouped-query attention",
    "explicit head_dim",
    "attention and MLP biases",
    "rotary scaling: linear, dynamic, yarn, llama3, longrope",
    "tied or own head",
  ],
  () => ({}),
);
