/**
 * What a layer-wise method is: pure functions over one layer's problem. Solvers know nothing of files, models or
 * streaming, never import each other, and run on whichever device they are handed.
 */
import type { Device, KeepMask, Matrix } from "../device/device.js";
import type { Pattern } from "../sparsity/pattern.js";

/** What a method must know about a linear's inputs. One statistic serves all linears that read the same input. */
export type StatisticName = "column-norms" | "gram";

export interface LayerStatistics {
  /** Σ x² per input channel over all tokens, [inFeatures]; present for "column-norms" and "gram". */
  readonly squareSums?: Float32Array;
  /** Σ xxᵀ over all tokens, unscaled, [inFeatures, inFeatures], LOWER triangle; present for "gram". Borrowed: copy before changing. */
  readonly gram?: Matrix;
  readonly tokenCount: number;
  readonly sequenceCount: number;
}

export interface LayerProblem {
  /** For messages: the module path, for example model.layers.3.mlp.down_proj. */
  readonly name: string;
  readonly inFeatures: number;
  readonly outFeatures: number;
  /** [outFeatures, inFeatures]; OWNED by the solver's call: it may be changed in place and returned. */
  readonly weight: Matrix;
  readonly statistics: LayerStatistics;
  readonly pattern: Pattern;
  /** Fraction of zeros asked of this layer, in [0, 1). */
  readonly sparsity: number;
}

export interface LayerSolution {
  /** [outFeatures, inFeatures]; pruned entries are exactly +0. Owned by the caller. */
  readonly weight: Matrix;
  readonly keepMask: KeepMask;
  /** The solver's own objective, or undefined where the method has none (magnitude). Unit: see the solver. */
  readonly loss: number | undefined;
}

export interface SolverContext {
  readonly device: Device;
}

/** A schema in the sense of zod: parses unknown options or throws. */
export interface OptionsSchema<Options> {
  parse(value: unknown): Options;
}

export interface LayerSolver<Options> {
  readonly name: string;
  /** One line for `--help` and the documentation. */
  readonly summary: string;
  readonly needs: readonly StatisticName[];
  readonly schema: OptionsSchema<Options>;
  solve(problem: LayerProblem, options: Options, context: SolverContext): Promise<LayerSolution>;
}
