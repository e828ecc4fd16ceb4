/** What options can be: the choices by name, and the shapes of values that are more than a number or a word. */

/** When later linears see what pruning did to earlier ones. */
export const PROPAGATIONS = ["block", "group", "dense"] as const;
export type Propagation = (typeof PROPAGATIONS)[number];

/** What solved linears are to reproduce: the dense weight's outputs for the inputs that they see, or the dense model's. */
export const REPRODUCED = ["layer", "model"] as const;
export type Reproduced = (typeof REPRODUCED)[number];

/**
 * What becomes of a linear of an expert that the router sent fewer tokens than the linear has inputs: pruned with
 * statistics of all tokens, pruned by magnitude, or left dense.
 */
export const STARVED_TREATMENTS = ["all-tokens", "magnitude", "skip"] as const;
export type StarvedTreatment = (typeof STARVED_TREATMENTS)[number];

/** What may change places before an N:M pattern is chosen: nothing, or input channels where the function stays the same. */
export const PERMUTATIONS = ["none", "channels"] as const;
export type Permutation = (typeof PERMUTATIONS)[number];

/** Where solvers may run. */
export const DEVICE_CHOICES = ["auto", "cpu", "webgpu"] as const;
export type DeviceChoice = (typeof DEVICE_CHOICES)[number];

/** The name that stands for the best combination known instead of for a method (config/automatic.ts). */
export const AUTOMATIC = "auto";

/** Data that have a name: joined, and drawn from, as the papers do; or sequences that the model samples itself. */
export const DATA_SETS = ["c4", "wikitext2"] as const;
export type DataSet = (typeof DATA_SETS)[number];
export const OWN_TEXT = "self";

/** Where calibration or evaluation tokens come from. */
export interface TokenSource {
  /** Absolute path of a file, a folder or a glob; "-" for standard input; empty where the model samples its own. */
  readonly file: string;
  /** The one to take in a .safetensors file. */
  readonly tensor?: string;
  readonly set?: DataSet | typeof OWN_TEXT;
  /** As it was given, where `file` is a copy of what can be read once. */
  readonly name?: string;
}

/** One method of a run, with options already validated by its schema. */
export interface MethodStep {
  readonly method: string;
  readonly methodOptions: Readonly<Record<string, unknown>>;
}

/** What refines or updates the result of a method. */
export interface FurtherStep extends MethodStep {
  /** Glob or "re:" pattern of module paths: other linears are left as the steps before made them. Absent: all take part. */
  readonly match?: string;
}

/** A further step as it is asked for. */
export interface AskedStep {
  readonly name: string;
  readonly options?: Readonly<Record<string, unknown>> | undefined;
  readonly match?: string | undefined;
}

/** Another sparsity for the linears that a pattern matches. */
export interface SparsityOverride {
  readonly match: string;
  readonly sparsity: number;
}
