/**
 * What the command line asks of the engine and what it hears back. Plain data only: it crosses a thread boundary
 * (structured clone), because ONNX Runtime blocks the thread it runs on.
 */
import type { RunConfig } from "./options/run-options.js";
import type { FurtherStep, MethodStep, Reproduced, StarvedTreatment, TokenSource } from "./options/values.js";
import type { Allocation } from "./allocation/registry.js";
import type { Pattern } from "./sparsity/pattern.js";
import type { ReconstructionReport } from "./training/reconstruct.js";

export type { RunConfig } from "./options/run-options.js";
export {
  PERMUTATIONS,
  REPRODUCED,
  STARVED_TREATMENTS,
  type FurtherStep,
  type MethodStep,
  type Permutation,
  type Propagation,
  type Reproduced,
  type SparsityOverride,
  type StarvedTreatment,
  type TokenSource,
} from "./options/values.js";

/**
 * What pruning did to a linear's outputs on the calibration tokens that it sees: W its weight before the run, Ŵ the solved
 * one before it is rounded to the stored type, X its inputs. Undamped, the same for every method.
 */
export interface Reconstruction {
  /** ‖(W-Ŵ)X‖², mean over sequences. */
  readonly error: number;
  /** ‖WX‖², mean over sequences. */
  readonly output: number;
  /** error / output; 0 where there is no output to lose. */
  readonly relative: number;
}

export interface LayerReport {
  /** Tensor name without ".weight". */
  readonly name: string;
  readonly zeros: number;
  readonly elements: number;
  /** The method's own objective; null where it has none. */
  readonly loss: number | null;
  /** Present where the run measures it. */
  readonly reconstruction?: Reconstruction;
  readonly seconds: number;
  /** Of an expert: calibration tokens that the router sent to it. */
  readonly tokens?: number;
  /** Of an expert that the router starved (`tokens` below its number of inputs): what was done about it. */
  readonly starved?: StarvedTreatment;
  /** Of a linear whose input channels were permuted: share of Wanda's score that the pattern retains, with and without. */
  readonly permutation?: { readonly retained: number; readonly before: number; readonly seconds: number };
}

/** What a source of text held, and what of it was not used. */
export interface TextCounts {
  /** Documents or rows; 1 for a plain text. */
  readonly texts: number;
  /** Of the texts that were tokenised, special tokens included. */
  readonly tokens: number;
  /** Texts of nothing but white space. */
  readonly empty: number;
  /** Records that were left out: they have no such field. */
  readonly withoutField: number;
  /** Documents that were drawn and passed over: no longer than a sequence. */
  readonly tooShort: number;
}

/** `--json` of `prune run`. */
export interface RunReport {
  readonly schema: "prune.run/v1";
  readonly out: string;
  readonly model: string;
  readonly method: string;
  readonly pattern: string;
  readonly sparsity: { readonly target: number; readonly achieved: number };
  /** Without what `measureLoss` took. */
  readonly seconds: number;
  readonly peakRssBytes: number;
  readonly device: string;
  readonly calibration: {
    readonly sequences: number;
    readonly seqlen: number;
    readonly sha256: string;
    /** Where from and by which rule. */
    readonly description: string;
    /** Absent for stored ids. */
    readonly counts?: TextCounts;
  } | null;
  readonly resumedBlocks: number;
  /** Where limits were given: the result by `prune eval`. */
  readonly evaluation?: EvaluationReport;
  /** Where blocks were trained (`--then reconstruct`, `--method safe`): every step of every block. */
  readonly training?: readonly BlockTrainingReport[];
  /** Where the whole model was trained (`--method elsa`, `--then finetune`), in order. */
  readonly trained?: readonly ModelTrainingReport[];
  readonly layers: readonly LayerReport[];
}

/** What training did to a block: its loss on the calibration sequences it was trained on, and on those held out. */
export interface BlockTrainingReport extends ReconstructionReport {
  /** Of the block. */
  readonly name: string;
  /** What trained it. */
  readonly step: string;
}

/** What the training of the whole model was. */
export interface ModelTrainingReport {
  readonly name: string;
  readonly steps: number;
  /** Mean losses over the first and the last tenth of the steps. */
  readonly first: number;
  readonly last: number;
  /** Windows of the text, and how often a training of so many steps goes over all of them. */
  readonly windows: number;
  readonly passes: number;
  /** Weights, gradients and the optimiser's state, in memory or on the disk; those in files apart. */
  readonly bytesPerParameter: number;
  readonly fileBytes: number;
  readonly curve: readonly TrainingPoint[];
}

/** What happened up to a step of a training. */
export interface TrainingPoint {
  readonly step: number;
  /** Mean over the steps since the point before. */
  readonly loss: number;
  /** Mean norm of the loss's gradient before clipping. */
  readonly gradientNorm: number;
  /** At a projection of Elsa: the loss of the last step's sequences under the mask that it found. */
  readonly projectedLoss?: number;
  /** ‖x - z‖ / ‖x‖ and ‖z - z before‖ / ‖z‖. */
  readonly primal?: number;
  readonly dual?: number;
  /** Share of the weights that entered or left the mask. */
  readonly flips?: number;
  readonly lambda?: number;
  /** ‖λ (x - z)‖ over the norm of the clipped gradient. */
  readonly penaltyRatio?: number;
}

/** A training so far. */
export interface TrainingCourse {
  readonly losses: readonly number[];
  readonly gradientNorms: readonly number[];
  readonly curve: readonly TrainingPoint[];
}

/** `--json` of `prune run --dry-run`. */
export interface PlanReport {
  readonly schema: "prune.plan/v1";
  readonly model: string;
  readonly out: string;
  readonly family: string;
  readonly method: string;
  readonly pattern: string;
  readonly sparsity: number;
  readonly blocks: number;
  readonly linears: number;
  readonly prunableElements: number;
  readonly zerosToMake: number;
  readonly bytesToRead: number;
  readonly bytesToWrite: number;
  /** Space that the output and the run's working files take while it is at work. */
  readonly diskBytes: number;
  readonly peakMemoryBytes: number;
  readonly estimatedSeconds: number;
  /** Linears that `--ignore` leaves dense. */
  readonly ignored: readonly string[];
  readonly device: string;
}

/** `--json` of `prune eval`. */
export interface EvaluationReport {
  readonly schema: "prune.eval/v1";
  readonly model: string;
  readonly perplexity: number;
  /** Mean negative log likelihood per predicted token, nats. */
  readonly nll: number;
  /** Predicted tokens: windows * (seqlen - 1). */
  readonly tokens: number;
  readonly windows: number;
  readonly seqlen: number;
  /** sha256 of the text file's bytes, or of the ids (int32, little-endian) where ids were given. */
  readonly textSha256: string;
  readonly text: string;
  /** Absent for stored ids. */
  readonly counts?: TextCounts;
  readonly seconds: number;
  /** Present with `--reference`: how far the model is from another one on the same windows. */
  readonly reference?: ReferenceComparison;
  /** What came of the limits that were given. */
  readonly limits?: readonly LimitReport[];
}

/** What a limit can be set to. */
export type LimitName = "perplexity" | "perplexityRatio" | "klDivergence";

export interface LimitReport {
  readonly name: LimitName;
  /** The largest value that keeps it. */
  readonly most: number;
  /** In JSON null where it is no number. */
  readonly value: number;
  readonly isKept: boolean;
}

/** A mean over windows with its 95 % confidence interval, windows taken as independent. */
export interface Estimate {
  readonly value: number;
  readonly low: number;
  readonly high: number;
}

export interface ReferenceComparison {
  readonly model: string;
  readonly perplexity: number;
  /** Mean Kullback-Leibler divergence of the model's next-token distribution from the reference's, nats. */
  readonly klDivergence: Estimate;
  /** Share of positions where both find the same token most likely. */
  readonly top1Agreement: Estimate;
  /** Perplexity divided by the reference's. */
  readonly perplexityRatio: Estimate;
}

export interface EvaluationConfig {
  readonly model: string;
  /** The family to read it as; absent: the one that config.json's model_type stands for. */
  readonly family?: string;
  readonly text: TokenSource;
  /** The field of records that holds the text or the messages. */
  readonly textField?: string;
  /** A model to compare with, usually the dense one. */
  readonly reference?: string;
  readonly seqlen: number;
  /** Evaluate only the first so many windows; undefined for all. */
  readonly maxWindows: number | undefined;
  /** Largest values; those of comparisons need a reference. */
  readonly limits?: Readonly<Partial<Record<LimitName, number>>>;
}

export interface GenerationConfig {
  readonly model: string;
  /** As in `RunConfig`. */
  readonly family?: string;
  /** Absolute path; its extension says what is written. */
  readonly out: string;
  readonly force: boolean;
  readonly nsamples: number;
  readonly seqlen: number;
  readonly seed: number;
  /** undefined: the model's own, else a default; as the next two. */
  readonly temperature: number | undefined;
  readonly topK: number | undefined;
  readonly topP: number | undefined;
  readonly greedyTokens: number;
  /** Absolute path of texts to continue; undefined: drawn tokens. */
  readonly prompts: string | undefined;
  /** undefined: as many as there is memory for. */
  readonly batchSize: number | undefined;
  /** For weights, keys and values. */
  readonly memoryBytes: number;
}

/** `--json` of `prune generate-calibration`. */
export interface GenerationReport {
  readonly schema: "prune.generate-calibration/v1";
  readonly out: string;
  readonly model: string;
  /** What was written: rows of ids, or texts. */
  readonly sequences: number;
  /** Of what was written, in all. */
  readonly tokens: number;
  readonly seqlen: number;
  /** Of the ids in order, int32, little-endian: of the rows, or of the texts before they were decoded. */
  readonly sha256: string;
  readonly sampling: {
    readonly seed: number;
    readonly temperature: number;
    readonly topK: number;
    readonly topP: number;
    readonly greedyTokens: number;
    /** Ids that end a sequence. */
    readonly endTokens: readonly number[];
  };
  /** Sequences that end with a token that ends a text. */
  readonly ended: number;
  /** Sequences that grew at a time. */
  readonly batchSize: number;
  /** Blocks whose weights stayed in memory; the others were read again for every pass. */
  readonly blocksInMemory: number;
  readonly blocks: number;
  /** Passes over the model. */
  readonly passes: number;
  /** Tokens that the model made, also those that were not needed in the end. */
  readonly generatedTokens: number;
  readonly seconds: number;
}

export interface MaskConfig {
  readonly model: string;
  /** Absolute path of a file of masks. */
  readonly mask: string;
  readonly out: string;
  readonly force: boolean;
  readonly resume: boolean;
}

/** Verbs of an edit of a model's structure. Numbers are the model's own, ascending. `--plan` and plan.json of a cut. */
export interface CutPlan {
  readonly schema: "prune.cut-plan/v1";
  readonly model: {
    readonly family: string;
    /** Of the model's layout, config and some of its values: a plan is of one model. */
    readonly fingerprint: string;
  };
  /** What decided it, for readers. */
  readonly made?: Readonly<Record<string, unknown>> | undefined;
  /** Blocks that go; the first and the last only where `allowEnds` says so. */
  readonly drop?: { readonly blocks: readonly number[]; readonly allowEnds?: boolean | undefined } | undefined;
  readonly keep?:
    | {
        /** Routed experts that stay, by block: the same number in every mixture. */
        readonly experts?: Readonly<Record<string, readonly number[]>> | undefined;
        /** Channels that stay, by block: the same number in every dense MLP. */
        readonly channels?: Readonly<Record<string, readonly number[]>> | undefined;
      }
    | undefined;
  /** Where the new values of tensors are, by the model's name; files lie beside the plan. */
  readonly replace?:
    Readonly<Record<string, { readonly file: string; readonly tensor?: string | undefined }>> | undefined;
  /** Keys of config.json to change besides those that follow from the rest. */
  readonly config?:
    readonly { readonly path: readonly string[]; readonly from?: unknown; readonly to?: unknown }[] | undefined;
}

export interface CutConfig {
  readonly model: string;
  /** As in `RunConfig`. */
  readonly family?: string;
  /** File of a plan. */
  readonly plan: string;
  /** Undefined: nothing is written. */
  readonly out: string | undefined;
  readonly force: boolean;
  readonly resume: boolean;
}

export interface MaskedTensor {
  readonly name: string;
  readonly elements: number;
  /** Elements that the mask makes zero; those of them that were not zero before. */
  readonly pruned: number;
  readonly cleared: number;
}

/** `--json` of `prune apply-mask`. */
export interface MaskReport {
  readonly schema: "prune.apply-mask/v1";
  readonly out: string;
  readonly model: string;
  readonly mask: string;
  readonly elements: number;
  readonly pruned: number;
  readonly cleared: number;
  readonly tensors: readonly MaskedTensor[];
  readonly seconds: number;
}

/** What zeros of a checkpoint are checked against; at least one of the three. */
export interface ZeroChecksConfig {
  readonly directory: string;
  readonly family?: string;
  /** A file of masks. */
  readonly mask?: string;
  readonly pattern?: { readonly keep: number; readonly group: number };
  /** Another checkpoint of the same tensors. */
  readonly against?: string;
}

export interface ZeroFinding {
  readonly name: string;
  readonly zeros: number;
  /** Zeros that should be there and are not; of a pattern 1 where any group has too few. */
  readonly lost: number;
  /** Zeros that need not be there. */
  readonly added: number;
}

export interface ZeroCheck {
  readonly isKept: boolean;
  /** How many were looked at, and their zeros together. */
  readonly tensors: number;
  readonly zeros: number;
  readonly lost: number;
  readonly added: number;
  /** Tensors that lost zeros. */
  readonly broken: readonly ZeroFinding[];
}

/** `--json` of `prune verify`. */
export interface ZeroChecks {
  readonly schema: "prune.verify-zeros/v1";
  readonly model: string;
  readonly mask?: ZeroCheck;
  readonly pattern?: ZeroCheck;
  readonly against?: ZeroCheck;
}

/** What a model takes. */
export interface ModelSizes {
  readonly blocks: number;
  /** Routed experts of a mixture; null where there is none. */
  readonly experts: number | null;
  readonly parameters: number;
  /** That a token passes. */
  readonly activeParameters: number;
  /** Of all tensors' data. */
  readonly tensorBytes: number;
  /** Of all shards as files. */
  readonly fileBytes: number;
  /** Of keys and values in 16 bits, for every token of a text. */
  readonly keyValueBytesPerToken: number;
}

/** `--json` of `prune cut`. */
export interface CutReport {
  readonly schema: "prune.cut/v1";
  readonly model: string;
  readonly family: string;
  /** null where nothing was written. */
  readonly out: string | null;
  readonly before: ModelSizes;
  readonly after: ModelSizes;
  readonly droppedBlocks: readonly number[];
  readonly config: readonly { readonly path: readonly string[]; readonly from: unknown; readonly to: unknown }[];
  /** Names of tensors that are left out whole though their block or expert stays. */
  readonly leftOut: readonly string[];
  readonly resumedShards: number;
  readonly seconds: number;
  readonly plan: CutPlan;
}

/** What the blocks, experts or channels that go are chosen by. */
export interface ScoringConfig extends Omit<CutConfig, "plan"> {
  readonly calibration: TokenSource | undefined;
  readonly nsamples: number;
  readonly seqlen: number;
  readonly seed: number;
  readonly device: RunConfig["device"];
  readonly memoryBytes: number;
  readonly task:
    | {
        readonly of: "blocks";
        readonly criterion: "kl" | "perplexity" | "influence" | "angular" | "tail";
        readonly drop: number | undefined;
        readonly ratio: number | undefined;
      }
    | {
        readonly of: "experts";
        readonly criterion: "reap" | "frequency" | "ean" | "soft-ean" | "weight-norm";
        readonly keep: number | undefined;
        readonly ratio: number | undefined;
      }
    | {
        readonly of: "width";
        readonly criterion: "obs" | "energy" | "wanda";
        readonly ratio: number;
        readonly multiple: number;
        readonly isRefitted: boolean;
      };
}

/** What is known of an expert: larger scores are more missed. */
export interface ExpertReport {
  readonly block: number;
  readonly expert: number;
  readonly tokens: number;
  readonly score: number;
  readonly largest: number;
  readonly isProtected: boolean;
  readonly isKept: boolean;
}

/** `--json` of `prune blocks`, `prune experts` and `prune width`. */
export interface StructureReport extends Omit<CutReport, "schema"> {
  readonly schema: "prune.structure/v1";
  readonly of: "blocks" | "experts" | "width";
  readonly criterion: string;
  readonly calibration: { readonly sequences: number; readonly seqlen: number; readonly sha256: string } | null;
  /** Of blocks, by round: smaller is less missed. */
  readonly rounds?: readonly (readonly { readonly block: number; readonly score: number }[])[];
  readonly experts?: readonly ExpertReport[];
  /** Of each dense MLP: the error of its outputs over their size, before and after the kept channels were refitted. */
  readonly widths?: readonly {
    readonly block: number;
    readonly kept: number;
    readonly of: number;
    readonly cutError: number;
    readonly error: number;
  }[];
}

export interface VerifyConfig {
  readonly directory: string;
  readonly family?: string;
}

/** `--json` of `prune verify`. */
export interface VerifyReport extends ModelSizes {
  readonly schema: "prune.verify/v1";
  readonly model: string;
  readonly family: string;
  readonly tensors: number;
  readonly shards: number;
  /** Tensors that the description of the family does not name: other parts, buffers. */
  readonly others: readonly string[];
  /** Tensors that the index does not list. */
  readonly unlisted: readonly string[];
}

export interface InspectionConfig {
  readonly directory: string;
  /** As in `RunConfig`. */
  readonly family?: string;
}

type ConfigValue = number | string | boolean;

/** `--json` of `prune inspect --config`: the language model's keys. */
export interface ConfigReport {
  readonly schema: "prune.config/v1";
  readonly model: string;
  readonly modelType: string;
  /** null where no family reads it. */
  readonly family: string | null;
  /** What config.json says. */
  readonly given: Readonly<Record<string, unknown>>;
  /** What is taken for keys that it leaves out. */
  readonly defaults: Readonly<Record<string, ConfigValue | Readonly<Record<string, ConfigValue>>>>;
}

/** `--json` of `prune inspect`. Totals count the prunable linears only, as the field does. */
export interface InspectionReport {
  readonly schema: "prune.inspect/v1";
  readonly model: string;
  readonly zeros: number;
  readonly elements: number;
  readonly sparsity: number;
  readonly tensors: readonly TensorInspection[];
  /** Names of tensors of layers that predict further tokens: never pruned. */
  readonly further: readonly string[];
}

export interface TensorInspection {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly zeros: number;
  readonly prunable: boolean;
  /** N:M patterns that hold exactly in every group along the input dimension, for example ["2:4", "4:8"]. */
  readonly patterns: readonly string[];
}

/** A method of a comparison, with options already validated. */
export interface ComparedMethod extends MethodStep {
  readonly label: string;
  readonly then: readonly FurtherStep[];
  /** Only for targets of this kind; absent: for all. */
  readonly kind?: Pattern["kind"];
  /** In place of what the other cells have. */
  readonly settings?: { readonly allocation?: ComparedAllocation } & Partial<
    Pick<RunConfig, "permutation" | "reproduce" | "propagation">
  >;
}

/** An allocation of a comparison; the label is what the user wrote. */
export interface ComparedAllocation {
  readonly label: string;
  readonly allocation: Allocation;
}

/** A target of a comparison, with what else its pattern decides for its cells. */
export interface ComparedTarget {
  readonly pattern: Pattern;
  readonly sparsity: number;
  /** "none" for unstructured targets; absent: as the run's. */
  readonly permutation?: "none";
}

export interface ComparisonConfig {
  /**
   * Model, calibration and everything else that all cells of the sweep share; `measureLoss` among it. Method, pattern,
   * sparsity and allocation stand for those of the cells.
   */
  readonly run: RunConfig;
  readonly methods: readonly ComparedMethod[];
  readonly targets: readonly ComparedTarget[];
  /** Of unstructured targets; N:M targets are uniform by nature. */
  readonly allocations: readonly ComparedAllocation[];
  readonly text: TokenSource;
  /** Window length of the evaluation. */
  readonly seqlen: number;
  readonly maxWindows: number | undefined;
  /** Where finished cells are noted, and pruned models lie while they are evaluated. */
  readonly workDirectory: string;
  readonly resume: boolean;
}

export interface ComparisonRow {
  readonly method: string;
  readonly pattern: string;
  readonly allocation: string;
  readonly reproduce: Reproduced;
  readonly sparsity: { readonly target: number; readonly achieved: number };
  readonly perplexity: number;
  readonly perplexityRatio: Estimate;
  readonly klDivergence: Estimate;
  readonly top1Agreement: Estimate;
  /** Mean over layers of the relative reconstruction error; layers that the calibration never reaches are left out. */
  readonly loss: number;
  /** Pruning alone: without evaluating, measuring the loss, or tokenising, which the cells share. */
  readonly seconds: number;
  /** Largest resident memory seen between steps of this cell. */
  readonly peakRssBytes: number;
  readonly layers: readonly LayerReport[];
  /** What came of each limit that was given. */
  readonly limits?: readonly LimitReport[];
}

/** `--json` of `prune compare`. */
export interface ComparisonReport {
  readonly schema: "prune.compare/v1";
  readonly model: string;
  /** What the calibration tokens are, and how many. */
  readonly calibration: {
    readonly description: string;
    readonly sequences: number;
    readonly seqlen: number;
    readonly sha256: string;
    /** Absent for stored ids. */
    readonly counts?: TextCounts;
  };
  readonly text: string;
  readonly textSha256: string;
  readonly dense: { readonly perplexity: number };
  readonly resumedRows: number;
  readonly rows: readonly ComparisonRow[];
}

/** What the engine tells while it works. */
export type EngineEvent = Happening & {
  /** Share of all that the command does, weighed by the time it takes, 0..1; it never falls. */
  readonly fraction: number;
  /** Which cell of a comparison it belongs to. */
  readonly cell?: { readonly number: number; readonly total: number; readonly label: string };
};

type Happening =
  | { readonly type: "start"; readonly blocks: number; readonly device: string; readonly resumedBlocks: number }
  /** Of a block, or of what belongs to none. */
  | { readonly type: "stage"; readonly stage: string; readonly block: number; readonly blocks: number }
  | { readonly type: "stage"; readonly stage: string; readonly block: null }
  | {
      readonly type: "block";
      readonly block: number;
      readonly blocks: number;
      readonly zeros: number;
      readonly elements: number;
      /** Sum of the layers' losses; null where the method has none. */
      readonly loss: number | null;
      readonly seconds: number;
    }
  | {
      /** After every step of a training of the whole model. */
      readonly type: "training";
      readonly name: string;
      readonly step: number;
      readonly steps: number;
      /** Of this step. */
      readonly loss: number;
      /** In words, how it goes. */
      readonly course: string;
      /** Whether the curve got a point: worth a line where lines are kept. */
      readonly isPoint: boolean;
    }
  /** Of a model on the Hub, before the work; bytes of all files that were missing. */
  | { readonly type: "download"; readonly file: string; readonly doneBytes: number; readonly totalBytes: number }
  | { readonly type: "windows"; readonly done: number; readonly total: number }
  /** Of shards that are written anew. */
  | { readonly type: "bytes"; readonly done: number; readonly total: number }
  /** Of generated sequences; a total that sequences which end early do not reach. */
  | { readonly type: "tokens"; readonly done: number; readonly total: number }
  | { readonly type: "cell"; readonly done: number; readonly total: number; readonly label: string };

/** Why work is to stop: a signal of the process, or a caller's AbortSignal. */
export type StopReason = "SIGINT" | "SIGTERM" | "abort";

/** Asked between steps; set from outside the engine's thread through shared memory. */
export interface StopSignal {
  /** The reason once a stop was requested. */
  requested(): StopReason | undefined;
}

export const NEVER_STOP: StopSignal = { requested: () => undefined };
