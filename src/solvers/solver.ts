/**
 * What a layer-wise method is: pure functions over one layer's problem. Solvers know nothing of files, models or
 * streaming, never import each other, and run on whichever device they are handed.
 */
import type { Device, KeepMask, Matrix } from "../device/device.js";
import type { Pattern } from "../sparsity/pattern.js";
import type { LayerSize, SolveCost } from "./cost.js";

/** What a method must know about a linear's inputs. One statistic serves all linears that read the same input. */
export type StatisticName = "column-norms" | "gram" | "input-moments" | "inherited-errors";

/**
 * Of a weight's gradients G_i, one for every calibration sequence i by itself, of the mean next-token cross-entropy of the
 * sequence in the dense model: "gradient-magnitudes" is Σ |G_i|, "gradient-squares" Σ G_i² (the diagonal of the empirical
 * Fisher matrix), "gradient-sums" Σ G_i.
 */
export type ModelGradient = "gradient-magnitudes" | "gradient-squares" | "gradient-sums";

/**
 * What a method may be told of a weight's gradients. "regional-gradients" is the root mean square over sequences of
 * ∂‖block(X_i)‖₂ / ∂w: of the block that the weight is in, before any of it is pruned, with what enters it then.
 */
export type GradientStatistic = ModelGradient | "regional-gradients";

/** Each [outFeatures, inFeatures]. */
export type WeightGradients = Readonly<Partial<Record<GradientStatistic, Float32Array>>>;

/** First moments of a linear's inputs, per channel: what "input-moments" collects. */
export interface InputMoments {
  /** Σ x over all tokens, [inFeatures]. */
  readonly sums: Float32Array;
  /** Mean over sequences, weighted by their tokens, of the (biased) variance inside each sequence, [inFeatures]. */
  readonly variances: Float32Array;
}

export interface LayerStatistics {
  /** Σ x² per input channel over all tokens, [inFeatures]; present for "column-norms" and "gram". */
  readonly squareSums?: Float32Array;
  /** Σ xxᵀ over all tokens, unscaled, [inFeatures, inFeatures], LOWER triangle; present for "gram". Borrowed: copy before changing. */
  readonly gram?: Matrix;
  /** Present for "input-moments". */
  readonly moments?: InputMoments;
  /**
   * Σ (x̃ - x)xᵀ over all tokens with x̃ the dense model's input where x is, unscaled, [inFeatures, inFeatures]; present for
   * "inherited-errors", unless x̃ is not known: an expert's tokens are not the dense model's. Borrowed.
   */
  readonly errors?: Matrix;
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
  /** [outFeatures, inFeatures]: the original weight, where `weight` is no longer that. Borrowed. Absent: `weight` is it. */
  readonly dense?: Matrix;
  /** The mask so far, for solvers that start from one. Borrowed; a solver that leaves it as it is may return it. */
  readonly keepMask?: KeepMask;
  readonly statistics: LayerStatistics;
  /** What the method's `gradients` asks for, on the host. Borrowed. */
  readonly gradients?: WeightGradients;
  readonly pattern: Pattern;
  /** Fraction of zeros asked of this layer, in [0, 1). */
  readonly sparsity: number;
}

export interface LayerSolution {
  /** [outFeatures, inFeatures]; pruned entries are exactly +0. Owned by the caller. */
  readonly weight: Matrix;
  /** Owned by the caller; it may be the very mask that the problem came with. */
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
  /** What it must know of the weight's gradients under these options; absent: nothing, whatever they are. */
  gradients?(options: Options): readonly GradientStatistic[];
  /**
   * The solver refines or updates a mask that an earlier step chose: it takes `keepMask` and `dense` of the problem and
   * can only follow another step (steps.ts). Absent: it chooses the mask itself.
   */
  readonly startsFromMask?: true;
  /** Whether blocks are trained once their linears are solved and the linears are solved again. Absent: they are not. */
  solvesAgain?(options: Options): boolean;
  readonly schema: OptionsSchema<Options>;
  /** What these options cannot do with this pattern, without a full stop; undefined where they can. Asked before any work. */
  misfit?(options: Options, pattern: Pattern): string | undefined;
  /** What `solve` does of each kind of work, and the memory it takes: what plans of a run are made of. */
  cost(size: LayerSize, options: Options): SolveCost;
  /** @throws ConfigError E_MISFIT where `misfit` has something to say */
  solve(problem: LayerProblem, options: Options, context: SolverContext): Promise<LayerSolution>;
}
