/**
 * What an allocation rule is: how much of the requested sparsity each part of the model gets. A rule is one object in one
 * file; what it needs to know of the dense model is handed to it as a source, so that rules know nothing of files,
 * forwards or devices. Pure.
 */
import type { z } from "zod";
import type { ScoredMatrix } from "./scores.js";

/** Options of a rule as its schema parses them. */
export interface RuleOptions {
  readonly rule: string;
}

/** What of the dense model a rule looks at; "activations" need calibration tokens. */
export type RuleNeeds = "nothing" | "weights" | "activations";

export interface LinearShape {
  readonly inFeatures: number;
  readonly outFeatures: number;
}

export interface SourceLinear extends LinearShape {
  readonly name: string;
}

/** A block with the linears of it that are pruned. */
export interface SourceBlock {
  readonly name: string;
  readonly linears: readonly SourceLinear[];
}

/** Sparsity of every linear, by name; the parameter-weighted mean is the request. */
export type Sparsities = ReadonlyMap<string, number>;

/** Options of a search over candidate allocations, see evolution.ts. */
export interface SearchOptions {
  readonly generations: number;
  readonly offspring: number;
  /** Weights of one level, as a fraction of a unit's weights in the mean over units. */
  readonly step: number;
  /** Bounds of every unit's sparsity. */
  readonly smallest: number;
  readonly largest: number;
  /** Calibration sequences that measure candidates. */
  readonly heldOut: number;
  /** What prunes the linears of candidates. */
  readonly proxy: "method" | "wanda";
}

/** The dense model, as far as rules may look at it. Linears come in the order of `blocks`; arrays are borrowed. */
export interface AllocationSource {
  /** Those that have something to prune. */
  readonly blocks: readonly SourceBlock[];
  /** One pass over the weights, each [outFeatures, inFeatures]. */
  visitWeights(visit: (values: Float32Array, linear: SourceLinear) => void | Promise<void>): Promise<void>;
  /** One pass over the weights, each as its squared singular values, ascending. */
  visitSpectra(visit: (eigenvalues: Float64Array, linear: SourceLinear) => void): Promise<void>;
  /** One pass of all tokens through the model: the weights of each block with the norms of their inputs. */
  visitInputs(visit: (matrices: readonly ScoredMatrix[], linears: readonly SourceLinear[]) => void): Promise<void>;
  /** Candidate allocations measured by the divergence of the models they make. */
  search(options: SearchOptions, target: number): Promise<Sparsities>;
}

/** What of a run a rule's cost depends on. */
export interface AllocationSize {
  /** All that are pruned. */
  readonly linears: readonly LinearShape[];
  /** Calibration sequences. */
  readonly sequences: number;
}

/**
 * What a rule does besides its passes: passes read the weights, and where the rule looks at activations one forward of all
 * tokens comes with them.
 */
export interface AllocationCost {
  /** Floating-point operations in f64. */
  readonly doubleOperations?: number;
  /** Sequences that candidate models are forwarded on and compared with the dense one, over all candidates. */
  readonly measuredSequences?: number;
  /** Linears that are solved for candidates, each by `solvedBy` and counted as average ones. */
  readonly solvedLinears?: number;
  readonly solvedBy?: "method" | "wanda";
  /** Sequences of the sets of hidden states that are there at once, beside the run's own, at each of its moments. */
  readonly states?: readonly (readonly number[])[];
  /** Memory beyond a block's weights while it works. */
  readonly bytes?: number;
}

/** How much each linear loses, by one rule. */
export interface AllocationRule<Options extends RuleOptions> {
  readonly name: string;
  /** One line for `--help` and the documentation. */
  readonly summary: string;
  /** A strict object whose key `rule` holds the names the rule goes by; its first one is `name`. */
  readonly schema: z.ZodObject<{ readonly rule: z.ZodLiteral<string> }> & z.ZodType<Options>;
  needs(options: Options): RuleNeeds;
  /** How often the weights of the dense model are read. */
  passes(options: Options): number;
  /** Whether the result depends on the method of the run. Absent: it does not. */
  dependsOnMethod?(options: Options): boolean;
  /** What else the rule does; absent: nothing worth a number. */
  cost?(options: Options, size: AllocationSize): AllocationCost;
  /**
   * What cannot be done, beyond bounds that do not hold the target: sentences without their full stop. Said before any work.
   * @param blocks blocks that have something to prune; undefined where the model is not known
   */
  problems?(options: Options, target: number, blocks: number | undefined): string[];
  allocate(source: AllocationSource, options: Options, target: number): Promise<Sparsities>;
}
