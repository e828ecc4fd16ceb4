/**
 * Every option of a run, in the order of a recipe. From this table come the flags of `prune run` and what `prune compare`
 * shares of them, the keys of recipes and their JSON Schema, `RunConfig`, the recipe.yaml that a run leaves, the options'
 * part of fingerprints, help, and what `prune()` takes. How options fit each other is in config/resolve.ts and rules.ts.
 */
import { UNSTRUCTURED } from "../sparsity/pattern.js";
import {
  listed,
  option,
  type AnyType,
  type AskedOf,
  type OptionType,
  type RequestOf,
  type RunOptionWords,
} from "./option.js";
import { HUB_OPTIONS } from "./hub-options.js";
import * as types from "./types.js";
import {
  AUTOMATIC,
  DEVICE_CHOICES,
  OWN_TEXT,
  PERMUTATIONS,
  PROPAGATIONS,
  REPRODUCED,
  STARVED_TREATMENTS,
  type Propagation,
  type Reproduced,
  type StarvedTreatment,
} from "./values.js";

const TO_PRUNE = "What to prune";
const HOW = "How to prune";
const CALIBRATION = "Calibration";
const RUNNING = "Running";

/** What a source of tokens can be. */
export const TEXT_HELP =
  'a text, JSON lines or an array of records with "text" or "messages", Parquet, .safetensors[#tensor] of token ids, a folder or glob of these, - for standard input, or c4, wikitext2 (c4:FOLDER: a copy there)';

const isCalibrated = ({ calibration }: { readonly calibration?: unknown }): boolean => calibration !== undefined;

/** An option of methods with a flag of its own: by itself it decides nothing, it becomes a part of `methodOptions`. */
const methodOption = <Given, Asked, Field>(
  type: OptionType<Given, Asked, Field>,
  argument: string,
  otherwise: string,
  help: string,
) =>
  option(type, {
    ...{ help, otherwise, flag: { argument, group: HOW } },
    ...({ field: false, decides: "nothing", compare: "axis" } as const),
  });

export const RUN_OPTIONS = {
  /** Absolute path of the checkpoint directory. */
  model: option(types.text, {
    help: "directory of a checkpoint, or a model of the Hub: ORG/NAME, hf://ORG/NAME@REVISION; may stand without --model",
    otherwise: "the embedded demo model",
    flag: { argument: "<model>", group: TO_PRUNE },
    recipe: "model",
    decides: "contents",
    compare: "shared",
  }),
  ...HUB_OPTIONS,
  /** The family to read it as; absent: the one that config.json's model_type stands for. */
  family: option(types.text, {
    help: "read it as this family; `prune families` lists them",
    otherwise: "by config.json's model_type",
    flag: { argument: "<name>", group: TO_PRUNE },
    recipe: "family",
    isOptional: true,
    decides: "contents",
    compare: "shared",
  }),
  /** Absolute path of the output directory. */
  out: option(types.text, {
    help: "output directory",
    otherwise: "<model>-<method>-<sparsity> beside the model",
    flag: { argument: "<dir>", group: TO_PRUNE },
    recipe: "out",
    isWritten: false, // the recipe lies in it, and it may be moved
    decides: "nothing",
    compare: "run",
  }),
  force: option(types.toggle, {
    help: "replace an output directory that exists",
    default: false,
    flag: { group: TO_PRUNE },
    decides: "nothing",
    compare: "run",
  }),
  /** Absolute path; written when all zeros are there. */
  saveMask: option(types.text, {
    help: "also write the masks to this .safetensors file, a bit per weight; docs/masks.md",
    flag: { argument: "<file>", group: TO_PRUNE },
    isOptional: true,
    decides: "nothing",
    compare: "run",
  }),
  recipe: option(types.text, {
    help: "take what is not given as a flag from a YAML file, or from a built-in recipe: `prune recipes`, docs/recipes.md",
    flag: { argument: "<recipe>", group: HOW },
    field: false,
    decides: "nothing",
    compare: "run",
  }),
  method: option(types.method, {
    help: `what chooses the weights to remove, or ${AUTOMATIC} for the best combination known; \`prune methods\` lists them`,
    default: "wanda",
    flag: { argument: "<name>", group: HOW },
    recipe: "method.name",
    decides: "result",
    compare: "axis",
  }),
  /** Options of the method, already validated by its schema (for example damping and blockSize of sparsegpt). */
  methodOptions: option(types.record, {
    help: "options of the method, see docs/methods/",
    recipe: "method.options",
    decides: "result",
    compare: "axis",
  }),
  /** What refines or updates the result of `method`, in order. */
  then: option(types.steps, {
    help: "steps that refine the choice, update or train the kept weights, in order; options after a colon, reconstruct:epochs=4",
    flag: { argument: "<method...>", group: HOW },
    recipe: "then",
    decides: "result",
    compare: "axis",
  }),
  option: option(types.assignments, {
    help: "options of the method, see docs/methods/",
    default: {},
    flag: { argument: "<key=value...>", group: HOW },
    field: false,
    decides: "nothing", // by itself: it becomes methodOptions
    compare: "axis",
  }),
  /** Fraction of zeros of the prunable linears, in [0, 1). For N:M it equals the pattern's. */
  sparsity: option(types.sparsity, {
    help: "fraction of zeros: 0.7 or 70%; an N:M pattern has its own",
    flag: { argument: "<fraction>", group: HOW },
    recipe: "sparsity",
    decides: "result",
    compare: "axis",
  }),
  pattern: option(types.pattern, {
    help: "unstructured, or N:M: 2:4 keeps 2 of every 4 weights along the input dimension",
    default: UNSTRUCTURED,
    flag: { argument: "<shape>", group: HOW },
    recipe: "pattern",
    decides: "result",
    compare: "axis",
  }),
  /** "none" unless the pattern is N:M. */
  permutation: option(types.choice(PERMUTATIONS), {
    help: `with N:M, let input channels change places where the model computes the same function: ${listed(PERMUTATIONS)}`,
    default: "none",
    flag: { argument: "<what>", group: HOW },
    recipe: "permutation",
    decides: "result",
    compare: "shared", // by the N:M cells
  }),
  /** How the sparsity is spread over the linears. */
  allocation: option(types.allocation, {
    help: "how the sparsity is spread over layers: a rule, `prune methods` lists them; options after a colon, owl:M=5,lambda=0.08; see docs/allocation.md",
    otherwise: "uniform",
    flag: { argument: "<rule>", group: HOW },
    recipe: "allocation",
    decides: "result",
    compare: "axis",
  }),
  /** The last match wins; the linears it matches are taken out of the allocation. */
  overrides: option(types.overrides, {
    help: "sparsity of the linears that a pattern matches; the last match wins",
    default: [],
    recipe: "overrides",
    decides: "result",
    compare: "run", // they contradict the sparsity that is the axis
  }),
  /** Globs (or "re:" regular expressions), matched in full against module paths; matching linears stay dense. */
  ignore: option(types.texts, {
    help: 'leave matching linears dense: globs on module paths, or "re:" and a regular expression',
    default: [],
    flag: { argument: "<pattern...>", group: TO_PRUNE },
    recipe: "ignore",
    decides: "result",
    compare: "shared",
  }),
  allowNonFinite: option(types.toggle, {
    help: "prune a checkpoint with NaN or infinite weights; tensors that hold some are left as they are",
    default: false,
    flag: { group: TO_PRUNE },
    recipe: "allowNonFinite",
    decides: "result",
    compare: "shared",
  }),
  /** undefined: the model's own calibration.txt (the demo model) or no calibration (magnitude). */
  calibration: option(types.tokens, {
    help: `${TEXT_HELP}, or ${OWN_TEXT} for text that the model samples`,
    otherwise: `the model's calibration.txt, else ${OWN_TEXT}`,
    flag: { argument: "<source>", group: CALIBRATION },
    recipe: "calibration.file",
    isOptional: true,
    decides: "contents",
    compare: "shared",
  }),
  textField: option(types.text, {
    help: "field of records that holds the text or the messages; data.text is text in data",
    otherwise: "text, else messages",
    flag: { argument: "<name>", group: CALIBRATION },
    recipe: "calibration.textField",
    isOptional: true,
    decides: "contents",
    compare: "shared",
  }),
  nsamples: option(types.count(1), {
    help: "calibration sequences",
    default: 128,
    flag: { argument: "<count>", group: CALIBRATION },
    recipe: "calibration.nsamples",
    isWritten: isCalibrated,
    decides: "result",
    compare: "shared",
  }),
  seqlen: option(types.count(2), {
    help: "tokens per sequence",
    otherwise: "2048, or the model's context or the rows of stored ids where shorter",
    flag: { argument: "<tokens>", group: CALIBRATION },
    recipe: "calibration.seqlen",
    isWritten: isCalibrated,
    decides: "result",
    compare: "shared",
  }),
  seed: option(types.count(0), {
    help: "seed of the random windows",
    default: 0,
    flag: { argument: "<number>", group: CALIBRATION },
    recipe: "calibration.seed",
    isWritten: isCalibrated,
    decides: "result",
    compare: "shared",
  }),
  propagation: option(types.choice(PROPAGATIONS), {
    help: `what later linears see of the pruning: ${listed(PROPAGATIONS)}`,
    otherwise: "block" satisfies Propagation,
    flag: { argument: "<mode>", group: HOW },
    recipe: "propagation",
    decides: "result",
    compare: "shared",
  }),
  /** "layer" where the propagation is "dense". */
  reproduce: option(types.choice(REPRODUCED), {
    help: `what layers are to reproduce: ${listedWith<Reproduced>({
      layer: "their own dense outputs",
      model:
        "the dense model's, making up for what pruning did before them; its propagation is group unless said otherwise",
    })}`,
    default: "layer",
    flag: { argument: "<what>", group: HOW },
    recipe: "reproduce",
    decides: "result",
    compare: "shared",
  }),
  starved: option(types.choice(STARVED_TREATMENTS), {
    help: `experts that saw fewer tokens than a linear has inputs: ${listedWith<StarvedTreatment>({
      "all-tokens": "statistics of all tokens",
      magnitude: "",
      skip: "left dense",
    })}`,
    default: "all-tokens",
    flag: { argument: "<treatment>", group: HOW },
    recipe: "starved",
    decides: "result",
    compare: "shared",
  }),
  /** The first is tried first; further ones are the ladder the user allows when a Gram matrix is not definite. */
  damping: methodOption(
    types.positives,
    "<fractions>",
    "the method's",
    "fraction of the mean diagonal added to a Gram matrix's diagonal, for methods that have one; sparsegpt and thanos try further ones after commas in turn where it is not enough",
  ),
  blockSize: methodOption(
    types.count(1),
    "<columns>",
    "128",
    "sparsegpt, thanos: columns over which a mask is chosen at once",
  ),
  /** Becomes the time of a training that follows what `auto` stands for. */
  budget: option(types.duration, {
    help: `${AUTOMATIC}: train what was pruned for so long on this machine, such as 10m or 1h`,
    flag: { argument: "<duration>", group: HOW },
    recipe: "method.budget",
    field: false,
    decides: "nothing", // by itself: it becomes a further step
    compare: "run",
  }),
  /** Becomes the method; the one that trains is then its next step. */
  init: option(types.text, {
    help: "elsa, safe: begin with the weights and the mask of this method instead of the dense model",
    flag: { argument: "<method>", group: HOW },
    recipe: "method.init",
    field: false,
    decides: "nothing",
    compare: "axis",
  }),
  steps: methodOption(types.count(1), "<count>", "2048", "elsa: steps of the optimiser"),
  batchSize: methodOption(types.count(1), "<count>", "8", "elsa, safe: sequences per step"),
  lr: methodOption(types.number, "<rate>", "0.0002", "elsa, safe: peak learning rate, which falls to 0"),
  lambda: methodOption(
    types.number,
    "<weight>",
    "0.01, of safe 0.001",
    "elsa, safe: penalty that draws weights towards their sparse twins",
  ),
  interval: methodOption(types.count(1), "<steps>", "32", "elsa, safe: steps between projections"),
  projection: methodOption(
    types.text,
    "<scores>",
    "identity",
    "elsa: scores of the projection, identity (magnitudes) or fisher (weighted by Adam's second moment)",
  ),
  state: methodOption(
    types.text,
    "<format>",
    "fp32",
    "elsa: how its state is kept, fp32, elsa-l (z in FP8, u in BF16, moments in 8 bits) or elsa-l-e5m2",
  ),
  device: option(types.choice(DEVICE_CHOICES), {
    help: listed(DEVICE_CHOICES),
    default: "auto",
    flag: { argument: "<name>", group: RUNNING },
    recipe: "device",
    decides: "place",
    compare: "shared",
  }),
  /** Budget for hidden states in RAM, in bytes; beyond it they go to a scratch file in OUT.partial. */
  memory: option(types.size, {
    help: "RAM for hidden states, such as 4GB or 512MiB",
    otherwise: "half of the free memory",
    flag: { argument: "<size>", group: RUNNING },
    recipe: "memory",
    isWritten: false, // another machine has another
    field: "memoryBytes",
    decides: "nothing",
    compare: "shared",
  }),
  /** Measure every layer's reconstruction error, whatever the method; changes nothing that is written. */
  measureLoss: option(types.toggle, {
    help: "measure every layer's reconstruction error, whatever the method; needs calibration",
    default: false,
    flag: { group: RUNNING },
    recipe: "measureLoss",
    decides: "result", // the report of blocks that a resumed run takes over would lack it
    compare: "run", // every cell measures
  }),
  resume: option(types.toggle, {
    help: "go on with an interrupted run",
    default: false,
    flag: { group: RUNNING },
    decides: "nothing",
    compare: "run",
  }),
} as const satisfies Readonly<Record<string, { readonly type: AnyType } & RunOptionWords<unknown>>>;

/** "a (what a is) or b", where b says itself what it is */
function listedWith<Name extends string>(meanings: Readonly<Record<Name, string>>): string {
  return listed(
    Object.entries(meanings).map(([name, meaning]) => (meaning === "" ? name : `${name} (${String(meaning)})`)),
  );
}

type RunOptions = typeof RUN_OPTIONS;
export type RunOptionKey = keyof RunOptions;
export type RunOptionEntry = { readonly type: AnyType } & RunOptionWords<unknown>;

/** What a run may be asked for: plain values, or the texts of flags. What is left out has its default. */
export type RunRequest = RequestOf<RunOptions>;
export type AskedRun = AskedOf<RunOptions>;

type FieldName<Key extends RunOptionKey> = RunOptions[Key] extends { readonly field: infer Name }
  ? Name extends string
    ? Name
    : never
  : Key;
type OptionalKey = {
  [Key in RunOptionKey]: RunOptions[Key] extends { readonly isOptional: true } ? Key : never;
}[RunOptionKey];
type FieldOf<Key extends RunOptionKey> =
  RunOptions[Key]["type"] extends OptionType<infer _G, infer _A, infer Field> ? Field : never;

/** A fully resolved run: no defaults are left to fill in. */
export type RunConfig = {
  readonly [Key in Exclude<RunOptionKey, OptionalKey> as FieldName<Key>]: FieldOf<Key>;
} & {
  readonly [Key in OptionalKey as FieldName<Key>]?: FieldOf<Key> | undefined;
};

/** Flags that are options of a method under the very same name. */
export const METHOD_FLAGS = [
  ...(["blockSize", "steps", "batchSize", "lr"] as const),
  ...(["lambda", "interval", "projection", "state"] as const),
] satisfies RunOptionKey[];

/** The entries of the table with their keys, in order. */
export const RUN_OPTION_LIST: readonly (readonly [RunOptionKey, RunOptionEntry])[] = Object.entries(
  RUN_OPTIONS,
) as never;

/** The name that an option has in `RunConfig`; undefined where it is a part of others. */
export function fieldOf(key: RunOptionKey): keyof RunConfig | undefined {
  const { field = key }: RunOptionEntry = RUN_OPTIONS[key];
  return field === false ? undefined : (field as keyof RunConfig);
}
