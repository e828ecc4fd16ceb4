/**
 * What every training step has in common: it starts from weights that a mask left and changes their values by gradients,
 * the zeros stay. A step trains each block by itself, right after its linears are solved, or the whole model after its last.
 */
import type { OptionsSchema } from "../solvers/solver.js";

export interface Trainer<Options> {
  readonly name: string;
  /** One line for `prune methods` and the documentation. */
  readonly summary: string;
  /** What it trains at once. */
  readonly unit: "block" | "model";
  readonly schema: OptionsSchema<Options>;
}
