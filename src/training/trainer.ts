/**
 * What every training step has in common: it changes the values of weights by gradients. Most start from a mask that
 * another method left and keep it; some find their own. A step trains each block by itself, right after its linears are
 * solved, or the whole model after its last block.
 */
import type { OptionsSchema } from "../solvers/solver.js";
import type { Pattern } from "../sparsity/pattern.js";

export interface Trainer<Options> {
  readonly name: string;
  /** One line for `prune methods` and the documentation. */
  readonly summary: string;
  /** What it trains at once. */
  readonly unit: "block" | "model";
  /** Whether it finds the mask itself, and so may come first. */
  readonly choosesMask?: boolean;
  readonly schema: OptionsSchema<Options>;
  /** See `LayerSolver`. */
  misfit?(options: Options, pattern: Pattern): string | undefined;
}
